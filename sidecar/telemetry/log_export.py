"""Entries of the access log as OTLP log records.

Source: OpenTelemetry protocol 1.x, logs; spec/config.md sections 1.10 and 9.2 (`accessLog.otlp`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from sidecar.telemetry.export import Export, attribute_bytes

SCOPE: Final = "agentgateway.access"
_PLAIN: Final = (str, bool, int, float)

Attribute = str | bool | int | float


@final
@dataclass(frozen=True, slots=True)
class LogRecord:
    """One entry. `time_ns`: nanoseconds since the epoch; the ids are 0 without a trace."""

    time_ns: int
    attributes: Mapping[str, Attribute]
    trace_id: int = 0
    span_id: int = 0
    is_sampled: bool = False


@final
class LogExport(Export[LogRecord]):
    """Of log records."""

    signal = "logs"
    scope = SCOPE

    def _bytes_of(self, record: LogRecord) -> int:
        return attribute_bytes(record.attributes)

    def _item(self, record: LogRecord) -> Any:
        from opentelemetry._logs import LogRecord as ApiRecord
        from opentelemetry._logs import SeverityNumber
        from opentelemetry.sdk._logs import ReadableLogRecord
        from opentelemetry.trace import TraceFlags

        made = ApiRecord(
            timestamp=record.time_ns,
            observed_timestamp=record.time_ns,
            trace_id=record.trace_id,
            span_id=record.span_id,
            trace_flags=TraceFlags(record.is_sampled),
            severity_text="INFO",
            severity_number=SeverityNumber.INFO,
            attributes=record.attributes,
        )
        return ReadableLogRecord(made, self._resource, self._scope)


def attribute(value: object) -> Attribute:
    """A field as an attribute: what is no plain value becomes text."""
    return value if isinstance(value, _PLAIN) else str(value)
