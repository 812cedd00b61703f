"""Header names and values that come from configuration or from expressions, checked before use.

Source: RFC 9110 sections 5.1, 5.5 and 7.6.1; hardening cases 17 and 38.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Mapping, Set

import orjson

from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import HOP_BY_HOP, Field, Headers
from sidecar.policies.schema import child
from sidecar.routing import canonical

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

FRAMING = HOP_BY_HOP | {b"content-length"}
"""Fields the gateway writes itself; a policy that set them could desynchronise two hops."""

Edit = Callable[[Headers], None]


def header_name(text: str, path: str) -> bytes:
    """A field name, lower-case. Raises: ConfigError when it is no token."""
    name = (octets(text) or b"").lower()
    if not TOKEN.fullmatch(name):
        raise ConfigError(path, "invalid header name: only letters, digits and !#$%&'*+-.^_`|~")
    return name


def settable_name(text: str, path: str) -> bytes:
    """A field name a policy may write. Raises: ConfigError for those that frame the message."""
    name = header_name(text, path)
    if name in FRAMING:
        raise ConfigError(path, f"`{name.decode()}` is written by the gateway and cannot be set")
    return name


def removable_name(text: str, path: str) -> bytes:
    """A field name a policy may remove. Raises: ConfigError."""
    name = header_name(text, path)
    if name == b"host":
        raise ConfigError(path, "`host` cannot be removed: a request must name its authority")
    return name


def header_value(text: str, path: str) -> bytes:
    """A field value without surrounding blanks. Raises: ConfigError for CR, LF, NUL, controls."""
    raw = octets(text)
    value = None if raw is None else checked(raw)
    if value is None:
        raise ConfigError(path, "invalid header value: control characters are not allowed")
    return value


def checked(value: bytes) -> bytes | None:
    """A value fit for the wire without surrounding blanks, or None when it holds a control."""
    return value.strip(b" \t") if VALUE.fullmatch(value) else None


def octets(text: str) -> bytes | None:
    """Text as UTF-8, octets that came in as none as they were; None for lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def authority(text: str, path: str) -> str:
    """The canonical form of a configured authority. Raises: ConfigError."""
    try:
        return canonical.authority(text)
    except RequestError as problem:
        raise ConfigError(path, problem.message) from problem


def names(texts: Mapping[str, str], path: str) -> dict[bytes, str]:
    """Settable names with their sources. Raises: ConfigError, also for a name spelt twice."""
    result: dict[bytes, str] = {}
    for text, source in texts.items():
        name = settable_name(text, child(path, text))
        if name in result:
            raise ConfigError(child(path, text), "the same header is set twice")
        result[name] = source
    return result


def valued(texts: Mapping[str, str], path: str) -> dict[bytes, bytes]:
    """Settable names with their static values. Raises: ConfigError."""
    return {
        name: header_value(text, f"{path}.{name.decode()}")
        for name, text in names(texts, path).items()
    }


def kept(values: Mapping[bytes, bytes], dropped: Set[bytes]) -> tuple[Field, ...]:
    """The fields that no later step drops."""
    return tuple(item for item in values.items() if item[0] not in dropped)


def encoded(value: object) -> bytes | None:
    """The bytes of an expression's value: text as UTF-8, bytes raw, times as text, else JSON.

    None for null and for what has no JSON form.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return octets(value)
    if isinstance(value, bytes):
        return value
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z").encode()
    if isinstance(value, datetime.timedelta):
        return f"{value.total_seconds():g}s".encode()
    try:
        return orjson.dumps(value, default=_jsonable, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        return None


def _jsonable(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime.timedelta):
        return f"{value.total_seconds():g}s"
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def remover(dropped: Iterable[bytes], *, twins: bool) -> Edit | None:
    """An edit that drops every field named; None when there is nothing to drop.

    `twins`: a client's `x_user` goes together with `x-user`, because CGI-style upstreams see both
    under one name and the client's could shadow ours (case 38).
    """
    gone = frozenset(dropped)
    if not gone:
        return None
    if twins and any(b"-" in name for name in gone):

        def drop_twins(headers: Headers) -> None:
            # Fast path: two scans in C tell that there is nothing to drop.
            present = [name for name, _ in headers]
            if b"_" not in b"".join(present):
                if not gone.isdisjoint(present):
                    headers[:] = [item for item in headers if item[0] not in gone]
                return
            headers[:] = [
                item
                for item in headers
                if item[0] not in gone and item[0].replace(b"_", b"-") not in gone
            ]

        return drop_twins

    def drop(headers: Headers) -> None:
        headers.remove_any(gone)

    return drop


def computed(name: object, values: object) -> list[Field]:
    """The fields of one entry of a computed header map; none for what the wire cannot carry."""
    if not isinstance(name, str) or name.startswith(":"):
        return []
    key = (octets(name) or b"").lower()
    if not TOKEN.fullmatch(key) or key in FRAMING or key == b"host":
        return []
    many = values if isinstance(values, list | tuple) else [values]
    result: list[Field] = []
    for item in many:
        raw = encoded(item)
        value = None if raw is None else checked(raw)
        if value is not None:
            result.append((key, value))
    return result
