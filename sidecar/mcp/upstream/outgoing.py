"""A message as an HTTP request to a server, and what it says of the trace it belongs to.

Source: spec/mcp_a2a.md sections 1.3, 1.4 and 2.5; SEP-414 (trace context in `_meta`).
"""

from __future__ import annotations

from typing import Final

import orjson

from sidecar.http.headers import Field, Headers
from sidecar.http.message import FixedBody, Request
from sidecar.jsonrpc import Json
from sidecar.mcp import mirrored
from sidecar.mcp.upstream.base import Outbound
from sidecar.telemetry.w3c import TraceContext, traceparent

_JSON: Final = (b"content-type", b"application/json")
_ACCEPT: Final = (b"accept", b"application/json, text/event-stream")
_PLAIN: Final = (b"accept-encoding", b"identity")
_ACCEPT_STREAM: Final = (b"accept", b"text/event-stream")
_OURS: Final = frozenset(
    (
        b"accept",
        b"accept-encoding",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        b"last-event-id",
        b"mcp-protocol-version",
        b"mcp-session-id",
        b"mcp-method",
        b"mcp-name",
    )
)
"""What the transport says itself, whatever the client said."""


def posted(outbound: Outbound, authority: str, target: str) -> Request:
    """The request that carries the message. `Mcp-Param-*` are among the headers to pass on."""
    headers = _headers(outbound, _ACCEPT)
    headers.append(_JSON)
    message = outbound.message
    if outbound.era == "modern" and "method" in message:
        headers += mirrored.fields(message["method"], message.get("params") or {})
    body = orjson.dumps(stamped(message, outbound.of))
    return _request("POST", outbound, authority, target, headers, body)


def asked(
    method: str, outbound: Outbound, authority: str, target: str, last_event_id: bytes = b""
) -> Request:
    """A request without a message: GET of a stream, DELETE of a session."""
    headers = _headers(outbound, _ACCEPT_STREAM if method == "GET" else _ACCEPT)
    if last_event_id:
        headers.append((b"last-event-id", last_event_id))
    return _request(method, outbound, authority, target, headers, b"")


def _headers(outbound: Outbound, accept: Field) -> Headers:
    headers = Headers(field for field in outbound.headers if field[0] not in _OURS)
    headers.append(accept)
    headers.append(_PLAIN)
    if outbound.version:
        headers.append((b"mcp-protocol-version", outbound.version.encode("latin-1")))
    if outbound.era == "legacy" and outbound.held.upstream_id:
        headers.append((b"mcp-session-id", outbound.held.upstream_id.encode("latin-1")))
    return headers


def _request(
    method: str, outbound: Outbound, authority: str, target: str, headers: Headers, body: bytes
) -> Request:
    of = outbound.of
    made = Request(
        method,
        "http",
        authority,
        target,
        "HTTP/1.1",
        headers,
        FixedBody(body),
        of.connection,
        of.started_ns,
    )
    made.state = of.state
    made.route = of.route
    made.trace = of.trace
    return made


def stamped(message: Json, of: Request) -> Json:
    """The message with the client's trace in `_meta`; the same object when there is none to tell.

    A trace that began here and is not recorded means nothing to anybody, and a client that put its
    own into `_meta` alone keeps it.
    """
    trace = of.trace
    if "method" not in message or not isinstance(trace, TraceContext):
        return message
    if not (trace.sampled or trace.parent_id):
        return message
    params = message.get("params")
    params = params if params is not None else {}
    meta = params.get("_meta")
    if meta is not None and not isinstance(meta, dict):
        return message
    told = traceparent(trace.trace_id, trace.span_id, trace.sampled).decode()
    meta = {**(meta or {}), "traceparent": told}
    if trace.state:
        meta["tracestate"] = trace.state.decode("latin-1")
    baggage = b",".join(of.headers.get_all(b"baggage"))
    if baggage:
        meta["baggage"] = baggage.decode("latin-1")
    return {**message, "params": {**params, "_meta": meta}}
