"""Spans of requests: who is sampled, what a span is called, what it says.

A request that is not sampled keeps the caller's `traceparent` as it came, so that what is traced
elsewhere stays whole; its identifiers serve the log alone. A sampled one becomes a SERVER span and
names itself to the upstream; each call out is a CLIENT span below it.

Source: W3C Trace Context; spec/config.md sections 1.10 (`tracing`) and 9.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import final

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, Request
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.export import CLIENT, SERVER, SpanExport, SpanRecord
from sidecar.telemetry.expressions import BodyNotes, Compiler, Expression
from sidecar.telemetry.fields import SPAN_FIELDS, AccessEntry
from sidecar.telemetry.logs import json_text
from sidecar.telemetry.w3c import TraceContext, context_of, inject, new_span_id

_PATH = "frontendPolicies.tracing"
_KEYS = frozenset(
    (
        *("host", "service", "backend", "policies", "path", "protocol"),
        *("attributes", "resources", "remove"),
        *("randomSampling", "clientSampling", "filter"),
    )
)
_NAME = "span.name"
_MAX_CHILDREN = 128
_LOW_64 = 0xFFFF_FFFF_FFFF_FFFF
_NOTHING: Mapping[str, str] = MappingProxyType({})

Attributes = dict[str, str | bool | int | float]

__all__ = ["ClientSpan", "Sampler", "TraceContext", "Tracer", "context_of"]


@final
class Sampler:
    """`clientSampling` or `randomSampling`: a truth, a share from 0 to 1, or CEL for either.

    A share is decided by the trace's identifier, so that gateways in a row agree.
    """

    __slots__ = ("_expression", "_share")

    def __init__(self, value: object, default: bool, compiler: Compiler, path: str) -> None:
        """Raises: ConfigError."""
        self._expression: Expression | None = None
        self._share = 0.0
        if value is None:
            value = default
        if isinstance(value, str):
            self._expression = compiler.expression(value, path, at_end=False)
        elif isinstance(value, (bool, int, float)) and 0 <= value <= 1:
            self._share = float(value)
        else:
            raise ConfigError(path, "must be true, false, a number from 0 to 1 or a CEL expression")

    def is_sampled(self, request: Request, trace_id: int) -> bool:
        """The decision for one request; an expression that fails samples nothing."""
        share: object = self._share
        if self._expression is not None:
            share = self._expression.value(AccessEntry(request.connection, request))
        if isinstance(share, (bool, int, float)):
            return (trace_id & _LOW_64) < share * (_LOW_64 + 1)
        return False


@final
class ClientSpan:
    """A call out of a sampled request, open until `finish`."""

    __slots__ = ("_context", "_kind", "_started_ns", "_subtype", "_tracer", "span_id")

    def __init__(self, tracer: Tracer, context: TraceContext, kind: str, subtype: str) -> None:
        self._tracer = tracer
        self._context = context
        self._kind = kind
        self._subtype = subtype
        self._started_ns = tracer.clock.time_ns()
        self.span_id = new_span_id()

    def inject(self, headers: Headers) -> None:
        """Name this span as the caller, in the headers of the call."""
        inject(headers, self._context, self.span_id)

    def finish(
        self,
        *,
        method: str = "",
        host: str = "",
        path: str = "",
        status: int = 0,
        error: str | None = None,
        name: str = "",
        more: Mapping[str, str] = _NOTHING,
    ) -> None:
        """The call has ended. Without a `name`, `method` and `host` give it, else the subtype.
        `more`: further attributes."""
        attributes: Attributes = {
            "agentgateway.outbound.kind": self._kind,
            "agentgateway.outbound.subtype": self._subtype,
        }
        known = (("http.method", method), ("http.host", host), ("http.path", path))
        attributes |= {name: value for name, value in known if value}
        if status:
            attributes["http.status"] = status
        attributes |= more
        context = self._context
        record = SpanRecord(
            name=name or (f"{method} {host}" if method and host else self._subtype),
            kind=CLIENT,
            trace_id=context.trace_id,
            span_id=self.span_id,
            parent_id=context.span_id,
            start_ns=self._started_ns,
            end_ns=self._tracer.clock.time_ns(),
            attributes=attributes,
            error=error,
        )
        self._tracer.child_finished(context, record)


@final
class Tracer:
    """Traces the requests of one configuration into one export."""

    def __init__(
        self,
        policy: Mapping[str, object],
        compiler: Compiler,
        export: SpanExport,
        clock: Clock,
        *,
        path: str = _PATH,
    ) -> None:
        """`policy`: the payload of `tracing`; its target is the export's. Raises: ConfigError."""
        for key in policy.keys() - _KEYS:
            raise ConfigError(f"{path}.{key}", "unknown key")
        self.clock = clock
        self._export = export
        self._client = Sampler(
            policy.get("clientSampling"), True, compiler, f"{path}.clientSampling"
        )
        self._random = Sampler(
            policy.get("randomSampling"), False, compiler, f"{path}.randomSampling"
        )
        source = policy.get("filter")
        self._filter = None if source is None else compiler.expression(source, f"{path}.filter")
        self._added = compiler.expressions(policy.get("attributes"), f"{path}.attributes")
        removed = policy.get("remove") or []
        if not isinstance(removed, list):
            raise ConfigError(f"{path}.remove", "must be a list of attribute names")
        gone = frozenset(map(str, removed)) | self._added.keys()
        self._fields = tuple(f for f in SPAN_FIELDS if f.name not in gone)
        self._notes = BodyNotes(self._added.values(), gone)

    def start(self, request: Request) -> TraceContext:
        """Decide about a request and set its `trace`; when sampled, its headers name our span."""
        context = context_of(request.headers)
        sampler = self._client if context.parent_id else self._random
        if sampler.is_sampled(request, context.trace_id):
            context.sampled = True
            context.spans = []
            inject(request.headers, context, context.span_id)
        request.trace = context
        return context

    def call(self, request: Request, kind: str, subtype: str) -> ClientSpan | None:
        """A span for a call out; None when the request is not sampled.

        `kind`: Primary, Policy, Mirror; `subtype`: Http, Llm, Mcp, ExtAuthz, ExtProc, …
        """
        context = request.trace
        if isinstance(context, TraceContext) and context.sampled:
            return ClientSpan(self, context, kind, subtype)
        return None

    def child_finished(self, context: TraceContext, record: SpanRecord) -> None:
        """Keep a call's span until the root has ended, or send it when that went before."""
        if context.spans is None:
            if context.sampled:
                self._export.submit([record])
        elif len(context.spans) < _MAX_CHILDREN:
            context.spans.append(record)
        else:
            self._export.dropped += 1

    def finish(self, entry: AccessEntry) -> None:
        """The request has ended: send its spans, unless the filter drops them."""
        context = entry.request.trace if entry.request is not None else None
        if not isinstance(context, TraceContext) or context.spans is None:
            return
        children = [span for span in context.spans if isinstance(span, SpanRecord)]
        context.spans = None
        if self._filter is not None and not self._filter.is_true(entry):
            context.sampled = False
            return
        self._export.submit([self._root(entry, context), *children])

    def _root(self, entry: AccessEntry, context: TraceContext) -> SpanRecord:
        attributes: Attributes = {}
        for field in self._fields:
            value = field.get(entry)
            if value is not None:
                attributes[field.name] = _attribute(value)
        for name, expression in self._added.items():
            for key, value in expression.fields(name, entry):
                attributes[key] = _attribute(value)
        for key, value in self._notes.of(entry):
            attributes[key] = _attribute(value)
        given = attributes.pop(_NAME, "")
        ended_ns = entry.ended_ns or self.clock.time_ns()
        # A failing status is an error of a server span by OpenTelemetry's HTTP conventions.
        error = entry.error if entry.error or entry.status >= 500 else None
        return SpanRecord(
            name=str(given) if given else span_name(entry),
            kind=SERVER,
            trace_id=context.trace_id,
            span_id=context.span_id,
            parent_id=context.parent_id,
            start_ns=ended_ns - entry.duration_ns,
            end_ns=ended_ns,
            attributes=attributes,
            error=error,
            remote_parent=True,
        )


def resources_of(
    policy: Mapping[str, object], compiler: Compiler, path: str = _PATH
) -> list[tuple[str, object]]:
    """`tracing.resources`, evaluated once, without a request. Raises: ConfigError."""
    found: list[tuple[str, object]] = []
    nobody = AccessEntry(Connection("", 0, "", 0))
    for name, expression in compiler.expressions(
        policy.get("resources"), f"{path}.resources", at_end=False
    ).items():
        value = expression.value(nobody)
        if value is None:
            raise ConfigError(f"{path}.resources.{name}", "has no value outside a request")
        found.append((name, value))
    return found


def _attribute(value: object) -> str | bool | int | float:
    if isinstance(value, (str, bool, int, float)):
        return value
    return json_text(value)


def span_name(entry: AccessEntry) -> str:
    """The MCP method, else the gRPC path, else the method and what the route matched."""
    request = entry.request
    if request is None:
        return "unknown"
    mcp = request.state.get("mcp")
    if isinstance(mcp, Mapping) and mcp.get("methodName"):
        return _mcp_name(mcp)
    if (request.headers.get(b"content-type") or b"").startswith(b"application/grpc"):
        return request.path
    match = request.state.get("route_match")
    if not isinstance(match, tuple):
        return "unknown"
    kind, text = match
    suffix = "/*" if kind == "prefix" else ""
    return f"{request.method} {text.rstrip('/') if suffix else text}{suffix}"


def _mcp_name(mcp: Mapping[str, object]) -> str:
    parts = [str(mcp["methodName"])]
    for kind in ("tool", "prompt"):
        item = mcp.get(kind)
        if isinstance(item, Mapping) and item.get("name"):
            parts.append(str(item["name"]))
    return " ".join(parts)
