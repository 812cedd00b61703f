"""Both sides of a connection, octets in and events out."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.errors import TunnelUnprocessedError, WireError
from hbone.wire.connect import ConnectAnswer, ConnectRequest, MalformedError
from hbone.wire.connection import Connection
from hbone.wire.events import (
    AnswerReceived,
    ConnectReceived,
    ConnectRejected,
    DataReceived,
    PeerDraining,
    StreamEnded,
    StreamReset,
    WindowOpened,
)
from hbone.wire.limits import Limits
from hbone.wire.sender import Drain
from tests.hbone.wire.pair import PSEUDO, TARGET, Pair, data_of, frame, headers, server

SMALL = Limits(stream_window_bytes=1000, connection_window_bytes=70_000, unread_bytes=0)


def settings_of(data: bytes) -> dict[int, int]:
    assert data[3] == 4
    size = int.from_bytes(data[:3])
    pairs = [data[9 + at : 15 + at] for at in range(0, size, 6)]
    return {int.from_bytes(pair[:2]): int.from_bytes(pair[2:]) for pair in pairs}


def test_settings_are_those_of_the_mesh() -> None:
    client = Connection(Limits(), is_client=True, now=0.0)
    client.start()
    opening = client.take()
    assert opening.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    mib = 1024 * 1024
    assert settings_of(opening[24:]) == {2: 0, 4: 4 * mib, 5: mib, 6: 16384}
    assert opening.endswith(b"\0\0\4\x08\0\0\0\0\0" + (16 * mib - 65_535).to_bytes(4))
    peer = Connection(Limits(), is_client=False, now=0.0)
    peer.start()
    assert settings_of(peer.take()) == {3: 200, 4: 4 * mib, 5: mib, 6: 65536}


def test_a_tunnel_and_both_ends() -> None:
    pair = Pair()
    stream_id = pair.client.open(TARGET, [(b"baggage", b"a=b")])
    _, heard = pair.turn()
    request = ConnectRequest(TARGET, ((b"baggage", b"a=b"),))
    assert heard == [ConnectReceived(stream_id, request)]
    pair.server.answer(stream_id, 200, [(b"baggage", b"c=d")], end=False)
    heard, _ = pair.turn()
    assert heard == [AnswerReceived(stream_id, ConnectAnswer(200, ((b"baggage", b"c=d"),)))]
    pair.client.send(stream_id, b"there")
    pair.server.send(stream_id, b"back", end=True)
    back, there = pair.turn()
    assert there == [DataReceived(stream_id, b"there")]
    assert back == [DataReceived(stream_id, b"back"), StreamEnded(stream_id)]
    # Half closed: the other direction goes on.
    assert pair.server.send_window(stream_id) == 0 or pair.server.stream_count == 1
    pair.client.send(stream_id, b"more", end=True)
    assert pair.turn()[1] == [DataReceived(stream_id, b"more"), StreamEnded(stream_id)]
    assert (pair.client.stream_count, pair.server.stream_count) == (0, 0)
    assert pair.client.send_window(stream_id) == -1


def test_a_refusal_ends_the_stream() -> None:
    pair = Pair()
    stream_id = pair.client.open(TARGET)
    pair.turn()
    pair.server.answer(stream_id, 401, end=True)
    heard, _ = pair.turn()
    assert heard[:2] == [AnswerReceived(stream_id, ConnectAnswer(401, ())), StreamEnded(stream_id)]
    assert heard[2:] == [StreamReset(stream_id, ErrorCodes.NO_ERROR)]
    assert (pair.client.stream_count, pair.server.stream_count) == (0, 0)
    pair.server.answer(stream_id, 200, end=False)  # too late, harmless
    assert pair.turn() == ([], [])


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (
            [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"a:1"),
                (b":path", b"/"),
            ],
            400,
        ),
        ([(b":method", b"CONNECT"), (b":authority", b"10.0.0.1")], 400),
        ([*PSEUDO, (b"x", b"y" * 70_000)], 431),
        ([*PSEUDO, (b"X", b"y")], 0),
        ([*PSEUDO, (b"x", b"y\n")], 0),
    ],
)
def test_a_bad_request_costs_its_stream_alone(
    fields: list[tuple[bytes, bytes]], status: int
) -> None:
    connection = server()
    (event,) = connection.receive(headers(1, fields), 0.0)
    assert isinstance(event, ConnectRejected)
    assert event.status == status
    assert connection.stream_count == 0
    (event,) = connection.receive(headers(3), 0.0)
    assert isinstance(event, ConnectReceived)


def test_the_list_of_fields_has_an_end() -> None:
    connection = server()
    with pytest.raises(WireError) as caught:
        connection.receive(headers(1, [*PSEUDO, *[(b"x" * 100, b"")] * 1100]), 0.0)
    assert caught.value.code == ErrorCodes.ENHANCE_YOUR_CALM


def test_one_stream_too_many_is_refused_alone() -> None:
    pair = Pair(Limits(max_streams=2))
    first = [pair.client.open(TARGET) for _ in range(2)]
    pair.turn()
    assert pair.client.room == 0
    with pytest.raises(TunnelUnprocessedError):
        pair.client.open(TARGET)
    connection = server(Limits(max_streams=1))
    connection.receive(headers(1), 0.0)
    assert connection.receive(headers(3), 0.0) == []
    assert connection.take() == frame(3, 0, 3, int(ErrorCodes.REFUSED_STREAM).to_bytes(4))
    pair.client.reset(first[0], ErrorCodes.CANCEL)
    assert pair.client.room == 1


def test_the_smaller_of_both_limits_counts() -> None:
    assert Pair().client.room == 100
    assert Pair(Limits(max_streams=7)).client.room == 7
    assert Pair(client_limits=Limits(client_streams=3)).client.room == 3


def test_fields_of_ours_are_checked() -> None:
    pair = Pair()
    with pytest.raises(MalformedError):
        pair.client.open(TARGET, [(b"a", b"b\r\nc: d")])
    assert pair.client.stream_count == 0


def test_data_waits_for_its_reader() -> None:
    pair = Pair(SMALL)
    stream_id = pair.tunnel()
    assert pair.client.send_window(stream_id) == 1000
    pair.client.send(stream_id, bytes(1000))
    assert data_of(pair.turn()[1]) == bytes(1000)
    assert pair.client.send_window(stream_id) == 0
    pair.server.consumed(stream_id, 499)
    assert pair.turn() == ([], [])
    pair.server.consumed(stream_id, 1)
    assert pair.turn()[0] == [WindowOpened(stream_id)]
    assert pair.client.send_window(stream_id) == 500


def fill(pair: Pair, stream_id: int) -> int:
    total = 0
    while room := pair.client.send_window(stream_id):
        pair.client.send(stream_id, bytes(room))
        total += room
        pair.turn()
    return total


def test_a_stalled_tunnel_does_not_stop_the_others() -> None:
    limits = Limits(stream_window_bytes=40_000, connection_window_bytes=80_000, unread_bytes=0)
    pair = Pair(limits)
    stalled, lively = pair.tunnel(), pair.tunnel()
    assert fill(pair, stalled) == 40_000
    for _ in range(20):
        pair.client.send(lively, bytes(20_000))
        pair.turn()
        pair.server.consumed(lively, 20_000)
        pair.turn()
    assert pair.client.send_window(stalled) == 0


def test_unread_octets_of_all_tunnels_are_bounded() -> None:
    limits = Limits(stream_window_bytes=40_000, connection_window_bytes=80_000, unread_bytes=50_000)
    pair = Pair(limits)
    streams = [pair.tunnel() for _ in range(10)]
    held = [fill(pair, stream_id) for stream_id in streams]
    assert sum(held) <= 130_000
    assert sum(held) >= 90_000
    # And all of it comes back when it is read, also of a tunnel that is gone.
    pair.server.reset(streams[0], ErrorCodes.CANCEL)
    for stream_id, size in zip(streams, held, strict=True):
        pair.server.consumed(stream_id, size)
    pair.turn()
    assert pair.client.connection_window >= 40_000
    assert fill(pair, streams[5]) > 0


def test_more_than_the_window_costs_the_stream() -> None:
    connection = server(SMALL)
    connection.receive(headers(1), 0.0)
    connection.answer(1, 200, end=False)
    connection.take()
    assert connection.receive(frame(0, 0, 1, bytes(1001)), 0.0) == [
        StreamReset(1, ErrorCodes.FLOW_CONTROL_ERROR)
    ]
    assert frame(3, 0, 1, b"\0\0\0\3") in connection.take()


def test_more_than_the_connections_window_costs_the_connection() -> None:
    limits = Limits(stream_window_bytes=65_535, connection_window_bytes=65_535, unread_bytes=0)
    connection = server(limits)
    connection.receive(headers(1) + headers(3), 0.0)
    connection.receive(frame(0, 0, 1, bytes(60_000)), 0.0)
    with pytest.raises(WireError) as caught:
        connection.receive(frame(0, 0, 3, bytes(6_000)), 0.0)
    assert caught.value.code == ErrorCodes.FLOW_CONTROL_ERROR


def test_data_of_a_stream_that_is_gone_is_paid_back() -> None:
    connection = server(SMALL)
    connection.receive(headers(1), 0.0)
    connection.reset(1, ErrorCodes.CANCEL)
    connection.take()
    for _ in range(100):
        assert connection.receive(frame(0, 0, 1, bytes(1000)), 0.0) == []
    assert b"\0\0\4\x08\0\0\0\0\0" in connection.take()


def test_data_after_the_end_and_before_the_answer() -> None:
    connection = server()
    connection.receive(headers(1, flags=5), 0.0)
    assert connection.receive(frame(0, 0, 1, b"x"), 0.0) == [
        StreamReset(1, ErrorCodes.STREAM_CLOSED)
    ]
    pair = Pair()
    stream_id = pair.client.open(TARGET)
    assert pair.client.receive(frame(0, 0, stream_id, b"x"), 0.0) == [
        StreamReset(stream_id, ErrorCodes.PROTOCOL_ERROR)
    ]
    with pytest.raises(WireError):
        server().receive(frame(0, 0, 1, b"x"), 0.0)
    with pytest.raises(WireError):
        server().receive(frame(0, 0, 0, b"x"), 0.0)


def test_padding_counts_and_is_dropped() -> None:
    connection = server(SMALL)
    connection.receive(headers(1), 0.0)
    padded = frame(0, 8 | 1, 1, b"\x05abc" + bytes(5))
    for piece in (1, 3, 100):
        connection = server(SMALL)
        connection.receive(headers(1), 0.0)
        events = []
        for start in range(0, len(padded), piece):
            events += connection.receive(padded[start : start + piece], 0.0)
        assert data_of(events) == b"abc"
        assert events[-1] == StreamEnded(1)
    with pytest.raises(WireError):
        connection.receive(headers(3) + frame(0, 8, 3, b"\x05abc"), 0.0)


def test_an_informational_answer_is_passed_over() -> None:
    pair = Pair()
    stream_id = pair.client.open(TARGET)
    pair.client.take()
    assert pair.client.receive(headers(stream_id, [(b":status", b"103")]), 0.0) == []
    assert pair.client.receive(headers(stream_id, [(b":status", b"200")]), 0.0) == [
        AnswerReceived(stream_id, ConnectAnswer(200, ()))
    ]
    assert pair.client.receive(headers(stream_id, [(b"grpc-status", b"0")], 5), 0.0) == [
        StreamEnded(stream_id)
    ]


@pytest.mark.parametrize("fields", [[], [(b":status", b"2x0")], [(b"x", b"y")]])
def test_a_malformed_answer_costs_its_stream(fields: list[tuple[bytes, bytes]]) -> None:
    pair = Pair()
    stream_id = pair.client.open(TARGET)
    assert pair.client.receive(headers(stream_id, fields), 0.0) == [
        StreamReset(stream_id, ErrorCodes.PROTOCOL_ERROR)
    ]


# --- ending -------------------------------------------------------------------------------


def test_a_graceful_drain_takes_what_was_on_its_way() -> None:
    pair = Pair()
    live = pair.tunnel()
    late = pair.client.open(TARGET)
    pair.server.drain()
    assert pair.server.drain_state is Drain.DRAINING
    to_client = pair.server.take()
    assert to_client.startswith(b"\0\0\x08\7\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0")
    assert [type(event) for event in pair.server.receive(pair.client.take(), 0.0)] == [
        ConnectReceived
    ]
    assert pair.client.receive(to_client, 0.0) == [PeerDraining(0)]
    pair.turn()
    assert pair.server.drain_state is Drain.LAST
    assert pair.client.room == 0
    for stream_id in (live, late):
        pair.client.send(stream_id, b"x")
    pair.server.answer(late, 200, end=False)
    assert data_of(pair.turn()[1]) == b"xx"


def test_streams_above_the_last_were_never_looked_at() -> None:
    pair = Pair()
    low, high = pair.client.open(TARGET), pair.client.open(TARGET)
    heard = pair.client.receive(frame(7, 0, 0, low.to_bytes(4) + bytes(4)), 0.0)
    assert heard == [PeerDraining(0), StreamReset(high, ErrorCodes.REFUSED_STREAM, True)]
    assert pair.client.stream_count == 1


def test_nothing_new_after_the_last() -> None:
    connection = server()
    connection.drain()
    connection.finish()
    connection.take()
    assert connection.receive(headers(1), 0.0) == []
    assert connection.take() == frame(3, 0, 1, int(ErrorCodes.REFUSED_STREAM).to_bytes(4))


def test_a_refused_stream_may_be_tried_again() -> None:
    pair = Pair()
    stream_id = pair.client.open(TARGET)
    pair.client.take()
    refused = frame(3, 0, stream_id, int(ErrorCodes.REFUSED_STREAM).to_bytes(4))
    assert pair.client.receive(refused, 0.0) == [StreamReset(stream_id, 7, True)]


def test_a_client_that_drains() -> None:
    pair = Pair()
    pair.tunnel()
    pair.client.drain()
    assert pair.client.room == 0
    assert pair.turn()[1] == [PeerDraining(0)]
    assert pair.server.drain_state is Drain.OPEN


def test_who_is_silent_is_asked_and_then_given_up() -> None:
    pair = Pair()
    assert pair.client.tick(9.9) == 10.0
    assert pair.client.take() == b""
    assert pair.client.tick(10.0) == 30.0
    ping = pair.client.take()
    assert ping[3] == 6
    pair.client.receive(frame(6, 1, 0, ping[9:]), 12.0)
    assert pair.client.tick(12.0) == 22.0
    pair.client.tick(22.0)
    with pytest.raises(WireError) as caught:
        pair.client.tick(42.0)
    assert caught.value.code == ErrorCodes.NO_ERROR
    assert pair.client.take().endswith(frame(7, 0, 0, bytes(8)))
    quiet = Connection(Limits(ping_interval_seconds=0), is_client=True, now=0.0)
    assert quiet.tick(1e9) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stream_window_bytes", 0),
        ("stream_window_bytes", 2**31),
        ("connection_window_bytes", 1000),
        ("connection_window_bytes", 1024 * 1024),
        ("frame_bytes", 1024),
        ("max_streams", 0),
        ("unread_bytes", -1),
    ],
)
def test_limits_http2_cannot_express(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name if value != 1024 * 1024 else "below"):
        Limits(**{name: value})


# --- any split ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5000), max_size=8),
    st.integers(1, 4000),
    st.integers(1, 3000),
)
def test_the_split_does_not_matter(sizes: list[int], piece: int, frame_bytes: int) -> None:
    pair = Pair(client_limits=Limits(sent_frame_bytes=frame_bytes))
    stream_id = pair.client.open(TARGET, [(b"baggage", b"k=v" * 100)])
    heard = pair.turn(piece)[1]
    assert [type(event) for event in heard] == [ConnectReceived]
    pair.server.answer(stream_id, 200, end=False)
    pair.turn(piece)
    sent = b""
    for number, size in enumerate(sizes):
        data = bytes((number,)) * size
        sent += data
        while data:
            room = pair.client.send_window(stream_id)
            pair.client.send(stream_id, data[:room])
            data = data[room:]
    pair.client.send(stream_id, b"", end=True)
    heard = pair.turn(piece)[1]
    assert data_of(heard) == sent
    assert heard[-1] == StreamEnded(stream_id)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans(), st.integers(1, 50))
def test_garbage_ends_in_an_error_or_in_nothing(data: bytes, is_client: bool, piece: int) -> None:
    pair = Pair()
    target = pair.client if is_client else pair.server
    try:
        for start in range(0, len(data), piece):
            target.receive(data[start : start + piece], 0.0)
    except WireError:
        assert target.take()[-17:][3] == 7


KINDS = st.tuples(
    st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=20)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(KINDS, max_size=12))
def test_any_frames(frames: list[tuple[int, int, int, bytes]]) -> None:
    connection = server()
    connection.receive(headers(1) + headers(3, flags=5), 0.0)
    connection.answer(1, 200, end=False)
    try:
        for kind, flags, stream_id, payload in frames:
            for event in connection.receive(frame(kind, flags, stream_id, payload), 0.0):
                if isinstance(event, DataReceived):
                    connection.consumed(event.stream_id, len(event.data))
    except WireError:
        pass
    connection.take()
