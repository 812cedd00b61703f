"""In-memory transports, time held still, and a hand-driven HTTP/2 peer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event
from hyperframe.frame import Frame


class ManualTime:
    """The two methods of a loop that a Sweeper uses, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.seconds

    def call_later(self, delay: float, callback: Callable[[], None]) -> ManualTime:
        self._due.append((self.seconds + delay, callback))
        return self

    def cancel(self) -> None:
        self._due.clear()

    def advance(self, seconds: float) -> None:
        end = self.seconds + seconds
        while self._due:
            when, callback = min(self._due, key=lambda item: item[0])
            if when > end:
                break
            self._due.remove((when, callback))
            self.seconds = max(self.seconds, when)
            callback()
        self.seconds = end


class FakeTransport(asyncio.Transport):
    """Keeps what is written. With `is_stuck` nothing leaves, as when the peer does not read."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__({"peername": ("192.0.2.7", 4711), "sockname": ("192.0.2.1", 80)})
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self.written = bytearray()
        self.writes = 0
        self.is_stuck = False
        self.is_closed = False
        self.was_aborted = False
        self._high = 64 * 1024
        self._is_paused = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self.is_stuck else 0

    def write(self, data: Any) -> None:
        assert not self.is_closed, "written after close"
        self.writes += 1
        self.written += data
        if self.is_stuck and len(self.written) > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def release(self) -> None:
        """The peer reads again."""
        self.is_stuck = False
        if self._is_paused:
            self._is_paused = False
            self._protocol.resume_writing()

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.was_aborted = True
        self.close()


async def turns(count: int = 20) -> None:
    """Let the loop run what is ready; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)


class Peer:
    """The far end of a FakeTransport: python-h2 with its checks off, so that it can misbehave."""

    def __init__(
        self, protocol: asyncio.Protocol, transport: FakeTransport, *, is_client: bool, cut: int = 0
    ) -> None:
        self.protocol = protocol
        self.transport = transport
        self.cut = cut
        self.events: list[Event] = []
        self.h2 = H2Connection(
            H2Configuration(
                client_side=is_client,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.initiate_connection()

    def push(self, data: bytes = b"") -> None:
        """Deliver octets, python-h2's and then `data`, cut as asked."""
        data = self.h2.data_to_send() + data
        if not self.cut:
            if data:
                self.protocol.data_received(data)
            return
        for start in range(0, len(data), self.cut):
            self.protocol.data_received(data[start : start + self.cut])

    def send(self, *frames: Frame) -> None:
        """Deliver hand-made frames in one piece."""
        self.push(b"".join(frame.serialize() for frame in frames))

    async def pump(self, rounds: int = 4) -> list[Event]:
        """Exchange octets until both sides are quiet; gives the new events."""
        seen = len(self.events)
        for _ in range(rounds):
            self.push()
            await turns()
            data = self.transport.take()
            if data:
                self.events.extend(self.h2.receive_data(data))
        return self.events[seen:]

    def of(self, kind: type, stream_id: int | None = None) -> list[Any]:
        """Events of one kind (and stream) so far."""
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and (stream_id is None or getattr(event, "stream_id", None) == stream_id)
        ]

    def body(self, stream_id: int) -> bytes:
        return b"".join(event.data for event in self.of(DataReceived, stream_id))


def frames_of(data: bytes) -> list[Frame]:
    """The frames in `data`, which holds whole ones."""
    frames = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        frames.append(frame)
        data = data[9 + length :]
    return frames


class Wire:
    """Two protocols back to back; octets pass at each turn of the loop, `cut` at a time."""

    def __init__(self, left: asyncio.Protocol, right: asyncio.Protocol, cut: int = 0) -> None:
        self._cut = cut
        self.ends = (_WireEnd(left, self), _WireEnd(right, self))
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]
        right.connection_made(self.ends[1])
        left.connection_made(self.ends[0])

    def cut(self, data: bytes) -> list[bytes]:
        size = self._cut or len(data)
        return [data[start : start + size] for start in range(0, len(data), size)]


class _WireEnd(FakeTransport):
    def __init__(self, protocol: asyncio.BaseProtocol, wire: Wire) -> None:
        super().__init__(protocol)
        self._wire = wire
        self.other: _WireEnd = self

    def write(self, data: Any) -> None:
        if self.is_closed:
            return
        self.writes += 1
        self._loop.call_soon(self.other.deliver, bytes(data))

    def deliver(self, data: bytes) -> None:
        for piece in self._wire.cut(data):
            if not self.is_closed:
                self._protocol.data_received(piece)

    def close(self) -> None:
        if not self.is_closed:
            super().close()
            self._loop.call_soon(self.other.close)
