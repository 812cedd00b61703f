"""Request, Response and their bodies: what both front doors make and the one pipeline serves.

Source: RFC 9110; design section 3.

Bodies are pulled: a reader that does not read stops its source. Whoever takes a message's body
reads it to the end or closes it; `close` is idempotent and tells the source that nobody listens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, final

from sidecar.errors import BodyTooLarge
from sidecar.http.headers import Headers


class Body(Protocol):
    """A stream of bytes with optional trailers.

    `length`: octets declared by the sender, None when it did not say. `trailers`: complete once
    `read` gave b"", empty or absent (None) before.
    """

    length: int | None
    trailers: Headers | None

    def read_nowait(self) -> bytes | None:
        """A chunk at hand; b"" at the end, for ever; None when it would have to wait.

        Raises like `read`.
        """

    async def read(self) -> bytes:
        """The next chunk, never empty before the end; b"" at the end.

        Raises: ClientDisconnected, RequestError (bad framing) from a request's body;
        UpstreamError from a response's.
        """

    def close(self) -> None:
        """The reader gives up. The source may stop its peer. No further read."""


@final
class FixedBody:
    """A body that is wholly at hand."""

    __slots__ = ("length", "trailers", "unread")

    def __init__(self, data: bytes = b"", trailers: Headers | None = None) -> None:
        self.unread = data
        """What was not read yet."""
        self.length: int | None = len(data)
        self.trailers = trailers

    def read_nowait(self) -> bytes | None:
        """See Body."""
        data, self.unread = self.unread, b""
        return data

    async def read(self) -> bytes:
        """See Body."""
        data, self.unread = self.unread, b""
        return data

    def close(self) -> None:
        """See Body."""
        self.unread = b""

    def copy(self) -> FixedBody:
        """Another reader of what this one has not read yet."""
        return FixedBody(self.unread, self.trailers)


@final
class PrefixedBody:
    """A body some of whose bytes were read ahead: they come first again, then the rest."""

    __slots__ = ("_prefix", "_rest", "length")

    def __init__(self, prefix: bytes, rest: Body) -> None:
        self._prefix = prefix
        self._rest = rest
        self.length = rest.length

    @property
    def trailers(self) -> Headers | None:
        """Those of the rest."""
        return self._rest.trailers

    @trailers.setter
    def trailers(self, value: Headers | None) -> None:
        self._rest.trailers = value

    def read_nowait(self) -> bytes | None:
        """See Body."""
        if self._prefix:
            data, self._prefix = self._prefix, b""
            return data
        return self._rest.read_nowait()

    async def read(self) -> bytes:
        """See Body."""
        if self._prefix:
            data, self._prefix = self._prefix, b""
            return data
        return await self._rest.read()

    def close(self) -> None:
        """See Body."""
        self._prefix = b""
        self._rest.close()


async def read_all(body: Body, limit_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge past the limit; what was read is then lost."""
    whole, rest = await read_up_to(body, limit_bytes)
    if rest is not None:
        raise BodyTooLarge(limit_bytes)
    return whole


async def read_up_to(body: Body, limit_bytes: int) -> tuple[bytes, Body | None]:
    """Read until the end or past the limit.

    Gives `(whole, None)` when the body ended within the limit, else `(b"", body)` where the
    body returned still yields every byte from the start.
    """
    if body.length is not None and body.length > limit_bytes:
        return b"", body
    parts: list[bytes] = []
    size = 0
    while True:
        chunk = body.read_nowait()
        if chunk is None:
            chunk = await body.read()
        if not chunk:
            return (parts[0] if len(parts) == 1 else b"".join(parts)), None
        parts.append(chunk)
        size += len(chunk)
        if size > limit_bytes:
            return b"", PrefixedBody(b"".join(parts), body)


@final
@dataclass(frozen=True, slots=True)
class TlsInfo:
    """What the TLS handshake told. `peer_certificate`: DER, verified by the listener's root."""

    sni: str = ""
    alpn: str = ""
    version: str = ""
    peer_certificate: bytes | None = None


@final
@dataclass(slots=True)
class Connection:
    """The downstream connection a request came on. Addresses are text without a zone.

    `peer_*` is who connected, or whom the PROXY header named; `raw_peer_*` is always the TCP peer.
    `extra` is for per-connection facts computed once (client identity, CEL view of `source`).
    """

    peer_host: str
    peer_port: int
    local_host: str
    local_port: int
    raw_peer_host: str = ""
    raw_peer_port: int = 0
    tls: TlsInfo | None = None
    connection_id: int = 0
    extra: dict[str, object] = field(default_factory=dict)


Ending = Callable[["Request", "Response | None"], None]
"""What a policy settles at the end of an exchange: after the last octet of the response, when it
was cut, or with None when the client left before there was one. It does not wait."""


@final
class Request:
    """One request, as the pipeline sees and changes it.

    `method`, `scheme` (lower case), `authority` (canonical: lower case, validated, port kept when
    given), `target` (path and query as received; `*` or `host:port` for OPTIONS and CONNECT),
    `version` ("HTTP/1.0", "HTTP/1.1" or "HTTP/2.0"), `headers` (no Host: the authority stands for
    it; hop-by-hop fields already gone). `upgrade` is the lower-case protocol of a genuine HTTP/1.1
    upgrade or an extended CONNECT, else "". `expects_continue`: the client waits for 100.
    `wants_trailers`: it sent `te: trailers`. `state` holds what policies learn and other policies,
    CEL or the log read: `jwt`, `apiKey`, `basicAuth`, `metadata`, `extauthz`, `llm`, ...
    """

    __slots__ = (
        "_host",
        "_host_of",
        "authority",
        "body",
        "connection",
        "endings",
        "expects_continue",
        "headers",
        "method",
        "on_informational",
        "received_authority",
        "received_body_bytes",
        "received_target",
        "response_headers",
        "route",
        "scheme",
        "started_ns",
        "state",
        "target",
        "trace",
        "upgrade",
        "version",
        "wants_trailers",
    )

    def __init__(
        self,
        method: str,
        scheme: str,
        authority: str,
        target: str,
        version: str,
        headers: Headers,
        body: Body,
        connection: Connection,
        started_ns: int,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self._host_of = ""
        self._host = ""
        self.target = target
        self.received_authority = authority
        self.received_target = target
        """With `received_authority` what the client asked for, whatever policies made of it."""
        self.version = version
        self.headers = headers
        self.body = body
        self.connection = connection
        self.started_ns = started_ns
        """Monotonic clock, nanoseconds, when the request's head was complete."""
        self.upgrade = ""
        self.expects_continue = False
        self.wants_trailers = False
        self.on_informational: Callable[[int, Headers], None] | None = None
        self.received_body_bytes = 0
        self.state: dict[str, object] = {}
        self.response_headers: list[tuple[bytes, bytes]] = []
        """Queued by policies (CORS, rate limit): they overwrite equal names at the very end."""
        self.endings: tuple[Ending, ...] = ()
        """Called once each when the exchange is over, however it ended: see Ending."""
        self.route: object | None = None
        """The compiled route once it is chosen (sidecar.gateway.compile.Route)."""
        self.trace: object | None = None
        """The trace context of this request (sidecar.telemetry.trace.TraceContext)."""

    @property
    def path(self) -> str:
        """The target without its query, as received."""
        return self.target.partition("?")[0]

    @property
    def received_path(self) -> str:
        """The path that the client asked for."""
        return self.received_target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the first `?`, without it."""
        return self.target.partition("?")[2]

    @property
    def host(self) -> str:
        """The authority without its port; brackets of an IPv6 literal stay."""
        authority = self.authority
        # Asked several times a request; the authority seldom changes in between.
        if self._host_of != authority:
            self._host_of = authority
            host, colon, port = authority.rpartition(":")
            self._host = host if colon and port.isdigit() else authority
        return self._host


class Tunnel(Protocol):
    """The two-way byte stream behind a 101 or a 2xx to CONNECT."""

    async def read(self) -> bytes:
        """Next bytes; b"" when the far side will send no more."""

    async def write(self, data: bytes) -> None:
        """Send; returns when more may be sent (backpressure)."""

    def write_eof(self) -> None:
        """No more bytes from us (half close, where the transport can)."""

    def close(self) -> None:
        """Drop both directions."""


@final
class Response:
    """One response. `reason` is its label in logs and metrics; "Upstream" when a backend made it.

    `tunnel` is set on a 101 (or 2xx to CONNECT): once the head is sent, bytes flow both ways.
    `error` is text for the access log. `close` asks for a downstream HTTP/1.1 connection to end.
    `on_done(sent_body_bytes, error)` is called by the front door exactly once, when the last octet
    was handed to the transport or the response was cut (`error` says why, "" when complete).
    """

    __slots__ = (
        "body",
        "close",
        "error",
        "headers",
        "on_done",
        "reason",
        "status",
        "tunnel",
        "version",
    )

    def __init__(
        self,
        status: int,
        headers: Headers | None = None,
        body: Body | None = None,
        *,
        reason: str = "Upstream",
        version: str = "HTTP/1.1",
    ) -> None:
        self.status = status
        self.headers = Headers() if headers is None else headers
        self.body: Body = FixedBody() if body is None else body
        self.reason = reason
        self.version = version
        self.tunnel: Tunnel | None = None
        self.on_done: Callable[[int, str], None] | None = None
        self.error = ""
        self.close = False


def text_response(
    status: int, text: str, *, reason: str, headers: Headers | None = None
) -> Response:
    """A locally made `text/plain` response (spec/config.md section 11)."""
    fields = Headers() if headers is None else headers
    if text and not fields.has(b"content-type"):
        fields.append((b"content-type", b"text/plain"))
    return Response(status, fields, FixedBody(text.encode()), reason=reason)


Handler = Callable[[Request], Awaitable[Response]]
"""What a front door calls for each request. It never raises but for CancelledError."""
