"""Finished spans, and other records, on their way to an OTLP collector, off the event loop.

The loop appends plain records to a bounded queue; a thread of the export turns them into OTLP and
waits for the collector. A collector that is slow or gone costs records, which are counted, and
nothing else. The libraries are loaded by the first export that is made: few gateways have any.

Source: OpenTelemetry protocol 1.x (OTLP/gRPC, OTLP/HTTP); spec/config.md section 9.3.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Final, Generic, Literal, TypeVar, final

from sidecar.telemetry.otlp_target import Exporter, OtlpTarget, Signal

Kind = Literal["SERVER", "CLIENT"]
SERVER: Final = "SERVER"
CLIENT: Final = "CLIENT"
SCOPE = "agentgateway"
_BATCH_BYTES: Final = 3 << 20
"""Collectors take messages of 4 MiB over gRPC, unless told otherwise."""
_QUEUE_BYTES: Final = 32 << 20
_RECORD_BYTES: Final = 128
"""Of ids, times and the like."""
_ATTRIBUTE_BYTES: Final = 24
"""Of what frames it; also a number or a flag."""


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
        capacity_bytes: int = _QUEUE_BYTES,
        batch: int = 512,
        batch_bytes: int = _BATCH_BYTES,
        interval_seconds: float = 1.0,
        open_exporter: Callable[[], tuple[Exporter, list[IO[str]]]] | None = None,
    ) -> None:
        """`resource`: attributes of section 9.3. The exporter is opened by the thread.

        `batch_bytes`: by `_bytes_of`; a record that is larger goes alone.
        """
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self.target = target
        self._resource = Resource(dict(resource))
        self._scope = InstrumentationScope(self.scope, version)
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._batch = batch
        self._batch_bytes = batch_bytes
        self._interval_seconds = interval_seconds
        if open_exporter is None:
            target.exporter(self.signal)
        self._open = open_exporter or partial(target.open, self.signal)
        self._queue: deque[tuple[R, int]] = deque()
        """Records and their octets."""
        self._bytes_in = 0
        """Octets that were ever queued. The loop's thread alone counts these."""
        self._bytes_out = 0
        """Octets that were ever taken from the queue. The export's thread alone counts these."""
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
        if self._stopping or self._capacity - len(self._queue) < len(records):
            self.dropped += len(records)
            return
        sized = [(record, self._bytes_of(record)) for record in records]
        added_bytes = sum([size for _, size in sized])
        queued_bytes = self._bytes_in - self._bytes_out + added_bytes
        if queued_bytes > self._capacity_bytes:
            self.dropped += len(records)
            return
        self._bytes_in += added_bytes
        self._queue.extend(sized)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"otlp-{self.signal}", daemon=True
            )
            self._thread.start()
        if len(self._queue) >= self._batch or queued_bytes >= self._batch_bytes:
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
            items = self._next_batch()
            count = len(items)
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

    def _next_batch(self) -> list[object]:
        """As many records as one message may hold, and one at least."""
        items: list[object] = []
        taken_bytes = 0
        while self._queue and len(items) < self._batch:
            record, size = self._queue[0]
            if items and taken_bytes + size > self._batch_bytes:
                break
            self._queue.popleft()
            taken_bytes += size
            items.append(self._item(record))
        self._bytes_out += taken_bytes
        return items

    def _item(self, record: R) -> object:
        """The record as the SDK has it."""
        raise NotImplementedError

    def _bytes_of(self, record: R) -> int:
        """At most what it takes in a message."""
        raise NotImplementedError


def attribute_bytes(attributes: Mapping[str, object]) -> int:
    """At most what a record with these attributes takes in a message, beside other texts."""
    texts = [*attributes, *[one for one in attributes.values() if isinstance(one, str)]]
    return _RECORD_BYTES + _ATTRIBUTE_BYTES * len(attributes) + text_bytes(texts)


def text_bytes(texts: Iterable[str]) -> int:
    """At most what these texts take in UTF-8."""
    return sum([len(text) if text.isascii() else 4 * len(text) for text in texts])


@final
class SpanExport(Export[SpanRecord]):
    """Of spans."""

    signal = "traces"
    scope = SCOPE

    def _bytes_of(self, record: SpanRecord) -> int:
        return attribute_bytes(record.attributes) + text_bytes((record.name, record.error or ""))

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
