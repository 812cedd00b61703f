"""Requests that nobody converts: forwarded as they are, or with an eye on model and usage.

Source: spec/llm.md sections 0, 2.14 and 2.15.

`passthrough` and `realtime` stream through both ways, the latter past its guards. `detect` holds
the request's body to know its model, and reads the answer as it goes by; what it cannot read passes
all the same.

A provider that fails before there is an answer (for realtime: before it accepts the upgrade) is
followed by the next one, as in `llm_attempts`, if the client's body can still be sent to it whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, final

import orjson

from sidecar.errors import RequestError, SidecarError, UpstreamError
from sidecar.gateway.exchange import Exchange
from sidecar.gateway.llm_attempts import Failover
from sidecar.gateway.llm_body import plain_body
from sidecar.gateway.llm_call import Member
from sidecar.gateway.llm_choice import Ranks, is_worth_moving
from sidecar.gateway.llm_edits import REQUEST
from sidecar.gateway.llm_facts import Record
from sidecar.gateway.llm_form import form_model, with_form_model
from sidecar.gateway.llm_head import OWN
from sidecar.gateway.llm_load import UnderWay
from sidecar.gateway.llm_outgoing import finish, head_of, sent
from sidecar.gateway.llm_realtime import EXTENSIONS, guarded, session_guards
from sidecar.gateway.llm_session import metered
from sidecar.gateway.llm_source import Source, hold
from sidecar.gateway.llm_watched import bounded, told
from sidecar.gateway.plan import Attempt, Route
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Ending, FixedBody, Request, Response
from sidecar.http.wrapped import WrappedBody
from sidecar.llm.chat import paths
from sidecar.llm.chat.base import Json
from sidecar.llm.chat.detect import asked_pieces, usage_of_bytes
from sidecar.llm.chat.formats import FORMATS
from sidecar.llm.chat.framing import framing_of
from sidecar.llm.chat.passthrough import StreamTap
from sidecar.llm.chat.produced import Produced, text_chars
from sidecar.llm.pieces import Pieces
from sidecar.llm.providers.base import Call, Target
from sidecar.llm.shape import nests_too_deeply, parse_object
from sidecar.llm.usage import Usage

_DETECT: Final = FORMATS["detect"]
_PROTOCOLS: Final = b"sec-websocket-protocol"
_KEY_PROTOCOL: Final = b"openai-insecure-api-key."
_STREAMS: Final = (b"text/event-stream", b"application/vnd.amazon.eventstream")


async def opaque(
    kind: str,
    ranks: Ranks,
    failover: Failover,
    request: Request,
    exchange: Exchange,
    route: Route,
    attempt: Attempt,
    raw: bytes | None = None,
    record: Record | None = None,
) -> Response:
    """Forward a request whose body nobody converts. Raises: SidecarError.

    `raw`: its body without its coding, when somebody had to look at that for the model's name.
    `record`: of a realtime session.
    """
    if ranks.count > 1 and failover.max_attempts > 1:
        await hold(request)
    source = Source(request.body)
    under_way = _under_way(request) if record is None else record.under_way

    async def ask(member: Member) -> Response:
        target, made, model = _forwarded(kind, member, request, route, source, raw)
        guards = session_guards(made, member.guards) if kind == "realtime" else None
        if record is not None:
            _begin_session(record, made, member, model)
        await finish(member, target, made, b"", request)
        response = await sent(ranks, under_way, member, target, made, exchange, route, attempt)
        if record is not None:
            metered(response, record)
        if guards is not None:
            guarded(response, guards, request)
        return response

    response = await _first_that_serves(ranks, failover, exchange, ask, source)
    told(response)
    return response


def _under_way(request: Request) -> UnderWay:
    """A new one. A retry of the route asks anew: what it had under way before is over."""
    under_way = UnderWay()
    others: list[Ending] = []
    for end in request.endings:
        if isinstance(end, UnderWay):
            end.end()
        else:
            others.append(end)
    request.endings = (*others, under_way)
    return under_way


def _begin_session(record: Record, made: Request, member: Member, model: str) -> None:
    """A provider is about to be asked for a session, in a form that can be read."""
    made.headers.remove_all(EXTENSIONS)
    record.begin(
        provider=member.provider.name,
        model=model,
        operation="chat",
        is_streaming=True,
        params={},
        excludes_cache=member.provider.excludes_cache("realtime", model),
    )


def _forwarded(
    kind: str,
    member: Member,
    request: Request,
    route: Route,
    source: Source,
    raw: bytes | None,
) -> tuple[Target, Request, str]:
    """The call of one provider, and the name of its model."""
    path, _, query = request.target.partition("?")
    queried = paths.model_of_query(query)
    named = queried or paths.model_of(path) or ""
    content_type = request.headers.get(b"content-type")
    parsed = parse_object(raw) if raw is not None else None
    in_body = None if parsed is None else parsed.get("model")
    if raw is not None and parsed is None:
        in_body = form_model(content_type, raw)
        named = named or in_body or ""
    model = member.edits.alias(member.provider.model or member.asked or named)
    body = source.again()
    is_renamed = (parsed is not None or in_body is not None) and model not in ("", in_body)
    if is_renamed and raw is not None:
        path, raw = _renamed(path, raw, parsed, model, content_type)
        body = FixedBody(raw)
    if kind == "realtime" and model:
        query = paths.query_with_model(query, model)
    target = member.provider.target(Call(kind, kind, model, kind == "realtime", path, query))
    made = head_of(member, target, request, route, body)
    if kind == "realtime" and member.credentials:
        _hide_key(made.headers)
    if is_renamed:
        made.headers.remove_all(b"content-encoding")
    made.upgrade = request.upgrade
    made.wants_trailers = request.wants_trailers
    return target, made, model


def _hide_key(headers: Headers) -> None:
    """Leave out the key that browsers put among the subprotocols: it is the client's, for us."""
    given = headers.get_all(_PROTOCOLS)
    if not any(_KEY_PROTOCOL in value.lower() for value in given):
        return
    names = [name.strip() for value in given for name in value.split(b",")]
    kept = [name for name in names if name and not name.lower().startswith(_KEY_PROTOCOL)]
    headers.remove_all(_PROTOCOLS)
    if kept:
        headers.set(_PROTOCOLS, b", ".join(kept))


async def sniffed(
    ranks: Ranks,
    failover: Failover,
    raw: bytes,
    record: Record,
    request: Request,
    exchange: Exchange,
    route: Route,
    attempt: Attempt,
    limit_bytes: int,
) -> Response:
    """Forward a request as it is, but for a configured model. Raises: SidecarError."""
    body = parse_object(raw)
    if body is not None:
        request.state[REQUEST] = body
        record.state.prompt_within(body)

    async def ask(member: Member) -> Response:
        target, made = _read(member, raw, body, record, request, route)
        await finish(member, target, made, _octets(made.body), request)
        return await sent(ranks, record.under_way, member, target, made, exchange, route, attempt)

    response = await _first_that_serves(ranks, failover, exchange, ask, Source(FixedBody()))
    if 200 <= response.status < 300 and response.tunnel is None:
        kind = response.headers.get(b"content-type") or b""
        pieces = asked_pieces(request.path, body)
        response.body = _WatchedBody(plain_body(response), kind, record, limit_bytes, pieces)
    told(response)
    return response


def _read(
    member: Member, raw: bytes, body: Json | None, record: Record, request: Request, route: Route
) -> tuple[Target, Request]:
    """The call of one provider, and the record of its beginning."""
    path, _, query = request.target.partition("?")
    content_type = request.headers.get(b"content-type")
    in_body = _DETECT.model(body) if body is not None else form_model(content_type, raw)
    named = in_body or paths.model_of(path) or ""
    model = member.edits.alias(member.provider.model or member.asked or named)
    if model != named:
        path, raw = _renamed(path, raw, body, model, content_type)
    is_streaming = paths.is_stream(path) or (body is not None and body.get("stream") is True)
    record.begin(
        provider=member.provider.name,
        model=model,
        operation="chat",
        is_streaming=is_streaming,
        params=_DETECT.params(body) if body is not None else {},
        excludes_cache=member.provider.excludes_cache("detect", model),
    )
    target = member.provider.target(Call("detect", "detect", model, is_streaming, path, query))
    made = head_of(member, target, request, route, FixedBody(raw))
    made.headers.remove_any(OWN)
    return target, made


async def _first_that_serves(
    ranks: Ranks,
    failover: Failover,
    exchange: Exchange,
    ask: Callable[[Member], Awaitable[Response]],
    source: Source,
) -> Response:
    """The answer of the first provider that neither fails nor is busy; the last one's, whatever it
    is. Raises: SidecarError."""
    tried: list[Member] = []
    member = ranks.first()
    first_attempt = exchange.attempt
    while True:
        tried.append(member)
        exchange.attempt = first_attempt + len(tried) - 1
        is_last = len(tried) >= min(failover.max_attempts, ranks.count)
        try:
            async with asyncio.timeout(member.attempt_seconds or failover.attempt_seconds):
                response = await ask(member)
        except TimeoutError as error:
            if is_last or not source.is_whole:
                text = "upstream call timeout"
                raise UpstreamError(504, "Timeout", text, retryable=True) from error
        except UpstreamError:
            if is_last or not source.is_whole:
                raise
        else:
            if is_last or not source.is_whole or not is_worth_moving(response.status):
                bounded(response, failover.idle_seconds)
                return response
            response.body.close()
        following = ranks.next(tried)
        if following is None:
            raise UpstreamError(503, "NoHealthyBackend", "no healthy backends")
        member = following


def _octets(body: Body) -> bytes:
    assert type(body) is FixedBody
    return body.unread


def _renamed(
    path: str, raw: bytes, body: Json | None, model: str, content_type: bytes | None
) -> tuple[str, bytes]:
    """The same call of another model, wherever it is named. Raises: RequestError 400."""
    if body is None:
        changed = with_form_model(content_type, raw, model)
        if changed is None and form_model(content_type, raw) is not None:
            text = "nobody can tell which model the request's form names"
            raise RequestError(400, "InvalidRequest", text)
        raw = changed or raw
    if body is not None and "model" in body:
        if nests_too_deeply(raw, body):
            raise RequestError(400, "InvalidRequest", "the request's body is nested too deeply")
        raw = orjson.dumps({**body, "model": model})
    return paths.with_model(path, model), raw


@final
class _WatchedBody(WrappedBody):
    """An answer that is read as it goes by: events, or a JSON object up to a limit. See Body."""

    __slots__ = (
        *("_has_failed", "_kept", "_limit", "_pieces"),
        *("_produced", "_record", "_size", "_tap"),
    )

    def __init__(
        self,
        source: Body,
        kind: bytes,
        record: Record,
        limit_bytes: int,
        pieces: Pieces | None = None,
    ) -> None:
        """`pieces`: what the request is charged for, whatever is answered."""
        is_stream = kind.lower().startswith(_STREAMS)
        self._tap = StreamTap(_DETECT, framing_of(kind)) if is_stream else None
        self._produced = Produced() if self._tap is None else self._tap.produced
        self._source = source
        self._record = record
        self._pieces = pieces
        self._has_failed = False
        self._kept: list[bytes] = []
        self._size = 0
        self._limit = limit_bytes
        self.length = source.length
        record.follow(self._usage, self._produced)

    def read_nowait(self) -> bytes | None:
        """See Body."""
        try:
            data = self._source.read_nowait()
        except SidecarError:
            self._has_failed = True
            raise
        if data is not None:
            self._see(data)
        return data

    async def read(self) -> bytes:
        """See Body."""
        try:
            data = await self._source.read()
        except SidecarError:
            self._has_failed = True
            raise
        self._see(data)
        return data

    def _see(self, data: bytes) -> None:
        self._size += len(data)
        if self._tap is not None:
            if data and self._tap.feed(data):
                self._record.first_text()
            # Of a body of known length nobody reads on to its end.
            if not data or self._size == self.length:
                self._produced.is_whole = self._tap.is_ended or not self._tap.is_begun
            return
        if self._size <= self._limit:
            self._kept.append(data)
        else:
            self._kept.clear()

    def _usage(self) -> Usage:
        usage = self._seen()
        if self._pieces is not None:
            usage.pieces = {**self._pieces, **(usage.pieces or {})}
        return usage

    def _seen(self) -> Usage:
        if self._tap is not None:
            self._tap.finish()
            return self._tap.usage
        raw = b"".join(self._kept)
        usage = usage_of_bytes(raw)
        if usage.output_tokens is None and usage.total_tokens is None:
            body = parse_object(raw)
            if text_chars(body):
                # A chat of whatever format, whose provider does not say what it took.
                self._produced.add(body)
        return usage

    def close(self) -> None:
        """See Body."""
        if not self._has_failed and not self._produced.is_whole:
            self._produced.is_left = self._tap is not None
        self._source.close()
