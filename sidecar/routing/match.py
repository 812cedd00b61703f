"""One match of a route compiled into closures, its rank, and the facts of a request it looks at.

Source: spec config section 2.2.

Rank inside a host bucket, best first: exact path before prefix and regex; longer path text; with a
method; more headers; more query parameters; smaller route key. Two matches of one route that are
still equal keep the order in which they were written.

Regular expressions are RE2: linear in the text, whatever a configuration or a client sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, final
from urllib.parse import parse_qsl

import re2

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.routing import canonical

PSEUDO = frozenset((":method", ":scheme", ":authority", ":path"))
DEFAULT_MATCH: Mapping[str, Any] = {"path": {"kind": "prefix", "value": "/"}}
"""What a route without `matches` matches."""


class MatchInfo(NamedTuple):
    """Which path match was met: `kind` is "exact", "prefix" or "regex"; `text` its canonical path
    (a prefix without its final slash, but for `/`) or the pattern."""

    kind: str
    text: str


Rank = tuple[bool, int, int, str, int]
"""Sort key among matches of equal path rank; less is better."""


@final
class Facts:
    """What a header or query check may look at. Built once a request, only where checks exist."""

    __slots__ = ("_query", "authority", "headers", "method", "path", "query", "scheme")

    def __init__(
        self, headers: Headers, query: str, method: str, scheme: str, authority: str, path: str
    ) -> None:
        self.headers = headers
        self.query = query
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.path = path
        self._query: dict[str, str] | None = None

    def parameters(self) -> dict[str, str]:
        """Decoded query parameters; the last of equal names stands."""
        found = self._query
        if found is None:
            text = self.query
            if not text.isascii():
                # Raw octets of a client that does not percent-encode: UTF-8 in a latin-1 str.
                text = text.encode("latin-1").decode("utf-8", "replace")
            found = self._query = dict(parse_qsl(text, keep_blank_values=True))
        return found

    def pseudo(self, name: str) -> str:
        """One of `PSEUDO`; `:path` is the canonical path with the query as received."""
        if name == ":path":
            return f"{self.path}?{self.query}" if self.query else self.path
        if name == ":method":
            return self.method
        return self.scheme if name == ":scheme" else self.authority


Check = Callable[[Facts], bool]


@final
class CompiledMatch:
    """One entry of `matches`, ready to be tried.

    `test` is the whole-path test of a regex, None for the others, which tables look up.
    `literal` is text that any path the regex matches begins with.
    """

    __slots__ = ("checks", "info", "literal", "method", "query_count", "test")

    def __init__(
        self,
        info: MatchInfo,
        method: str | None,
        checks: tuple[Check, ...],
        query_count: int,
        test: Callable[[str], object] | None,
        literal: str,
    ) -> None:
        self.info = info
        self.method = method
        self.checks = checks
        self.query_count = query_count
        self.test = test
        self.literal = literal

    def rank(self, route_key: str, index: int) -> Rank:
        """Its place among matches whose path text is as long."""
        headers = len(self.checks) - self.query_count
        return (self.method is None, -headers, -self.query_count, route_key, index)


def compile_match(data: Mapping[str, Any], place: str) -> CompiledMatch:
    """Compile `{"path": {"kind", "value"}, "method", "headers", "query"}` (snapshot form).

    `place` is the configuration path for messages. Raises: ConfigError.
    """
    info, test, literal = _compile_path(data.get("path") or DEFAULT_MATCH["path"], f"{place}.path")
    headers: Sequence[Mapping[str, str]] = data.get("headers") or ()
    query: Sequence[Mapping[str, str]] = data.get("query") or ()
    checks = [_header_check(item, f"{place}.headers[{i}]") for i, item in enumerate(headers)]
    checks += [_query_check(item, f"{place}.query[{i}]") for i, item in enumerate(query)]
    return CompiledMatch(info, data.get("method"), tuple(checks), len(query), test, literal)


def full_match(pattern: str, place: str) -> Callable[[str | bytes], object]:
    """A linear-time test that the whole text matches. Raises: ConfigError."""
    options = re2.Options()
    options.log_errors = False
    try:
        test: Callable[[str | bytes], object] = re2.compile(pattern, options).fullmatch
    except re2.error as exc:
        raise ConfigError(place, f"invalid regular expression: {_reason(exc)}") from exc
    return test


def _full_match_octets(pattern: str, place: str) -> Callable[[bytes], object]:
    """As `full_match`, for octets: both are read as UTF-8, and broken UTF-8 meets no `.`."""
    full_match(pattern, place)
    options = re2.Options()
    options.log_errors = False
    test: Callable[[bytes], object] = re2.compile(pattern.encode(), options).fullmatch
    return test


def _reason(exc: Exception) -> str:
    reason = exc.args[0] if exc.args else ""
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def _compile_path(
    data: Mapping[str, str], place: str
) -> tuple[MatchInfo, Callable[[str], object] | None, str]:
    kind, value = data["kind"], data["value"]
    if kind == "regex":
        return MatchInfo(kind, value), full_match(value, place), literal_prefix(value)
    if kind not in ("exact", "prefix"):
        raise ConfigError(place, f"unknown kind of path match {kind!r}")
    try:
        text = canonical.configured(value or "/")
    except ValueError as exc:
        raise ConfigError(place, f"no request path can equal {value!r}: {exc}") from exc
    if kind == "prefix":
        text = text.rstrip("/") or "/"
    return MatchInfo(kind, text), None, ""


def literal_prefix(pattern: str) -> str:
    """Characters that every text which the whole pattern matches begins with; often "".

    It spares most calls into the regex engine. Anything but plain characters ends it, and an
    alternative or a flag group anywhere makes it empty.
    """
    if "|" in pattern or "(?" in pattern:
        return ""
    out = ""
    for char in pattern.removeprefix("^"):
        if not (char.isascii() and (char.isalnum() or char in "/-_")):
            # A quantifier takes the character before it away.
            return out[:-1] if char in "?*{+" else out
        out += char
    return out


def _header_check(data: Mapping[str, str], place: str) -> Check:
    name, kind, value = data["name"].lower(), data["kind"], data["value"]
    if name == "host":
        # Requests hold no Host field: the authority stands for it.
        name = ":authority"
    if name.startswith(":"):
        return _pseudo_check(name, kind, value, place)
    field = name.encode()
    if kind == "exact":
        pair = (field, value.encode())
        return lambda facts: pair in facts.headers
    _check_kind(kind, place)
    test = _full_match_octets(value, place)

    def matches(facts: Facts) -> bool:
        return any(key == field and test(item) is not None for key, item in facts.headers)

    return matches


def _pseudo_check(name: str, kind: str, value: str, place: str) -> Check:
    if name not in PSEUDO:
        raise ConfigError(place, f"unknown pseudo header {name!r}")
    if kind == "exact":
        # The authority it is compared with is canonical, that is lower case.
        wanted = value.lower() if name in (":authority", ":scheme") else value
        return lambda facts: facts.pseudo(name) == wanted
    _check_kind(kind, place)
    test = full_match(value, place)
    return lambda facts: test(facts.pseudo(name)) is not None


def _query_check(data: Mapping[str, str], place: str) -> Check:
    name, kind, value = data["name"], data["kind"], data["value"]
    if kind == "exact":
        return lambda facts: facts.parameters().get(name) == value
    _check_kind(kind, place)
    test = full_match(value, place)

    def matches(facts: Facts) -> bool:
        found = facts.parameters().get(name)
        return found is not None and test(found) is not None

    return matches


def _check_kind(kind: str, place: str) -> None:
    if kind != "regex":
        raise ConfigError(place, f"unknown kind of match {kind!r}")


def hosts_for(host: str) -> Iterator[str]:
    """Keys under which a host may be listed, best first: itself, each `*.suffix`, then "" (any)."""
    if host:
        yield host
        dot = host.find(".")
        while dot != -1:
            yield "*" + host[dot:]
            dot = host.find(".", dot + 1)
    yield ""


def host_key(hostname: str) -> str:
    """A configured hostname as a key: lower case, "" for any (`*` or nothing), no final dot."""
    name = hostname.lower()
    return "" if name == "*" else name.removesuffix(".")
