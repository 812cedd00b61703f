"""`config.histograms`: what a scrape of a running gateway sees of each kind.

Source: spec/config.md sections 8.1 and 8.3, rows 249 and 255.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from sidecar.telemetry.metrics import HTTP_SECONDS
from tests.sidecar.admin.test_metrics_protobuf import PROTOBUF, families
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports

NAME = "agentgateway_request_duration_seconds"


@pytest.mark.parametrize("mode", ["classic", "native", "both"])
def test_a_scrape(mode: str) -> None:
    (port,) = free_ports(1)
    direct = {"directResponse": {"status": 200, "body": "x"}}
    config: dict[str, Any] = {
        "config": {"histograms": mode},
        "binds": [{"port": port, "listeners": [{"routes": [{"policies": direct}]}]}],
    }
    with GatewayProcess(config, workers=2) as gateway:
        for _ in range(4):
            fetch(port)
        gateway.wait_metric(f"{NAME}_count", 4)
        text = gateway.metrics()
        got = fetch(gateway.stats_port, "/metrics", headers={"accept": PROTOBUF})
        assert not [line for line in gateway.log().splitlines() if "\terror\t" in line]
    bounds = re.findall(rf'{NAME}_bucket{{.*le="([^"]+)"}}', text)
    classic = [*map(repr, HTTP_SECONDS), "+Inf"]
    assert bounds == (["+Inf"] if mode == "native" else classic)
    assert (got.get("content-type") or "").startswith("application/vnd.google.protobuf")
    found = families(got.body)
    (metric,) = found[NAME].metric
    histogram = metric.histogram
    assert histogram.sample_count == 4
    assert len(histogram.bucket) == (0 if mode == "native" else len(classic))
    counted = histogram.zero_count
    at = 0
    for delta in histogram.positive_delta:
        at += delta
        counted += at
    assert counted == (0 if mode == "classic" else 4)
    assert {one.name: one.value for one in metric.label}["method"] == "GET"
    assert found["agentgateway_requests_total"].metric[0].counter.value == 4
