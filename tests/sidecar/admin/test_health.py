from __future__ import annotations

import httpx
import pytest

from sidecar.admin.health import readiness_app


def client(pending: list[str]) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(readiness_app(lambda: pending))
    return httpx.AsyncClient(transport=transport, base_url="http://x")


async def test_ready():
    async with client([]) as http:
        answer = await http.get("/healthz/ready")
    assert (answer.status_code, answer.text) == (200, "ready\n")


async def test_hardening_57_not_ready_while_something_is_missing():
    pending = ["config", "workers"]
    async with client(pending) as http:
        answer = await http.get("/healthz/ready")
        assert (answer.status_code, answer.text) == (500, "not ready, pending: config, workers")
        pending.clear()
        assert (await http.get("/healthz/ready")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("POST", "/other", 404), ("POST", "/healthz/ready", 405)],
)
async def test_other_requests(method, path, status):
    async with client([]) as http:
        assert (await http.request(method, path)).status_code == status
