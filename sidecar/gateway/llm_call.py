"""One client's request to a model, and what it becomes for one provider.

Source: spec/llm.md sections 0 (request pipeline), 1.4, 2.1 and 2.12.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

import orjson

from sidecar.errors import RequestError
from sidecar.gateway.llm_edits import REQUEST, Edits
from sidecar.gateway.llm_guards import Guards
from sidecar.gateway.llm_head import FixedHead, fixed_head
from sidecar.gateway.plan import Backend
from sidecar.http.message import Request
from sidecar.llm.chat import completions, gemini, paths
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.chat.formats import CHAT, FORMATS
from sidecar.llm.convert import (
    count_tokens_to_bedrock,
    count_tokens_to_vertex,
    embeddings_to_bedrock,
    embeddings_to_vertex,
    rerank_to_bedrock,
    rerank_to_vertex,
    vertex_claude,
)
from sidecar.llm.convert.base import Context, Conversion
from sidecar.llm.convert.select import select
from sidecar.llm.credentials.base import Credential
from sidecar.llm.providers.base import COUNT, Authority, Call, Provider, Target
from sidecar.llm.shape import nests_too_deeply, to_json
from sidecar.policies.chain import EMPTY, Chain
from sidecar.routing.balance import Endpoint
from sidecar.routing.outlier import Outliers

_GOOGLE: Final = frozenset(("generateContent", "geminiCountTokens"))
"""Formats whose model stands in the path."""
_READ_HEADERS: Final = (b"x-bedrock-metadata", b"anthropic-beta", b"anthropic-version")
_DIALECTS: Final[Mapping[tuple[str, str], Conversion]] = {
    ("embeddings", "bedrock"): embeddings_to_bedrock.CONVERSION,
    ("embeddings", "vertex"): embeddings_to_vertex.CONVERSION,
    ("rerank", "bedrock"): rerank_to_bedrock.CONVERSION,
    ("rerank", "vertex"): rerank_to_vertex.CONVERSION,
    ("anthropicTokenCount", "bedrock"): count_tokens_to_bedrock.CONVERSION,
    ("anthropicTokenCount", "vertex"): count_tokens_to_vertex.CONVERSION,
}
"""Formats that a provider has in its own form."""
_OPENAI_LIKE: Final = frozenset(("openai", "azure", "copilot"))
_KEEPABLE: Final = frozenset((None, "auto", "h1"))
"""Versions by which a provider may have kept an HTTP/1.1 connection."""
_PLANS_MAX: Final = 256
_PLAN_CHARS_MAX: Final = 512


@final
@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """What a provider makes of calls of one kind, path and model: the same each time."""

    upstream: WireFormat
    conversion: Conversion | None
    dialect: str
    call: Call
    target: Target
    backend: Backend
    """How its place is reached."""
    settings: Json
    excludes_cache: bool
    head: FixedHead | None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One provider of a backend, ready to be called."""

    name: str
    provider: Provider
    backends: Mapping[Authority, Backend]
    """How each place that it may send a call to is reached."""
    endpoint: Endpoint
    outliers: Outliers
    edits: Edits
    chain: Chain
    """Its own policies; they act on the call, and on the answer as the client gets it."""
    credentials: tuple[Credential, ...] = ()
    """In the order to apply them."""
    asked: str = ""
    """The name that stands in the place of the client's model: a virtual model's target."""
    settings: Json = field(default_factory=dict)
    """What the `ai` policy adds to `Context.settings`."""
    rejects_loss: bool = False
    attempt_seconds: float | None = None
    guards: Guards | None = None
    tokenizes: bool = False
    """Whether prompts are counted before they are sent."""
    is_direct: bool = field(init=False)
    """Whether a call, and what becomes of a whole answer, waits for nobody but the provider."""
    _plans: dict[tuple[str, str, str, str, bool], Planned] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        is_direct = (
            self.guards is None
            and self.chain is EMPTY
            and self.attempt_seconds is None
            and not self.tokenizes
            # Over TLS, what ALPN has made of a connection is known by the time that it is kept.
            and all(one.version in _KEEPABLE for one in self.backends.values())
        )
        object.__setattr__(self, "is_direct", is_direct)

    def planned(self, client: ClientCall, model: str, *, is_streaming: bool) -> Planned:
        """What a client's request for this model becomes. Raises: RequestError 400."""
        key = (client.kind, model, client.path, client.query, is_streaming)
        found = self._plans.get(key)
        if found is None:
            found = self._planned(client, model, is_streaming=is_streaming)
            # Names come from clients: the memory of them is bounded.
            if len(model) + len(client.path) + len(client.query) <= _PLAN_CHARS_MAX:
                if len(self._plans) >= _PLANS_MAX:
                    self._plans.clear()
                self._plans[key] = found
        return found

    def _planned(self, client: ClientCall, model: str, *, is_streaming: bool) -> Planned:
        provider = self.provider
        upstream, conversion = select(client.kind, provider.formats(model))
        dialect = provider.dialect(upstream, model)
        if conversion is None and dialect:
            conversion = _DIALECTS.get((upstream, dialect))
        call = Call(client.kind, upstream, model, is_streaming, client.path, client.query)
        target = provider.target(call)
        backend = self.backends[target.authority]
        return Planned(
            FORMATS[upstream],
            conversion,
            dialect,
            call,
            target,
            backend,
            {**provider.settings(model), **self.settings},
            provider.excludes_cache(upstream, model),
            fixed_head(backend, target, self.credentials),
        )

    def counts(self, model: str) -> bool:
        """Whether it counts the tokens of a request for the client's model itself."""
        return COUNT in self.provider.formats(self.model_for(model))

    def model_for(self, model: str) -> str:
        """What the client's model is here, when no transformation says otherwise."""
        return self.edits.alias(self.provider.model or self.asked or model)


@final
@dataclass(slots=True)
class ClientCall:
    """A request as the client made it."""

    kind: str
    """Route type."""
    wire_format: WireFormat
    raw: bytes
    """The body without its coding."""
    path: str
    query: str
    model: str
    """What the client named; "" when it named nothing."""
    _body: Json | None = None

    def take_body(self) -> Json:
        """A body to be edited: each attempt gets its own."""
        body, self._body = self._body, None
        if body is None:
            body = orjson.loads(self.raw)
            assert isinstance(body, dict)
        return body


def client_call(kind: str, raw: bytes, request: Request, body: object | None = None) -> ClientCall:
    """Read and check a request's body. Raises: RequestError 400. `body`: `raw` decoded already."""
    wire_format = FORMATS[kind]
    path, _, query = request.target.partition("?")
    try:
        if body is None:
            body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, "InvalidRequest", "the request's body is not JSON") from error
    if not isinstance(body, dict):
        raise RequestError(400, "InvalidRequest", "the request's body is not a JSON object")
    if nests_too_deeply(raw, body):
        raise RequestError(400, "InvalidRequest", "the request's body is nested too deeply")
    wire_format.check(body)
    named = wire_format.model(body) or ""
    in_path = paths.model_of(path) or ""
    model = (in_path or named) if kind in _GOOGLE else (named or in_path)
    if path.endswith(":streamGenerateContent") and not paths.is_sse_query(query):
        raise RequestError(400, "InvalidRequest", "streamGenerateContent needs alt=sse")
    return ClientCall(kind, wire_format, raw, path, query, model, body)


@final
@dataclass(slots=True)
class Prepared:
    """A call of one provider."""

    member: Member
    client: WireFormat
    upstream: WireFormat
    conversion: Conversion | None
    context: Context
    call: Call
    target: Target
    backend: Backend
    """Where it goes."""
    body: bytes
    params: Json
    excludes_cache: bool
    head: FixedHead | None


def prepare(
    client: ClientCall,
    body: Json,
    member: Member,
    request: Request,
    now_seconds: int,
    *,
    needs_usage: bool,
) -> Prepared:
    """The call of a provider for a client's request. Raises: RequestError 400, ShapeError.

    `body`: what `edited` gave, after the guards; it is changed. `needs_usage`: somebody counts
    tokens, so a stream must report them.
    """
    provider = member.provider
    wire_format = client.wire_format
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError(400, "InvalidRequest", "model not specified")
    model = body["model"] = member.edits.alias(model)
    is_streaming = wire_format.is_streaming(body) or paths.is_stream(client.path)
    plan = member.planned(client, model, is_streaming=is_streaming)
    conversion, call, upstream = plan.conversion, plan.call, plan.call.format
    if member.edits.has_prompts and client.kind in CHAT:
        member.edits.enrich(wire_format, body)
    context = _NO_CONTEXT
    params = wire_format.params(body)
    if conversion is not None:
        context = _context(client, member, request, plan, now_seconds)
        body = conversion.request(body, context)
    elif upstream == "generateContent":
        body = gemini.normalise(body)
    if upstream == "completions":
        is_openai = provider.kind in _OPENAI_LIKE
        completions.touch_up(body, is_openai=is_openai, needs_usage=needs_usage)
    if plan.dialect == "vertex" and upstream == "messages":
        # The format is Anthropic's own, and so are the answers: only some keys are not.
        body = vertex_claude.adjusted(body)
    if member.edits.changes_last:
        member.edits.finish(body, request)
    provider.edit(body, call)
    if upstream in _GOOGLE:
        body.pop("model", None)
    return Prepared(
        member,
        wire_format,
        plan.upstream,
        conversion,
        context,
        call,
        plan.target,
        plan.backend,
        to_json(body, "the request's body"),
        params,
        plan.excludes_cache,
        plan.head,
    )


def edited(client: ClientCall, member: Member, request: Request) -> Json:
    """The client's body after the policy's edits; its `model` is that of the call."""
    body = client.take_body()
    named = member.asked or client.model
    if named:
        body["model"] = named
    request.state[REQUEST] = dict(body)
    pinned = member.provider.model
    if pinned:
        body["model"] = pinned
    if not member.edits.is_idle:
        member.edits.apply(body, request)
    return body


def _context(
    client: ClientCall, member: Member, request: Request, plan: Planned, now_seconds: int
) -> Context:
    model = plan.call.model
    headers = {
        name.decode(): value.decode("latin-1")
        for name, value in request.headers
        if name in _READ_HEADERS
    }
    return Context(
        model=model,
        requested_model=client.model or model,
        is_streaming=plan.call.is_streaming,
        now_seconds=now_seconds,
        new_id=_new_id,
        rejects_loss=member.rejects_loss,
        headers=headers,
        settings=dict(plan.settings),
    )


def _new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(8)


_NO_CONTEXT: Final = Context("", "", is_streaming=False, now_seconds=0, new_id=_new_id)
"""That of a call for which nothing is converted: nobody reads or writes it."""


__all__ = ["COUNT", "ClientCall", "Member", "Prepared", "client_call", "edited", "prepare"]
