"""The way to each server of a backend for one client: sessions there, and their renewal.

Source: spec/mcp_a2a.md sections 1.3, 2.5, 2.6 and 5.3 (#3622).

A server that forgot a session (404), or whose endpoint is gone that held it, gets the client's own
`initialize` once more and then the message; only when that fails too does the client learn of it,
by 404, and begins again itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Final, TypeVar, final
from weakref import WeakValueDictionary

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Request
from sidecar.jsonrpc import Id, Json
from sidecar.mcp.peer_connection import OwnerGone
from sidecar.mcp.sessions import Live, Sessions
from sidecar.mcp.streams import Changed
from sidecar.mcp.upstream.base import (
    Answered,
    Era,
    Held,
    Inbound,
    Messages,
    Outbound,
    Refused,
    Scope,
    Target,
)
from sidecar.version import package_version

Later = Callable[[Callable[[], Coroutine[Any, Any, None]]], bool]
"""Start what nobody waits for, in bounds; False when there is too much."""
_INITIALIZED: Final[Json] = {"jsonrpc": "2.0", "method": "notifications/initialized"}
_OWN_ID: Final = "agw-initialize"
_GONE: Final = 404
_POLLED: Final = "2025-11-25"
"""The version whose clients know a stream that ends before the answer (SEP-1699)."""
_TRIES: Final = 4
"""Of one message: a dead owner may be followed by another, and that by a lost session."""
T = TypeVar("T")
_NOTHING: Final[Json] = {}


@final
@dataclass(slots=True)
class Caller:
    """Who asks, for one request or stream."""

    request: Request
    headers: Headers
    """See Outbound."""
    principal: bytes
    """16 bytes: whose session it is when one begins; else whom servers see (see mcp.sessions)."""
    era: Era
    version: str
    scope: Scope
    live: Live | None = None
    """The session; None before there is one, and where there is none."""
    credentials: Headers = field(default_factory=Headers)
    """The client's own, for servers that are to see them."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """`_meta` of a modern request."""


@final
@dataclass(slots=True, weakref_slot=True)
class _Alone:
    """A lock for those who renew one session at one server."""

    lock: asyncio.Lock


class _Renewed(UpstreamError):
    """The session was begun again, and the message means nothing to the new one."""

    def __init__(self) -> None:
        super().__init__(503, "UpstreamFailure", "the server has begun the session again")


def _as_it_is(inbound: Inbound) -> Inbound:
    return inbound


@final
class Opened:
    """What `initialize` gave at one server."""

    __slots__ = ("answer", "before", "held", "is_json")

    def __init__(self, messages: list[Inbound], held: Held, *, is_json: bool) -> None:
        *self.before, answer = messages
        """Messages that came before the answer."""
        self.answer = answer.message
        self.held = held
        self.is_json = is_json

    @property
    def result(self) -> Json | None:
        """None for an error."""
        found = self.answer.get("result")
        return found if isinstance(found, dict) else None


@final
class Lanes:
    """The servers of one backend."""

    __slots__ = ("_renewing", "_sessions", "_trusted", "later", "targets")

    def __init__(
        self,
        targets: Mapping[str, Target],
        sessions: Sessions,
        later: Later,
        trusted: frozenset[str] = frozenset(),
    ) -> None:
        """`trusted`: servers that see the client's own credentials."""
        self.targets = targets
        self._trusted = trusted
        self.later = later
        self._sessions = sessions
        self._renewing: WeakValueDictionary[tuple[bytes, str], _Alone] = WeakValueDictionary()

    @property
    def shows_credentials(self) -> bool:
        """Whether some server sees the client's own."""
        return bool(self._trusted)

    def outbound(
        self, name: str, message: Json, caller: Caller, held: Held | None = None
    ) -> Outbound:
        """The message as a server gets it."""
        if held is None:
            live = caller.live
            held = live.held(name) if live is not None else Held()
        version = held.version or caller.version
        headers = caller.headers
        if name in self._trusted:
            headers = Headers((*headers, *caller.credentials))
        client = caller.live.claims.client if caller.live is not None else None
        return Outbound(
            message, caller.era, version, caller.request, headers, caller.scope, held, client
        )

    async def open(self, name: str, message: Json, caller: Caller) -> Opened:
        """Begin a session at a server. Raises: UpstreamError, Refused.

        When the client leaves meanwhile, the server may have begun it all the same: what it says is
        waited for, and the session ended.
        """
        opening = asyncio.get_running_loop().create_task(self._opened(name, message, caller))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if not self.later(partial(self._left, name, caller, opening)):
                opening.cancel()
            raise

    async def _left(self, name: str, caller: Caller, opening: asyncio.Task[Opened]) -> None:
        try:
            opened = await opening
        except Refused:
            return
        await self.end(name, caller, opened.held)

    async def _opened(self, name: str, message: Json, caller: Caller) -> Opened:
        answered = await self.targets[name].request(self.outbound(name, message, caller, Held()))
        taken: list[Inbound] = []
        try:
            while (inbound := await answered.messages.next()) is not None:
                taken.append(inbound)
        finally:
            answered.messages.close()
        if not taken or "method" in taken[-1].message:
            raise UpstreamError(502, "UpstreamFailure", f"MCP target {name} gave no answer")
        return Opened(taken, answered.held, is_json=answered.messages.is_json)

    async def request(
        self, name: str, message: Json, caller: Caller, *, may_poll: bool = False
    ) -> Answered:
        """Send a request. `may_poll`: what comes goes to the client as it is, so that it can take
        up by itself a stream that the server ends. Raises: UpstreamError, Refused."""
        if caller.live is None and caller.era == "legacy":
            return await self._passing(name, message, caller)
        target = self.targets[name]
        is_polled = may_poll and caller.version == _POLLED

        async def request(outbound: Outbound) -> Answered:
            outbound.is_polled = is_polled
            return await target.request(outbound)

        return await self._again(name, message, caller, request)

    async def send(self, name: str, message: Json, caller: Caller) -> None:
        """Send what has no answer. Raises: UpstreamError, Refused."""
        target = self.targets[name]
        try:
            await self._again(name, message, caller, target.send)
        except _Renewed:
            # An answer to a question of a session that is gone is nothing to the new one.
            return

    async def listen(
        self, name: str, caller: Caller, last_event_id: bytes = b""
    ) -> Messages | None:
        """A server's own stream. Raises: UpstreamError, Refused."""
        target = self.targets[name]

        async def listen(outbound: Outbound) -> Messages | None:
            outbound.is_polled = caller.version == _POLLED
            return await target.listen(outbound, last_event_id)

        return await self._again(name, _NOTHING, caller, listen)

    async def _again(
        self,
        name: str,
        message: Json,
        caller: Caller,
        act: Callable[[Outbound], Coroutine[Any, Any, T]],
    ) -> T:
        """Act, and once more where the session had to be begun again, or be taken over.

        Raises: UpstreamError, Refused.
        """
        for left in reversed(range(_TRIES)):
            outbound = self.outbound(name, message, caller)
            try:
                return await act(outbound)
            except OwnerGone as error:
                if not left or error.sent or not self._claimed(caller):
                    raise
            except (Refused, UpstreamError) as error:
                if not left or not _is_lost(error, outbound, caller):
                    raise
                await self._renew(name, caller, outbound.held, error)
                if message and "method" not in message:
                    raise _Renewed from error
        raise AssertionError("unreachable: the last try returns or raises")

    def _claimed(self, caller: Caller) -> bool:
        """Hold from now on what the dead worker held. False when the session has ended."""
        live = caller.live
        if live is None or not self._sessions.claim(live):
            return False
        caller.scope = replace(caller.scope, owner=live.row.owner.worker)
        return True

    async def _passing(self, name: str, message: Json, caller: Caller) -> Answered:
        """A request of no session: one is begun for it alone. Raises: UpstreamError, Refused."""
        opened = await self.open(name, initialize(_OWN_ID, caller.version, None), caller)
        if opened.result is None:
            raise UpstreamError(502, "UpstreamFailure", f"MCP target {name} refused to initialize")
        held = opened.held

        def end() -> None:
            self.later(lambda: self.end(name, caller, held))

        target = self.targets[name]
        try:
            await target.send(self.outbound(name, _INITIALIZED, caller, held))
            answered = await target.request(self.outbound(name, message, caller, held))
        except BaseException:
            end()
            raise
        return Answered(Changed(answered.messages, _as_it_is, end), held)

    async def end(self, name: str, caller: Caller, held: Held | None = None) -> None:
        """End the session at a server."""
        await self.targets[name].end(self.outbound(name, _NOTHING, caller, held))

    # --- renewal --------------------------------------------------------------------------

    async def _renew(
        self, name: str, caller: Caller, lost: Held, error: Refused | UpstreamError
    ) -> None:
        """Begin again at a server. Raises: Refused 404 when the client has to."""
        live = caller.live
        assert live is not None
        # One at a time in this worker: the others find what the first one was given.
        alone = self._renewing.get((live.key, name))
        if alone is None:
            alone = self._renewing[live.key, name] = _Alone(asyncio.Lock())
        async with alone.lock:
            if not self._sessions.refresh(live):
                raise Refused(_GONE, Headers(), b"") from error
            if live.held(name) != lost:
                return
            opened = await self._opened_again(name, caller, live, error)
            moved = self._sessions.move(live, name, opened.held)
            if not moved or live.held(name).upstream_id != opened.held.upstream_id:
                # Another worker was quicker, or there is nobody left to hold it for.
                self.later(lambda: self.end(name, caller, opened.held))
            if not moved:
                raise Refused(_GONE, Headers(), b"") from error

    async def _opened_again(
        self, name: str, caller: Caller, live: Live, error: Refused | UpstreamError
    ) -> Opened:
        asked = initialize(_OWN_ID, live.claims.version, live.claims.client)
        try:
            opened = await self.open(name, asked, caller)
            if opened.result is None:
                raise Refused(_GONE, Headers(), b"") from error
            await self.targets[name].send(self.outbound(name, _INITIALIZED, caller, opened.held))
        except SidecarError as problem:
            raise Refused(_GONE, Headers(), b"") from problem
        return opened


def initialize(identity: Id, version: str, client: Json | None) -> Json:
    """The client's own greeting, or one of the gateway where that is not known."""
    params = client or {
        "protocolVersion": version,
        "capabilities": {},
        "clientInfo": own_info(),
    }
    return {"jsonrpc": "2.0", "id": identity, "method": "initialize", "params": params}


@cache
def own_version() -> str:
    """The gateway's. Read from disk once."""
    return package_version()


def own_info() -> Json:
    """How the gateway names itself where it asks for itself."""
    return {"name": "agentgateway", "version": own_version()}


def initialized() -> Json:
    """What follows the answer to `initialize`."""
    return dict(_INITIALIZED)


def _is_lost(error: Refused | UpstreamError, outbound: Outbound, caller: Caller) -> bool:
    """Whether the server does not know the session that it gave."""
    if caller.live is None or not outbound.held.version:
        return False
    if isinstance(error, Refused):
        return error.status == _GONE
    return bool(outbound.held.pin) and not error.sent
