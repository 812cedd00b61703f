"""The facts of a finished request, and the ordered fields that logs and spans make of them.

Source: spec/config.md section 9.2 (names and order) and 9.3 (what spans add).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, final

from sidecar.http.message import Connection, Request, Response
from sidecar.telemetry.w3c import TraceContext


class RouteFacts(Protocol):
    """What a compiled route is called. Absent names are "". Hashable, by identity."""

    @property
    def bind(self) -> str:
        """`bind/<port>`."""

    @property
    def gateway(self) -> str:
        """`namespace/name`."""

    @property
    def listener(self) -> str:
        """The listener's own name."""

    @property
    def route(self) -> str:
        """`namespace/name`."""

    @property
    def route_rule(self) -> str:
        """The rule's name inside a route."""

    @property
    def backend(self) -> str:
        """The metric label, as `127.0.0.1:8080` or `service/ns/host:port`."""

    @property
    def protocol(self) -> str:
        """http, tcp, a2a, mcp or llm."""


@final
@dataclass(slots=True)
class AccessEntry:
    """One finished request, or a finished TCP connection (`request` and `response` None)."""

    connection: Connection
    request: Request | None = None
    response: Response | None = None
    route: RouteFacts | None = None
    _: KW_ONLY
    status: int = 0
    """What the client got; 0 when it got nothing."""
    request_bytes: int = 0
    response_bytes: int = 0
    """Octets of the bodies."""
    duration_ns: int = 0
    request_processing_ns: int = 0
    upstream_ns: int = 0
    response_processing_ns: int = 0
    """Of the duration: before the call, waiting for its response's head, after that. 0: no call."""
    error: str = ""
    reason: str = ""
    """One of section 9.2; "Upstream" (a backend answered) is not logged."""
    endpoint: str = ""
    """`host:port` that was called."""
    retry_attempt: int = 0
    """0 for the first call."""
    grpc_status: int | None = None
    request_id: str = ""
    ended_ns: int = 0
    """Wall clock, nanoseconds since the epoch; 0 when the log should ask its own clock."""


Getter = Callable[[AccessEntry], object]
"""A field's value; None leaves the field out."""


@final
@dataclass(frozen=True, slots=True)
class Field:
    """One field of the access log."""

    name: str
    get: Getter


def _of_route(name: str) -> Getter:
    def get(entry: AccessEntry) -> object:
        return getattr(entry.route, name, None) or None

    return get


def _of_request(name: str) -> Getter:
    def get(entry: AccessEntry) -> object:
        return getattr(entry.request, name, None) or None

    return get


def _of_state(root: str, *path: str) -> Getter:
    """What the pipeline learnt: `request.state[root]`, then key by key."""

    def get(entry: AccessEntry) -> object:
        if entry.request is None:
            return None
        value: object = entry.request.state.get(root)
        for key in path:
            if not isinstance(value, Mapping):
                return None
            value = value.get(key)
        return value

    return get


def _first(*getters: Getter) -> Getter:
    def get(entry: AccessEntry) -> object:
        return next((v for v in (g(entry) for g in getters) if v is not None), None)

    return get


def source_address(entry: AccessEntry) -> str:
    """`host:port` of who connected; an IPv6 host stands in brackets."""
    connection = entry.connection
    host = connection.peer_host
    return f"[{host}]:{connection.peer_port}" if ":" in host else f"{host}:{connection.peer_port}"


def _trace_id(entry: AccessEntry) -> str | None:
    trace = entry.request.trace if entry.request is not None else None
    return trace.trace_id_hex if isinstance(trace, TraceContext) else None


def _span_id(entry: AccessEntry) -> str | None:
    trace = entry.request.trace if entry.request is not None else None
    return trace.span_id_hex if isinstance(trace, TraceContext) else None


def _sni(entry: AccessEntry) -> str | None:
    tls = entry.connection.tls
    return (tls.sni or None) if tls is not None else None


def _protocol(entry: AccessEntry) -> str | None:
    if entry.route is not None and entry.route.protocol:
        return entry.route.protocol
    return None if entry.request is not None else "tcp"


def _mcp_part(key: str) -> Getter:
    kinds = ("tool", "prompt", "resource", "task")
    return _first(*(_of_state("mcp", kind, key) for kind in kinds))


def _mcp_kind(entry: AccessEntry) -> str | None:
    mcp = entry.request.state.get("mcp") if entry.request is not None else None
    if not isinstance(mcp, Mapping):
        return None
    return next((k for k in ("tool", "prompt", "resource", "task") if mcp.get(k)), None)


def is_llm(entry: AccessEntry) -> bool:
    """Whether a model was asked for, be it in vain."""
    request = entry.request
    return request is not None and ("llm" in request.state or "llmRequest" in request.state)


def _is_call(entry: AccessEntry) -> bool:
    return entry.request is not None and "llm" in entry.request.state


def _operation(entry: AccessEntry) -> object:
    return _of_state("llm", "operationName")(entry) or ("chat" if _is_call(entry) else None)


def duration_text(nanoseconds: int) -> str:
    """Whole milliseconds, as `12ms`."""
    return f"{nanoseconds // 1_000_000}ms"


DEBUG_FIELDS = (
    Field("connection.id", lambda e: e.connection.connection_id or None),
    Field("request.id", lambda e: e.request_id or None),
)
"""They come first, and only when the `request` target is at debug."""

HEAD_FIELDS = (
    Field("gateway", _of_route("gateway")),
    Field("listener", _of_route("listener")),
    Field("route_rule", _of_route("route_rule")),
    Field("route", _of_route("route")),
    Field("endpoint", lambda e: e.endpoint or None),
    Field("src.addr", source_address),
    Field("src.identity", lambda e: e.connection.extra.get("identity")),
    Field("http.method", _of_request("method")),
    Field("http.host", _of_request("received_authority")),
    # Without the query, which may carry credentials.
    Field("http.path", _of_request("received_path")),
    Field("http.version", _of_request("version")),
    Field("http.status", lambda e: e.status or None),
    Field("grpc.status", lambda e: e.grpc_status),
    Field("tls.sni", _sni),
    Field("trace.id", _trace_id),
    Field("span.id", _span_id),
    Field("jwt.sub", _of_state("jwt", "sub")),
    Field("agw.api_key.name", _of_state("apiKey", "name")),
    Field("protocol", _protocol),
)

_A2A_FIELDS = (
    # As the client spelt it, as the reference logs it; rules see one name for all spellings.
    Field("a2a.method", _first(_of_state("a2a", "wireMethod"), _of_state("a2a", "method"))),
    Field("a2a.response.outcome", _of_state("a2a", "outcome")),
    Field("a2a.response.error_code", _of_state("a2a", "errorCode")),
    Field("a2a.result.kind", _of_state("a2a", "resultKind")),
    Field("a2a.task.state", _of_state("a2a", "taskState")),
    Field("a2a.context.id", _of_state("a2a", "contextId")),
)
_MCP_FIELDS = (
    Field("mcp.method.name", _of_state("mcp", "methodName")),
    Field("mcp.target", _mcp_part("target")),
    Field("mcp.resource.type", _mcp_kind),
    Field("mcp.resource.uri", _of_state("mcp", "resource", "name")),
    Field("gen_ai.tool.name", _of_state("mcp", "tool", "name")),
    Field("gen_ai.prompt.name", _of_state("mcp", "prompt", "name")),
    Field("mcp.session.id", _of_state("mcp", "sessionId")),
    Field("mcp.error.code", _of_state("mcp", "errorCode")),
    Field("mcp.error.message", _of_state("mcp", "errorMessage")),
    Field("inferencepool.selected_endpoint", _of_state("inferencepool", "selectedEndpoint")),
)
LLM_FIELDS = (
    Field("gen_ai.operation.name", _operation),
    Field("gen_ai.provider.name", _of_state("llm", "provider")),
    Field("gen_ai.request.model", _of_state("llm", "requestModel")),
    Field("gen_ai.response.model", _of_state("llm", "responseModel")),
    Field("gen_ai.usage.input_tokens", _of_state("llm", "inputTokens")),
    Field("gen_ai.usage.cache_creation.input_tokens", _of_state("llm", "cacheCreationInputTokens")),
    Field("gen_ai.usage.cache_read.input_tokens", _of_state("llm", "cachedInputTokens")),
    Field("gen_ai.usage.output_tokens", _of_state("llm", "outputTokens")),
    Field("gen_ai.usage.reasoning_tokens", _of_state("llm", "reasoningTokens")),
    Field("agw.ai.time_to_first_token", _of_state("llm", "timeToFirstToken")),
    Field("agw.ai.time_per_output_token", _of_state("llm", "timePerOutputToken")),
    Field("agw.ai.usage.cost.total", _of_state("llm", "cost", "total")),
    Field("gen_ai.usage.output_image_tokens", _of_state("llm", "outputImageTokens")),
    Field("gen_ai.usage.input_audio_tokens", _of_state("llm", "inputAudioTokens")),
    Field("gen_ai.usage.output_audio_tokens", _of_state("llm", "outputAudioTokens")),
    Field("gen_ai.request.temperature", _of_state("llm", "params", "temperature")),
    Field("gen_ai.embeddings.dimension.count", _of_state("llm", "params", "dimensions")),
    Field("gen_ai.request.encoding_formats", _of_state("llm", "params", "encoding_format")),
    Field("gen_ai.request.top_p", _of_state("llm", "params", "top_p")),
    Field("gen_ai.request.max_tokens", _of_state("llm", "params", "max_tokens")),
    Field("gen_ai.request.frequency_penalty", _of_state("llm", "params", "frequency_penalty")),
    Field("gen_ai.request.presence_penalty", _of_state("llm", "params", "presence_penalty")),
    Field("gen_ai.request.seed", _of_state("llm", "params", "seed")),
)
AGENT_FIELDS = (*_A2A_FIELDS, *_MCP_FIELDS, *LLM_FIELDS)
AGENT_STATE = frozenset(("a2a", "mcp", "llm", "inferencepool"))
"""Without any of these keys in `request.state`, no field of AGENT_FIELDS has a value."""

_UNLOGGED = ("", "Upstream")
TAIL_FIELDS = (
    Field("retry.attempt", lambda e: e.retry_attempt or None),
    Field("error", lambda e: e.error or None),
    Field("reason", lambda e: e.reason if e.reason not in _UNLOGGED else None),
    Field("duration", lambda e: duration_text(e.duration_ns)),
)

_COSTS = (
    ("input", "input"),
    ("output", "output"),
    ("cache_read", "cacheRead"),
    ("cache_write", "cacheWrite"),
    ("reasoning", "reasoning"),
    ("input_audio", "inputAudio"),
    ("output_audio", "outputAudio"),
)
COST_KEYS = tuple(key for _, key in _COSTS)
"""The parts of `llm.cost`."""
SPAN_FIELDS = (
    *HEAD_FIELDS,
    *AGENT_FIELDS,
    *(field for field in TAIL_FIELDS if field.name != "error"),
    Field("url.scheme", _of_request("scheme")),
    Field(
        "network.protocol.version",
        lambda e: e.request.version.removeprefix("HTTP/") if e.request is not None else None,
    ),
    *(Field(f"agw.ai.usage.cost.{name}", _of_state("llm", "cost", key)) for name, key in _COSTS),
)
"""The attributes of a request's root span."""
