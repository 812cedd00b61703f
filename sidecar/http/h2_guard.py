"""Watches the frames of one HTTP/2 connection for abuse before they are acted upon.

Source: RFC 9113 sections 4.2, 6, 10.5; spec hardening section 4.2 and 4.3 B 20 to 26.

Design note. The guard reads frame headers only and holds back what python-h2 must not see:

    state        meaning                                             left when
    `_left` > 0  inside a payload (or the preface) that is passed on the octets came
    `_partial`   fewer octets than a frame header, or than a GOAWAY  the rest came

1. No frame reaches python-h2 before its header was counted.
2. A frame longer than allowed is refused at its header, so nothing buffers it.
3. Between HEADERS without END_HEADERS and its end only CONTINUATION of that stream passes.
4. GOAWAY never reaches python-h2, which would close its state machine and lose the streams that
   the peer still answers; the guard hands it out as a value.

Counts are kept in fixed windows of ten seconds: a peer can get twice a limit across an edge.
Only a server counts resets: a client's own requests bound what its server can reset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from h2.errors import ErrorCodes

from sidecar.errors import SidecarError

WINDOW_SECONDS: Final = 10.0
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HISTORY: Final = 200
_HISTORY_MASK: Final = (1 << _HISTORY) - 1
_UPDATES_PER_DATA: Final = 10
_PRIORITIES_PER_STREAM: Final = 10
_CALM: Final = ErrorCodes.ENHANCE_YOUR_CALM
_PROTOCOL: Final = ErrorCodes.PROTOCOL_ERROR

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _UPDATE, _CONTINUATION = range(
    10
)
_END_STREAM: Final = 1
_END_HEADERS: Final = 4


class H2ConnectionError(SidecarError):
    """The connection must end: send GOAWAY with `code` and close. `reason` is a stable label."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({ErrorCodes(code).name})")
        self.code = code
        self.reason = reason


@final
@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The peer takes no stream above `last_stream_id`; `code` is its reason, 0 for none."""

    last_stream_id: int
    code: int


@final
@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Per ten seconds where the name says so; `block_bytes` bounds one encoded header block."""

    resets_per_10s: int = 100
    pings_per_10s: int = 50
    empty_frames: int = 10
    continuation_frames: int = 16
    frame_bytes: int = 16 * 1024
    block_bytes: int = 64 * 1024


@final
class Guard:
    """See the design note. `scan` is fed every octet of the connection, in order."""

    __slots__ = (
        "_block_bytes",
        "_block_stream",
        "_continuations",
        "_empty",
        "_ended",
        "_history",
        "_is_first",
        "_is_server",
        "_left",
        "_limits",
        "_partial",
        "_pings",
        "_priorities",
        "_resets",
        "_settings",
        "_since",
        "_updates",
        "goaway",
        "highest_stream_id",
        "opened",
        "sent_data_frames",
    )

    def __init__(self, limits: GuardLimits, *, is_server: bool) -> None:
        self._limits = limits
        self._is_server = is_server
        self._left = len(PREFACE) if is_server else 0
        self._partial = b""
        self._is_first = True
        self._block_stream = 0
        self._block_bytes = self._continuations = self._empty = 0
        self._since = 0.0
        self._resets = self._pings = self._settings = self._priorities = self._updates = 0
        self._history = self._ended = 0
        self.opened = 0
        """HEADERS frames in this window."""
        self.sent_data_frames = 0
        """DATA frames we sent in this window; each earns the peer its control frames."""
        self.highest_stream_id = 0
        """Of the peer's HEADERS (a server), or of our own streams (a client, who sets it)."""
        self.goaway: GoAwayReceived | None = None
        """The GOAWAY of the octets last scanned; whoever takes it sets None."""

    @property
    def is_in_block(self) -> bool:
        """Whether a header block has begun and not ended."""
        return self._block_stream != 0

    @property
    def is_in_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._left > 0 or self._partial != b""

    def scan(self, data: bytes, now: float) -> bytes:
        """Count the frames of `data`; give what may be passed on. `now` in seconds, monotonic.

        Raises: H2ConnectionError; what came with the offending frame is then not passed on at all.
        """
        if now - self._since >= WINDOW_SECONDS:
            self._roll(now)
        if self._partial:
            data, self._partial = self._partial + data, b""
        end = len(data)
        position = self._left
        if position >= end:
            self._left = position - end
            return data
        self._left = 0
        kept: list[bytes] | None = None
        start = 0
        while end - position >= 9:
            length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            kind = data[position + 3]
            following = position + 9 + length
            if kind == _GOAWAY and not self._block_stream and length <= self._limits.frame_bytes:
                if following > end:
                    break
                kept = kept if kept is not None else []
                kept.append(data[start:position])
                start = following
                self._take_goaway(data[position:following])
            else:
                stream_id = int.from_bytes(data[position + 5 : position + 9]) & 0x7FFFFFFF
                self._check(kind, data[position + 4], stream_id, length)
            position = following
        if position < end:
            self._partial = data[position:]
            data = data[:position]
        else:
            self._left = position - end
        if kept is None:
            return data
        kept.append(data[start:])
        return b"".join(kept)

    def _roll(self, now: float) -> None:
        self._since = now
        self._resets = self._pings = self._settings = self._priorities = self._updates = 0
        self.opened = self.sent_data_frames = 0

    def _take_goaway(self, frame: bytes) -> None:
        if len(frame) < 17:
            raise H2ConnectionError(ErrorCodes.FRAME_SIZE_ERROR, "short GOAWAY")
        if int.from_bytes(frame[5:9]) & 0x7FFFFFFF or self._is_first:
            raise H2ConnectionError(_PROTOCOL, "misplaced GOAWAY")
        last = int.from_bytes(frame[9:13]) & 0x7FFFFFFF
        self.goaway = GoAwayReceived(last, int.from_bytes(frame[13:17]))
        self._count_priority()

    def _check(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        if length > self._limits.frame_bytes:
            raise H2ConnectionError(ErrorCodes.FRAME_SIZE_ERROR, "frame too large")
        if self._is_first:
            if kind != _SETTINGS or flags & 1:
                raise H2ConnectionError(_PROTOCOL, "the first frame is not SETTINGS")
            self._is_first = False
        if self._block_stream and (kind != _CONTINUATION or stream_id != self._block_stream):
            raise H2ConnectionError(_PROTOCOL, "frame inside a header block")
        if kind == _DATA:
            # Fast path: the most frequent frame.
            if length:
                self._empty = 0
            elif not flags & _END_STREAM:
                self._count_empty()
        elif kind == _HEADERS:
            self._check_headers(flags, stream_id, length)
        elif kind == _UPDATE:
            self._updates += 1
            allowed = self._limits.pings_per_10s + self.opened + self.sent_data_frames
            if self._updates > _UPDATES_PER_DATA * allowed:
                raise H2ConnectionError(_CALM, "too many WINDOW_UPDATE frames")
        else:
            self._check_control(kind, flags, stream_id, length)

    def _check_headers(self, flags: int, stream_id: int, length: int) -> None:
        self.opened += 1
        if self._is_server and stream_id > self.highest_stream_id:
            self.highest_stream_id = stream_id
        if flags & _END_HEADERS:
            self._empty = 0
            return
        self._block_stream = stream_id
        self._block_bytes = length
        self._continuations = 0
        if not length:
            self._count_empty()

    def _check_control(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        limits = self._limits
        if kind == _CONTINUATION:
            self._check_continuation(flags, length)
        elif kind == _PING:
            self._pings += 1
            # Receivers that estimate bandwidth (gRPC) send a PING for data they got.
            if self._pings > limits.pings_per_10s + self.sent_data_frames:
                raise H2ConnectionError(_CALM, "too many PING frames")
        elif kind == _SETTINGS:
            self._settings += 1
            if self._settings > limits.pings_per_10s:
                raise H2ConnectionError(_CALM, "too many SETTINGS frames")
        elif kind == _RST:
            if stream_id > self.highest_stream_id:
                raise H2ConnectionError(_PROTOCOL, "RST_STREAM of an idle stream")
            if self._is_server:
                self.count_reset()
        else:
            # PRIORITY, PUSH_PROMISE and whatever extensions define.
            self._count_priority()

    def _check_continuation(self, flags: int, length: int) -> None:
        self._continuations += 1
        self._block_bytes += length
        if self._continuations > self._limits.continuation_frames:
            raise H2ConnectionError(_CALM, "too many CONTINUATION frames")
        if self._block_bytes > self._limits.block_bytes:
            raise H2ConnectionError(_CALM, "header block too large")
        if flags & _END_HEADERS:
            self._block_stream = 0
        elif not length:
            self._count_empty()

    def _count_priority(self) -> None:
        self._priorities += 1
        allowed = self._limits.pings_per_10s + self.opened
        if self._priorities > _PRIORITIES_PER_STREAM * allowed:
            raise H2ConnectionError(_CALM, "too many PRIORITY or unknown frames")

    def _count_empty(self) -> None:
        self._empty += 1
        if self._empty > self._limits.empty_frames:
            raise H2ConnectionError(_CALM, "too many empty frames")

    def count_reset(self) -> None:
        """A stream was reset, by the client or by us for its fault. Raises H2ConnectionError."""
        self._resets += 1
        if self._resets > self._limits.resets_per_10s:
            raise H2ConnectionError(_CALM, "too many stream resets")

    def count_own_resets(self, control: bytes) -> None:
        """Count the RST_STREAM frames with which python-h2 answered.

        Raises: H2ConnectionError.
        """
        position = 0
        while position < len(control):
            if control[position + 3] == _RST and self._is_server:
                self.count_reset()
            position += 9 + int.from_bytes(control[position : position + 3])

    def count_end(self, is_early_reset: bool) -> None:
        """A stream ended. `is_early_reset`: the client reset it before it had a response head.

        A reset after the head is how clients leave an event stream, so only early ones make the
        share that is limited. Raises: H2ConnectionError when more than half of the last 200 were.
        """
        self._history = (self._history << 1 | is_early_reset) & _HISTORY_MASK
        self._ended += 1
        if is_early_reset and self._ended >= _HISTORY and self._history.bit_count() > _HISTORY // 2:
            raise H2ConnectionError(_CALM, "most streams are reset")
