"""Finished spans on their way to an OTLP collector, off the event loop.

The loop appends plain records to a bounded queue; a thread of the export turns them into OTLP and
waits for the collector. A collector that is slow or gone costs spans, which are counted, and
nothing else.

Source: OpenTelemetry protocol 1.x (OTLP/gRPC, OTLP/HTTP); spec/config.md section 9.3.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, final

import grpc
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from sidecar.errors import ConfigError

SERVER = SpanKind.SERVER
CLIENT = SpanKind.CLIENT
SCOPE = "agentgateway"
_EXPORT_SECONDS = 10.0
_BACKEND_KEYS = ("host", "service", "backend")


@final
@dataclass(slots=True)
class SpanRecord:
    """One finished span. Times are nanoseconds since the epoch; `parent_id` 0 is none."""

    name: str
    kind: SpanKind
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
        cls, policy: Mapping[str, object], path: str, *, address: str | None = None
    ) -> OtlpTarget:
        """The target of a `tracing` policy. `address`: of the service or backend, if that is named.

        Raises: ConfigError for what cannot be honoured.
        """
        host = policy.get("host")
        if address is None and not isinstance(host, str):
            named = next((k for k in _BACKEND_KEYS if policy.get(k) is not None), "host")
            raise ConfigError(f"{path}.{named}", "has no address to send traces to")
        protocol = policy.get("protocol", "grpc")
        if protocol not in ("grpc", "http"):
            raise ConfigError(f"{path}.protocol", "must be grpc or http")
        where = str(policy.get("path") or "/v1/traces")
        if not where.startswith("/"):
            raise ConfigError(f"{path}.path", "must begin with /")
        has_tls, root, headers = _connection(policy.get("policies"), f"{path}.policies")
        return cls(address or str(host), str(protocol), where, has_tls, root, headers)

    def open(self) -> tuple[SpanExporter, list[IO[str]]]:
        """An exporter, and the files it needs for as long as it lives."""
        # Here, since few gateways export spans, and the libraries take 0.06 s to load.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter as HttpExporter,
        )

        scheme = "https" if self.has_tls else "http"
        url = f"{scheme}://{self.address}"
        if self.protocol == "grpc":
            roots = self.root_pem.encode() or None
            credentials = grpc.ssl_channel_credentials(roots) if self.has_tls else None
            headers = [(name.lower(), value) for name, value in self.headers]
            return GrpcExporter(
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
        return HttpExporter(
            endpoint=url + self.path,
            certificate_file=files[0].name if files else None,
            headers=dict(self.headers),
            timeout=_EXPORT_SECONDS,
        ), files


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
            raise ConfigError(f"{path}.{key}", "not supported yet (policy of a trace collector)")
    return has_tls, root, headers


def _only(value: Mapping[object, object], keys: tuple[str, ...], path: str) -> None:
    for key, item in value.items():
        if key not in keys and item is not None:
            raise ConfigError(f"{path}.{key}", "not supported yet (policy of a trace collector)")


@final
class SpanExport:
    """The queue and the thread behind it. Begin it after the fork, one a process and target."""

    def __init__(
        self,
        target: OtlpTarget,
        resource: Mapping[str, str],
        version: str,
        *,
        capacity: int = 8192,
        batch: int = 512,
        interval_seconds: float = 1.0,
        open_exporter: Callable[[], tuple[SpanExporter, list[IO[str]]]] | None = None,
    ) -> None:
        """`resource`: attributes of section 9.3. The exporter is opened by the thread."""
        self.target = target
        self._resource = Resource(dict(resource))
        self._scope = InstrumentationScope(SCOPE, version)
        self._capacity = capacity
        self._batch = batch
        self._interval_seconds = interval_seconds
        self._open = open_exporter or target.open
        self._queue: deque[SpanRecord] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._exporter: SpanExporter | None = None
        self._is_shut = False
        self._is_retired = False
        self.dropped_spans = 0
        """Refused because the queue was full."""
        self.exported_spans = 0
        self.failed_spans = 0
        """Given to the collector in vain."""

    def submit(self, records: Sequence[SpanRecord]) -> None:
        """Queue finished spans; what does not fit is dropped. One thread, the loop's."""
        room = self._capacity - len(self._queue)
        if self._stopping or room < len(records):
            self.dropped_spans += len(records)
            return
        self._queue.extend(records)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="otlp-traces", daemon=True)
            self._thread.start()
        if len(self._queue) >= self._batch:
            self._wake.set()

    @property
    def lost_spans(self) -> int:
        """Spans that reached no collector."""
        return self.dropped_spans + self.failed_spans

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
            spans = [self._span(self._queue.popleft()) for _ in range(count)]
            try:
                result = self._exporter.export(spans)
            except Exception:  # a bug in the exporter must cost spans, not the thread
                result = SpanExportResult.FAILURE
            if result is SpanExportResult.SUCCESS:
                self.exported_spans += count
                continue
            self.failed_spans += count
            if self._is_retired:
                self.failed_spans += len(self._queue)
                self._queue.clear()

    def _span(self, record: SpanRecord) -> ReadableSpan:
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
            kind=record.kind,
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
