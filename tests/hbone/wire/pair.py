"""Two connections wired back to back, and a peer that writes frames by hand."""

from __future__ import annotations

from hpack import Encoder

from hbone.wire.authority import make_authority
from hbone.wire.connection import Connection
from hbone.wire.events import AnswerReceived, ConnectReceived, DataReceived, Event
from hbone.wire.frames import PREFACE
from hbone.wire.limits import Limits

TARGET = make_authority("10.0.0.1", 80)
PSEUDO = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.1:80")]
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


class Pair:
    """`now` is the clock of both."""

    def __init__(self, limits: Limits | None = None, client_limits: Limits | None = None) -> None:
        self.now = 0.0
        limits = limits or Limits()
        self.client = Connection(client_limits or limits, is_client=True, now=0.0)
        self.server = Connection(limits, is_client=False, now=0.0)
        self.client.start()
        self.server.start()
        self.turn()

    def turn(self, piece: int = 0) -> tuple[list[Event], list[Event]]:
        """Until nobody has more to say; what the client and what the server heard."""
        heard: tuple[list[Event], list[Event]] = ([], [])
        while True:
            to_server, to_client = self.client.take(), self.server.take()
            if not to_server and not to_client:
                return heard
            heard[0].extend(deliver(self.client, to_client, self.now, piece))
            heard[1].extend(deliver(self.server, to_server, self.now, piece))

    def tunnel(self) -> int:
        """One that is open."""
        stream_id = self.client.open(TARGET)
        heard = self.turn()[1]
        assert any(isinstance(event, ConnectReceived) for event in heard)
        self.server.answer(stream_id, 200, end=False)
        heard = self.turn()[0]
        assert any(isinstance(event, AnswerReceived) for event in heard)
        return stream_id


def deliver(to: Connection, data: bytes, now: float, piece: int = 0) -> list[Event]:
    events: list[Event] = []
    step = piece or max(1, len(data))
    for start in range(0, len(data), step):
        events += to.receive(data[start : start + step], now)
    return events


def data_of(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, DataReceived))


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4)
    return head + payload


def headers(
    stream_id: int, fields: list[tuple[bytes, bytes]] | None = None, flags: int = 4
) -> bytes:
    """HEADERS without dynamic table, so that blocks do not depend on each other."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return frame(1, flags, stream_id, encoder.encode(PSEUDO if fields is None else fields))


def server(limits: Limits | None = None) -> Connection:
    """One that has had a client's preface."""
    connection = Connection(limits or Limits(), is_client=False, now=0.0)
    connection.start()
    connection.receive(PREFACE + SETTINGS, 0.0)
    connection.take()
    return connection
