"""Tests of sidecar.mcp.upstream.streamable against a server whose octets the test controls."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest

from sidecar.http.headers import Headers
from sidecar.mcp.upstream.base import Held, Refused
from sidecar.mcp.upstream.streamable import Limits
from sidecar.telemetry.w3c import TraceContext
from tests.support.mcp_http import Exchange, drained, http_server, outbound
from tests.support.mcp_streamable import HELD, LOG, RESULT, asked, failure, target_of

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
