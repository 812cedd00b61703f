"""One endpoint over the servers of a backend: greets, routes, asks one or all, ends.

Source: spec/mcp_a2a.md sections 1.3, 1.4, 2.2 to 2.7.

Behind one server without rules or changes of tools, messages pass as they are. Else names are
rewritten, calls judged, lists filtered and merged (mcp.fanout), and what servers send rewritten.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from typing import Final, final

from sidecar.errors import SidecarError
from sidecar.jsonrpc import INVALID_PARAMS, Json, JsonRpcError
from sidecar.mcp import era, guards, rewrite
from sidecar.mcp.asides import asides_of
from sidecar.mcp.asking import Asking
from sidecar.mcp.capabilities import bits_of
from sidecar.mcp.fanout import About, Fanout
from sidecar.mcp.greeting import Greeter
from sidecar.mcp.guards import Guard
from sidecar.mcp.lanes import Caller, Lanes, Opened
from sidecar.mcp.listening import Listener
from sidecar.mcp.sessions import Live, Sessions
from sidecar.mcp.streams import Ready
from sidecar.mcp.token import Upstream
from sidecar.mcp.upstream.base import Held, Inbound, Messages, Refused

_END_SECONDS: Final = 10.0
_CANCELLED: Final = "notifications/cancelled"


def new_uuid() -> bytes:
    """Of a session to be."""
    return os.urandom(16)


@final
@dataclass(frozen=True, slots=True)
class Greeting:
    """The answer to `initialize`."""

    messages: Messages
    live: Live | None
    """The session that began; None for an error, and without sessions."""


@final
class Federation:
    """The servers of one backend, for all its clients in this worker."""

    __slots__ = (
        "_asides",
        "_asking",
        "_fanout",
        "_greeter",
        "_guard",
        "_listener",
        "_sessions",
        "is_stateful",
        "key",
        "lanes",
        "state",
        "verbatim",
    )

    def __init__(
        self,
        key: bytes,
        asking: Asking,
        sessions: Sessions,
        fanout: Fanout,
        verbatim: str,
        guard: Guard | None = None,
        state: str = "",
    ) -> None:
        """`state`: names the backend with all its rules, the same in all workers. `key`: what tells
        it from others in session ids. `verbatim`: the only server,
        when messages pass as they are; else "". `guard`: the same as of `fanout`."""
        self.key = key
        self.state = state
        self.lanes: Lanes = asking.lanes
        self.is_stateful = asking.terms.is_stateful
        self.verbatim = verbatim
        self._sessions = sessions
        self._fanout = fanout
        self._guard = guard
        names = asking.names
        self._asides = asides_of(guard, names, sessions.sealer, fanout.tell, self.lanes.later)
        self._asking = asking
        self._greeter = Greeter(asking)
        self._listener = Listener(asking)

    # --- requests -------------------------------------------------------------------------

    async def request(self, message: Json, caller: Caller, about: About) -> Messages:
        """Serve a request of a session, or one that stands for itself.

        Raises: JsonRpcError, UpstreamError, Refused.
        """
        method: str = message["method"]
        if caller.era == "legacy" and method not in era.LEGACY_METHODS:
            raise era.unknown_method(method, 200)
        only = self.verbatim
        # Fast path: nothing to be looked at.
        if only:
            about(only)
            await self._asking.admit(caller)
            return (await self.lanes.request(only, message, caller, may_poll=True)).messages
        asides = self._asides
        if asides is None:
            return await self._guarded(message, caller, about)
        message = await asides.asked(message, caller)
        return asides.watched(await self._guarded(message, caller, about), caller)

    async def _guarded(self, message: Json, caller: Caller, about: About) -> Messages:
        guard = self._guard
        if guard is None or rewrite.named(message) is not None:
            return await self._passed(message, caller, about)
        targets = self._asking.names.targets
        message, caller = await guards.asked(guard, message, targets, caller)
        messages = await self._passed(message, caller, about)
        return guards.answered(guard, message, targets, caller, messages)

    async def _passed(self, message: Json, caller: Caller, about: About) -> Messages:
        method = message["method"]
        if method == "server/discover":
            await self._asking.admit(caller)
            return await self._greeter.discover(message, caller)
        if method == "subscriptions/listen":
            await self._asking.admit(caller)
            return await self._listener.subscribed(message, caller)
        return await self._fanout.request(message, caller, about)

    async def tell(self, message: Json, caller: Caller) -> None:
        """Pass on a notification, or the client's answer to a server's request.

        Raises: JsonRpcError, UpstreamError, Refused.
        """
        if caller.era == "legacy" and caller.live is None:
            # Without sessions a server that it could mean something to has ended its own.
            return
        if caller.era == "modern" and message.get("method") == _CANCELLED:
            # There a stream that is closed is cancelled. By its id alone it could be the request of
            # anybody who shares the connection to the server.
            return
        if self.verbatim:
            await self.lanes.send(self.verbatim, message, caller)
            return
        told = message if self._asides is None else await self._asides.told(message, caller)
        if told is not None:
            await self._fanout.tell(told, caller)

    async def listen(self, caller: Caller, last_event_id: bytes) -> Messages | None:
        """What servers say of their own accord; None when none does.

        Raises: UpstreamError, Refused.
        """
        if self.verbatim:
            return await self.lanes.listen(self.verbatim, caller, last_event_id)
        messages = await self._listener.listen(caller, last_event_id)
        guard = self._guard
        if guard is None or messages is None:
            return messages
        if self._asides is not None:
            messages = self._asides.watched(messages, caller)
        return guards.without_answers(messages) if guard.responses else messages

    # --- sessions -------------------------------------------------------------------------

    async def greet(self, message: Json, caller: Caller, uuid: bytes) -> Greeting:
        """Begin a session at the servers, and with the client.

        Raises: JsonRpcError, UpstreamError, Refused, SessionsFullError, ShmError.
        """
        params = message.get("params")
        if params is None or not isinstance(params.get("protocolVersion"), str):
            raise JsonRpcError(INVALID_PARAMS, "Invalid params: protocolVersion is missing")
        version = era.greeting_version(params["protocolVersion"])
        if version != params["protocolVersion"]:
            params = {**params, "protocolVersion": version}
            message = {**message, "params": params}
        await self._asking.admit(caller)
        guard, targets = self._guard, self._asking.names.targets
        if guard is not None:
            message, caller = await guards.asked(guard, message, targets, caller)
            params = _still_greeting(params, message["params"])
        try:
            return await self._greeted(message, params, caller, uuid)
        except asyncio.CancelledError:
            # The client has left. Where the server is a process or a stream, it is one already.
            for name in self.lanes.targets:
                self.lanes.later(partial(self.lanes.end, name, caller, Held()))
            raise

    async def _greeted(self, message: Json, params: Json, caller: Caller, uuid: bytes) -> Greeting:
        only, guard = self.verbatim, self._guard
        if only:
            opened = await self.lanes.open(only, message, caller)
            found = {only: opened}
            inbound = (*opened.before, Inbound(opened.answer))
            messages: Messages = Ready(inbound, is_json=opened.is_json)
            result = opened.result
        else:
            found, answer = await self._greeter.greet(message, caller)
            if guard is not None:
                answer = await self._judged(guard, message, caller, found, answer)
            messages, result = Ready.of(answer), answer.get("result")
            if result is None:
                self._leave(found, caller)
        if result is None:
            return Greeting(messages, None)
        if not self.is_stateful:
            self._leave(found, caller)
            return Greeting(messages, None)
        try:
            live = self._begun(result, found, params, caller, uuid)
        except BaseException:
            self._leave(found, caller)
            raise
        return Greeting(messages, live)

    async def _judged(
        self, guard: Guard, message: Json, caller: Caller, found: dict[str, Opened], answer: Json
    ) -> Json:
        """The answer to `initialize` as guards let it pass, but for the version agreed on."""
        before = answer.get("result")
        try:
            told = await guards.judged(guard, message, self._asking.names.targets, caller, answer)
        except BaseException:
            self._leave(found, caller)
            raise
        result = told.get("result")
        if result is None or before is None or told is answer:
            return told
        agreed = {"protocolVersion": before.get("protocolVersion")}
        return {**told, "result": {**result, **agreed}}

    def _begun(
        self, result: Json, found: dict[str, Opened], params: Json, caller: Caller, uuid: bytes
    ) -> Live:
        version = result.get("protocolVersion")
        if not isinstance(version, str):
            version = era.negotiated(params["protocolVersion"])
        upstreams = tuple(_upstream(name, found.get(name)) for name in self.lanes.targets)
        return self._sessions.begin(
            uuid, self.key, caller.principal, version, upstreams, dict(params)
        )

    def _leave(self, found: dict[str, Opened], caller: Caller) -> None:
        """End what was begun and is not needed."""
        for name, opened in found.items():
            held = opened.held
            self.lanes.later(partial(self.lanes.end, name, caller, held))

    async def end(self, caller: Caller) -> None:
        """The session is over: tell all servers. Never raises for what they answer."""
        live = caller.live
        assert live is not None
        ends = [self._end(name, caller) for name in self.lanes.targets if _is_open(live, name)]
        await asyncio.gather(*ends)

    async def _end(self, name: str, caller: Caller) -> None:
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self.lanes.end(name, caller)
        except (SidecarError, Refused, TimeoutError):
            # It ends by itself when nobody uses it: there is no one left to tell.
            return


def _still_greeting(before: Json, after: Json) -> Json:
    """The params of `initialize` after guards. Raises: JsonRpcError."""
    if after.get("protocolVersion") != before["protocolVersion"]:
        raise guards.misguided("the version is not its to choose")
    return after


def _upstream(name: str, opened: Opened | None) -> Upstream:
    if opened is None or opened.result is None:
        return Upstream(name)
    held = opened.held
    bits = bits_of(opened.result.get("capabilities"))
    return Upstream(name, held.upstream_id, held.version, held.pin, bits)


def _is_open(live: Live, name: str) -> bool:
    found = live.upstreams.get(name)
    return found is not None and bool(found.version)
