"""Finished spans, and other records, on their way to an OTLP collector, off the event loop.

The loop appends plain records to a bounded queue; a thread of the export turns them into OTLP and
waits for the collector. A collector that is slow or gone costs records, which are counted, and
nothing else. The libraries are loaded by the first export that is made: few gateways have any.

Source: OpenTelemetry protocol 1.x (OTLP/gRPC, OTLP/HTTP); spec/config.md section 9.3.
"""

from __future__ import annotations

import enum
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import IO, Any, Final, Generic, Literal, Protocol, TypeVar, final

from sidecar.errors import ConfigError

Kind = Literal["SERVER", "CLIENT"]
SERVER: Final = "SERVER"
CLIENT: Final = "CLIENT"
SCOPE = "agentgateway"
_EXPORT_SECONDS = 10.0
Signal = Literal["traces", "logs"]
_BACKEND_KEYS = ("host", "service", "backend")


@final
@dataclass(slots=True)
class SpanRecord:
    """One finished span. Times are nanoseconds since the epoch; `parent_id` 0 is none."""

    name: str
    kind: Kind
    trace_id: int
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    attributes: dict[str, str | bool | int | float]
    error: str | None = None
    """None: no error. "": one without a text."""
    remote_parent: bool = False


@final
@dataclass(frozen=True, slots=True)
class OtlpTarget:
    """Where spans go. `address` is `host:port`; `path` counts for HTTP alone."""

    address: str
    protocol: str = "grpc"
    path: str = "/v1/traces"
    has_tls: bool = False
    root_pem: str = ""
    """Roots to trust, PEM; the system's when empty."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of_policy(
        cls,
        policy: Mapping[str, object],
        path: str,
        *,
        address: str | None = None,
        signal: Signal = "traces",
    ) -> OtlpTarget:
        """The target of `tracing` or `accessLog.otlp`. `address`: of the service or backend, if
        that is named.

        Raises: ConfigError for what cannot be honoured.
        """
        host = policy.get("host")
        if address is None and not isinstance(host, str):
            named = next((k for k in _BACKEND_KEYS if policy.get(k) is not None), "host")
            raise ConfigError(f"{path}.{named}", f"has no address to send {signal} to")
        protocol = policy.get("protocol", "grpc")
        if protocol not in ("grpc", "http"):
            raise ConfigError(f"{path}.protocol", "must be grpc or http")
        where = str(policy.get("path") or f"/v1/{signal}")
        if not where.startswith("/"):
            raise ConfigError(f"{path}.path", "must begin with /")
        has_tls, root, headers = _connection(policy.get("policies"), f"{path}.policies")
        return cls(address or str(host), str(protocol), where, has_tls, root, headers)

    def exporter(self, signal: Signal = "traces") -> Any:
        """The class that sends there, of a library that is imported here: 0.1 s, which no record
        is to wait for, so ask for it in time (see gateway.parts)."""
        return _EXPORTERS[signal, self.protocol]()

    def open(self, signal: Signal = "traces") -> tuple[Exporter, list[IO[str]]]:
        """An exporter, and the files it needs for as long as it lives."""
        make = self.exporter(signal)
        scheme = "https" if self.has_tls else "http"
        url = f"{scheme}://{self.address}"
        if self.protocol == "grpc":
            import grpc

            roots = self.root_pem.encode() or None
            credentials = grpc.ssl_channel_credentials(roots) if self.has_tls else None
            headers = [(name.lower(), value) for name, value in self.headers]
            return make(
                endpoint=url,
                insecure=not self.has_tls,
                credentials=credentials,
                headers=headers,
                timeout=_EXPORT_SECONDS,
            ), []
        files: list[IO[str]] = []
        if self.root_pem:
            # The HTTP client takes roots from a file alone.
            files.append(tempfile.NamedTemporaryFile("w", suffix=".pem"))  # noqa: SIM115 (kept open)
            files[0].write(self.root_pem)
            files[0].flush()
        return make(
            endpoint=url + self.path,
            certificate_file=files[0].name if files else None,
            headers=dict(self.headers),
            timeout=_EXPORT_SECONDS,
        ), files


class Exporter(Protocol):
    """What the SDK's exporters of all signals have in common."""

    def export(self, batch: Sequence[Any], /) -> enum.Enum:
        """Send; SUCCESS or FAILURE."""

    def shutdown(self) -> None:
        """Give up what is being tried."""


def _spans_by_grpc() -> Any:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter


def _spans_by_http() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    import_module(_HTTP_CLIENT)
    return OTLPSpanExporter


def _logs_by_grpc() -> Any:
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

    return OTLPLogExporter


def _logs_by_http() -> Any:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    import_module(_HTTP_CLIENT)
    return OTLPLogExporter


_HTTP_CLIENT: Final = "requests"
"""What the exporters over HTTP load when they are made, which is when the first record waits."""
_EXPORTERS: Final[Mapping[tuple[Signal, str], Callable[[], Any]]] = {
    ("traces", "grpc"): _spans_by_grpc,
    ("traces", "http"): _spans_by_http,
    ("logs", "grpc"): _logs_by_grpc,
    ("logs", "http"): _logs_by_http,
}


def _connection(policies: object, path: str) -> tuple[bool, str, tuple[tuple[str, str], ...]]:
    """`(TLS, roots, headers)` of a backend reference's policies. Raises: ConfigError."""
    has_tls, root = False, ""
    headers: tuple[tuple[str, str], ...] = ()
    for key, value in (policies if isinstance(policies, Mapping) else {}).items():
        if value is None:
            continue
        if key == "backendTLS" and isinstance(value, Mapping):
            _only(value, ("root",), f"{path}.backendTLS")
            has_tls, root = True, str(value.get("root") or "")
        elif key == "requestHeaderModifier" and isinstance(value, Mapping):
            _only(value, ("set", "add"), f"{path}.requestHeaderModifier")
            pairs = [dict(value.get(k) or {}) for k in ("set", "add")]
            headers = tuple((str(k), str(v)) for pair in pairs for k, v in pair.items())
        else:
            raise ConfigError(f"{path}.{key}", "not supported yet (policy of a collector)")
    return has_tls, root, headers


def _only(value: Mapping[object, object], keys: tuple[str, ...], path: str) -> None:
    for key, item in value.items():
        if key not in keys and item is not None:
            raise ConfigError(f"{path}.{key}", "not supported yet (policy of a collector)")


R = TypeVar("R")


class Export(Generic[R]):
    """The queue and the thread behind it. Begin it after the fork, one a process and target."""

    signal: Signal
    scope: str
    """Name of the instrumentation scope."""

    def __init__(
        self,
        target: OtlpTarget,
        resource: Mapping[str, str],
        version: str,
        *,
        capacity: int = 8192,
        batch: int = 512,
        interval_seconds: float = 1.0,
        open_exporter: Callable[[], tuple[Exporter, list[IO[str]]]] | None = None,
    ) -> None:
        """`resource`: attributes of section 9.3. The exporter is opened by the thread."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self.target = target
        self._resource = Resource(dict(resource))
        self._scope = InstrumentationScope(self.scope, version)
        self._capacity = capacity
        self._batch = batch
        self._interval_seconds = interval_seconds
        if open_exporter is None:
            target.exporter(self.signal)
        self._open = open_exporter or partial(target.open, self.signal)
        self._queue: deque[R] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._exporter: Exporter | None = None
        self._is_shut = False
        self._is_retired = False
        self.dropped = 0
        """Refused because the queue was full."""
        self.exported = 0
        self.failed = 0
        """Given to the collector in vain."""

    def submit(self, records: Sequence[R]) -> None:
        """Queue finished records; what does not fit is dropped. One thread, the loop's."""
        room = self._capacity - len(self._queue)
        if self._stopping or room < len(records):
            self.dropped += len(records)
            return
        self._queue.extend(records)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"otlp-{self.signal}", daemon=True
            )
            self._thread.start()
        if len(self._queue) >= self._batch:
            self._wake.set()

    @property
    def lost(self) -> int:
        """Records that reached no collector."""
        return self.dropped + self.failed

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def retire(self) -> None:
        """Take no more; the thread sends what is queued and ends by itself. Does not block.

        With a collector that does not answer it ends after one more try: a gateway that is
        reloaded again and again must not gather threads.
        """
        self._is_retired = self._stopping = True
        self._wake.set()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Send what is queued, for as long as the timeout allows. Blocks: not on the loop."""
        self._stopping = True
        self._wake.set()
        thread = self._thread
        if thread is None:
            return
        thread.join(timeout_seconds)
        if thread.is_alive():
            # Ends the retries of a collector that does not answer.
            self._shutdown()
            thread.join(1.0)

    def _shutdown(self) -> None:
        if self._exporter is not None and not self._is_shut:
            self._is_shut = True
            self._exporter.shutdown()

    def _run(self) -> None:
        self._exporter, files = self._open()
        try:
            while not self._stopping:
                self._wake.wait(self._interval_seconds)
                self._wake.clear()
                self._send()
            self._send()
            self._shutdown()
        finally:
            for file in files:
                file.close()

    def _send(self) -> None:
        assert self._exporter is not None
        while self._queue:
            count = min(self._batch, len(self._queue))
            items = [self._item(self._queue.popleft()) for _ in range(count)]
            try:
                is_sent = self._exporter.export(items).name == "SUCCESS"
            except Exception:  # a bug in the exporter must cost records, not the thread
                is_sent = False
            if is_sent:
                self.exported += count
                continue
            self.failed += count
            if self._is_retired:
                self.failed += len(self._queue)
                self._queue.clear()

    def _item(self, record: R) -> object:
        """The record as the SDK has it."""
        raise NotImplementedError


@final
class SpanExport(Export[SpanRecord]):
    """Of spans."""

    signal = "traces"
    scope = SCOPE

    def _item(self, record: SpanRecord) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        flags = TraceFlags(TraceFlags.SAMPLED)
        parent = None
        if record.parent_id:
            parent = SpanContext(record.trace_id, record.parent_id, record.remote_parent, flags)
        status = Status(StatusCode.UNSET)
        if record.error is not None:
            status = Status(StatusCode.ERROR, record.error or None)
        return ReadableSpan(
            name=record.name,
            context=SpanContext(record.trace_id, record.span_id, False, flags),
            parent=parent,
            resource=self._resource,
            attributes=record.attributes,
            kind=SpanKind[record.kind],
            status=status,
            start_time=record.start_ns,
            end_time=record.end_ns,
            instrumentation_scope=self._scope,
        )


def resource_attributes(
    env: Mapping[str, str], version: str, added: Iterable[tuple[str, object]] = ()
) -> dict[str, str]:
    """The resource: defaults, then OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, then `added`."""
    attributes = {"service.name": "agentgateway", "service.version": version}
    names = {
        "k8s.pod.name": "POD_NAME",
        "k8s.namespace.name": "NAMESPACE",
        "k8s.node.name": "NODE_NAME",
        "k8s.pod.ip": "INSTANCE_IP",
    }
    attributes |= {name: env[key] for name, key in names.items() if env.get(key)}
    for pair in env.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, equals, value = pair.partition("=")
        if equals and name.strip():
            attributes[name.strip()] = value.strip()
    if env.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = env["OTEL_SERVICE_NAME"]
    return attributes | {name: str(value) for name, value in added if value is not None}
