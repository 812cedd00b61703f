"""The control process: loads and watches the configuration, publishes it, serves admin and stats.

Source: design sections 1 and 2; spec/config.md sections 8.3, 8.4 and 10.1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, final

import uvloop

from shm.config import ConfigTable
from shm.errors import LockTimeoutError
from shm.metrics import MetricsTable
from sidecar.config.problems import InvalidConfigError
from sidecar.config.snapshot import Resource, Snapshot
from sidecar.gateway.admin_servers import AdminServers
from sidecar.gateway.control_counts import ControlCounts
from sidecar.gateway.control_state import ControlState
from sidecar.gateway.loading import LoadedSnapshot, Loader
from sidecar.gateway.memory import collect_seldom
from sidecar.gateway.mesh import CONTRIBUTED, ControlMesh, Mesh
from sidecar.gateway.price_feeds import (
    PriceFeeds,
    fetch_prices,
    repriced,
    sources_of,
    texts_of,
)
from sidecar.gateway.process import ControlContext, clear
from sidecar.gateway.publication import Publication, config_of
from sidecar.gateway.published import read_running
from sidecar.gateway.reload import FileWatcher
from sidecar.gateway.tending import (
    COLLECT_SECONDS,
    budget_keeper,
    lease_keeper,
    row_keeper,
    tend_tables,
    untiring,
)
from sidecar.state.leases import Leases
from sidecar.state.redis_keeper import LeaseKeeper
from sidecar.state.request_log import RequestLogDatabase
from sidecar.state.request_log_database import database_of
from sidecar.state.tables import Tables
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.logs import Logs
from sidecar.telemetry.sink import LogSink

_log = logging.getLogger("sidecar.gateway.control")
_STDOUT: Final = 1
_POLL_SECONDS: Final = 0.02
_NICE: Final = 5


Run = tuple[str, Callable[[], Awaitable[None]]]


@final
class Control:
    """See the module."""

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
        self._context = context
        self._loader = loader
        self._configs = configs
        self._metrics = metrics
        self._tables = tables
        self._loop = loop
        self._preloaded = preloaded
        self._stopping: asyncio.Future[None] = loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leases: Leases | None = tables.leasing(SystemClock())
        self._sink = LogSink(_STDOUT)
        self._counts: ControlCounts
        self._publication: Publication
        self._state: ControlState
        self._watcher: FileWatcher

    async def run(self) -> None:
        """Until SIGTERM."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        running, levels = read_running(self._configs)
        config = self._begin(running, levels)
        database = database_of(config)
        announce = self._publication.announce
        servers = AdminServers(config, self._state, self._tables, self._leases, database, announce)
        await servers.start(shares_ports=self._context.shares_ports)
        self._publication.begin(running)
        self._context.ready()
        self._state.is_begun = True
        self._loop.add_reader(self._context.report_fd, self._reported)
        self._reported()  # to an earlier process, say: what the workers run is what we fall back on
        await self._tend(servers, database)
        await servers.stop()
        self._sink.close()

    async def _tend(self, servers: AdminServers, database: RequestLogDatabase | None) -> None:
        """Do all that is done all the time, until the workers are gone."""
        leases = lease_keeper(self._tables, self._leases)
        watching = self._loop.create_task(untiring("watching files", self._watch))
        tending = [
            self._loop.create_task(untiring(what, run))
            for what, run in self._runs(leases, database)
        ]
        try:
            await self._stopping
            watching.cancel()
            self._loop.remove_reader(self._context.report_fd)
            # Readiness must be seen to fail while the workers drain, so the servers stay up; and
            # what workers spend until then is still written.
            await self._wait_workers()
        finally:
            servers.leave()
            for task in (watching, *tending):
                task.cancel()
            await asyncio.gather(watching, *tending, return_exceptions=True)
        if leases is not None:
            await leases.give_back()

    def _runs(self, leases: LeaseKeeper | None, database: RequestLogDatabase | None) -> list[Run]:
        """What is done all the time beside watching files, with its name in the log."""
        publication = self._publication
        runs: list[Run] = [
            ("counting", self._count),
            ("budgets", lambda: budget_keeper(self._tables, self._counts.own).run()),
            ("prices", self._follow_prices),
        ]
        if leases is not None:
            runs.append(("leases", leases.run))
        mesh = self._mesh
        if mesh is not None:
            runs.append(("mesh", lambda: mesh.run(publication.contribute)))
        if database is not None:
            keeper = row_keeper(database, lambda: publication.current.snapshot.resources)
            runs.append(("request log", keeper.run))
        return runs

    async def _wait_workers(self) -> None:
        deadline = self._loop.time() + self._context.drain_seconds
        while any(one.is_alive for one in self._configs.statuses()):
            if self._loop.time() > deadline:
                return
            await asyncio.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        if not self._stopping.done():
            self._stopping.set_result(None)

    # --- start ----------------------------------------------------------------------------

    def _begin(self, running: Mapping[str, Resource], levels: str) -> Mapping[str, Any]:
        """Load, and make what follows from the configuration, whose `config` is given.

        `running`, `levels`: see `read_running`; what an earlier process knew is not lost with it.
        Raises: ConfigError.
        """
        self._loader.fetched.update(texts_of(running))
        current, error = self._load_first(running)
        config = config_of(current)
        extra = self._join_mesh(config, running, current)
        logs = self._start_logs(config, levels)
        self._counts = ControlCounts(config, self._metrics, self._tables, self._context.workers)
        self._publication = Publication(
            self._configs,
            self._counts.own,
            current,
            running,
            extra=extra,
            levels=levels,
            error=error,
            wake_workers=self._context.wake_workers,
            try_again=self._reload_later,
        )
        if error:
            self._publication.log_refusal()
        self._watcher = FileWatcher({**current.files, **self._loader.files})
        self._state = self._state_of(logs)
        return config

    def _state_of(self, logs: Logs) -> ControlState:
        return ControlState(
            self._context,
            self._configs,
            self._publication,
            self._counts,
            self._mesh,
            logs,
            self._loader.source.name,
            self._stopping.done,
        )

    def _load_first(self, running: Mapping[str, Resource]) -> tuple[LoadedSnapshot, str]:
        """As a replacement: what the file says now, or if that is refused what the workers run;
        and why it was refused."""
        if self._preloaded is not None:
            return self._preloaded, ""
        try:
            return self._loader.load(), ""
        except InvalidConfigError as error:
            return LoadedSnapshot(Snapshot(dict(running)), (), self._loader.files), str(error)

    def _join_mesh(
        self, config: Mapping[str, Any], running: Mapping[str, Resource], current: LoadedSnapshot
    ) -> Mapping[str, Resource]:
        """What the mesh of an earlier process was told. Raises: ConfigError."""
        if self._make_mesh is None:
            return {}
        own = current.snapshot.resources
        known = {
            key: resource
            for key, resource in running.items()
            if key.startswith(CONTRIBUTED) and key not in own
        }
        self._mesh = self._make_mesh.control(config, known)
        return {} if self._mesh is None else known

    def _start_logs(self, config: Mapping[str, Any], levels: str) -> Logs:
        logging_config = config.get("logging") or {}
        self._sink.attach(self._loop)
        logs = Logs(
            self._sink,
            fmt="json" if logging_config.get("format") == "json" else "text",
            level=logging_config.get("level") or "info",
        )
        logs.install()
        if levels.strip():
            logs.set_levels(levels)
        # It tells of every change in a watched directory, which is mostly not ours.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        return logs

    # --- configuration --------------------------------------------------------------------

    async def _watch(self) -> None:
        async for changed in self._watcher.changes():
            names = ", ".join(sorted(str(path) for path in changed))
            _log.info("changed on disk: %s", names)
            await self._reload()

    def _reload_soon(self) -> None:
        task = self._loop.create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reload_later(self) -> None:
        self._loop.call_later(COLLECT_SECONDS, self._reload_soon)

    async def _reload(self) -> None:
        """Load again; what is refused changes nothing but the log, the dump and a metric."""
        async with self._publication.changing:
            if self._loader.source.path is None:
                _log.info("reload: the configuration did not come from a file")
                return
            try:
                loaded = self._loader.load(refuses_empty=True)
            except InvalidConfigError as error:
                self._watcher.extend(self._loader.files)
                self._publication.refuse(str(error))
                return
            except Exception as error:
                self._watcher.extend(self._loader.files)
                # Our fault, or shared memory that is full: the next change must still be seen.
                _log.exception("reload failed inside the gateway")
                self._publication.refuse(f"internal error: {error}")
                return
            self._watcher.replace(loaded.files)
            name = self._loader.source.name
            self._publication.reload(loaded, [one.render(name) for one in loaded.warnings])

    async def _follow_prices(self) -> None:
        """Fetch catalogues of prices, and publish those that changed.

        On top of what was loaded last: the file itself may be just what nobody should load.
        """
        texts, publication = self._loader.fetched, self._publication
        feeds = PriceFeeds(texts, fetch_prices, time.monotonic, self._counts.own.catalog_fetched)
        while True:
            if await feeds.refresh(sources_of(publication.current.snapshot.resources)):
                async with publication.changing:
                    previous = publication.current
                    made = repriced(previous.snapshot.resources, texts)
                    snapshot = replace(previous.snapshot, resources=made)
                    if publication.replace(replace(previous, snapshot=snapshot)):
                        _log.info("configuration revision %d: new prices", publication.revision)
            await asyncio.sleep(COLLECT_SECONDS)

    def _reported(self) -> None:
        clear(self._context.report_fd)
        try:
            self._publication.look_at_reports()
        except LockTimeoutError as error:
            _log.error("what workers report cannot be read yet: %s", error)
            self._loop.call_later(COLLECT_SECONDS, self._reported)

    async def _count(self) -> None:
        while True:
            tend_tables(self._tables)
            self._counts.look(self._configs.statuses(), self._leases, self._mesh)
            self._counts.look_at_certificates(self._publication.find)
            await asyncio.sleep(COLLECT_SECONDS)


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
