"""Schemas of a document as JSON Schema 2020-12 that stands alone.

Source: OpenAPI 3.0.4 section 4.7.24, 3.1.1 section 4.8.24; JSON Schema 2020-12; spec/mcp_a2a.md
sections 2.12 and 5.2 row 17.

References are replaced by what they point at. What is recursive, or large, or deep, goes to `$defs`
instead, under one name for the whole document, so that the work is linear in the document and tools
share what they have in common. What the API alone sets (`readOnly`) is in no input, what it alone
reads (`writeOnly`) in no output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, final

from sidecar.jsonrpc import Json
from sidecar.mcp.openapi.cycles import Cycles
from sidecar.mcp.openapi.document import Document, Node, below, fault

Side = Literal["input", "output"]

INLINE_NODES: Final = 200
"""A component with more is not repeated where it is used."""
_INLINE_DEPTH: Final = 12
_DEPTH_MAX: Final = 64
_TYPES: Final = frozenset(
    ("null", "boolean", "object", "array", "number", "string", "integer"),
)
_SCHEMA: Final = frozenset(
    (
        *("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames"),
        *("then", "unevaluatedItems", "unevaluatedProperties"),
    )
)
_LISTS: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_MAPS: Final = frozenset(("dependentSchemas", "patternProperties", "properties"))
_COUNTS: Final = frozenset(
    (
        *("maxContains", "maxItems", "maxLength", "maxProperties"),
        *("minContains", "minItems", "minLength", "minProperties"),
    )
)
_NUMBERS: Final = frozenset(
    ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
)
_TEXTS: Final = frozenset(
    (
        *("contentEncoding", "contentMediaType", "description", "format", "pattern"),
        *("title",),
    )
)
_CHECKED: Final = _COUNTS | _NUMBERS | _TEXTS
_PLAIN: Final = frozenset(("const", "default", "deprecated", "uniqueItems"))
_ANNOTATIONS: Final = frozenset(("default", "deprecated", "description", "examples", "title"))
_NOT_PROMISED: Final = frozenset(
    ("format", "pattern", "unevaluatedItems", "unevaluatedProperties"),
)
"""Of outputs: clients check them, each in its way, and refuse what the API answered. What is not
checked here is not promised to them."""
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")


class Piece(NamedTuple):
    """A schema as it stands in a tool. Shared: nobody changes it."""

    schema: Json
    nodes: int
    needs: frozenset[str]
    """Names in `$defs` that it refers to."""


@final
class Schemas:
    """Of one document, for one side."""

    __slots__ = ("_cycles", "_document", "_known", "_names", "_pending", "_side", "_taken", "defs")

    def __init__(self, document: Document, cycles: Cycles, side: Side) -> None:
        self._document = document
        self._cycles = cycles
        self._side = side
        self._known: dict[str, Piece] = {}
        """By place, what a reference to it becomes."""
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self._pending: list[tuple[str, Any, str]] = []
        self.defs: dict[str, Piece] = {}
        """By name, what is not inlined."""

    def piece(self, schema: object, place: str) -> Piece:
        """The schema with its references replaced. Raises: ConfigError."""
        made = self._convert(schema, place, 0)
        # Definitions are made one after the other, so that none stands deep in another.
        while self._pending:
            name, node, where = self._pending.pop()
            self.defs[name] = self._convert(node, where, 0)
        return made

    def needed(self, needs: frozenset[str]) -> dict[str, Piece]:
        """All that these names lead to, in the order of names."""
        found: set[str] = set()
        left = list(needs)
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += self.defs[name].needs
        return {name: self.defs[name] for name in sorted(found)}

    # --- references -----------------------------------------------------------------------

    def _referred(self, reference: str, place: str, depth: int) -> Piece:
        node, target = self._document.pointed(reference, below(place, "$ref"))
        known = self._known.get(target)
        if known is not None:
            return known
        if target in self._cycles or depth > _INLINE_DEPTH:
            piece = self._defined(target, node, None)
        else:
            made = self._convert(node, target, depth + 1)
            piece = made if made.nodes <= INLINE_NODES else self._defined(target, node, made)
        self._known[target] = piece
        return piece

    def _defined(self, target: str, node: object, made: Piece | None) -> Piece:
        name = self._name(target)
        if made is not None:
            self.defs[name] = made
        else:
            if not isinstance(node, bool):
                # Raises for references in a circle, which mean nothing at all.
                self._document.followed(node, target)
            self._pending.append((name, node, target))
        return Piece({"$ref": f"#/$defs/{name}"}, 1, frozenset((name,)))

    def _name(self, target: str) -> str:
        last = target.rpartition("/")[2].replace("~1", "_").replace("~0", "_")
        base = _NO_NAME.sub("_", last)[:100] or "schema"
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name

    # --- one schema -----------------------------------------------------------------------

    def _convert(self, schema: object, place: str, depth: int) -> Piece:
        if isinstance(schema, bool):
            return Piece({} if schema else {"not": {}}, 1, frozenset())
        node = self._document.mapping(schema, place)
        if depth > _DEPTH_MAX:
            raise fault(place, f"a schema nested more than {_DEPTH_MAX} levels deep")
        reference = node.get("$ref")
        if isinstance(reference, str):
            return self._beside(node, self._referred(reference, place, depth), place, depth)
        if "$dynamicRef" in node or "$recursiveRef" in node:
            raise fault(place, "dynamic references are not supported")
        return self._made(node, place, depth)

    def _beside(self, node: Node, found: Piece, place: str, depth: int) -> Piece:
        """A reference with what stands beside it."""
        rest = {key: value for key, value in node.items() if key != "$ref"}
        if self._document.has_nullable:
            # 3.0 gives no meaning to anything here; what describes does no harm.
            rest = {key: value for key, value in rest.items() if key in _ANNOTATIONS}
        if not rest:
            return found
        more = self._made(rest, place, depth)
        nodes, needs = found.nodes + more.nodes, found.needs | more.needs
        if more.schema.keys() <= _ANNOTATIONS:
            return Piece({**found.schema, **more.schema}, nodes, needs)
        return Piece({**more.schema, "allOf": [found.schema, *more.schema.get("allOf", ())]},
                     nodes, needs)  # fmt: skip

    def _made(self, node: Node, place: str, depth: int) -> Piece:
        made: Json = {}
        nodes, needs = 1, frozenset[str]()
        is_output = self._side == "output"
        for key, value in node.items():
            if is_output and key in _NOT_PROMISED:
                continue
            if key in _SCHEMA:
                piece = self._convert(value, below(place, key), depth + 1)
                made[key] = value if isinstance(value, bool) else piece.schema
                nodes, needs = nodes + piece.nodes, needs | piece.needs
            elif key in _LISTS:
                pieces = self._listed(value, below(place, key), depth)
                made[key] = [piece.schema for piece in pieces]
                nodes += sum(piece.nodes for piece in pieces)
                needs = needs.union(*(piece.needs for piece in pieces))
            elif key in _MAPS:
                found = self._mapped(key, value, below(place, key), depth)
                made[key] = {name: piece.schema for name, piece in found.items()}
                nodes += sum(piece.nodes for piece in found.values())
                needs = needs.union(*(piece.needs for piece in found.values()))
            else:
                self._put_plain(key, value, place, made)
                nodes += _weight(value)
        self._put_dialect(node, place, made)
        self._put_required(node, made, place)
        return Piece(made, nodes, needs)

    def _listed(self, value: object, place: str, depth: int) -> list[Piece]:
        if not isinstance(value, list):
            raise fault(place, "expected a list of schemas")
        return [
            self._convert(one, below(place, index), depth + 1) for index, one in enumerate(value)
        ]

    def _mapped(self, key: str, value: object, place: str, depth: int) -> dict[str, Piece]:
        given = self._document.mapping(value, place)
        return {
            name: self._convert(one, below(place, name), depth + 1)
            for name, one in given.items()
            if key != "properties" or not self._is_hidden(one, below(place, name))
        }

    def _is_hidden(self, schema: object, place: str) -> bool:
        """Whether a property is the other side's own."""
        if not isinstance(schema, Mapping):
            return False
        mark = "readOnly" if self._side == "input" else "writeOnly"
        if schema.get(mark) is True:
            return True
        return "$ref" in schema and self._document.followed(schema, place)[0].get(mark) is True

    # --- keywords that hold no schema -----------------------------------------------------

    def _put_plain(self, key: str, value: Any, place: str, made: Json) -> None:
        if key == "type":
            made[key] = _type(value, below(place, key))
        elif key == "enum":
            if not isinstance(value, list):
                raise fault(below(place, key), "expected a list")
            made[key] = value
        elif key in _PLAIN:
            made[key] = value
        elif key in _CHECKED:
            _put_checked(key, value, place, made)
        elif key == "dependentRequired":
            made[key] = self._dependent(value, below(place, key))
        elif key == "example" and "examples" not in made:
            made["examples"] = [value]
        elif key == "examples" and isinstance(value, list):
            made[key] = value

    def _dependent(self, value: object, place: str) -> Json:
        given = self._document.mapping(value, place)
        for name, others in given.items():
            if not isinstance(others, list) or not all(isinstance(one, str) for one in others):
                raise fault(below(place, name), "expected a list of names")
        return dict(given)

    def _put_dialect(self, node: Node, place: str, made: Json) -> None:
        """What 3.0 says in its own way, and content that JSON cannot hold."""
        if self._document.has_nullable:
            for bound, limit in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
                if node.get(limit) is True and bound in made:
                    made[limit] = made.pop(bound)
            kind = made.get("type")
            if node.get("nullable") is True and isinstance(kind, str) and kind != "null":
                made["type"] = [kind, "null"]
                if "enum" in made and None not in made["enum"]:
                    made["enum"] = [*made["enum"], None]
        if made.get("format") == "binary":
            del made["format"]
            made["contentEncoding"] = "base64"
        if isinstance(made.get("multipleOf"), int | float) and made["multipleOf"] <= 0:
            raise fault(below(place, "multipleOf"), "expected a number above 0")

    def _put_required(self, node: Node, made: Json, place: str) -> None:
        """`required`, without what is hidden. A flag, as Swagger had it, says nothing here."""
        required = node.get("required")
        if not isinstance(required, list):
            return
        given = node.get("properties")
        hidden = given.keys() - made["properties"].keys() if isinstance(given, Mapping) else ()
        kept = []
        for index, name in enumerate(required):
            if not isinstance(name, str):
                raise fault(below(place, "required", index), "expected text")
            if name not in hidden and name not in kept:
                kept.append(name)
        if kept:
            made["required"] = kept


def _weight(value: object) -> int:
    """What long lists and texts count for, so that bounds in nodes are bounds in octets too."""
    if isinstance(value, list):
        return len(value) // 4
    return len(value) // 256 if isinstance(value, str) else 0


def _type(value: object, place: str) -> str | list[str]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise fault(place, "expected a type of JSON Schema, or a list of them")
    return value  # type: ignore[return-value] # checked by the line above


def _put_checked(key: str, value: object, place: str, made: Json) -> None:
    """A bound or a text, which has to be one."""
    is_flag = isinstance(value, bool)
    if is_flag and key.startswith("exclusive"):
        return  # 3.0's; see `_put_dialect`
    if key in _TEXTS:
        is_good, expected = isinstance(value, str), "text"
    elif key in _COUNTS:
        is_good = isinstance(value, int) and not is_flag and value >= 0
        expected = "a number of 0 or more"
    else:
        is_good, expected = isinstance(value, int | float) and not is_flag, "a number"
    if not is_good:
        raise fault(below(place, key), f"expected {expected}")
    made[key] = value
