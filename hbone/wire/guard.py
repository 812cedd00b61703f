"""Counts the frames of one connection, to end it before a peer's abuse costs anything.

Source: RFC 9113 sections 4.2, 6.10 and 10.5; spec hardening section 4.3 B 20 to 26.

Counts are kept in fixed windows of ten seconds: a peer can get twice a limit across an edge. What a
tunnel needs is in proportion to tunnels and data, so those raise the limits of control frames.
"""

from __future__ import annotations

from typing import Final, final

from h2.errors import ErrorCodes

from hbone.errors import WireError
from hbone.wire.limits import Limits

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM: Final = 1
END_HEADERS: Final = 4
PADDED: Final = 8

_WINDOW_SECONDS: Final = 10.0
_CONTROL_BYTES: Final = 16 * 1024
_MANY: Final = 10
_CALM: Final = ErrorCodes.ENHANCE_YOUR_CALM
_PROTOCOL: Final = ErrorCodes.PROTOCOL_ERROR


@final
class Guard:
    """`check` sees each frame's header, before anything of the frame is kept."""

    __slots__ = (
        "_block_bytes",
        "_block_stream",
        "_continuations",
        "_counts",
        "_early_resets",
        "_empty",
        "_is_first",
        "_limits",
        "_opened",
        "_since",
        "sent_frames",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._is_first = True
        self._block_stream = 0
        self._block_bytes = self._continuations = self._empty = 0
        self._since = 0.0
        self._counts = [0] * 10
        self._early_resets = self._opened = 0
        self.sent_frames = 0
        """DATA frames we sent in this window: each earns the peer its control frames."""

    def roll(self, now: float) -> None:
        """Begin a new window when this one is over. `now`: seconds, monotonic."""
        if now - self._since >= _WINDOW_SECONDS:
            self._since = now
            self._counts = [0] * 10
            self._early_resets = self._opened = self.sent_frames = 0

    def check(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Raises: WireError."""
        self.check_size(kind, length)
        if self._is_first:
            if kind != SETTINGS or flags & 1:
                raise WireError(_PROTOCOL, "the first frame is not SETTINGS")
            self._is_first = False
        if self._block_stream and (kind != CONTINUATION or stream_id != self._block_stream):
            raise WireError(_PROTOCOL, "frame inside a header block")
        if kind == DATA:
            # Fast path: the most frequent frame.
            if length:
                self._empty = 0
            elif not flags & END_STREAM:
                self._count_empty()
        elif kind == HEADERS:
            self._check_headers(flags, stream_id, length)
        elif kind == CONTINUATION:
            self._check_continuation(flags, length)
        else:
            self._check_control(kind)

    def check_size(self, kind: int, length: int) -> None:
        """Before a frame is waited for. Raises: WireError."""
        limits = self._limits
        if length > limits.frame_bytes:
            raise WireError(ErrorCodes.FRAME_SIZE_ERROR, "frame too large")
        if kind in (HEADERS, CONTINUATION):
            if length > limits.header_frame_bytes:
                raise WireError(_CALM, "header block too large")
        elif DATA < kind < CONTINUATION and length > _CONTROL_BYTES:
            raise WireError(ErrorCodes.FRAME_SIZE_ERROR, "control frame too large")

    def count_early_reset(self) -> None:
        """A tunnel ended by its client's doing before it was answered. Raises: WireError."""
        self._early_resets += 1
        if self._early_resets > self._limits.early_resets_per_10s:
            raise WireError(_CALM, "too many early resets")

    def _check_headers(self, flags: int, stream_id: int, length: int) -> None:
        self._opened += 1
        if flags & END_HEADERS:
            return
        self._block_stream = stream_id
        self._block_bytes = length
        self._continuations = 0

    def _check_continuation(self, flags: int, length: int) -> None:
        if not self._block_stream:
            raise WireError(_PROTOCOL, "CONTINUATION without HEADERS")
        self._continuations += 1
        self._block_bytes += length
        if self._continuations > self._limits.continuations:
            raise WireError(_CALM, "too many CONTINUATION frames")
        if self._block_bytes > self._limits.header_frame_bytes:
            raise WireError(_CALM, "header block too large")
        if flags & END_HEADERS:
            self._block_stream = 0

    def _check_control(self, kind: int) -> None:
        index = kind if kind <= CONTINUATION else PRIORITY
        self._counts[index] += 1
        allowed = self._limits.pings_per_10s
        if kind == PING:
            allowed += self.sent_frames
        elif kind != SETTINGS:
            allowed = _MANY * (allowed + self._opened + self.sent_frames)
        if self._counts[index] > allowed:
            raise WireError(_CALM, "too many control frames")

    def _count_empty(self) -> None:
        self._empty += 1
        if self._empty > self._limits.empty_frames:
            raise WireError(_CALM, "too many empty frames")
