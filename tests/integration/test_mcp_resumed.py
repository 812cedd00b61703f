"""Streams of servers that name no events, taken up again at any of four workers."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.mcp_server import Events, McpClient, McpServer, mcp_config
from tests.support.processes import wait_until
from tests.support.upstream import Upstream

SCRIPT = str(ROOT / "tests" / "support" / "mcp_stdio.py")
WORKERS = 4
TRIES = 6
"""Connections, so that several workers are asked."""


class Setting:
    """A gateway of one process, one that of a server over HTTP, and one of both."""

    def __init__(self, gateway: GatewayProcess, ports: list[int], far: McpServer) -> None:
        self.gateway = gateway
        self.far = far
        self.stdio, self.http, self.both = ports

    def client(self, port: int, version: str = "2025-11-25") -> McpClient:
        made = McpClient(port, version=version)
        made.initialize()
        return made


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    ports = free_ports(3)
    far = McpServer("far")
    local = {"name": "local", "stdio": {"cmd": sys.executable, "args": [SCRIPT]}}
    with Upstream(far) as up:
        other = ("far", up.address)
        targets: list[tuple[Any, ...]] = [(local,), (other,), (local, other)]
        configs = [mcp_config(port, *some) for port, some in zip(ports, targets, strict=True)]
        binds = [bind for config in configs for bind in config["binds"]]
        with GatewayProcess({"binds": binds}, workers=WORKERS) as gateway:
            yield Setting(gateway, ports, far)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": "c1", "method": "tools/call", "params": params}


def before(identity: str) -> str:
    """The id of the event before all others."""
    return re.sub("[0-9]+$", "0", identity)


def said(answer: dict[str, Any]) -> str:
    assert answer["id"] == "c1"
    return str(answer["result"]["content"][0]["text"])


@pytest.mark.parametrize("version", ["2025-03-26", "2025-11-25"])
@pytest.mark.parametrize("is_several", [False, True], ids=["one", "several"])
def test_an_answer_is_not_lost_with_its_connection(
    setting: Setting, version: str, is_several: bool
) -> None:
    prefix = "local_" if is_several else ""
    client = setting.client(setting.both if is_several else setting.stdio, version)
    with Events(client, call(f"{prefix}slow")) as stream:
        assert stream.next()["params"]["data"] == "held"
        last = stream.identity
    assert re.fullmatch("agw-l[0-3]-[0-9a-f]{16}-22633122-1", last)
    assert client.text(f"{prefix}release") == "done"
    for _ in range(TRIES):
        with Events(client, last=last) as again:
            assert again.status == 200
            assert said(again.next()).startswith("released")
            assert again.next() is None
        # From the beginning on.
        with Events(client, last=before(last)) as again:
            assert again.next()["params"]["data"] == "held"
            assert again.identity == last
            assert said(again.next()).startswith("released")
    assert client.end().status == 200
    assert refused(client, last) == 404


def assert_lost(stream: Events) -> None:
    """Whoever waits for the answer to `c1` is told that there will be none."""
    assert stream.status == 200
    told = stream.next()
    assert (told["id"], told["error"]["code"]) == ("c1", -32603)
    assert "kept no more" in told["error"]["message"]
    assert stream.next() is None


def refused(client: McpClient, last: str) -> int:
    with Events(client, last=last) as stream:
        return stream.status


def test_an_answer_under_way(setting: Setting) -> None:
    """The client comes back before its answer does; the server is one over HTTP, without ids."""
    client = setting.client(setting.http)
    with Events(client, call("ask")) as stream:
        asked = stream.next()
        assert asked["method"] == "elicitation/create"
        last = stream.identity
    with Events(client, last=before(last)) as again:
        assert again.next() == asked
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"content": "yes"}}
        assert client.post(answer).status == 202
        assert said(again.next()) == "far: yes"


def test_nothing_of_another_session(setting: Setting) -> None:
    mine, other = setting.client(setting.stdio), setting.client(setting.stdio)
    with Events(mine, call("slow")) as stream:
        assert stream.next()["params"]["data"] == "held"
        last = stream.identity
    assert mine.text("release") == "done"
    worker, log, named, _ = last.removeprefix("agw-l").split("-")
    forged = [f"agw-l{n}-{log}-0" for n in (*range(WORKERS), 7, 99999)]
    for one in (*forged, f"agw-l{worker}-{'0' * 16}-0"):
        for _ in range(2):
            with Events(other, last=one) as stream:
                assert stream.status == 200
                assert stream.next() is None
    for one in (last, f"agw-l{worker}-{'0' * 16}-{named}-0"):
        with Events(other, last=one) as stream:
            # What the id itself says, and no more.
            assert_lost(stream)
    for one in forged:
        if not one.startswith(f"agw-l{worker}-"):
            with Events(mine, last=one) as stream:
                assert stream.next() is None
    # It is there still, for its own.
    with Events(mine, last=last) as stream:
        assert said(stream.next()).startswith("released")


@pytest.mark.parametrize("is_several", [False, True], ids=["one", "several"])
def test_a_listening_stream(setting: Setting, is_several: bool) -> None:
    prefix = "local_" if is_several else ""
    client = setting.client(setting.both if is_several else setting.stdio)
    changed = "notifications/tools/list_changed"
    last = ""
    for _ in range(TRIES):
        with Events(client, last=last) as stream:
            assert stream.status == 200
            assert client.text(f"{prefix}log") == "logged"
            assert stream.next()["method"] == changed
            assert stream.identity.startswith("agw-s")
            last = stream.identity
        # Nobody listens, or the gateway does not know that yet.
        assert client.text(f"{prefix}log") == "logged"
        with Events(client, last=last) as stream:
            assert stream.next()["method"] == changed
            seen = stream.identity
        # What was lost on its way is said again.
        with Events(client, last=before(seen)) as stream:
            assert stream.next()["method"] == changed
            last = stream.identity
    assert client.end().status == 200


def test_a_listening_stream_of_another(setting: Setting) -> None:
    mine, other = setting.client(setting.stdio), setting.client(setting.stdio)
    with Events(mine) as stream:
        assert mine.text("log") == "logged"
        assert stream.next()["method"] == "notifications/tools/list_changed"
        last = before(stream.identity)
    with Events(other, last=last) as stream:
        # Its own, from now on.
        assert stream.status == 200
        told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert other.post(told).status == 202
        assert other.text("log") == "logged"
        assert stream.next()["method"] == "notifications/tools/list_changed"
        assert before(stream.identity) != last
    with Events(mine, last=last) as stream:
        assert stream.next()["method"] == "notifications/tools/list_changed"


def is_told(client: McpClient, last: str) -> bool:
    with Events(client, last=last) as stream:
        return stream.next() is not None


def test_the_worker_of_a_log_is_killed(setting: Setting) -> None:
    gateway = setting.gateway
    client = setting.client(setting.http)
    with Events(client, call("stream")) as stream:
        assert stream.next()["method"] == "notifications/message"
        last = stream.identity
    found = re.fullmatch("agw-l([0-3])-.*", last)
    assert found is not None
    names = {one["role"]: one["pid"] for one in gateway.dump()["processes"]}
    victim = names[f"worker {found[1]}"]
    os.kill(victim, signal.SIGKILL)
    gateway.wait_replaced([victim])
    # An empty stream says to ask again: the others may not have noticed yet.
    wait_until(lambda: is_told(client, last))
    for _ in range(TRIES):
        with Events(client, last=last) as again:
            assert_lost(again)
    assert client.text("echo") == "far: echo {}"
