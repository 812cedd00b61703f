"""What the federation asks of a server behind the gateway, whatever carries the messages.

Source: spec/mcp_a2a.md sections 1.3, 1.4 and 2.5.

Names, URIs and ids in messages are the server's own here: the federation has rewritten them. A
target does not know of other targets, of authorization or of the client's transport.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, final

from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.jsonrpc import Json

Era = Literal["legacy", "modern"]
"""Legacy: initialize and sessions (2024-11-05 to 2025-11-25). Modern: 2026-07-28."""


@final
@dataclass(frozen=True, slots=True)
class Held:
    """What belongs to one session of a client at one target."""

    upstream_id: str = ""
    """The server's own `Mcp-Session-Id`; "" when it gave none, or the transport has none."""
    version: str = ""
    """The protocol version agreed with it."""
    pin: str = ""
    """`ip:port` of the endpoint that holds the session; "" when any will do."""


@final
@dataclass(frozen=True, slots=True)
class Scope:
    """Whom a child process, or a connection that only one process can hold, works for.

    `kind` session: one client's session, `key` its id. principal: all stateless requests of one
    principal, `key` its hash.
    """

    kind: Literal["session", "principal"]
    key: bytes
    owner: int
    """Index of the worker that holds it; a target elsewhere reaches it over that one's socket."""

    @property
    def is_anyones(self) -> bool:
        """Whether it is that of all who did not say who they are."""
        return is_anyones(self.kind, self.key)


def is_anyones(kind: str, key: bytes) -> bool:
    """See `Scope.is_anyones`. The key of nobody is zeros (see mcp.sessions.principal_of)."""
    return kind == "principal" and not any(key)


@final
@dataclass(slots=True)
class Outbound:
    """One message to one server."""

    message: Json
    era: Era
    version: str
    """As `MCP-Protocol-Version` tells it; "" before initialize."""
    of: Request
    """The client's request: trace, connection, and what policies put into its state."""
    headers: Headers
    """Headers of the client to pass on: neither hop-by-hop, nor of MCP, nor credentials."""
    scope: Scope
    held: Held = field(default_factory=Held)
    client: Json | None = None
    """`params` of the client's `initialize`, where a session is served; None when not known."""
    is_polled: bool = False
    """Whether the client itself takes up a stream that the server ends before the answer."""


@final
@dataclass(frozen=True, slots=True)
class Inbound:
    """One message from a server."""

    message: Json
    """Empty for an event that says but an id, or how long to wait; only who polls gets these."""
    event_id: bytes = b""
    """Of the server's event stream; b"" when it named none."""
    retry_ms: int | None = None
    """What this event asks a client to wait before it takes the stream up again."""


class Messages(Protocol):
    """The messages that belong to one request, or to a listening stream, in order.

    Whoever takes one reads it to its end or closes it.
    """

    is_json: bool
    """Whether the server answered with one JSON document: the client may get the same."""
    retry_ms: int | None
    """What the server's stream last asked a client to wait before it resumes."""

    async def next(self) -> Inbound | None:
        """The next message; None at the end. A request's stream ends after its answer.

        Raises: UpstreamError when the server fails; the idle timeout is the target's.
        """

    def close(self) -> None:
        """The reader gives up: HTTP ends the exchange, stdio sends `notifications/cancelled` for a
        modern request. Idempotent."""


@final
@dataclass(slots=True)
class Answered:
    """How a server took a request."""

    messages: Messages
    held: Held
    """What it is held by from now on (initialize); else that of the request."""


@final
class Refused(Exception):
    """An HTTP server did not take the message; the federation decides what the client sees.

    `status` 404 to a request with a session means that the server forgot it. `body` is whole, at
    most 64 KiB; `headers` hold `www-authenticate` where there was one.
    """

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.headers = headers
        self.body = body


class Target(Protocol):
    """One server."""

    name: str

    async def request(self, outbound: Outbound) -> Answered:
        """Send a request. Raises: UpstreamError, Refused."""

    async def send(self, outbound: Outbound) -> None:
        """Send a notification or the client's answer to a request of the server.

        Raises: UpstreamError, Refused.
        """

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """The stream of what belongs to no request (legacy); `message` is empty. None when the
        server has none. Raises: UpstreamError, Refused."""

    async def end(self, outbound: Outbound) -> None:
        """End the session that `held` or `scope` names, as far as there is one. Never raises for a
        server that does not care."""


class SendHttp(Protocol):
    """How HTTP targets reach their server: pools, TLS, credentials, spans and metrics behind it."""

    async def __call__(
        self, request: Request, timeout_seconds: float, pin: str = ""
    ) -> tuple[Response, str]:
        """Send; the response's head, its body unread, and `ip:port` of the endpoint that took it.

        `timeout_seconds`: until the head. `pin`: the endpoint to use; another one is an
        UpstreamError. Raises: UpstreamError.
        """


Clock = Callable[[], int]
"""Nanoseconds, monotonic."""
