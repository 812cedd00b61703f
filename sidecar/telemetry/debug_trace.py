"""Events of requests while they are under way, for an operator who listens (`/debug/trace`).

A frame is one event of a `text/event-stream`, made here once and handed on as it is. What cannot be
handed on at once is dropped and counted, and the next frame that can tells how many were.

Source: spec/config.md section 8.4; WHATWG HTML section 9.2 (server-sent events);
unix(7), SO_PEERCRED.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final, Literal, final

import orjson

from sidecar.cel.headers_view import redact_headers, text_of
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.expressions import Expression
from sidecar.telemetry.fields import AGENT_FIELDS, AccessEntry, RouteFacts, source_address
from sidecar.telemetry.logs import Timestamps
from sidecar.telemetry.w3c import TraceContext

RESOURCE: Final = "runtime/trace"
"""`{address, expression}`: where control listens, an abstract name of a Unix socket, and which
requests are wanted. It is published to workers, and stands in no dump."""
MAX_FRAME_BYTES: Final = 64 * 1024
STATE: Final = "debugTrace"
"""Where `request.state` has its Watched, or None: it was looked at, and is not asked for."""

_PEER: Final = struct.Struct("3i")
"""`struct ucred`: pid, uid, gid."""

Severity = Literal["success", "info", "warn", "error"]
Send = Callable[[bytes], bool]
"""Takes a frame; False when there is no room for it now, or nobody to take it."""

_CREDENTIALS: Final = frozenset(
    (
        *(b"cookie", b"set-cookie", b"x-api-key", b"api-key", b"x-goog-api-key", b"x-auth-token"),
        *(b"x-amz-security-token", b"x-access-token", b"dpop"),
    )
)
"""Beside those that are redacted everywhere."""
_SECRET_NAME: Final = re.compile(
    rb"authorization|assertion|cookie|credential|jwt|key|passw|secret|session|signature"
    rb"|token(?!s|-count)"
)
"""A policy may look for a credential in any field: better one value too many than one too few."""
_URLS: Final = frozenset(
    (
        *(b"referer", b"location", b"content-location", b"x-original-url", b"x-rewrite-url"),
        *(b"x-original-uri", b"x-forwarded-uri", b"x-envoy-original-path"),
    )
)
_QUERY: Final = re.compile(rb"[?#]")


def frame(kind: str, data: dict[str, object]) -> bytes:
    """One event. Raises: TypeError for what JSON lacks, as text that is no Unicode."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(data, default=str))


def peer_uid(connection: socket.socket) -> int:
    """Whose process the other end of a Unix socket is. Raises: OSError."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    uid: int = _PEER.unpack(raw)[1]
    return uid


@final
class DebugTrace:
    """One listener, as a worker sees it."""

    __slots__ = (
        "_clock",
        "_count",
        "_dropped",
        "_filter",
        "_send",
        "_sensitive",
        "_times",
        "worker",
    )

    def __init__(
        self,
        wanted: Expression | None,
        sensitive_headers: Iterable[bytes],
        send: Send,
        clock: Clock,
        worker: int,
    ) -> None:
        """`wanted`: true for requests that are asked for, when their head has come; None: all."""
        self._filter = wanted
        self._sensitive = _CREDENTIALS.union(sensitive_headers)
        self._send = send
        self._clock = clock
        self._times = Timestamps()
        self._count = 0
        self._dropped = 0
        self.worker = worker

    def watched(self, request: Request) -> Watched | None:
        """Begin to tell of a request; None: it is not asked for. The same again, asked again."""
        known = request.state.get(STATE, self)
        if known is not self:
            return known if isinstance(known, Watched) else None
        found: Watched | None = None
        entry = AccessEntry(request.connection, request)
        if self._filter is None or self._filter.is_true(entry):
            self._count += 1
            found = Watched(self, f"{self.worker}-{self._count}")
            found.started(request)
        request.state[STATE] = found
        return found

    def tell(self, kind: str, name: str, severity: Severity, facts: dict[str, object]) -> None:
        """Hand on an event of the request of this name."""
        head: dict[str, object] = {
            "type": kind,
            "severity": severity,
            "time": self._times.format(self._clock.time_ns()),
            "worker": self.worker,
        }
        if name:
            head["request"] = name
        try:
            made = frame(kind, head | facts)
        except TypeError:
            made = b""
        if not 0 < len(made) <= MAX_FRAME_BYTES:
            made = frame(kind, head | {"cut": True})
        if self._dropped:
            lost = {"type": "dropped", "severity": "warn", "worker": self.worker}
            if not self._send(frame("dropped", {**lost, "count": self._dropped})):
                self._dropped += 1
                return
            self._dropped = 0
        if not self._send(made):
            self._dropped += 1

    def headers(self, request: Request, fields: Headers) -> list[tuple[str, str]]:
        """The fields in their order, without what is secret."""
        more = request.state.get("sensitive_headers")
        hidden = self._sensitive | more if isinstance(more, frozenset | set) else self._sensitive
        hidden = hidden.union(name for name, _ in fields if _SECRET_NAME.search(name))
        shown = redact_headers(fields, frozenset(hidden))
        return [(name.decode("latin-1"), text_of(_told(name, value))) for name, value in shown]


def _told(name: bytes, value: bytes) -> bytes:
    """A field's value; of a URL what is before the query."""
    return _QUERY.split(value, maxsplit=1)[0] if name in _URLS else value


@final
class Watched:
    """One request that is told of."""

    __slots__ = ("_name", "_route", "_trace")

    def __init__(self, trace: DebugTrace, name: str) -> None:
        self._trace = trace
        self._name = name
        self._route: RouteFacts | None = None

    def _tell(self, kind: str, severity: Severity = "info", **facts: object) -> None:
        self._trace.tell(kind, self._name, severity, facts)

    def started(self, request: Request) -> None:
        """Its head has come. Paths are told without the query, which may carry credentials."""
        self._tell(
            "requestStarted",
            method=request.method,
            host=request.received_authority,
            path=request.received_path,
            version=request.version,
            source=source_address(AccessEntry(request.connection)),
        )
        self._tell("requestSnapshot", headers=self._trace.headers(request, request.headers))

    def routed(self, route: RouteFacts) -> None:
        """A route was chosen. The same again, where a request is begun anew, is told once."""
        if route is self._route:
            return
        self._route = route
        self._tell(
            "routeSelection",
            selectedRoute=route.route,
            rule=route.route_rule,
            listener=route.listener,
            gateway=route.gateway,
        )

    def called(self, endpoint: str) -> None:
        """A call of a backend goes out."""
        self._tell("backendCallStart", target=endpoint)

    def call_ended(self, endpoint: str, took_ns: int) -> None:
        """The head of its answer has come, or it has failed."""
        self._tell("backendCallResult", target=endpoint, durationMs=took_ns / 1e6)

    def answered(self, request: Request, response: Response) -> None:
        """This is what the client gets."""
        shown = self._trace.headers(request, response.headers)
        trace = request.trace
        trace_id = trace.trace_id_hex if isinstance(trace, TraceContext) else None
        self._tell("responseSnapshot", status=response.status, headers=shown, traceId=trace_id)

    def finished(
        self,
        request: Request,
        status: int,
        sent_bytes: int,
        error: str,
        reason: str,
        took_ns: int,
    ) -> None:
        """It is over. `fields`: what the access log tells of models, tools and agents."""
        entry = AccessEntry(request.connection, request)
        fields = {one.name: found for one in AGENT_FIELDS if (found := one.get(entry)) is not None}
        severity: Severity = "success"
        if 400 <= status < 500:
            severity = "warn"
        elif error or not 100 <= status < 400:
            severity = "error"
        self._tell(
            "requestFinished",
            severity,
            status=status,
            reason=reason,
            error=error,
            responseBytes=sent_bytes,
            durationMs=took_ns / 1e6,
            fields=fields,
        )
