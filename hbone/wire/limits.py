"""What one HBONE connection allows and announces.

Source: spec istio 1.6 to 1.8; RFC 9113 section 6.5.2; spec hardening section 4.3 B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

DEFAULT_WINDOW_BYTES: Final = 65_535
MAX_STREAM_ID: Final = 2**31 - 1
_MAX_WINDOW_BYTES: Final = 2**31 - 1


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes. Raises ValueError for what HTTP/2 cannot express."""

    stream_window_bytes: int = 4 * 1024 * 1024
    connection_window_bytes: int = 16 * 1024 * 1024
    """Above the stream's: else one tunnel that nobody reads would stop every other."""
    unread_bytes: int = 16 * 1024 * 1024
    """What all tunnels together may hold unread before the connection's window shrinks.

    Up to it octets are acknowledged to the connection as they arrive, past it as they are read (a
    tunnel's own window: always as they are read). So a connection never holds more than this and
    its window, and only so many stalled tunnels (8 by default) can hold up the others.
    """
    frame_bytes: int = 1024 * 1024
    """The largest frame taken."""
    sent_frame_bytes: int = 64 * 1024
    """The largest DATA frame sent, if the peer takes as much: larger ones are slower in Python."""
    max_streams: int = 200
    """What a server announces; a stream above is refused, the others live on."""
    client_streams: int = 100
    """How many a client opens at once, if the server takes as many."""
    header_list_bytes: int = 64 * 1024
    """Of a CONNECT, as a server takes it."""
    client_header_list_bytes: int = 16 * 1024
    """Of an answer, as a client takes it."""
    header_frame_bytes: int = 128 * 1024
    """An encoded header block with its continuations."""
    early_resets_per_10s: int = 200
    """Tunnels that a client takes back before they were answered."""
    pings_per_10s: int = 100
    """Also SETTINGS; other control frames ten times as many, each in proportion to streams."""
    empty_frames: int = 100
    """DATA without octets and without an end, in a row."""
    continuations: int = 16
    ping_interval_seconds: float = 10.0
    """Of silence, before we ask whether the peer is there; 0 for never."""
    ping_timeout_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("stream_window_bytes", 1, _MAX_WINDOW_BYTES),
            ("connection_window_bytes", DEFAULT_WINDOW_BYTES, _MAX_WINDOW_BYTES),
            ("unread_bytes", 0, _MAX_WINDOW_BYTES),
            ("frame_bytes", 2**14, 2**24 - 1),
            ("sent_frame_bytes", 1, 2**24 - 1),
            ("max_streams", 1, MAX_STREAM_ID),
            ("client_streams", 1, MAX_STREAM_ID),
            ("header_list_bytes", 1024, _MAX_WINDOW_BYTES),
            ("client_header_list_bytes", 1024, _MAX_WINDOW_BYTES),
            ("header_frame_bytes", 1024, _MAX_WINDOW_BYTES),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: {value} is not between {low} and {high}")
        if self.connection_window_bytes < self.stream_window_bytes:
            raise ValueError("connection_window_bytes is below stream_window_bytes")
