"""The `ui` section: the admin service on a gateway, behind policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sidecar.config.local import Source
from sidecar.config.problems import InvalidConfigError
from sidecar.gateway.loading import Loader
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports

KEY = {"authorization": "Bearer sk-operator"}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    (port,) = free_ports(1)
    policies = {"apiKey": {"mode": "strict", "keys": [{"key": "sk-operator"}]}}
    routes = [
        {
            "name": "own",
            "gateways": ["public"],
            "policies": {"directResponse": {"status": 200, "body": "own"}},
        }
    ]
    config: dict[str, Any] = {
        "gateways": {"public": {"port": port}},
        "routes": routes,
        "ui": {"gateways": ["public"], "policies": policies},
    }
    with GatewayProcess(config):
        yield port


@pytest.mark.parametrize(
    "path",
    ["/", "/ui", "/ui/", "/api/runtime", "/api/cel", "/api/logs/search", "/api/costs/models"],
)
def test_nobody_comes_in_without_a_key(port: int, path: str) -> None:
    assert fetch(port, path).status == 401


def test_the_page_and_its_apis(port: int) -> None:
    root = fetch(port, "/", headers=KEY)
    assert (root.status, root.get("location")) == (308, "/ui")
    assert b"agentgateway-sidecar" in fetch(port, "/ui", headers=KEY).body
    assert fetch(port, "/api/runtime", headers=KEY).status == 200
    answer = fetch(port, "/api/cel", method="POST", body=b'{"expression": "1 + 1"}', headers=KEY)
    assert b'"result":2' in answer.body


@pytest.mark.parametrize("path", ["/config_dump", "/quitquitquit", "/logging", "/state", "/other"])
def test_the_rest_of_the_admin_service_is_not_there(port: int, path: str) -> None:
    assert fetch(port, path, headers=KEY).body == b"own"


def test_pages_of_other_sites_are_refused(port: int) -> None:
    foreign = {**KEY, "origin": "https://evil.example"}
    body = b'{"expression": "1"}'
    assert fetch(port, "/api/cel", method="POST", body=body, headers=foreign).status == 403


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"ui": {}}, "ui.gateways must be set"),
        ({"gateways": {"a": {"port": 1}}, "ui": {"gateways": ["b"]}}, "b"),
    ],
)
def test_what_is_wrong_is_said(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        Loader(Source("c", content=yaml.safe_dump(config)), {}).load()
    assert said in caught.value.problems[0].message
