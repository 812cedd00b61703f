"""Streams that a server ends before the answer, for clients that take them up again themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.errors import UpstreamError
from sidecar.mcp.upstream.base import Inbound, Messages, Outbound
from sidecar.mcp.upstream.streamable import Lingerers, StreamableTarget
from tests.support.mcp_http import Exchange, Sender, http_server, outbound

LOG = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x"}}
RESULT = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}


def target_of(sender: Sender) -> StreamableTarget:
    return StreamableTarget("t", sender, "mcp.example", "/mcp", Lingerers())


def polled() -> Outbound:
    return replace(outbound(), is_polled=True)


async def inbounds(messages: Messages) -> list[Inbound]:
    taken = []
    while (inbound := await messages.next()) is not None:
        taken.append(inbound)
    return taken


async def primes(exchange: Exchange) -> None:
    await exchange.stream()
    await exchange.event("", id="7", retry=50)
    await exchange.event(LOG, id="8")
    await exchange.finish()


async def test_a_client_that_polls_gets_the_ids_and_the_end() -> None:
    async with http_server(primes) as sender:
        answered = await target_of(sender).request(polled())
        assert await inbounds(answered.messages) == [Inbound({}, b"7", 50), Inbound(LOG, b"8")]
        assert [seen.method for seen in sender.seen] == ["POST"]


async def test_who_does_not_poll_gets_the_answer_all_the_same() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.method == "POST":
            await primes(exchange)
            return
        assert exchange.headers["last-event-id"] == "8"
        await exchange.stream()
        await exchange.event(RESULT, id="9")
        await exchange.finish()

    async with http_server(script) as sender:
        answered = await target_of(sender).request(outbound())
        taken = await inbounds(answered.messages)
        assert [inbound.message for inbound in taken] == [LOG, RESULT]


async def test_a_stream_that_breaks_is_taken_up_for_a_client_that_polls() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        if exchange.method == "POST":
            await exchange.event("", id="7", retry=1)
            exchange.cut()
            return
        await exchange.event(RESULT, id="8")
        await exchange.finish()

    async with http_server(script) as sender:
        answered = await target_of(sender).request(polled())
        taken = await inbounds(answered.messages)
        assert [inbound.message for inbound in taken] == [{}, RESULT]


async def test_a_stream_without_ids_must_not_end_before_the_answer() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.event(LOG)
        await exchange.finish()

    async with http_server(script) as sender:
        answered = await target_of(sender).request(polled())
        with pytest.raises(UpstreamError, match="ended its stream before the answer"):
            await inbounds(answered.messages)


async def test_a_stream_that_was_taken_up_ends_with_the_servers() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.event(RESULT, id="9")
        await exchange.finish()

    async with http_server(script) as sender:
        messages = await target_of(sender).listen(polled(), b"8")
        assert messages is not None
        assert await inbounds(messages) == [Inbound(RESULT, b"9")]
        assert len(sender.seen) == 1
