"""A worker process: listens, serves, applies new snapshots, drains.

Source: design sections 1 to 3; spec/config.md sections 10.1 and 10.2.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, final

import uvloop

from shm.config import ConfigTable, WorkerState
from shm.errors import LockTimeoutError
from shm.metrics import MetricsTable
from sidecar.errors import RequestError
from sidecar.gateway.applying import Applying, Change
from sidecar.gateway.callouts import Backlog
from sidecar.gateway.compile import Compiler
from sidecar.gateway.connects import Connects
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.handover import Handover, Inherited, path_of
from sidecar.gateway.mcp_kept import KeptMcp
from sidecar.gateway.memory import collect_seldom, keep_freed_memory
from sidecar.gateway.mesh import Front, Mesh, MeshDialer, packet_mark
from sidecar.gateway.mesh_part import MeshPart
from sidecar.gateway.mirrors import Mirrors
from sidecar.gateway.observe import Observers
from sidecar.gateway.parts import bring_more
from sidecar.gateway.pipeline import Pipeline
from sidecar.gateway.plan import EXAMINED, Bind, Examine, Gateway, Listener, Mirror
from sidecar.gateway.ports import Opened, Ports, close_all
from sidecar.gateway.process import WorkerContext
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
_BACKLOG_SECONDS: Final = 2.0
"""How long a drain waits for calls of policies in the background."""
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
        self._direct = DirectDialer(loop)
        self._dialer = MeshDialer(self._direct)
        self._mesh = MeshPart(mesh, self, self._dialer)
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
        self._date = (0, b"", b"")
        self._mirrors = Mirrors(loop)
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
        self._draw = random.random
        self._relaying = Relaying(self, self._draw)
        self._slices = Slices(lambda: self.in_flight)
        self._applying = Applying(
            context,
            configs,
            loop,
            self._slices,
            take=self._take,
            running=lambda: self.gateway.generation,
            is_stopping=self._stopping.done,
            keep=self._keep,
        )
        self._outbox = Outbox(loop)

    # --- life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until SIGTERM, then drain."""
        self._configs.join(self._context.worker)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._stop)
        self.loop.add_reader(self._context.wake_fd, self._applying.woken)
        leases = self._observers.leases
        if leases is not None:
            await leases.open()
        await self._applying.begin()
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
            if self._mesh.now is not None:
                self._mesh.now.measure(self.gateway.requests.registry)
            self._applying.collect(is_idle=not self.in_flight)

    async def _drain(self) -> None:
        """Spec/config.md section 10.2: go on accepting for the minimum, then finish what runs."""
        self._handover.close()
        seconds = self._observers.drain_seconds
        parts = [self._ports.drain(*seconds)]
        if self._mesh.now is not None:
            parts.append(self._mesh.now.drain(*seconds))
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
        if self._mesh.now is not None:
            await self._mesh.now.close()
        self._mirrors.cancel()
        for task in self._tasks:
            task.cancel()
        if self._pools is not None:
            self._pools.close()
        self.sweeper.close()

    # --- configuration --------------------------------------------------------------------

    async def _take(self, change: Change) -> None:
        """Compile beside the running configuration, and swap. See Applying."""
        changed = change.changed
        levels = changed.pop("runtime/levels", None)
        listener = changed.pop(TRACE, None)
        if levels is not None:
            self._observers.set_levels(levels["spec"])
        if self._compiler is not None:
            await self.loop.run_in_executor(None, bring_more, change.encoded)
        change.encoded.clear()
        await self._slices.give_way()
        compiler = self._compiler or self._first_compiler(changed)
        gateway, opened = await self._compile(compiler, change)
        self._ports.swap(gateway.binds, opened, self._observers.drain_seconds[1])
        self.gateway = gateway
        await self._observers.follow_trace(gateway, listener, self.loop, self._context.worker)
        self._mcp.retire(compiler.resources)
        self._counts.begin(gateway.requests.registry)

    async def _compile(self, compiler: Compiler, change: Change) -> tuple[Gateway, Opened]:
        """What would run, and the sockets it needs further. Raises: ConfigError, and what else is
        in the way; nothing has changed then."""
        changed, removed = change.changed, change.removed
        config = changed.get("static/config", {}).get("config", {})
        ipv6 = bool(config.get("enableIpv6", self._observers.uses_ipv6))
        # Before compilation, which changes what this worker keeps: what can be refused comes first.
        opened = self._ports.open(changed, ipv6=ipv6)
        before = compiler.resources
        try:
            self._mesh.apply(changed, removed, before)
            gateway = await self._slices.run(compiler.compile(change.generation, changed, removed))
            await self._mcp.start()
            await self._slices.give_way()
        except BaseException:
            close_all(opened)
            compiler.undo(before)
            self._mesh.restore(changed, removed, compiler.resources)
            raise
        return gateway, opened

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
                mesh=lambda: self._mesh.now,
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
        return self._mesh.carry(bind, tunnel, connection)

    def handed_on(self, bind: str, connection: Connection) -> Port | None:
        """See Gate."""
        found = self.gateway.bind(bind)
        if found is None:
            return None
        return self._mesh.handed_on(self._ports.enter(found), connection)

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
        self._mirrors.send(request, mirror)


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
