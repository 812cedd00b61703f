"""Limits that another service keeps: asked for each request, told of tokens after the response.

Source: spec/config.md sections 3.10, 0.4, 0.5 and 11; spec/llm.md section 4.6; Envoy's rate limit
service.

One call asks for all descriptors: those of type `requests` with their cost, those of type `tokens`
with no hits, which only asks whether any are left. What a response cost is told by a second call
at the end of the exchange, however it ends, once, in the background.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Final, Literal, final

from pydantic import BeforeValidator, Discriminator, Field, RootModel, Tag

from sidecar.cel.variables import Plan
from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.http.headers import Field as HeaderField
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies import fields, limit_headers, ratelimit
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.callouts import CalloutConfig
from sidecar.policies.conditional import Choice, alternatives
from sidecar.policies.expressions import Activation, Expression, shared_plan
from sidecar.policies.ratelimit import Asked, Verdict
from sidecar.policies.schema import LIST, OBJECT, ROOT, PolicyConfig, alternative_form, nested

_log = logging.getLogger("sidecar.policies.remote_rate_limit")
_TIMEOUT_SECONDS: Final = 2.0
_QUIET_NS: Final = 10_000_000_000
_STANDING: Final = frozenset((limit_headers.LIMIT, limit_headers.REMAINING, limit_headers.RESET))
_OVER: Final = "rate limit exceeded"


def _canonical(value: object) -> object:
    return {"FailClosed": "failClosed", "FailOpen": "failOpen"}.get(str(value), value)


class DescriptorField(PolicyConfig):
    """A field of a descriptor."""

    key: str = Field(min_length=1)
    """Its name, as the service's configuration has it."""
    value: str
    """CEL that gives its value; when it fails or gives null, the descriptor is not asked for."""


class Descriptor(PolicyConfig):
    """What a limit counts by."""

    entries: list[DescriptorField] = Field(min_length=1)
    """The fields, in order."""
    type: Literal["requests", "tokens"] = "requests"
    """What is counted: requests, or what responses cost. Default requests."""
    cost: str | None = None
    """CEL: hits, rounded up. Of `requests` (default 1) evaluated with the request, and 1 when it
    gives no amount; of `tokens` (default `llm.totalTokens`) at the end of the response, and nothing
    is told when it gives none."""
    limit_override: str | None = None
    """CEL: `{"unit": "second|minute|hour|day|month|year", "requestsPerUnit": N}` in the place of
    the service's own limit; whatever else it gives is ignored. Default: the service's."""


class Limits(CalloutConfig):
    """One service and what it is asked."""

    domain: str = Field(min_length=1)
    """Name space of the limits."""
    descriptors: list[Descriptor] = Field(min_length=1)
    """What is asked for each request."""
    failure_mode: Annotated[Literal["failClosed", "failOpen"], BeforeValidator(_canonical)] = (
        "failClosed"
    )
    """What a request gets when the service fails: 500, or its way. Default failClosed."""


class Entry(Limits):
    """One alternative."""

    condition: str | None = None
    """CEL; the entry acts when it is true. Default: it is the fallback and comes last."""


class Alternatives(PolicyConfig):
    """A list of services."""

    conditional: list[Entry]
    """1 to 64 alternatives; the first whose condition is true is asked, else nobody is."""


class Config(
    RootModel[
        Annotated[
            Annotated[Limits, Tag(OBJECT)] | Annotated[Alternatives, Tag(LIST)],
            Discriminator(alternative_form),
        ]
    ]
):
    """A plain limit, or a list of alternatives."""

    model_config = ROOT


@final
class RemoteRateLimit:
    """The question for each request, and the settling of tokens."""

    __slots__ = ("_choice", "_key", "needs_request_body", "needs_response_body", "on_response")

    def __init__(self, config: Config, services: Services) -> None:
        if isinstance(config.root, Limits):
            self._choice = Choice([(None, _Limiter(config.root, services))])
        else:
            self._choice = alternatives(config.root.conditional, _Limiter, services)
        limiters = self._choice.items
        self._key = f"remoteRateLimit/{id(self):x}"
        self.needs_request_body = self._choice.needs_request_body or any(
            one.needs_request_body for one in limiters
        )
        self.needs_response_body = any(one.needs_response_body for one in limiters)
        self.on_response = self._response if any(one.sees_response for one in limiters) else None
        """Reads the costs that depend on the response alone; None when there are none."""

    async def on_request(self, request: Request) -> Response | None:
        """Ask; a Response or RequestError when the limit is reached, or nobody can tell."""
        limiter = self._choice.pick(request)
        if limiter is None:
            return None
        asked, settlement = limiter.prepared(request)
        if not asked:
            return None
        answer = await limiter.ask(request, asked)
        if answer is None and settlement is not None:
            request.state[self._key] = settlement
            request.endings += (settlement,)
        return answer

    def _response(self, request: Request, response: Response) -> None:
        settlement = request.state.get(self._key)
        if isinstance(settlement, _Settlement):
            settlement.see(request, response)


@final
class _Descriptor:
    """A descriptor with its expressions compiled."""

    __slots__ = ("cost", "entries", "is_early", "is_tokens", "override", "with_request")

    def __init__(self, config: Descriptor, services: Services) -> None:
        self.entries = tuple(
            (item.key, Expression(item.value, services, f"entries[{index}].value"))
            for index, item in enumerate(config.entries)
        )
        source = config.limit_override
        self.override = None if source is None else Expression(source, services, "limitOverride")
        self.is_tokens = config.type == "tokens"
        source = config.cost if config.cost is not None or not self.is_tokens else "llm.totalTokens"
        self.cost = (
            None
            if source is None
            else Expression(source, services, "cost", with_response=self.is_tokens)
        )
        self.is_early = False
        """Whether the cost of tokens is known when the response's head is."""
        self.with_request: list[Expression] = [item for _, item in self.entries]
        """What is evaluated with the request."""
        if self.override is not None:
            self.with_request.append(self.override)
        if self.cost is not None and not self.is_tokens:
            self.with_request.append(self.cost)
        if self.cost is not None and self.is_tokens:
            self._check_time(self.cost)

    def _check_time(self, cost: Expression) -> None:
        # Bodies are gone at the end of the exchange, and `llm` is not complete before.
        names_llm = "llm" in cost.variables
        self.is_early = cost.names_response and not names_llm
        if names_llm and cost.needs_response_body:
            raise ConfigError("cost", "`llm` and the response's body are not known together")
        if cost.needs_request_body:
            raise ConfigError("cost", "the request's body is gone when tokens are counted")

    def asked(self, variables: Activation) -> Asked | None:
        """As it is asked for, without hits of tokens; None when an entry has no value."""
        entries: list[tuple[str, str]] = []
        for key, expression in self.entries:
            value = expression.encoded_in(variables)
            if value is None:
                return None
            # Not skipped when it is no UTF-8: a client could choose to be counted by nothing.
            entries.append((key, value.decode("utf-8", "replace")))
        limit = None
        if self.override is not None:
            limit = ratelimit.override(self.override.value_in(variables))
        count = 0 if self.is_tokens else None
        if self.cost is not None and not self.is_tokens:
            count = ratelimit.hits(self.cost.value_in(variables))
        return Asked(tuple(entries), count, limit)


@final
class _Limiter:
    """One alternative: a service and its descriptors."""

    __slots__ = (
        "_callout",
        "_descriptors",
        "_domain",
        "_fails_open",
        "_plan",
        "_quiet_until_ns",
        "_services",
        "_token_plan",
        "needs_request_body",
        "needs_response_body",
        "sees_response",
    )

    def __init__(self, config: Limits, services: Services) -> None:
        self._services = services
        self._domain = config.domain
        self._fails_open = config.failure_mode == "failOpen"
        made: list[_Descriptor] = []
        for index, item in enumerate(config.descriptors):
            try:
                made.append(_Descriptor(item, services))
            except ConfigError as problem:
                raise nested(f"descriptors[{index}]", problem) from problem
        self._descriptors = tuple(made)
        self._plan = shared_plan([item for one in made for item in one.with_request])
        costs = [one.cost for one in made if one.is_tokens and one.cost is not None]
        self._token_plan = shared_plan(costs) if costs else None
        self.needs_request_body = self._plan.needs_request_body
        self.needs_response_body = any(cost.needs_response_body for cost in costs)
        self.sees_response = any(one.is_early for one in made)
        self._quiet_until_ns = 0
        self._callout = services.callouts.resolve(config.reference, config.policies, "RateLimit")

    def prepared(self, request: Request) -> tuple[list[Asked], _Settlement | None]:
        """The question, and what is to be settled afterwards. Raises: RequestError."""
        variables = self._plan.activation(request)
        asked: list[Asked] = []
        tokens: list[tuple[_Descriptor, Asked]] = []
        for descriptor in self._descriptors:
            one = descriptor.asked(variables)
            if one is not None:
                asked.append(one)
                if descriptor.is_tokens:
                    tokens.append((descriptor, one))
        plan = self._token_plan
        return asked, _Settlement(self, plan, tokens) if tokens and plan is not None else None

    async def ask(self, request: Request, asked: Sequence[Asked]) -> Response | None:
        """None when the request may pass. Raises: RequestError 429, or 500 when nobody can tell."""
        verdict = await self.verdict(request, asked)
        return None if verdict is None else self.judge(request, verdict)

    async def verdict(self, request: Request, asked: Sequence[Asked]) -> Verdict | None:
        """What the service says; None: nothing, and that lets pass. Raises: RequestError 500."""
        try:
            message = ratelimit.question(self._domain, asked)
            data = await self._callout.unary(ratelimit.PATH, message, _TIMEOUT_SECONDS, request)
            return ratelimit.verdict(data)
        except UpstreamError as error:
            self._complain("the rate limit service at %s failed: %s", self._callout.label, error)
            if self._fails_open:
                return None
            raise RequestError(500, "RateLimit", "rate limit failed") from error

    @staticmethod
    def judge(request: Request, verdict: Verdict) -> Response | None:
        """Tell the client where it stands; the refusal. Raises: RequestError 429."""
        _queue(request, verdict)
        if verdict.is_over:
            return _refusal(request, verdict)
        if verdict.request_fields:
            _add_to_request(request.headers, verdict.request_fields)
        return None

    def amend(self, request: Request, asked: Sequence[Asked]) -> None:
        """Tell what a response cost, in the background."""
        message = ratelimit.question(self._domain, asked)
        if not self._callout.unary_later(ratelimit.PATH, message, _TIMEOUT_SECONDS, request):
            self._complain("too many calls wait for %s: tokens go uncounted", self._callout.label)

    def _complain(self, text: str, *values: object) -> None:
        """Log, at most every ten seconds: a service that is down fails each request."""
        now = self._services.clock.monotonic_ns()
        if now >= self._quiet_until_ns:
            self._quiet_until_ns = now + _QUIET_NS
            _log.warning(text, *values)


@final
class _Settlement:
    """The token descriptors of one request, until its end."""

    __slots__ = ("_early", "_limiter", "_plan", "_taken", "_tokens")

    def __init__(
        self, limiter: _Limiter, plan: Plan, tokens: list[tuple[_Descriptor, Asked]]
    ) -> None:
        self._limiter = limiter
        self._plan = plan
        self._tokens = tokens
        self._early: dict[int, int | None] = {}
        self._taken: dict[int, int] = {}
        """What the service was told of beforehand."""

    async def anticipate(self, request: Request) -> Response | None:
        """Ask for what the request is likely to cost. See base.Anticipating.

        Raises: RequestError 429, or 500 when nobody can tell.
        """
        if self._taken:
            return None
        variables = self._plan.activation(request)
        asked: list[Asked] = []
        taken: dict[int, int] = {}
        for index, (descriptor, one) in enumerate(self._tokens):
            if descriptor.is_early or descriptor.cost is None:
                continue
            cost = ratelimit.hits(descriptor.cost.value_in(variables))
            if cost:
                taken[index] = cost
                asked.append(Asked(one.entries, cost, one.override))
        if not asked:
            return None
        verdict = await self._limiter.verdict(request, asked)
        if verdict is None:
            return None
        answer = self._limiter.judge(request, verdict)
        if answer is None:
            self._taken = taken
        return answer

    def see(self, request: Request, response: Response) -> None:
        """The response is here as the backend made it: read what depends on it alone."""
        variables = self._plan.activation(request, response)
        for index, (descriptor, _) in enumerate(self._tokens):
            if descriptor.is_early and descriptor.cost is not None:
                self._early[index] = ratelimit.hits(descriptor.cost.value_in(variables))

    def __call__(self, request: Request, response: Response | None) -> None:
        """See sidecar.http.message.Ending."""
        late = [one for one in self._tokens if not one[0].is_early]
        variables = self._plan.activation(request, response) if late else {}
        told: list[Asked] = []
        for index, (descriptor, asked) in enumerate(self._tokens):
            if descriptor.is_early:
                cost = self._early.get(index)
            else:
                assert descriptor.cost is not None
                cost = ratelimit.hits(descriptor.cost.value_in(variables))
            # The service takes nothing back: what was asked for too much stays counted.
            cost = (cost or 0) - self._taken.get(index, 0)
            if cost > 0:
                told.append(Asked(asked.entries, cost, asked.override))
        if told:
            self._limiter.amend(request, told)


def _queue(request: Request, verdict: Verdict) -> None:
    """Put what the client is told among the fields that overwrite equal names at the end."""
    told = verdict.response_fields
    names = {name for name, _ in told}
    queued = request.response_headers
    if told:
        queued[:] = [*(item for item in queued if item[0] not in names), *told]
    standing = verdict.standing
    if standing is None:
        return
    if names.isdisjoint(_STANDING):
        limit_headers.tell(request, standing.limit, standing.remaining, standing.reset_ns)
    if verdict.is_over and b"retry-after" not in names:
        seconds = max(limit_headers.whole_seconds(standing.reset_ns), 1)
        queued.append((b"retry-after", b"%d" % seconds))


def _refusal(request: Request, verdict: Verdict) -> Response:
    """429 in the service's words. Raises: RequestError in our own, or for a gRPC client."""
    kind = request.headers.get(b"content-type") or b""
    if not verdict.body or kind.startswith(b"application/grpc"):
        raise RequestError(429, "RateLimit", _OVER)
    headers = Headers([(b"content-type", b"text/plain")])
    response = Response(429, headers, FixedBody(verdict.body), reason="RateLimit")
    response.error = _OVER
    return response


def _add_to_request(headers: Headers, added: tuple[HeaderField, ...]) -> None:
    """In the place of the client's own fields of these names, which could pass for added ones."""
    drop = fields.remover({name for name, _ in added}, twins=True)
    if drop is not None:
        drop(headers)
    headers.extend(added)


KIND = PolicyKind("remoteRateLimit", Config, RemoteRateLimit)
