"""Streams of servers over Streamable HTTP, how they are taken up, and what has no answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sidecar.mcp.upstream.base import Held, Messages, Refused
from sidecar.mcp.upstream.streamable import Limits
from tests.support.mcp_http import Exchange, Script, drained, http_server, outbound
from tests.support.mcp_streamable import HELD, LOG, RESULT, asked, failure, target_of

# --- streams --------------------------------------------------------------------------------


async def test_a_stream_ends_behind_its_answer_and_the_connection_is_kept() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.chunk(b": hello\n\n")
        await exchange.event(LOG, id="e1", name="message")
        await exchange.event({**RESULT, "id": 7})
        await exchange.event({"x": 1}, name="other")
        await exchange.event(RESULT)
        await exchange.event(RESULT)
        await exchange.finish()

    async with http_server(script) as sender:
        for _ in range(3):
            answered = await target_of(sender).request(outbound())
            assert not answered.messages.is_json
            first = await answered.messages.next()
            assert first is not None
            assert (first.message, first.event_id) == (LOG, b"e1")
            assert await drained(answered.messages) == [RESULT]
        assert sender.connections == 1


async def test_a_batch_in_an_event_is_split() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.event([LOG, LOG, RESULT, LOG])

    assert await asked(script) == [LOG, LOG, RESULT]


@pytest.mark.parametrize(
    "data", [b"data: nonsense\n\n", b"data: {}\n\n", b"data: 1\n\n", b"data: \xff\n\n"]
)
async def test_events_that_are_no_message_hardening_49(data: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.chunk(data)
        await exchange.gone.wait()

    assert (await failure(script)).status == 502


async def test_an_event_that_is_too_long_hardening_49() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        for _ in range(40):
            await exchange.chunk(b"data: " + b"x" * 1000)

    assert "10000 bytes" in (await failure(script, Limits(event_bytes=10_000))).message


async def test_an_event_in_single_octets_hardening_49() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        said = {**RESULT, "result": {"x": "é"}}
        raw = f"\ufeffid: 1\r\ndata: {json.dumps(said, ensure_ascii=False)}\r\n\r\n"
        for octet in raw.encode():
            await exchange.chunk(bytes((octet,)))

    assert await asked(script) == [{**RESULT, "result": {"x": "é"}}]


async def test_a_stream_that_is_silent() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.gone.wait()

    assert (await failure(script, Limits(idle_seconds=0.05))).status == 504


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_stream_without_ids_that_ends_early(is_cut: bool) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.event(LOG)
        if is_cut:
            exchange.cut()
        else:
            await exchange.finish()

    error = await failure(script)
    assert (error.status, error.retryable) == (503 if is_cut else 502, False)


async def test_closing_ends_the_exchange() -> None:
    left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.event(LOG)
        await exchange.gone.wait()
        left.set()

    async with http_server(script) as sender:
        answered = await target_of(sender).request(outbound(era="modern"))
        assert await answered.messages.next() is not None
        answered.messages.close()
        answered.messages.close()
        async with asyncio.timeout(20):
            await left.wait()
        assert await answered.messages.next() is None


# --- resumption (SEP-1699) ------------------------------------------------------------------


class Polled:
    """Ends its streams early, as often as `parts` has parts; the last one holds the answer."""

    def __init__(self, *parts: list[dict[str, Any]], cuts: bool = False) -> None:
        self.parts = parts
        self.cuts = cuts
        self.told: list[str] = []

    async def __call__(self, exchange: Exchange) -> None:
        number = 0 if exchange.method == "POST" else len(self.told)
        self.told.append(exchange.headers.get("last-event-id", ""))
        await exchange.stream(mcp_session_id="new")
        await exchange.event("", id=f"p{number}", retry=1)
        for message in self.parts[number]:
            await exchange.event(message)
        if self.cuts and number < len(self.parts) - 1:
            exchange.cut()
        else:
            await exchange.finish()


@pytest.mark.parametrize("cuts", [False, True])
async def test_a_stream_that_ended_early_is_taken_up(cuts: bool) -> None:
    script = Polled([LOG], [], [LOG, RESULT], cuts=cuts)
    async with http_server(script) as sender:
        answered = await target_of(sender).request(outbound(held=HELD))
        assert await drained(answered.messages) == [LOG, LOG, RESULT]
        assert answered.messages.retry_ms == 1
    assert script.told == ["", "p0", "p1"]
    assert [seen.method for seen in sender.seen] == ["POST", "GET", "GET"]
    assert {seen.headers["mcp-session-id"] for seen in sender.seen} == {"up-1"}
    assert sender.seen[1].headers["accept"] == "text/event-stream"


async def test_initialize_is_taken_up_with_the_session_it_gave() -> None:
    greeting = {"jsonrpc": "2.0", "id": 1, "result": {"protocolVersion": "2025-11-25"}}
    async with http_server(Polled([], [greeting])) as sender:
        answered = await target_of(sender).request(outbound("initialize", {}, version=""))
        assert answered.held.version == "2025-11-25"
    assert sender.seen[1].headers["mcp-session-id"] == "new"


async def test_a_modern_stream_is_not_taken_up() -> None:
    error = await failure(Polled([LOG], [RESULT]), era="modern")
    assert error.status == 502


@pytest.mark.parametrize(
    ("status", "gets"), [(404, 1), (405, 1)], ids=["forgotten", "has no such stream"]
)
async def test_a_stream_that_cannot_be_taken_up(status: int, gets: int) -> None:
    asked_again = []

    async def script(exchange: Exchange) -> None:
        if exchange.method == "GET":
            asked_again.append(exchange)
            return await exchange.whole(status)
        await exchange.stream()
        await exchange.event("", id="p", retry=1)
        return await exchange.finish()

    assert (await failure(script)).status == 502
    assert len(asked_again) == gets


async def test_a_server_that_restarts_is_asked_again() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.method == "GET" and len(sender.seen) < 4:
            return await exchange.whole(503)
        await exchange.stream()
        if exchange.method == "GET":
            return await exchange.event(RESULT)
        await exchange.event("", id="p", retry=1)
        return await exchange.finish()

    async with http_server(script) as sender:
        answered = await target_of(sender).request(outbound())
        assert await drained(answered.messages) == [RESULT]


async def test_a_server_that_ends_every_stream_is_given_up() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        if exchange.method == "POST":
            await exchange.event("", id="p", retry=1)
        await exchange.finish()

    assert "again and again" in (await failure(script)).message


# --- the rest of Target ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_notifications(status: int) -> None:
    async with http_server(lambda exchange: exchange.whole(status)) as sender:
        await target_of(sender).send(outbound("notifications/initialized", id=None, held=HELD))
        await target_of(sender).send(
            outbound(message={"jsonrpc": "2.0", "id": 9, "result": {}}, held=HELD)
        )
        assert [seen.json.get("id") for seen in sender.seen] == [None, 9]


async def test_a_notification_that_is_refused() -> None:
    async with http_server(lambda exchange: exchange.whole(404)) as sender:
        with pytest.raises(Refused):
            await target_of(sender).send(outbound("notifications/initialized", id=None))


async def listening(script: Script) -> tuple[Messages | None, list[Any]]:
    async with http_server(script) as sender:
        messages = await target_of(sender).listen(outbound(held=HELD), b"e0")
        taken = [] if messages is None else await drained(messages)
        assert sender.seen[0].headers["last-event-id"] == "e0"
        return messages, taken


async def test_listening() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.stream()
        await exchange.event(LOG)
        await exchange.event({**RESULT, "id": 4})
        await exchange.finish()

    _, taken = await listening(script)
    assert taken == [LOG, {**RESULT, "id": 4}]


async def test_a_server_without_a_stream() -> None:
    messages, _ = await listening(lambda exchange: exchange.whole(405))
    assert messages is None


async def test_a_server_that_forgot_the_session_refuses_the_stream() -> None:
    with pytest.raises(Refused) as caught:
        await listening(lambda exchange: exchange.whole(404))
    assert caught.value.status == 404


async def test_listening_is_taken_up_and_ends_when_that_is_refused() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.headers.get("last-event-id") == "e2":
            return await exchange.whole(405)
        await exchange.stream()
        number = 1 if exchange.headers.get("last-event-id") == "e0" else 2
        await exchange.event(LOG, id=f"e{number}", retry=1)
        return await exchange.finish()

    _, taken = await listening(script)
    assert taken == [LOG, LOG]


@pytest.mark.parametrize("status", [200, 202, 404, 405, 500])
async def test_the_end_of_a_session(status: int) -> None:
    async with http_server(lambda exchange: exchange.whole(status)) as sender:
        await target_of(sender).end(outbound(message={}, held=HELD))
        await target_of(sender).end(outbound(message={}))
        await target_of(sender).end(outbound(message={}, held=HELD, era="modern"))
    (seen,) = sender.seen
    assert (seen.method, seen.headers["mcp-session-id"]) == ("DELETE", "up-1")


async def test_the_end_of_a_session_of_a_dead_server_is_no_failure() -> None:
    async with http_server(lambda exchange: exchange.whole(200)) as sender:
        target = target_of(sender)
        await target.end(outbound(message={}, held=Held("x", "", "192.0.2.1:1")))
    assert not sender.seen
