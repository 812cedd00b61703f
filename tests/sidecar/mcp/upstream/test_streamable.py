"""Tests of sidecar.mcp.upstream.streamable against a server whose octets the test controls."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.mcp.upstream.base import Held, Messages, Refused
from sidecar.mcp.upstream.streamable import Limits, Lingerers, StreamableTarget
from sidecar.telemetry.w3c import TraceContext
from tests.support.mcp_http import Exchange, Script, Sender, drained, http_server, outbound

RESULT = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
LOG = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x"}}
HELD = Held("up-1", "2025-11-25")


def target_of(sender: Sender, limits: Limits | None = None) -> StreamableTarget:
    return StreamableTarget(
        "t", sender, "mcp.example:8080", "/mcp?x=1", Lingerers(), limits or Limits()
    )


async def asked(script: Script, limits: Limits | None = None, **kwargs: Any) -> list[Any]:
    async with http_server(script) as sender:
        answered = await target_of(sender, limits).request(outbound(**kwargs))
        return await drained(answered.messages)


async def failure(script: Script, limits: Limits | None = None, **kwargs: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await asked(script, limits, **kwargs)
    return caught.value


# --- what is sent ---------------------------------------------------------------------------


async def test_a_legacy_request_has_the_session_and_the_version() -> None:
    async with http_server(lambda exchange: exchange.result(ok=True)) as sender:
        passed = Headers([(b"x-team", b"blue"), (b"accept-encoding", b"gzip"), (b"host", b"evil")])
        await target_of(sender).request(outbound(held=HELD, headers=passed))
    (seen,) = sender.seen
    assert (seen.method, seen.target) == ("POST", "/mcp?x=1")
    assert seen.headers["host"] == "mcp.example:8080"
    assert seen.headers["accept"] == "application/json, text/event-stream"
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["mcp-protocol-version"] == "2025-11-25"
    assert seen.headers["mcp-session-id"] == "up-1"
    assert seen.headers["x-team"] == "blue"
    assert seen.headers["accept-encoding"] == "identity"
    assert not {"mcp-method", "mcp-name"} & set(seen.headers)


async def test_a_modern_request_repeats_its_method_and_has_no_session() -> None:
    async with http_server(lambda exchange: exchange.result(ok=True)) as sender:
        passed = Headers([(b"mcp-name", b"prefixed_echo"), (b"mcp-param-region", b"eu")])
        await target_of(sender).request(
            outbound(
                params={"name": "écho"},
                era="modern",
                version="2026-07-28",
                held=HELD,
                headers=passed,
            )
        )
    headers = sender.seen[0].headers
    assert headers["mcp-method"] == "tools/call"
    assert headers["mcp-name"] == "=?base64?w6ljaG8=?="
    assert headers["mcp-param-region"] == "eu"
    assert "mcp-session-id" not in headers


@pytest.mark.parametrize(
    ("params", "told"),
    [
        (None, {"traceparent", "tracestate", "baggage"}),
        (
            {"_meta": {"progressToken": 5}},
            {"progressToken", "traceparent", "tracestate", "baggage"},
        ),
    ],
)
async def test_the_trace_is_told_in_meta(params: dict[str, Any] | None, told: set[str]) -> None:
    async with http_server(lambda exchange: exchange.result()) as sender:
        asking = outbound("tools/list", params)
        asking.of.trace = TraceContext(0xA, 0xB, 0xC, True, b"k=v")
        asking.of.headers.append((b"baggage", b"user=1"))
        await target_of(sender).request(asking)
        assert params is None or set(params["_meta"]) == {"progressToken"}, "the caller's is kept"
    meta = sender.seen[0].json["params"]["_meta"]
    assert set(meta) == told
    assert meta["traceparent"] == f"00-{0xA:032x}-{0xB:016x}-01"
    assert (meta["tracestate"], meta["baggage"]) == ("k=v", "user=1")


async def test_a_trace_that_nobody_records_is_not_told() -> None:
    async with http_server(lambda exchange: exchange.result()) as sender:
        asking = outbound("tools/list", {"_meta": {"traceparent": "the client's own"}})
        asking.of.trace = TraceContext(0xA, 0xB, 0, False)
        await target_of(sender).request(asking)
    assert sender.seen[0].json["params"]["_meta"] == {"traceparent": "the client's own"}


# --- answers as documents -------------------------------------------------------------------


async def test_a_document_is_one_message() -> None:
    async with http_server(lambda exchange: exchange.whole(200, RESULT)) as sender:
        answered = await target_of(sender).request(outbound(held=HELD))
        assert answered.messages.is_json
        assert answered.held == HELD
        assert await drained(answered.messages) == [RESULT]


@pytest.mark.parametrize(
    ("document", "taken"),
    [
        ([LOG, RESULT], [LOG, RESULT]),
        ([RESULT, LOG], [RESULT]),
        ([{**RESULT, "id": 2}, RESULT], [RESULT]),
        ([RESULT, RESULT], [RESULT]),
        (
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "?"}},
            [{"jsonrpc": "2.0", "id": 1, "error": {"code": -32700, "message": "?"}}],
        ),
    ],
    ids=["batch", "behind the answer", "another's answer", "twice", "error without id"],
)
async def test_documents(document: object, taken: list[Any]) -> None:
    assert await asked(lambda exchange: exchange.whole(200, document)) == taken


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"jsonrpc":"2.0","id":"1","result":{}}',
        b'{"jsonrpc":"2.0","id":true,"result":{}}',
        b'{"jsonrpc":"2.0","id":2,"result":{}}',
        b"[" * 200 + b"]" * 200,
    ],
    ids=["empty", "html", "empty batch", "no message", "text id", "bool id", "other id", "deep"],
)
async def test_documents_that_are_no_answer(body: bytes) -> None:
    error = await failure(
        lambda exchange: exchange.whole(200, body, content_type="application/json")
    )
    assert (error.status, error.retryable) == (502, False)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"content_type": "text/html"}),
        (200, {}),
        (202, {}),
        (204, {}),
        (200, {"content_type": "application/json", "content_encoding": "gzip"}),
        (200, {"content_type": "application/json", "content_encoding": "unheard-of"}),
    ],
)
async def test_answers_of_another_kind(status: int, headers: dict[str, str]) -> None:
    error = await failure(lambda exchange: exchange.whole(status, b"", **headers))
    assert error.status == 502


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress)],
)
async def test_an_answer_that_is_compressed(coding: str, pack: Callable[[bytes], bytes]) -> None:
    """Nobody asked for it, and it is understood."""

    async def script(exchange: Exchange) -> None:
        if exchange.json["method"] == "tools/list":
            await exchange.stream(content_encoding=coding)
            await exchange.chunk(pack(b"data: " + json.dumps(RESULT).encode() + b"\n\n"))
            await exchange.finish()
        else:
            packed = pack(json.dumps(RESULT).encode())
            head = {"content_type": "application/json", "content_encoding": coding}
            await exchange.whole(200, packed, **head)

    async with http_server(script) as sender:
        for method in ("tools/call", "tools/list"):
            answered = await target_of(sender).request(outbound(method, held=HELD))
            assert await drained(answered.messages) == [RESULT]


async def test_48_an_answer_that_stands_for_too_much() -> None:
    bomb = gzip.compress(b" " * 20_000_000)
    head = {"content_type": "application/json", "content_encoding": "gzip"}
    assert (await failure(lambda exchange: exchange.whole(200, bomb, **head))).status == 502


async def test_an_answer_that_is_too_long() -> None:
    long = {**RESULT, "result": {"x": "y" * 5000}}
    error = await failure(lambda exchange: exchange.whole(200, long), Limits(answer_bytes=1000))
    assert "1000 bytes" in error.message


async def test_an_answer_that_does_not_end() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head(content_type="application/json")
        await exchange.chunk(b"{")
        await exchange.gone.wait()

    error = await failure(script, Limits(idle_seconds=0.05))
    assert error.status == 504


@pytest.mark.parametrize("status", [301, 400, 401, 404, 500])
async def test_a_refusal_comes_with_its_body(status: int) -> None:
    def script(exchange: Exchange) -> Any:
        return exchange.whole(status, {"error": "no"}, www_authenticate="Bearer x")

    with pytest.raises(Refused) as caught:
        await asked(script)
    assert caught.value.status == status
    assert json.loads(caught.value.body) == {"error": "no"}
    assert caught.value.headers.get(b"www-authenticate") == b"Bearer x"


async def test_the_body_of_a_refusal_is_bounded() -> None:
    with pytest.raises(Refused) as caught:
        await asked(lambda exchange: exchange.whole(500, b"x" * 70_000))
    assert caught.value.body == b""


# --- initialize -----------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True])
async def test_initialize_tells_the_session_and_the_version(streams: bool) -> None:
    async def script(exchange: Exchange) -> None:
        message = {"jsonrpc": "2.0", "id": 1, "result": {"protocolVersion": "2025-06-18"}}
        if not streams:
            return await exchange.whole(200, message, mcp_session_id="abc")
        await exchange.stream(mcp_session_id="abc")
        await exchange.event(LOG)
        await exchange.event(message)
        return await exchange.finish()

    async with http_server(script) as sender:
        answered = await target_of(sender).request(outbound("initialize", {}, version=""))
        assert answered.held == Held("abc", "2025-06-18", sender.pin)
        assert answered.messages.is_json is not streams
        assert len(await drained(answered.messages)) == 1 + streams
    assert "mcp-protocol-version" not in sender.seen[0].headers


@pytest.mark.parametrize("session", ["a b", "é", "x" * 2000])
async def test_a_session_id_that_is_none_counts_as_none(session: str) -> None:
    result = {"jsonrpc": "2.0", "id": 1, "result": {"protocolVersion": "2025-06-18"}}
    async with http_server(
        lambda exchange: exchange.whole(200, result, mcp_session_id=session)
    ) as sender:
        answered = await target_of(sender).request(outbound("initialize", {}))
        assert answered.held == Held("", "2025-06-18")


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
        async with asyncio.timeout(10):
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
