"""A worker's telemetry and policy services, made from each configuration it compiles.

Source: spec/config.md sections 8.1, 9.1 to 9.3.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

from shm.metrics import Writer
from sidecar.admin.server import parse_address
from sidecar.cel.engine import Engine
from sidecar.config.scalars import duration_seconds
from sidecar.gateway.expressions import expression_engine
from sidecar.gateway.surroundings import Telemetry
from sidecar.http.message import Connection, Request
from sidecar.llm.credentials.shared import SharedTokens
from sidecar.net.dialer import Address
from sidecar.policies.base import SECRET_VARIABLE, Services
from sidecar.state.request_log import RequestLogWriter
from sidecar.state.request_log_database import database_of
from sidecar.state.tables import Tables
from sidecar.telemetry.access import AccessLog, OtlpLog
from sidecar.telemetry.bodies import Recorder, Room
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.export import SpanExport, resource_attributes
from sidecar.telemetry.exports import Exports
from sidecar.telemetry.expressions import Compiler
from sidecar.telemetry.fields import AccessEntry
from sidecar.telemetry.log_export import LogExport
from sidecar.telemetry.logs import Logs
from sidecar.telemetry.metrics import RequestMetrics, UpstreamMetrics
from sidecar.telemetry.native import Mode
from sidecar.telemetry.otlp_target import OtlpTarget
from sidecar.telemetry.request_log import RequestRows
from sidecar.telemetry.sink import LogSink
from sidecar.telemetry.trace import ClientSpan, Tracer, context_of
from sidecar.version import package_version

if TYPE_CHECKING:
    from sidecar.gateway.plan import Gateway
    from sidecar.gateway.traced import TraceFollower

Data = Mapping[str, Any]
_log = logging.getLogger("sidecar.gateway.observe")
_STDOUT: Final = 1


@final
class TraceObserver:
    """Gives each request a trace context that somebody will see; with a tracer, spans as well."""

    __slots__ = ("_access", "_tracer")

    def __init__(self, tracer: Tracer | None, access: AccessLog) -> None:
        self._tracer = tracer
        self._access = access

    def begin(self, request: Request) -> None:
        """See plan.Observer."""
        if self._tracer is not None:
            self._tracer.start(request)
        elif self._access.is_wanted(logging.INFO):
            request.trace = context_of(request.headers)

    def before_call(self, request: Request, subtype: str) -> ClientSpan | None:
        """See plan.Observer."""
        span = None if self._tracer is None else self._tracer.call(request, "Primary", subtype)
        if span is not None:
            span.inject(request.headers)
        return span


@final
class Observers:
    """Made once a worker; its methods are called for each full compilation."""

    def __init__(
        self, writer: Writer, loop: asyncio.AbstractEventLoop, clock: Clock, tables: Tables
    ) -> None:
        self._tables = tables
        self.leases = tables.leasing(clock)
        """This worker's use of what Redis shares, if it does."""
        self._tokens = SharedTokens(tables.tokens, clock)
        self._writer = writer
        self._clock = clock
        self._sink = LogSink(_STDOUT)
        self._sink.attach(loop)
        self._logs: Logs | None = None
        self._levels = ""
        """What `set_levels` was told last; "" for the configured ones."""
        self._exports = Exports()
        self.request_log: RequestLogWriter | None = None
        """Made by the first configuration; where it writes to needs a restart to change."""
        self._room = Room()
        self._engine = Engine()
        """Of the newest configuration."""
        self._follower: TraceFollower | None = None
        self._upstreams: UpstreamMetrics | None = None
        self.drain_seconds = (0.0, 5.0)
        """Minimum and maximum of a drain (spec/config.md section 10.2)."""
        self.uses_ipv6 = True

    def services(self, config: Data, max_buffer_bytes: int) -> Services:
        """What policies may use. Raises ConfigError for custom functions that do not compile."""
        engine = self._engine = expression_engine(config, self._clock)
        tables = self._tables
        return Services(
            self._clock,
            engine,
            max_buffer_bytes,
            rates=tables.rates,
            budgets=tables.budgets.table,
            leases=self.leases,
            tokens=self._tokens,
            cookie_secret=os.environ.get(SECRET_VARIABLE, ""),
        )

    def telemetry(self, config: Data, frontend: Data, services: Services) -> Telemetry:
        """Metrics, access log and tracing of one configuration. Raises ConfigError."""
        self._take_static(config)
        compiler = Compiler(services.cel)
        metrics = config.get("metrics") or {}
        added = compiler.expressions(
            (metrics.get("fields") or {}).get("add"), "config.metrics.fields.add"
        )
        mode: Mode = config.get("histograms") or "classic"
        requests = RequestMetrics(self._writer, metrics.get("remove") or (), added, mode=mode)
        self._upstreams = UpstreamMetrics(requests.registry)
        logs = self._logs
        assert logs is not None
        policy = frontend.get("accessLog")
        access = AccessLog(
            policy,
            logs.fmt,
            compiler,
            sink=self._sink,
            clock=self._clock,
            rows=self._request_rows(config, policy or {}, compiler, services.cel),
            otlp=self._otlp_log(policy or {}, compiler),
        )
        policy = frontend.get("tracing")
        tracer = None if policy is None else self._tracer(policy, compiler)
        observer = TraceObserver(tracer, access)
        recorder = self._recorder(compiler, services.max_buffer_bytes)
        return Telemetry(requests, self._upstreams, access, tracer, observer, recorder)

    async def follow_trace(
        self, gateway: Gateway, listener: Data | None, loop: asyncio.AbstractEventLoop, worker: int
    ) -> None:
        """This gateway serves from now on. `listener`: `runtime/trace`, when it is a new one."""
        if listener is not None and self._follower is None:
            from sidecar.gateway.traced import TraceFollower  # few gateways are ever looked at so

            self._follower = TraceFollower(loop, self._clock, worker)
        if self._follower is not None:
            self._follower.swapped(gateway)
            if listener is not None:
                await self._follower.open(listener, self._engine)

    def _recorder(self, compiler: Compiler, limit_bytes: int) -> Recorder | None:
        """None where no expression compiled so far names a body."""
        asked, answered = compiler.needs_request_body, compiler.needs_response_body
        if not (asked or answered):
            return None
        return Recorder(limit_bytes, self._room, wants_request=asked, wants_response=answered)

    def _request_rows(
        self, config: Data, policy: Data, compiler: Compiler, engine: Engine
    ) -> RequestRows | None:
        """None where `config` has no database."""
        database = database_of(config)
        if database is None:
            return None
        if self.request_log is None:
            self.request_log = RequestLogWriter(database)
        rows = RequestRows(
            policy.get("database"),
            config.get("standardAttributes"),
            compiler,
            put=self.request_log.put,
            lose=self.request_log.lose,
            clock=self._clock,
        )
        if rows.is_full:
            engine.reads_completion = True
        return rows

    def _take_static(self, config: Data) -> None:
        """What needs a restart to change (spec/config.md section 10.1), so taken once."""
        if self._logs is not None:
            return
        logging_config = config.get("logging") or {}
        self._logs = Logs(
            self._sink,
            fmt="json" if logging_config.get("format") == "json" else "text",
            level=logging_config.get("level") or "info",
            clock=self._clock,
        )
        self._logs.install()
        if self._levels:
            self._logs.set_levels(self._levels)
        self.drain_seconds = (
            duration_seconds(config.get("connectionMinTerminationDeadline") or "0s"),
            duration_seconds(config.get("connectionTerminationDeadline") or "5s"),
        )
        self.uses_ipv6 = bool(config.get("enableIpv6", True))

    def _tracer(self, policy: Data, compiler: Compiler) -> Tracer:
        def make() -> SpanExport:
            target = OtlpTarget.of_policy(policy, "frontendPolicies.tracing")
            resources = compiler.expressions(
                policy.get("resources"), "frontendPolicies.tracing.resources", at_end=False
            )
            nowhere = AccessEntry(Connection("", 0, "", 0))
            added = [(name, one.value(nowhere)) for name, one in resources.items()]
            version = package_version()
            return SpanExport(target, resource_attributes(os.environ, version, added), version)

        return Tracer(policy, compiler, self._exports.spans.of(policy, make), self._clock)

    def _otlp_log(self, log: Data, compiler: Compiler) -> OtlpLog | None:
        policy = log.get("otlp")
        if policy is None:
            return None

        def make() -> LogExport:
            target = OtlpTarget.of_policy(policy, "frontendPolicies.accessLog.otlp", signal="logs")
            version = package_version()
            return LogExport(target, resource_attributes(os.environ, version), version)

        where = {key: value for key, value in policy.items() if key not in ("filter", "fields")}
        export = self._exports.logs.of(where, make)
        return OtlpLog(policy, log, compiler, export.submit, self._clock)

    def admin_address(self, config: Data) -> Address | None:
        """Where `internal` backends go."""
        found = parse_address(config.get("adminAddr") or "off", "config.adminAddr")
        return None if found is None else Address(found.host, found.port, found.path)

    def dropped(self) -> tuple[int, int]:
        """`(log lines and records, spans)` that were lost since the start."""
        lines = self._sink.dropped_lines + self._exports.logs.lost()
        return lines, self._exports.spans.lost()

    def connected(self, seconds: float, transport: str) -> None:
        """An upstream connection was made."""
        if self._upstreams is not None:
            self._upstreams.connect(transport).observe(seconds)

    def set_levels(self, spec: str) -> None:
        """Change log levels; "" goes back to the configured ones."""
        # A worker that starts is told before it has read the configuration.
        self._levels = spec.strip()
        if self._logs is None:
            return
        if self._levels:
            self._logs.set_levels(self._levels)
        else:
            self._logs.reset_levels()

    def close(self) -> None:
        """Write out what is queued."""
        if self._follower is not None:
            self._follower.close()
        if self.request_log is not None:
            self.request_log.close()
        self._exports.close()
        self._sink.close()
