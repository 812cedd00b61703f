"""kill -9 of the worker that holds a bridged call: its client, at another worker, hears at once.

Source: issue of the MCP gateway, "Bad input and faults"; docs/mcp.md, "Eras".
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_eras import modern, result, text
from tests.support.mcp_server import MODERN, Events, McpClient, McpServer, mcp_config, messages
from tests.support.processes import client_ports_of, wait_gone, wait_until
from tests.support.upstream import Answer, Seen, Upstream

WORKERS = 4
TRIES = 64
"""Connections, until one is at another worker: by chance one of four is not."""
ELICITS: dict[str, Any] = {"elicitation": {}}
GONE = "which holds the session, has ended"


class Lingering(McpServer):
    """Of the legacy era. The tool `linger` asks the client, and then takes its time."""

    def __init__(self) -> None:
        super().__init__("old", modern=False, tools=("echo", "linger"))
        self.lingers = threading.Event()

    def _call(self, message: dict[str, Any], tool: str, given: Any, seen: Seen) -> Answer:
        if tool == "linger":
            head = [("content-type", "text/event-stream")]
            return Answer(200, head, self._lingering(message))
        return super()._call(message, tool, given, seen)

    def _lingering(self, message: dict[str, Any]) -> Iterator[bytes]:
        asking = self._events(message, "ask")
        yield next(asking)
        next(asking)
        self.lingers.set()
        yield b": under way\n\n"
        self.released.wait(60)


class Setting:
    """A gateway of four workers in front of a server of each era."""

    def __init__(self, gateway: GatewayProcess, ports: list[int], old: Lingering) -> None:
        self.gateway = gateway
        self.old_port, self.new_port = ports
        self.old = old

    def worker_of(self, port: int, events: Events) -> int:
        """The process that serves a connection."""
        mine = events._connection.sock.getsockname()[1]
        (found,) = [pid for pid in self.gateway.worker_pids() if mine in client_ports_of(pid, port)]
        return found

    @staticmethod
    def kill(pid: int) -> None:
        """And wait until nothing connects to it any more."""
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)

    def begun(self) -> tuple[McpClient, int]:
        """A legacy client of the modern server, and the process that holds its session."""
        client = McpClient(self.new_port)
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": ELICITS, "clientInfo": info}
        greeting = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        with Events(client, greeting) as events:
            owner = self.worker_of(self.new_port, events)
            client.session = str(events._answer.getheader("mcp-session-id"))
        assert client.post({"jsonrpc": "2.0", "method": "notifications/initialized"}).status == 202
        return client, owner

    def away_from(self, pid: int, client: McpClient, message: Any) -> Events:
        """A stream at another worker than that one."""
        for _ in range(TRIES):
            events = Events(client, message)
            if self.worker_of(client.port, events) != pid:
                return events
            events.__exit__()
        raise AssertionError("always the same worker")


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    old = Lingering()
    new = McpServer("new", legacy=False, tools=("echo", "hang"))
    ports = free_ports(2)
    with Upstream(old) as one, Upstream(new) as two:
        configs = (
            mcp_config(ports[0], ("old", one.address)),
            mcp_config(ports[1], ("new", two.address)),
        )
        binds = [bind for config in configs for bind in config["binds"]]
        with GatewayProcess({"binds": binds}, workers=WORKERS) as gateway:
            yield Setting(gateway, ports, old)
            old.released.set()
            new.released.set()


HANG: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": "c1",
    "method": "tools/call",
    "params": {"name": "hang", "arguments": {}},
}


def assert_gone(said: Any, text: str = GONE) -> None:
    assert (said["id"], said["error"]["code"]) == ("c1", -32603), said
    assert text in said["error"]["message"]


def test_a_legacy_client_at_a_modern_server(setting: Setting) -> None:
    client, owner = setting.begun()
    with setting.away_from(owner, client, HANG) as events:
        setting.kill(owner)
        assert_gone(events.next())
        assert events.next() is None
    setting.gateway.wait_replaced([owner])
    # The session goes on, at whichever worker is asked.
    for n in range(4):
        assert client.text("echo", n=n) == f'new: echo {{"n": {n}}}'


def test_a_stream_that_is_taken_up_again_when_the_owner_is_gone(setting: Setting) -> None:
    """The client lost its connection, then the call was lost: it is told when it comes back."""
    client, owner = setting.begun()
    with setting.away_from(owner, client, HANG) as events:
        last = primed(events)
    setting.kill(owner)
    with Events(client, last=last) as again:
        assert again.status == 200
        assert_gone(again.next())
        assert again.next() is None
    setting.gateway.wait_replaced([owner])


def test_a_stream_that_is_taken_up_again_when_its_worker_is_gone(setting: Setting) -> None:
    """The answer would have come to a worker that is no more."""
    client, owner = setting.begun()
    with setting.away_from(owner, client, HANG) as events:
        last = primed(events)
        victim = setting.worker_of(setting.new_port, events)
    setting.kill(victim)
    setting.gateway.wait_replaced([victim])
    for _ in range(WORKERS):
        with Events(client, last=last) as again:
            assert again.status == 200
            assert_gone(again.next(), "kept no more")
            assert again.next() is None
    assert client.text("echo") == "new: echo {}"


def primed(events: Events) -> str:
    """The id of the event that says but an id."""
    while not events.identity:
        line = events._answer.readline().decode()
        assert line, "the stream ended"
        if line.startswith("id: "):
            events.identity = line[4:].strip()
    return events.identity


# --- modern clients -------------------------------------------------------------------------------


def linger(**more: Any) -> dict[str, Any]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": ELICITS,
    }
    params = {"name": "linger", "arguments": {}, **more, "_meta": meta}
    return {"jsonrpc": "2.0", "id": "c1", "method": "tools/call", "params": params}


def asked(setting: Setting) -> tuple[dict[str, Any], int]:
    """What stands for a call that waits for its client, and the process that has it."""
    client = McpClient(setting.old_port, headers={"mcp-name": "linger"})
    with Events(client, linger(), modern="tools/call") as events:
        owner = setting.worker_of(setting.old_port, events)
        found = events.next()["result"]
    assert found["resultType"] == "input_required"
    answers = {key: {"action": "accept", "content": "yes"} for key in found["inputRequests"]}
    return {"requestState": found["requestState"], "inputResponses": answers}, owner


def test_a_modern_client_that_was_asked(setting: Setting) -> None:
    """The call waited in the worker that is killed: its state is of a call that has ended."""
    state, owner = asked(setting)
    setting.kill(owner)
    for _ in range(2):
        got = modern(
            setting.old_port,
            "tools/call",
            capabilities=ELICITS,
            name="linger",
            arguments={},
            **state,
        )
        said = messages(got)[-1]["error"]
        assert (got.status, said["code"]) == (400, -32602)
        assert "has ended" in said["message"]
        setting.gateway.wait_replaced([owner])
    got = modern(setting.old_port, "tools/call", name="echo", arguments={})
    assert text(result(got)) == "old: echo {}"


def test_a_modern_client_whose_call_goes_on(setting: Setting) -> None:
    """It has told what it was asked, to another worker than the one that has the call."""
    for _ in range(TRIES):
        state, owner = asked(setting)
        setting.old.lingers.clear()
        client = McpClient(setting.old_port, headers={"mcp-name": "linger"})
        with Events(client, linger(**state), modern="tools/call") as events:
            if setting.worker_of(setting.old_port, events) == owner:
                continue
            wait_until(setting.old.lingers.is_set)
            setting.kill(owner)
            assert_gone(events.next())
            break
    else:
        raise AssertionError("always the same worker")
    setting.gateway.wait_replaced([owner])
