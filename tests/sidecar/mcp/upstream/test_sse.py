"""Tests of sidecar.mcp.upstream.sse against a server whose octets the test controls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.jsonrpc import Json
from sidecar.mcp.upstream.base import Refused, Scope
from sidecar.mcp.upstream.sse import SseTarget
from sidecar.mcp.upstream.sse_connection import SseConnections, endpoint_of
from sidecar.mcp.upstream.streamable import Limits, Lingerers
from tests.support.mcp_http import Exchange, Sender, drained, http_server, outbound, until

GREETING = {"protocolVersion": "2024-11-05", "capabilities": {}}
SESSION = Scope("session", b"s1", 0)


class OldServer:
    """One stream a client, answers on it. `fault` misleads."""

    def __init__(self, fault: str = "", endpoint: str = "/messages?session=") -> None:
        self.fault = fault
        self.endpoint = endpoint
        self.streams: list[Exchange] = []
        self.posted: list[Json] = []
        self.sender: Sender

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.method == "GET":
            await self._listen(exchange)
        elif exchange.target.startswith("/refused"):
            await exchange.whole(404, b"gone")
        else:
            await exchange.whole(202)
            await self._post(self.streams[int(exchange.target.partition("=")[2])], exchange.json)

    async def _listen(self, exchange: Exchange) -> None:
        if self.fault == "refuses":
            return await exchange.whole(401, b"no", www_authenticate="Bearer")
        if self.fault == "json":
            return await exchange.whole(200, {})
        number = len(self.streams)
        self.streams.append(exchange)
        await exchange.stream()
        if self.fault == "silent":
            await exchange.gone.wait()
        elif self.fault == "ends":
            return await exchange.finish()
        await exchange.event(f"{self.endpoint}{number}", name="endpoint")
        await exchange.gone.wait()
        return None

    async def _post(self, stream: Exchange, message: Json) -> None:
        self.posted.append(message)
        identity = message.get("id")
        method = message.get("method")
        if method == "initialize":
            await self.say(stream, id=identity, result=GREETING)
        elif method == "tools/call":
            await self._call(stream, identity, message["params"]["name"])

    async def _call(self, stream: Exchange, identity: Any, name: str) -> None:
        if name == "echo":
            await self.say(stream, method="notifications/message", params={})
            await self.say(stream, id=identity, result={"stream": self.streams.index(stream)})
        elif name == "die":
            stream.cut()
        elif name == "garbage":
            await stream.event("no json", name="message")
        elif name == "ping":
            await self.say(stream, id="p", method="ping")

    @staticmethod
    async def say(stream: Exchange, **message: Any) -> None:
        await stream.event({"jsonrpc": "2.0", **message}, name="message")


class Client:
    def __init__(self, sender: Sender, limits: Limits | None = None) -> None:
        self.connections = SseConnections()
        self.target = SseTarget(
            "t", "t1", sender, "http://mcp.example/sse?k=1", self.connections, Lingerers(),
            limits or Limits(),
        )  # fmt: skip

    async def greet(self, scope: Scope = SESSION) -> list[Json]:
        answered = await self.target.request(
            outbound("initialize", {"protocolVersion": "2025-11-25"}, scope=scope)
        )
        assert answered.held.version == "2024-11-05"
        return await drained(answered.messages)

    async def call(self, name: str, scope: Scope = SESSION) -> list[Json]:
        headers = Headers([(b"x-team", b"blue")])
        asking = outbound(params={"name": name}, id="a", scope=scope, headers=headers)
        return await drained((await self.target.request(asking)).messages)


async def test_calls_of_two_sessions_have_a_stream_each() -> None:
    old = OldServer()
    other = Scope("session", b"s2", 0)
    async with http_server(old) as sender:
        client = Client(sender)
        await client.greet()
        await client.greet(other)
        await client.greet()
        for number, scope in enumerate((SESSION, other)):
            log, answer = await client.call("echo", scope)
            assert log["method"] == "notifications/message"
            assert (answer["id"], answer["result"]) == ("a", {"stream": number})
        assert [seen.target for seen in sender.seen if seen.method == "GET"] == ["/sse?k=1"] * 2
        assert sender.seen[-1].target == "/messages?session=1"
        assert sender.seen[-1].headers["x-team"] == "blue"
        assert sender.seen[-1].headers["host"] == "mcp.example"
        await client.target.end(outbound(message={}, scope=other))
        await until(lambda: old.streams[1].gone.is_set())
        with pytest.raises(Refused):
            await client.call("echo", other)
        await client.connections.close()


async def test_the_server_is_told_once_that_it_was_greeted_and_pings_are_answered() -> None:
    old = OldServer()
    async with http_server(old) as sender:
        client = Client(sender)
        await client.greet()
        for _ in range(2):
            await client.target.send(outbound("notifications/initialized", id=None))
        asking = asyncio.ensure_future(client.call("ping"))
        await until(lambda: any(message.get("id") == "p" for message in old.posted))
        assert [m.get("method") for m in old.posted].count("notifications/initialized") == 1
        await client.connections.close()
        with pytest.raises(UpstreamError):
            await asking


async def test_what_belongs_to_no_request_is_listened_to() -> None:
    old = OldServer()
    async with http_server(old) as sender:
        client = Client(sender)
        await client.greet()
        await old.say(old.streams[0], method="notifications/tools/list_changed")
        messages = await client.target.listen(outbound(message={}))
        assert messages is not None
        inbound = await messages.next()
        assert inbound is not None
        await client.connections.close()
        assert await drained(messages) == []


@pytest.mark.parametrize("tool", ["die", "garbage"])
async def test_a_stream_that_fails_in_a_call(tool: str) -> None:
    async with http_server(OldServer()) as sender:
        client = Client(sender)
        await client.greet()
        with pytest.raises(UpstreamError):
            await client.call(tool)
        await until(lambda: len(client.connections) == 0)
        with pytest.raises(Refused) as caught:
            await client.call("echo")
        assert caught.value.status == 404
        await client.greet()
        assert len(await client.call("echo")) == 2
        await client.connections.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("refuses", Refused), ("json", UpstreamError), ("ends", UpstreamError)],
)
async def test_a_server_without_a_stream(fault: str, kind: type[Exception]) -> None:
    async with http_server(OldServer(fault)) as sender:
        client = Client(sender)
        with pytest.raises(kind):
            await client.greet()
        await until(lambda: len(client.connections) == 0)


async def test_a_server_that_does_not_tell_its_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.mcp.upstream.sse.ENDPOINT_SECONDS", 0.05)
    async with http_server(OldServer("silent")) as sender:
        client = Client(sender)
        with pytest.raises(UpstreamError) as caught:
            await client.greet()
        assert caught.value.status == 504
        assert len(client.connections) == 0
        await client.connections.close()


async def test_an_endpoint_elsewhere_is_refused_hardening_43() -> None:
    old = OldServer(endpoint="http://169.254.169.254/x?session=")
    async with http_server(old) as sender:
        with pytest.raises(UpstreamError, match="another origin"):
            await Client(sender).greet()
        assert len(sender.seen) == 1


async def test_a_refused_message() -> None:
    async with http_server(OldServer(endpoint="/refused?session=")) as sender:
        client = Client(sender)
        with pytest.raises(Refused) as caught:
            await client.greet()
        assert (caught.value.status, caught.value.body) == (404, b"gone")
        assert len(client.connections) == 0


@pytest.mark.parametrize(
    ("said", "target"),
    [
        ("/m?s=1", "/m?s=1"),
        ("m?s=1", "/a/m?s=1"),
        ("?s=1", "/a/sse?s=1"),
        ("http://h:80/m", "/m"),
        ("http://H/m#f", "/m"),
        ("//h/m", "/m"),
        ("http://h", "/"),
    ],
)
def test_endpoints(said: str, target: str) -> None:
    assert endpoint_of("http://h/a/sse", said.encode(), "t") == target


@pytest.mark.parametrize(
    "said",
    [
        "https://h/m", "http://h:81/m", "//evil/m", "http://h@evil/m", "http://h.evil/m",
        "file:///etc/passwd", "http://[::1/m", "http://h:x/m", "", "/a b", "/a\nb", "/é",
        "/" + "x" * 5000,
    ],
)  # fmt: skip
def test_endpoints_that_are_refused_hardening_43(said: str) -> None:
    with pytest.raises(UpstreamError):
        endpoint_of("http://h/a/sse", said.encode(), "t")
