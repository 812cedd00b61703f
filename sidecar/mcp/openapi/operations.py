"""Operations of a document, each with all that a call needs.

Source: OpenAPI 3.1.1 sections 4.8.8 to 4.8.17; spec/mcp_a2a.md sections 2.12 and 5.2 row 17.

The host is the operator's alone: of `servers` only the path is used. What a security scheme names
is no argument, and neither is what HTTP itself says (`Accept`, `Content-Length`, `Host`, …):
credentials are those that the target's policies put on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final
from urllib.parse import quote, unquote, urlsplit

from sidecar.http.headers import HOP_BY_HOP
from sidecar.mcp.openapi.bodies import BodySpec, Encoding, kind_of
from sidecar.mcp.openapi.document import ROOT, Document, Node, below, fault
from sidecar.mcp.openapi.parameters import PLACES, Parameter

METHODS: Final = frozenset(("get", "put", "post", "delete", "options", "head", "patch"))
_VARIABLE: Final = re.compile(r"\{([^{}/]+)\}")
_LITERAL: Final = "/-._~!$&'()*+,;=:@%"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_MEDIA_TYPE: Final = re.compile(r"[\w!#$&^.+*-]{1,64}/[\w!#$&^.+*-]{1,128}(?:\s*;[ -~]{0,128})?")
_OF_HTTP: Final = frozenset(
    (
        *(b"accept", b"accept-encoding", b"authorization", b"content-encoding", b"cookie"),
        *(b"content-length", b"content-type", b"expect", b"host", b"proxy-authorization"),
        *(b"forwarded", b"traceparent", b"tracestate"),
        *HOP_BY_HOP,
    )
)
_PREFERRED: Final = ("json", "form", "multipart", "text", "binary")


@final
@dataclass(frozen=True, slots=True)
class Described:
    """A parameter with the schema of its argument, and where that stands."""

    parameter: Parameter
    schema: object
    place: str
    description: str
    is_deprecated: bool


@final
@dataclass(frozen=True, slots=True)
class Body:
    """The body with the schema of its argument."""

    spec: BodySpec
    schema: object
    place: str
    description: str


@final
@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as the document has it."""

    method: str
    """Upper case."""
    path: str
    """The template, as the document writes it."""
    prefix: str
    """What stands before it; without a slash at its end."""
    node: Node
    place: str
    parameters: tuple[Described, ...]
    body: Body | None


@final
class Reader:
    """Reads the operations of one document."""

    __slots__ = ("_credentials", "_document", "_prefix")

    def __init__(self, document: Document, prefix: str | None) -> None:
        """`prefix`: in the place of those of `servers`; None takes these. Raises: ConfigError."""
        self._document = document
        self._prefix = None if prefix is None else server_path(prefix, "its prefix")
        self._credentials = frozenset(self._schemes())

    @property
    def credential_headers(self) -> frozenset[bytes]:
        """Headers that hold credentials, by what the document says."""
        return frozenset(
            name.encode("latin-1", "replace") for place, name in self._credentials
            if place == "header"
        )  # fmt: skip

    def _schemes(self) -> Iterator[tuple[str, str]]:
        """`(place, name)` of each key that the API wants; names of headers in lower case."""
        components = self._document.section(self._document.data, "components", ROOT)
        where = below(ROOT, "components")
        given = self._document.section(components, "securitySchemes", where)
        for key, node in given.items():
            scheme, place = self._document.followed(node, below(where, "securitySchemes", key))
            if scheme.get("type") == "apiKey":
                name, found = scheme.get("name"), scheme.get("in")
                if not isinstance(name, str) or found not in PLACES[1:]:
                    raise fault(place, "an apiKey needs `name`, and `in` header, query or cookie")
                yield str(found), name.lower() if found == "header" else name

    def operations(self) -> Iterator[Operation]:
        """In the order of the document. Raises: ConfigError."""
        document = self._document
        root_prefix = self._server(document.data, ROOT)
        paths = document.section(document.data, "paths", ROOT)
        for path, node in paths.items():
            if path.startswith("x-"):
                continue
            item, place = document.followed(node, below(ROOT, "paths", path))
            _check_path(path, below(ROOT, "paths", path))
            prefix = self._server(item, place) if item.get("servers") else root_prefix
            for method in item:
                if method in METHODS and item[method] is not None:
                    own = document.mapping(item[method], below(place, method))
                    yield self._operation(method, path, prefix, item, place, own)

    def _operation(
        self, method: str, path: str, prefix: str, item: Node, item_place: str, node: Node
    ) -> Operation:
        place = below(item_place, method)
        if node.get("servers"):
            prefix = self._server(node, place)
        found = {
            **self._parameters(item, item_place),
            **self._parameters(node, place),
        }
        names = dict.fromkeys(_VARIABLE.findall(path))
        described = [one for key, one in found.items() if key[0] != "path" or key[1] in names]
        for name in names:
            if ("path", name) not in found:
                # Often forgotten; what it has to be is clear.
                parameter = Parameter(name, "path", is_required=True)
                described.append(Described(parameter, {"type": "string"}, place, "", False))
        return Operation(
            method.upper(), path, prefix, node, place, tuple(described), self._body(node, place)
        )

    # --- servers --------------------------------------------------------------------------

    def _server(self, node: Node, place: str) -> str:
        """The path of the first server."""
        if self._prefix is not None:
            return self._prefix
        servers = self._document.entries(node, "servers", place)
        if not servers:
            return ""
        where = below(place, "servers", 0)
        server = self._document.mapping(servers[0], where)
        url = server.get("url", "")
        if not isinstance(url, str):
            raise fault(below(where, "url"), "expected text")
        variables = self._document.section(server, "variables", where)

        def default(found: re.Match[str]) -> str:
            variable = variables.get(found[1])
            value = variable.get("default") if isinstance(variable, Mapping) else None
            if not isinstance(value, str | int | float):
                raise fault(below(where, "variables", found[1]), "needs a default")
            return str(value)

        return server_path(_VARIABLE.sub(default, url), below(where, "url"))

    # --- parameters -----------------------------------------------------------------------

    def _parameters(self, node: Node, place: str) -> dict[tuple[str, str], Described]:
        made = {}
        for index, one in enumerate(self._document.entries(node, "parameters", place)):
            given, where = self._document.followed(one, below(place, "parameters", index))
            name, kind = given.get("name"), given.get("in")
            if not isinstance(name, str) or not name or kind not in PLACES:
                text = "a parameter needs `name`, and `in` path, query, header or cookie"
                raise fault(where, text)
            key = (str(kind), name.lower() if kind == "header" else name)
            if key in self._credentials or not self._is_argument(name, str(kind), where):
                continue
            made[key] = self._described(given, name, where)
        return made

    @staticmethod
    def _is_argument(name: str, kind: str, place: str) -> bool:
        if kind != "header":
            return True
        if not _HEADER_NAME.fullmatch(name):
            raise fault(below(place, "name"), "this is no name of a header")
        lower = name.lower().encode()
        return lower not in _OF_HTTP and not lower.startswith((b"x-forwarded-", b"mcp-"))

    def _described(self, given: Node, name: str, place: str) -> Described:
        kind = given["in"]
        schema, where, is_json = given.get("schema", True), below(place, "schema"), False
        if given.get("content") is not None:
            content = self._document.section(given, "content", place)
            if len(content) != 1:
                raise fault(below(place, "content"), "expected one media type")
            ((media_type, node),) = content.items()
            where = below(place, "content", media_type)
            schema = self._document.mapping(node, where).get("schema", True)
            where, is_json = below(where, "schema"), kind_of(media_type) == "json"
        style, explode = given.get("style", ""), given.get("explode")
        parameter = Parameter(
            name,
            kind,
            given.get("required") is True or kind == "path",
            style if isinstance(style, str) else "?",
            explode if isinstance(explode, bool) else None,
            given.get("allowReserved") is True,
            is_json,
        )
        problem = parameter.problem()
        if problem is not None:
            raise fault(below(place, "style"), problem)
        return Described(
            parameter, schema, where, text_at(given, "description"), given.get("deprecated") is True
        )

    # --- bodies ---------------------------------------------------------------------------

    def _body(self, node: Node, place: str) -> Body | None:
        if node.get("requestBody") is None:
            return None
        given, where = self._document.followed(node["requestBody"], below(place, "requestBody"))
        content = self._document.section(given, "content", where)
        if not content:
            return None
        for one in content:
            check_media_type(one, below(where, "content", one))
        media_type = min(content, key=lambda one: _PREFERRED.index(kind_of(one)))
        at = below(where, "content", media_type)
        media = self._document.mapping(content[media_type], at)
        kind = kind_of(media_type)
        schema: object = media.get("schema", True)
        if kind == "binary":
            schema = {"type": "string", "contentEncoding": "base64"}
        encodings = self._encodings(media, at) if kind in ("form", "multipart") else {}
        spec = BodySpec(media_type, kind, given.get("required") is True, encodings)
        return Body(spec, schema, below(at, "schema"), text_at(given, "description"))

    def _encodings(self, media: Node, place: str) -> dict[str, Encoding]:
        given = self._document.section(media, "encoding", place)
        schema = media.get("schema")
        found: Node = {}
        if isinstance(schema, Mapping):
            found, _ = self._document.followed(schema, below(place, "schema"))
        properties = found.get("properties")
        names = [*given, *(properties if isinstance(properties, Mapping) else ())]
        made = {}
        for name in dict.fromkeys(names):
            how = self._document.section(given, name, below(place, "encoding"))
            property_ = properties.get(name) if isinstance(properties, Mapping) else None
            where = below(place, "encoding", name)
            made[name] = self._encoding(how, where, is_binary=self._is_binary(property_))
        return made

    def _encoding(self, how: Node, place: str, *, is_binary: bool) -> Encoding:
        content_type = text_at(how, "contentType").partition(",")[0].strip()
        if content_type:
            check_media_type(content_type, below(place, "contentType"))
        style, explode = text_at(how, "style"), how.get("explode")
        problem = Parameter("", "query", style=style).problem()
        if problem is not None:
            raise fault(below(place, "style"), problem)
        return Encoding(
            "" if "*" in content_type else content_type,
            style,
            explode if isinstance(explode, bool) else None,
            how.get("allowReserved") is True,
            is_binary,
        )

    def _is_binary(self, schema: object) -> bool:
        """Whether a property of a form is a file, or a list of them."""
        for _ in range(2):
            if not isinstance(schema, Mapping):
                return False
            found, _ = self._document.followed(schema, ROOT)
            if found.get("format") == "binary" or found.get("contentEncoding") == "base64":
                return True
            if "contentMediaType" in found and found.get("type") in (None, "string"):
                return True
            schema = found.get("items")
        return False


def check_media_type(text: object, place: str) -> None:
    """Raises: ConfigError."""
    if not isinstance(text, str) or not _MEDIA_TYPE.fullmatch(text):
        raise fault(place, "this is no media type")


def server_path(url: str, place: str) -> str:
    """The path of a server's URL, without a slash at its end. Raises: ConfigError."""
    try:
        path = urlsplit(url).path
    except ValueError as error:
        raise fault(place, "this is no URL") from error
    path = path.rstrip("/")
    if path and not path.startswith("/"):
        path = f"/{path}"
    if _has_dots(path):
        raise fault(place, "a path with `.` or `..` segments")
    return quote(path, safe=_LITERAL)


def _has_dots(path: str) -> bool:
    return any(unquote(step) in (".", "..") for step in path.split("/"))


def _check_path(path: str, place: str) -> None:
    if not path.startswith("/") or "?" in path or "#" in path:
        raise fault(place, "a path begins with `/` and has neither query nor fragment")
    if _has_dots(path):
        raise fault(place, "a path with `.` or `..` segments")


def text_at(node: Node, key: str) -> str:
    """A text below; "" when there is none."""
    found: Any = node.get(key)
    return found if isinstance(found, str) else ""


def template_of(path: str) -> tuple[tuple[str, bool], ...]:
    """A path in parts: `(text, whether it is a parameter's name)`."""
    parts: list[tuple[str, bool]] = []
    at = 0
    for found in _VARIABLE.finditer(path):
        parts.append((quote(path[at : found.start()], safe=_LITERAL), False))
        parts.append((found[1], True))
        at = found.end()
    parts.append((quote(path[at:], safe=_LITERAL), False))
    return tuple(part for part in parts if part[0])
