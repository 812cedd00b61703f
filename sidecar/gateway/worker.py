"""A worker process: listens, serves, applies new snapshots, drains.

Source: design sections 1 to 3; spec/config.md sections 10.1 and 10.2.
"""

from __future__ import annotations

import asyncio
import email.utils
import gc
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, final

import uvloop

from shm.config import ConfigTable, WorkerState
from shm.errors import LockTimeoutError, ShmError
from shm.metrics import MetricsTable
from sidecar.config.common import Common
from sidecar.config.snapshot import read_header, read_record
from sidecar.config.snapshot_diff import Index, diff
from sidecar.errors import ConfigError, RequestError, SidecarError
from sidecar.gateway.callouts import Backlog
from sidecar.gateway.compile import Compiler
from sidecar.gateway.connects import Connects
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.handover import Handover, Inherited, path_of
from sidecar.gateway.mcp_kept import KeptMcp
from sidecar.gateway.memory import collect_frozen, collect_seldom, keep_freed_memory
from sidecar.gateway.mesh import (
    KINDS,
    Front,
    Mesh,
    MeshDialer,
    WorkerMesh,
    is_meshed,
    packet_mark,
)
from sidecar.gateway.observe import Observers
from sidecar.gateway.parts import IN_NO_PART, bring_more
from sidecar.gateway.pipeline import Pipeline
from sidecar.gateway.plan import EXAMINED, Bind, Examine, Gateway, Listener, Mirror
from sidecar.gateway.ports import Ports, close_all
from sidecar.gateway.process import WorkerContext, clear
from sidecar.gateway.relaying import RELAYED, Relayed, Relaying
from sidecar.gateway.slices import Slices
from sidecar.gateway.surroundings import Surroundings
from sidecar.gateway.upstream import Pools
from sidecar.gateway.worker_counts import WorkerCounts
from sidecar.http.message import Connection, Handler, Request, Response
from sidecar.net.bind import Carried
from sidecar.net.dialer import DirectDialer
from sidecar.net.edns import use_edns0
from sidecar.net.listener import Port
from sidecar.net.outbox import Outbox
from sidecar.net.resolve import Resolver
from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import Relay
from sidecar.routing import canonical
from sidecar.state.tables import Tables
from sidecar.telemetry.clock import Clock, SystemClock
from sidecar.telemetry.debug_trace import RESOURCE as TRACE
from sidecar.telemetry.fields import AccessEntry

_log = logging.getLogger("sidecar.gateway.worker")
_MIRRORS_MAX: Final = 128
_MIRROR_SECONDS: Final = 30.0
_BACKLOG_SECONDS: Final = 2.0
"""How long a drain waits for calls of policies in the background."""
_RETRY_SECONDS: Final = 1.0
_STALE_IDLE: Final = 500
_STALE_MAX: Final = 20_000
MAX_IN_FLIGHT: Final = 1000


@final
class Worker:
    """One data-plane process. See Gate (net.bind) and WorkerState (gateway.exchange)."""

    def __init__(
        self,
        context: WorkerContext,
        configs: ConfigTable,
        metrics: MetricsTable,
        tables: Tables,
        loop: asyncio.AbstractEventLoop,
        directory: str,
        mesh: Mesh | None = None,
    ) -> None:
        """`directory`: where the workers' sockets for each other are."""
        self._context = context
        self._make_mesh = mesh
        self._mesh: WorkerMesh | None = None
        self._direct = DirectDialer(loop)
        self._dialer = MeshDialer(self._direct)
        self._configs = configs
        self.loop = loop
        self.clock: Clock = SystemClock()
        self.sweeper = Sweeper(loop)
        self.in_flight = 0
        self.max_in_flight = MAX_IN_FLIGHT
        self.gateway: Gateway
        inherited = Inherited.ask(context.predecessor, context.worker, configs.workers)
        self._ports = Ports(self, inherited)
        self._handover = Handover(loop, path_of(directory, context.worker), self._ports.listening)
        self._index: Index = ()
        self._common = Common()
        self._date = (0, b"", b"")
        self._mirrors: set[asyncio.Task[None]] = set()
        self._backlog = Backlog()
        self._tasks: set[asyncio.Task[Any]] = set()
        writer = metrics.writer(context.worker)
        self._observers = Observers(writer, loop, self.clock, tables)
        self._endpoints = Endpoints(tables.endpoints.column(context.worker))
        self._mcp = KeptMcp(tables, context.worker, configs.workers, directory, self.clock)
        self._pools: Pools | None = None
        self._compiler: Compiler | None = None
        self._connects = Connects(self, self._keep)
        self._stopping = loop.create_future()
        self._counts = WorkerCounts(self._observers, context.worker)
        self._applying = asyncio.Lock()
        self._draw = random.random
        self._relaying = Relaying(self, self._draw)
        self._slices = Slices(lambda: self.in_flight)
        self._stale = 0
        """Resources replaced since the last collection."""
        self._seen_generation = 0
        """The newest that was applied or refused."""
        self._outbox = Outbox(loop)

    # --- life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until SIGTERM, then drain."""
        self._configs.join(self._context.worker)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._stop)
        self.loop.add_reader(self._context.wake_fd, self._woken)
        leases = self._observers.leases
        if leases is not None:
            await leases.open()
        await self._apply(is_first=True)
        self._handover.start()
        self._configs.set_state(self._context.worker, WorkerState.SERVING)
        self._context.ready()
        self._context.report()
        lag = self.loop.create_task(self._watch_lag())
        try:
            await self._stopping
            await self._drain()
        finally:
            lag.cancel()
            if leases is not None:
                await leases.close()
                self._counts.count_leases(leases)
            self._observers.close()
            self._counts.count_rows()

    def _stop(self) -> None:
        if not self._stopping.done():
            self._stopping.set_result(None)

    async def _watch_lag(self) -> None:
        while True:
            started = self.loop.time()
            await asyncio.sleep(1.0)
            self._counts.look(max(self.loop.time() - started - 1.0, 0.0), self.in_flight)
            if self._mesh is not None:
                self._mesh.measure(self.gateway.requests.registry)
            if self._stale > (_STALE_IDLE if not self.in_flight else _STALE_MAX):
                self._stale = 0
                collect_frozen()

    async def _drain(self) -> None:
        """Spec/config.md section 10.2: go on accepting for the minimum, then finish what runs."""
        self._handover.close()
        seconds = self._observers.drain_seconds
        parts = [self._ports.drain(*seconds)]
        if self._mesh is not None:
            parts.append(self._mesh.drain(*seconds))
        draining = asyncio.gather(*parts)
        await asyncio.sleep(0)  # each has told its connections by now
        try:
            self._configs.set_state(self._context.worker, WorkerState.DRAINING)
        except LockTimeoutError as error:
            _log.error("not said to be draining: %s", error)  # what is under way ends all the same
        await draining
        if self._compiler is not None:
            self._compiler.close()
        await self._backlog.close(_BACKLOG_SECONDS)
        await self._mcp.close()
        if self._mesh is not None:
            await self._mesh.close()
        for task in (*self._mirrors, *self._tasks):
            task.cancel()
        if self._pools is not None:
            self._pools.close()
        self.sweeper.close()

    # --- configuration --------------------------------------------------------------------

    def _woken(self) -> None:
        clear(self._context.wake_fd)
        self._look()

    def _look(self) -> None:
        task = self.loop.create_task(self._apply())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _apply(self, *, is_first: bool = False) -> None:
        """Compile the published snapshot beside the running one and swap; report either way."""
        async with self._applying:
            if self._stopping.done():
                return
            if not is_first and self._configs.generation == self.gateway.generation:
                return
            try:
                generation, buffer = self._configs.read_current()
            except (ShmError, OSError):
                if is_first:
                    raise
                # Out of descriptors, say. Nobody would wake us for this one again.
                _log.exception("the configuration cannot be read; trying again soon")
                self._look_later()
                return
            await self._slices.give_way()
            refusal = ""
            try:
                await self._compile_and_swap(generation, buffer)
            except ConfigError as error:
                if is_first:
                    raise
                _log.error("configuration %d refused: %s", generation, error)
                refusal = str(error)
            except LockTimeoutError as error:
                if is_first:
                    raise
                # No fault of the configuration: were it refused, it would be gone for good.
                _log.error("configuration %d: trying again soon: %s", generation, error)
                self._look_later()
                return
            except Exception as error:
                if is_first:
                    raise
                _log.exception("configuration %d failed inside the gateway", generation)
                refusal = f"internal error: {error}"
            self._report(generation, refusal)

    def _look_later(self) -> None:
        self.loop.call_later(_RETRY_SECONDS, self._look)

    def _report(self, generation: int, refusal: str) -> None:
        """Tell control, now or, where the table's lock is not to be had, a little later."""
        self._seen_generation = max(self._seen_generation, generation)
        if generation < self._seen_generation:
            return  # more was said since
        try:
            self._configs.report(self._context.worker, generation, refusal)
        except LockTimeoutError as error:
            _log.error("configuration %d: not reported yet: %s", generation, error)
            self.loop.call_later(_RETRY_SECONDS, self._report, generation, refusal)
        else:
            self._context.report()

    async def _compile_and_swap(self, generation: int, buffer: memoryview) -> None:
        read_header(buffer)
        difference = await self._slices.run(diff(self._index, buffer))
        changed: dict[str, Mapping[str, Any]] = {}
        encoded: list[bytes] = []
        for count, record in enumerate(difference.changed):
            changed[record.key] = data = read_record(buffer, record)
            if not record.key.startswith(IN_NO_PART):
                encoded.append(bytes(buffer[record.offset : record.offset + record.size]))
            if record.key.startswith("workload/"):
                self._common.share(data)
            if count % 64 == 63:
                await self._slices.give_way()
        levels = changed.pop("runtime/levels", None)
        listener = changed.pop(TRACE, None)
        if levels is not None:
            self._observers.set_levels(levels["spec"])
        if self._compiler is not None:
            await self.loop.run_in_executor(None, bring_more, encoded)
        del encoded
        await self._slices.give_way()
        compiler = self._compiler or self._first_compiler(changed)
        config = changed.get("static/config", {}).get("config", {})
        ipv6 = bool(config.get("enableIpv6", self._observers.uses_ipv6))
        # Before compilation, which changes what this worker keeps: what can be refused comes first.
        opened = self._ports.open(changed, ipv6=ipv6)
        before = compiler.resources
        try:
            self._apply_mesh(changed, difference.removed)
            gateway = await self._slices.run(
                compiler.compile(generation, changed, difference.removed)
            )
            await self._mcp.start()
            await self._slices.give_way()
        except BaseException:
            close_all(opened)
            compiler.undo(before)
            self._restore_mesh(compiler, changed, difference.removed)
            raise
        self._ports.swap(gateway.binds, opened, self._observers.drain_seconds[1])
        self.gateway = gateway
        await self._observers.follow_trace(gateway, listener, self.loop, self._context.worker)
        self._mcp.retire(compiler.resources)
        self._counts.begin(gateway.requests.registry)
        # What is garbage now was there before: a mesh that comes whole leaves none.
        held = sum([block.count for block in self._index])
        self._index = difference.index
        # A collection would otherwise walk all of this again and again (tens of milliseconds).
        gc.freeze()
        self._stale += min(len(difference.changed), held) + len(difference.removed)

    def _apply_mesh(self, changed: Mapping[str, Mapping[str, Any]], removed: Sequence[str]) -> None:
        """Hand the mesh what is its own. Raises: ConfigError."""
        mesh = self._mesh
        known = {} if self._compiler is None else self._compiler.resources
        if mesh is None:
            if self._make_mesh is None or not is_meshed(changed):
                return
            config = changed.get("static/config") or known["static/config"]
            mesh = self._make_mesh.worker(self, config["config"])
            changed = {**known, **changed}
        mesh.apply(
            {key: data for key, data in changed.items() if key.startswith(KINDS)},
            [key for key in removed if key.startswith(KINDS)],
        )
        self._mesh = self._dialer.mesh = mesh

    def _restore_mesh(
        self, compiler: Compiler, changed: Mapping[str, Any], removed: Sequence[str]
    ) -> None:
        """Nothing of a configuration that is refused may count in the mesh alone: a policy that it
        would have taken away is in force still. A certificate is as good as the one before it."""
        if self._mesh is None:
            return
        known = compiler.resources
        kinds = tuple(kind for kind in KINDS if kind != "identity/")
        keys = [key for key in (*changed, *removed) if key.startswith(kinds)]
        before = {key: known[key] for key in keys if key in known}
        self._mesh.apply(before, [key for key in keys if key not in before])

    def _first_compiler(self, changed: Mapping[str, Mapping[str, Any]]) -> Compiler:
        config = changed.get("static/config", {}).get("config", {})
        self.max_in_flight = config.get("maxRequestsInFlight") or MAX_IN_FLIGHT
        self._direct.mark = packet_mark(config)
        dns = config.get("dns") or {}
        use_edns0(dns.get("edns0"))
        family = dns.get("lookupFamily") or "Auto"
        pools = Pools(
            self._dialer,
            self.loop,
            self.sweeper,
            Resolver(self.loop, family),
            self._observers.connected,
        )
        self._pools = pools
        self._compiler = Compiler(
            Surroundings(
                pools=pools,
                random=self._draw,
                services=self._observers.services,
                telemetry=self._observers.telemetry,
                admin=self._observers.admin_address,
                backlog=self._backlog,
                endpoints=self._endpoints,
                mcp=self._mcp,
                mesh=lambda: self._mesh,
            )
        )
        return self._compiler

    # --- Gate: what ports ask ---------------------------------------------------------------

    def handler_for(self, bind: str) -> Handler:
        """See Gate."""
        return Pipeline(bind, self, self._draw, self._outbox)

    def date(self) -> bytes:
        """See Gate."""
        now = int(time.time())
        if self._date[0] != now:
            value = email.utils.formatdate(now, usegmt=True).encode()
            self._date = (now, b"date: %b\r\n" % value, value)
        return self._date[1]

    def date_value(self) -> bytes:
        """See Gate."""
        self.date()
        return self._date[2]

    check_authority: Callable[[str], str] = staticmethod(canonical.authority)

    def admit(self, bind: str, connection: Connection) -> bool:
        """See Gate."""
        found = self.gateway.bind(bind)
        if found is None or (found.examine is not None and not connection.extra.get(EXAMINED)):
            return False
        return found.admit is None or found.admit(connection)

    def examine(self, bind: str, connection: Connection) -> Awaitable[None] | None:
        """See Gate."""
        found = self.gateway.bind(bind)
        if found is None or found.examine is None:
            return None
        return self._examined(found, found.examine, connection)

    @staticmethod
    async def _examined(bind: Bind, examine: Examine, connection: Connection) -> None:
        # Our own rules first: whom they keep out costs no call.
        if bind.admit is None or bind.admit(connection):
            connection.extra[EXAMINED] = await examine(connection)

    def _listener(self, bind: Bind | None, connection: Connection) -> Listener | None:
        if bind is None:
            return None
        key = connection.extra.get("listener")
        if isinstance(key, str):
            return bind.listeners.get(key)
        return next(iter(bind.listeners.values()), None)

    def carry(self, bind: str, tunnel: str, connection: Connection) -> Carried | None:
        """See Gate."""
        return None if self._mesh is None else self._mesh.carry(bind, tunnel, connection)

    def handed_on(self, bind: str, connection: Connection) -> Port | None:
        """See Gate."""
        found = self.gateway.bind(bind)
        if found is None:
            return None
        own = self._ports.enter(found)
        return own if self._mesh is None else self._mesh.handed_on(own, connection)

    # --- MeshGate: what the mesh asks -----------------------------------------------------

    def front(self, front: Front) -> Port | None:
        """See MeshGate."""
        found = self.gateway.bind(str(front))
        return None if found is None else self._ports.enter(found)

    def port_of(self, number: int) -> Port | None:
        """See MeshGate."""
        binds = self.gateway.binds
        # A control plane names them otherwise than files do.
        found = next((one for one in binds.values() if one.plan.port == number), None)
        found = found or binds.get("bind/wildcard")
        return None if found is None else self._ports.enter(found)

    def connection_opened(self, bind: str, connection: Connection, handshake: float) -> None:
        """See Gate."""
        listener = self._listener(self.gateway.bind(bind), connection)
        if listener is not None:
            listener.metrics.connections.add(1)
            if handshake:
                listener.metrics.handshake.observe(handshake)

    def connection_closed(
        self, bind: str, connection: Connection, received: int, sent: int
    ) -> None:
        """See Gate."""
        listener = self._listener(self.gateway.bind(bind), connection)
        if listener is not None:
            listener.metrics.received.add(received)
            listener.metrics.sent.add(sent)
        relayed = connection.extra.get(RELAYED)
        if isinstance(relayed, Relayed):
            self._relaying.log(connection, relayed, received, sent)

    def request_refused(self, bind: str, connection: Connection, error: RequestError) -> None:
        """See Gate."""
        listener = self._listener(self.gateway.bind(bind), connection)
        labels = self.gateway.unrouted if listener is None else listener.labels
        entry = AccessEntry(
            connection,
            None,
            None,
            labels,
            status=error.status,
            error=error.message,
            reason=error.code,
        )
        labels.metrics.finish(entry)
        if self.gateway.access_log is not None:
            self.gateway.access_log.emit(entry)

    async def dial(self, bind: str, listener: str, connection: Connection) -> Relay:
        """See Gate."""
        return await self._relaying.dial(bind, listener, connection)

    async def relay(self, bind: str, listener: str, connection: Connection, side: Relay) -> None:
        """See Gate."""
        await self._relaying.relay(bind, listener, connection, side)

    # --- WorkerState: what the pipeline asks --------------------------------------------------

    async def connect(self, request: Request) -> Response:
        """See WorkerState."""
        return await self._connects.answer(request)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def mirror(self, request: Request, mirror: Mirror) -> None:
        """See WorkerState."""
        if len(self._mirrors) >= _MIRRORS_MAX:
            return
        task = self.loop.create_task(self._send_mirror(mirror.policy.copied(request), mirror))
        self._mirrors.add(task)
        task.add_done_callback(self._mirrors.discard)

    async def _send_mirror(self, request: Request, mirror: Mirror) -> None:
        shadow = mirror.shadow
        try:
            await shadow.discard(request, _MIRROR_SECONDS)
        except SidecarError as error:
            _log.debug("mirror to %s: %s", shadow.label, error)


def worker_main(
    context: WorkerContext,
    configs: ConfigTable,
    metrics: MetricsTable,
    tables: Tables,
    directory: str,
    mesh: Mesh | None = None,
) -> None:
    """The body of a worker process; returns after its drain. `directory`: see Worker."""

    collect_seldom()
    keep_freed_memory()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await Worker(context, configs, metrics, tables, loop, directory, mesh).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
