"""A server that clients of both eras can use, whichever of them it knows.

Source: spec/mcp_a2a.md sections 1.4 (era probing), 5.2 row 11 and 5.3 (#2982).

A message goes to the server as it is where the server knows its era. Which that is, is asked with
`server/discover` when a modern client comes, and remembered for five minutes; for a legacy client
the server's answer to `initialize` shows it. What a client's session is held by (`Held.version`)
tells every worker that its server is a modern one.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final, final

from sidecar import jsonrpc
from sidecar.errors import UpstreamError
from sidecar.jsonrpc import INVALID_PARAMS, Json, JsonRpcError
from sidecar.mcp import era
from sidecar.mcp.bridge import words
from sidecar.mcp.bridge.down import Down, parked_at, refusal
from sidecar.mcp.bridge.state import BridgeState
from sidecar.mcp.bridge.up import Up
from sidecar.mcp.lanes import initialize, own_info
from sidecar.mcp.peer_connection import OwnerGone
from sidecar.mcp.peers import OwnedTarget
from sidecar.mcp.upstream.base import Answered, Held, Inbound, Messages, Outbound, Refused, Target
from sidecar.mcp.upstream.inbox import Whole

_PROBE_SECONDS: Final = 10.0
_UNDECIDED: Final = (401, 403, 407, 408, 425, 429)
"""Refusals that say nothing of what the server speaks."""


@final
class Bridge:
    """The part of it that one worker has: calls that wait, and what sessions told. See
    base.Target; messages are such as the server cannot take as they are."""

    __slots__ = ("_down", "_state", "_up", "name")

    def __init__(self, inner: Target, key: str, state: BridgeState) -> None:
        self.name = inner.name
        self._state = state
        self._down = Down(inner, key, state)
        self._up = Up(inner, state)

    async def request(self, outbound: Outbound) -> Answered:
        """See base.Target."""
        outbound = self._mine(outbound)
        if outbound.era == "legacy":
            return await self._up.request(outbound)
        return await self._down.request(outbound)

    async def send(self, outbound: Outbound) -> None:
        """See base.Target. A modern client has nothing to say that a legacy server understands."""
        if outbound.era == "legacy":
            await self._up.send(self._mine(outbound))

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """See base.Target. There are no event ids."""
        return await self._up.listen(self._mine(outbound))

    async def end(self, outbound: Outbound) -> None:
        """See base.Target."""
        self._up.end(outbound)

    def _mine(self, outbound: Outbound) -> Outbound:
        scope = outbound.scope
        if scope.owner == self._state.worker:
            return outbound
        return replace(outbound, scope=replace(scope, owner=self._state.worker))


@final
class BridgedTarget:
    """See base.Target."""

    __slots__ = ("_inner", "_is_legacy", "_key", "_owned", "_state", "_up", "name")

    def __init__(
        self,
        inner: Target,
        key: str,
        state: BridgeState,
        owned: OwnedTarget,
        *,
        is_legacy: bool = False,
    ) -> None:
        """`owned`: the Bridge, as all workers use it. `is_legacy`: by its transport."""
        self.name = inner.name
        self._inner = inner
        self._key = key
        self._state = state
        self._owned = owned
        self._is_legacy = is_legacy
        self._up = Up(inner, state)

    async def request(self, outbound: Outbound) -> Answered:
        """See base.Target."""
        if outbound.era == "modern":
            return await self._modern(outbound)
        if outbound.message["method"] == "initialize":
            return await self._greeted(outbound)
        # Fast path: a session at a legacy server.
        if outbound.held.version != era.MODERN:
            return await self._inner.request(outbound)
        return await self._owned.request(outbound)

    async def send(self, outbound: Outbound) -> None:
        """See base.Target."""
        if outbound.era == "modern":
            if await self._is_modern(outbound):
                await self._inner.send(outbound)
        elif outbound.held.version != era.MODERN:
            await self._inner.send(outbound)
        else:
            await self._owned.send(outbound)

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """See base.Target."""
        if outbound.held.version != era.MODERN:
            return await self._inner.listen(outbound, last_event_id)
        return await self._owned.listen(outbound, last_event_id)

    async def end(self, outbound: Outbound) -> None:
        """See base.Target."""
        if outbound.held.version == era.MODERN:
            await self._owned.end(outbound)
        # A process, or a stream, may have been started all the same.
        await self._inner.end(outbound)

    # --- modern clients -------------------------------------------------------------------

    async def _modern(self, outbound: Outbound) -> Answered:
        given = (outbound.message.get("params") or {}).get("requestState")
        if given is not None:
            place = parked_at(self._state, self._key, given)
            if place is not None:
                return await self._resumed(outbound, place)
        if not await self._is_modern(outbound):
            return await self._owned.request(outbound)
        try:
            return await self._inner.request(outbound)
        except Refused as error:
            if not self._contradicts(error):
                raise
            self._state.forget_era()
            if await self._is_modern(outbound):
                raise
        return await self._owned.request(outbound)

    async def _resumed(self, outbound: Outbound, place: tuple[int, str] | tuple[()]) -> Answered:
        """To the worker that has the call. Raises: UpstreamError, Refused."""
        if place:
            scope = replace(outbound.scope, owner=place[0])
            outbound = replace(outbound, scope=scope)
        try:
            return await self._owned.request(outbound)
        except OwnerGone as error:
            text = "Invalid params: requestState is of a call that has ended"
            raise refusal(JsonRpcError(INVALID_PARAMS, text), outbound.message) from error

    @staticmethod
    def _contradicts(error: Refused) -> bool:
        """Whether a server that was modern may be so no more."""
        if error.status not in (400, 404, 405):
            return False
        found = words.error_in(error.body)
        code = None if found is None else found.get("code")
        return not (words.is_modern_error(found) or code in _BOTH)

    async def _is_modern(self, outbound: Outbound) -> bool:
        """Whether the server knows the modern era. Raises: UpstreamError, Refused."""
        if self._is_legacy:
            return False
        state = self._state
        known = state.is_modern
        if known is not None:
            return known
        async with state.lock:
            known = state.is_modern
            if known is None:
                known = await self._probed(outbound)
                state.found_modern(known)
        return known

    async def _probed(self, outbound: Outbound) -> bool:
        params = outbound.message.get("params") or {}
        meta = {
            key: one
            for key, one in (params.get("_meta") or {}).items()
            if key in (era.VERSION_META, era.CAPABILITIES_META, era.CLIENT_META)
        }
        if not meta:
            meta = words.modern_params(None, None, "", own_info())["_meta"]
        asked: Json = {
            "jsonrpc": "2.0",
            "id": "agw-discover",
            "method": "server/discover",
            "params": {"_meta": meta},
        }
        sent = replace(outbound, message=asked, held=Held())
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                return words.knows_modern(await _answer(await self._inner.request(sent)))
        except Refused as error:
            if error.status in _UNDECIDED or error.status >= 500:
                raise
            found = words.error_in(error.body)
            return found is not None and words.knows_modern({"error": found})
        except (TimeoutError, UpstreamError):
            # It may be a server that answers nothing to what it does not know, or ends at it:
            # `initialize` will tell. What was known before holds for longer.
            return self._state.was_modern or False

    # --- legacy clients -------------------------------------------------------------------

    async def _greeted(self, outbound: Outbound) -> Answered:
        """The answer to `initialize`. Raises: UpstreamError, Refused."""
        state = self._state
        if state.lacks_initialize:
            return await self._up.greeted(outbound)
        refused: Refused | None = None
        answered: Answered | None = None
        try:
            answered = await self._inner.request(outbound)
            found, answered = await _peeked(answered)
            if not words.lacks_initialize(found.get("error")):
                return answered
        except Refused as error:
            if error.status in _UNDECIDED or error.status >= 500 or self._is_legacy:
                raise
            refused = error
        is_modern = not self._is_legacy and await self._is_modern(outbound)
        if is_modern and not await self._greets(outbound):
            state.lacks_initialize = True
            return await self._up.greeted(outbound)
        if refused is not None:
            raise refused
        assert answered is not None
        return answered

    async def _greets(self, outbound: Outbound) -> bool:
        """Whether the server takes an `initialize` that nothing is wrong with: then it was the
        client's own that it refused. Raises: UpstreamError, Refused."""
        asked = initialize("agw-initialize", era.LEGACY[0], None)
        # Not the client's session: what this one begins is ended.
        scope = replace(outbound.scope, key=bytes(reversed(outbound.scope.key)))
        sent = replace(outbound, message=asked, scope=scope, held=Held())
        try:
            answered = await self._inner.request(sent)
        except Refused as error:
            if error.status in _UNDECIDED or error.status >= 500:
                raise
            return False
        found = await _answer(answered)
        await self._inner.end(replace(sent, message={}, held=answered.held))
        return isinstance(found.get("result"), dict)


_BOTH: Final = (jsonrpc.METHOD_NOT_FOUND, INVALID_PARAMS)
"""Errors of servers of both eras, at which nothing was done."""


async def _answer(answered: Answered) -> Json:
    """The last message. Raises: UpstreamError."""
    found: Json = {}
    try:
        while (inbound := await answered.messages.next()) is not None:
            found = inbound.message
    finally:
        answered.messages.close()
    return found


async def _peeked(answered: Answered) -> tuple[Json, Answered]:
    """The answer to `initialize`, which is read whole, and what holds it still."""
    taken: list[Inbound] = []
    try:
        while (inbound := await answered.messages.next()) is not None:
            taken.append(inbound)
    finally:
        answered.messages.close()
    last = taken[-1].message if taken else {}
    whole = Whole(taken, is_json=answered.messages.is_json)
    return last, Answered(whole, answered.held)
