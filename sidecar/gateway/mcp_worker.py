"""What a worker keeps of MCP over all configurations: sessions, processes, its own socket.

Source: design section 5 (`sessions`); spec/mcp_a2a.md sections 2.6 and 5.2 row 19.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, final

from shm.errors import ShmError
from shm.sessions import Owner
from sidecar.config.scalars import duration_seconds
from sidecar.errors import SidecarError, UpstreamError
from sidecar.gateway.mcp_keys import state_keys
from sidecar.gateway.mcp_old import STREAMS, OldStreams
from sidecar.gateway.mcp_opened import OpenedSessions
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request
from sidecar.mcp import event_ids
from sidecar.mcp.bridge.state import IDLE_SECONDS, BridgeState
from sidecar.mcp.bridge.target import Bridge, BridgedTarget
from sidecar.mcp.event_logs import LOGS, EventLogs
from sidecar.mcp.federation import Federation
from sidecar.mcp.lanes import Caller
from sidecar.mcp.peer_connection import OwnerGone
from sidecar.mcp.peers import OwnedTarget, Peers
from sidecar.mcp.sessions import Live, Sessions
from sidecar.mcp.token import Sealer
from sidecar.mcp.upstream.base import Messages, Outbound, Refused, Scope, Target
from sidecar.mcp.upstream.children import ChildLimits, Children
from sidecar.mcp.upstream.openapi_source import Sources
from sidecar.mcp.upstream.sse_connection import SseConnections
from sidecar.mcp.upstream.streamable import Lingerers
from sidecar.state.tables import Tables
from sidecar.telemetry.clock import Clock

_log = logging.getLogger("sidecar.gateway.mcp_worker")
SESSION_SECONDS: Final = 1800.0
_REAP_SECONDS: Final = 30.0
_RETIRE_SECONDS: Final = 30.0
"""How long calls under way may still use a target that is gone from the configuration."""
_TRIES: Final = 4
"""To learn what became of a log from its worker."""
_END_SECONDS: Final = 2.0
"""How long servers may take to hear that the gateway leaves."""
_REAPED_AT_ONCE: Final = 64
_ENDED_AT_ONCE: Final = 32
_BACKGROUND_MAX: Final = 1024

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], bool]


@final
class McpWorker:
    """Made once a worker; costs nothing until there is an `mcp` backend."""

    def __init__(
        self, tables: Tables, worker: int, workers: int, directory: str, clock: Clock
    ) -> None:
        """`worker`: of so many `workers`. `directory`: where their sockets are."""
        self._tables = tables
        self._clock = clock
        self._worker = worker
        self._peers = Peers(directory, worker, self._owned, workers)
        self._targets: dict[str, Target] = {}
        """Those whose state lives in one worker, by key."""
        self._named: frozenset[str] = frozenset()
        """Keys of the targets that the configuration in force names."""
        self._bridges: dict[str, BridgeState] = {}
        self._federations: dict[bytes, Federation] = {}
        self._states: dict[str, Federation] = {}
        self._states_before: dict[str, Federation] = {}
        """The same, and those of the round before, by `Federation.state`."""
        self._directory = Path(directory)
        self._opened: OpenedSessions | None = None
        """Sessions that began here, or at the worker before."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_started = False
        self._reap_seconds = _REAP_SECONDS
        self.sessions: Sessions | None = None
        self.key = tables.session_key
        self.generations = tables.generations
        self.lingerers = Lingerers()
        self.streams = OldStreams()
        self.logs = EventLogs(worker)
        self.apis = Sources()
        self.connections: SseConnections
        self.children: Children

    # --- configurations -------------------------------------------------------------------

    def begin_round(self) -> None:
        """A full compilation begins: it tells of all targets and backends anew."""
        self._federations = {}
        self._states_before, self._states = self._states, {}

    def serving(self, config: Mapping[str, Any]) -> McpWorker:
        """The same, ready to be used. `config`: of the process, of which the first one counts."""
        if self.sessions is None:
            ttl = (config.get("mcp") or {}).get("sessionTtl")
            seconds = SESSION_SECONDS if ttl is None else duration_seconds(ttl) or SESSION_SECONDS
            tables = self._tables
            self.sessions = Sessions(
                tables.sessions,
                Sealer(self.key),
                Owner.of_self(self._worker),
                seconds,
                self._clock,
                is_key_given=tables.is_key_given,
            )
            # Short lives are looked after in time, too.
            self._reap_seconds = min(_REAP_SECONDS, max(seconds / 2, 0.5))
            idle = 2 * seconds
            self.children = Children(ChildLimits(session_idle_seconds=idle))
            self.connections = SseConnections(idle)
        return self

    def own(
        self, key: str, target: Target, *, with_facts: bool = True, has_homes: bool = False
    ) -> Target:
        """A target whose state lives in one worker, as all workers use it. See OwnedTarget."""
        self._targets[key] = target
        return OwnedTarget(target, key, self._peers, with_facts=with_facts, has_homes=has_homes)

    def bridged(self, key: str, target: Target, *, is_legacy: bool = False) -> Target:
        """A server for clients of both eras. `key`: ends with `/` and its state's; `is_legacy`: it
        knows no other by its transport."""
        assert self.sessions is not None
        state = self._bridges.get(key)
        if state is None:
            made = BridgeState(self._worker, self.sessions.sealer, self._clock, self.later)
            state = self._bridges[key] = made
        here = self._targets[key] = Bridge(target, key, state)
        owned = OwnedTarget(here, key, self._peers)
        return BridgedTarget(target, key, state, owned, is_legacy=is_legacy)

    def _owned(self, key: str) -> Target | None:
        if key == STREAMS:
            return self.streams
        return self.logs if key == LOGS else self._targets.get(key)

    async def deliver(self, outbound: Outbound) -> None:
        """A message to a stream of the older transport, whichever worker holds it.

        Raises: Refused 404 when it has ended, UpstreamError.
        """
        owner = outbound.scope.owner
        if owner == self._worker:
            await self.streams.send(outbound)
        else:
            await self._peers.send(owner, STREAMS, outbound)

    async def logged(
        self, place: event_ids.Logged, last_event_id: bytes, caller: Caller
    ) -> Messages | None:
        """What followed an event of a log, whichever worker holds it; None when it is lost.

        Raises: UpstreamError, Refused when its worker lives, or may, and does not say.
        """
        assert caller.live is not None
        scope = Scope("session", caller.live.key, place.worker)
        version, request = caller.version, caller.request
        outbound = Outbound({}, "legacy", version, request, Headers(), scope)
        if place.worker == self._worker:
            return await self.logs.listen(outbound, last_event_id)
        if place.worker >= self._peers.workers:
            return None
        tries = _TRIES
        while True:
            try:
                return await self._peers.listen(place.worker, LOGS, outbound, last_event_id)
            except OwnerGone as error:
                if isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
                    return None
                # A kept connection may be its predecessor's. To ask again changes nothing there.
                tries -= 1
                if not tries:
                    raise

    async def listens_anew(self, caller: Caller) -> None:
        """Before a session's own stream is opened: servers may have but one of it."""
        assert caller.live is not None
        key = caller.live.key
        self.logs.end_listening(key)

        async def tell(worker: int) -> None:
            scope = Scope("session", key, worker)
            outbound = Outbound({}, "legacy", caller.version, caller.request, Headers(), scope)
            try:
                await self._peers.send(worker, LOGS, outbound)
            except (UpstreamError, Refused) as error:
                _log.debug("a worker was not told of a stream: %s", error)

        others = (one for one in range(self._peers.workers) if one != self._worker)
        await asyncio.gather(*map(tell, others))

    def add(self, federation: Federation) -> None:
        """The backend of this key as it is from now on."""
        self._federations[federation.key] = federation
        self._states[federation.state] = federation

    def in_state(self, state: str) -> Federation | None:
        """The backend with just the rules that another worker knows by this name; None when this
        worker does not know them yet, or any more."""
        return self._states.get(state) or self._states_before.get(state)

    def retire(self, resources: Mapping[str, Mapping[str, Any]]) -> None:
        """A configuration is in force. What only earlier ones named ends: what nobody uses at
        once, and what calls under way use after a while. `resources`: of its snapshot."""
        if not self._is_started:
            return
        keys = self._named = state_keys(resources)
        if not self._gone():
            return
        self.connections.retire(keys, is_urgent=False)

        async def retire() -> None:
            await self.children.retire(keys, is_urgent=False)
            await asyncio.sleep(_RETIRE_SECONDS)
            # A later configuration may name it again.
            named = self._named
            for key in self._gone():
                del self._targets[key]
                if (state := self._bridges.pop(key, None)) is not None:
                    state.close()
            self.connections.retire(named, is_urgent=True)
            await self.children.retire(named, is_urgent=True)

        # Whatever else is under way: nobody else ends them.
        self._begin(retire)

    def _gone(self) -> list[str]:
        return [key for key in self._targets if key.rpartition("/")[2] not in self._named]

    async def start(self) -> None:
        """Once there is an `mcp` backend. Raises: ConfigError, OSError."""
        if self._is_started or self.sessions is None:
            return
        path = self._directory / f"worker-{self._worker}.sessions"
        await self._peers.start()
        try:
            self._opened = OpenedSessions(self.sessions, path)
        except BaseException:
            await self._peers.close()
            raise
        # Not before: the next configuration tries again.
        self._is_started = True
        self.later(self._reap)

    # --- sessions -------------------------------------------------------------------------

    def opened(self, federation: Federation, live: Live) -> None:
        """A session began here: its end is seen to here, too."""
        assert self._opened is not None
        self._opened.add(federation.key, live)

    def closed(self, live: Live) -> None:
        """It was ended by its client."""
        assert self._opened is not None
        self._opened.discard(live.key)
        self.logs.end_session(live.key)

    async def _reap(self) -> None:
        """Tell servers of sessions that ended because nobody used them."""
        while True:
            await asyncio.sleep(self._reap_seconds)
            try:
                await self.reap()
            except ShmError as error:
                _log.warning("sessions could not be looked at: %s", error)

    async def reap(self) -> None:
        """One round. Raises: ShmError."""
        sessions = self.sessions
        assert sessions is not None
        self.connections.sweep()
        for state in self._bridges.values():
            state.sweep(self._clock.monotonic_ns() - IDLE_SECONDS * 1_000_000_000)
        for key in self.logs.sessions():
            if not sessions.is_live(key):
                self.logs.end_session(key)
        opened = self._opened
        assert opened is not None
        left: list[tuple[bytes, Live]] = []
        for count, (_, (backend, live)) in enumerate(opened):
            if count % _REAPED_AT_ONCE == _REAPED_AT_ONCE - 1:
                await asyncio.sleep(0)
            # By what servers gave meanwhile, to whichever worker.
            if not sessions.refresh(live):
                left.append((backend, live))
        # Several at once: one server that does not answer must not hold up the others.
        for first in range(0, len(left), _ENDED_AT_ONCE):
            some = left[first : first + _ENDED_AT_ONCE]
            await asyncio.gather(*(self._ended(backend, live) for backend, live in some))

    async def _ended(self, backend: bytes, live: Live) -> None:
        """Nobody used it for long. Raises: ShmError."""
        assert self._opened is not None
        assert self.sessions is not None
        if self.sessions.is_live(live.key):
            return  # with a key of one's own a client may have come back
        federation = self._federations.get(backend)
        if federation is not None and not self.sessions.was_deleted(live.key):
            await federation.end(self._caller(live))
        # Not before: a worker that is killed here leaves it to the next one.
        self._opened.discard(live.key)

    def _caller(self, live: Live) -> Caller:
        """In the name of a client that has gone."""
        connection = Connection("", 0, "", 0)
        nobody = Request("", "", "", "/", "", Headers(), FixedBody(), connection, 0)
        scope = Scope("session", live.key, live.row.owner.worker)
        principal, version = live.claims.principal, live.claims.version
        return Caller(nobody, Headers(), principal, "legacy", version, scope, live)

    # --- background -----------------------------------------------------------------------

    def later(self, make: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """See mcp.lanes.Later."""
        if len(self._tasks) >= _BACKGROUND_MAX:
            return False
        self._begin(make)
        return True

    async def surely(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for what goes on to its end also when the client that waits for it leaves."""
        await asyncio.shield(self._begin(make))

    def _begin(self, make: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(_quietly(make))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """The worker ends: nothing of a server stays behind."""
        before = set(self._tasks)
        for state in self._bridges.values():
            state.close()
        if ends := self._tasks - before:
            await asyncio.wait(ends, timeout=_END_SECONDS)
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self.sessions is None:
            return
        if self._is_started:
            await self._peers.close()
        if self._opened is not None:
            self._opened.close()
        await self.logs.close()
        await self.connections.close()
        await self.children.close()
        await self.lingerers.close()


async def _quietly(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await make()
    except SidecarError as error:
        _log.debug("what nobody waited for failed: %s", error)
