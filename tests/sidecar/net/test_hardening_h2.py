"""Hostile HTTP/2 (spec hardening section 4.3 B): each case by its number, against H2Server."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import ResponseReceived, StreamReset
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from sidecar.http.h2_hpack import encode_fields
from sidecar.http.message import FixedBody, Request, Response
from sidecar.net.settings import HttpSettings
from tests.support.h2_server import GET, POST, Bench, ChunkBody, echo, hello
from tests.support.stream import frames_of, turns

CALM = ErrorCodes.ENHANCE_YOUR_CALM
BLOCK = encode_fields(GET)


def head(stream_id: int, *flags: str, data: bytes = BLOCK) -> HeadersFrame:
    return HeadersFrame(stream_id, data, flags=["END_HEADERS", *flags])


async def forever(request: Request) -> Response:
    await asyncio.Event().wait()
    return Response(200)


async def opened(handler: Any = hello, settings: HttpSettings | None = None) -> Bench:
    bench = Bench(handler, settings)
    await bench.peer.pump()
    return bench


def goaway_of(bench: Bench) -> int | None:
    """The code of the GOAWAY written, None without one."""
    for frame in frames_of(bench.transport.take()):
        if isinstance(frame, GoAwayFrame):
            return frame.error_code
    return None


async def flood(bench: Bench, make: Callable[[int], list[Frame]], count: int) -> int | None:
    """Send `make(i)` until the connection is closed or `count` is reached; GOAWAY's code."""
    for index in range(count):
        bench.peer.send(*make(index))
        if bench.transport.is_closed:
            break
    code = goaway_of(bench)
    await turns()
    return code


FLOODS: dict[str, tuple[Callable[[int], list[Frame]], int]] = {
    "20-rapid-reset": (
        lambda i: [head(2 * i + 1, "END_STREAM"), RstStreamFrame(2 * i + 1, error_code=8)],
        101,
    ),
    "21-window-overflow": (
        lambda i: [head(2 * i + 1), WindowUpdateFrame(2 * i + 1, window_increment=2**31 - 1)],
        101,
    ),
    "21-data-after-end": (
        lambda i: [head(2 * i + 1, "END_STREAM"), DataFrame(2 * i + 1, b"x")],
        101,
    ),
    "21-headers-after-end": (
        lambda i: [head(2 * i + 1, "END_STREAM"), head(2 * i + 1, "END_STREAM")],
        101,
    ),
    "21-malformed-request": (
        lambda i: [head(2 * i + 1, "END_STREAM", data=encode_fields([*GET, (b"te", b"x")]))],
        101,
    ),
    "21-content-length-lies": (
        lambda i: [
            head(2 * i + 1, data=encode_fields([*POST, (b"content-length", b"1")])),
            DataFrame(2 * i + 1, b"xx"),
        ],
        101,
    ),
    "24-ping": (lambda i: [PingFrame(0, opaque_data=b"12345678")], 51),
    "24-ping-ack": (lambda i: [PingFrame(0, opaque_data=b"12345678", flags=["ACK"])], 51),
    "24-settings": (lambda i: [SettingsFrame(0, settings={4: 65535 + i})], 49),
    "24-settings-ack": (lambda i: [SettingsFrame(0, flags=["ACK"])], 49),
    "24-priority": (lambda i: [PriorityFrame(2 * i + 1, stream_weight=1)], 501),
    "24-unknown-frames": (lambda i: [ExtensionFrame(0xBE, 0, 0, b"")], 501),
    "24-empty-data": (lambda i: ([head(1)] if i == 0 else []) + [DataFrame(1, b"")], 11),
    "24-window-update": (lambda i: [WindowUpdateFrame(0, window_increment=1)], 501),
}


@pytest.mark.parametrize(("make", "limit"), FLOODS.values(), ids=FLOODS.keys())
async def test_flood_ends_the_connection_at_its_limit(
    make: Callable[[int], list[Frame]], limit: int
) -> None:
    bench = await opened(forever)
    assert await flood(bench, make, limit - 1) is None
    assert not bench.transport.is_closed
    assert await flood(bench, lambda i: make(limit - 1 + i), 1) == CALM
    assert bench.transport.is_closed
    await bench.server.wait_closed()
    assert bench.closed == [bench.server]


async def test_24_goaway_flood() -> None:
    bench = await opened(forever)
    bench.peer.send(head(1, "END_STREAM"), GoAwayFrame(0))
    assert goaway_of(bench) == ErrorCodes.NO_ERROR
    assert await flood(bench, lambda i: [GoAwayFrame(0)], 600) == CALM


async def test_counts_start_again_after_ten_seconds() -> None:
    bench = await opened()
    for _ in range(3):
        assert await flood(bench, lambda i: [PingFrame(0, opaque_data=b"12345678")], 50) is None
        bench.time.advance(10.5)
    assert not bench.transport.is_closed


async def test_20_rapid_reset_at_full_speed_costs_little() -> None:
    bench = await opened(forever)
    data = b"".join(
        head(i, "END_STREAM").serialize() + RstStreamFrame(i, error_code=8).serialize()
        for i in range(1, 200_001, 2)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    for start in range(0, len(data), 65_536):
        bench.server.data_received(data[start : start + 65_536])
    await bench.server.wait_closed()
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
    assert goaway_of(bench) == CALM


async def test_20_slow_resets_of_most_streams() -> None:
    bench = await opened(forever)
    code = None
    for index in range(200):
        code = await flood(
            bench,
            lambda _, i=index: [head(2 * i + 1, "END_STREAM"), RstStreamFrame(2 * i + 1)],  # type: ignore[misc]
            1,
        )
        if index % 50 == 0:
            bench.time.advance(11)
    assert code == CALM


async def test_resets_after_the_response_head_are_how_clients_leave() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, body=ChunkBody(b"x", gate=asyncio.Semaphore(0)))

    bench = await opened(handler)
    for index in range(250):
        bench.peer.send(head(2 * index + 1, "END_STREAM"))
        await turns(4)
        bench.peer.send(RstStreamFrame(2 * index + 1, error_code=8))
        await turns(4)
        if index % 50 == 0:
            bench.time.advance(11)
    assert not bench.transport.is_closed


async def test_21_window_update_of_zero() -> None:
    bench = await opened(forever)
    bench.peer.push(head(1).serialize() + b"\0\0\x04\x08\0\0\0\0\x01\0\0\0\0")
    assert goaway_of(bench) == ErrorCodes.PROTOCOL_ERROR
    assert bench.transport.is_closed


CONTINUATIONS: dict[str, tuple[list[Frame], int]] = {
    "22-endless": (
        [HeadersFrame(1, BLOCK)] + [ContinuationFrame(1, b"\x00\x01a\x01b")] * 17,
        CALM,
    ),
    "22-empty": ([HeadersFrame(1, b"")] + [ContinuationFrame(1, b"")] * 10, CALM),
    "22-too-many-octets": (
        [HeadersFrame(1, BLOCK)] + [ContinuationFrame(1, b"\x00\x01a\x7f\x80\x7f" * 2700)] * 5,
        CALM,
    ),
    "22-other-frame-between": (
        [HeadersFrame(1, BLOCK), PingFrame(0, opaque_data=b"12345678")],
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "22-other-stream": (
        [HeadersFrame(1, BLOCK), ContinuationFrame(3, b"")],
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "22-naked": ([ContinuationFrame(1, b"", flags=["END_HEADERS"])], ErrorCodes.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("frames", "code"), CONTINUATIONS.values(), ids=CONTINUATIONS.keys())
async def test_22_continuation(frames: list[Frame], code: int) -> None:
    bench = await opened()
    bench.peer.send(*frames)
    assert goaway_of(bench) == code
    assert bench.transport.is_closed


async def test_22_block_that_never_ends_is_cut_in_time_28() -> None:
    bench = await opened()
    bench.peer.send(HeadersFrame(1, BLOCK))
    bench.time.advance(9)
    assert not bench.transport.is_closed
    bench.time.advance(2)
    assert goaway_of(bench) == CALM


async def test_28_slow_octets_of_one_frame_are_cut_in_time() -> None:
    bench = await opened()
    data = head(1, "END_STREAM").serialize()
    for octet in data[:20]:
        bench.server.data_received(bytes((octet,)))
        bench.time.advance(1)
    assert bench.transport.is_closed


async def test_31_nothing_is_said() -> None:
    bench = Bench(hello)
    bench.time.advance(9)
    assert not bench.transport.is_closed
    bench.time.advance(2)
    assert goaway_of(bench) == ErrorCodes.SETTINGS_TIMEOUT


async def test_23_hpack_bomb_of_indexed_references() -> None:
    bench = await opened()
    bomb = BLOCK + Encoder().encode([(b"x", b"y" * 4000)], huffman=False) + b"\xbe" * 4096
    bench.peer.send(head(1, "END_STREAM", data=bomb))
    assert goaway_of(bench) == CALM


async def test_23_list_somewhat_too_large_is_answered() -> None:
    bench = await opened()
    fields = [*GET, *[(b"x", b"y" * 4000)] * 9]
    bench.peer.h2.send_headers(1, fields, end_stream=True)
    bench.peer.h2.send_headers(3, GET, end_stream=True)
    await bench.peer.pump()
    assert bench.head(1)[b":status"] == b"431"
    # The compression state survived.
    assert bench.head(3)[b":status"] == b"200"


async def test_23_huge_integer_in_hpack() -> None:
    bench = await opened()
    bench.peer.send(head(1, data=b"\xff" + b"\xff" * 30))
    assert goaway_of(bench) == ErrorCodes.COMPRESSION_ERROR


async def test_24_unread_responses_are_bounded_and_cut() -> None:
    bench = await opened(hello, HttpSettings(h2_pings_per_10s=10**6))
    bench.transport.is_stuck = True
    for _ in range(100_000):
        if bench.transport.is_closed:
            break
        bench.peer.send(*[PingFrame(0, opaque_data=b"12345678")] * 500)
    assert bench.transport.was_aborted
    assert len(bench.transport.written) < 1200 * 1024


async def test_25_window_zero_stall_is_bounded_and_cut() -> None:
    bodies: list[ChunkBody] = []

    async def handler(request: Request) -> Response:
        bodies.append(ChunkBody(*[b"x" * 16_384] * 64))
        return Response(200, body=bodies[-1])

    bench = await opened(handler)
    bench.peer.send(SettingsFrame(0, settings={4: 0}))
    for index in range(1000):
        bench.peer.send(head(2 * index + 1, "END_STREAM"))
        await turns(3)
        if bench.transport.is_closed:
            break
    # The 101st to the 201st were refused; then it was too many.
    assert len(bodies) == 100
    assert sum(body.taken for body in bodies) <= 200
    await bench.server.wait_closed()
    assert all(body.is_closed for body in bodies)


async def test_25_stalled_stream_is_reset_and_the_connection_lives() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, body=FixedBody(b"x" * 100_000))

    bench = await opened(handler)
    await bench.get()
    bench.time.advance(59)
    await bench.peer.pump()
    assert not bench.peer.of(StreamReset)
    bench.time.advance(3)
    await bench.peer.pump()
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.CANCEL
    assert not bench.transport.is_closed


async def test_26_the_101st_stream_is_refused_alone() -> None:
    bench = await opened(forever)
    for stream_id in range(1, 203, 2):
        bench.peer.send(head(stream_id, "END_STREAM"))
    await turns()
    frames = frames_of(bench.transport.take())
    assert [(frame.stream_id, getattr(frame, "error_code", None)) for frame in frames] == [
        (201, ErrorCodes.REFUSED_STREAM)
    ]
    assert not bench.transport.is_closed
    # A stream that is reset gives its place back only when its handler has ended.
    bench.peer.send(RstStreamFrame(1, error_code=8), head(203, "END_STREAM"))
    assert len(frames_of(bench.transport.take())) == 1
    await turns()
    bench.peer.send(head(205, "END_STREAM"))
    await turns()
    assert frames_of(bench.transport.take()) == []


async def test_26_refusals_are_counted() -> None:
    bench = await opened(forever)
    code = await flood(bench, lambda i: [head(2 * i + 1, "END_STREAM")], 250)
    assert code == CALM


async def test_29_slow_body_is_cut() -> None:
    bench = await opened(echo)
    await bench.get(fields=POST, end=False)
    for _ in range(5):
        bench.time.advance(30)
        bench.peer.send(DataFrame(1, b"x"))
        await turns()
    assert not bench.peer.of(StreamReset)
    bench.time.advance(62)
    await bench.peer.pump()
    assert bench.peer.of(StreamReset, 1)


PROTOCOL_ERRORS: dict[str, tuple[list[Frame], int]] = {
    "5.1-data-on-idle": ([DataFrame(1, b"x")], ErrorCodes.PROTOCOL_ERROR),
    "5.1-rst-on-idle": ([RstStreamFrame(1)], ErrorCodes.PROTOCOL_ERROR),
    "5.1-window-update-on-idle": (
        [WindowUpdateFrame(1, window_increment=1)],
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "5.1.1-even-stream": ([head(2, "END_STREAM")], ErrorCodes.PROTOCOL_ERROR),
    "5.1.1-lower-stream": (
        [head(5, "END_STREAM"), head(3, "END_STREAM")],
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "6.5.2-push-value": ([SettingsFrame(0, settings={2: 2})], ErrorCodes.PROTOCOL_ERROR),
    "6.5.2-window-value": ([SettingsFrame(0, settings={4: 2**31})], ErrorCodes.FLOW_CONTROL_ERROR),
    "6.5.2-frame-size": ([SettingsFrame(0, settings={5: 100})], ErrorCodes.PROTOCOL_ERROR),
    "6.6-push-from-client": (
        [PushPromiseFrame(1, 2, BLOCK, flags=["END_HEADERS"])],
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "6.9.1-connection-overflow": (
        [WindowUpdateFrame(0, window_increment=2**31 - 1)],
        ErrorCodes.FLOW_CONTROL_ERROR,
    ),
    "4.2-frame-too-large": ([DataFrame(1, b"x" * 16_385)], ErrorCodes.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize(("frames", "code"), PROTOCOL_ERRORS.values(), ids=PROTOCOL_ERRORS.keys())
async def test_protocol_errors_of_rfc_9113(frames: list[Frame], code: int) -> None:
    bench = await opened()
    bench.peer.send(*frames)
    assert goaway_of(bench) == code
    assert bench.transport.is_closed


RAW: dict[str, tuple[bytes, int]] = {
    "6.7-ping-of-7": (b"\0\0\x07\x06\0\0\0\0\0" + b"x" * 7, ErrorCodes.FRAME_SIZE_ERROR),
    "6.7-ping-on-stream": (b"\0\0\x08\x06\0\0\0\0\x01" + b"x" * 8, ErrorCodes.PROTOCOL_ERROR),
    "6.5-settings-of-5": (b"\0\0\x05\x04\0\0\0\0\0" + b"x" * 5, ErrorCodes.FRAME_SIZE_ERROR),
    "6.5-settings-on-stream": (b"\0\0\0\x04\0\0\0\0\x01", ErrorCodes.PROTOCOL_ERROR),
    "6.8-goaway-on-stream": (b"\0\0\x08\x07\0\0\0\0\x01" + b"\0" * 8, ErrorCodes.PROTOCOL_ERROR),
    "6.8-goaway-of-4": (b"\0\0\x04\x07\0\0\0\0\0" + b"\0" * 4, ErrorCodes.FRAME_SIZE_ERROR),
    "6.1-data-on-0": (b"\0\0\x01\x00\0\0\0\0\0x", ErrorCodes.PROTOCOL_ERROR),
    "6.2-headers-on-0": (b"\0\0\x01\x01\x05\0\0\0\0\x82", ErrorCodes.PROTOCOL_ERROR),
    "6.1-padding-too-long": (
        head(1).serialize() + b"\0\0\x02\x00\x08\0\0\0\x01\x05x",
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "4.2-declared-16-MiB": (b"\xff\xff\xff\x00\0\0\0\0\x01", ErrorCodes.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize(("data", "code"), RAW.values(), ids=RAW.keys())
async def test_raw_frames_of_rfc_9113(data: bytes, code: int) -> None:
    bench = await opened()
    bench.peer.push(data)
    assert goaway_of(bench) == code
    assert bench.transport.is_closed


async def test_unknown_frames_and_settings_are_ignored() -> None:
    bench = await opened()
    bench.peer.push(b"\0\0\x01\xbe\0\0\0\0\x01x" + SettingsFrame(0, settings={99: 1}).serialize())
    await bench.get()
    assert bench.peer.of(ResponseReceived, 1)
