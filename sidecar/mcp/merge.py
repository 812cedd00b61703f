"""What several servers say of themselves, told as one server.

Source: MCP 2025-11-25 Lifecycle and 2026-07-28 server/discover; spec/mcp_a2a.md sections 1.4
and 2.3; section 5.2, rows 9 and 10.

API: `initialize(answers, server_info, …)`, `discover(answers, server_info, …)` and
`capabilities(answers, …)`. `answers`: `[(target, result)]` in the order of the configuration, of
the servers that answered. With one server there is nothing to merge: its answer is passed on as
it is. Lists are merged in `sidecar.mcp.lists`.

Capabilities are promises, so they are those that are kept: what some server offers is offered,
and nothing that none does. Logging, completions, and what servers ask of clients are relayed,
unlike in the reference; therefore the client's own capabilities go to each server unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sidecar.errors import UpstreamError
from sidecar.jsonrpc import METHOD_NOT_FOUND, Json, JsonRpcError

Answers = Sequence[tuple[str, Json]]

SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"

_LISTS: Final = ("tools", "prompts", "resources")
_OPEN_MAPS: Final = ("extensions", "experimental")

_PREAMBLE: Final = "This server gathers several MCP servers."
_PREFIXED: Final = (
    " The name of each tool and prompt begins with the name of its server and `_`,"
    " and the URI of each resource with the name of its server and `+`."
)
_BLOCKS: Final = " What the servers say of themselves follows under their names."


def initialize(
    answers: Answers, server_info: Json, *, is_stateful: bool, has_prefixes: bool
) -> Json:
    """The result of `initialize`: the lowest version that was answered, for all can speak it.

    `is_stateful`: whether the client gets a session, so that a subscription outlives its request.
    Raises: UpstreamError for an answer without a version.
    """
    merged: Json = {
        "protocolVersion": min(_version(target, result) for target, result in answers),
        "capabilities": capabilities(answers, can_subscribe=is_stateful),
        "serverInfo": server_info,
    }
    _put_instructions(merged, answers, has_prefixes=has_prefixes)
    return merged


def discover(answers: Answers, server_info: Json, *, has_prefixes: bool) -> Json:
    """The result of `server/discover`: the versions that all support, in the first one's order.

    Raises: JsonRpcError -32601 with status 404 when they have no version in common, at which a
    client falls back to `initialize`; UpstreamError for an answer without versions.
    """
    common, *others = [_versions(target, result) for target, result in answers]
    versions = [version for version in common if all(version in other for other in others)]
    if not versions:
        raise JsonRpcError(METHOD_NOT_FOUND, "Method not found: server/discover", status=404)
    merged: Json = {
        "resultType": "complete",
        "supportedVersions": versions,
        "capabilities": capabilities(answers, can_subscribe=True),
        **cache_hints(result for _, result in answers),
        "_meta": {SERVER_INFO: server_info},
    }
    _put_instructions(merged, answers, has_prefixes=has_prefixes)
    return merged


def capabilities(answers: Answers, *, can_subscribe: bool) -> Json:
    """The union of what the servers can do, as far as a client gets it through the gateway."""
    every = [
        given for _, result in answers if isinstance(given := result.get("capabilities"), dict)
    ]
    merged: Json = {}
    for key in ("logging", "completions"):
        if any(isinstance(given.get(key), dict) for given in every):
            merged[key] = {}
    for key in _LISTS:
        given = [one for each in every if isinstance(one := each.get(key), dict)]
        if given:
            flags = ("listChanged", "subscribe") if key == "resources" else ("listChanged",)
            merged[key] = {
                flag: True
                for flag in flags
                if any(one.get(flag) is True for one in given)
                and (can_subscribe or flag != "subscribe")
            }
    tasks = [one for each in every if isinstance(one := each.get("tasks"), dict)]
    if tasks:
        merged["tasks"] = _union(tasks)
    for key in _OPEN_MAPS:
        maps = [one for each in every if isinstance(one := each.get(key), dict)]
        if maps:
            merged[key] = _agreed(maps)
    return merged


def cache_hints(results: Iterable[Mapping[str, object]], *, is_filtered: bool = False) -> Json:
    """`ttlMs` and `cacheScope` of a result made of these: the shortest time, the narrowest scope.

    A server that gave no hint allows no caching. `is_filtered`: a policy left something out for
    this client, which must not be kept for another one.
    """
    ttl_ms: int | None = None
    is_public = not is_filtered
    for result in results:
        own = result.get("ttlMs")
        if not isinstance(own, int) or isinstance(own, bool) or own < 0:
            own = 0
        ttl_ms = own if ttl_ms is None else min(ttl_ms, own)
        is_public = is_public and result.get("cacheScope") == "public"
    if ttl_ms is None or not is_public:
        return {"ttlMs": ttl_ms or 0, "cacheScope": "private"}
    return {"ttlMs": ttl_ms, "cacheScope": "public"}


def _version(target: str, result: Json) -> str:
    version = result.get("protocolVersion")
    if not isinstance(version, str):
        raise UpstreamError(502, "mcp_initialize", f"{target}: initialize without a version")
    return version


def _versions(target: str, result: Json) -> list[str]:
    versions = result.get("supportedVersions")
    if not isinstance(versions, list):
        raise UpstreamError(502, "mcp_discover", f"{target}: discover without supportedVersions")
    return [version for version in versions if isinstance(version, str)]


def _put_instructions(merged: Json, answers: Answers, *, has_prefixes: bool) -> None:
    blocks = [
        f"[{target}]\n{text}"
        for target, result in answers
        if isinstance(text := result.get("instructions"), str) and text
    ]
    preamble = _PREAMBLE + (_PREFIXED if has_prefixes else "") + (_BLOCKS if blocks else "")
    merged["instructions"] = "\n\n".join((preamble, *blocks))


def _union(maps: Sequence[Json]) -> Json:
    """Every key of every map, below as above: which method takes which task is said by depth."""
    merged: Json = {}
    for each in maps:
        for key, value in each.items():
            below = merged.setdefault(key, value)
            if below is not value and isinstance(below, dict) and isinstance(value, dict):
                merged[key] = _union((below, value))
    return merged


def _agreed(maps: Sequence[Json]) -> Json:
    """Every key; its settings where all that have it agree, else none."""
    merged: Json = {}
    for each in maps:
        for key, value in each.items():
            merged[key] = value if merged.get(key, value) == value else {}
    return merged
