"""MCP servers, workers and clients that misbehave or die, and reloads meanwhile."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.mcp_server import Events, McpClient, McpServer, mcp_config, messages
from tests.support.processes import wait_until
from tests.support.upstream import Answer, Seen, Upstream

SCRIPT = str(ROOT / "tests" / "support" / "mcp_stdio.py")
JSON = ("content-type", "application/json")
EVENTS = ("content-type", "text/event-stream")
RELOADS = 20


class Hostile:
    """A server that answers the call of a tool by whatever the tool's name says."""

    def __init__(self) -> None:
        self.server = McpServer("one")

    def __call__(self, seen: Seen) -> Answer:
        message = json.loads(seen.body) if seen.body else {}
        params = message.get("params", {})
        name = params.get("name") if message.get("method") == "tools/call" else None
        if name in HOSTILE:
            return HOSTILE[name](message)
        return self.server(seen)


def result(identity: Any, said: str = "x") -> bytes:
    found = {"content": [{"type": "text", "text": said}]}
    return json.dumps({"jsonrpc": "2.0", "id": identity, "result": found}).encode()


def events(*data: bytes) -> Answer:
    return Answer(200, [EVENTS], iter([b"data: " + one + b"\n\n" for one in data]))


HOSTILE: dict[str, Any] = {
    "garbage": lambda message: Answer(200, [JSON], b"{not json"),
    "list": lambda message: Answer(200, [JSON], b"[]"),
    "html": lambda message: Answer(200, [("content-type", "text/html")], b"<html>"),
    "empty": lambda message: Answer(200, [JSON], b""),
    "accepted": lambda message: Answer(202),
    "another": lambda message: Answer(200, [JSON], result("another")),
    "true": lambda message: Answer(200, [JSON], result(True)),
    "deep": lambda message: Answer(200, [JSON], b"[" * 1000 + b"]" * 1000),
    "gone": lambda message: Answer(drop=True),
    "broken": lambda message: Answer(500, [JSON], b"{}"),
    "no-answer": lambda message: events(),
    "garbled-events": lambda message: events(b"{", result(message["id"])),
    "twice": lambda message: events(result(message["id"], "first"), result(message["id"], "2nd")),
}


@pytest.fixture(scope="module")
def hostile() -> Iterator[tuple[GatewayProcess, int]]:
    (port,) = free_ports(1)
    with (
        Upstream(Hostile()) as up,
        GatewayProcess(mcp_config(port, ("one", up.address)), workers=2) as gateway,
    ):
        yield gateway, port


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "twice"])
def test_a_server_that_answers_nonsense(hostile: tuple[GatewayProcess, int], name: str) -> None:
    client = McpClient(hostile[1])
    client.initialize()
    got = client.request("tools/call", name=name, arguments={})
    if name == "broken":
        # What a server refuses with is its own word.
        assert got.status == 500
    else:
        found = messages(got)[-1]
        assert found["error"]["code"] == -32603, found
        assert got.status in (200, 502, 503)
    # It harms nobody else, nor the session.
    assert client.text("echo") == "one: echo {}"
    client.end()


def test_a_server_that_answers_twice(hostile: tuple[GatewayProcess, int]) -> None:
    client = McpClient(hostile[1])
    client.initialize()
    for _ in range(4):
        assert client.text("twice") == "first"
        assert client.text("echo") == "one: echo {}"
    client.end()


def test_a_session_of_another_backend(hostile: tuple[GatewayProcess, int]) -> None:
    """On the same gateway, sealed by the same key."""
    one, two = free_ports(2)
    with Upstream(McpServer("one")) as up:
        first = mcp_config(one, ("one", up.address))["binds"]
        second = mcp_config(two, ("one", up.address), prefixMode="always")["binds"]
        with GatewayProcess({"binds": [*first, *second]}):
            client = McpClient(one)
            client.initialize()
            stranger = McpClient(two, session=client.session)
            assert stranger.request("ping").status == 404
            assert stranger.end().status == 404
            # Nor does it open anything on another gateway.
            assert McpClient(hostile[1], session=client.session).request("ping").status == 404
            assert client.result("ping") == {}


def test_a_session_that_nobody_uses_ends_at_the_server() -> None:
    server = McpServer("one")
    (port,) = free_ports(1)
    with Upstream(server) as up:
        config = mcp_config(port, ("one", up.address))
        config["config"] = {"mcp": {"sessionTtl": "1s"}}
        with GatewayProcess(config, workers=2):
            clients = [McpClient(port) for _ in range(6)]
            for client in clients:
                client.initialize()
            assert len(server.sessions) == 6
            wait_until(lambda: not server.sessions)
            assert sorted(server.ended) == sorted(set(server.ended))
            assert all(client.request("ping").status == 404 for client in clients)


# --- processes ------------------------------------------------------------------------------------


def children(mark: str) -> dict[int, int]:
    """Processes of a server, and the worker that each serves."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    # Server, monitor, keeper, worker.
                    found[int(entry.name)] = parent(parent(parent(int(entry.name))))
            except OSError:
                continue
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def stdio(mark: str, *flags: str) -> dict[str, Any]:
    return {"name": "local", "stdio": {"cmd": sys.executable, "args": [SCRIPT, mark, *flags]}}


def test_the_owner_is_killed_in_the_middle_of_a_call() -> None:
    (port,) = free_ports(1)
    mark = f"owner-{port}"
    with GatewayProcess(mcp_config(port, stdio(mark)), workers=2) as gateway:
        client = McpClient(port)
        client.initialize()
        ((child, owner),) = children(mark).items()
        assert owner in gateway.worker_pids()
        call = {
            "jsonrpc": "2.0",
            "id": "c1",
            "method": "tools/call",
            "params": {"name": "slow", "arguments": {}},
        }
        with Events(client, call) as stream:
            # The server has it.
            assert stream.next()["method"] == "notifications/message"
            os.kill(owner, signal.SIGKILL)
            try:
                said = stream.next()
            except (OSError, ValueError):
                # It was the worker of this connection, too.
                said = None
            if said is not None:
                assert (said["id"], said["error"]["code"]) == ("c1", -32603)
        gateway.wait_replaced([owner])
        wait_until(lambda: child not in children(mark))
        for n in range(6):
            assert client.text("echo", text=f"v{n}") == f"v{n}"
        assert len(children(mark)) == 1
    assert not children(mark)


def test_processes_that_do_not_want_to_end() -> None:
    (port,) = free_ports(1)
    mark = f"stubborn-{port}"
    config = mcp_config(port, stdio(mark, "ignore-term", "ignore-eof", "spawn"))
    with GatewayProcess(config, workers=2):
        clients = [McpClient(port) for _ in range(2)]
        for client in clients:
            client.initialize()
            assert client.text("flood_stderr", lines=5000) == "flooded"
            assert client.text("garbage") == "after"
            assert client.text("twice") == "first"
            assert client.text("wrong_id") == "right"
            assert client.text("echo", text="still") == "still"
        clients[0].end()
        wait_until(lambda: len(children(mark)) == 1)
    assert not children(mark)


# --- reloads --------------------------------------------------------------------------------------


def reloads_under_load(count: int) -> None:
    """Sessions go on, and no call fails, whatever the configuration becomes around them."""
    (port,) = free_ports(1)
    mark = f"reloads-{port}"
    server = McpServer("far")
    with Upstream(server) as up:
        config = mcp_config(port, stdio(mark), ("far", up.address))
        route = config["binds"][0]["listeners"][0]["routes"][0]
        route["name"] = "route0"
        with GatewayProcess(config, workers=2) as gateway:
            wrong: list[str] = []
            calls = [0]
            stop = threading.Event()

            def work(name: str) -> None:
                client = McpClient(port)
                client.initialize()
                while not stop.is_set():
                    calls[0] += 1
                    text = f"{name}-{calls[0]}"
                    said = client.text("local_echo", text=text), client.text("far_echo", text=text)
                    wrong.extend(one for one in said if text not in one)
                client.end()

            threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
            for thread in threads:
                thread.start()
            for n in range(count):
                value = {"set": {"x-n": str(n)}}
                route["policies"] = {"requestHeaderModifier": value}
                gateway.reload(config)
            stop.set()
            for thread in threads:
                thread.join()
            assert not wrong
            assert calls[0] > count
            wait_until(lambda: not children(mark))


def test_reloads_under_load() -> None:
    reloads_under_load(RELOADS)


@pytest.mark.soak
def test_a_hundred_reloads_under_load() -> None:
    reloads_under_load(100)
