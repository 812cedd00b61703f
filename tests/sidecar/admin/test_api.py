from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest

from shm.errors import ShmError
from shm.metrics import MetricsTable
from sidecar.admin.api import ProcessStatus, admin_app, process_memory, stats_app
from sidecar.admin.server import AdminServer, parse_address
from sidecar.telemetry.logs import parse_levels


class State:
    """A gateway of one process."""

    def __init__(self) -> None:
        self.quits = 0
        self.levels = "info"
        self.refusal = ""
        self.missing: list[str] = []
        name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.table = MetricsTable.create(name, workers=1, rows=64)

    def config_dump(self) -> dict[str, object]:
        return {
            "version": 3,
            "policies": [{"requestHeaderModifier": {"set": {"authorization": "s3cret"}}}],
        }

    def statuses(self) -> list[ProcessStatus]:
        return [ProcessStatus("control", os.getpid(), 3), ProcessStatus("worker 0", 2**22 + 1, 2)]

    def collect(self):
        return self.table.collect()

    def pending(self) -> list[str]:
        return self.missing

    def quit(self) -> None:
        self.quits += 1

    async def set_levels(self, spec: str | None) -> str:
        if spec is not None:
            parse_levels(spec)
        if self.refusal:
            raise ShmError(self.refusal)
        self.levels = spec or "info"
        return self.levels


@pytest.fixture
def state():
    made = State()
    yield made
    made.table.close()


@pytest.fixture
async def http(state) -> AsyncIterator[httpx.AsyncClient]:
    app = admin_app(state, version="0.1.0", is_loopback=True)
    server = AdminServer(app, parse_address("localhost:0", "a"), "a")
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        yield client
    await server.stop()


@pytest.fixture
async def stats(state) -> AsyncIterator[httpx.AsyncClient]:
    server = AdminServer(stats_app(state), parse_address("localhost:0", "s"), "s")
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        yield client
    await server.stop()


async def test_the_root_leads_to_the_page(http):
    answer = await http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (308, "/ui")
    page = await http.get("/ui")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_config_dump(http):
    answer = await http.get("/config_dump")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert "s3cret" not in answer.text
    dump = answer.json()
    assert dump["version"] == 3
    assert dump["processes"][1] == {
        "role": "worker 0",
        "pid": 2**22 + 1,
        "generation": 2,
        "error": "",
    }


async def test_levels(http, state):
    answer = await http.post("/logging", params={"level": "warn,sidecar.net=debug"})
    assert (answer.status_code, answer.text) == (200, "warn,sidecar.net=debug\n")
    assert state.levels == "warn,sidecar.net=debug"
    assert (await http.post("/logging?reset")).text == "info\n"
    assert (await http.post("/logging")).status_code == 400
    wrong = await http.post("/logging?level=loud")
    assert wrong.status_code == 400
    assert "loud" in wrong.text
    assert state.levels == "info"


async def test_levels_for_which_there_is_no_room(http, state):
    state.refusal = "no room"
    answer = await http.post("/logging?level=debug")
    assert (answer.status_code, answer.text) == (503, "the levels stay as they were: no room\n")
    assert state.levels == "info"


async def test_quit(http, state):
    assert (await http.post("/quitquitquit")).status_code == 200
    assert state.quits == 1


async def test_runtime(http):
    build = (await http.get("/api/runtime")).json()["build"]
    assert build["version"] == "0.1.0"


async def test_memory(http):
    control, gone = (await http.get("/memory")).json()["processes"]
    assert control["pss_bytes"] > 1_000_000
    assert gone == {"role": "worker 0", "pid": 2**22 + 1}


def test_memory_of_this_process():
    assert process_memory(os.getpid())["rss_bytes"] > 1_000_000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/logging?level=debug", 405),
        ("GET", "/quitquitquit", 405),
        ("PUT", "/quitquitquit", 405),
        ("POST", "/config_dump", 405),
        ("GET", "/debug/pprof/heap", 404),
        ("GET", "/config_dump/../x", 404),
        ("POST", "/nothing", 404),
    ],
)
async def test_other_requests(http, state, method, path, status):
    assert (await http.request(method, path)).status_code == status
    assert (state.quits, state.levels) == (0, "info")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "localhost.evil.example:15000"},
        {"host": "127.0.0.1@evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
    ],
)
async def test_hardening_42_foreign_pages_are_refused(http, state, headers):
    assert (await http.get("/config_dump", headers=headers)).status_code == 403
    assert (await http.post("/quitquitquit", headers=headers)).status_code == 403
    assert state.quits == 0


async def test_own_pages_and_development_pages_are_served(http):
    own = str(http.base_url).rstrip("/")
    assert (await http.get("/config_dump", headers={"origin": own})).status_code == 200
    answer = await http.get("/config_dump", headers={"origin": "http://localhost:3000"})
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    port = http.base_url.port
    assert (await http.get("/ui", headers={"host": f"localhost:{port}"})).status_code == 200
    assert (await http.get("/ui", headers={"host": f"[::1]:{port}"})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 200), ({"origin": "http://gw.example"}, 200), ({"origin": "http://evil.example"}, 403)],
)
async def test_off_loopback_any_host_may_ask_but_no_foreign_page(state, headers, status):
    app = admin_app(state, version="0", is_loopback=False)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gw.example") as client:
        assert (await client.get("/config_dump", headers=headers)).status_code == status


@pytest.mark.parametrize("path", ["/metrics", "/stats/prometheus"])
async def test_metrics(stats, state, path):
    state.table.writer(0).counter(b"agentgateway_requests_total\0method=GET").add(5)
    answer = await stats.get(path)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'agentgateway_requests_total{method="GET"} 5\n' in answer.text
    answer = await stats.get(path, headers={"accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


async def test_stats_serves_nothing_else(stats):
    assert (await stats.get("/config_dump")).status_code == 404
    assert (await stats.post("/metrics")).status_code == 405
