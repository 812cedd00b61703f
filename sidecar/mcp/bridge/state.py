"""What a worker remembers of a server for clients of the other era, over all configurations.

Source: spec/mcp_a2a.md sections 1.4 (era probing) and 5.2 row 11; design section 8 (bounds).
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, final

from sidecar.jsonrpc import Id, Json
from sidecar.mcp.token import Sealer
from sidecar.mcp.upstream.base import Held, Messages, Scope
from sidecar.telemetry.clock import Clock

ERA_SECONDS: Final = 300
"""How long a server is taken for what it was."""
PARKED_SECONDS: Final = 300.0
"""How long a call waits for a modern client to come back with what the server asked for."""
PARKED_MAX: Final = 256
CLIENTS_MAX: Final = 10_000
SESSIONS_MAX: Final = 256
"""That a worker holds at one server for modern clients."""
URIS_MAX: Final = 1024
"""Resources that one client is told of."""
IDLE_SECONDS: Final = 300
_SECOND_NS: Final = 1_000_000_000


Ender = Callable[[], Coroutine[Any, Any, None]]


@final
@dataclass(slots=True, eq=False)
class Session:
    """A session that the gateway holds at a legacy server, for modern clients of one principal."""

    scope: Scope
    held: Held
    greeting: Json
    """The server's answer to `initialize`."""
    is_alone: bool
    """Used by one call at a time: what the server asks is of that call."""
    users: int = 0
    """Calls under way."""
    used_ns: int = 0
    level: str = ""
    """Of its log lines, as last set."""
    is_lost: bool = False
    end: Ender | None = None
    """Tells the server that it is over."""


@final
@dataclass(slots=True)
class Parked:
    """A call at a legacy server that waits for what the server asked of the client."""

    principal: bytes
    digest: bytes
    """Of the request."""
    question: Json
    """The server's request."""
    wire: Id
    """The call's id at the server."""
    source: Messages
    session: Session
    expire: Callable[[], None]
    """What is done when the client does not come back."""
    timer: asyncio.TimerHandle | None = None


@final
@dataclass(slots=True)
class Client:
    """A legacy client's session, as far as a modern server knows nothing of it."""

    level: str = ""
    uris: dict[str, None] = field(default_factory=dict)
    """Resources it is told of."""
    calls: dict[tuple[type, Id], Messages] = field(default_factory=dict)
    """Under way, by the client's own ids."""
    asked: dict[str, asyncio.Future[Json]] = field(default_factory=dict)
    """What servers wait to be told, by the gateway's ids."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """`uris` is another one than it was, or it is over."""
    is_over: bool = False
    """The session has ended."""


@final
class BridgeState:
    """Of one server in one worker."""

    __slots__ = (
        "_clients",
        "_modern",
        "_numbers",
        "clock",
        "initialize",
        "later",
        "lock",
        "opening",
        "parked",
        "sealer",
        "sessions",
        "worker",
    )

    def __init__(
        self,
        worker: int,
        sealer: Sealer,
        clock: Clock,
        later: Callable[[Callable[[], Coroutine[Any, Any, None]]], bool],
    ) -> None:
        self.worker = worker
        self.sealer = sealer
        self.clock = clock
        self.later = later
        """See lanes.Later."""
        self.lock = asyncio.Lock()
        """For who asks the server which era it is of."""
        self.sessions: dict[tuple[bytes, bytes], list[Session]] = {}
        """By principal, and hash of what the client can be asked."""
        self.opening = 0
        """Sessions that are being begun."""
        self.parked: OrderedDict[bytes, Parked] = OrderedDict()
        self.initialize = (True, 0)
        """Whether it knows `initialize`, and until when that counts."""
        self._modern: tuple[bool, int] | None = None
        self._clients: OrderedDict[bytes, Client] = OrderedDict()
        self._numbers = 0

    # --- the era --------------------------------------------------------------------------

    @property
    def is_modern(self) -> bool | None:
        """Whether the server speaks 2026-07-28; None when that is to be asked."""
        known = self._modern
        return None if known is None or known[1] < self.clock.monotonic_ns() else known[0]

    def found_modern(self, value: bool) -> None:
        """What it answered when it was asked."""
        self._modern = (value, self._until())

    @property
    def was_modern(self) -> bool | None:
        """The same as last known, however long ago."""
        return None if self._modern is None else self._modern[0]

    def forget_era(self) -> None:
        """It did not behave as what it was taken for."""
        self._modern = None

    @property
    def lacks_initialize(self) -> bool:
        """Whether a legacy client is greeted in the server's place."""
        knows, until = self.initialize
        return not knows and self.clock.monotonic_ns() < until

    @lacks_initialize.setter
    def lacks_initialize(self, value: bool) -> None:
        self.initialize = (not value, self._until())

    def _until(self) -> int:
        return self.clock.monotonic_ns() + ERA_SECONDS * _SECOND_NS

    # --- the rest -------------------------------------------------------------------------

    def number(self) -> str:
        """The id of a request of the gateway's own making."""
        self._numbers += 1
        return f"agw-{self._numbers}"

    def client(self, key: bytes) -> Client:
        """The legacy session of this key."""
        found = self._clients.get(key)
        if found is None:
            found = self._clients[key] = Client()
            if len(self._clients) > CLIENTS_MAX:
                self._clients.popitem(last=False)
        else:
            self._clients.move_to_end(key)
        return found

    def forget_client(self, key: bytes) -> None:
        """The session has ended."""
        client = self._clients.pop(key, None)
        if client is not None:
            client.is_over = True
            client.changed.set()
            for call in list(client.calls.values()):
                call.close()

    def park(self, parked: Parked) -> bytes | None:
        """Keep a call; the key to it. None when too many wait."""
        if len(self.parked) >= PARKED_MAX:
            return None
        key = os.urandom(16)
        self.parked[key] = parked
        loop = asyncio.get_running_loop()
        parked.timer = loop.call_later(PARKED_SECONDS, self._expired, key)
        return key

    def take(self, key: bytes) -> Parked | None:
        """The call of a key, which nobody else gets then."""
        parked = self.parked.pop(key, None)
        if parked is not None and parked.timer is not None:
            parked.timer.cancel()
        return parked

    def _expired(self, key: bytes) -> None:
        parked = self.parked.pop(key, None)
        if parked is not None:
            parked.expire()

    def drop(self, session: Session) -> None:
        """End a session."""
        for key, sessions in list(self.sessions.items()):
            if session in sessions:
                sessions.remove(session)
                if not sessions:
                    del self.sessions[key]
        if session.end is not None:
            self.later(session.end)
            session.end = None

    def has_room(self) -> bool:
        """Whether one more session may be begun; the one that was idle for longest makes room."""
        sessions = [session for some in self.sessions.values() for session in some]
        if len(sessions) + self.opening < SESSIONS_MAX:
            return True
        idle = [session for session in sessions if not session.users]
        if not idle:
            return False
        self.drop(min(idle, key=lambda session: session.used_ns))
        return True

    def sweep(self, before_ns: int) -> None:
        """End the sessions that nobody uses, or has used since then."""
        for sessions in list(self.sessions.values()):
            for session in [one for one in sessions if not one.users]:
                if session.used_ns < before_ns:
                    self.drop(session)

    def close(self) -> None:
        """The worker ends, or the server is gone from the configuration."""
        for key in list(self.parked):
            parked = self.take(key)
            if parked is not None:
                parked.expire()
        for key in list(self._clients):
            self.forget_client(key)
        for sessions in list(self.sessions.values()):
            for session in list(sessions):
                self.drop(session)
