"""A legacy client at a modern server: what its session says is told in every request.

Source: spec/mcp_a2a.md sections 1.3, 1.4 and 5.2 row 11.

A modern server has no sessions, so the client's own lives here, in the worker that owns it: the
level of its log lines, the resources it wants to be told of, calls under way that it may cancel,
and questions it has not answered. When that worker dies these are lost, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, final

from sidecar import jsonrpc
from sidecar.http.headers import Headers
from sidecar.jsonrpc import INVALID_PARAMS, Id, Json
from sidecar.mcp import era, mirrored
from sidecar.mcp.bridge import words
from sidecar.mcp.bridge.state import URIS_MAX, BridgeState, Client
from sidecar.mcp.bridge.up_call import Call, Listening
from sidecar.mcp.lanes import own_info
from sidecar.mcp.streams import Ready
from sidecar.mcp.upstream.base import Answered, Held, Inbound, Messages, Outbound, Refused, Target

_PAGES_MAX: Final = 64
_LEVEL: Final = "logging/setLevel"
_SUBSCRIBE: Final = "resources/subscribe"
_UNSUBSCRIBE: Final = "resources/unsubscribe"
_CANCELLED: Final = "notifications/cancelled"
_TOOLS_MAX: Final = 4096


@final
class Up:
    """One server, for legacy clients."""

    __slots__ = ("_inner", "_mirrored", "_state", "name")

    def __init__(self, inner: Target, state: BridgeState) -> None:
        self.name = inner.name
        self._inner = inner
        self._state = state
        self._mirrored: dict[str, Mapping[str, tuple[str, ...]]] = {}
        """Of tools whose arguments the server wants repeated in headers (see mcp.mirrored)."""

    # --- requests -------------------------------------------------------------------------

    async def greeted(self, outbound: Outbound) -> Answered:
        """The answer to `initialize`, from `server/discover`. Raises: UpstreamError, Refused."""
        message = outbound.message
        asked = {"jsonrpc": "2.0", "id": self._state.number(), "method": "server/discover"}
        client = message.get("params") or {}
        sent = replace(outbound, message=asked, client=client)
        found = await whole((await self._sent(sent, "")).messages)
        result = found.get("result")
        if not isinstance(result, dict):
            error = found.get("error") or {"code": jsonrpc.INTERNAL_ERROR, "message": "no answer"}
            answer = {"jsonrpc": "2.0", "id": message["id"], "error": error}
            return Answered(Ready.of(answer), Held())
        told = words.greeted(self.name, result, client.get("protocolVersion"))
        answer = jsonrpc.result(message["id"], told)
        return Answered(Ready.of(answer), Held("", era.MODERN))

    async def request(self, outbound: Outbound) -> Answered:
        """Serve a request of a session. Raises: UpstreamError, Refused."""
        message = outbound.message
        method, identity = message["method"], message["id"]
        if method == "initialize":
            return await self.greeted(outbound)
        client = self._state.client(outbound.scope.key)
        here = self._answered_here(method, message.get("params") or {}, client)
        if here is not None:
            return Answered(Ready.of({"jsonrpc": "2.0", "id": identity, **here}), outbound.held)
        is_task = method.startswith("tasks/")
        if is_task or method not in era.MODERN_METHODS:
            problem = words.no_tasks(method, era.MODERN) if is_task else era.unknown_method(method)
            error = jsonrpc.error(identity, problem.code, str(problem))
            return Answered(Ready.of(error), outbound.held)
        call = Call(self, outbound, client)
        client.calls[type(identity), identity] = call
        try:
            await call.begin()
        except BaseException:
            call.close()
            raise
        return Answered(call, outbound.held)

    @staticmethod
    def _answered_here(method: str, params: Json, client: Client) -> Json | None:
        """The result or error of what only a session has; None for the rest."""
        if method == "ping":
            return {"result": {}}
        uri = params.get("uri")
        if method == _LEVEL:
            level = params.get("level")
            if level not in words.LEVELS:
                return _invalid("level")
            client.level = level
        elif method == _SUBSCRIBE:
            if not isinstance(uri, str) or len(client.uris) >= URIS_MAX:
                return _invalid("uri")
            client.uris[uri] = None
            client.changed.set()
        elif method == _UNSUBSCRIBE:
            if isinstance(uri, str) and uri in client.uris:
                del client.uris[uri]
                client.changed.set()
        else:
            return None
        return {"result": {}}

    async def ask(
        self, outbound: Outbound, params: Json, client: Client, *, may_learn: bool = True
    ) -> Messages:
        """Send a request of the client's, as the modern era has it. Raises: UpstreamError, Refused.

        `params`: the client's, with what it answered meanwhile. `may_learn`: whether the server may
        be asked which arguments it wants repeated.
        """
        message = {**outbound.message, "id": self._state.number(), "params": params}
        sent = replace(outbound, message=message)
        name = params.get("name") if message["method"] == "tools/call" else None
        wanted = self._mirrored.get(name) if isinstance(name, str) else None
        if wanted is not None:
            sent = replace(sent, headers=_repeated(sent, wanted))
        try:
            messages = (await self._sent(sent, client.level)).messages
        except Refused as error:
            found = words.error_in(error.body)
            is_mismatch = found is not None and found.get("code") == era.HEADER_MISMATCH
            if not is_mismatch or not isinstance(name, str) or not may_learn:
                return _as_answer(error, found, message["id"])
            # Not known yet, or another than it was.
            self._mirrored.pop(name, None)
            learnt = await self._learnt(outbound, name)
            if learnt == wanted:
                return _as_answer(error, found, message["id"])
            return await self.ask(outbound, params, client, may_learn=False)
        return messages

    async def _sent(self, outbound: Outbound, level: str) -> Answered:
        message = outbound.message
        params = words.modern_params(message.get("params"), outbound.client, level, own_info())
        return await self._inner.request(
            replace(
                outbound,
                message={**message, "params": params},
                era="modern",
                version=era.MODERN,
                held=Held(),
                is_polled=False,
            )
        )

    async def _learnt(self, outbound: Outbound, name: str) -> Mapping[str, tuple[str, ...]] | None:
        """Which arguments of a tool are repeated in headers; None when it has none such."""
        cursor: object = ""
        for _ in range(_PAGES_MAX):
            asked: Json = {
                "jsonrpc": "2.0",
                "id": self._state.number(),
                "method": "tools/list",
                "params": {"cursor": cursor} if cursor else {},
            }
            sent = await self._sent(replace(outbound, message=asked), "")
            result = (await whole(sent.messages)).get("result") or {}
            for tool in result.get("tools") or ():
                self._learn(tool)
            cursor = result.get("nextCursor")
            if name in self._mirrored or not isinstance(cursor, str) or not cursor:
                break
        return self._mirrored.get(name)

    def _learn(self, tool: object) -> None:
        if not isinstance(tool, dict) or len(self._mirrored) >= _TOOLS_MAX:
            return
        try:
            wanted = mirrored.header_arguments(tool.get("inputSchema"))
        except ValueError:
            # Such a tool is invalid: the server is to say so.
            return
        if wanted:
            self._mirrored[str(tool.get("name"))] = wanted

    # --- the rest -------------------------------------------------------------------------

    async def send(self, outbound: Outbound) -> None:
        """A notification, or the client's answer to a question. Modern servers take neither."""
        message = outbound.message
        client = self._state.client(outbound.scope.key)
        method = message.get("method")
        if method is None:
            waiting = client.asked.pop(str(message.get("id")), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif method == _CANCELLED:
            identity = (message.get("params") or {}).get("requestId")
            if isinstance(identity, str | int):
                call = client.calls.get((type(identity), identity))
                if call is not None:
                    call.close()

    async def listen(self, outbound: Outbound) -> Messages | None:
        """The stream of a session; None when the server has nothing to tell of.

        Raises: UpstreamError, Refused.
        """
        client = self._state.client(outbound.scope.key)
        listening = Listening(self, outbound, client)
        return listening if await listening.begin() else None

    async def subscribed(self, outbound: Outbound, client: Client) -> Messages | None:
        """A subscription to all that the client wants to hear of. Raises: UpstreamError."""
        client.changed.clear()
        wanted: Json = {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourcesListChanged": True,
        }
        if client.uris:
            wanted["resourceSubscriptions"] = list(client.uris)
        message = {
            "jsonrpc": "2.0",
            "id": self._state.number(),
            "method": "subscriptions/listen",
            "params": {"notifications": wanted},
        }
        try:
            messages = (await self._sent(replace(outbound, message=message), "")).messages
        except Refused:
            return None
        first = await messages.next()
        if first is None or first.message.get("method") != words.ACKNOWLEDGED:
            messages.close()
            return None
        return messages

    def end(self, outbound: Outbound) -> None:
        """The session is over."""
        self._state.forget_client(outbound.scope.key)


async def whole(messages: Messages) -> Json:
    """The last message, which is the answer; {} when there is none. Raises: UpstreamError."""
    found: Json = {}
    try:
        while (inbound := await messages.next()) is not None:
            found = inbound.message
    finally:
        messages.close()
    return found


def _repeated(outbound: Outbound, wanted: Mapping[str, tuple[str, ...]]) -> Headers:
    params = outbound.message.get("params") or {}
    arguments = params.get("arguments")
    given = arguments if isinstance(arguments, dict) else {}
    return mirrored.mirrored_params(outbound.headers, given, wanted)


def _as_answer(refused: Refused, error: Json | None, identity: Id) -> Messages:
    """A refusal with a JSON-RPC error is the answer. Raises: Refused for another one."""
    if error is None or refused.status in (401, 403):
        raise refused
    return Ready((Inbound({"jsonrpc": "2.0", "id": identity, "error": error}),))


def _invalid(what: str) -> Json:
    return {"error": {"code": INVALID_PARAMS, "message": f"Invalid params: {what}"}}
