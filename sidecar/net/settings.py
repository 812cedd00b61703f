"""Limits and timeouts of a downstream connection, with the defaults this gateway ships.

Source: spec hardening section 4.2 (last column), design section 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What one front door allows. Sizes in bytes, times in seconds."""

    request_line_bytes: int = 8 * 1024
    header_bytes: int = 32 * 1024
    header_count: int = 100
    header_read_seconds: float = 10.0
    idle_seconds: float = 60.0
    body_stall_seconds: float = 60.0
    """A body whose sender stalls this long, or a reader that takes nothing this long, is cut."""
    body_stall_bytes: int = 1024
    """A sender that brings less than this in `body_stall_seconds` stalls (unless its body ends)."""
    tunnel_idle_seconds: float = 3600.0
    """An upgraded connection on which neither side says anything this long is cut."""
    requests_per_connection: int = 10_000
    stream_buffer_bytes: int = 64 * 1024
    """Bytes held for a reader before the source is paused; a chunk more may be on its way."""
    max_connection_seconds: float = 0.0
    """0 means no limit."""
    preserves_case: bool = False
    """Whether names of fields go on as they were spelt, both ways, from HTTP/1 to HTTP/1."""
    h2_max_streams: int = 100
    h2_requests_per_connection: int = 1_000_000
    """As many for each stream that may be open at once as an HTTP/1.1 connection has."""
    h2_stream_window_bytes: int = 64 * 1024
    h2_connection_window_bytes: int = 1024 * 1024
    h2_frame_bytes: int = 16 * 1024
    h2_header_list_bytes: int = 32 * 1024
    h2_keepalive_interval_seconds: float = 0.0
    h2_keepalive_timeout_seconds: float = 20.0
    h2_resets_per_10s: int = 100
    h2_pings_per_10s: int = 50
    h2_empty_data_frames: int = 10
    h2_continuation_frames: int = 16
