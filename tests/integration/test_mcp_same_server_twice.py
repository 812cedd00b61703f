"""One HTTP+SSE server behind two routes that show it different credentials: nothing is shared."""

from __future__ import annotations

import itertools
import json
import queue
from collections.abc import Iterator
from typing import Any

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_server import McpClient, mcp_config, messages
from tests.support.upstream import Answer, Seen, Upstream


class Telltale:
    """Its one tool says which credentials its stream, and the call, came with."""

    def __init__(self) -> None:
        self.streams: dict[str, tuple[str, queue.Queue[Any]]] = {}
        self.numbers = itertools.count()

    def __call__(self, seen: Seen) -> Answer:
        own = str(seen.get("authorization"))
        if seen.method == "GET":
            number, mine = str(next(self.numbers)), queue.Queue[Any]()
            self.streams[number] = own, mine
            return Answer(200, [("content-type", "text/event-stream")], self.events(number, mine))
        opened, stream = self.streams[seen.target.rpartition("=")[2]]
        message = json.loads(seen.body)
        if message.get("method") == "initialize":
            capabilities: dict[str, Any] = {"tools": {}}
            info = {"name": "telltale", "version": "1"}
            result = {"protocolVersion": "2024-11-05", "capabilities": capabilities}
            stream.put({"id": message["id"], "result": {**result, "serverInfo": info}})
        elif "id" in message:
            content = [{"type": "text", "text": f"{opened} {own}"}]
            stream.put({"id": message["id"], "result": {"content": content}})
        return Answer(202)

    def events(self, number: str, mine: queue.Queue[Any]) -> Iterator[bytes]:
        yield f"event: endpoint\ndata: /messages?c={number}\n\n".encode()
        while (message := mine.get()) is not None:
            yield f"data: {json.dumps({'jsonrpc': '2.0', **message})}\n\n".encode()


def test_credentials_of_two_routes_do_not_meet() -> None:
    ports = free_ports(2)
    server = Telltale()
    with Upstream(server) as up:
        binds = []
        for key, port in zip("ab", ports, strict=True):
            target = {"name": "one", "sse": {"host": f"http://{up.address}/sse"}}
            config = mcp_config(port, target, policies={"backendAuth": {"key": key}})
            binds += config["binds"]
        with GatewayProcess({"binds": binds}, workers=3):
            clients = [McpClient(port) for port in ports]
            for client in clients:
                client.initialize()
            for _ in range(6):
                for key, client in zip("ab", clients, strict=True):
                    wanted = f"Bearer {key} Bearer {key}"
                    assert client.text("who") == wanted
                    got = client.modern("tools/call", "who", name="who", arguments={})
                    assert messages(got)[-1]["result"]["content"][0]["text"] == wanted
        for _, stream in server.streams.values():
            stream.put(None)
