"""Names and passwords, and other sites' pages, at a real gateway: the example as it stands."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.upstream import Answer, Upstream

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/examples/traffic-basic-auth.yaml"


def basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def test_the_example() -> None:
    (port,) = free_ports(1)
    upstream = Upstream(lambda seen: Answer(200, [], b"ok"))
    config = yaml.safe_load(EXAMPLE.read_text())
    config["gateways"]["default"]["port"] = port
    config["routes"][0]["backends"][0]["host"] = upstream.address
    ada = basic("ada:secret")
    with upstream, GatewayProcess(config, workers=1) as gateway:
        for _ in range(3):
            assert fetch(port, headers=ada).status == 200
        for seen in upstream.take():
            assert (seen.get("authorization"), seen.get("x-user")) == (None, "ada")
        got = fetch(port)
        assert (got.status, got.get("www-authenticate")) == (401, 'Basic realm="tools"')
        assert fetch(port, headers=basic("ada:wrong")).status == 401
        portal = {**ada, "origin": "https://portal.example.com"}
        assert fetch(port, "/", "POST", headers=portal, body=b"x").status == 200
        evil = {**ada, "origin": "https://evil.example"}
        got = fetch(port, "/", "POST", headers=evil, body=b"x")
        assert (got.status, got.body) == (403, b"CSRF validation failed")
        upstream.take()
        gateway.wait_metric("agentgateway_requests_total", 2, status="401", reason="BasicAuth")
        assert "apr1" not in str(gateway.dump())
        assert "secret" not in gateway.log()
