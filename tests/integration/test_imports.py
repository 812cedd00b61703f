"""What is imported by whom and when: gateway.parts says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.client import fetch
from tests.support.gateway import ROOT, GatewayProcess, free_ports, proxy_config
from tests.support.mcp_server import McpClient, McpServer
from tests.support.models import openai
from tests.support.upstream import Answer, Seen, Upstream

NOT_FOR_PLAIN_HTTP = frozenset(
    (
        # What models, tools, agents and the mesh need
        *("sidecar.a2a", "sidecar.mcp", "sidecar.llm.chat", "sidecar.llm.convert"),
        *("sidecar.llm.providers", "sidecar.llm.guard", "sidecar.simulator", "hbone"),
        *("sidecar.gateway.llm_backends", "sidecar.gateway.mcp_worker", "istio.worker"),
        # what policies do
        *("sidecar.policies.cors", "sidecar.policies.oidc", "sidecar.policies.jwks"),
        *("sidecar.policies.ext_authz", "sidecar.policies.remote_rate_limit"),
        # and the libraries of all these.
        *("grpc", "google", "opentelemetry", "jwt", "redis", "psycopg", "botocore"),
        *("genai_prices", "requests", "httpx", "tiktoken", "celpy"),
    )
)
Json = dict[str, Any]


def shown(seen: Seen) -> Answer:
    """The body that came, and the credential."""
    return Answer(200, [("x-credential", seen.get("authorization") or "")], seen.body)


class Watched:
    """A gateway of one worker that notes its imports."""

    def __init__(self, folder: Path, config: Json) -> None:
        self.path = folder / "imports"
        paths = f"{ROOT / 'tests' / 'support' / 'imports'}:{ROOT}"
        env = {"PYTHONPATH": paths, "IMPORTS_FILE": str(self.path)}
        self.process = GatewayProcess(config, env=env)

    def imported(self, pid: int) -> list[str]:
        """By this process, after it was forked if it was."""
        pairs = (line.split() for line in self.path.read_text().splitlines())
        return [name for by, name in pairs if by == str(pid)]

    def by_worker(self) -> list[str]:
        """By the worker, after it was forked."""
        (pid,) = self.process.worker_pids()
        return self.imported(pid)

    def before_fork(self) -> list[str]:
        """By the supervisor: what all processes have."""
        return self.imported(self.process.process.pid)


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[str, str, str]]:
    """A plain one, a provider of models, an MCP server."""
    with Upstream(shown) as plain, Upstream(openai) as models, Upstream(McpServer()) as tools:
        yield plain.address, models.address, tools.address


def routes(upstreams: tuple[str, str, str]) -> list[Json]:
    plain, models, tools = upstreams
    model = {"name": "m", "provider": {"openAI": {"model": "gpt-test"}}, "hostOverride": models}
    server = {"name": "one", "mcp": {"host": f"http://{tools}/mcp"}}
    return [
        {
            "matches": [{"path": {"pathPrefix": "/v1"}}],
            "policies": {"ai": {"routes": {"/v1/chat/completions": "completions"}}},
            "backends": [{"ai": model}],
        },
        {"matches": [{"path": {"exact": "/mcp"}}], "backends": [{"mcp": {"targets": [server]}}]},
        {
            "name": "plain",
            "policies": {
                "cors": {"allowOrigins": ["https://a.test"]},
                "timeout": {"requestTimeout": "20s"},
                "transformations": {"response": {"set": {"x-path": "request.path"}}},
            },
            "backends": [{"host": plain}],
        },
    ]


def full(port: int, upstreams: tuple[str, str, str]) -> Json:
    attached = {
        "name": {"name": "attached", "namespace": "default"},
        "target": {"route": {"name": "plain", "namespace": "default"}},
        "policy": {"backendAuth": {"key": "k-1"}},
    }
    listener = {"routes": routes(upstreams)}
    return {"binds": [{"port": port, "listeners": [listener]}], "policies": [attached]}


def ask_all(port: int) -> None:
    """Each kind of backend, each answer, more than once."""
    body = {"messages": [{"role": "user", "content": "hi"}]}
    client = McpClient(port)
    client.initialize()
    for stream in (False, True):
        text = orjson.dumps({**body, "stream": stream})
        got = fetch(port, "/v1/chat/completions", "POST", body=text)
        assert got.status == 200, got.body
        client.version = "2025-06-18"
        assert client.text("echo") == "one: echo {}"
        got = fetch(port, headers={"origin": "https://a.test"})
        assert (got.get("x-path"), got.get("x-credential")) == ("/", "Bearer k-1")


@pytest.fixture(scope="module")
def plain(
    port: int, upstreams: tuple[str, str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("plain"), proxy_config(port, upstreams[0]))
    with watched.process:
        yield watched


def test_a_plain_gateway_loads_what_it_needs(plain: Watched) -> None:
    names = plain.before_fork() + plain.by_worker()
    parents = {".".join(name.split(".")[:n]) for name in names for n in range(1, 5)}
    assert sorted(parents & NOT_FOR_PLAIN_HTTP) == []
    assert "sidecar.net.pool" in names


def test_its_worker_imports_nothing(plain: Watched, port: int) -> None:
    assert fetch(port, body=b"hello", method="POST").body == b"hello"
    assert fetch(port, "/%zz").status == 400
    assert fetch(port, host="").status == 400
    assert plain.by_worker() == []


def test_a_reload_imports_before_requests_come(
    plain: Watched, port: int, upstreams: tuple[str, str, str]
) -> None:
    plain.process.reload(full(port, upstreams))
    loaded = plain.by_worker()
    assert "sidecar.policies.cors" in loaded
    assert "sidecar.gateway.llm_backends" in loaded
    assert "sidecar.gateway.mcp_worker" in loaded
    ask_all(port)
    assert plain.by_worker() == loaded


def test_workers_get_all_from_before_the_fork(
    upstreams: tuple[str, str, str], tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    watched = Watched(tmp_path, full(port, upstreams))
    with watched.process:
        ask_all(port)
        assert watched.by_worker() == []
