"""A modern client at a legacy server: sessions held for it, questions carried back to it.

Source: spec/mcp_a2a.md sections 1.3, 1.4 and 5.2 row 11.

What the server asks of the client in a call (`elicitation/create` and its like) ends the client's
request with `input_required`; the call itself waits here, open. The client's next request names it
in its `requestState`, which is sealed, tells which worker has the call, and is worth nothing to
another principal. A server that may ask has one call of a session at a time, so that it is certain
of whom it asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import replace
from functools import partial
from typing import Final, final

import orjson

from sidecar import jsonrpc
from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.jsonrpc import INVALID_PARAMS, Id, Json, JsonRpcError
from sidecar.mcp import era
from sidecar.mcp.bridge import words
from sidecar.mcp.bridge.down_leg import Leg
from sidecar.mcp.bridge.down_listen import listened
from sidecar.mcp.bridge.state import (
    IDLE_SECONDS,
    SESSIONS_MAX,
    BridgeState,
    Ender,
    Parked,
    Session,
)
from sidecar.mcp.lanes import own_info
from sidecar.mcp.mirrored import PARAM
from sidecar.mcp.streams import Ready
from sidecar.mcp.upstream.base import Answered, Held, Messages, Outbound, Refused, Scope, Target

PURPOSE: Final = b"agentgateway mcp parked 1"
_SECOND_NS: Final = 1_000_000_000
_INITIALIZED: Final[Json] = {"jsonrpc": "2.0", "method": "notifications/initialized"}
_TASKS: Final = "tasks/"
_TRIES: Final = 2


@final
class Down:
    """One server, for modern clients."""

    __slots__ = ("_inner", "_key", "_state")

    def __init__(self, inner: Target, key: str, state: BridgeState) -> None:
        """`key`: names the server in what is sealed."""
        self._inner = inner
        self._key = key
        self._state = state

    async def request(self, outbound: Outbound) -> Answered:
        """Serve a request. Raises: UpstreamError, Refused."""
        message = outbound.message
        method, params = message["method"], message.get("params") or {}
        if method.startswith(_TASKS):
            raise refusal(words.no_tasks(method, era.LEGACY[0]), message)
        given = params.get("requestState")
        if given is not None:
            waiting = self._waiting(outbound, given)
            if waiting is not None:
                return Answered(waiting, Held())
        capabilities = words.capabilities_of(params.get("_meta") or {})
        for left in reversed(range(_TRIES)):
            is_alone = bool(capabilities) or method == "subscriptions/listen"
            session = await self._session(outbound, capabilities, is_alone=is_alone)
            try:
                return Answered(await self._asked(outbound, session), Held())
            except Refused as error:
                self.leave(session, is_lost=error.status == 404)
                # It forgot the session that it gave; so nothing was done yet.
                if error.status != 404 or not left:
                    raise
            except BaseException:
                self.leave(session)
                raise
        raise AssertionError("unreachable: the last try returns or raises")

    async def _asked(self, outbound: Outbound, session: Session) -> Messages:
        message = outbound.message
        method, identity = message["method"], message["id"]
        info = session.greeting.get("serverInfo")
        if method == "server/discover":
            self.leave(session)
            return Ready.of(jsonrpc.result(identity, words.discovered(session.greeting)))
        if method == "subscriptions/listen":
            return await listened(self._inner, self, outbound, session)
        params = message.get("params") or {}
        meta = params.get("_meta") or {}
        await self._set_level(outbound, session, meta.get(words.LEVEL_META))
        wire = self._state.number()
        sent = {
            "jsonrpc": "2.0",
            "id": wire,
            "method": method,
            "params": words.legacy_params(params, wire),
        }
        answered = await self._inner.request(self.outbound(outbound, session, sent))
        return Leg(self, outbound, session, wire, answered.messages, info)

    async def _set_level(self, outbound: Outbound, session: Session, level: object) -> None:
        """Let the server say what the client wants to hear; what it says more is left out."""
        offered = session.greeting.get("capabilities") or {}
        if level not in words.LEVELS or level == session.level or "logging" not in offered:
            return
        if session.level and words.is_loud(level, session.level):
            return
        asked = {
            "jsonrpc": "2.0",
            "id": self._state.number(),
            "method": "logging/setLevel",
            "params": {"level": level},
        }
        answered = await self._inner.request(self.outbound(outbound, session, asked))
        try:
            while await answered.messages.next() is not None:
                continue
        finally:
            answered.messages.close()
        session.level = str(level)

    def number(self) -> str:
        """The id of a request of the gateway's own."""
        return self._state.number()

    def outbound(self, outbound: Outbound, session: Session, message: Json) -> Outbound:
        """A message of a session, in the name of who asks."""
        headers = Headers([one for one in outbound.headers if not one[0].startswith(PARAM)])
        return replace(
            outbound,
            message=message,
            era="legacy",
            version=session.held.version,
            headers=headers,
            scope=session.scope,
            held=session.held,
            is_polled=False,
        )

    async def send(self, outbound: Outbound, session: Session, message: Json) -> None:
        """Tell the server something that has no answer. Raises: UpstreamError, Refused."""
        await self._inner.send(self.outbound(outbound, session, message))

    def tell(self, outbound: Outbound, session: Session, message: Json) -> None:
        """The same, in the background: whether it is heard changes nothing."""

        async def tell() -> None:
            try:
                await self.send(outbound, session, message)
            except Refused:
                session.is_lost = True

        self._state.later(tell)

    # --- sessions -------------------------------------------------------------------------

    async def _session(self, outbound: Outbound, capabilities: Json, *, is_alone: bool) -> Session:
        """One that is free, or a new one. Raises: UpstreamError, Refused."""
        state = self._state
        principal = outbound.scope.key
        raw = orjson.dumps([capabilities, is_alone], option=orjson.OPT_SORT_KEYS)
        key = (principal, hashlib.blake2b(raw, digest_size=16).digest())
        now = state.clock.monotonic_ns()
        self.sweep(now)
        for session in state.sessions.get(key, ()):
            if not session.is_lost and not (is_alone and session.users):
                session.users += 1
                return session
        if not state.has_room():
            text = f"MCP target {self._inner.name} has {SESSIONS_MAX} sessions of modern clients"
            raise UpstreamError(503, "UpstreamFailure", text, sent=False)
        scope_key = os.urandom(16) if is_alone else key[0]
        scope = Scope("session" if is_alone else "principal", scope_key, state.worker)
        state.opening += 1
        try:
            session = await self._opened(outbound, capabilities, scope, is_alone=is_alone)
        finally:
            state.opening -= 1
        session.users = 1
        state.sessions.setdefault(key, []).append(session)
        return session

    async def _opened(
        self, outbound: Outbound, capabilities: Json, scope: Scope, *, is_alone: bool
    ) -> Session:
        params = outbound.message.get("params") or {}
        asked = {
            "jsonrpc": "2.0",
            "id": self._state.number(),
            "method": "initialize",
            "params": words.greeting_params(params.get("_meta") or {}, capabilities, own_info()),
        }
        session = Session(scope, Held(), {}, is_alone, used_ns=self._state.clock.monotonic_ns())
        first = replace(self.outbound(outbound, session, asked), version="")
        opening = asyncio.get_running_loop().create_task(self._greet(first, session))
        try:
            await asyncio.shield(opening)
            await self.send(outbound, session, dict(_INITIALIZED))
        except BaseException:
            # Also when the client has left: the server may have begun the session all the same.
            if not self._state.later(partial(self._left, outbound, session, opening)):
                opening.cancel()
            raise
        session.end = self._ender(outbound, session)
        return session

    async def _left(
        self, outbound: Outbound, session: Session, opening: asyncio.Task[None]
    ) -> None:
        """End what nobody will use: a process or a stream at once, else when its id is known."""
        if session.is_alone:
            await self._ender(outbound, session)()
        try:
            await opening
        except Refused:
            return
        await self._ender(outbound, session)()

    async def _greet(self, first: Outbound, session: Session) -> None:
        """Raises: UpstreamError, Refused."""
        answered = await self._inner.request(first)
        found: Json = {}
        try:
            while (inbound := await answered.messages.next()) is not None:
                found = inbound.message
        finally:
            answered.messages.close()
        result = found.get("result")
        if not isinstance(result, dict):
            text = f"MCP target {self._inner.name} refused to initialize"
            raise UpstreamError(502, "UpstreamFailure", text)
        session.held, session.greeting = answered.held, result

    def _ender(self, outbound: Outbound, session: Session) -> Ender:
        last = self.outbound(outbound, session, {})

        async def end() -> None:
            await self._inner.end(last)

        return end

    def leave(self, session: Session, *, is_lost: bool = False) -> None:
        """A call has ended. `is_lost`: the session is of no more use."""
        session.users = max(session.users - 1, 0)
        session.used_ns = self._state.clock.monotonic_ns()
        session.is_lost = session.is_lost or is_lost
        if session.is_lost:
            self._state.drop(session)

    def sweep(self, now: int) -> None:
        """End what nobody has used for long."""
        self._state.sweep(now - IDLE_SECONDS * _SECOND_NS)

    # --- calls that wait ------------------------------------------------------------------

    def park(
        self, outbound: Outbound, session: Session, wire: Id, question: Json, source: Messages
    ) -> str | None:
        """Let the call wait for the client; what stands for it. None when too many wait."""

        def expire() -> None:
            source.close()
            error = jsonrpc.error(question["id"], jsonrpc.INTERNAL_ERROR, "the client has left")
            self.tell(outbound, session, error)
            self.cancel(outbound, session, wire)

        parked = Parked(
            outbound.scope.key,
            words.digest(outbound.message),
            question,
            wire,
            source,
            session,
            expire,
        )
        key = self._state.park(parked)
        return None if key is None else self._sealed([self._state.worker, key.hex()])

    def again(self) -> str:
        """What stands for a call that is simply to be made once more."""
        return self._sealed([])

    def _sealed(self, what: list[int | str]) -> str:
        return self._state.sealer.seal_bytes(orjson.dumps([self._key, *what]), PURPOSE)

    def cancel(self, outbound: Outbound, session: Session, wire: Id) -> None:
        """Nobody waits for an answer any more; nor for what the session says of it later."""
        params = {"requestId": wire, "reason": "the client closed the stream"}
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        self.tell(outbound, session, message)
        self.leave(session, is_lost=session.is_alone)

    def _waiting(self, outbound: Outbound, given: object) -> Messages | None:
        """The call that the client comes back to; None when it is to be made again.

        Raises: Refused 400 when there is none.
        """
        message = outbound.message
        place = parked_at(self._state, self._key, given)
        if place is None:
            raise refusal(JsonRpcError(INVALID_PARAMS, "Invalid params: requestState"), message)
        if not place:
            return None
        key = bytes.fromhex(place[1])
        parked = self._state.parked.get(key)
        is_same = (
            parked is not None
            and parked.principal == outbound.scope.key
            and parked.digest == words.digest(message)
        )
        if parked is None or not is_same:
            text = "Invalid params: requestState is not of this request, or of one that has ended"
            raise refusal(JsonRpcError(INVALID_PARAMS, text), message)
        params = message["params"]
        answers = params.get("inputResponses")
        told = answers.get("1") if isinstance(answers, dict) else None
        if not isinstance(told, dict):
            # As the specification wants it: what is missing is asked for again.
            result = words.input_required(_questions(parked.question), str(given))
            return Ready.of(jsonrpc.result(message["id"], result))
        self._state.take(key)
        self.tell(outbound, parked.session, jsonrpc.result(parked.question["id"], told))
        info = parked.session.greeting.get("serverInfo")
        return Leg(self, outbound, parked.session, parked.wire, parked.source, info)


def _questions(question: Json) -> Json:
    return {"1": {"method": question["method"], "params": question.get("params") or {}}}


def parked_at(state: BridgeState, key: str, given: object) -> tuple[int, str] | tuple[()] | None:
    """Worker and key of a call that waits; () for one to be made again, None for what is no
    state of this server's."""
    raw = state.sealer.open_bytes(given, PURPOSE) if isinstance(given, str) else None
    if raw is None:
        return None
    told, *place = orjson.loads(raw)
    if told != key:
        return None
    return (place[0], place[1]) if place else ()


def refusal(error: JsonRpcError, message: Json) -> Refused:
    """A refusal of a request as a server itself would make it."""
    body = orjson.dumps(jsonrpc.error(message["id"], error.code, str(error), error.data))
    return Refused(error.status, Headers(((b"content-type", b"application/json"),)), body)
