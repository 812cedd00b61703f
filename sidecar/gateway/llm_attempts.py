"""One provider after the other, until one has an answer for the client.

Source: spec/llm.md sections 0 and 3.3.

Until the first octet of an answer is ready for the client, a provider that fails (no connection,
timeout, 429, 5xx, a stream that begins with an error, an answer that makes no sense) is followed by
the next one; each gets the client's own request anew, for its own model and in its own format.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, final

from sidecar.cel.engine import Engine
from sidecar.errors import RequestError, UpstreamError
from sidecar.gateway.exchange import Exchange
from sidecar.gateway.llm_answer import Answers
from sidecar.gateway.llm_call import COUNT, ClientCall, Member, Prepared, edited, prepare
from sidecar.gateway.llm_choice import Ranks, is_worth_moving
from sidecar.gateway.llm_count import counted
from sidecar.gateway.llm_edits import REQUEST
from sidecar.gateway.llm_facts import Prices, Record
from sidecar.gateway.llm_outgoing import outgoing_of, sent
from sidecar.gateway.llm_stream import IDLE_SECONDS
from sidecar.gateway.plan import Attempt, Route
from sidecar.http.message import FixedBody, Request, Response
from sidecar.llm.chat.base import Json
from sidecar.llm.chat.formats import CHAT
from sidecar.llm.providers.base import Tags
from sidecar.llm.shape import ShapeError
from sidecar.llm.tokens import count_prompt
from sidecar.policies.base import Anticipating
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.genai import GenAiMetrics

_TOPMOST: Final = ("input", "instructions", "system", "systemInstruction", "system_instruction")
"""Keys of requests, of all formats, that may hold a text themselves."""
_COUNTS: Final = frozenset((COUNT, "geminiCountTokens"))
"""Calls that no token limit counts."""


@final
@dataclass(frozen=True, slots=True)
class Shared:
    """What all backends of a compilation have in common."""

    clock: Clock
    metrics: GenAiMetrics
    prices: Prices | None
    limit_bytes: int
    cel: Engine
    """Knows whether anybody reads what models answer."""
    tags: Tags | None = None
    """The catalogue's, which providers choose formats by."""


@final
@dataclass(frozen=True, slots=True)
class Failover:
    """When another provider is asked."""

    max_attempts: int = 3
    """1: never."""
    attempt_seconds: float | None = None
    idle_seconds: float = IDLE_SECONDS
    """How long an answer that nobody converts may be silent."""


@final
@dataclass(frozen=True, slots=True)
class Begun:
    """A call that was made: its answer's head, or how it failed."""

    call: Prepared
    response: Response | None = None
    failure: Exception | None = None


@final
class Asker:
    """Asks the providers of one backend."""

    __slots__ = ("answers", "failover", "shared")

    def __init__(self, failover: Failover, idle_seconds: float, shared: Shared) -> None:
        self.failover = failover
        self.shared = shared
        self.answers = Answers(shared.limit_bytes, idle_seconds, shared.cel)

    async def asked(
        self,
        client: ClientCall,
        record: Record,
        ranks: Ranks,
        request: Request,
        exchange: Exchange,
        route: Route,
        attempt: Attempt,
        begun: Begun | None = None,
    ) -> Response:
        """Ask one provider after the other. Raises: SidecarError, the last one's.

        `begun`: what the first one's call came to, which was made already.
        """
        tried: list[Member] = []
        member = ranks.first() if begun is None else begun.call.member
        first_attempt = exchange.attempt
        while True:
            tried.append(member)
            exchange.attempt = first_attempt + len(tried) - 1
            is_last = len(tried) >= min(self.failover.max_attempts, ranks.count)
            done, begun = begun, None
            if done is not None:
                answer = self._answered(done, record, request, may_move=not is_last)
            else:
                if client.kind == COUNT and not member.counts(client.model):
                    return await counted(client, member, record)
                body = edited(client, member, request)
                refusal = await guarded(client, member, body, request)
                if refusal is not None:
                    return refusal
                call = self.prepared(client, body, member, record, request)
                if member.tokenizes and client.kind not in _COUNTS:
                    estimate = count_prompt(prompt_of(client, request), call.call.model)
                    refusal = await anticipated(record, estimate, request)
                    if refusal is not None:
                        return refusal
                answer = self._attempted(
                    call, record, ranks, request, exchange, route, attempt, may_move=not is_last
                )
            try:
                response = await answer
                if response is not None:
                    return response
            except UpstreamError:
                if is_last:
                    raise
            following = ranks.next(tried)
            if following is None:
                raise UpstreamError(503, "NoHealthyBackend", "no healthy backends")
            member = following

    def is_direct(self, member: Member) -> bool:
        """Whether a call of this provider may be made in callbacks."""
        return member.is_direct and self.failover.attempt_seconds is None

    def prepared(
        self, client: ClientCall, body: Json, member: Member, record: Record, request: Request
    ) -> Prepared:
        """The call of a provider, noted in the record. Raises: RequestError 400."""
        # Limits and budgets that hold something wait for the end of the exchange, as the record.
        needs_usage = len(request.endings) > 1
        now = self.shared.clock.time_ns() // 1_000_000_000
        try:
            call = prepare(client, body, member, request, now, needs_usage=needs_usage)
        except ShapeError as error:
            raise RequestError(400, "InvalidRequest", str(error)) from error
        model = call.call.model
        record.begin(
            provider=member.provider.name,
            model=model,
            operation="embeddings" if client.kind == "embeddings" else "chat",
            is_streaming=call.call.is_streaming,
            params=call.params,
            excludes_cache=call.excludes_cache,
        )
        asked = request.state[REQUEST]
        assert isinstance(asked, dict)
        record.state.prompt_from(client.wire_format, asked)
        return call

    async def _attempted(
        self,
        call: Prepared,
        record: Record,
        ranks: Ranks,
        request: Request,
        exchange: Exchange,
        route: Route,
        attempt: Attempt,
        *,
        may_move: bool,
    ) -> Response | None:
        """One provider's answer; None when another one should be asked. Raises: SidecarError."""
        seconds = call.member.attempt_seconds or self.failover.attempt_seconds
        member = call.member
        try:
            async with nullcontext() if seconds is None else asyncio.timeout(seconds):
                made = await outgoing_of(member, call.target, call.body, request, route)
                response = await sent(
                    ranks, record.under_way, member, call.target, made, exchange, route, attempt
                )
                begun = Begun(call, response)
                answer = await self._answered(begun, record, request, may_move=may_move)
        except TimeoutError as error:
            raise UpstreamError(504, "Timeout", "upstream call timeout", retryable=True) from error
        if answer is None:
            return None
        for hook, is_async in member.chain.response_hooks:
            done = hook(request, answer)
            if is_async:
                await done
        return answer

    async def _answered(
        self, begun: Begun, record: Record, request: Request, *, may_move: bool
    ) -> Response | None:
        """What the client gets of a call that was made; as `_attempted`."""
        response = begun.response
        if begun.failure is not None or response is None:
            assert begun.failure is not None
            raise begun.failure
        if may_move and is_worth_moving(response.status):
            response.body.close()
            return None
        answer = await self.answers.made(response, begun.call, record, request, may_move=may_move)
        if type(answer.body) is FixedBody:
            # Whole: however slowly the client reads, the provider has nothing to do.
            record.under_way.end()
        return answer


def prompt_of(client: ClientCall, request: Request) -> list[dict[str, str]]:
    """The texts whose tokens are counted beforehand."""
    asked = request.state[REQUEST]
    assert isinstance(asked, dict)
    return client.wire_format.prompt(asked)


async def anticipated(record: Record, input_tokens: int, request: Request) -> Response | None:
    """Take the estimate from limits and budgets; the answer when one has not that much left.

    Raises: RequestError 429 and as they do.
    """
    record.estimate(input_tokens)
    answer: Response | None = None
    try:
        for ending in request.endings:
            if isinstance(ending, Anticipating):
                answer = await ending.anticipate(request)
                if answer is not None:
                    break
    except RequestError:
        record.refuse()
        raise
    if answer is not None:
        record.refuse()
    return answer


async def guarded(
    client: ClientCall, member: Member, body: Json, request: Request
) -> Response | None:
    """Guards of prompts; the answer when one refuses. Raises: RequestError 503."""
    if member.guards is None or client.kind not in CHAT:
        return None
    refusal = await member.guards.on_request(client.wire_format, body, request)
    # What expressions and logs read of the request shares all but its topmost texts with `body`.
    seen = request.state[REQUEST]
    assert isinstance(seen, dict)
    request.state[REQUEST] = {**seen, **{key: body[key] for key in _TOPMOST if key in body}}
    return refusal
