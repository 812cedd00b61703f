"""What the gateway says of itself when it starts."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.local import Source
from sidecar.gateway.loading import Loader
from sidecar.gateway.run import _banner

DOCUMENT = """
gateways: {default: {port: 8080}}
routes:
"""
ROUTE = "- {backends: [{host: '127.0.0.1:1'}]}\n"


def banner(text: str, env: dict[str, str]) -> list[str]:
    source = Source("f.yaml", content=text)
    loaded = Loader(source, env).load()
    config: Any = loaded.snapshot.resources["static/config"].data["config"]
    return _banner(source, loaded, 2, config).splitlines()


def test_what_is_off_has_no_path() -> None:
    env = {"ADMIN_ADDR": "off", "STATS_ADDR": "off", "READINESS_ADDR": "off"}
    assert banner(DOCUMENT + ROUTE, env)[3:] == [
        "  admin           off",
        "  stats           off",
        "  readiness       off",
    ]


def test_what_is_on_has_its_path() -> None:
    env = {"STATS_ADDR": "127.0.0.1:1", "READINESS_ADDR": "127.0.0.1:2"}
    assert banner(DOCUMENT + ROUTE, env)[3:] == [
        "  admin           localhost:15000",
        "  stats           127.0.0.1:1/metrics",
        "  readiness       127.0.0.1:2/healthz/ready",
    ]


@pytest.mark.parametrize(("count", "shown"), [(0, "0 routes"), (1, "1 route"), (2, "2 routes")])
def test_routes_are_counted(count: int, shown: str) -> None:
    line = banner(DOCUMENT + (ROUTE * count or "  []\n"), {})[1]
    assert line == f"  listening on    8080 ({shown})"
