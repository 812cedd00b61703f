"""The variables of an expression out of sample data: JSON in the place of a request.

Source: spec/cel.schema.json (what the variables look like as JSON); spec/config.md section 7.2.

What follows from other fields need not be said: with `uri` come `scheme`, `host`, `path` and
`pathAndQuery`, and the other way round.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from sidecar.cel.analysis import ROOTS
from sidecar.cel.context import Context
from sidecar.cel.headers_view import ALWAYS_SENSITIVE, HeaderView, QueryText
from sidecar.cel.times import to_duration, to_timestamp
from sidecar.cel.values import CelError, Secret
from sidecar.cel.variables import REQUEST_FIELDS, RESPONSE_FIELDS
from sidecar.errors import ConfigError, RequestError

Data = Mapping[str, Any]

DEFAULT: Final[Data] = {
    "request": {
        "method": "POST",
        "uri": "https://gateway.example/v1/chat/completions?debug=true",
        "version": "HTTP/1.1",
        "headers": {"content-type": "application/json", "user-agent": "sample/1.0"},
        "body": {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]},
        "startTime": "2026-01-01T00:00:00Z",
    },
    "response": {"code": 200, "headers": {"content-type": "application/json"}, "body": {}},
    "source": {"address": "192.0.2.1", "port": 50000},
    "destination": {"address": "198.51.100.1", "port": 443},
    "jwt": {"iss": "https://idp.example", "sub": "user-1", "groups": ["developers"]},
    "backend": {"name": "default/models", "type": "ai", "protocol": "llm"},
}
"""What an expression is evaluated on when nobody says."""

_SECRETS: Final = {"jwt": "rawToken", "apiKey": "key"}
_DURATIONS: Final = {
    "llm": ("timeToFirstToken", "timePerOutputToken"),
    "proxy": ("requestProcessingDuration", "upstreamDuration", "responseProcessingDuration"),
}


def variables(data: Data, context: Context, sensitive: Iterable[bytes] = ()) -> dict[str, object]:
    """An activation. `sensitive`: lower-case names of header fields that `redacted()` hides.

    Raises ConfigError with the path of what no gateway has, or of another type.
    """
    hidden = ALWAYS_SENSITIVE.union(sensitive)
    built: dict[str, object] = {}
    for root, value in data.items():
        if root not in ROOTS:
            raise ConfigError(root, f"no such variable{_hint(root, ROOTS)}")
        if value is None:
            continue
        if root == "request":
            built[root] = _request(_map(root, value), context, hidden)
        elif root == "response":
            built[root] = _message(root, _map(root, value), RESPONSE_FIELDS, hidden)
        else:
            built[root] = _other(root, value, hidden)
    if "env" not in built and context.env:
        built["env"] = dict(context.env)
    return built


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _map(path: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(path, "expected a map")
    return value


def _request(given: dict[str, Any], context: Context, hidden: frozenset[bytes]) -> object:
    fields = _message("request", given, REQUEST_FIELDS, hidden)
    uri = str(given.get("uri") or "")
    parts = urlsplit(uri)
    scheme = str(given.get("scheme") or parts.scheme or "http")
    # The host as in `Host`: with a port when the client named one.
    host = str(given.get("host") or parts.netloc or "localhost")
    target = str(given.get("pathAndQuery") or given.get("path") or _target(uri) or "/")
    fields.setdefault("method", "GET")
    fields.setdefault("version", "HTTP/1.1")
    fields |= {"scheme": scheme, "host": host.partition(":")[0], "pathAndQuery": QueryText(target)}
    fields["uri"] = QueryText(uri if parts.netloc else f"{scheme}://{host}{target}")
    fields.setdefault("headers", HeaderView((), hidden))
    if "path" not in given:
        try:
            fields["path"] = context.canonical_path(target)
        except RequestError as error:
            raise ConfigError("request.pathAndQuery", str(error)) from error
    return fields


def _target(uri: str) -> str:
    _, mark, rest = uri.partition("://")
    if not mark:
        return uri
    start = rest.find("/")
    return "" if start < 0 else rest[start:]


def _message(
    root: str, given: dict[str, Any], known: frozenset[str], hidden: frozenset[bytes]
) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{root}.{name}", f"no such field{_hint(name, known)}")
        if value is None:
            continue
        path = f"{root}.{name}"
        if name == "headers":
            fields[name] = _headers(path, value, hidden)
        elif name in ("body", "bodyPrefix"):
            fields[name] = value.encode() if isinstance(value, str) else orjson.dumps(value)
        elif name in ("startTime", "endTime"):
            fields[name] = _converted(path, value, to_timestamp)
        else:
            fields[name] = value
    if "body" in fields:
        fields.setdefault("bodyPrefix", fields["body"])
    return fields


def _headers(path: str, value: object, hidden: frozenset[bytes]) -> HeaderView:
    found: list[tuple[bytes, bytes]] = []
    for name, held in _map(path, value).items():
        for each in held if isinstance(held, list) else [held]:
            if not isinstance(each, str | int | float):
                raise ConfigError(f"{path}.{name}", "expected text, or a list of texts")
            found.append((name.lower().encode(), str(each).encode()))
    return HeaderView(found, hidden)


def _converted(path: str, value: object, convert: Callable[[object], object]) -> object:
    try:
        return convert(value)
    except CelError as error:
        raise ConfigError(path, str(error)) from error


def _other(root: str, value: object, hidden: frozenset[bytes]) -> object:
    if not isinstance(value, dict):
        return value
    fields = dict(value)
    secret = _SECRETS.get(root, "")
    if isinstance(fields.get(secret), str):
        fields[secret] = Secret(fields[secret])
    for name in _DURATIONS.get(root, ()):
        if name in fields:
            fields[name] = _converted(f"{root}.{name}", fields[name], to_duration)
    if root == "source" and "connectHeaders" in fields:
        fields["connectHeaders"] = _headers(
            "source.connectHeaders", fields["connectHeaders"], hidden
        )
    return fields
