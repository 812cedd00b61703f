"""H2Server: windows, writes and senders that wait.

Source: RFC 9113 sections 5.2 and 6.9.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest
from h2.errors import ErrorCodes
from h2.events import ResponseReceived, StreamEnded
from h2.settings import SettingCodes
from hyperframe.frame import (
    DataFrame,
    Frame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from sidecar.http.h2_hpack import encode_fields
from sidecar.http.message import FixedBody, Request, Response
from tests.support.h2_server import GET, POST, Bench, ChunkBody, echo, hello
from tests.support.stream import frames_of, turns

BLOCK = encode_fields(GET)


async def test_one_write_for_what_one_turn_makes() -> None:
    bench = Bench(hello)
    await bench.peer.pump()
    before = bench.transport.writes
    for stream_id in range(1, 21, 2):
        bench.peer.h2.send_headers(stream_id, GET, end_stream=True)
    await bench.peer.pump(1)
    assert bench.transport.writes - before == 1
    assert len(bench.peer.of(ResponseReceived)) == 10


async def test_response_body_waits_for_the_window() -> None:
    body = ChunkBody(*[b"x" * 30_000] * 10)

    async def handler(request: Request) -> Response:
        return Response(200, body=body)

    bench = Bench(handler)
    await bench.get()
    assert len(bench.peer.body(1)) == 65_535
    # One chunk is under way and the next was looked at; no more is taken from the source.
    assert body.taken == 4
    bench.peer.h2.increment_flow_control_window(10**6)
    bench.peer.h2.increment_flow_control_window(10**6, 1)
    await bench.peer.pump(8)
    assert len(bench.peer.body(1)) == 300_000
    assert body.is_closed


async def test_response_body_waits_for_a_client_that_does_not_read_30() -> None:
    body = ChunkBody(*[b"x" * 16_384] * 100)

    async def handler(request: Request) -> Response:
        return Response(200, body=body)

    bench = Bench(handler)
    h2 = bench.peer.h2
    await bench.peer.pump()
    h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
    h2.increment_flow_control_window(2**30)
    await bench.peer.pump()
    bench.transport.is_stuck = True
    h2.send_headers(1, GET, end_stream=True)
    bench.peer.push()
    await turns(50)
    assert len(bench.transport.written) < 256 * 1024
    assert body.taken < 12
    bench.transport.release()
    await bench.peer.pump(10)
    assert len(bench.peer.body(1)) == 1_638_400


async def test_request_body_window_is_returned_as_it_is_read() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await echo(request)

    bench = Bench(handler)
    h2 = bench.peer.h2
    await bench.peer.pump()
    h2.send_headers(1, POST)
    for _ in range(4):
        h2.send_data(1, b"x" * 16_000)
    await bench.peer.pump()
    assert h2.local_flow_control_window(1) == 65_536 - 64_000
    gate.set()
    await bench.peer.pump()
    assert h2.local_flow_control_window(1) == 65_536
    h2.send_data(1, b"y" * 16_000, end_stream=True)
    await bench.peer.pump()
    assert bench.peer.body(1) == b"x" * 64_000 + b"y" * 1_535


async def test_stalled_streams_leave_the_connection_window_to_others() -> None:
    async def handler(request: Request) -> Response:
        if request.target == "/stuck":
            await asyncio.Event().wait()
        return await echo(request)

    bench = Bench(handler)
    h2 = bench.peer.h2
    await bench.peer.pump()
    for stream_id in range(1, 41, 2):
        h2.send_headers(stream_id, [*POST[:3], (b":path", b"/stuck")])
        for _ in range(4):
            h2.send_data(stream_id, b"x" * 16_384)
        await bench.peer.pump()
    h2.send_headers(41, POST)
    h2.send_data(41, b"through", end_stream=True)
    await bench.peer.pump()
    assert bench.peer.body(41) == b"through"
    bench.server.abort()
    await bench.server.wait_closed()


def data_frames(bench: Bench) -> list[tuple[int, int]]:
    """(stream, octets) of each DATA frame written since the last look."""
    frames = frames_of(bench.transport.take())
    return [(one.stream_id, len(one.data)) for one in frames if isinstance(one, DataFrame)]


async def hundred_waiting() -> Bench:
    """Streams 1, 3 … 199, whose windows are wide open and whose connection's is empty."""

    async def handler(request: Request) -> Response:
        return Response(200, body=FixedBody(b"x" * 65_535))

    bench = Bench(handler)
    await bench.peer.pump()
    for stream_id in range(1, 201, 2):
        bench.peer.send(HeadersFrame(stream_id, BLOCK, flags=["END_HEADERS", "END_STREAM"]))
        await turns(4)
    assert sum(size for _, size in data_frames(bench)) == 65_535
    return bench


def woken(bench: Bench) -> list[int]:
    """The streams whose senders will run in the next turn."""
    waiting = bench.server._waiting.values()
    return [one.id for one in waiting if one.waiter is not None and one.waiter.done()]


async def test_25_window_of_the_connection_wakes_no_more_than_it_has_room_for() -> None:
    bench = await hundred_waiting()
    bench.peer.send(WindowUpdateFrame(0, window_increment=1))
    assert len(woken(bench)) == 1
    await turns()
    (first,) = data_frames(bench)
    assert first[1] == 1
    # The next octet is the next stream's: who was served goes to the end of the queue.
    bench.peer.send(WindowUpdateFrame(0, window_increment=1))
    await turns()
    (second,) = data_frames(bench)
    assert second[0] == first[0] + 2
    bench.peer.send(WindowUpdateFrame(0, window_increment=40_000))
    assert len(woken(bench)) <= 3
    await turns()
    assert sum(size for _, size in data_frames(bench)) == 40_000


async def test_25_a_window_that_is_still_shut_wakes_nobody() -> None:
    bench = await hundred_waiting()
    bench.peer.send(*[WindowUpdateFrame(number, window_increment=1) for number in range(3, 201, 2)])
    assert woken(bench) == []


async def test_25_room_of_a_stream_that_is_reset_goes_to_the_next() -> None:
    bench = await hundred_waiting()
    bench.peer.send(WindowUpdateFrame(0, window_increment=1))
    (chosen,) = woken(bench)
    bench.peer.send(RstStreamFrame(chosen, error_code=8))
    await turns()
    assert data_frames(bench) == [(chosen + 2, 1)]


async def test_25_all_are_served_whatever_the_window_grants() -> None:
    bench = await hundred_waiting()
    got: dict[int, int] = {}
    for grant in itertools.cycle((1, 70_000, 16_384, 333_333)):
        bench.peer.send(WindowUpdateFrame(0, window_increment=grant))
        await turns()
        for stream_id, size in data_frames(bench):
            got[stream_id] = got.get(stream_id, 0) + size
        if not bench.server._waiting:
            break
    assert len(got) == 99  # the first had taken the window the connection began with
    assert sum(got.values()) == 99 * 65_535


@pytest.mark.parametrize("where", ["stream", "connection"])
async def test_25_grants_of_one_octet_are_a_stall(where: str) -> None:
    body = ChunkBody(*[b"x" * 16_384] * 64)

    async def handler(request: Request) -> Response:
        return Response(200, body=body)

    bench = Bench(handler)
    await bench.peer.pump()
    window = 0 if where == "stream" else 2**20
    bench.peer.send(
        SettingsFrame(0, settings={SettingCodes.INITIAL_WINDOW_SIZE: window}),
        HeadersFrame(1, BLOCK, flags=["END_HEADERS", "END_STREAM"]),
    )
    await turns()
    stream_id = 1 if where == "stream" else 0
    frames: list[Frame] = []
    seconds = 0
    while not (frames and isinstance(frames[-1], RstStreamFrame)):
        assert seconds < 65
        bench.time.advance(1)
        seconds += 1
        bench.peer.send(WindowUpdateFrame(stream_id, window_increment=1))
        await turns()
        frames = frames_of(bench.transport.take())
    assert seconds >= 60
    (frame,) = frames
    assert isinstance(frame, RstStreamFrame)
    assert (frame.stream_id, frame.error_code) == (1, ErrorCodes.CANCEL)
    assert body.is_closed
    assert not bench.transport.is_closed


async def test_25_grants_that_add_up_are_no_stall() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, body=FixedBody(b"x" * 16_384))

    bench = Bench(handler)
    await bench.peer.pump()
    bench.peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    await bench.get()
    for _ in range(16):
        bench.time.advance(50)
        bench.peer.h2.increment_flow_control_window(1024, 1)
        await bench.peer.pump()
    assert len(bench.peer.body(1)) == 16_384
    assert bench.peer.of(StreamEnded, 1)


async def test_25_a_slow_source_is_no_stall_of_the_reader() -> None:
    gate = asyncio.Semaphore(0)

    async def handler(request: Request) -> Response:
        return Response(200, body=ChunkBody(*[b"x" * 10] * 20, gate=gate))

    bench = Bench(handler)
    await bench.peer.pump()
    bench.peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 5})
    await bench.get()
    for _ in range(20):
        gate.release()
        await bench.peer.pump()
        bench.time.advance(50)
        bench.peer.h2.increment_flow_control_window(10, 1)
        await bench.peer.pump()
    gate.release()
    await bench.peer.pump()
    assert len(bench.peer.body(1)) == 200
    assert bench.peer.of(StreamEnded, 1)
