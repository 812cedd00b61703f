"""One HBONE connection without I/O, either side: octets and calls in, octets and events out.

Source: RFC 9113; spec istio 1.3 to 1.9.

Design note. python-h2 keeps the streams' states (see `states`); tunnel data passes it by, since it
would buffer a frame of 1 MiB whole and return windows by rules of its own (see `windows`).

    drain state   meaning                                            left by
    OPEN          tunnels are opened                                 `drain`, a GOAWAY (client)
    DRAINING      server: GOAWAY(2^31-1) and a PING are sent, a      the PING's answer, `finish`
                  tunnel that was on its way is still taken
    LAST          GOAWAY(last id) is sent or was received; what is   -
                  open goes on, nothing new
"""

from __future__ import annotations

from typing import Any, Final, final

import h2.events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.stream import StreamInputs

from hbone.errors import HboneError, WireError
from hbone.wire.connect import (
    TOO_LARGE,
    BadConnectError,
    Field,
    MalformedError,
    read_answer,
    read_request,
)
from hbone.wire.events import (
    AnswerReceived,
    ConnectReceived,
    ConnectRejected,
    DataReceived,
    Event,
    PeerDraining,
    SettingsReceived,
    StreamEnded,
    StreamReset,
    WindowOpened,
)
from hbone.wire.frames import Data, FrameReader
from hbone.wire.guard import GOAWAY, RST_STREAM
from hbone.wire.limits import Limits
from hbone.wire.sender import DRAIN_PING, Drain, Sender
from hbone.wire.states import block_of
from hbone.wire.windows import TunnelStream

_FIELD_OVERHEAD: Final = 32


@final
class Connection(Sender):
    """To be started; of no more use after WireError, whose GOAWAY is to be written."""

    def __init__(self, limits: Limits, *, is_client: bool, now: float) -> None:
        super().__init__(limits, is_client=is_client, now=now)
        self._reader = FrameReader(self._guard, is_server=not is_client)
        self._events: list[Event] = []

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Octets from the peer. `now`: seconds, monotonic. Raises: WireError."""
        self._guard.roll(now)
        self._keepalive.heard(now)
        try:
            for item in self._reader.feed(data):
                if isinstance(item, Data):
                    self._on_data(item)
                else:
                    self._on_control(item)
        except WireError as error:
            self._goaway(self._states.highest_inbound_stream_id, error.code)
            raise
        events, self._events = self._events, []
        return events

    def _on_data(self, item: Data) -> None:
        stream_id, data, size, is_last = item
        self._window.take(size)
        stream = self._streams.get(stream_id)
        if stream is None or stream.has_ended or (self._is_client and not stream.is_answered):
            self._release(size)
            self._on_stray_data(stream_id, stream)
            return
        if not stream.take(size):
            self._release(size)
            self._fail_stream(stream_id, ErrorCodes.FLOW_CONTROL_ERROR)
            return
        if size > len(data):
            self.consumed(stream_id, size - len(data))
        if data:
            self._events.append(DataReceived(stream_id, data))
            self._return_window()
        if is_last:
            stream.states.state_machine.process_input(StreamInputs.RECV_END_STREAM)
            self._end(stream_id, stream)

    def _on_stray_data(self, stream_id: int, stream: TunnelStream | None) -> None:
        if stream is not None:
            code = ErrorCodes.STREAM_CLOSED if stream.has_ended else ErrorCodes.PROTOCOL_ERROR
            self._fail_stream(stream_id, code)
        elif not stream_id or self._is_idle(stream_id):
            raise WireError(ErrorCodes.PROTOCOL_ERROR, "DATA where there is no stream")

    def _is_idle(self, stream_id: int) -> bool:
        states = self._states
        is_own = stream_id % 2 == self._is_client
        return stream_id > (
            states.highest_outbound_stream_id if is_own else states.highest_inbound_stream_id
        )

    def _on_control(self, frame: bytes) -> None:
        kind = frame[3]
        if kind == GOAWAY:
            self._on_goaway(frame)
            return
        stream_id = int.from_bytes(frame[5:9]) & 0x7FFFFFFF
        if kind == RST_STREAM and self._is_idle(stream_id):
            raise WireError(ErrorCodes.PROTOCOL_ERROR, "RST_STREAM of an idle stream")
        self._collect()
        try:
            events = self._states.receive_data(frame)
        except ProtocolError as error:
            self._states.clear_outbound_data_buffer()  # its GOAWAY; ours follows
            raise WireError(error.error_code, type(error).__name__) from error
        for event in events:
            self._on_event(event)

    def _on_event(self, event: Any) -> None:
        match event:
            case h2.events.RequestReceived():
                self._on_request(event.stream_id, block_of(event))
            case h2.events.ResponseReceived():
                self._on_answer(event.stream_id, block_of(event))
            case h2.events.StreamEnded():
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    self._end(event.stream_id, stream)
            case h2.events.StreamReset():
                self._on_reset(event.stream_id, int(event.error_code))
            case h2.events.WindowUpdated():
                self._events.append(WindowOpened(event.stream_id or 0))
            case h2.events.RemoteSettingsChanged():
                self._on_settings()
            case h2.events.PingAckReceived() if event.ping_data == DRAIN_PING:
                self.finish()

    def _on_settings(self) -> None:
        if not self._has_settings:
            self._has_settings = True
            self._events.append(SettingsReceived())
        self._events.append(WindowOpened(0))

    def _on_request(self, stream_id: int, fields: list[Field]) -> None:
        if self.drain_state is Drain.LAST or len(self._streams) >= self._limits.max_streams:
            self._states.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            self._states.forget(stream_id)
            if self.drain_state is not Drain.LAST:
                self._guard.count_early_reset()
            return
        stream = TunnelStream(self._states.streams[stream_id], self._limits.stream_window_bytes)
        self._streams[stream_id] = stream
        try:
            if _list_size(fields) > self._limits.header_list_bytes:
                raise BadConnectError(TOO_LARGE, "header list too large")
            request = read_request(fields)
        except BadConnectError as error:
            self._events.append(ConnectRejected(stream_id, error.status, str(error)))
            self.answer(stream_id, error.status, end=True)
            self._guard.count_early_reset()
        except MalformedError as error:
            self._events.append(ConnectRejected(stream_id, 0, str(error)))
            self.reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
            self._guard.count_early_reset()
        else:
            self._events.append(ConnectReceived(stream_id, request))

    def _on_answer(self, stream_id: int, fields: list[Field]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        try:
            answer = read_answer(fields)
        except HboneError:
            self._fail_stream(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        stream.is_answered = True
        self._events.append(AnswerReceived(stream_id, answer))

    def _end(self, stream_id: int, stream: TunnelStream) -> None:
        stream.has_ended = True
        self._events.append(StreamEnded(stream_id))
        self._forget_closed(stream_id, stream)

    def _on_reset(self, stream_id: int, code: int) -> None:
        stream = self._streams.pop(stream_id, None)
        self._states.forget(stream_id)
        if stream is None:
            return
        is_unprocessed = self._is_client and code == ErrorCodes.REFUSED_STREAM
        self._events.append(StreamReset(stream_id, code, is_unprocessed))
        if not self._is_client and not stream.is_answered:
            self._guard.count_early_reset()

    def _on_goaway(self, frame: bytes) -> None:
        if len(frame) < 17:
            raise WireError(ErrorCodes.FRAME_SIZE_ERROR, "short GOAWAY")
        if int.from_bytes(frame[5:9]) & 0x7FFFFFFF:
            raise WireError(ErrorCodes.PROTOCOL_ERROR, "GOAWAY on a stream")
        last = int.from_bytes(frame[9:13]) & 0x7FFFFFFF
        self._events.append(PeerDraining(int.from_bytes(frame[13:17])))
        if not self._is_client:
            return  # a client's GOAWAY is about streams that a server would open
        self.drain_state = Drain.LAST
        for stream_id in [known for known in self._streams if known > last]:
            del self._streams[stream_id]
            self._states.reset_stream(stream_id, ErrorCodes.CANCEL)
            self._states.forget(stream_id)
            self._events.append(StreamReset(stream_id, ErrorCodes.REFUSED_STREAM, True))

    def _fail_stream(self, stream_id: int, code: int) -> None:
        self.reset(stream_id, code)
        self._events.append(StreamReset(stream_id, code))


def _list_size(fields: list[Field]) -> int:
    return sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields)
