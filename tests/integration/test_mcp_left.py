"""Clients that leave in the middle: nothing of theirs stays at servers, and nobody else notices."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.mcp_eras import modern, result, text
from tests.support.mcp_server import ACCEPT, MODERN, Events, McpClient, McpServer, mcp_config
from tests.support.processes import descendants, wait_until
from tests.support.upstream import Answer, Upstream

SCRIPT = str(ROOT / "tests" / "support" / "mcp_stdio.py")
GREETING: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


LEFT = "client disconnected"
SLOW: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": "m1",
    "method": "tools/call",
    "params": {
        "name": "slow",
        "arguments": {},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    },
}


class Slow(McpServer):
    """Answers `initialize`, whose session is there by then, when the test says so."""

    def __init__(self, name: str, *, modern: bool = True) -> None:
        super().__init__(name, modern=modern)
        self.may_greet = threading.Event()
        self.may_greet.set()

    def _initialize(self, message: dict[str, Any]) -> Answer:
        answer = super()._initialize(message)
        self.may_greet.wait(20)
        return answer


class Setting:
    """Behind one gateway: two servers as one, a mute process, and a modern server."""

    def __init__(self, gateway: GatewayProcess, ports: list[int], servers: list[Any]) -> None:
        self.gateway = gateway
        self.both, self.mute, self.new_port, self.old_port = ports
        self.one, self.two, self.new, self.old = servers

    def mutes(self) -> int:
        """Processes of the mute server."""
        mark = f"mute-{self.mute}".encode()
        found = 0
        for pid in descendants(self.gateway.process.pid):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    found += mark in file.read().split(b"\0")
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    one, two, old = Slow("one"), Slow("two"), Slow("old", modern=False)
    new = McpServer("new", legacy=False, tools=("echo", "ask", "region"))
    ports = free_ports(4)
    args = [SCRIPT, f"mute-{ports[1]}", "legacy", "silent-greeting"]
    mute = {"name": "mute", "stdio": {"cmd": sys.executable, "args": args}}
    with (
        Upstream(one) as first,
        Upstream(two) as second,
        Upstream(new) as third,
        Upstream(old) as fourth,
    ):
        configs = (
            mcp_config(ports[0], ("one", first.address), ("two", second.address)),
            mcp_config(ports[1], mute),
            mcp_config(ports[2], ("new", third.address)),
            mcp_config(ports[3], ("old", fourth.address)),
        )
        binds = [bind for config in configs for bind in config["binds"]]
        with GatewayProcess({"binds": binds}, workers=2) as gateway:
            yield Setting(gateway, ports, [one, two, new, old])
            new.released.set()
            for listener in new.listeners:
                listener.put(None)


def sent(port: int, message: object, more: dict[str, str] | None = None) -> socket.socket:
    """A request of a client that does not wait for the answer."""
    body = json.dumps(message).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in (more or {}).items())
    head = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\naccept: {ACCEPT}\r\n{head}"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    made = socket.create_connection(("127.0.0.1", port), timeout=20)
    made.sendall(head.encode() + b"\r\n" + body)
    return made


def test_a_process_is_not_left_by_a_client_that_left_it(setting: Setting) -> None:
    """It did not answer `initialize`, and would not for a minute."""
    with sent(setting.mute, GREETING):
        wait_until(lambda: setting.mutes() == 1)
    wait_until(lambda: setting.mutes() == 0)


def test_a_session_that_one_of_two_servers_began(setting: Setting) -> None:
    """The other one has begun it, too, and says so when the client has left."""
    one, two = setting.one, setting.two
    two.may_greet.clear()
    try:
        with sent(setting.both, GREETING):
            wait_until(lambda: bool(one.sessions and two.sessions))
        wait_until(lambda: not one.sessions)
        assert two.sessions
    finally:
        two.may_greet.set()
    wait_until(lambda: not two.sessions)


def test_a_session_that_was_begun_for_a_modern_client(setting: Setting) -> None:
    """The legacy server has begun it, and says so when the client has left."""
    old, log = setting.old, setting.gateway.log
    old.may_greet.clear()
    before = log().count(LEFT)
    try:
        call = {**SLOW, "params": {**SLOW["params"], "name": "echo"}}
        head = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "echo"}
        with sent(setting.old_port, call, head):
            wait_until(lambda: bool(old.sessions))
        wait_until(lambda: log().count(LEFT) > before)
    finally:
        old.may_greet.set()
    wait_until(lambda: not old.sessions)


def test_a_bridged_stream_ends_with_its_session(setting: Setting) -> None:
    """The modern server knows of no session; its subscription is the gateway's to end."""
    for _ in range(3):  # the end comes to whichever worker
        client = McpClient(setting.new_port)
        client.initialize()
        setting.new.listeners.clear()
        with Events(client) as events:
            assert events.status == 200
            setting.new.hear()
            assert client.end().status == 200
            assert events.next() is None


def test_a_server_that_wants_other_arguments_in_headers(setting: Setting) -> None:
    """Its tool has become another one since the gateway learnt of it."""
    client = McpClient(setting.new_port)
    client.initialize()
    assert client.text("region", region="eu") == 'new: region {"region": "eu"}'
    setting.new.repeats = "Area"
    try:
        assert client.text("region", region="eu") == 'new: region {"region": "eu"}'
    finally:
        setting.new.repeats = "Region"
    assert client.text("region", region="us") == 'new: region {"region": "us"}'


def test_a_modern_client_cancels_nobody_elses_request() -> None:
    """There is no such message in its era over HTTP; here it would name another client's id."""
    (port,) = free_ports(1)
    target = {"name": "local", "stdio": {"cmd": sys.executable, "args": [SCRIPT]}}
    with GatewayProcess(mcp_config(port, target)):
        params = {"requestId": "m1"}
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        heads = {"mcp_protocol_version": MODERN, "mcp_method": "notifications/cancelled"}
        client = McpClient(port, headers={"mcp-name": "slow"})
        with Events(client, SLOW, modern="tools/call") as events:
            assert events.next()["params"]["data"] == "held"
            assert McpClient(port).post(cancel, **heads).status == 202
            modern(port, "tools/call", name="release", arguments={})
            assert events.next()["result"]["content"][0]["text"].startswith("released")
        told = modern(port, "tools/call", name="cancelled", arguments={})
        assert text(result(told)) == "[]"
