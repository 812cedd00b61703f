"""The three servers of control: admin, stats and readiness.

Source: spec/config.md sections 8.3, 8.4 and 10.1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, final

from starlette.applications import Starlette
from starlette.routing import Route

from sidecar.admin.api import AdminState, admin_app, stats_app
from sidecar.admin.budgets import budgets_route
from sidecar.admin.cel import cel_routes
from sidecar.admin.debug_trace import Announce, debug_trace_routes
from sidecar.admin.health import readiness_app
from sidecar.admin.logs import RequestLogReader, log_routes
from sidecar.admin.server import AdminServer, parse_address
from sidecar.admin.state import state_routes
from sidecar.gateway.expressions import expression_engine
from sidecar.policies.amounts import UNITS, shown
from sidecar.state.leases import Leases
from sidecar.state.report import Amounts, Report
from sidecar.state.request_log import RequestLogDatabase
from sidecar.state.tables import Tables
from sidecar.telemetry.clock import SystemClock
from sidecar.version import package_version


@final
class AdminServers:
    """Those whose address is given, from `start` to `stop`."""

    def __init__(
        self,
        config: Mapping[str, Any],
        state: AdminState,
        tables: Tables,
        leases: Leases | None,
        database: RequestLogDatabase | None,
        announce: Announce,
    ) -> None:
        """`database`: of logged requests, where they are kept."""
        self._config = config
        self._state = state
        self._tables = tables
        self._leases = leases
        self._announce = announce
        self._reader = None if database is None else RequestLogReader(database)
        self._servers: list[AdminServer] = []
        self._is_leaving = False
        """Whether the workers are gone, so that answers without end must end."""

    async def start(self, *, shares_ports: bool) -> None:
        """Listen. `shares_ports`: see ControlContext. Raises: ConfigError."""
        apps = (
            ("adminAddr", self._admin),
            ("statsAddr", self._stats),
            ("readinessAddr", self._readiness),
        )
        for key, make in apps:
            place = f"config.{key}"
            address = parse_address(self._config.get(key) or "off", place)
            if address is None:
                continue
            app = make(address.is_local)
            server = AdminServer(app, address, place, shares_port=shares_ports)
            await server.start()
            self._servers.append(server)

    def leave(self) -> None:
        """The end is near: answers without end end now."""
        self._is_leaving = True

    async def stop(self) -> None:
        """Answer what was asked, and listen no more."""
        await asyncio.gather(*(server.stop() for server in self._servers))
        if self._reader is not None:
            self._reader.close()

    def _admin(self, is_local: bool) -> Starlette:
        return admin_app(
            self._state,
            version=package_version(),
            is_loopback=is_local,
            sensitive_headers=self._config.get("sensitiveHeaders") or (),
            routes=self._routes(),
        )

    def _stats(self, is_local: bool) -> Starlette:
        return stats_app(self._state, self._config.get("histograms") or "classic")

    def _readiness(self, is_local: bool) -> Starlette:
        return readiness_app(self._state.pending)

    def _routes(self) -> Sequence[Route]:
        """Of the admin server, beside those of every control."""
        amounts = Amounts(UNITS, shown)
        report = Report.of(self._tables, SystemClock(), amounts, self._leases)
        engine = expression_engine(self._config)
        return (
            *state_routes(report),
            budgets_route(self._tables.budgets.table.rows, time.time_ns),
            *log_routes(self._reader, lambda: self._is_leaving),
            *cel_routes(engine),
            *debug_trace_routes(engine, self._announce, lambda: self._is_leaving),
        )
