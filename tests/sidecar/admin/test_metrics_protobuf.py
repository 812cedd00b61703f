"""The protobuf exposition, read by Google's decoder from the data model's field numbers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from shm.metrics import MetricsTable
from sidecar.admin.metrics import CLASSIC, forms_of
from sidecar.admin.metrics_protobuf import protobuf_exposition, wants_protobuf
from sidecar.telemetry.metrics import HTTP_SECONDS, Registry, series_key
from sidecar.telemetry.native import Mode

TYPES = {"string": 9, "double": 1, "uint64": 4, "uint32": 13, "sint32": 17, "sint64": 18, "int": 5}
MODEL: dict[str, dict[str, tuple[int, str, bool]]] = {
    "LabelPair": {"name": (1, "string", False), "value": (2, "string", False)},
    "Gauge": {"value": (1, "double", False)},
    "Counter": {"value": (1, "double", False)},
    "Bucket": {"cumulative_count": (1, "uint64", False), "upper_bound": (2, "double", False)},
    "BucketSpan": {"offset": (1, "sint32", False), "length": (2, "uint32", False)},
    "Histogram": {
        "sample_count": (1, "uint64", False),
        "sample_sum": (2, "double", False),
        "bucket": (3, "Bucket", True),
        "schema": (5, "sint32", False),
        "zero_threshold": (6, "double", False),
        "zero_count": (7, "uint64", False),
        "positive_span": (12, "BucketSpan", True),
        "positive_delta": (13, "sint64", True),
    },
    "Metric": {
        "label": (1, "LabelPair", True),
        "gauge": (2, "Gauge", False),
        "counter": (3, "Counter", False),
        "histogram": (7, "Histogram", False),
    },
    "MetricFamily": {
        "name": (1, "string", False),
        "help": (2, "string", False),
        "type": (3, "int", False),
        "metric": (4, "Metric", True),
    },
}
"""Field, number, type, whether it is repeated."""


def family_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="m", syntax="proto2")
    for name, fields in MODEL.items():
        made = file.message_type.add(name=name)
        for field, (number, kind, is_repeated) in fields.items():
            one = made.field.add(name=field, number=number, label=3 if is_repeated else 1)
            one.type = TYPES.get(kind, 11)
            if kind in MODEL:
                one.type_name = f".m.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("m.MetricFamily"))


FAMILY = family_class()


def families(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    at = 0
    while at < len(data):
        size = shift = 0
        while True:
            octet = data[at]
            at += 1
            size |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                break
        one = FAMILY.FromString(data[at : at + size])
        found[one.name] = one
        at += size
    return found


@pytest.fixture
def table() -> Iterator[MetricsTable]:
    made = MetricsTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", workers=2, rows=256)
    yield made
    made.close()


def test_counters_and_gauges(table: MetricsTable) -> None:
    one = table.writer(0)
    key = series_key("agentgateway_requests_total", [("method", 'a"ä\n')])
    one.counter(key).add(2**40)
    one.gauge(b"agentgateway_requests_in_flight").set(-1.5)
    found = families(protobuf_exposition(table.collect(), CLASSIC))
    requests = found["agentgateway_requests_total"]
    assert (requests.type, requests.help) == (0, "Requests finished.")
    (metric,) = requests.metric
    assert [(one.name, one.value) for one in metric.label] == [("method", 'a"ä\n')]
    assert metric.counter.value == 2**40
    gauge = found["agentgateway_requests_in_flight"]
    assert (gauge.type, gauge.metric[0].gauge.value) == (1, -1.5)


@pytest.mark.parametrize("mode", ["classic", "native", "both"])
def test_histograms(table: MetricsTable, mode: Mode) -> None:
    registry = Registry(table.writer(0), mode=mode)
    histogram = registry.histogram("request_duration_seconds", HTTP_SECONDS, [("a", "b")])
    for value in (0.0, 0.3, 0.3, 40.0, 10_000.0):
        histogram.observe(value)
    data = protobuf_exposition(table.collect(), forms_of(mode))
    (metric,) = families(data)["agentgateway_request_duration_seconds"].metric
    found = metric.histogram
    assert (found.sample_count, found.sample_sum) == (5, 10_040.6)
    bounds = [one.upper_bound for one in found.bucket]
    assert bounds == ([] if mode == "native" else [*HTTP_SECONDS, float("inf")])
    if mode != "native":
        counts = {one.upper_bound: one.cumulative_count for one in found.bucket}
        assert (counts[0.25], counts[0.5], counts[80.0], counts[float("inf")]) == (1, 3, 4, 5)
    assert found.HasField("schema") is (mode != "classic")
    if mode == "classic":
        return
    assert (found.schema, found.zero_count) == (1, 1)
    assert found.zero_threshold == 2.0**-11
    # 0.3 lies between 2^-2 and 2^-1.5, 40 between 2^5 and 2^5.5; what is above 2^8 right behind it.
    spans = [(one.offset, one.length) for one in found.positive_span]
    assert spans == [(-3, 1), (13, 1), (5, 1)]
    assert list(found.positive_delta) == [2, -1, 0]


PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)


@pytest.mark.parametrize(
    ("accept", "is_wanted"),
    [
        (f"{PROTOBUF};q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1", True),
        (f"application/openmetrics-text;version=1.0.0;q=0.6,{PROTOBUF};q=0.5", False),
        (f"{PROTOBUF};q=0", False),
        (PROTOBUF.replace("delimited", "text"), False),
        ("application/vnd.google.protobuf", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_who_wants_it(accept: str, is_wanted: bool) -> None:
    assert wants_protobuf(accept) is is_wanted
