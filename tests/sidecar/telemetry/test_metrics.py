from __future__ import annotations

import os
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm.cells import SeriesKind
from shm.metrics import MetricsTable
from shm.table import TableStats
from sidecar.errors import ConfigError
from sidecar.telemetry.metrics import (
    MAX_KEY_BYTES,
    GatewayMetrics,
    ListenerMetrics,
    Registry,
    RequestMetrics,
    UpstreamMetrics,
    WorkerMetrics,
    base_name,
    series_key,
)
from tests.sidecar.telemetry.entries import ROUTE, compiler, entry, request


@pytest.fixture
def table():
    made = MetricsTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", workers=2, rows=65_536)
    yield made
    made.close()


@pytest.fixture
def writer(table):
    return table.writer(0)


def series(table) -> dict[str, object]:
    return {
        one.key.decode().replace("\0", ","): one.value
        for one in table.collect()
        if one.key.startswith(b"agentgateway_")
    }


R = (
    "bind=bind/8080,gateway=default/default,listener=listener0,route=default/route0,"
    "route_rule=unknown"
)
ALL = f"backend=127.0.0.1:9000,protocol=http,method=GET,status=200,reason=Upstream,{R}"


def test_a_request_is_counted(table, writer):
    route = RequestMetrics(writer).route(ROUTE)
    made = entry(response_bytes=100, duration_ns=30_000_000, retry_attempt=2)
    made.request_processing_ns = 20_000
    made.response_processing_ns = 70_000
    for _ in range(3):
        route.finish(made)
    found = series(table)
    assert found[f"agentgateway_requests_total,{ALL}"] == 3
    assert found[f"agentgateway_response_bytes_total,{ALL}"] == 300
    assert found[f"agentgateway_retries_total,{ALL}"] == 6
    duration = found[f"agentgateway_request_duration_seconds,{ALL}"]
    assert duration.bounds[:4] == (0.001, 0.005, 0.01, 0.025)
    assert duration.buckets[4] == 3
    own = f"backend=127.0.0.1:9000,{R}"
    assert found[f"agentgateway_request_processing_seconds,{own}"].buckets[0] == 3
    assert found[f"agentgateway_response_processing_seconds,{own}"].buckets[1] == 3


def test_the_backend_that_served_is_the_label(table, writer):
    RequestMetrics(writer).route(ROUTE).finish(entry(), "10.0.0.9:80")
    assert any("backend=10.0.0.9:80," in key for key in series(table))


def test_absent_values_are_unknown(table, writer):
    RequestMetrics(writer).route(ROUTE).finish(entry(status=0, reason=""))
    assert any("status=unknown,reason=unknown," in key for key in series(table))


def test_invented_methods_make_one_series(table, writer):
    route = RequestMetrics(writer).route(ROUTE)
    for number in range(50):
        route.finish(entry(request(f"M{number}")))
    counts = {k: v for k, v in series(table).items() if k.startswith("agentgateway_requests_")}
    assert list(counts.values()) == [50]
    assert "method=_OTHER" in next(iter(counts))


def test_backends_without_end_are_bounded(table, writer):
    route = RequestMetrics(writer).route(ROUTE)
    for number in range(400):
        route.finish(entry(), f"host{number}:80")
    counts = {k: v for k, v in series(table).items() if k.startswith("agentgateway_requests_")}
    assert len(counts) <= 257
    assert sum(counts.values()) == 400
    assert next(v for k, v in counts.items() if "backend=_OTHER" in k) == 400 - 256


def test_added_labels(table, writer):
    added = compiler().expressions({"path": "request.path", "no": "request.nothing"}, "x")
    RequestMetrics(writer, (), added).route(ROUTE).finish(entry())
    assert f"agentgateway_requests_total,{ALL},path=/a/b,no=unknown" in series(table)


@pytest.mark.parametrize("name", ["method", "a-b", "__x", "1a", "", "ü"])
def test_labels_that_cannot_be_are_refused(writer, name):
    added = compiler().expressions({name: "1"}, "x")
    with pytest.raises(ConfigError) as caught:
        RequestMetrics(writer, (), added)
    assert caught.value.path == f"config.metrics.fields.add.{name}"


@pytest.mark.parametrize(
    "name", ["requests", "requests_total", "agentgateway_requests_total", "agentgateway_requests"]
)
def test_removed_metrics_are_not_kept(table, writer, name):
    metrics = RequestMetrics(writer, [name])
    metrics.route(ROUTE).finish(entry())
    assert not [key for key in series(table) if key.startswith("agentgateway_requests_total")]
    assert [key for key in series(table) if key.startswith("agentgateway_request_duration")]


def test_base_name():
    assert base_name("agentgateway_request_duration_seconds") == "request_duration"
    assert base_name("downstream_sent_bytes_total") == "downstream_sent"
    assert base_name("build_info") == "build_info"


def test_every_removable_series(table, writer):
    registry = Registry(writer, ["requests_in_flight", "event_loop_lag", "build_info"])
    worker = WorkerMetrics(registry, 0)
    worker.in_flight.add(1)
    worker.in_flight.set(1)
    worker.loop_lag.observe(0.1)
    GatewayMetrics(registry, "1.0").config_revision.set(1)
    left = list(series(table))
    assert {"agentgateway_config_revision", "agentgateway_config_synchronized"} <= set(left)
    removed = ("requests_in_flight", "event_loop_lag", "build_info")
    assert not [name for name in left if any(one in name for one in removed)]


def test_connections_and_processes(table, writer):
    registry = Registry(writer)
    listener = ListenerMetrics(registry, "bind/443", "default/default", "l", "https")
    listener.connections.add(1)
    listener.received.add(10)
    listener.sent.add(20)
    listener.handshake.observe(0.02)
    upstream = UpstreamMetrics(registry)
    upstream.connect("tls").observe(0.001)
    upstream.connect("tls").observe(0.001)
    upstream.call("Primary", "Http").observe(0.2)
    worker = WorkerMetrics(registry, 3)
    worker.in_flight.add(2)
    worker.in_flight.add(-1)
    worker.loop_lag.observe(0.002)
    gateway = GatewayMetrics(registry, "0.1.0")
    gateway.config_revision.set(4)
    gateway.config_synchronized.set(0)
    gateway.worker_up(3, True)
    gateway.table_occupancy("rates", 5, 10)
    found = series(table)
    where = "bind=bind/443,gateway=default/default,listener=l,protocol=https"
    assert found[f"agentgateway_downstream_connections_total,{where}"] == 1
    assert found[f"agentgateway_downstream_received_bytes_total,{where}"] == 10
    assert found[f"agentgateway_downstream_sent_bytes_total,{where}"] == 20
    assert sum(found[f"agentgateway_tls_handshake_duration_seconds,{where}"].buckets) == 1
    assert sum(found["agentgateway_upstream_connect_duration_seconds,transport=tls"].buckets) == 2
    assert "agentgateway_upstream_call_duration_seconds,kind=Primary,subtype=Http" in found
    assert found["agentgateway_requests_in_flight,worker=3"] == 1
    assert found["agentgateway_build_info,tag=0.1.0"] == 1
    assert found["agentgateway_config_revision"] == 4
    assert found["agentgateway_config_synchronized"] == 0
    assert found["agentgateway_worker_up,worker=3"] == 1
    assert found["agentgateway_shm_slots_used,table=rates"] == 5
    assert found["agentgateway_shm_slots,table=rates"] == 10


STATS = TableStats(
    name="rates",
    slots=9,
    used=8,
    evictions=1,
    refusals=2,
    repairs=3,
    damaged=4,
    waits=5,
    timeouts=6,
    size_bytes=700,
)


def test_a_table_that_counts_for_itself(writer):
    metrics = GatewayMetrics(Registry(writer, ["shm_repairs"]), "0.1.0")
    found = {one.key.decode().replace("\0", ","): one for one in metrics.table_series(STATS)}
    prefix = "agentgateway_shm_"
    assert {key.removeprefix(prefix): one.value for key, one in found.items()} == {
        "slots_used,table=rates": 8,
        "slots,table=rates": 9,
        "size_bytes,table=rates": 700,
        "evictions_total,table=rates": 1,
        "refusals_total,table=rates": 2,
        "damaged_total,table=rates": 4,
        "lock_waits_total,table=rates": 5,
        "lock_timeouts_total,table=rates": 6,
    }
    kinds = {one.kind for key, one in found.items() if "_total" in key}
    assert kinds == {SeriesKind.COUNTER}


@given(st.lists(st.tuples(st.sampled_from(["a", "backend"]), st.text()), max_size=12))
def test_keys_fit_and_split(labels):
    key = series_key("agentgateway_x", labels)
    assert len(key) <= MAX_KEY_BYTES
    name, *pairs = key.split(b"\0")
    assert name == b"agentgateway_x"
    assert len(pairs) == len(labels)
    assert all(b"=" in pair for pair in pairs)


def test_long_values_stay_different():
    one = series_key("x", [("route", "r" * 600 + "1")])
    other = series_key("x", [("route", "r" * 600 + "2")])
    assert one != other
    assert max(len(one), len(other)) <= MAX_KEY_BYTES
