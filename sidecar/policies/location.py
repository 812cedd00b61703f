"""Where a request carries its credential: read from there, and taken away once it is valid.

Source: spec/config.md section 0.3; RFC 6265 section 5.4 (cookies); URL standard, section
"application/x-www-form-urlencoded parsing".
"""

from __future__ import annotations

from typing import Final, Protocol, final
from urllib.parse import unquote_to_bytes

from pydantic import model_validator

from sidecar.cel.engine import CelError
from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import Request
from sidecar.policies import fields
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression
from sidecar.policies.schema import PolicyConfig, exactly_one

AMBIGUOUS: Final = b""
"""Read where the same credential stands twice: whoever reads on could take the other one."""


class HeaderPlace(PolicyConfig):
    """A header."""

    name: str
    """Its name."""
    prefix: str | None = None
    """Text before the credential, in any letter case. Default: none."""


class NamedPlace(PolicyConfig):
    """A query parameter or a cookie."""

    name: str
    """Its name, in this letter case."""


class Location(PolicyConfig):
    """One place."""

    header: HeaderPlace | None = None
    """A header."""
    query_parameter: NamedPlace | None = None
    """A query parameter."""
    cookie: NamedPlace | None = None
    """A cookie."""
    expression: str | None = None
    """CEL that gives the credential; nothing is removed."""

    @model_validator(mode="after")
    def _one(self) -> Location:
        exactly_one(self)
        return self


class Source(Protocol):
    """A place made ready. `keeps_target`: `remove` changes nothing but the headers."""

    keeps_target: bool
    needs_request_body: bool

    def read(self, request: Request) -> bytes | None:
        """The credential; None when there is none, AMBIGUOUS when there are several.

        Raises: RequestError for an ambiguous path.
        """

    def remove(self, request: Request) -> None:
        """Take it out of the request. The header list is replaced, never changed."""


def source_of(location: Location, services: Services) -> Source:
    """Raises: ConfigError, its path below the location."""
    if location.header is not None:
        name = fields.header_name(location.header.name, "header.name")
        return HeaderSource(name, (location.header.prefix or "").encode())
    if location.query_parameter is not None:
        return QuerySource(_name(location.query_parameter.name, "queryParameter.name"))
    if location.cookie is not None:
        return CookieSource(_name(location.cookie.name, "cookie.name"))
    assert location.expression is not None
    return ExpressionSource(Expression(location.expression, services, "expression"))


def _name(text: str, path: str) -> bytes:
    if not text:
        raise ConfigError(path, "a name is needed")
    return text.encode()


@final
class HeaderSource:
    """A header, with or without a prefix. See Source."""

    __slots__ = ("_name", "_prefix", "_size")
    keeps_target = True
    needs_request_body = False

    def __init__(self, name: bytes, prefix: bytes) -> None:
        self._name = name
        self._prefix = prefix.lower()
        self._size = len(prefix)

    def read(self, request: Request) -> bytes | None:
        """See Source."""
        found: bytes | None = None
        name = self._name
        for key, value in request.headers:
            if key == name:
                if found is not None:
                    return AMBIGUOUS
                found = value
        if found is None or found[: self._size].lower() != self._prefix:
            return None
        return found[self._size :] or None

    def remove(self, request: Request) -> None:
        """See Source."""
        name = self._name
        request.headers = Headers([one for one in request.headers if one[0] != name])


@final
class QuerySource:
    """A parameter of the query. See Source."""

    __slots__ = ("_name",)
    keeps_target = False
    needs_request_body = False

    def __init__(self, name: bytes) -> None:
        self._name = name

    def _is_meant(self, pair: str) -> bool:
        return _decoded(pair.partition("=")[0]) == self._name

    def read(self, request: Request) -> bytes | None:
        """See Source."""
        query = request.query
        if not query:
            return None
        found = [pair for pair in query.split("&") if self._is_meant(pair)]
        if len(found) > 1:
            return AMBIGUOUS
        return _decoded(found[0].partition("=")[2]) or None if found else None

    def remove(self, request: Request) -> None:
        """See Source. What is left stays octet by octet."""
        path, _, query = request.target.partition("?")
        rest = "&".join(pair for pair in query.split("&") if not self._is_meant(pair))
        request.target = f"{path}?{rest}" if rest else path


def _decoded(text: str) -> bytes:
    return unquote_to_bytes(text.replace("+", " "))


@final
class CookieSource:
    """A cookie. See Source."""

    __slots__ = ("_name",)
    keeps_target = True
    needs_request_body = False

    def __init__(self, name: bytes) -> None:
        self._name = name

    def _is_meant(self, pair: bytes) -> bool:
        return pair.partition(b"=")[0].strip() == self._name

    def read(self, request: Request) -> bytes | None:
        """See Source."""
        found = [
            pair.partition(b"=")[2].strip()
            for value in request.headers.get_all(b"cookie")
            for pair in value.split(b";")
            if self._is_meant(pair)
        ]
        if len(found) > 1:
            return AMBIGUOUS
        return found[0] or None if found else None

    def remove(self, request: Request) -> None:
        """See Source."""
        kept = Headers()
        for name, value in request.headers:
            rest = value
            if name == b"cookie":
                pairs = (pair.strip() for pair in value.split(b";") if not self._is_meant(pair))
                rest = b"; ".join(pair for pair in pairs if pair)
                if not rest:
                    continue
            kept.append((name, rest))
        request.headers = kept


@final
class ExpressionSource:
    """What an expression gives; an error is none. See Source."""

    __slots__ = ("_expression", "needs_request_body")
    keeps_target = True

    def __init__(self, expression: Expression) -> None:
        self._expression = expression
        self.needs_request_body = expression.needs_request_body

    def read(self, request: Request) -> bytes | None:
        """See Source."""
        try:
            value = self._expression.value(request)
        except (CelError, RequestError):
            return None
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape") or None
        return value or None if isinstance(value, bytes) else None

    def remove(self, request: Request) -> None:
        """Nothing: who knows what the expression reads."""
