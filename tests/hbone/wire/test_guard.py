"""Floods: each ends the connection with ENHANCE_YOUR_CALM, none before a good peer's share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from h2.errors import ErrorCodes

from hbone.errors import WireError
from hbone.wire.connection import Connection
from hbone.wire.frames import PREFACE
from hbone.wire.limits import Limits
from tests.hbone.wire.pair import SETTINGS, frame, headers, server

CALM = ErrorCodes.ENHANCE_YOUR_CALM


def run(
    connection: Connection, frames: Callable[[int], bytes], count: int, now: float = 1.0
) -> int:
    """How many were taken."""
    for number in range(count):
        try:
            connection.receive(frames(number), now)
        except WireError:
            goaway = connection.take()[-17:]
            assert (goaway[3], goaway[13:]) == (7, int(CALM).to_bytes(4))
            return number
        connection.take()
    return count


def rapid(number: int) -> bytes:
    stream_id = 2 * number + 1
    return headers(stream_id) + frame(3, 0, stream_id, b"\0\0\0\x08")


@pytest.mark.parametrize(
    ("frames", "allowed"),
    [
        (rapid, 200),
        (lambda n: headers(2 * n + 1, [(b":method", b"GET")]), 200),
        (lambda n: headers(2 * n + 1, [(b"X", b"y")]), 200),
        (lambda _: frame(6, 0, 0, bytes(8)), 100),
        (lambda _: SETTINGS, 99),
        (lambda _: frame(8, 0, 0, b"\0\0\0\1"), 1000),
        (lambda _: frame(2, 0, 1, b"\0\0\0\0\0"), 1000),
        (lambda _: frame(200, 0, 0, b"x"), 1000),
        (lambda _: frame(3, 0, 1, b"\0\0\0\x08"), 1010),
    ],
    ids=[
        "rapid reset",
        "bad",
        "malformed",
        "ping",
        "settings",
        "window",
        "priority",
        "unknown",
        "rst",
    ],
)
def test_floods(frames: Callable[[int], bytes], allowed: int) -> None:
    connection = server()
    if frames(0)[3] == 3:
        connection.receive(headers(1), 1.0)
    taken = run(connection, frames, 2000)
    assert allowed - 1 <= taken <= allowed + 11


def test_a_flood_that_takes_its_time() -> None:
    connection = server()
    for turn in range(5):
        assert run(connection, lambda _: frame(6, 0, 0, bytes(8)), 90, 10.0 * turn + 1) == 90


def test_more_streams_than_announced_again_and_again() -> None:
    connection = server(Limits(max_streams=1))
    connection.receive(headers(1), 1.0)
    assert run(connection, lambda n: headers(2 * n + 3), 1000) == 200


def test_tunnels_that_live_are_no_flood() -> None:
    connection = server()
    for number in range(3000):
        stream_id = 2 * number + 1
        connection.receive(headers(stream_id), 1.0)
        connection.answer(stream_id, 200, end=False)
        connection.receive(frame(3, 0, stream_id, b"\0\0\0\x08"), 1.0)
        connection.take()
    assert connection.stream_count == 0


def test_empty_frames() -> None:
    connection = server()
    connection.receive(headers(1), 1.0)
    assert run(connection, lambda _: frame(0, 0, 1), 1000) == 100
    connection = server()
    connection.receive(headers(1), 1.0)
    assert run(connection, lambda n: frame(0, 0, 1, b"x" if n % 50 == 0 else b""), 1000) == 1000


def test_continuations() -> None:
    connection = server()
    connection.receive(frame(1, 0, 1, headers(1)[9:]), 1.0)
    assert run(connection, lambda _: frame(9, 0, 1), 100) == 16
    connection = server(Limits(header_frame_bytes=1024))
    assert run(connection, lambda _: frame(1, 4, 1, bytes(1025)), 1) == 0
    connection = server(Limits(header_frame_bytes=1024))
    connection.receive(frame(1, 0, 1, bytes(1000)), 1.0)
    assert run(connection, lambda _: frame(9, 0, 1, bytes(25)), 1) == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, 0, 1, b"") + frame(0, 0, 1, b"x"), ErrorCodes.PROTOCOL_ERROR),
        (frame(1, 0, 1, b"") + frame(9, 4, 3, b"x"), ErrorCodes.PROTOCOL_ERROR),
        (frame(9, 4, 1, b"x"), ErrorCodes.PROTOCOL_ERROR),
        (frame(1, 4, 2, headers(1)[9:]), ErrorCodes.PROTOCOL_ERROR),
        (frame(3, 0, 1, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        (frame(5, 4, 1, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        (frame(6, 0, 0, bytes(7)), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(6, 0, 0, bytes(17_000)), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(7, 0, 0, bytes(7)), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(7, 0, 1, bytes(8)), ErrorCodes.PROTOCOL_ERROR),
        (frame(8, 0, 0, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        (b"\x10\0\1\0\0\0\0\0\1", ErrorCodes.FRAME_SIZE_ERROR),
        (frame(1, 4, 1, b"\xff\xff\xff\xff"), None),
    ],
)
def test_what_ends_a_connection(data: bytes, code: ErrorCodes | None) -> None:
    with pytest.raises(WireError) as caught:
        server().receive(data, 1.0)
    assert code is None or caught.value.code == code


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:10] + b"x", PREFACE + frame(6, 0, 0, bytes(8))]
)
def test_another_protocol(data: bytes) -> None:
    connection = Connection(Limits(), is_client=False, now=0.0)
    connection.start()
    with pytest.raises(WireError):
        connection.receive(data, 0.0)


def test_a_frame_of_one_mebibyte_is_given_out_as_it_comes() -> None:
    connection = server()
    connection.receive(headers(1), 1.0)
    events = connection.receive(b"\x10\0\0\0\0\0\0\0\1" + bytes(100), 1.0)
    assert len(events) == 1
    assert len(connection.receive(bytes(2**20 - 100) + frame(0, 1, 1), 1.0)) == 2


def test_frames_nobody_needs_are_dropped_unread() -> None:
    connection = server()
    assert connection.receive(b"\x10\0\0\xee\0\0\0\0\0" + bytes(2**20), 1.0) == []
    connection.receive(headers(1), 1.0)
    assert connection.stream_count == 1
