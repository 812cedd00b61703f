"""The tools of an HTTP API, made of its document once.

Source: spec/mcp_a2a.md sections 2.12 and 5.2 row 17; MCP 2025-11-25, tools.

A tool takes up to five groups of arguments, `path`, `query`, `header`, `cookie` and `body`, each
required when something in it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from sidecar.jsonrpc import Json
from sidecar.mcp.openapi.bodies import BodySpec, kind_of
from sidecar.mcp.openapi.cycles import cycles
from sidecar.mcp.openapi.document import ROOT, Document, Node, below, fault
from sidecar.mcp.openapi.operations import (
    Described,
    Operation,
    Reader,
    check_media_type,
    template_of,
    text_at,
)
from sidecar.mcp.openapi.parameters import PLACES, Parameter
from sidecar.mcp.openapi.schemas import Piece, Schemas
from sidecar.mcp.openapi.toolnames import tool_names

TOOLS_MAX: Final = 2000
_INPUT_NODES: Final = 20_000
_OUTPUT_NODES: Final = 2_000
_INPUTS_MAX: Final = 1_000_000
_OUTPUTS_MAX: Final = 200_000
"""Of all tools; those beyond have no output schema."""
_PAGE_TOOLS: Final = 250
_PAGE_NODES: Final = 20_000
_TITLE_BYTES: Final = 64
_TEXT_MAX: Final = 32 * 1024
_INSTRUCTIONS_MAX: Final = 4096
_ACCEPTED_MAX: Final = 16
_PARTS_DEEP: Final = 4
_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_AGAIN: Final = frozenset(("PUT", "DELETE"))


@final
@dataclass(frozen=True, slots=True)
class Tool:
    """What a call needs, and what a list tells."""

    name: str
    method: str
    prefix: str
    path: tuple[tuple[str, bool], ...]
    """See operations.template_of."""
    parameters: tuple[Parameter, ...]
    body: BodySpec | None
    accept: bytes
    """What the document says is answered; JSON when it says nothing."""
    input_schema: Json
    output_schema: Json | None
    listed: Json
    nodes: int
    """Of both schemas."""


@final
@dataclass(frozen=True, slots=True)
class Toolbox:
    """All of an API."""

    title: str
    version: str
    instructions: str
    tools: Mapping[str, Tool]
    """By name, in the order of the document."""
    pages: tuple[tuple[Json, ...], ...]
    """As they are listed: so many at once as a message may well hold. At least one page."""
    hidden_headers: frozenset[bytes]
    """Headers of the API that no client may set beside the arguments: declared ones and keys."""


def toolbox(data: Node, prefix: str | None = None, *, has_outputs: bool = True) -> Toolbox:
    """The tools of a document. `prefix`: see operations.Reader. Raises: ConfigError."""
    document = Document(data)
    reader = Reader(document, prefix)
    operations: list[Operation] = []
    for operation in reader.operations():
        if len(operations) == TOOLS_MAX:
            raise fault(operation.place, f"more than {TOOLS_MAX} operations")
        operations.append(operation)
    info = document.section(document.data, "info", ROOT)
    maker = _Maker(document, has_outputs=has_outputs)
    named = zip(tool_names(operations), operations, strict=True)
    tools = {name: maker.tool(name, operation) for name, operation in named}
    declared = {
        one.name.lower().encode()
        for tool in tools.values()
        for one in tool.parameters
        if one.place == "header"
    }
    return Toolbox(
        text_at(info, "title"),
        text_at(info, "version"),
        text_at(info, "description")[:_INSTRUCTIONS_MAX],
        tools,
        _pages(tools.values()),
        reader.credential_headers | declared,
    )


def _pages(tools: Iterable[Tool]) -> tuple[tuple[Json, ...], ...]:
    pages: list[list[Json]] = [[]]
    nodes = 0
    for tool in tools:
        nodes += tool.nodes
        if len(pages[-1]) == _PAGE_TOOLS or (pages[-1] and nodes > _PAGE_NODES):
            pages.append([])
            nodes = tool.nodes
        pages[-1].append(tool.listed)
    return tuple(map(tuple, pages))


@final
class _Maker:
    """Makes the tools of one document."""

    def __init__(self, document: Document, *, has_outputs: bool) -> None:
        found = cycles(document)
        self._document = document
        self._inputs = Schemas(document, found, "input")
        self._outputs = Schemas(document, found, "output") if has_outputs else None
        self._input_nodes = self._output_nodes = 0

    def tool(self, name: str, operation: Operation) -> Tool:
        """Raises: ConfigError."""
        before = self._input_nodes + self._output_nodes
        node = operation.node
        summary = text_at(node, "summary")
        listed: Json = {"name": name}
        if summary and len(summary.encode("utf-8", "replace")) <= _TITLE_BYTES:
            listed["title"] = summary
        listed["description"] = (text_at(node, "description") or summary or name)[:_TEXT_MAX]
        listed["inputSchema"] = made = self._input(operation)
        output = self._output(operation)
        if output is not None:
            listed["outputSchema"] = output
        listed["annotations"] = _annotations(operation.method)
        return Tool(
            name,
            operation.method,
            operation.prefix,
            template_of(operation.path),
            tuple(one.parameter for one in operation.parameters),
            operation.body.spec if operation.body is not None else None,
            self._accept(operation),
            made,
            output,
            listed,
            self._input_nodes + self._output_nodes - before,
        )

    # --- input ----------------------------------------------------------------------------

    def _input(self, operation: Operation) -> Json:
        properties: Json = {}
        required: list[str] = []
        needs: frozenset[str] = frozenset()
        nodes = 1
        for group in PLACES:
            ours = [one for one in operation.parameters if one.parameter.place == group]
            if ours:
                piece = self._group(ours)
                properties[group] = piece.schema
                nodes, needs = nodes + piece.nodes, needs | piece.needs
                if "required" in piece.schema:
                    required.append(group)
        body = operation.body
        if body is not None:
            piece = self._inputs.piece(body.schema, body.place)
            properties["body"] = _described(piece.schema, body.description, is_deprecated=False)
            nodes, needs = nodes + piece.nodes, needs | piece.needs
            if body.spec.is_required:
                required.append("body")
        made: Json = {"type": "object", "properties": properties}
        if required:
            made["required"] = required
        made["additionalProperties"] = False
        nodes += self._put_defs(made, needs, self._inputs)
        if nodes > _INPUT_NODES:
            raise fault(operation.place, f"an input schema of more than {_INPUT_NODES} nodes")
        self._input_nodes += nodes
        if self._input_nodes > _INPUTS_MAX:
            text = f"the input schemas up to here have more than {_INPUTS_MAX} nodes"
            raise fault(operation.place, f"{text}; split the document")
        return made

    def _group(self, ours: list[Described]) -> Piece:
        properties: Json = {}
        nodes, needs = 1, frozenset[str]()
        for one in ours:
            piece = self._inputs.piece(one.schema, one.place)
            properties[one.parameter.name] = _described(
                piece.schema, one.description, is_deprecated=one.is_deprecated
            )
            nodes, needs = nodes + piece.nodes, needs | piece.needs
        made: Json = {"type": "object", "properties": properties}
        required = [one.parameter.name for one in ours if one.parameter.is_required]
        if required:
            made["required"] = required
        made["additionalProperties"] = False
        return Piece(made, nodes, needs)

    @staticmethod
    def _put_defs(made: Json, needs: frozenset[str], schemas: Schemas) -> int:
        """Put what is referred to beside it; how many nodes that has."""
        defs = schemas.needed(needs)
        if defs:
            made["$defs"] = {name: piece.schema for name, piece in defs.items()}
        return sum(piece.nodes for piece in defs.values())

    # --- output ---------------------------------------------------------------------------

    def _output(self, operation: Operation) -> Json | None:
        """The schema of `structuredContent`; None when not every success is a JSON object."""
        if self._outputs is None or operation.method == "HEAD":
            return None
        found: list[tuple[object, str]] = []
        for place, response in self._successes(operation):
            content = self._document.section(response, "content", place)
            media_type = next((one for one in content if kind_of(str(one)) == "json"), None)
            if media_type is None:
                return None
            where = below(place, "content", media_type)
            node = self._document.mapping(content[media_type], where)
            schema, at = node.get("schema", True), below(where, "schema")
            if isinstance(schema, Mapping):
                schema, at = self._document.followed(schema, at)
            found.append((schema, at))
        if len({place for _, place in found}) != 1:
            return None
        return self._object(self._outputs, *found[0])

    def _accept(self, operation: Operation) -> bytes:
        found: dict[str, None] = {}
        for place, response in self._successes(operation):
            for media_type in self._document.section(response, "content", place):
                check_media_type(media_type, below(place, "content", media_type))
                found[media_type] = None
        # JSON alone where there is any: of several types an API may choose another one.
        wanted = [one for one in found if kind_of(one) == "json"] or list(found)
        return ", ".join(wanted[:_ACCEPTED_MAX] or ["application/json"]).encode()

    def _successes(self, operation: Operation) -> list[tuple[str, Node]]:
        responses = self._document.section(operation.node, "responses", operation.place)
        where = below(operation.place, "responses")
        made = []
        for status, node in responses.items():
            if str(status).upper().startswith("2"):
                response, place = self._document.followed(node, below(where, status))
                made.append((place, response))
        return made

    def _object(self, schemas: Schemas, schema: object, place: str) -> Json | None:
        if not isinstance(schema, Mapping):
            return None
        whole, at = self._document.followed(schema, place)
        if whole.get("nullable") is True or not self._is_object(whole, at):
            return None
        piece = schemas.piece(dict(whole), at)
        made = {**piece.schema, "type": "object"}
        nodes = piece.nodes + self._put_defs(made, piece.needs, schemas)
        if nodes > _OUTPUT_NODES or self._output_nodes + nodes > _OUTPUTS_MAX:
            # Nobody needs it in order to call the tool.
            return None
        self._output_nodes += nodes
        return made

    def _is_object(self, schema: object, place: str, depth: int = 0) -> bool:
        """Whether all values are objects, as far as it is plain to see."""
        if not isinstance(schema, Mapping) or depth > _PARTS_DEEP:
            return False
        whole, at = self._document.followed(schema, place)
        if "type" in whole:
            return bool(whole["type"] == "object")
        parts = whole.get("allOf")
        return isinstance(whole.get("properties"), Mapping) or (
            isinstance(parts, list) and any(self._is_object(one, at, depth + 1) for one in parts)
        )


def _described(schema: Json, description: str, *, is_deprecated: bool) -> Json:
    """The schema of an argument with what is said beside it."""
    more: Json = {}
    if description:
        more["description"] = description[:_TEXT_MAX]
    if is_deprecated:
        more["deprecated"] = True
    return {**schema, **more} if more else schema


def _annotations(method: str) -> dict[str, Any]:
    """What the method says of the tool (RFC 9110 section 9.2); of POST nobody knows."""
    is_safe = method in _SAFE
    made = {"readOnlyHint": is_safe, "openWorldHint": True}
    if method != "POST":
        made["destructiveHint"] = not is_safe
        made["idempotentHint"] = is_safe or method in _AGAIN
    return made
