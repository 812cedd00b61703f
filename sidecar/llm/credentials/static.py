"""A fixed key, or several, each in its place: header, query parameter or cookie.

Source: spec config sections 0.3 and 3.12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, final
from urllib.parse import quote, quote_plus, unquote_plus

from sidecar.errors import ConfigError
from sidecar.llm.credentials.base import Outgoing

Data = Mapping[str, Any]
Put = Callable[[Outgoing], None]
Place = Callable[[Outgoing, str], None]
_PRINTABLE: Final = bytes(range(32, 127))


def is_showable(octets: bytes) -> bool:
    """Whether they are printable ASCII, blanks included."""
    return not octets.translate(None, _PRINTABLE)


DEFAULT_LOCATION: Final[Data] = {"header": {"name": "authorization", "prefix": "Bearer "}}


def placing(location: Data | None, value: str, path: str) -> Put:
    """What writes a credential into its place. Raises: ConfigError."""
    location = location or DEFAULT_LOCATION
    if not value or not value.isascii() or not value.isprintable():
        raise ConfigError(path, "the key is empty or holds characters that no header can hold")
    if (header := location.get("header")) is not None:
        name = header["name"].lower().encode()
        return partial(_header, name, ((header.get("prefix") or "") + value).encode())
    if (parameter := location.get("queryParameter")) is not None:
        return partial(_query, parameter["name"], value)
    if (cookie := location.get("cookie")) is not None:
        name = quote(cookie["name"], safe="!#$&'*+.^`|")
        return partial(_cookie, f"{name}={quote(value, safe=_COOKIE_SAFE)}".encode())
    raise ConfigError(path, "a credential cannot be written to an expression")


def place_of(location: Data | None, path: str) -> Place:
    """What writes credentials into a place, each time another, which the caller knows to be of
    printable ASCII. Raises: ConfigError."""
    location = location or DEFAULT_LOCATION
    if (header := location.get("header")) is not None:
        name, prefix = header["name"].lower().encode(), (header.get("prefix") or "").encode()
        return lambda request, value: request.headers.set(name, prefix + value.encode())
    if (parameter := location.get("queryParameter")) is not None:
        parameter_name = parameter["name"]
        return lambda request, value: _query(parameter_name, value, request)
    if (cookie := location.get("cookie")) is not None:
        cookie_name = quote(cookie["name"], safe="!#$&'*+.^`|")
        return lambda request, value: _cookie(
            f"{cookie_name}={quote(value, safe=_COOKIE_SAFE)}".encode(), request
        )
    raise ConfigError(path, "a credential cannot be written to an expression")


def removing(location: Data | None) -> Put:
    """What takes a credential out of its place; of an expression's nothing."""
    location = location or DEFAULT_LOCATION
    if (header := location.get("header")) is not None:
        return partial(_without_header, header["name"].lower().encode())
    if (parameter := location.get("queryParameter")) is not None:
        return partial(_without_parameter, parameter["name"])
    if (cookie := location.get("cookie")) is not None:
        return partial(_without_cookie, quote(cookie["name"], safe="!#$&'*+.^`|").encode())
    return _unchanged


def _without_header(name: bytes, request: Outgoing) -> None:
    request.headers.remove_all(name)


def _without_parameter(name: str, request: Outgoing) -> None:
    path, _, query = request.target.partition("?")
    kept = _other_parameters(query, name)
    request.target = f"{path}?{'&'.join(kept)}" if kept else path


def _without_cookie(name: bytes, request: Outgoing) -> None:
    kept = _other_cookies(request, name)
    request.headers.remove_all(b"cookie")
    if kept:
        request.headers.append((b"cookie", b"; ".join(kept)))


def _unchanged(request: Outgoing) -> None:
    return None


_COOKIE_SAFE: Final = "!#$&'()*+-./:<=>?@[]^_`{|}~"


def _header(name: bytes, value: bytes, request: Outgoing) -> None:
    request.headers.set(name, value)


def _query(name: str, value: str, request: Outgoing) -> None:
    path, _, query = request.target.partition("?")
    kept = _other_parameters(query, name)
    kept.append(f"{quote_plus(name)}={quote_plus(value)}")
    request.target = f"{path}?{'&'.join(kept)}"


def _other_parameters(query: str, name: str) -> list[str]:
    return [one for one in query.split("&") if one and unquote_plus(one.partition("=")[0]) != name]


def _cookie(pair: bytes, request: Outgoing) -> None:
    kept = _other_cookies(request, pair.partition(b"=")[0])
    request.headers.set(b"cookie", b"; ".join([*kept, pair]))


def _other_cookies(request: Outgoing, name: bytes) -> list[bytes]:
    kept: list[bytes] = []
    for line in request.headers.get_all(b"cookie"):
        parts = (part.strip() for part in line.split(b";"))
        kept += [part for part in parts if part and part.partition(b"=")[0] != name]
    return kept


@final
class StaticKeys:
    """Keys that the configuration holds."""

    is_last = False

    def __init__(self, puts: Sequence[Put], *, explicit_place: bool) -> None:
        self._puts = tuple(puts)
        self.explicit_place = explicit_place
        self.replaces = not any(isinstance(put, partial) and put.func is _cookie for put in puts)
        """Whether what a request holds makes no difference to what is written: a cookie stands
        among the client's own."""

    def apply_nowait(self, request: Outgoing) -> bool:
        """See Credential."""
        for put in self._puts:
            put(request)
        return True

    async def apply(self, request: Outgoing) -> None:
        """See Credential."""
        self.apply_nowait(request)

    def close(self) -> None:
        """See Credential."""
