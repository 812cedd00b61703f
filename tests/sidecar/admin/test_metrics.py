from __future__ import annotations

import os
import uuid

import pytest

from shm.metrics import MetricsTable
from sidecar.admin.metrics import exposition, wants_openmetrics
from sidecar.telemetry.metrics import series_key

HOSTILE = 'a"b\\c\nd'


@pytest.fixture
def table():
    made = MetricsTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", workers=2, rows=256)
    yield made
    made.close()


def filled(table) -> None:
    one = table.writer(0)
    one.counter(series_key("agentgateway_requests_total", [("method", "GET")])).add(2)
    one.gauge(b"agentgateway_requests_in_flight").set(1.5)
    one.counter(series_key("agentgateway_requests_total", [("method", HOSTILE)])).add(1)
    histogram = one.histogram(series_key("agentgateway_x_seconds", [("le2", "=")]), (0.1, 1.0))
    for value in (0.05, 0.5, 0.5, 5.0):
        histogram.observe(value)
    one.gauge(b"agentgateway_info\0tag=1").set(1)


TEXT = r"""# TYPE agentgateway_info gauge
agentgateway_info{tag="1"} 1
# HELP agentgateway_requests_in_flight Requests not yet finished.
# TYPE agentgateway_requests_in_flight gauge
agentgateway_requests_in_flight 1.5
# HELP agentgateway_requests_total Requests finished.
# TYPE agentgateway_requests_total counter
agentgateway_requests_total{method="GET"} 2
agentgateway_requests_total{method="a\"b\\c\nd"} 1
# TYPE agentgateway_x_seconds histogram
agentgateway_x_seconds_bucket{le2="=",le="0.1"} 1
agentgateway_x_seconds_bucket{le2="=",le="1.0"} 3
agentgateway_x_seconds_bucket{le2="=",le="+Inf"} 4
agentgateway_x_seconds_sum{le2="="} 6.05
agentgateway_x_seconds_count{le2="="} 4
"""


def test_text(table):
    filled(table)
    assert exposition(table.collect()).decode() == TEXT


def test_openmetrics(table):
    filled(table)
    text = exposition(table.collect(), openmetrics=True).decode()
    assert "# TYPE agentgateway_requests counter\n" in text
    assert 'agentgateway_requests_total{method="GET"} 2\n' in text
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize("openmetrics", [False, True])
def test_prometheus_reads_it(table, openmetrics):
    reason = "prometheus_client is not installed"
    pytest.importorskip("prometheus_client", reason=reason)
    from prometheus_client import parser
    from prometheus_client.openmetrics import parser as open_parser

    filled(table)
    text = exposition(table.collect(), openmetrics=openmetrics).decode()
    read = open_parser if openmetrics else parser
    families = {one.name: one for one in read.text_string_to_metric_families(text)}
    requests = families["agentgateway_requests"]
    assert requests.type == "counter"
    assert {s.labels["method"]: s.value for s in requests.samples} == {"GET": 2, HOSTILE: 1}
    histogram = families["agentgateway_x_seconds"]
    assert histogram.type == "histogram"
    assert sorted(s.value for s in histogram.samples) == [1, 3, 4, 4, 6.05]


def test_workers_are_summed(table):
    for column in (0, 1):
        table.writer(column).counter(b"agentgateway_n_total").add(column + 1)
    assert b"agentgateway_n_total 3\n" in exposition(table.collect())


def test_nothing_yet(table):
    assert exposition(table.collect()) == b"\n"
    assert exposition(table.collect(), openmetrics=True) == b"# EOF\n"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e300, -2.0])
def test_odd_numbers(table, value):
    table.writer(0).gauge(b"agentgateway_g").set(value)
    line = exposition(table.collect()).decode().splitlines()[-1]
    shown = line.split()[1]
    assert shown in ("+Inf", "-Inf", "NaN") or float(shown) == value


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4", True),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        ("application/vnd.google.protobuf, text/plain;q=0.1", False),
    ],
)
def test_negotiation(accept, is_open):
    assert wants_openmetrics(accept) is is_open
