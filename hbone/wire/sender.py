"""The half of an HBONE connection that queues octets: tunnels, data, endings.

Source: RFC 9113 sections 5.1, 6.1, 6.4, 6.8 and 6.9; spec istio 1.3 to 1.9.

A stream is in `_streams` from HEADERS until both sides ended it or one reset it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.stream import StreamInputs

from hbone.errors import TunnelUnprocessedError, WireError
from hbone.wire.authority import Authority
from hbone.wire.connect import Field, answer_fields, request_fields
from hbone.wire.guard import Guard
from hbone.wire.keepalive import PAYLOAD, Keepalive
from hbone.wire.limits import DEFAULT_WINDOW_BYTES, MAX_STREAM_ID, Limits
from hbone.wire.states import States
from hbone.wire.windows import ConnectionWindow, TunnelStream

DRAIN_PING: Final = b"hbonelst"


class Drain(Enum):
    """See the design note of `connection`."""

    OPEN = 0
    DRAINING = 1
    LAST = 2


class Sender:
    """What `connection.Connection` sends. Not used by itself."""

    def __init__(self, limits: Limits, *, is_client: bool, now: float) -> None:
        self.drain_state = Drain.OPEN
        self._limits = limits
        self._is_client = is_client
        self._guard = Guard(limits)
        self._states = States(limits, is_client=is_client)
        self._keepalive = Keepalive(limits.ping_interval_seconds, limits.ping_timeout_seconds, now)
        self._streams: dict[int, TunnelStream] = {}
        self._out: list[bytes] = []
        self._has_settings = False
        self._window = ConnectionWindow(limits.connection_window_bytes, limits.unread_bytes)
        self.pending_bytes = 0
        """About how many octets `take` would give."""

    # --- the connection -------------------------------------------------------------------

    def start(self) -> None:
        """Queue the preface, our SETTINGS and the connection's window."""
        self._out.append(self._states.opening(self._limits))
        extra = self._limits.connection_window_bytes - DEFAULT_WINDOW_BYTES
        if extra:
            self._window_update(0, extra)

    def take(self) -> bytes:
        """Everything to be written, once."""
        self._collect()
        self.pending_bytes = 0
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    def tick(self, now: float) -> float | None:
        """Look at the time; gives when to call again, None for never.

        Raises: WireError (NO_ERROR, as Istio's proxies say it) when the peer is gone.
        """
        if self._keepalive.is_lost(now):
            self._goaway(self._states.highest_inbound_stream_id, ErrorCodes.NO_ERROR)
            raise WireError(ErrorCodes.NO_ERROR, "no answer to PING")
        if self._keepalive.asks(now):
            self._states.ping(PAYLOAD)
        return self._keepalive.due()

    @property
    def stream_count(self) -> int:
        """Tunnels that live."""
        return len(self._streams)

    @property
    def room(self) -> int:
        """How many more tunnels a client may open now."""
        if self.drain_state is not Drain.OPEN or not self._has_settings:
            return 0
        if self._states.highest_outbound_stream_id > MAX_STREAM_ID - 2:
            return 0
        remote = self._states.remote_settings.max_concurrent_streams
        return max(0, min(self._limits.client_streams, remote) - len(self._streams))

    # --- ending ---------------------------------------------------------------------------

    def drain(self) -> None:
        """No new tunnels; those there are go on. A server then awaits `Drain.LAST`."""
        if self.drain_state is not Drain.OPEN:
            return
        if self._is_client:
            self.drain_state = Drain.LAST
            self._goaway(0, ErrorCodes.NO_ERROR)
            return
        self.drain_state = Drain.DRAINING
        self._goaway(MAX_STREAM_ID, ErrorCodes.NO_ERROR)
        self._states.ping(DRAIN_PING)

    def finish(self) -> None:
        """Say which tunnel was the last, without waiting for what may be on its way."""
        if self.drain_state is Drain.DRAINING:
            self.drain_state = Drain.LAST
            self._goaway(self._states.highest_inbound_stream_id, ErrorCodes.NO_ERROR)

    def close(self, code: int = ErrorCodes.NO_ERROR) -> None:
        """Queue the last GOAWAY: the caller writes it and closes."""
        self.drain_state = Drain.LAST
        self._goaway(self._states.highest_inbound_stream_id, code)

    def _goaway(self, last_stream_id: int, code: int) -> None:
        self._collect()
        self._out.append(
            b"\0\0\x08\x07\0\0\0\0\0" + last_stream_id.to_bytes(4) + int(code).to_bytes(4)
        )

    # --- tunnels --------------------------------------------------------------------------

    def open(self, authority: Authority, headers: Iterable[Field] = ()) -> int:
        """Ask for a tunnel; gives its stream. Raises: MalformedError, TunnelUnprocessedError."""
        fields = request_fields(authority, headers)
        if not self.room:
            raise TunnelUnprocessedError("the connection takes no more tunnels")
        states = self._states
        stream_id = states.get_next_available_stream_id()
        states.send_headers(stream_id, fields)
        self._streams[stream_id] = TunnelStream(
            states.streams[stream_id], self._limits.stream_window_bytes
        )
        return stream_id

    def answer(
        self, stream_id: int, status: int, headers: Iterable[Field] = (), *, end: bool
    ) -> None:
        """Answer a CONNECT; `end` for a refusal, which also gives up what the client sends.

        Nothing happens when the tunnel is gone. Raises: MalformedError.
        """
        fields = answer_fields(status, headers)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.is_answered = True
        self._states.send_headers(stream_id, fields, end_stream=end)
        if end and not self._forget_closed(stream_id, stream):
            self.reset(stream_id, ErrorCodes.NO_ERROR)

    def send_window(self, stream_id: int) -> int:
        """Octets that may be sent in one frame now; -1 when the tunnel takes none any more."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return -1
        states = self._states
        room = min(
            states.outbound_flow_control_window,
            stream.states.outbound_flow_control_window,
            states.max_outbound_frame_size,
            self._limits.sent_frame_bytes,
        )
        # SETTINGS can push a window below zero (RFC 9113 section 6.9.2).
        return room if room > 0 else 0

    @property
    def connection_window(self) -> int:
        """Octets that all tunnels together may send now; 0 or less for none."""
        return self._states.outbound_flow_control_window

    def send(self, stream_id: int, data: bytes | memoryview, *, end: bool = False) -> None:
        """Send one frame of at most `send_window` octets on a tunnel of ours that is open.

        Raises: TunnelUnprocessedError, when the state of the stream does not allow it.
        """
        stream = self._streams[stream_id]
        size = len(data)
        machine = stream.states.state_machine
        try:
            machine.process_input(StreamInputs.SEND_DATA)
            if end:
                machine.process_input(StreamInputs.SEND_END_STREAM)
        except ProtocolError as error:
            raise TunnelUnprocessedError("the tunnel takes no data") from error
        stream.states.outbound_flow_control_window -= size
        self._states.outbound_flow_control_window -= size
        assert stream.states.outbound_flow_control_window >= 0 or not size
        self._collect()
        self._out.append(b"%b\0%c%b" % (size.to_bytes(3), 1 if end else 0, stream_id.to_bytes(4)))
        if size:
            self._out.append(data)  # type: ignore[arg-type] # joined or written at once
        self._guard.sent_frames += 1
        self.pending_bytes += size
        if end:
            self._forget_closed(stream_id, stream)

    def reset(self, stream_id: int, code: int) -> None:
        """End a tunnel at once, both ways; nothing when it has ended."""
        if self._streams.pop(stream_id, None) is not None:
            self._states.reset_stream(stream_id, code)
            self._states.forget(stream_id)

    def consumed(self, stream_id: int, size: int) -> None:
        """A reader took so many octets of what `DataReceived` gave, or dropped them."""
        self._release(size)
        stream = self._streams.get(stream_id)
        credit = 0 if stream is None else stream.credit(size)
        if credit:
            self._window_update(stream_id, credit)

    def _release(self, size: int) -> None:
        self._window.release(size)
        self._return_window()

    def _return_window(self) -> None:
        credit = self._window.credit()
        if credit:
            self._window_update(0, credit)

    def _window_update(self, stream_id: int, size: int) -> None:
        self._collect()
        self._out.append(b"\0\0\4\x08\0" + stream_id.to_bytes(4) + size.to_bytes(4))

    def _forget_closed(self, stream_id: int, stream: TunnelStream) -> bool:
        if not stream.states.closed:
            return False
        self._streams.pop(stream_id, None)
        self._states.forget(stream_id)
        return True

    def _collect(self) -> None:
        data = self._states.data_to_send()
        if data:
            self._out.append(data)
            self.pending_bytes += len(data)
