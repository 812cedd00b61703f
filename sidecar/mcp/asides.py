"""Guards of what is said beside requests and results: questions of servers, and notifications.

Source: MCP 2025-11-25, sampling, elicitation and roots; 2026-07-28, `inputRequests`;
spec/mcp_a2a.md sections 1.3, 1.4 and 2.10; mcp.guards.

A question (`sampling/createMessage` and its like) is shown as a request is, before the client has
it; the client's result as a result, before the server has it. In 2026-07-28 both are parts of
results and requests, and are judged there.

A client's result names nothing but an id, and may come to any worker. So where results are looked
at, the client knows a question by a sealed id which holds the server's own and the method: what
comes without one answers nothing, and cannot pass for the answer to another question.

A question that is refused is answered by the refusal, the client does not hear of it; a refused
notification is left out. Neither has HTTP statuses, nor headers that a guard could change.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final, final

import orjson

from sidecar import jsonrpc
from sidecar.errors import SidecarError
from sidecar.jsonrpc import Id, Json, JsonRpcError
from sidecar.mcp import guards, rewrite
from sidecar.mcp.guards import Guard, misguided
from sidecar.mcp.lanes import Caller, Later
from sidecar.mcp.names import Names
from sidecar.mcp.token import Sealer
from sidecar.mcp.upstream.base import Inbound, Messages, Refused

_log = logging.getLogger("sidecar.mcp.asides")
_PREFIX: Final = "agwq_"
_PURPOSE: Final = b"agentgateway mcp question 1 "
_CANCELLED: Final = "notifications/cancelled"
_ASKED_MAX: Final = 256
"""Questions of one stream whose cancellation is still understood."""
_ANSWERED_BY: Final = (
    ("roots/list", frozenset(("roots",))),
    ("elicitation/create", frozenset(("action",))),
    ("sampling/createMessage", frozenset(("role", "content", "model"))),
)
"""Keys of the results of each: a modern client's answers do not say what they are."""

Tell = Callable[[Json, Caller], Coroutine[Any, Any, None]]


@final
class Asides:
    """Of one backend whose guards look at any of it."""

    __slots__ = ("_guard", "_later", "_names", "_sealer", "_tell")

    def __init__(
        self, guard: Guard, names: Names, sealer: Sealer, tell: Tell, later: Later
    ) -> None:
        """`tell`: sends a server what has no answer, in the client's words."""
        self._guard = guard
        self._names = names
        self._sealer = sealer
        self._tell = tell
        self._later = later

    # --- from servers -----------------------------------------------------------------------

    def watched(self, messages: Messages, caller: Caller) -> Messages:
        """What servers say on one stream as guards let it pass."""
        return _Watched(self, messages, caller)

    async def said(self, message: Json, caller: Caller, asked: OrderedDict[Id, str]) -> Json | None:
        """A question or notification; None when it is not to be passed on. `asked`: the sealed ids
        of the stream's questions."""
        method, identity = message["method"], jsonrpc.id_of(message)
        if identity is None:
            if method == _CANCELLED and asked:
                return _with_asked(message, asked)
            return await self._notice(message, caller)
        if method in self._guard.questions:
            try:
                message, _ = await guards.shown(self._guard, message, self._of(identity), caller)
            except JsonRpcError as error:
                self._answer(jsonrpc.error(identity, error.code, str(error), error.data), caller)
                return None
        if not self._guard.answers or caller.live is None:
            return message
        sealed = self._sealed(method, identity, caller.live.key)
        asked[identity] = sealed
        if len(asked) > _ASKED_MAX:
            asked.popitem(last=False)
        return {**message, "id": sealed}

    async def wanted(self, message: Json, caller: Caller) -> Json:
        """A result that asks the client for more (2026-07-28). Raises: JsonRpcError."""
        given = message["result"].get("inputRequests")
        if not isinstance(given, dict):
            return message
        told = {}
        for key, one in given.items():
            method = one.get("method") if isinstance(one, dict) else None
            if isinstance(method, str) and method in self._guard.questions:
                if not isinstance(one.get("params", {}), dict):
                    raise misguided("a question of the server cannot be read")
                one, _ = await guards.shown(self._guard, one, self._names.targets, caller)
            told[key] = one
        return {**message, "result": {**message["result"], "inputRequests": told}}

    def _answer(self, answer: Json, caller: Caller) -> None:
        """Tell the server, while the stream goes on."""
        if caller.live is None:
            return  # without a session no answer would find its question

        async def tell() -> None:
            try:
                await self._tell(answer, caller)
            except (SidecarError, Refused) as error:
                _log.debug("a server was not told of a refusal: %s", error)

        self._later(tell)

    def _of(self, identity: Id) -> tuple[str, ...]:
        found = rewrite.read_server_id(self._names, identity) if self._names.is_several else None
        return self._names.targets if found is None else (found[0],)

    # --- from clients -----------------------------------------------------------------------

    async def told(self, message: Json, caller: Caller) -> Json | None:
        """A notification or answer of a client; None when it is not to be passed on."""
        if "method" in message:
            return await self._notice(message, caller)
        if not self._guard.answers or caller.live is None:
            return message
        found = self._opened(message.get("id"), caller.live.key)
        if found is None:
            return None
        method, identity = found
        message = {**message, "id": identity}
        if method not in self._guard.answers or "result" not in message:
            return message
        try:
            result = await self._judged(method, message["result"], self._of(identity), caller)
        except JsonRpcError as error:
            return jsonrpc.error(identity, error.code, str(error), error.data)
        return {**message, "result": result}

    async def asked(self, message: Json, caller: Caller) -> Json:
        """A request, with what it answers of earlier questions (2026-07-28). Raises: JsonRpcError.

        By what an answer has, it may be to several kinds: those who are told of any judge it.
        """
        params = message.get("params", {})
        given = params.get("inputResponses")
        if not self._guard.answers or not isinstance(given, dict):
            return message
        told = {}
        for key, one in given.items():
            keys = one.keys() if isinstance(one, dict) else ()
            for method, known in _ANSWERED_BY:
                if method in self._guard.answers and not known.isdisjoint(keys):
                    one = await self._judged(method, one, self._names.targets, caller)
            told[key] = one
        return {**message, "params": {**params, "inputResponses": told}}

    async def _judged(
        self, method: str, result: object, targets: tuple[str, ...], caller: Caller
    ) -> Json:
        """Raises: JsonRpcError."""
        if not isinstance(result, dict):
            raise misguided("the result is not an object")
        return await self._guard.response(method, targets, result, caller.request)

    # --- both -------------------------------------------------------------------------------

    async def _notice(self, message: Json, caller: Caller) -> Json | None:
        if message["method"] not in self._guard.notices:
            return message
        try:
            shown, _ = await guards.shown(self._guard, message, self._names.targets, caller)
        except JsonRpcError:
            return None
        return shown

    def _sealed(self, method: str, identity: Id, session: bytes) -> str:
        plain = orjson.dumps([method, identity])
        return _PREFIX + self._sealer.seal_bytes(plain, _PURPOSE + session)

    def _opened(self, identity: object, session: bytes) -> tuple[str, Id] | None:
        """Method and id of the question that a client answers; None: nobody asked."""
        if not isinstance(identity, str) or not identity.startswith(_PREFIX):
            return None
        text = identity.removeprefix(_PREFIX)
        plain = self._sealer.open_bytes(text, _PURPOSE + session)
        if plain is None:
            return None
        method, own = orjson.loads(plain)
        return method, own


def asides_of(
    guard: Guard | None, names: Names, sealer: Sealer, tell: Tell, later: Later
) -> Asides | None:
    """None where no guard looks at any of it."""
    if guard is None or not (guard.questions or guard.answers or guard.notices):
        return None
    return Asides(guard, names, sealer, tell, later)


def _with_asked(message: Json, asked: OrderedDict[Id, str]) -> Json:
    """A server's cancellation of its question, as the client knows that."""
    params: Json = message.get("params", {})
    own = params.get("requestId")
    sealed = asked.pop(own, None) if isinstance(own, str | int) else None
    return message if sealed is None else {**message, "params": {**params, "requestId": sealed}}


@final
class _Watched:
    """The messages of one stream. See Messages."""

    __slots__ = ("_asides", "_asked", "_caller", "_source", "is_json", "retry_ms")

    def __init__(self, asides: Asides, source: Messages, caller: Caller) -> None:
        self.is_json = source.is_json
        self.retry_ms = source.retry_ms
        self._asides = asides
        self._source = source
        self._caller = caller
        self._asked: OrderedDict[Id, str] = OrderedDict()

    async def next(self) -> Inbound | None:
        """See Messages."""
        while (inbound := await self._source.next()) is not None:
            message = await self._seen(inbound.message)
            if message is inbound.message:
                return inbound
            if message is not None:
                return Inbound(message, inbound.event_id, inbound.retry_ms)
        return None

    async def _seen(self, message: Json) -> Json | None:
        if "method" in message:
            return await self._asides.said(message, self._caller, self._asked)
        result = message.get("result")
        if not isinstance(result, dict) or "inputRequests" not in result:
            return message
        try:
            return await self._asides.wanted(message, self._caller)
        except JsonRpcError as error:
            return jsonrpc.error(jsonrpc.id_of(message), error.code, str(error), error.data)

    def close(self) -> None:
        """See Messages."""
        self._source.close()
