"""Messages of one era of MCP in the words of the other. No I/O.

Source: MCP 2025-11-25 and 2026-07-28; spec/mcp_a2a.md sections 1.3, 1.4 and 5.2 row 11.

Nothing given is changed in place. Legacy is 2025-11-25 here: what older versions do not know they
ignore.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from sidecar import jsonrpc
from sidecar.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Id, Json, JsonRpcError
from sidecar.mcp import era
from sidecar.mcp.merge import SERVER_INFO

LEVEL_META: Final = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
INPUT: Final = "input_required"
LEVELS: Final = (
    *("debug", "info", "notice", "warning"),
    *("error", "critical", "alert", "emergency"),
)
ASKING: Final[Mapping[str, str]] = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""What a server asks of a client, and the capability that allows it."""

_MODERN_META: Final = (era.VERSION_META, era.CAPABILITIES_META, era.CLIENT_META, LEVEL_META)
_MODERN_PARAMS: Final = ("inputResponses", "requestState")
_TASK: Final = "task"
"""In `params` of 2025-11-25: the call is to be a task. As a `resultType` of 2026-07-28: it is one.
Whether a call becomes a task the client says there, and the server here, so neither is the other.
"""
_MODERN_RESULT: Final = ("resultType", "ttlMs", "cacheScope")
_URL_NEEDED: Final = -32042
_NO_RESOURCE: Final = -32002
_MODERN_CODES: Final = (era.HEADER_MISMATCH, era.CAPABILITY_MISSING, era.UNSUPPORTED_VERSION)
_CACHED: Final = frozenset(
    (
        *("server/discover", "tools/list", "prompts/list", "resources/list"),
        *("resources/templates/list", "resources/read"),
    )
)


# --- a modern client's words for a legacy server ------------------------------------------------


def capabilities_of(meta: Mapping[str, Any]) -> Json:
    """What a legacy server may ask of a modern client."""
    given = meta.get(era.CAPABILITIES_META)
    if not isinstance(given, dict):
        return {}
    return {name: given[name] for name in ASKING.values() if isinstance(given.get(name), dict)}


def greeting_params(meta: Mapping[str, Any], capabilities: Json, own: Json) -> Json:
    """`params` of an `initialize` in the client's name; `own`: who asks when it does not say."""
    client = meta.get(era.CLIENT_META)
    return {
        "protocolVersion": era.LEGACY[0],
        "capabilities": capabilities,
        "clientInfo": client if isinstance(client, dict) else own,
    }


def legacy_params(params: Json, token: Id | None) -> Json:
    """A modern request's `params`. `token`: its progress token from now on."""
    told = {key: value for key, value in params.items() if key not in (*_MODERN_PARAMS, _TASK)}
    meta = {key: one for key, one in params.get("_meta", {}).items() if key not in _MODERN_META}
    if token is not None and "progressToken" in meta:
        meta["progressToken"] = token
    if meta:
        told["_meta"] = meta
    else:
        told.pop("_meta", None)
    return told


def complete(method: str, result: Json, server_info: object) -> Json:
    """A legacy server's result for a modern client. Nobody may keep it: it is one session's."""
    told = {"resultType": "complete", **result}
    if method == "tools/list" and isinstance(told.get("tools"), list):
        told["tools"] = [tool for tool in map(_without_task, told["tools"]) if tool is not None]
    if method in _CACHED:
        told |= {"ttlMs": 0, "cacheScope": "private"}
    if isinstance(server_info, dict):
        told["_meta"] = {SERVER_INFO: server_info, **(told.get("_meta") or {})}
    return told


def _without_task(tool: object) -> object:
    """A tool of 2025-11-25 as the modern era has it; None for one that is only called as a task."""
    if not isinstance(tool, dict) or "execution" not in tool:
        return tool
    execution = tool["execution"]
    if isinstance(execution, dict) and execution.get("taskSupport") == "required":
        return None
    return {key: one for key, one in tool.items() if key != "execution"}


def no_tasks(method: str, known: str) -> JsonRpcError:
    """For a request about tasks at a server of the other era. `known`: the version it speaks."""
    other = era.LEGACY[0] if known == era.MODERN else era.MODERN
    text = f"Method not found: {method}: the server speaks {known}, whose tasks are not {other}'s"
    return JsonRpcError(METHOD_NOT_FOUND, text, status=404)


def of_call(error: Json, greeting: Json) -> Json:
    """A legacy server's error at the call of a tool, to a modern client."""
    offered = greeting.get("capabilities")
    has_tasks = isinstance(offered, dict) and "tasks" in offered
    if error.get("code") != METHOD_NOT_FOUND or not has_tasks:
        return modern_error(error)
    text = f"the tool may be one that is only called as a task of {era.LEGACY[0]}"
    return {**error, "message": f"{error.get('message') or 'Method not found'} ({text})"}


def discovered(greeting: Json) -> Json:
    """The result of `server/discover` of a server that knows `initialize` only."""
    offered = greeting.get("capabilities")
    offered = dict(offered) if isinstance(offered, dict) else {}
    # Tasks of the legacy era are others than those of the modern one's extension.
    offered.pop("tasks", None)
    result: Json = {"supportedVersions": [era.MODERN], "capabilities": offered}
    if isinstance(greeting.get("instructions"), str):
        result["instructions"] = greeting["instructions"]
    return complete("server/discover", result, greeting.get("serverInfo"))


def modern_error(error: Json) -> Json:
    """An error object without codes that the modern era has given up."""
    if error.get("code") in (_NO_RESOURCE, _URL_NEEDED):
        return {**error, "code": INVALID_PARAMS}
    return error


def wanted_urls(error: object) -> Json:
    """The questions in a legacy refusal that asks the user to visit URLs first; empty in others."""
    if not isinstance(error, dict) or error.get("code") != _URL_NEEDED:
        return {}
    data = error.get("data")
    listed = data.get("elicitations") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        return {}
    return {
        str(number): {
            "method": "elicitation/create",
            "params": {key: value for key, value in one.items() if key != "elicitationId"},
        }
        for number, one in enumerate(listed, 1)
        if isinstance(one, dict)
    }


def input_required(questions: Json, state: str) -> Json:
    """The result that asks the client."""
    return {"resultType": INPUT, "inputRequests": questions, "requestState": state}


def digest(message: Json) -> bytes:
    """Of what a request asks for, which a retry must ask for as well."""
    params = message.get("params") or {}
    told = {key: one for key, one in params.items() if key not in ("_meta", *_MODERN_PARAMS)}
    raw = orjson.dumps([message["method"], told], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(raw, digest_size=16).digest()


def is_loud(level: object, wanted: object) -> bool:
    """Whether a log line of this level is for a client that wants those from `wanted` on."""
    if wanted not in LEVELS:
        return False
    return level not in LEVELS or LEVELS.index(level) >= LEVELS.index(wanted)


# --- a legacy client's words for a modern server ------------------------------------------------


def modern_params(params: Json | None, client: Json | None, level: str, own: Json) -> Json:
    """`params` of a modern request. `client`: of its `initialize`; `level`: of `logging/setLevel`,
    "" for no log lines; `own`: who asks when the client did not say."""
    params = {key: one for key, one in (params or {}).items() if key != _TASK}
    client = client or {}
    given = client.get("capabilities")
    told = given if isinstance(given, dict) else {}
    info = client.get("clientInfo")
    meta = {
        **(params.get("_meta") or {}),
        era.VERSION_META: era.MODERN,
        era.CAPABILITIES_META: {key: one for key, one in told.items() if key != "tasks"},
        era.CLIENT_META: info if isinstance(info, dict) else own,
    }
    if level:
        meta[LEVEL_META] = level
    return {**params, "_meta": meta}


def greeted(name: str, found: Json, asked: object) -> Json:
    """The result of `initialize` of a server that knows `server/discover` only."""
    meta = found.get("_meta")
    info = meta.get(SERVER_INFO) if isinstance(meta, dict) else None
    offered = found.get("capabilities")
    offered = offered if isinstance(offered, dict) else {}
    result: Json = {
        "protocolVersion": era.negotiated(asked),
        "capabilities": {key: one for key, one in offered.items() if key != "extensions"},
        "serverInfo": info if isinstance(info, dict) else {"name": name, "version": ""},
    }
    if isinstance(found.get("instructions"), str):
        result["instructions"] = found["instructions"]
    return result


def plain(result: Json) -> Json:
    """A modern server's result for a legacy client."""
    if not any(key in result for key in _MODERN_RESULT):
        return result
    return {key: value for key, value in result.items() if key not in _MODERN_RESULT}


def is_task(result: Json) -> bool:
    """Whether a modern server's result is a task, which no legacy client can follow."""
    return result.get("resultType") == _TASK


def without_tag(message: Json) -> Json:
    """A notification of a subscription as one of a session's stream."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    if not isinstance(params, dict) or not isinstance(meta, dict) or SUBSCRIPTION not in meta:
        return message
    kept = {key: value for key, value in meta.items() if key != SUBSCRIPTION}
    told = {key: value for key, value in params.items() if key != "_meta"}
    return {**message, "params": {**told, "_meta": kept} if kept else told}


# --- which era a server speaks ------------------------------------------------------------------


def is_modern_error(error: object) -> bool:
    """Whether only a server of the modern era says so."""
    return isinstance(error, dict) and error.get("code") in _MODERN_CODES


def lacks_initialize(error: object) -> bool:
    """Whether an answer to `initialize` may come from a server that does not know it."""
    if not isinstance(error, dict):
        return False
    code = error.get("code")
    return code in (METHOD_NOT_FOUND, INVALID_PARAMS, jsonrpc.INVALID_REQUEST, *_MODERN_CODES)


def knows_modern(found: Json) -> bool:
    """Whether an answer to `server/discover` is of a server that speaks 2026-07-28."""
    result, error = found.get("result"), found.get("error")
    if isinstance(result, dict):
        versions = result.get("supportedVersions")
        return isinstance(versions, list) and era.MODERN in versions
    if not isinstance(error, dict) or not is_modern_error(error):
        return False
    data = error.get("data")
    supported = data.get("supported") if isinstance(data, dict) else None
    return not isinstance(supported, list) or era.MODERN in supported


def error_in(raw: bytes) -> Json | None:
    """The error object in the body of a refusal; None when there is none."""
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    error = message.get("error") if isinstance(message, dict) else None
    return error if isinstance(error, dict) else None
