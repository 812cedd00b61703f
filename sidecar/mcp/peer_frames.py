"""What workers say to each other, as frames: plain values in, plain values out. No I/O.

Source: `peers`, which sends them.
"""

from __future__ import annotations

from typing import Any

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request
from sidecar.mcp.era import MODERN
from sidecar.mcp.peer_facts import connection_of, connection_told, facts_of, put_facts
from sidecar.mcp.upstream.base import Held, Inbound, Messages, Outbound, Refused, Scope
from sidecar.telemetry.w3c import TraceContext

Frame = dict[str, Any]


def asked(
    op: str,
    key: str,
    outbound: Outbound,
    last_event_id: bytes = b"",
    *,
    with_facts: bool = True,
) -> Frame:
    """A question: `op` is the method of Target. `with_facts`: whether the owner's policies may
    ask for what ours learnt."""
    scope, held = outbound.scope, outbound.held
    return {
        "op": op,
        "key": key,
        "scope": [scope.kind, scope.key.hex(), scope.owner],
        "era": outbound.era,
        "version": outbound.version,
        "held": [held.upstream_id, held.version, held.pin],
        "message": outbound.message,
        "client": outbound.client if held.version == MODERN else None,
        "headers": _texts(outbound.headers),
        "of": _request(outbound.of, with_facts=with_facts),
        "last": last_event_id.decode("latin-1"),
    }


def outbound_of(frame: Frame) -> Outbound:
    """The question as the owner's target gets it."""
    kind, key, owner = frame["scope"]
    return Outbound(
        frame["message"],
        frame["era"],
        frame["version"],
        _request_of(frame["of"]),
        _headers(frame["headers"]),
        Scope(kind, bytes.fromhex(key), owner),
        held_of(frame["held"]),
        frame["client"],
    )


def held_of(told: list[str]) -> Held:
    """See Held."""
    return Held(*told)


def begun(messages: Messages, held: Held, *, listens: bool) -> Frame:
    """The answer has begun."""
    told = [held.upstream_id, held.version, held.pin]
    return {"held": told, "json": messages.is_json, "r": messages.retry_ms, "listens": listens}


def message(inbound: Inbound, retry_ms: int | None) -> Frame:
    """One message of it."""
    return {"m": inbound.message, "e": inbound.event_id.decode("latin-1"), "r": retry_ms}


def refused(refusal: Refused) -> Frame:
    """The server refused."""
    body = refusal.body.decode("latin-1")
    return {"refused": [refusal.status, _texts(refusal.headers), body]}


def failed(error: UpstreamError) -> Frame:
    """The server failed."""
    return {"error": [error.status, error.code, error.message, error.retryable, error.sent]}


def error_of(frame: Frame) -> UpstreamError | None:
    """What `failed` told; None when the frame says something else."""
    if "error" not in frame:
        return None
    status, code, text, retryable, sent = frame["error"]
    return UpstreamError(status, code, text, retryable=retryable, sent=sent)


def check(frame: Frame) -> None:
    """Raises: Refused, UpstreamError as the owner met them."""
    error = error_of(frame)
    if error is not None:
        raise error
    if "refused" in frame:
        status, headers, body = frame["refused"]
        raise Refused(status, _headers(headers), body.encode("latin-1"))


def _texts(headers: Headers) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def _headers(texts: list[list[str]]) -> Headers:
    return Headers((name.encode("latin-1"), value.encode("latin-1")) for name, value in texts)


def _request(request: Request, *, with_facts: bool) -> Frame:
    """What the owner's target may need of the client's request: where it came from, its trace."""
    trace = request.trace
    return {
        "line": [request.method, request.scheme, request.authority, request.target],
        "headers": _texts(request.headers),
        "from": connection_told(request.connection),
        "at": request.started_ns,
        "trace": _trace(trace) if isinstance(trace, TraceContext) else None,
        "facts": facts_of(request) if with_facts else None,
    }


def _trace(trace: TraceContext) -> list[Any]:
    ids = [f"{number:x}" for number in (trace.trace_id, trace.span_id, trace.parent_id)]
    return [*ids, trace.sampled, trace.state.decode("latin-1")]


def _request_of(told: Frame) -> Request:
    method, scheme, authority, target = told["line"]
    made = Request(
        method,
        scheme,
        authority,
        target,
        "HTTP/1.1",
        _headers(told["headers"]),
        FixedBody(),
        connection_of(told["from"]),
        told["at"],
    )
    put_facts(made, told.get("facts") or {})
    trace = told["trace"]
    if trace is not None:
        trace_id, span_id, parent_id = (int(number, 16) for number in trace[:3])
        made.trace = TraceContext(
            trace_id, span_id, parent_id, trace[3], trace[4].encode("latin-1")
        )
    return made
