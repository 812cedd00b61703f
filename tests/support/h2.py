"""HTTP/2 peers on real sockets: an upstream on python-h2, and a client that sends what it is told.

Source: RFC 9113.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from tests.support.octets import TcpUpstream, read_exactly

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TIMEOUT_SECONDS = 20.0
ENDED = -1
"""In place of an error code: the connection was closed without a GOAWAY that names one."""
Fields = Iterable[tuple[bytes, bytes]]


class H2Upstream(TcpUpstream):
    """Answers every request with 200, its body, `x-upstream: h2`, and a trailer."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._converse, tls=tls)
        self.requests: list[dict[str, str]] = []
        self.resets: list[int] = []

    def _converse(self, sock: socket.socket) -> None:
        connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="latin-1")
        )
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        bodies: dict[int, bytearray] = {}
        while data := sock.recv(65536):
            for event in connection.receive_data(data):
                self._handle(connection, event, bodies)
            sock.sendall(connection.data_to_send())

    def _handle(
        self,
        connection: h2.connection.H2Connection,
        event: h2.events.Event,
        bodies: dict[int, bytearray],
    ) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.requests.append({str(k): str(v) for k, v in event.headers})
            bodies[event.stream_id] = bytearray()
        elif isinstance(event, h2.events.DataReceived):
            bodies[event.stream_id] += event.data
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets.append(event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream, body = event.stream_id, bytes(bodies.pop(event.stream_id))
            connection.send_headers(stream, [(":status", "200"), ("x-upstream", "h2")])
            connection.send_data(stream, body[:16384])
            connection.send_headers(stream, [("x-trailer", "t")], end_stream=True)


@dataclass
class Outcome:
    """What became of a stream: a response, a reset, or the end of its connection."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    is_whole: bool = False
    reset: int | None = None
    goaway: int | None = None
    """The error code with which the whole connection ended, or ENDED."""

    @property
    def is_final(self) -> bool:
        return self.is_whole or self.reset is not None or self.goaway is not None


class RawH2:
    """One HTTP/2 connection by prior knowledge. It checks nothing of what it sends."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._encoder = Encoder()
        self._decoder = Decoder()
        self.sock.sendall(PREFACE + SettingsFrame(0).serialize())

    def head(self, stream_id: int, fields: Fields, *, ends: bool = True) -> HeadersFrame:
        """A HEADERS frame of these fields, taken as they are."""
        block = self._encoder.encode(list(fields), huffman=False)
        flags = ["END_HEADERS", "END_STREAM"] if ends else ["END_HEADERS"]
        return HeadersFrame(stream_id, block, flags=flags)

    def send(self, *frames: Frame) -> None:
        """Send; raises ConnectionError when the peer has ended the connection."""
        self.sock.sendall(b"".join(frame.serialize() for frame in frames))

    def read_frame(self) -> Frame | None:
        """The next frame; None when the connection has ended."""
        try:
            head = read_exactly(self.sock, 9)
            if len(head) < 9:
                return None
            frame, length = Frame.parse_frame_header(memoryview(head))
            frame.parse_body(memoryview(read_exactly(self.sock, length)))
        except ConnectionResetError:
            return None
        return frame

    def outcome(self, stream_id: int) -> Outcome:
        """Read until the stream, or the connection, has ended."""
        found = Outcome()
        while not found.is_final:
            frame = self.read_frame()
            if frame is None:
                found.goaway = ENDED
            elif frame.stream_id == 0:
                with contextlib.suppress(ConnectionError):  # what was sent before is still read
                    self._control(frame, found)
            else:
                self._note(frame, stream_id, found)
        return found

    def _control(self, frame: Frame, found: Outcome) -> None:
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.send(SettingsFrame(0, flags=["ACK"]))
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self.send(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, GoAwayFrame) and frame.error_code:
            found.goaway = frame.error_code

    def _note(self, frame: Frame, stream_id: int, found: Outcome) -> None:
        if isinstance(frame, HeadersFrame):
            # Decoded whatever the stream: the table of the connection depends on each block.
            fields = [(bytes(n), bytes(v)) for n, v in self._decoder.decode(frame.data, raw=True)]
            if frame.stream_id == stream_id and fields[0][0] == b":status":
                found.status, found.headers = int(fields[0][1]), fields[1:]
        if frame.stream_id != stream_id:
            return
        if isinstance(frame, DataFrame):
            found.body += frame.data
        elif isinstance(frame, RstStreamFrame):
            found.reset = frame.error_code
        if "END_STREAM" in frame.flags:
            found.is_whole = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sock.close()
