"""The control process: loads and watches the configuration, publishes it, serves admin and stats.

Source: design sections 1 and 2; spec/config.md sections 8.3, 8.4 and 10.1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final, final

import uvloop
from starlette.routing import Route

from shm.cells import Series
from shm.config import ConfigTable, WorkerState
from shm.errors import LockTimeoutError, ShmError
from shm.metrics import MetricsTable
from sidecar.admin.api import ProcessStatus
from sidecar.admin.budgets import budgets_route
from sidecar.admin.cel import cel_routes
from sidecar.admin.debug_trace import debug_trace_routes
from sidecar.admin.logs import RequestLogReader, log_routes
from sidecar.admin.server import AdminServer
from sidecar.admin.state import state_routes
from sidecar.config.mesh import OWN
from sidecar.config.problems import InvalidConfigError
from sidecar.config.snapshot import (
    Resource,
    Snapshot,
    encode,
)
from sidecar.config.svid import KEY as SVID
from sidecar.errors import ConfigError
from sidecar.gateway.admin_servers import start_servers
from sidecar.gateway.expressions import expression_engine
from sidecar.gateway.frontdoor import front_door
from sidecar.gateway.loading import LoadedSnapshot, Loader
from sidecar.gateway.memory import collect_seldom
from sidecar.gateway.mesh import CONTRIBUTED, ControlMesh, Mesh
from sidecar.gateway.own_certificate import OwnCertificate
from sidecar.gateway.price_feeds import (
    PriceFeeds,
    fetch_prices,
    repriced,
    sources_of,
    texts_of,
)
from sidecar.gateway.process import ControlContext, clear
from sidecar.gateway.published import LEVELS, difference_of, read_running
from sidecar.gateway.reload import FileWatcher
from sidecar.gateway.tending import (
    COLLECT_SECONDS,
    budget_keeper,
    count_leases,
    lease_keeper,
    row_age_ns,
    tend_tables,
    untiring,
)
from sidecar.policies.amounts import UNITS, shown
from sidecar.state.leases import Leases
from sidecar.state.redis_keeper import LeaseKeeper
from sidecar.state.report import Amounts, Report
from sidecar.state.request_log import RequestLogDatabase
from sidecar.state.request_log_database import database_of
from sidecar.state.retention import RowKeeper
from sidecar.state.tables import Tables
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.debug_trace import RESOURCE as TRACE
from sidecar.telemetry.logs import Logs, parse_levels
from sidecar.telemetry.metrics import GatewayMetrics, Registry
from sidecar.telemetry.sink import LogSink
from sidecar.version import package_version

_log = logging.getLogger("sidecar.gateway.control")
_STDOUT: Final = 1
_POLL_SECONDS: Final = 0.02
_NICE: Final = 5


Run = tuple[str, Callable[[], Awaitable[None]]]


@final
class Control:
    """See the module. Implements admin.api.AdminState."""

    def __init__(
        self,
        context: ControlContext,
        loader: Loader,
        configs: ConfigTable,
        metrics: MetricsTable,
        tables: Tables,
        loop: asyncio.AbstractEventLoop,
        preloaded: LoadedSnapshot | None,
        mesh: Mesh | None = None,
    ) -> None:
        self._make_mesh = mesh
        self._mesh: ControlMesh | None = None
        self._is_meshed = False
        """Whether all that readiness waits for of the mesh was there once."""
        self._extra: dict[str, Resource] = {}
        """What the mesh adds to the file; the file comes first."""
        self._good_extra: dict[str, Resource] = {}
        """As of the last configuration that every worker applied."""
        self._context = context
        self._loader = loader
        self._configs = configs
        self._metrics = metrics
        self._tables = tables
        self._loop = loop
        self._preloaded = preloaded
        self._current: LoadedSnapshot
        self._levels = ""
        self._trace: Mapping[str, object] | None = None
        """Who listens to requests (admin.debug_trace), if anybody does."""
        self._stopping: asyncio.Future[None] = loop.create_future()
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._error = ""
        self._good: LoadedSnapshot | None = None
        """The last configuration that every worker applied."""
        self._static: Resource
        """`config` as of the start: what it says holds until the gateway is started again."""
        self._is_ready = False
        self._reader: RequestLogReader | None = None
        self._is_leaving = False
        """Whether the workers are gone, so that answers without end must end."""
        self._leases: Leases | None = tables.leasing(SystemClock())
        self._servers: list[AdminServer] = []
        self._sink = LogSink(_STDOUT)
        self._logs: Logs

    async def run(self) -> None:
        """Until SIGTERM."""
        loop = self._loop
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        running, self._levels = read_running(self._configs)
        # What an earlier process fetched is not lost with it.
        self._loader.fetched.update(texts_of(running))
        self._static = running["static/config"]
        self._current = self._preloaded or self._load_again(running)
        config = self._config()
        self._join_mesh(config, running)
        self._start_logs(config)
        if self._error:
            self._log_refusal()
        registry = Registry(
            self._metrics.writer(self._context.workers),
            (config.get("metrics") or {}).get("remove") or (),
            mode=config.get("histograms") or "classic",
        )
        self._own = GatewayMetrics(registry, package_version())
        self._certificate = OwnCertificate(SystemClock(), self._own.certificate_expires)
        self._svid = OwnCertificate(
            SystemClock(), self._own.svid_expires, "SVID", "there is no TLS with `spiffe`"
        )
        self._watcher = FileWatcher({**self._current.files, **self._loader.files})
        database = database_of(config)
        self._reader = None if database is None else RequestLogReader(database)
        self._servers = await start_servers(
            config, self, lambda: self._routes(config), shares_ports=self._context.shares_ports
        )
        if difference_of(running, self._published()):
            self._good = LoadedSnapshot(Snapshot(dict(running)), (), self._current.files)
            self._try_publish(self._good)
        else:
            self._own.config_revision.set(self._configs.generation)
            self._own.config_synchronized.set(0 if self._error else 1)
        self._context.ready()
        self._is_ready = True
        loop.add_reader(self._context.report_fd, self._reported)
        self._reported()  # to an earlier process, say: what the workers run is what we fall back on
        leases = lease_keeper(self._tables, self._leases)
        watching = loop.create_task(untiring("watching files", self._watch))
        tending = [
            loop.create_task(untiring(what, run)) for what, run in self._runs(leases, database)
        ]
        try:
            await self._stopping
            watching.cancel()
            loop.remove_reader(self._context.report_fd)
            # Readiness must be seen to fail while the workers drain, so the servers stay up; and
            # what workers spend until then is still written.
            await self._wait_workers()
        finally:
            self._is_leaving = True
            for task in (watching, *tending):
                task.cancel()
            await asyncio.gather(watching, *tending, return_exceptions=True)
        if leases is not None:
            await leases.give_back()
        await asyncio.gather(*(server.stop() for server in self._servers))
        if self._reader is not None:
            self._reader.close()
        self._sink.close()

    def _runs(self, leases: LeaseKeeper | None, database: RequestLogDatabase | None) -> list[Run]:
        """What is done all the time beside watching files, with its name in the log."""
        runs: list[Run] = [
            ("counting", self._count),
            ("budgets", lambda: budget_keeper(self._tables, self._own).run()),
            ("prices", self._follow_prices),
        ]
        if leases is not None:
            runs.append(("leases", leases.run))
        mesh = self._mesh
        if mesh is not None:
            runs.append(("mesh", lambda: mesh.run(self._contribute)))
        if database is not None:
            keeper = RowKeeper(
                database, lambda: row_age_ns(self._current.snapshot.resources), time.time_ns
            )
            runs.append(("request log", keeper.run))
        return runs

    def _join_mesh(self, config: Mapping[str, Any], running: Mapping[str, Resource]) -> None:
        """Raises: ConfigError. What an earlier process was told is not lost with it."""
        if self._make_mesh is None:
            return
        own = self._current.snapshot.resources
        known = {
            key: resource
            for key, resource in running.items()
            if key.startswith(CONTRIBUTED) and key not in own
        }
        self._mesh = self._make_mesh.control(config, known)
        if self._mesh is not None:
            self._extra = dict(known)
            self._good_extra = dict(known)

    async def _contribute(self, changed: Mapping[str, Resource], removed: Collection[str]) -> str:
        """See ControlMesh.run."""
        async with self._reloading:
            extra = self._extra
            # Looked at one by one: a mesh has tens of thousands, and mostly one changes.
            before = {key: extra.get(key) for key in (*changed, *removed)}
            for key in removed:
                extra.pop(key, None)
            extra.update(changed)
            if all(extra.get(key) == one for key, one in before.items()):
                return ""
            try:
                self._publish()
            except Exception as error:
                # Also after our own fault: else the same, sent again, would change nothing.
                extra.update({key: one for key, one in before.items() if one is not None})
                for key, one in before.items():
                    if one is None:
                        extra.pop(key, None)
                if not isinstance(error, ShmError):
                    raise
                return str(error)
            return ""

    def _load_again(self, running: Mapping[str, Resource]) -> LoadedSnapshot:
        """As a replacement: what the file says now, or if that is refused what the workers run."""
        try:
            return self._loader.load()
        except InvalidConfigError as error:
            self._error = str(error)
            return LoadedSnapshot(Snapshot(dict(running)), (), self._loader.files)

    def _config(self) -> Mapping[str, Any]:
        config = self._current.snapshot.resources["static/config"].data["config"]
        assert isinstance(config, dict)
        return config

    def _start_logs(self, config: Mapping[str, Any]) -> None:
        logging_config = config.get("logging") or {}
        self._sink.attach(self._loop)
        self._logs = Logs(
            self._sink,
            fmt="json" if logging_config.get("format") == "json" else "text",
            level=logging_config.get("level") or "info",
        )
        self._logs.install()
        # It tells of every change in a watched directory, which is mostly not ours.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)

    def _routes(self, config: Mapping[str, Any]) -> Sequence[Route]:
        """Of the admin server, beside those of every control."""
        amounts = Amounts(UNITS, shown)
        report = Report.of(self._tables, SystemClock(), amounts, self._leases)
        engine = expression_engine(config)
        return (
            *state_routes(report),
            budgets_route(self._tables.budgets.table.rows, time.time_ns),
            *log_routes(self._reader, lambda: self._is_leaving),
            *cel_routes(engine),
            *debug_trace_routes(engine, self._listens, lambda: self._is_leaving),
        )

    async def _wait_workers(self) -> None:
        deadline = self._loop.time() + self._context.drain_seconds
        while any(one.is_alive for one in self._configs.statuses()):
            if self._loop.time() > deadline:
                return
            await asyncio.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        if not self._stopping.done():
            self._stopping.set_result(None)

    # --- configuration --------------------------------------------------------------------

    def _published(self) -> dict[str, Resource]:
        """The current resources as workers get them: a replaced worker must be like the others."""
        resources = {**self._extra, **self._current.snapshot.resources}
        now, then = resources["static/config"].data["config"], self._static.data["config"]
        assert isinstance(now, dict)
        assert isinstance(then, dict)
        held = {**then, "frontDoor": now.get("frontDoor")}
        resources["static/config"] = Resource.of("static", "config", {"config": held})
        return resources

    def _publish(self) -> None:
        resources = self._published()
        if self._levels:
            resources[LEVELS] = Resource.of("runtime", "levels", {"spec": self._levels})
        if self._trace is not None:
            resources[TRACE] = Resource.of("runtime", "trace", dict(self._trace))
        generation = self._configs.generation + 1
        data = encode(Snapshot(resources, (), {}), generation)
        generation = self._configs.publish(data)
        self._own.config_revision.set(generation)
        self._own.config_synchronized.set(0 if self._error else 1)
        self._context.wake_workers()

    def _try_publish(self, previous: LoadedSnapshot) -> bool:
        """Publish; where shared memory is full, `previous` is the current configuration again.

        Hardening case 58: the workers serve on, and the next change is tried afresh.
        """
        try:
            self._publish()
        except ShmError as error:
            self._current = previous
            self._refuse(str(error))
            if isinstance(error, LockTimeoutError):  # the file is as good as it was
                self._loop.call_later(COLLECT_SECONDS, self._reload_soon)
            return False
        except Exception as error:
            # Our fault: were it current without being published, nothing would have changed.
            _log.exception("publishing failed inside the gateway")
            self._current = previous
            self._refuse(f"internal error: {error}")
            return False
        return True

    async def _watch(self) -> None:
        async for changed in self._watcher.changes():
            names = ", ".join(sorted(str(path) for path in changed))
            _log.info("changed on disk: %s", names)
            await self._reload()

    def _reload_soon(self) -> None:
        task = self._loop.create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        """Load again; what is refused changes nothing but the log, the dump and a metric."""
        async with self._reloading:
            if self._loader.source.path is None:
                _log.info("reload: the configuration did not come from a file")
                return
            try:
                loaded = self._loader.load(refuses_empty=True)
            except InvalidConfigError as error:
                self._watcher.extend(self._loader.files)
                self._refuse(str(error))
                return
            except Exception as error:
                self._watcher.extend(self._loader.files)
                # Our fault, or shared memory that is full: the next change must still be seen.
                _log.exception("reload failed inside the gateway")
                self._refuse(f"internal error: {error}")
                return
            self._watcher.replace(loaded.files)
            previous = self._current
            old = previous.snapshot.resources
            new = loaded.snapshot.resources
            difference = difference_of(old, new)
            self._current = loaded
            if not difference:
                self._error = ""
                self._own.config_synchronized.set(1)
                _log.info("configuration read again: nothing changed")
                return
            if old["static/config"].digest != new["static/config"].digest:
                _log.warning("changes of `config` take effect at the next restart")
            for warning in loaded.warnings:
                _log.warning("%s", warning.render(self._loader.source.name))
            self._error = ""
            if not self._try_publish(previous):
                return
            _log.info("configuration revision %d: %s", self._configs.generation, difference)

    def _refuse(self, reason: str) -> None:
        self._error = reason
        self._own.config_synchronized.set(0)
        self._log_refusal()

    def _log_refusal(self) -> None:
        _log.error(
            "configuration refused, revision %d stays in force:\n%s",
            self._configs.generation,
            self._error,
        )

    async def _follow_prices(self) -> None:
        """Fetch catalogues of prices, and publish those that changed.

        On top of what was loaded last: the file itself may be just what nobody should load.
        """
        texts = self._loader.fetched
        feeds = PriceFeeds(texts, fetch_prices, time.monotonic, self._own.catalog_fetched)
        while True:
            if await feeds.refresh(sources_of(self._current.snapshot.resources)):
                async with self._reloading:
                    previous = self._current
                    made = repriced(previous.snapshot.resources, texts)
                    snapshot = replace(previous.snapshot, resources=made)
                    self._current = replace(previous, snapshot=snapshot)
                    if self._try_publish(previous):
                        generation = self._configs.generation
                        _log.info("configuration revision %d: new prices", generation)
            await asyncio.sleep(COLLECT_SECONDS)

    def _reported(self) -> None:
        clear(self._context.report_fd)
        try:
            self._look_at_reports()
        except LockTimeoutError as error:
            _log.error("what workers report cannot be read yet: %s", error)
            self._loop.call_later(COLLECT_SECONDS, self._reported)

    def _look_at_reports(self) -> None:
        """Raises: LockTimeoutError."""
        self._configs.prune()
        generation = self._configs.generation
        alive = [status for status in self._configs.statuses() if status.is_alive]
        refused = [one for one in alive if one.error and one.refused_generation == generation]
        if not refused:
            if alive and all(one.applied_generation >= generation for one in alive):
                self._good = self._current
                self._good_extra = dict(self._extra)
            return
        if self._extra != self._good_extra:
            # Not the file's fault: it stays, without what the mesh added last.
            self._extra = dict(self._good_extra)
            self._try_publish(self._current)
            _log.error("what the mesh sent was refused: %s", refused[0].error)
            return
        if self._good is not None and self._current is not self._good:
            # What is published is what a worker that starts has to run on, so a revision that was
            # refused may not stay published (a port that is taken, say).
            refused_one, self._current = self._current, self._good
            self._try_publish(refused_one)
        self._refuse(refused[0].error)

    async def _count(self) -> None:
        """Gauges that nobody else keeps."""
        while True:
            for status in self._configs.statuses():
                self._own.worker_up(status.worker, status.is_alive)
            self._own.table_occupancy("metrics", self._metrics.used_rows, self._metrics.rows)
            tend_tables(self._tables)
            count_leases(self._tables, self._leases, self._own)
            self._count_mesh()
            await asyncio.sleep(COLLECT_SECONDS)

    def _count_mesh(self) -> None:
        identity = self._published().get(f"identity/{OWN}")
        self._certificate.look("" if identity is None else str(identity.data["chain"]))
        svid = self._extra.get(SVID)
        self._svid.look("" if svid is None else str(svid.data["chain"]))
        if self._mesh is not None:
            self._mesh.measure(self._own.registry)

    # --- AdminState -----------------------------------------------------------------------

    def config_dump(self) -> Mapping[str, object]:
        """See AdminState."""
        return {
            "version": package_version(),
            "revision": self._configs.generation,
            "source": self._loader.source.name,
            "lastError": self._error or None,
            "frontDoors": {
                key: front_door(self._config(), str(one.data["protocol"]))
                for key, one in self._current.snapshot.resources.items()
                if one.kind == "listener"
            },
            "resources": {key: one.data for key, one in self._published().items() if key != SVID},
            **({} if self._mesh is None else {"mesh": self._mesh.dump()}),
        }

    def statuses(self) -> Sequence[ProcessStatus]:
        """See AdminState."""
        own = ProcessStatus("control", os.getpid(), self._configs.generation, self._error)
        workers = [
            ProcessStatus(f"worker {one.worker}", one.pid, one.applied_generation, one.error)
            for one in self._configs.statuses()
            if one.is_alive
        ]
        return [own, *workers]

    def collect(self) -> Iterable[Series]:
        """See AdminState."""
        tables = (self._own.table_series(stats) for stats in self._tables.stats())
        return chain(self._metrics.collect(), *tables)

    def pending(self) -> Sequence[str]:
        """See AdminState."""
        if self._stopping.done():
            return ["draining"]
        if not self._is_ready:
            return ["control"]
        serving = [
            one
            for one in self._configs.statuses()
            if one.is_alive and one.state == WorkerState.SERVING
        ]
        if not serving:
            return ["workers"]
        if self._mesh is not None and not self._is_meshed:
            waits = self._mesh.pending()
            if waits:
                return waits
            if any(one.applied_generation < self._configs.generation for one in serving):
                return ["workers"]
            self._is_meshed = True
        # Unlike the rest of the mesh, without which the gateway goes on.
        has_expired = self._certificate.has_expired or self._svid.has_expired
        return ["certificate"] if has_expired else []

    def quit(self) -> None:
        """See AdminState."""
        self._context.stop_gateway()

    def _listens(self, trace: Mapping[str, object] | None) -> None:
        """See admin.debug_trace.Announce."""
        self._trace = trace
        self._publish()

    async def set_levels(self, spec: str | None) -> str:
        """See AdminState."""
        if spec is None:
            self._logs.reset_levels()
        else:
            parse_levels(spec)
            self._logs.set_levels(spec)
        self._levels = spec or " "
        self._publish()
        return self._logs.levels()


def control_main(
    context: ControlContext,
    loader: Loader,
    configs: ConfigTable,
    metrics: MetricsTable,
    tables: Tables,
    preloaded: Callable[[], LoadedSnapshot | None],
    mesh: Mesh | None = None,
) -> None:
    """The body of the control process. Raises ConfigError when the first load fails."""

    # A large reload takes this process a core for a moment; requests come first.
    os.nice(_NICE)
    collect_seldom()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = preloaded() if context.is_first else None
        await Control(context, loader, configs, metrics, tables, loop, first, mesh).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


__all__ = ["ConfigError", "Control", "control_main"]
