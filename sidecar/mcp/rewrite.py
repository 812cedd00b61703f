"""Names, URIs and ids in messages: the client's become one server's, and back.

Source: spec/mcp_a2a.md sections 1.4, 2.2, 2.3 and 5.2, row 20; spec/config.md section 6.2.

API, client to server: `named(message)` says what a request names, None for one that is for all;
with the server's own name (`Names`, `Control`) `for_target(…)` makes the message to send;
`answer_for` finds the server of a client's answer, `progress_for` that of its progress;
`listen_parts` and `acknowledged` split and join `subscriptions/listen`.
Server to client: `to_client(names, target, message, method)` for whatever a server says, `method`
that of the request which it answers. Lists are made in `sidecar.mcp.lists`.

Only what changes is copied: a message in which nothing does is returned itself, and none is ever
changed in place. With one server nothing does.

Ids of requests that servers send, and progress tokens in them, become `agw_{target}_n_{number}` or
`agw_{target}_s_{text}`, so that the client's answer finds its way through any worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, final

from sidecar.jsonrpc import INVALID_PARAMS, Id, Json, JsonRpcError, id_of
from sidecar.mcp.content import Rewriting, result_of, with_key, with_meta
from sidecar.mcp.names import Kind, Names

_NAMES: Final[Mapping[str, tuple[Kind, str]]] = {
    "tools/call": ("tool", "name"),
    "prompts/get": ("prompt", "name"),
    "resources/read": ("resource", "uri"),
    "resources/subscribe": ("resource", "uri"),
    "resources/unsubscribe": ("resource", "uri"),
    "tasks/get": ("task", "taskId"),
    "tasks/result": ("task", "taskId"),
    "tasks/update": ("task", "taskId"),
    "tasks/cancel": ("task", "taskId"),
}
_REFERENCES: Final[Mapping[str, tuple[Kind, str]]] = {
    "ref/prompt": ("prompt", "name"),
    "ref/resource": ("template", "uri"),
}
_SERVER_ID: Final = re.compile(r"agw_([^_]+)_(?:n_(-?[0-9]{1,19})|s_(.*))", re.DOTALL)
_SUBSCRIBED: Final[tuple[tuple[str, Kind], ...]] = (
    ("resourceSubscriptions", "resource"),
    ("taskIds", "task"),
)


@final
class Named(NamedTuple):
    """What a request names, in the client's words."""

    kind: Kind
    name: str


def named(message: Json) -> Named | None:
    """What a client's request names; None for a request of another kind.

    Raises: JsonRpcError -32602 when it names nothing.
    """
    method, params = message["method"], message.get("params", {})
    if method == "completion/complete":
        where = params.get("ref")
        kind = where.get("type") if isinstance(where, dict) else None
        place = _REFERENCES.get(kind) if isinstance(kind, str) else None
    else:
        place, where = _NAMES.get(method), params
        if place is None:
            return None
    name = where.get(place[1]) if place is not None else None
    if place is None or not isinstance(name, str):
        key = "ref" if place is None else place[1]
        raise JsonRpcError(INVALID_PARAMS, f"Invalid params: {key}", identity=id_of(message))
    return Named(place[0], name)


def for_target(
    names: Names, message: Json, own_name: str = "", *, arguments: Json | None = None
) -> Json:
    """A client's request or notification as one server gets it.

    `own_name`: of what it names. `arguments`: those to call a tool with; None: as they are.
    """
    params = message.get("params")
    if params is None:
        return message
    told = params
    if message["method"] == "completion/complete":
        place = _REFERENCES[params["ref"]["type"]]
        told = with_key(told, "ref", with_key(params["ref"], place[1], own_name))
    elif (found := _NAMES.get(message["method"])) is not None:
        told = with_key(told, found[1], own_name)
    if arguments is not None:
        told = with_key(told, "arguments", arguments)
    if names.is_several:
        told = with_meta(told, task=lambda task: _own_task(names, task))
    return with_key(message, "params", told)


def server_id(target: str, identity: Id) -> str:
    """The id by which a client knows a server's request."""
    return f"agw_{target}_{'s' if isinstance(identity, str) else 'n'}_{identity}"


def read_server_id(names: Names, identity: object) -> tuple[str, Id] | None:
    """The server and its own id; None for what is no such id."""
    match = _SERVER_ID.fullmatch(identity) if isinstance(identity, str) else None
    if match is None or match[1] not in names.targets:
        return None
    return match[1], int(match[2]) if match[2] is not None else match[3]


def answer_for(names: Names, message: Json) -> tuple[str, Json] | None:
    """The server that a client's result or error answers, and that answer; None: nobody asked."""
    if not names.is_several:
        return names.targets[0], message
    found = read_server_id(names, message.get("id"))
    if found is None:
        return None
    target, identity = found
    told = {**message, "id": identity}
    if isinstance(result := told.get("result"), dict):
        told["result"] = with_meta(result, task=lambda task: _own_task(names, task))
    return target, told


def progress_for(names: Names, message: Json) -> tuple[str, Json] | None:
    """The server whose request a client's `notifications/progress` is about, and that message.

    None when its token is no server's.
    """
    if not names.is_several:
        return names.targets[0], message
    params = message.get("params", {})
    found = read_server_id(names, params.get("progressToken"))
    if found is None:
        return None
    told = {**params, "progressToken": found[1]}
    return found[0], {**message, "params": told}


def listen_parts(names: Names, params: Json) -> dict[str, Json]:
    """`params` of `subscriptions/listen` for each server that has a part in it.

    Lists that change are asked of all; resources and tasks of their own server, those whose name
    does not tell it of all. Raises: JsonRpcError -32602.
    """
    wanted = params.get("notifications")
    if not isinstance(wanted, dict):
        raise JsonRpcError(INVALID_PARAMS, "Invalid params: notifications")
    common = {key: value for key, value in wanted.items() if key not in dict(_SUBSCRIBED)}
    parts: dict[str, Json] = {target: dict(common) for target in names.targets}
    for key, kind in _SUBSCRIBED:
        for name in _texts(wanted.get(key, []), key):
            found = names.to_target(kind, name)
            owners = [found] if found else [(one, name) for one in names.candidates(kind, name)]
            for target, own in owners:
                parts[target].setdefault(key, []).append(own)
    return {
        target: {**params, "notifications": part}
        for target, part in parts.items()
        if any(value is not False for value in part.values()) or not wanted
    }


def acknowledged(names: Names, answers: Iterable[tuple[str, Json]]) -> Json:
    """What all servers together agreed to tell of, as the client named it.

    `answers`: `[(target, notifications)]` of each one's acknowledgement.
    """
    joined: Json = {}
    for target, agreed in answers:
        for key, value in _subscribed(names, target, agreed).items():
            if isinstance(value, list):
                have = joined.setdefault(key, [])
                have += [one for one in value if one not in have]
            elif value:
                joined[key] = value
    return joined


def to_client(names: Names, target: str, message: Json, method: str = "") -> Json:
    """A server's message as the client gets it. `method`: of the request that it answers."""
    if not names.is_several:
        return message
    rewriting = Rewriting(
        uri=lambda uri: names.to_client("resource", target, uri),
        task=lambda task: names.to_client("task", target, task),
    )
    said = message.get("method")
    if said is None:
        return _answer(message, method, rewriting)
    params = message.get("params")
    told = params
    if isinstance(params, dict):
        told = with_meta(params, task=rewriting.task)
        change = _SAID.get(said)
        if change is not None:
            told = change(names, target, told, rewriting)
    if "id" not in message:
        return with_key(message, "params", told) if told is not params else message
    if told is not None:
        told = _with_token(told, target)
    asked = {**message, "id": server_id(target, message["id"])}
    return asked if told is None else {**asked, "params": told}


def _answer(message: Json, method: str, rewriting: Rewriting) -> Json:
    if isinstance(result := message.get("result"), dict):
        return with_key(message, "result", result_of(method, result, rewriting))
    problem = message.get("error")
    data = problem.get("data") if isinstance(problem, dict) else None
    if isinstance(data, dict) and isinstance(uri := data.get("uri"), str):
        # A resource that is not there is named (-32002, up to 2025-11-25).
        told = with_key(data, "uri", rewriting.uri(uri))
        return with_key(message, "error", with_key(message["error"], "data", told))
    return message


def _with_token(params: Json, target: str) -> Json:
    meta = params.get("_meta")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(token, str | int):
        return params
    return {**params, "_meta": {**meta, "progressToken": server_id(target, token)}}


def _own_task(names: Names, task: str) -> str:
    found = names.to_target("task", task)
    return task if found is None else found[1]


def _texts(value: object, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise JsonRpcError(INVALID_PARAMS, f"Invalid params: {key}")
    return value


def _subscribed(names: Names, target: str, agreed: Json) -> Json:
    told = agreed
    for key, kind in _SUBSCRIBED:
        if isinstance(own := agreed.get(key), list):
            client = [
                names.to_client(kind, target, one) if isinstance(one, str) else one for one in own
            ]
            told = with_key(told, key, client)
    return told


_Said = Callable[[Names, str, Json, Rewriting], Json]


def _updated(names: Names, target: str, params: Json, rewriting: Rewriting) -> Json:
    uri = params.get("uri")
    return with_key(params, "uri", rewriting.uri(uri)) if isinstance(uri, str) else params


def _cancelled(names: Names, target: str, params: Json, rewriting: Rewriting) -> Json:
    identity: Any = params.get("requestId")
    if not isinstance(identity, str | int):
        return params
    return {**params, "requestId": server_id(target, identity)}


def _agreed(names: Names, target: str, params: Json, rewriting: Rewriting) -> Json:
    agreed = params.get("notifications")
    if not isinstance(agreed, dict):
        return params
    return with_key(params, "notifications", _subscribed(names, target, agreed))


def _task(names: Names, target: str, params: Json, rewriting: Rewriting) -> Json:
    return result_of("tasks/get", params, rewriting)


def _sampling(names: Names, target: str, params: Json, rewriting: Rewriting) -> Json:
    return rewriting.messages(params)


_SAID: Final[Mapping[str, _Said]] = {
    "notifications/resources/updated": _updated,
    "notifications/cancelled": _cancelled,
    "notifications/subscriptions/acknowledged": _agreed,
    "notifications/tasks/status": _task,
    "notifications/tasks": _task,
    "sampling/createMessage": _sampling,
}
