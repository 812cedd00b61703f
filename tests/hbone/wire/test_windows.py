"""Windows under any order of sending and reading: nothing is lost, nothing waits for ever."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.wire.events import DataReceived
from hbone.wire.limits import Limits
from tests.hbone.wire.pair import Pair

WAYS = ("up", "down")
SIZES = st.integers(1, 30_000)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["up", "down", "read up", "read down", "reset"]), st.integers(0, 3), SIZES
    ),
    max_size=40,
)


class Schedule:
    """Four tunnels, and on each side a reader that keeps what it heard until it is told to read."""

    def __init__(self, limits: Limits, piece: int) -> None:
        self._pair = Pair(limits)
        self._piece = piece
        self.streams = [self._pair.tunnel() for _ in range(4)]
        self.alive = set(self.streams)
        self._sender = {"up": self._pair.client, "down": self._pair.server}
        self._receiver = {"up": self._pair.server, "down": self._pair.client}
        ways = [(way, stream_id) for way in WAYS for stream_id in self.streams]
        self._unread = dict.fromkeys(ways, 0)
        self.sent = dict.fromkeys(ways, 0)
        self.heard = dict.fromkeys(ways, 0)

    def turn(self) -> None:
        down, up = self._pair.turn(self._piece)
        for way, events in (("down", down), ("up", up)):
            for event in events:
                if isinstance(event, DataReceived):
                    self._unread[way, event.stream_id] += len(event.data)
                    self.heard[way, event.stream_id] += len(event.data)

    def send(self, way: str, stream_id: int, size: int) -> None:
        sender = self._sender[way]
        while size and (room := sender.send_window(stream_id)) > 0:
            part = min(room, size)
            sender.send(stream_id, bytes(part))
            self.sent[way, stream_id] += part
            size -= part
            self.turn()

    def read(self, way: str, stream_id: int, size: int = 1_000_000) -> None:
        size = min(size, self._unread[way, stream_id])
        self._unread[way, stream_id] -= size
        if size:
            self._receiver[way].consumed(stream_id, size)
        self.turn()

    def step(self, what: str, stream_id: int, size: int) -> None:
        if what == "reset":
            self._pair.client.reset(stream_id, 8)
            self.alive.discard(stream_id)
            self.turn()
        elif what in WAYS:
            self.send(what, stream_id, size)
        else:
            self.read(what.removeprefix("read "), stream_id, size)

    def read_everything(self) -> None:
        for way in WAYS:
            for stream_id in self.streams:
                self.read(way, stream_id)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([0, 20_000, 10_000_000]), st.sampled_from([0, 7_000]))
def test_any_order(steps: list[tuple[str, int, int]], unread: int, piece: int) -> None:
    schedule = Schedule(
        Limits(stream_window_bytes=40_000, connection_window_bytes=70_000, unread_bytes=unread),
        piece,
    )
    for what, index, size in steps:
        schedule.step(what, schedule.streams[index], size)
    schedule.read_everything()
    lively = [(way, stream_id) for way in WAYS for stream_id in schedule.alive]
    for way, stream_id in lively:
        assert schedule.heard[way, stream_id] == schedule.sent[way, stream_id]
        before = schedule.heard[way, stream_id]
        for _ in range(20):
            schedule.send(way, stream_id, 10_000)
            schedule.read(way, stream_id)
        assert schedule.heard[way, stream_id] == before + 200_000, "a window did not come back"
