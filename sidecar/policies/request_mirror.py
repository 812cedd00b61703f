"""Sends a copy of a share of the requests to another backend and ignores its answer.

Source: spec/config.md section 3.4 and 3.2 step 6: the body is not mirrored.
"""

from __future__ import annotations

from typing import Self, final

from pydantic import Field, model_validator

from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig, exactly_one


class ServicePort(PolicyConfig):
    """A port of a service of the top-level `services` list."""

    name: str
    """`namespace/hostname`."""
    port: int = Field(ge=0, le=65535)
    """Port of the service."""


class Backend(PolicyConfig):
    """Where the copies go; exactly one key."""

    host: str | None = None
    """`host:port`, `unix:/path`, or an http(s) URL without a path."""
    service: ServicePort | None = None
    """A service's port."""
    backend: str | None = None
    """Name of a top-level backend."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self)
        return self


class Config(PolicyConfig):
    """The mirror and how much it gets."""

    backend: Backend
    """Where the copies go."""
    percentage: float = Field(ge=0, le=1, allow_inf_nan=False)
    """Fraction of the requests that are copied, 0.0 to 1.0."""


@final
class RequestMirror:
    """The sampling decision and the copy; the pipeline sends it."""

    __slots__ = ("_fraction", "backend")

    def __init__(self, config: Config, services: Services) -> None:
        self.backend = config.backend
        self._fraction = config.percentage

    def is_sampled(self, draw: float) -> bool:
        """Whether to copy the request for which `draw` was drawn, uniformly from [0, 1)."""
        return draw < self._fraction

    def copied(self, request: Request) -> Request:
        """The request without its body, which shares no mutable part with the original."""
        headers = Headers(item for item in request.headers if item[0] != b"content-length")
        copy = Request(
            request.method,
            request.scheme,
            request.authority,
            request.target,
            request.version,
            headers,
            FixedBody(),
            request.connection,
            request.started_ns,
        )
        copy.trace = request.trace
        return copy


KIND = PolicyKind("requestMirror", Config, RequestMirror)
