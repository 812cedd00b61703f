"""How long a request and each upstream call may take until the response's headers.

Source: spec/config.md section 3.4.
"""

from __future__ import annotations

from typing import final

from pydantic import Field

from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig, Seconds


class Config(PolicyConfig):
    """Two bounds. Streaming of the response's body is not bounded by either."""

    request_timeout_seconds: Seconds | None = Field(default=None, alias="requestTimeout")
    """From the request's start to the response's headers, over all delays, attempts and waits
    between them; 504 when it passes. Default: unbounded; `0s` means the same."""
    backend_request_timeout_seconds: Seconds | None = Field(
        default=None, alias="backendRequestTimeout"
    )
    """Of each upstream call; 504 when it passes. Default: unbounded; `0s` means the same."""


@final
class Timeout:
    """The bounds, for the pipeline that keeps them. None: unbounded."""

    __slots__ = ("backend_request_seconds", "request_seconds")

    def __init__(self, config: Config, services: Services) -> None:
        # Zero switches a bound off, as in the Gateway API; a bound that always fails helps nobody.
        self.request_seconds = config.request_timeout_seconds or None
        self.backend_request_seconds = config.backend_request_timeout_seconds or None


KIND = PolicyKind("timeout", Config, Timeout)
