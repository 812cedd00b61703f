"""How a policy calls another service: the reference in its configuration, and what it gets for it.

A policy hands its reference to `services.callouts.resolve` when it is made, which checks it and
gives a Callout; requests use that. Pools, balancing, TLS, metrics and spans are behind the seam.

Source: spec/config.md sections 0.4, 9.1 and 9.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self, final

from pydantic import Field, model_validator

from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request, Response
from sidecar.policies.schema import PolicyConfig
from sidecar.telemetry.clock import Clock

Subtype = Literal["Http", "ExtAuthz", "ExtProc", "Guardrail", "RateLimit", "Oidc"]
"""What a call is for, as metrics and spans name it."""

ANSWER_BYTES = 1024 * 1024
"""Bound of an answer's body where the caller names no other."""


class ServicePort(PolicyConfig):
    """A port of a service of the top-level `services` list."""

    name: str
    """`namespace/hostname`."""
    port: int = Field(ge=0, le=65535)
    """Port of the service."""


class CalloutConfig(PolicyConfig):
    """Base of policies that call out: exactly one of `host`, `service` and `backend`."""

    host: str | None = None
    """`host:port`, `unix:/path`, or an http(s) URL without a path."""
    service: ServicePort | None = None
    """A service's port."""
    backend: str | None = None
    """Name of a top-level backend."""
    policies: dict[str, Any] = Field(default_factory=dict)
    """How the destination is reached: backendTLS, http, tcp and header changes."""

    @model_validator(mode="after")
    def _one_destination(self) -> Self:
        if sum(one is not None for one in (self.host, self.service, self.backend)) != 1:
            raise ValueError("must set exactly one of `host`, `service`, `backend`")
        return self

    @property
    def reference(self) -> Mapping[str, Any]:
        """The destination as `Callouts.resolve` takes it."""
        if self.host is not None:
            return {"host": self.host}
        if self.backend is not None:
            return {"backend": self.backend}
        assert self.service is not None
        return {"service": {"name": self.service.name, "port": self.service.port}}


class Stream(Protocol):
    """A gRPC call with messages both ways. One task receives at a time.

    Whoever made it ends it by `finish`, after which it goes by itself, or by `close`. Its steps
    have no deadlines: see Callout.seconds.
    """

    def send(self, message: bytes) -> None:
        """Queue a message; then `wait_room`. Whether the call lives is told by `receive`."""

    async def wait_room(self) -> None:
        """Until little waits to go out, or nothing goes out any more."""

    async def receive(self) -> bytes | None:
        """The next message; None when the peer ended with OK. Raises: GrpcError, UpstreamError.

        May be cancelled; nothing is lost by that.
        """

    def finish(self) -> None:
        """Nothing more is sent, and nobody receives: what the peer says is passed by."""

    def close(self) -> None:
        """Cut it."""


class Callout(Protocol):
    """A destination, ready to be called."""

    label: str
    """Names it in logs, as `127.0.0.1:8081`."""

    async def send(
        self,
        request: Request,
        timeout_seconds: float,
        limit_bytes: int = ANSWER_BYTES,
        *,
        authority: str = "",
    ) -> Response:
        """Send a request made by `outgoing`; the answer's body is whole, a FixedBody.

        `authority`: what the service is called by, whatever the backend's own name is; "" for that,
        or the request's, or the address. The backend's own `http.requestTimeout` goes before
        `timeout_seconds`; the deadline holds until the last octet of the body. Cancelling it ends
        the exchange.
        Raises: UpstreamError, also for a body past `limit_bytes`.
        """

    async def unary(
        self,
        path: str,
        message: bytes,
        timeout_seconds: float,
        of: Request,
        metadata: tuple[tuple[bytes, bytes], ...] = (),
    ) -> bytes:
        """One gRPC call, `path` as `/package.Service/Method`; the answer's message.

        `of`: the client's request, whose trace the call belongs to. Raises: GrpcError for a status
        that is not OK; UpstreamError when the call failed below gRPC.
        """

    def unary_later(self, path: str, message: bytes, timeout_seconds: float, of: Request) -> bool:
        """The same in the background, once, its answer ignored. False when too many wait."""

    def stream(
        self, path: str, of: Request, metadata: tuple[tuple[bytes, bytes], ...] = ()
    ) -> Stream:
        """A gRPC call with messages both ways; it begins with the first `send`. See `unary`."""

    def seconds(self, default: float) -> float:
        """How long a step of a stream may take: the backend's `http.requestTimeout`, or this."""


class Callouts(Protocol):
    """What a policy may call."""

    def resolve(
        self, reference: Mapping[str, Any], policies: Mapping[str, Any], subtype: Subtype
    ) -> Callout:
        """The destination of a reference, with the inline `policies` of the call.

        Raises: ConfigError, its path relative to the policy.
        """


def outgoing(method: str, target: str, headers: Headers, body: bytes, *, of: Request) -> Request:
    """A request of the gateway's own, in the trace of the client's request `of`."""
    made = Request(
        method,
        "http",
        "",
        target,
        "HTTP/1.1",
        headers,
        FixedBody(body),
        of.connection,
        of.started_ns,
    )
    made.trace = of.trace
    return made


def unprompted(
    method: str,
    target: str,
    headers: tuple[tuple[bytes, bytes], ...],
    clock: Clock,
    body: bytes = b"",
) -> Request:
    """A request of the gateway's own, for which no client waits, in no trace."""
    return Request(
        method,
        "http",
        "",
        target,
        "HTTP/1.1",
        Headers(headers),
        FixedBody(body),
        Connection("", 0, "", 0),
        clock.monotonic_ns(),
    )


@final
class _Nowhere:
    """A destination of `Nowhere`."""

    label = ""

    async def send(
        self,
        request: Request,
        timeout_seconds: float,
        limit_bytes: int = ANSWER_BYTES,
        *,
        authority: str = "",
    ) -> Response:
        """Raises UpstreamError."""
        raise _unreachable()

    async def unary(
        self,
        path: str,
        message: bytes,
        timeout_seconds: float,
        of: Request,
        metadata: tuple[tuple[bytes, bytes], ...] = (),
    ) -> bytes:
        """Raises UpstreamError."""
        raise _unreachable()

    def unary_later(self, path: str, message: bytes, timeout_seconds: float, of: Request) -> bool:
        """Never sent."""
        return False

    def stream(
        self, path: str, of: Request, metadata: tuple[tuple[bytes, bytes], ...] = ()
    ) -> Stream:
        """Raises UpstreamError."""
        raise _unreachable()

    def seconds(self, default: float) -> float:
        """See Callout."""
        return default


def _unreachable() -> UpstreamError:
    return UpstreamError(503, "UpstreamFailure", "this process calls no services", sent=False)


@final
class Nowhere:
    """For processes that make policies without serving requests: every call fails."""

    def resolve(
        self, reference: Mapping[str, Any], policies: Mapping[str, Any], subtype: Subtype
    ) -> Callout:
        """See Callouts. Checks only that there is a reference."""
        if not reference:
            raise ConfigError("", "needs one of host, service or backend")
        return _Nowhere()
