"""Each `deploy/examples/a2a-*` as it stands, with small agents of our own behind it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
import yaml
from a2a.types import GetTaskRequest, Task, a2a_pb2_grpc

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.upstream import Answer, Seen, Upstream

FOLDER = Path(__file__).resolve().parents[2] / "deploy/examples"
WELL_KNOWN = "/.well-known/agent-card.json"
JSON = ("content-type", "application/json")
(PORT,) = free_ports(1)


def agent(seen: Seen) -> Answer:
    """A card, and a task for every call."""
    if seen.method == "GET":
        interface = {"protocolBinding": "GRPC", "url": "10.0.0.1:50051"}
        card = {"url": "http://10.0.0.1:9999/rpc", "supportedInterfaces": [interface]}
        return Answer(200, [JSON], orjson.dumps(card))
    call = orjson.loads(seen.body)
    task = {"kind": "task", "id": "7", "contextId": "c", "status": {"state": "working"}}
    return Answer(200, [JSON], orjson.dumps({"jsonrpc": "2.0", "id": call["id"], "result": task}))


class Tasks(a2a_pb2_grpc.A2AServiceServicer):
    """Knows every task."""

    def GetTask(  # noqa: N802  # as the service calls it
        self, request: GetTaskRequest, context: grpc.ServicerContext
    ) -> Task:
        return Task(id=request.id)


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    server = grpc.server(ThreadPoolExecutor(2))
    a2a_pb2_grpc.add_A2AServiceServicer_to_server(Tasks(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Upstream(agent) as up:
        yield {
            "A2A_PORT": str(PORT),
            "AGENT": up.address,
            "AGENT_GRPC": f"127.0.0.1:{port}",
            "READER_KEY": "r",
            "OWNER_KEY": "o",
        }
    server.stop(None).wait(20)


def example(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / f"a2a-{name}.yaml").read_text()))


def ask(method: str, path: str = "/rpc", **headers: str) -> Got:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"id": "7"}}
    fields = {"content-type": "application/json", **headers}
    return fetch(PORT, path, "POST", headers=fields, body=orjson.dumps(body))


def test_all_are_run() -> None:
    names = {path.stem for path in FOLDER.glob("a2a-*.yaml")}
    assert names == {"a2a-basic", "a2a-grpc", "a2a-rules"}


def test_basic(env: dict[str, str]) -> None:
    with GatewayProcess(example("basic"), env=env) as gateway:
        assert orjson.loads(fetch(PORT, WELL_KNOWN).body)["url"] == "http://h.test/rpc"
        assert ask("tasks/get").status == 200
        line = gateway.wait_line('"a2a.method":"tasks/get"')
    told = orjson.loads(line[line.index("{") :])
    assert (told["a2a.task.state"], told["a2a.context.id"]) == ("working", "c")


def test_rules(env: dict[str, str]) -> None:
    path = "/agents/reporter/rpc"
    reader, owner = {"authorization": "Bearer r"}, {"authorization": "Bearer o"}
    with GatewayProcess(example("rules"), env=env) as gateway:
        assert ask("tasks/get", path).status == 401
        assert ask("tasks/get", path, **reader).status == 200
        for method in ("tasks/cancel", "CancelTask", "message/send"):
            assert ask(method, path, **reader).status == 403
            assert ask(method, path, **owner).status == 200
        card = fetch(PORT, f"/agents/reporter{WELL_KNOWN}", headers=reader)
        assert orjson.loads(card.body)["url"] == "https://agents.example.com/agents/reporter/rpc"
        assert card.get("cache-control") == "public, max-age=300"
        gateway.wait_line("task=7 method=CancelTask")


def test_grpc(env: dict[str, str]) -> None:
    with GatewayProcess(example("grpc"), env=env) as gateway:
        card = orjson.loads(fetch(PORT, WELL_KNOWN).body)
        assert card["supportedInterfaces"][0]["url"] == "agents.example.com:443"
        with grpc.insecure_channel(f"127.0.0.1:{PORT}") as channel:
            stub = a2a_pb2_grpc.A2AServiceStub(channel)
            metadata = (("a2a-version", "1.0"),)
            assert stub.GetTask(GetTaskRequest(id="7"), metadata=metadata, timeout=20).id == "7"
        gateway.wait_line("a2a.method=GetTask a2a.response.outcome=success a2a.result.kind=task")
