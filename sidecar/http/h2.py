"""HTTP/2 without I/O: python-h2 keeps the states, this file the limits and the field mapping.

Source: RFC 9113; design section 3; spec hardening section 4.3 B.

Octets and the time come in as arguments, events and octets go out. python-h2 sees every frame but
GOAWAY (see `h2_guard`) and carries header blocks as opaque values (see `h2_hpack`), which the
caller maps with `h2_fields`. What we do not let it decide:

- MAX_CONCURRENT_STREAMS: it would end the connection at the 101st stream, where the caller refuses
  just that stream. It is therefore told of no limit, and the SETTINGS frame is written here.
- GOAWAY: it would refuse every later frame, and a graceful end needs both directions.
- Content-Length: it would end the connection, where the stream is reset.
- The connection's receive window: it is returned as octets arrive and the stream's as they are
  read, so one stalled reader cannot stop the others; memory is bounded by streams times window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamInputs
from hyperframe.frame import SettingsFrame

from sidecar.errors import ConfigError
from sidecar.http.h2_guard import PREFACE, GoAwayReceived, Guard, GuardLimits, H2ConnectionError
from sidecar.http.h2_hpack import Block, BlockDecoder, BlockEncoder, encode_fields
from sidecar.http.headers import Field

DEFAULT_WINDOW_BYTES: Final = 65_535
MAX_STREAM_ID: Final = 2**31 - 1
_MAX_WINDOW_BYTES: Final = 2**31 - 1
_MAX_FRAME_BYTES: Final = 2**24 - 1
_NO_LIMIT: Final = 2**31 - 1
_KEPT_STREAMS: Final = 128
_HEADERS, _CONTINUATION = 1, 9
_SEND_INFORMATIONAL: Final = StreamInputs.SEND_INFORMATIONAL_HEADERS
_STATUS: Final = {status: (b":status", b"%d" % status) for status in range(100, 600)}


@final
@dataclass(frozen=True, slots=True)
class H2Limits:
    """What one connection allows. Sizes in bytes; `guard` counts in windows of ten seconds.

    Raises ConfigError for a value HTTP/2 cannot express.
    """

    max_streams: int = 100
    stream_window_bytes: int = 64 * 1024
    connection_window_bytes: int = 1024 * 1024
    frame_bytes: int = 16 * 1024
    header_list_bytes: int = 32 * 1024
    resets_per_10s: int = 100
    pings_per_10s: int = 50
    empty_data_frames: int = 10
    continuation_frames: int = 16
    allows_extended_connect: bool = False

    def __post_init__(self) -> None:
        bounds = (
            ("http2WindowSize", self.stream_window_bytes, 1, _MAX_WINDOW_BYTES),
            ("http2ConnectionWindowSize", self.connection_window_bytes, 1, _MAX_WINDOW_BYTES),
            ("http2FrameSize", self.frame_bytes, 2**14, _MAX_FRAME_BYTES),
            ("http2MaxHeaderSize", self.header_list_bytes, 1, _MAX_WINDOW_BYTES),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise ConfigError(name, f"{value} is not between {low} and {high}")


class _States(H2Connection):
    """python-h2's states with two of its costs bounded."""

    # A closed stream is remembered to tell a late frame from an error; 65,536 of them, the default,
    # would cost a long-lived connection 8 MB.
    MAX_CLOSED_STREAMS = 256

    def _open_streams(self, remainder: int) -> int:
        # python-h2 walks every stream for each new one, to compare their number with a limit that
        # is not its to keep here (12 us with 100 streams); the walk also drops closed ones.
        if len(self.streams) < _KEPT_STREAMS:
            return 0
        return self.forget_closed(remainder)

    def forget_closed(self, remainder: int) -> int:
        """Drop what is kept of closed streams."""
        return super()._open_streams(remainder)


@final
class H2Codec:
    """One connection, either side. To be started; of no more use after H2ConnectionError."""

    __slots__ = (
        "_connection_credit",
        "_encoder",
        "_half_connection",
        "_half_stream",
        "_is_client",
        "_limits",
        "_out",
        "_states",
        "guard",
        "pending_bytes",
    )

    def __init__(self, limits: H2Limits, *, is_client: bool) -> None:
        self._limits = limits
        self._is_client = is_client
        self._out: list[bytes] = []
        self.pending_bytes = 0
        """About how many octets of DATA `take` would give."""
        self._connection_credit = 0
        self._half_connection = max(limits.connection_window_bytes, DEFAULT_WINDOW_BYTES) // 2
        self._half_stream = max(1, limits.stream_window_bytes // 2)
        self.guard = Guard(
            GuardLimits(
                limits.resets_per_10s,
                limits.pings_per_10s,
                limits.empty_data_frames,
                limits.continuation_frames,
                limits.frame_bytes,
                2 * limits.header_list_bytes,
            ),
            is_server=not is_client,
        )
        states = self._states = _States(
            H2Configuration(
                client_side=is_client,
                header_encoding=None,
                # Fields are checked by h2_fields, before sending and after receiving; here they
                # are one opaque value.
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        # The peer may rely on the protocol's defaults until it has read our SETTINGS.
        states.local_settings = Settings(
            client=is_client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: _NO_LIMIT,
                SettingCodes.INITIAL_WINDOW_SIZE: max(
                    limits.stream_window_bytes, DEFAULT_WINDOW_BYTES
                ),
            },
        )
        states.max_inbound_frame_size = limits.frame_bytes
        states.decoder = BlockDecoder(limits.header_list_bytes)
        self._encoder = states.encoder = BlockEncoder()

    # --- the connection -------------------------------------------------------------------

    def start(self) -> None:
        """Queue the preface and our SETTINGS."""
        limits = self._limits
        states = self._states
        states.initiate_connection()
        states.clear_outbound_data_buffer()
        settings: dict[int, int] = {
            SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            SettingCodes.MAX_FRAME_SIZE: limits.frame_bytes,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
        }
        if self._is_client:
            settings[SettingCodes.ENABLE_PUSH] = 0
            self._out.append(PREFACE)
        else:
            settings[SettingCodes.MAX_CONCURRENT_STREAMS] = limits.max_streams
            if limits.allows_extended_connect:
                settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
        self._out.append(SettingsFrame(0, settings=settings).serialize())
        extra = limits.connection_window_bytes - DEFAULT_WINDOW_BYTES
        if extra > 0:
            states.increment_flow_control_window(extra)

    def receive(self, data: bytes, now: float) -> list[Event | GoAwayReceived]:
        """Octets from the peer. `now`: seconds, monotonic.

        Raises: H2ConnectionError, upon which the caller sends GOAWAY with its code and closes.
        Header events carry one pair; `block_of` gives its block. A GOAWAY comes last.
        """
        guard = self.guard
        data = guard.scan(data, now)
        states = self._states
        self._collect()
        events: list[Event | GoAwayReceived]
        try:
            events = states.receive_data(data)  # type: ignore[assignment]
        except ProtocolError as error:
            states.clear_outbound_data_buffer()
            failed = states.decoder.has_failed  # type: ignore[attr-defined]
            code = ErrorCodes.COMPRESSION_ERROR if failed else error.error_code
            raise H2ConnectionError(code, type(error).__name__) from error
        control = states.data_to_send()
        if control:
            self._out.append(control)
            guard.count_own_resets(control)
        if guard.goaway is not None:
            events.append(guard.goaway)
            guard.goaway = None
        return events

    def take(self) -> bytes:
        """Everything to be written, once."""
        self._collect()
        self.pending_bytes = 0
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    def _collect(self) -> None:
        data = self._states.data_to_send()
        if data:
            self._out.append(data)

    def goaway(self, last_stream_id: int, code: int) -> None:
        """Queue a GOAWAY; streams up to `last_stream_id` go on."""
        self._collect()
        self._out.append(
            b"\0\0\x08\x07\0\0\0\0\0" + last_stream_id.to_bytes(4) + int(code).to_bytes(4)
        )

    def ping(self, payload: bytes) -> None:
        """Queue a PING; `payload` is 8 octets."""
        self._states.ping(payload)

    @property
    def remote_max_streams(self) -> int:
        """What the peer allows us to have open."""
        return self._states.remote_settings.max_concurrent_streams

    def tidy(self) -> None:
        """Drop what is kept of closed streams, when there is time."""
        self._states.forget_closed(1)

    # --- streams --------------------------------------------------------------------------

    def request(self, fields: Iterable[Field], method: bytes, *, end: bool) -> int:
        """Open a stream with checked fields, pseudo fields first. Gives its id.

        Raises: h2's NoAvailableStreamIDError, TooManyStreamsError (see `remote_max_streams`).
        """
        states = self._states
        stream_id = states.get_next_available_stream_id()
        self._encoder.pending = encode_fields(fields)
        states.send_headers(stream_id, [(b":method", method)], end)
        self.guard.highest_stream_id = stream_id
        return stream_id

    def respond(self, stream_id: int, status: int, fields: list[Field], *, end: bool) -> None:
        """Send a response head (informational when below 200) of checked fields."""
        kind = StreamInputs.SEND_HEADERS if status >= 200 else _SEND_INFORMATIONAL
        self._send_block(stream_id, kind, encode_fields([_STATUS[status], *fields]), end)

    def send_trailers(self, stream_id: int, fields: list[Field]) -> None:
        """Send checked trailers; they end the stream."""
        self._send_block(stream_id, StreamInputs.SEND_HEADERS, encode_fields(fields), True)

    def _send_block(self, stream_id: int, kind: StreamInputs, block: bytes, end: bool) -> None:
        """Move python-h2's state and write the frames here, at a third of its price.

        Raises: h2's ProtocolError for what the stream's state does not allow.
        """
        states = self._states
        machine = states.streams[stream_id].state_machine
        machine.process_input(kind)
        if end:
            machine.process_input(StreamInputs.SEND_END_STREAM)
        block = self._encoder.prefixed(block)
        size = states.max_outbound_frame_size
        out = self._out
        self._collect()
        kind_octet = _HEADERS
        flags = 1 if end else 0
        ident = stream_id.to_bytes(4)
        while len(block) > size:
            out.append(size.to_bytes(3) + bytes((kind_octet, flags)) + ident + block[:size])
            block = block[size:]
            kind_octet, flags = _CONTINUATION, 0
        out.append(b"%b%c%c%b%b" % (len(block).to_bytes(3), kind_octet, flags | 4, ident, block))

    def send_window(self, stream_id: int) -> int:
        """Octets that may be sent in one frame now; -1 when the stream no longer takes any."""
        states = self._states
        stream = states.streams.get(stream_id)
        if stream is None or stream.closed:
            return -1
        room = min(
            states.outbound_flow_control_window,
            stream.outbound_flow_control_window,
            states.max_outbound_frame_size,
        )
        # SETTINGS can push a window below zero (RFC 9113 section 6.9.2).
        return room if room > 0 else 0

    @property
    def connection_window(self) -> int:
        """Octets that all streams together may send now; 0 or less for none."""
        return self._states.outbound_flow_control_window

    def send_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Send one frame of at most `send_window` octets.

        Raises: h2's ProtocolError for what the stream's state does not allow.
        """
        states = self._states
        stream = states.streams[stream_id]
        size = len(data)
        assert size <= stream.outbound_flow_control_window or not size
        machine = stream.state_machine
        machine.process_input(StreamInputs.SEND_DATA)
        if end:
            machine.process_input(StreamInputs.SEND_END_STREAM)
        stream.outbound_flow_control_window -= size
        states.outbound_flow_control_window -= size
        self._collect()
        self._out.append(
            b"%b\0%c%b%b" % (size.to_bytes(3), 1 if end else 0, stream_id.to_bytes(4), data)
        )
        self.guard.sent_data_frames += 1
        self.pending_bytes += size

    def is_open(self, stream_id: int) -> bool:
        """Whether the stream can still be reset."""
        stream = self._states.streams.get(stream_id)
        return stream is not None and stream.open

    def reset(self, stream_id: int, code: int, *, is_peers_fault: bool = False) -> None:
        """Reset a stream that is still open; nothing otherwise.

        Raises: H2ConnectionError when the peer made us do it too often (hardening cases 21 and 26).
        """
        if self.is_open(stream_id):
            self._states.reset_stream(stream_id, code)
            if is_peers_fault:
                self.guard.count_reset()

    def received(self, octets: int) -> None:
        """Flow-controlled octets arrived on some stream: the connection's window is returned."""
        self._connection_credit += octets
        if self._connection_credit >= self._half_connection:
            self._states.increment_flow_control_window(self._connection_credit)
            self._connection_credit = 0

    def consumed(self, stream_id: int, octets: int) -> int:
        """A reader took `octets` of a stream since its window was last returned.

        Gives how many are still to be returned: batched at half the window.
        """
        if octets < self._half_stream:
            return octets
        if self.is_open(stream_id):
            self._states.increment_flow_control_window(octets, stream_id)
        return 0


def block_of(event: Any) -> Block:
    """The header block of a RequestReceived, ResponseReceived, TrailersReceived and their like."""
    block = event.headers[-1][1]
    assert isinstance(block, Block)
    return block
