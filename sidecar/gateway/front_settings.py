"""What `frontendPolicies` says of connections, as the front doors take it.

Source: spec/config.md sections 1.10 and 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidecar.config.scalars import duration_seconds
from sidecar.net.h2_endpoint import limits_of
from sidecar.net.settings import HttpSettings

Data = Mapping[str, Any]


def http_settings(policy: Data) -> HttpSettings:
    """Of `frontendPolicies.http`. Raises ConfigError for values HTTP/2 cannot express."""
    seconds = {
        name: duration_seconds(policy[key])
        for name, key in (
            ("idle_seconds", "http1IdleTimeout"),
            ("max_connection_seconds", "maxConnectionDuration"),
            ("h2_keepalive_interval_seconds", "http2KeepaliveInterval"),
            ("h2_keepalive_timeout_seconds", "http2KeepaliveTimeout"),
        )
        if policy.get(key) is not None
    }
    numbers = {
        name: policy[key]
        for name, key in (
            ("header_count", "http1MaxHeaders"),
            ("h2_stream_window_bytes", "http2WindowSize"),
            ("h2_connection_window_bytes", "http2ConnectionWindowSize"),
            ("h2_frame_bytes", "http2FrameSize"),
            ("h2_header_list_bytes", "http2MaxHeaderSize"),
        )
        if policy.get(key) is not None
    }
    values: dict[str, Any] = {**seconds, **numbers}
    values["preserves_case"] = policy.get("http1HeaderCase") == "preserve"
    settings = HttpSettings(**values)
    limits_of(settings)
    return settings


def keepalive_of(tcp: Data | None) -> tuple[int, int, int] | None:
    """Seconds of idleness, seconds between probes, probes, of the key `tcp`; None for no probes."""
    keep = (tcp or {}).get("keepalives")
    if keep is None or not keep.get("enabled", True):
        return None
    time = keep.get("time")
    interval = keep.get("interval")
    return (
        180 if time is None else max(1, round(duration_seconds(time))),
        180 if interval is None else max(1, round(duration_seconds(interval))),
        keep.get("retries") or 9,
    )
