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
from dataclasses import dataclass
from typing import Any, Final, final

import uvloop

from shm.config import ConfigTable, WorkerState
from shm.metrics import MetricsTable
from sidecar.config.common import Common
from sidecar.config.snapshot import read_header, read_record
from sidecar.config.snapshot_diff import Index, diff
from sidecar.errors import ConfigError, RequestError, SidecarError
from sidecar.gateway.callouts import Backlog
from sidecar.gateway.compile import Compiler, Surroundings
from sidecar.gateway.connects import Connects
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.mcp_worker import McpWorker
from sidecar.gateway.memory import keep_freed_memory
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
from sidecar.gateway.pipeline import Pipeline
from sidecar.gateway.plan import EXAMINED, Bind, Examine, Gateway, Listener, Mirror, TcpRoute
from sidecar.gateway.ports import Ports
from sidecar.gateway.process import WorkerContext, clear
from sidecar.gateway.upstream import Pools
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Handler, Request, Response
from sidecar.net.dialer import DirectDialer
from sidecar.net.edns import use_edns0
from sidecar.net.listener import Carried, Port
from sidecar.net.outbox import Outbox
from sidecar.net.resolve import Resolver
from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import Relay
from sidecar.routing import canonical
from sidecar.state.leases import Leases
from sidecar.state.tables import Tables
from sidecar.telemetry.clock import Clock, SystemClock
from sidecar.telemetry.fields import AccessEntry
from sidecar.telemetry.metrics import LeaseMetrics, RequestLogMetrics, WorkerMetrics

_log = logging.getLogger("sidecar.gateway.worker")
_SLICE_SECONDS: Final = 0.001
_PAUSE_SECONDS: Final = 0.001
_MIRRORS_MAX: Final = 128
_MIRROR_SECONDS: Final = 30.0
_BACKLOG_SECONDS: Final = 2.0
"""How long a drain waits for calls of policies in the background."""
_STALE_IDLE: Final = 500
_STALE_MAX: Final = 20_000
_GC_THRESHOLDS: Final = (20_000, 20, 50)
"""Requests make no cycles, so the collector has little to find; the default looks every 700."""
MAX_IN_FLIGHT: Final = 1000


@final
@dataclass(slots=True)
class _Relayed:
    """A TCP connection under way, for its line in the access log."""

    route: TcpRoute
    started_ns: int
    endpoint: str = ""
    error: str = ""


@final
class Worker:
    """One data-plane process. See Gate (net.listener) and WorkerState (gateway.exchange)."""

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
        self._ports = Ports(self)
        self._index: Index = ()
        self._common = Common()
        self._date = (0, b"", b"")
        self._mirrors: set[asyncio.Task[None]] = set()
        self._backlog = Backlog()
        self._tasks: set[asyncio.Task[Any]] = set()
        writer = metrics.writer(context.worker)
        self._observers = Observers(writer, loop, self.clock, tables)
        self._endpoints = Endpoints(tables.endpoints.column(context.worker))
        self._mcp = McpWorker(tables, context.worker, configs.workers, directory, self.clock)
        self._pools: Pools | None = None
        self._compiler: Compiler | None = None
        self._connects = Connects(self, self._keep)
        self._stopping = loop.create_future()
        self._own: WorkerMetrics | None = None
        self._lease_metrics: LeaseMetrics | None = None
        self._row_metrics: RequestLogMetrics | None = None
        self._applying = asyncio.Lock()
        self._draw = random.random
        self._stale = 0
        """Resources replaced since the last `_collect`."""
        self._outbox = Outbox(loop)
        self._dropped = (0, 0)
        """Log lines and spans lost, as last counted."""

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
                self._count_leases(leases)
            self._observers.close()
            self._count_rows()

    def _stop(self) -> None:
        if not self._stopping.done():
            self._stopping.set_result(None)

    async def _watch_lag(self) -> None:
        while True:
            started = self.loop.time()
            await asyncio.sleep(1.0)
            if self._own is not None:
                self._own.loop_lag.observe(max(self.loop.time() - started - 1.0, 0.0))
                self._own.in_flight.set(self.in_flight)
                self._count_dropped(self._own)
                if self._observers.leases is not None:
                    self._count_leases(self._observers.leases)
                self._count_rows()
                if self._mesh is not None:
                    self._mesh.measure(self.gateway.requests.registry)
            if self._stale > (_STALE_IDLE if not self.in_flight else _STALE_MAX):
                self._collect()

    def _count_leases(self, leases: Leases) -> None:
        if self._lease_metrics is None and self._own is not None:
            self._lease_metrics = LeaseMetrics(self.gateway.requests.registry)
        if self._lease_metrics is not None:
            self._lease_metrics.take(leases.counted())

    def _count_rows(self) -> None:
        request_log = self._observers.request_log
        if request_log is None or self._own is None:
            return
        if self._row_metrics is None:
            self._row_metrics = RequestLogMetrics(self.gateway.requests.registry)
        self._row_metrics.take(request_log.counts())

    def _count_dropped(self, own: WorkerMetrics) -> None:
        dropped = self._observers.dropped()
        for kind, now, before in zip(("log", "span"), dropped, self._dropped, strict=True):
            own.dropped(kind, now - before)
        self._dropped = dropped

    def _collect(self) -> None:
        """Free what earlier configurations left in cycles, which `gc.freeze` keeps for ever.

        It stops the worker for about 10 µs a route that runs, so it waits until many resources
        have been replaced, and for a moment without requests unless there are very many.
        """
        self._stale = 0
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    async def _drain(self) -> None:
        """Spec/config.md section 10.2: go on accepting for the minimum, then finish what runs."""
        self._configs.set_state(self._context.worker, WorkerState.DRAINING)
        seconds = self._observers.drain_seconds
        draining = [self._ports.drain(*seconds)]
        if self._mesh is not None:
            draining.append(self._mesh.drain(*seconds))
        await asyncio.gather(*draining)
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
            generation, buffer = self._configs.read_current()
            await self._give_way()
            try:
                await self._compile_and_swap(generation, buffer)
            except ConfigError as error:
                if is_first:
                    raise
                _log.error("configuration %d refused: %s", generation, error)
                self._configs.report(self._context.worker, generation, str(error))
            except Exception as error:
                if is_first:
                    raise
                _log.exception("configuration %d failed inside the gateway", generation)
                self._configs.report(self._context.worker, generation, f"internal error: {error}")
            else:
                self._configs.report(self._context.worker, generation)
            self._context.report()

    async def _compile_and_swap(self, generation: int, buffer: memoryview) -> None:
        read_header(buffer)
        difference = await self._sliced(diff(self._index, buffer))
        changed: dict[str, Mapping[str, Any]] = {}
        for count, record in enumerate(difference.changed):
            changed[record.key] = data = read_record(buffer, record)
            if record.key.startswith("workload/"):
                self._common.share(data)
            if count % 64 == 63:
                await self._give_way()
        levels = changed.pop("runtime/levels", None)
        if levels is not None:
            self._observers.set_levels(levels["spec"])
        await self._give_way()
        compiler = self._compiler or self._first_compiler(changed)
        config = changed.get("static/config", {}).get("config", {})
        ipv6 = bool(config.get("enableIpv6", self._observers.uses_ipv6))
        # Before compilation, which changes what this worker keeps: what can be refused comes first.
        opened = self._ports.open(changed, ipv6=ipv6)
        try:
            self._apply_mesh(changed, difference.removed)
            gateway = await self._sliced(compiler.compile(generation, changed, difference.removed))
            await self._mcp.start()
            await self._give_way()
        except BaseException:
            for sock in opened.values():
                sock.close()
            self._restore_mesh(compiler, changed, difference.removed)
            raise
        self._ports.swap(gateway.binds, opened, self._observers.drain_seconds[1])
        self.gateway = gateway
        self._mcp.retire(compiler.resources)
        self._own = WorkerMetrics(gateway.requests.registry, self._context.worker)
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

    async def _sliced(self, steps: Any) -> Any:
        """Run a generator to its end in slices of a millisecond; its return value."""
        until = time.perf_counter() + _SLICE_SECONDS
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return stop.value
            if time.perf_counter() > until:
                await self._give_way()
                until = time.perf_counter() + _SLICE_SECONDS

    async def _give_way(self) -> None:
        """Let requests pass between two slices of a compilation.

        Each meets several turns of the loop, and would wait for a slice at every one: what has come
        is read in one turn and sent on in the next (see Outbox), and its answer likewise. So while
        there are any, they get as much time as the compilation.
        """
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if self.in_flight:
            await asyncio.sleep(_PAUSE_SECONDS)

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
        relayed = connection.extra.get("relayed")
        if isinstance(relayed, _Relayed):
            self._log_relayed(connection, relayed, received, sent)

    def _log_relayed(
        self, connection: Connection, relayed: _Relayed, received: int, sent: int
    ) -> None:
        entry = AccessEntry(
            connection,
            None,
            None,
            relayed.route,
            request_bytes=received,
            response_bytes=sent,
            duration_ns=self.clock.monotonic_ns() - relayed.started_ns,
            endpoint=relayed.endpoint,
            error=relayed.error,
            reason="UpstreamFailure" if relayed.error else "Upstream",
        )
        if self.gateway.access_log is not None:
            self.gateway.access_log.emit(entry)

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
        found = self.gateway.bind(bind)
        place = found.listeners.get(listener) if found is not None else None
        sni = connection.tls.sni if connection.tls is not None else ""
        route = place.tcp_routes.match(sni) if place is not None else None
        backend = route.choose(self._draw()) if route is not None else None
        if route is None or backend is None:
            raise RequestError(404, "NotFound", "route not found")
        relayed = _Relayed(route, self.clock.monotonic_ns())
        connection.extra["relayed"] = relayed
        try:
            request = _tcp_request(connection, sni)
            picked = backend.upstream.pick_nowait(request) or await backend.upstream.pick(request)
            relayed.endpoint = picked.label
            other = Relay(self.sweeper, 3600.0)
            await picked.pool.open_stream(lambda: other)
        except SidecarError as error:
            relayed.error = str(error)
            raise
        return other

    async def relay(self, bind: str, listener: str, connection: Connection, side: Relay) -> None:
        """See Gate."""
        try:
            other = await self.dial(bind, listener, connection)
        except SidecarError:
            side.transport.close()
            return
        if side.transport.is_closing():
            other.transport.abort()
            return
        side.join(other)

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


def _tcp_request(connection: Connection, sni: str) -> Request:
    """What a dynamic TCP destination is computed from: server name and original port."""
    authority = f"{sni}:{connection.local_port}" if sni else ""
    return Request("CONNECT", "", authority, "", "", Headers(), FixedBody(), connection, 0)


def worker_main(
    context: WorkerContext,
    configs: ConfigTable,
    metrics: MetricsTable,
    tables: Tables,
    directory: str,
    mesh: Mesh | None = None,
) -> None:
    """The body of a worker process; returns after its drain. `directory`: see Worker."""

    gc.set_threshold(*_GC_THRESHOLDS)
    keep_freed_memory()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await Worker(context, configs, metrics, tables, loop, directory, mesh).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
