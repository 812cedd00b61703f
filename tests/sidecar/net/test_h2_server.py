"""H2Server: requests and responses, against a hand-driven client in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import (
    InformationalResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from sidecar.errors import RequestError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from tests.support.h2_server import GET, HEAD, POST, Bench, ChunkBody, echo, hello


@pytest.mark.parametrize("cut", [0, 1, 5])
async def test_request_and_response(cut: int) -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return await hello(request)

    bench = Bench(handler, cut=cut)
    await bench.get(fields=[*GET, (b"accept", b"*/*"), (b"te", b"trailers")])
    assert bench.head() == {b":status": b"200", b"x": b"y", b"content-length": b"5"}
    assert bench.peer.body(1) == b"hello"
    (request,) = seen
    assert (request.method, request.scheme, request.authority) == ("GET", "http", "a")
    assert (request.target, request.version) == ("/", "HTTP/2.0")
    assert request.headers == [(b"accept", b"*/*")]
    assert request.wants_trailers
    assert request.connection.peer_host == "192.0.2.7"


async def test_what_a_stranger_says_of_certificates_is_gone() -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return await hello(request)

    fields = [*GET, (b"x-forwarded-client-cert", b"URI=spiffe://a"), (b"accept", b"*/*")]
    await Bench(handler).get(fields=fields)
    assert seen[0].headers == [(b"accept", b"*/*")]


@pytest.mark.parametrize("cut", [0, 3])
async def test_body_and_trailers_both_ways(cut: int) -> None:
    bench = Bench(echo, cut=cut)
    h2 = bench.peer.h2
    h2.send_headers(1, POST)
    h2.send_data(1, b"one ", pad_length=3)
    h2.send_data(1, b"two")
    h2.send_headers(1, [(b"grpc-status", b"0"), (b"host", b"x")], end_stream=True)
    await bench.peer.pump()
    assert bench.peer.body(1) == b"one two"
    (event,) = bench.peer.of(TrailersReceived, 1)
    assert event.headers == [(b"grpc-status", b"0")]


BODILESS = {
    "head": (HEAD, Response(200, body=FixedBody(b"hello")), b"5"),
    "204": (GET, Response(204, Headers([(b"content-length", b"0")])), None),
    "304": (GET, Response(304, Headers([(b"content-length", b"9")])), b"9"),
}


@pytest.mark.parametrize(("fields", "response", "length"), BODILESS.values(), ids=BODILESS)
async def test_responses_without_body(fields: Any, response: Response, length: bytes) -> None:
    async def handler(request: Request) -> Response:
        return response

    bench = Bench(handler)
    await bench.get(fields=fields)
    assert bench.head().get(b"content-length") == length
    assert bench.peer.body(1) == b""
    assert bench.peer.of(StreamEnded, 1)


async def test_content_length_says_what_is_sent() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, Headers([(b"content-length", b"99")]), FixedBody(b"abc"))

    bench = Bench(handler)
    await bench.get()
    assert bench.head()[b"content-length"] == b"3"


async def test_early_response_resets_the_rest_of_the_request() -> None:
    bench = Bench(hello)
    await bench.get(fields=POST, end=False)
    assert bench.peer.body(1) == b"hello"
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.NO_ERROR


FAILURES = {
    "source-fails": ChunkBody(b"part", UpstreamError(502, "UpstreamFailure", "gone")),
    "too-short": ChunkBody(b"part", length=9),
    "too-long": ChunkBody(b"part", b"more", length=5),
    "trailers-with-crlf": ChunkBody(b"part", trailers=Headers([(b"x", b"a\r\nb")])),
}


@pytest.mark.parametrize("body", FAILURES.values(), ids=FAILURES.keys())
async def test_a_cut_response_is_reset_never_ended(body: ChunkBody) -> None:
    done: list[tuple[int, str]] = []

    async def handler(request: Request) -> Response:
        response = Response(200, body=body)
        response.on_done = lambda sent, error: done.append((sent, error))
        return response

    bench = Bench(handler)
    await bench.get()
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.INTERNAL_ERROR
    assert not bench.peer.of(StreamEnded, 1)
    assert body.is_closed
    assert len(done) == 1
    assert done[0][1]


async def test_on_done_once_with_the_octets_sent() -> None:
    done: list[tuple[int, str]] = []

    async def handler(request: Request) -> Response:
        response = await hello(request)
        response.on_done = lambda sent, error: done.append((sent, error))
        return response

    bench = Bench(handler)
    await bench.get()
    assert done == [(5, "")]


async def test_informational_and_continue() -> None:
    async def handler(request: Request) -> Response:
        assert request.expects_continue
        assert request.on_informational is not None
        request.on_informational(103, Headers([(b"link", b"</a>")]))
        request.on_informational(100, Headers())
        request.on_informational(101, Headers())
        return await echo(request)

    bench = Bench(handler)
    await bench.get(fields=[*POST, (b"expect", b"100-continue")], end=False)
    events = bench.peer.of(InformationalResponseReceived, 1)
    assert [event.headers[0][1] for event in events] == [b"103", b"100"]
    bench.peer.h2.send_data(1, b"now", end_stream=True)
    await bench.peer.pump()
    assert bench.peer.body(1) == b"now"


async def test_refused_requests_are_answered() -> None:
    refused: list[RequestError] = []
    bench = Bench(hello, on_refused=refused.append)
    await bench.get(1, [*GET, (b"host", b"b")])
    await bench.get(3, [*GET[:2], (b":authority", b"a@b"), GET[3]])
    await bench.get(5, [*GET, *[(b"a", b"b")] * 101])
    statuses = [bench.head(stream_id)[b":status"] for stream_id in (1, 3, 5)]
    assert statuses == [b"400", b"400", b"431"]
    assert [error.status for error in refused] == [400, 400, 431]


LENGTHS = {
    "18-shorter": (b"5", [b"abc"], True),
    "18-longer": (b"2", [b"abc"], False),
    "18-ends-at-once": (b"2", [], True),
}


@pytest.mark.parametrize(("declared", "chunks", "ends"), LENGTHS.values(), ids=LENGTHS.keys())
async def test_content_length_that_lies_resets_the_stream_18(
    declared: bytes, chunks: list[bytes], ends: bool
) -> None:
    bench = Bench(echo)
    h2 = bench.peer.h2
    h2.send_headers(1, [*POST, (b"content-length", declared)], end_stream=ends and not chunks)
    for chunk in chunks:
        h2.send_data(1, chunk, end_stream=ends)
    await bench.peer.pump()
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.PROTOCOL_ERROR
    await bench.get(3)
    assert bench.head(3)[b":status"] == b"200"


async def test_connection_specific_field_resets_only_its_stream_18() -> None:
    bench = Bench(hello)
    await bench.get(1, [*GET, (b"transfer-encoding", b"chunked")])
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.PROTOCOL_ERROR
    await bench.get(3)
    assert bench.head(3)[b":status"] == b"200"


async def test_handler_that_fails_is_reported_and_reset() -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))

    async def handler(request: Request) -> Response:
        raise ZeroDivisionError

    bench = Bench(handler)
    await bench.get()
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.INTERNAL_ERROR
    assert [type(problem["exception"]) for problem in problems] == [ZeroDivisionError]
