"""The metric series of section 9.1 and our own, over whatever keeps the numbers.

A series is found once and its cell kept: a request finds all its cells by one lookup. What a
client can choose freely never makes series without end: an unknown method is `_OTHER` (the
reference reports it as it came), and so is a backend past a route's bound.

Source: spec/config.md section 9.1; conventions section 5.3 (series of our own).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Protocol, final

from shm.cells import Series, SeriesKind
from shm.table import TableStats
from sidecar.errors import ConfigError
from sidecar.telemetry.expressions import Expression
from sidecar.telemetry.fields import AccessEntry, RouteFacts
from sidecar.telemetry.native import Mode, widened

UNKNOWN = "unknown"
OTHER = "_OTHER"
PREFIX = "agentgateway_"
MAX_KEY_BYTES = 512
_MAX_SERIES_A_ROUTE = 256
_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
)
_SUFFIXES = ("_total", "_seconds", "_bytes")

HTTP_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 80.0)
PROCESSING_SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.05, 0.25)
CONNECT_SECONDS = (0.0005, 0.0015, 0.0043, 0.0126, 0.0368, 0.108, 0.316, 0.924, 2.71, 8.0)
LAG_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Counter(Protocol):
    """A cell that only grows."""

    def add(self, n: float, /) -> object:
        """Add a whole number, 0 or more."""


class Histogram(Protocol):
    """Cells of one histogram."""

    def observe(self, x: float, /) -> object:
        """Count one value, in the unit of the name."""


class Gauge(Protocol):
    """A cell that goes up and down."""

    def set(self, x: float, /) -> object:
        """Replace the value."""

    def add(self, n: float, /) -> object:
        """Add to the value."""


class MetricWriter(Protocol):
    """One worker's column of the metrics table (shm.metrics). The same key gives the same cell."""

    def counter(self, key: bytes) -> Counter:
        """The cell of this counter."""

    def real_counter(self, key: bytes) -> Counter:
        """The cell of this counter of money, which adds fractions."""

    def histogram(self, key: bytes, bounds: tuple[float, ...]) -> Histogram:
        """The cells of this histogram; `bounds` ascend and leave +Inf out."""

    def gauge(self, key: bytes) -> Gauge:
        """The cell of this gauge."""


@final
class _Nothing:
    """The cell of a metric that `config.metrics.remove` names."""

    __slots__ = ()

    def add(self, n: float, /) -> None:
        """Nothing."""

    def observe(self, x: float, /) -> None:
        """Nothing."""

    def set(self, x: float, /) -> None:
        """Nothing."""


_NOTHING = _Nothing()


def series_key(name: str, labels: Iterable[tuple[str, str]]) -> bytes:
    """`name\\0label=value\\0label=value…` in UTF-8, at most 512 bytes.

    A key that would be longer keeps the beginning of its long values and a digest of the rest, so
    that different series stay different.
    """
    pairs = [(label, value.replace("\0", "\ufffd") or UNKNOWN) for label, value in labels]
    for longest in (MAX_KEY_BYTES, 48, 24, 12):
        parts = [name, *(f"{label}={_shortened(value, longest)}" for label, value in pairs)]
        key = "\0".join(parts).encode("utf-8", "backslashreplace")
        if len(key) <= MAX_KEY_BYTES:
            break
    return key[:MAX_KEY_BYTES]


def _shortened(value: str, longest: int) -> str:
    data = value.encode("utf-8", "backslashreplace")
    if len(data) <= longest:
        return value
    digest = blake2b(data, digest_size=4).hexdigest()
    return data[: longest - 9].decode("utf-8", "ignore") + "~" + digest


@final
class Registry:
    """Names series, and leaves out those that the configuration removed."""

    def __init__(
        self, writer: MetricWriter, remove: Iterable[str] = (), *, mode: Mode = "classic"
    ) -> None:
        """`remove`: base names, with or without the prefix, `_total` and the unit. `mode`:
        `config.histograms`, the same in all processes."""
        self._writer = writer
        self._is_classic = mode == "classic"
        self._removed = frozenset(base_name(name) for name in remove)

    def is_removed(self, name: str) -> bool:
        """Whether the configuration leaves this metric out."""
        return base_name(name) in self._removed

    def counter(self, name: str, labels: Iterable[tuple[str, str]] = ()) -> Counter:
        """A counter; `name` without the prefix, with its `_total`."""
        if base_name(name) in self._removed:
            return _NOTHING
        return self._writer.counter(series_key(PREFIX + name, labels))

    def money(self, name: str, labels: Iterable[tuple[str, str]] = ()) -> Counter:
        """A counter that adds fractions; `name` without the prefix, with its `_total`."""
        if base_name(name) in self._removed:
            return _NOTHING
        return self._writer.real_counter(series_key(PREFIX + name, labels))

    def histogram(
        self, name: str, bounds: tuple[float, ...], labels: Iterable[tuple[str, str]] = ()
    ) -> Histogram:
        """A histogram with these upper bounds; +Inf is understood."""
        if base_name(name) in self._removed:
            return _NOTHING
        kept = bounds if self._is_classic else widened(bounds)
        return self._writer.histogram(series_key(PREFIX + name, labels), kept)

    def gauge(self, name: str, labels: Iterable[tuple[str, str]] = ()) -> Gauge:
        """A gauge."""
        if base_name(name) in self._removed:
            return _NOTHING
        return self._writer.gauge(series_key(PREFIX + name, labels))


def base_name(name: str) -> str:
    """`agentgateway_request_duration_seconds` → `request_duration`."""
    name = name.removeprefix(PREFIX)
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


@final
class _Cells:
    """All cells of one combination of labels."""

    __slots__ = ("duration", "received", "requests", "response", "retries", "sent")

    def __init__(
        self, registry: Registry, labels: Sequence[tuple[str, str]], own: Sequence[tuple[str, str]]
    ) -> None:
        self.requests = registry.counter("requests_total", labels).add
        self.duration = registry.histogram("request_duration_seconds", HTTP_SECONDS, labels).observe
        self.sent = registry.counter("response_bytes_total", labels).add
        self.received = registry.histogram(
            "request_processing_seconds", PROCESSING_SECONDS, own
        ).observe
        self.response = registry.histogram(
            "response_processing_seconds", PROCESSING_SECONDS, own
        ).observe
        self.retries: Counter | None = None


@final
class RouteMetrics:
    """The series of one compiled route. Ask RequestMetrics for it."""

    __slots__ = ("_add", "_cells", "_facts", "_registry", "has_labels")

    def __init__(
        self, registry: Registry, facts: RouteFacts, add: Mapping[str, Expression]
    ) -> None:
        self._registry = registry
        self._facts = facts
        self._add = tuple(add.items())
        self._cells: dict[tuple[object, ...], _Cells] = {}
        self.has_labels = bool(self._add)
        """Whether configured labels ask for an entry: then `finish`, else `count` does."""

    def finish(self, entry: AccessEntry, backend: str = "") -> None:
        """Count a finished request. `backend`: its label, "" for the route's own."""
        request = entry.request
        method = request.method if request is not None else UNKNOWN
        key: tuple[object, ...] = (method, entry.status, entry.reason, backend)
        if self._add:
            key = (*key, *self._custom(entry))
        self.count(
            key,
            entry.response_bytes,
            entry.duration_ns,
            entry.request_processing_ns,
            entry.response_processing_ns,
            entry.retry_attempt,
        )

    def count(
        self,
        key: tuple[object, ...],
        response_bytes: int,
        duration_ns: int,
        request_processing_ns: int,
        response_processing_ns: int,
        retry_attempt: int,
    ) -> None:
        """Count a finished request whose labels are `(method, status, reason, backend, …)`."""
        # Fast path: a combination that was seen before.
        cells = self._cells.get(key) or self._found(key)
        cells.requests(1)
        cells.duration(duration_ns * 1e-9)
        if response_bytes:
            cells.sent(response_bytes)
        if request_processing_ns:
            cells.received(request_processing_ns * 1e-9)
        if response_processing_ns:
            cells.response(response_processing_ns * 1e-9)
        if retry_attempt:
            self._retried(cells, key, retry_attempt)

    def _custom(self, entry: AccessEntry) -> list[str]:
        labels = (expression.label(entry) for _, expression in self._add)
        return [UNKNOWN if label is None else label for label in labels]

    def _found(self, key: tuple[object, ...]) -> _Cells:
        key = self._folded(key)
        cells = self._cells.get(key)
        if cells is None:
            labels = self._labels(key)
            backend = [pair for pair in labels if pair[0] == "backend"]
            cells = _Cells(self._registry, labels, backend + labels[5:])
            self._cells[key] = cells
        return cells

    def _folded(self, key: tuple[object, ...]) -> tuple[object, ...]:
        """The same key, with what a client may invent replaced."""
        method, *rest = key
        key = (method if method in _METHODS else OTHER, *rest)
        if len(self._cells) < _MAX_SERIES_A_ROUTE or key in self._cells:
            return key
        return (*key[:3], OTHER, *(OTHER for _ in self._add))

    def _labels(self, key: tuple[object, ...]) -> list[tuple[str, str]]:
        facts = self._facts
        method, status, reason, backend, *custom = key
        return [
            ("backend", str(backend) or facts.backend),
            ("protocol", facts.protocol),
            ("method", str(method)),
            ("status", str(status) if status else UNKNOWN),
            ("reason", str(reason)),
            *route_labels(facts),
            *((name, str(v)) for (name, _), v in zip(self._add, custom, strict=True)),
        ]

    def _retried(self, cells: _Cells, key: tuple[object, ...], attempts: int) -> None:
        if cells.retries is None:
            labels = self._labels(self._folded(key))
            cells.retries = self._registry.counter("retries_total", labels)
        cells.retries.add(attempts)


def route_labels(facts: RouteFacts) -> tuple[tuple[str, str], ...]:
    """The labels that section 9.1 calls R."""
    return (
        ("bind", facts.bind),
        ("gateway", facts.gateway),
        ("listener", facts.listener),
        ("route", facts.route),
        ("route_rule", facts.route_rule),
    )


_TAKEN = frozenset(
    (
        *("bind", "gateway", "listener", "route", "route_rule"),
        *("backend", "protocol", "method", "status", "reason", "le"),
    )
)


@final
class RequestMetrics:
    """Makes the metrics of routes, for one configuration of `config.metrics`."""

    def __init__(
        self,
        writer: MetricWriter,
        remove: Iterable[str] = (),
        add: Mapping[str, Expression] | None = None,
        *,
        mode: Mode = "classic",
    ) -> None:
        """`add`: `config.metrics.fields.add`, label to expression. `mode`: see Registry.

        Raises: ConfigError.
        """
        self.registry = Registry(writer, remove, mode=mode)
        self._add = dict(add or {})
        for name in self._add:
            path = f"config.metrics.fields.add.{name}"
            if name in _TAKEN:
                raise ConfigError(path, "the label exists already")
            if not (name.isascii() and name.isidentifier()) or name.startswith("__"):
                raise ConfigError(path, "a label is made of letters, digits and underscores")

    def route(self, facts: RouteFacts) -> RouteMetrics:
        """The series of one route; keep it with the compiled route."""
        return RouteMetrics(self.registry, facts, self._add)


@final
class ListenerMetrics:
    """The downstream side of one listener; `protocol` is http, https, tcp, tls or hbone."""

    __slots__ = ("connections", "handshake", "received", "sent")

    def __init__(
        self, registry: Registry, bind: str, gateway: str, listener: str, protocol: str
    ) -> None:
        labels = (
            ("bind", bind),
            ("gateway", gateway),
            ("listener", listener),
            ("protocol", protocol),
        )
        self.connections = registry.counter("downstream_connections_total", labels)
        self.received = registry.counter("downstream_received_bytes_total", labels)
        self.sent = registry.counter("downstream_sent_bytes_total", labels)
        self.handshake = registry.histogram(
            "tls_handshake_duration_seconds", CONNECT_SECONDS, labels
        )
        """Seconds."""


@final
class UpstreamMetrics:
    """Connecting and calling out, one histogram a transport (plaintext, tls, hbone) and a kind."""

    __slots__ = ("_calls", "_connects", "_registry")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._connects: dict[str, Histogram] = {}
        self._calls: dict[tuple[str, str], Histogram] = {}

    def connect(self, transport: str) -> Histogram:
        """Seconds until a connection could carry a request."""
        found = self._connects.get(transport)
        if found is None:
            found = self._connects[transport] = self._registry.histogram(
                "upstream_connect_duration_seconds", CONNECT_SECONDS, (("transport", transport),)
            )
        return found

    def call(self, kind: str, subtype: str) -> Histogram:
        """Seconds of a call. `kind`: Primary, Policy, Mirror; `subtype`: Http, Llm, ExtAuthz, …"""
        found = self._calls.get((kind, subtype))
        if found is None:
            labels = (("kind", kind), ("subtype", subtype))
            found = self._calls[kind, subtype] = self._registry.histogram(
                "upstream_call_duration_seconds", HTTP_SECONDS, labels
            )
        return found


@final
class WorkerMetrics:
    """What one worker says of itself. Its column holds the cells, so a scrape sees each worker."""

    __slots__ = ("_registry", "in_flight", "loop_lag")

    def __init__(self, registry: Registry, worker: int) -> None:
        self._registry = registry
        labels = (("worker", str(worker)),)
        self.in_flight = registry.gauge("requests_in_flight", labels)
        self.loop_lag = registry.histogram("event_loop_lag_seconds", LAG_SECONDS, labels)
        """Seconds by which a timer came late."""

    def dropped(self, kind: str, count: int) -> None:
        """So many more log lines (`log`) or spans (`span`) reached nobody."""
        if count:
            self._registry.counter("telemetry_dropped_total", (("kind", kind),)).add(count)


@final
class LeaseMetrics:
    """What one process has to do with Redis; cells of its own column."""

    __slots__ = ("_before", "_counters")

    def __init__(self, registry: Registry) -> None:
        self._counters = tuple(
            registry.counter(f"state_redis_{name}_total")
            for name in ("renewals", "failures", "waits", "alone")
        )
        self._before: Sequence[int] = (0, 0, 0, 0)

    def take(self, counts: Sequence[int]) -> None:
        """Messages that were answered, and that were not; requests that waited for a lease, and
        that were judged without Redis: each since the process began."""
        for counter, now, before in zip(self._counters, counts, self._before, strict=True):
            counter.add(now - before)
        self._before = counts


@final
class RequestLogMetrics:
    """What became of the rows that one worker had for the request log."""

    __slots__ = ("_before", "_counters")

    def __init__(self, registry: Registry) -> None:
        self._counters = tuple(
            registry.counter(f"request_log_{name}_total")
            for name in ("rows", "dropped", "failures")
        )
        self._before: Sequence[int] = (0, 0, 0)

    def take(self, counts: Sequence[int]) -> None:
        """Rows written and rows lost, and times that the file took none: since the start."""
        for counter, now, before in zip(self._counters, counts, self._before, strict=True):
            counter.add(now - before)
        self._before = counts


@final
class GatewayMetrics:
    """What the control process says of the whole. It alone writes these."""

    __slots__ = (
        "_registry",
        "config_revision",
        "config_synchronized",
        "journal_failures",
        "journal_rows",
        "leases",
        "redis_connected",
        "registry",
    )

    def __init__(self, registry: Registry, version: str) -> None:
        self._registry = self.registry = registry
        self.journal_rows = registry.counter("budget_journal_rows_total")
        """Budgets written to the journal."""
        self.journal_failures = registry.counter("budget_journal_failures_total")
        """Times it could not be written."""
        self.redis_connected = registry.gauge("state_redis_connected")
        """1 while Redis answers, 0 while it does not, or is not used."""
        self.leases = registry.gauge("state_redis_leases")
        """Buckets and budgets of which something is leased, or was a moment ago."""
        self.config_revision = registry.gauge("config_revision")
        """The generation in force."""
        self.config_synchronized = registry.gauge("config_synchronized")
        """1 when the last load or reload was applied, 0 when it was refused."""
        registry.gauge("build_info", (("tag", version),)).set(1)

    def worker_up(self, worker: int, up: bool) -> None:
        """Whether a worker runs."""
        self._registry.gauge("worker_up", (("worker", str(worker)),)).set(1 if up else 0)

    def certificate_expires(self, seconds: float) -> None:
        """When the gateway's own certificate in the mesh does, in seconds since 1970."""
        self._registry.gauge("certificate_expiry_timestamp_seconds").set(seconds)

    def svid_expires(self, seconds: float) -> None:
        """As `certificate_expires`, of what listeners and backends with `spiffe` show."""
        self._registry.gauge("svid_expiry_timestamp_seconds").set(seconds)

    def catalog_fetched(self, result: str) -> None:
        """A look at a catalogue of prices by its URL: `changed`, `unchanged` or `failed`."""
        self._registry.counter("cost_catalog_fetches_total", (("result", result),)).add(1)

    def table_occupancy(self, table: str, used: int, capacity: int) -> None:
        """Slots of a shared-memory table."""
        labels = (("table", table),)
        self._registry.gauge("shm_slots_used", labels).set(used)
        self._registry.gauge("shm_slots", labels).set(capacity)

    def table_series(self, stats: TableStats) -> Iterator[Series]:
        """A hash table that counts for itself, in shared memory: read when it is asked for."""
        labels = (("table", stats.name),)
        counted = SeriesKind.COUNTER
        for name, kind, value in (
            ("shm_slots_used", SeriesKind.GAUGE, stats.used),
            ("shm_slots", SeriesKind.GAUGE, stats.slots),
            ("shm_size_bytes", SeriesKind.GAUGE, stats.size_bytes),
            ("shm_evictions_total", counted, stats.evictions),
            ("shm_refusals_total", counted, stats.refusals),
            ("shm_repairs_total", counted, stats.repairs),
            ("shm_damaged_total", counted, stats.damaged),
            ("shm_lock_waits_total", counted, stats.waits),
            ("shm_lock_timeouts_total", counted, stats.timeouts),
        ):
            if not self._registry.is_removed(name):
                yield Series(series_key(PREFIX + name, labels), kind, value)
