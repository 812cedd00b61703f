"""What the body of a call tells: method, ids and webhooks, of JSON and of protocol buffers.

Source: A2A 1.0 sections 3 and 4, A2A 0.3 section 7; JSON-RPC 2.0; hardening.md case 46.

Rules are made over what is read here, and the agent reads the same octets again with another
parser. Where parsers disagree the body is refused: names that occur twice, envelope keys in another
case (Go takes those), numbers that are none, and nesting without end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, final

import orjson

from sidecar import jsonrpc
from sidecar.a2a import wire
from sidecar.a2a.methods import CREATE_WEBHOOK, METHODS, SEND, STREAM, Called, of_rpc

_ENVELOPE: Final = frozenset(("jsonrpc", "method", "params", "id"))
_TEXT_MAX: Final = 256
"""Characters of an id or a method that are kept."""
_SENDS: Final = frozenset((SEND, STREAM))


class BadCall(Exception):
    """A body that cannot be judged. `code`: of JSON-RPC."""

    def __init__(self, code: int, message: str, identity: jsonrpc.Id | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.identity = identity


@final
@dataclass(frozen=True, slots=True)
class Details:
    """Of one call."""

    method: str
    wire_method: str = ""
    identity: jsonrpc.Id | None = None
    """Of the JSON-RPC request."""
    task_id: str = ""
    context_id: str = ""
    webhooks: tuple[object, ...] = ()
    """Where push notifications are to go, as the client wrote it: text, if it is well formed."""


def of_json(raw: bytes) -> object:
    """A document that every parser reads alike. Raises: BadCall."""
    try:
        # Bounds the nesting, and has the strictest grammar of numbers and text.
        jsonrpc.parse(raw)
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except jsonrpc.JsonRpcError as error:
        raise BadCall(error.code, error.message) from error
    except ValueError as error:
        raise BadCall(jsonrpc.PARSE_ERROR, f"Parse error: {error}"[:_TEXT_MAX]) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def rpc(raw: bytes) -> Details:
    """A JSON-RPC call. Raises: BadCall."""
    document = of_json(raw)
    if not isinstance(document, dict):
        raise BadCall(jsonrpc.INVALID_REQUEST, "Invalid request: batches are not part of A2A")
    if not any(key.lower() == "method" for key in document):
        # Another endpoint of the agent, which takes JSON too.
        return Details("")
    identity = jsonrpc.id_of(document)
    for key in document:
        if key not in _ENVELOPE and key.lower() in _ENVELOPE:
            raise BadCall(jsonrpc.INVALID_REQUEST, f"Invalid request: {key!a}", identity)
    name = document.get("method")
    if document.get("jsonrpc") != "2.0" or not isinstance(name, str):
        raise BadCall(jsonrpc.INVALID_REQUEST, "Invalid request: not a call", identity)
    method = of_rpc(name)[:_TEXT_MAX]
    params = document.get("params")
    if params is not None and not isinstance(params, dict):
        raise BadCall(jsonrpc.INVALID_PARAMS, "Invalid params: not an object", identity)
    task, context = _ids(method, params or {})
    webhooks = tuple(_webhooks(method, params or {}))
    return Details(method, name[:_TEXT_MAX], identity, task, context, webhooks)


def rest(called: Called, raw: bytes) -> Details:
    """A REST call. `raw`: b"" for one without a body. Raises: BadCall."""
    document: object = of_json(raw) if raw.strip() else {}
    if not isinstance(document, dict):
        raise BadCall(jsonrpc.INVALID_REQUEST, "Invalid request: not an object")
    if any(key.lower() == "jsonrpc" for key in document):
        # An agent that takes JSON-RPC at any path would read another method.
        raise BadCall(jsonrpc.INVALID_REQUEST, "Invalid request: JSON-RPC at a path of REST")
    task, context = _ids(called.method, document)
    webhooks = tuple(_webhooks(called.method, document))
    return Details(called.method, "", None, called.task_id or task, context, webhooks)


def looks_like_rpc(raw: bytes) -> bool:
    """Whether an agent that does not ask for a Content-Type could read a call in it."""
    try:
        # Tells UTF-8, UTF-16 and UTF-32 apart by itself.
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return raw.lstrip()[:1] in (b"{", b"[")
    return isinstance(document, dict | list)


# --- JSON ---------------------------------------------------------------------------------------


def _ids(method: str, params: Mapping[str, Any]) -> tuple[str, str]:
    """`(task, context)`."""
    if method in _SENDS:
        # `request` is its name in the protocol buffers of 0.3, from which REST has its form.
        message = params.get("message", params.get("request"))
        if not isinstance(message, dict):
            return "", ""
        return _one(message, "taskId", "task_id"), _one(message, "contextId", "context_id")
    task = _one(params, "taskId", "task_id")
    if not task and method in METHODS and "ushNotification" not in method:
        task = _one(params, "id") or _last_part(_one(params, "name"))
    return task or _task_of(_one(params, "parent")), _one(params, "contextId", "context_id")


def _one(members: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = members.get(name)
        if isinstance(value, str) and value:
            return value[:_TEXT_MAX]
    return ""


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _task_of(name: str) -> str:
    """`7` of `tasks/7/pushNotificationConfigs/1`, as 0.3 names resources."""
    parts = name.split("/")
    return parts[1] if len(parts) > 1 and parts[0] == "tasks" else ""


def _key(name: str) -> str:
    """A member's name as the most lenient reader takes it."""
    return name.replace("_", "").lower()


def _webhooks(method: str, params: Mapping[str, Any]) -> Iterator[object]:
    if method in _SENDS:
        for name, value in params.items():
            if _key(name) == "configuration":
                yield from _urls(value)
    elif method == CREATE_WEBHOOK:
        yield from _urls(params)
    elif method not in METHODS:
        # An older or newer version's method, or an extension's.
        yield from _pushes(params)


def _urls(value: object) -> Iterator[object]:
    """Every member called `url`, at any depth."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            for name, member in one.items():
                if _key(name) == "url":
                    yield member
                else:
                    stack.append(member)
        elif isinstance(one, list):
            stack.extend(one)


def _pushes(value: object) -> Iterator[object]:
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            for name, member in one.items():
                if "pushnotification" in _key(name):
                    yield from _urls(member)
                else:
                    stack.append(member)
        elif isinstance(one, list):
            stack.extend(one)


# --- protocol buffers ---------------------------------------------------------------------------

_MESSAGE: Final = {"1.0": 2, "0.3": 1}
_TASK_FIELD: Final = {
    "GetTask": 2,
    "CancelTask": 2,
    "SubscribeToTask": 2,
    "CreateTaskPushNotificationConfig": 3,
    "GetTaskPushNotificationConfig": 2,
    "DeleteTaskPushNotificationConfig": 2,
    "ListTaskPushNotificationConfigs": 1,
}
"""Of the task's id in the requests of 1.0. In 0.3 field 1 is a resource's name in all of them."""
_SEND_URLS: Final = {"1.0": (3, 2, 4), "0.3": (2, 2, 2)}
_CREATE_URLS: Final = {"1.0": (4,), "0.3": (3, 2, 2)}


def grpc(called: Called, message: bytes) -> Details:
    """A gRPC call of A2AService. Raises: BadCall."""
    try:
        return _grpc(called, message)
    except wire.WireError as error:
        raise BadCall(jsonrpc.INVALID_REQUEST, f"not a message: {error}") from error


def _grpc(called: Called, message: bytes) -> Details:
    method, era = called.method, called.era
    task = context = ""
    urls: list[bytes] = []
    if method in _SENDS:
        at = _MESSAGE[era]
        task, context = wire.text(message, at, 3), wire.text(message, at, 2)
        urls = wire.every(message, *_SEND_URLS[era])
    elif method in _TASK_FIELD:
        if era == "0.3":
            task = _task_of(wire.text(message, 1))
        else:
            task = wire.text(message, _TASK_FIELD[method])
        if method == CREATE_WEBHOOK:
            urls = wire.every(message, *_CREATE_URLS[era])
    elif method == "ListTasks":
        context = wire.text(message, 2)
    webhooks = tuple(url.decode("utf-8", "replace") for url in urls)
    return Details(
        method,
        called.wire_method,
        None,
        task[:_TEXT_MAX],
        context[:_TEXT_MAX],
        webhooks,
    )


def document_of(raw: bytes) -> dict[str, Any] | None:
    """An answer's JSON object, or None: what agents say is passed on, not judged."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
