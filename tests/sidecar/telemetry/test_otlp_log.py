"""The access log as OTLP log records."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.http.message import Request
from sidecar.telemetry.access import AccessLog, OtlpLog
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.exports import Current
from sidecar.telemetry.log_export import LogExport, LogRecord
from sidecar.telemetry.otlp_target import OtlpTarget
from sidecar.telemetry.sink import LogSink
from sidecar.telemetry.w3c import TraceContext
from tests.sidecar.telemetry.collectors import GrpcCollector, HttpCollector
from tests.sidecar.telemetry.entries import compiler, entry, request


def records_of(
    otlp: dict[str, Any], log: dict[str, Any] | None = None, asked: Request | None = None
) -> list[LogRecord]:
    """What one entry becomes."""
    found: list[LogRecord] = []
    made = OtlpLog(otlp, log or {}, compiler(), found.extend, SystemClock())
    made.emit(entry(asked))
    return found


def test_it_has_the_fields_of_the_log() -> None:
    (record,) = records_of({}, {"add": {"team": '"blue"'}, "remove": ["duration"]})
    assert record.attributes["http.method"] == "GET"
    assert record.attributes["http.status"] == 200
    assert record.attributes["team"] == "blue"
    assert "duration" not in record.attributes


def test_its_own_fields_are_others() -> None:
    fields = {"add": {"n": "1 + 1", "parts": "[1, 2]"}, "remove": ["http.status"]}
    (record,) = records_of({"fields": fields}, {"add": {"team": '"blue"'}})
    assert (record.attributes["n"], record.attributes["parts"]) == (2, "[1, 2]")
    assert not {"team", "http.status"} & record.attributes.keys()


@pytest.mark.parametrize(
    ("own", "of_the_log", "count"),
    [
        (None, None, 1),
        (None, "false", 0),
        ("true", "false", 1),
        ("false", "true", 0),
        ("jwt.nothing", None, 0),
    ],
)
def test_filter(own: str | None, of_the_log: str | None, count: int) -> None:
    assert len(records_of({"filter": own}, {"filter": of_the_log})) == count


def test_it_bears_the_trace() -> None:
    asked = request()
    asked.trace = TraceContext(0xA, 0xB, 0, True)
    (record,) = records_of({}, asked=asked)
    assert (record.trace_id, record.span_id, record.is_sampled) == (0xA, 0xB, True)


def test_it_is_written_whatever_the_level_of_lines() -> None:
    found: list[LogRecord] = []
    otlp = OtlpLog({}, {}, compiler(), found.extend, SystemClock())
    log = AccessLog(None, "text", compiler(), sink=LogSink(1), clock=SystemClock(), otlp=otlp)
    logging.getLogger("request").setLevel(logging.WARNING)
    try:
        assert log.is_wanted(logging.INFO)
        log.emit(entry())
    finally:
        logging.getLogger("request").setLevel(logging.NOTSET)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("otlp", "path"),
    [
        ({"filter": "1 +"}, "frontendPolicies.accessLog.otlp.filter"),
        ({"fields": {"add": {"a": "1 +"}}}, "frontendPolicies.accessLog.otlp.fields.add.a"),
        ({"fields": {"remove": [1]}}, "frontendPolicies.accessLog.otlp.fields.remove"),
    ],
)
def test_what_is_wrong_is_said(otlp: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OtlpLog(otlp, {}, compiler(), lambda _: None, SystemClock())
    assert caught.value.path == path


@pytest.fixture(params=["grpc", "http"])
def collector(request: pytest.FixtureRequest) -> Iterator[GrpcCollector | HttpCollector]:
    made = GrpcCollector() if request.param == "grpc" else HttpCollector()
    yield made
    made.close()


def test_records_arrive(collector: GrpcCollector | HttpCollector) -> None:
    is_http = isinstance(collector, HttpCollector)
    policy = {"host": collector.address, "protocol": "http" if is_http else "grpc"}
    target = OtlpTarget.of_policy(policy, "p", signal="logs")
    export = LogExport(target, {"service.name": "svc"}, "1.2", interval_seconds=0.01)
    export.submit([LogRecord(1_000, {"http.status": 200, "ok": True}, 0xA, 0xB, True)])
    received, headers = collector.logs.get(timeout=20)
    export.close()
    assert (export.exported, export.lost) == (1, 0)
    if is_http:
        assert headers[":path"] == "/v1/logs"
    (resource,) = received.resource_logs
    (scope,) = resource.scope_logs
    assert (scope.scope.name, scope.scope.version) == ("agentgateway.access", "1.2")
    (record,) = scope.log_records
    assert (record.time_unix_nano, record.severity_text) == (1_000, "INFO")
    assert (int.from_bytes(record.trace_id), int.from_bytes(record.span_id)) == (0xA, 0xB)
    assert {one.key: one.value.int_value for one in record.attributes}["http.status"] == 200


def test_an_export_is_replaced_when_its_target_changes() -> None:
    current: Current[LogExport] = Current()
    made: list[LogExport] = []

    def make() -> LogExport:
        made.append(LogExport(OtlpTarget("127.0.0.1:1"), {}, "1"))
        return made[-1]

    first = current.of({"host": "a"}, make)
    assert current.of({"host": "a"}, make) is first
    assert current.of({"host": "b"}, make) is not first
    first.submit([LogRecord(1, {})])
    assert (first.dropped, current.lost()) == (1, 1), "what is retired takes no more"
    assert current.lost() == 1
    current.close()
