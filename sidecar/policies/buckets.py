"""One token bucket of a policy: its configuration, what it is asked, and what it is charged later.

Source: spec/config.md section 3.10; spec/llm.md section 4.6. `key`, `onMissingKey`, `cost`, `debt`
and `failureMode` are our own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self, final

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from shm.errors import ShmError
from shm.rates import Ask, Limit, RateTable, Verdict
from sidecar.cel.engine import CelError
from sidecar.config.scalars import duration_ns
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request, Response
from sidecar.policies import limit_headers
from sidecar.policies.base import Services
from sidecar.policies.descriptors import Descriptor
from sidecar.policies.expressions import Expression
from sidecar.policies.schema import LIST, PLAIN, PolicyConfig
from sidecar.state.leases import LeaseError, Leases

_log = logging.getLogger("sidecar.policies.local_rate_limit")
MAX_TOKENS: Final = 2**53
"""More would not be told from its neighbours by clients that read JSON numbers."""
REASON: Final = "RateLimit"
EXCEEDED: Final = "rate limit exceeded"
FAILED: Final = "rate limit failed"
_CACHED_KEYS: Final = 4096
_CACHED_KEY_BYTES: Final = 256
_DEFAULT_TOKENS: Final = "llm.totalTokens"


def _interval(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("invalid type: expected a duration such as `500ms` or `1m30s`")
    interval_ns = duration_ns(value)
    if interval_ns < 1:
        raise ValueError("must be longer than zero")
    return interval_ns


Amount = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


class Bucket(PolicyConfig):
    """A token bucket, full at the start."""

    max_tokens: Amount
    """What it holds, 1 to 2^53."""
    tokens_per_fill: Amount
    """What each fill adds, at most `maxTokens`."""
    fill_interval_ns: Annotated[int, BeforeValidator(_interval)] = Field(alias="fillInterval")
    """Time between fills."""
    type: Literal["requests", "tokens"] = "requests"
    """What is counted: requests, or tokens as they were used. Default: requests."""
    key: (
        Annotated[
            Annotated[str, Tag(PLAIN)] | Annotated[list[str], Tag(LIST)],
            Discriminator(lambda value: LIST if isinstance(value, list) else PLAIN),
        ]
        | None
    ) = None
    """CEL, or a list of it: requests with equal values share a bucket. Default: all share one."""
    on_missing_key: Literal["shared", "reject", "skip"] = "shared"
    """For requests without a value: one bucket for all of them (default), 429, or no limit."""
    cost: str | None = None
    """CEL that gives a whole number. For requests: evaluated beforehand, default 1. For tokens:
    evaluated afterwards, default `llm.totalTokens`."""
    debt: Literal["carry", "forgive"] | None = None
    """For tokens: whether use beyond the level is paid from later fills. Default: carry."""
    failure_mode: Literal["failClosed", "failOpen"] = "failClosed"
    """When there is no room for another key: 500 (default), or no limit for it."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.tokens_per_fill > self.max_tokens:
            raise ValueError("`tokensPerFill` may not be more than `maxTokens`")
        if self.debt is not None and self.type != "tokens":
            raise ValueError("`debt` is for `type: tokens`: requests pay beforehand")
        return self


@final
class Settlement:
    """What the `tokens` buckets of one request are still to be charged. See message.Ending."""

    __slots__ = ("_due", "_now", "_table", "_taken")

    def __init__(
        self, table: RateTable | Leases, now: Callable[[], int], due: Sequence[Pair]
    ) -> None:
        self._table = table
        self._now = now
        self._due = due
        self._taken: Mapping[Counter, int] = _NOTHING
        """What was taken beforehand."""

    async def anticipate(self, request: Request) -> None:
        """Take what the request is likely to use. See base.Anticipating.

        Raises: RequestError 429; 500 and 503 by failure mode.
        """
        if self._taken:
            return
        expected = [
            (counter, ask._replace(cost=amount))
            for counter, ask in self._due
            if not counter.is_due_at_response and (amount := counter.used(request, None))
        ]
        if not expected:
            return
        asks = [ask for _, ask in expected]
        try:
            if isinstance(self._table, Leases):
                verdicts = await self._table.take_all(asks)
            else:
                verdicts = self._table.take_all(asks, self._now())
        except LeaseError as error:
            raise RequestError(503, REASON, f"{FAILED}: {error}") from error
        except ShmError as error:
            if all(counter.fails_open for counter, _ in expected):
                return
            raise RequestError(500, REASON, FAILED) from error
        # One that has gone since (the table is full) is charged at the end alone, as all are then.
        if all(verdict.known for verdict in verdicts):
            judge(request, asks, verdicts)
            self._taken = {counter: ask.cost for counter, ask in expected}

    def at_response(self, request: Request, response: Response) -> None:
        """Charge what the response's head or body tells, as the backend gave it."""
        for counter, ask in self._due:
            if counter.is_due_at_response:
                self._charge(ask, counter.used(request, response))
        self._due = [pair for pair in self._due if not pair[0].is_due_at_response]

    def __call__(self, request: Request, response: Response | None) -> None:
        """The exchange is over: charge what is known only now."""
        due, self._due = self._due, ()
        for counter, ask in due:
            # A client that left before there was a response has used nothing that one could tell.
            if not counter.is_due_at_response:
                used = counter.used(request, response)
                if self._taken:
                    used -= self._taken.get(counter, 0)
                if used:
                    self._charge(ask, used)

    def _charge(self, ask: Ask, amount: int) -> None:
        if not amount:
            return
        try:
            self._table.settle(ask, self._now(), amount)
        except ShmError as error:
            _log.error("%s: %d tokens were not charged: %s", ask.label.decode(), amount, error)


def judge(request: Request, asks: Sequence[Ask], verdicts: Sequence[Verdict]) -> None:
    """Tell of the most constrained bucket. Raises: RequestError 429."""
    # Fast path: most policies have one bucket.
    if len(asks) == 1:
        ask, verdict = asks[0], verdicts[0]
    elif len(asks) == 2 and verdicts[0].allowed and verdicts[1].allowed:
        at = verdicts[1].remaining < verdicts[0].remaining
        ask, verdict = asks[at], verdicts[at]
    else:
        ask, verdict = _tightest(asks, verdicts)
    if verdict.allowed:
        limit_headers.tell(request, ask.limit.capacity, verdict.remaining, verdict.next_ns)
        return
    wait_ns = max(verdict.retry_ns, verdict.next_ns)
    limit_headers.tell(request, ask.limit.capacity, verdict.remaining, wait_ns)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    # What costs more than the bucket holds will never pass, so there is no use in trying again.
    if ask.cost <= ask.limit.capacity:
        headers = ((b"retry-after", b"%d" % max(limit_headers.whole_seconds(wait_ns), 1)),)
    raise RequestError(429, REASON, EXCEEDED, headers=headers)


def _tightest(asks: Sequence[Ask], verdicts: Sequence[Verdict]) -> tuple[Ask, Verdict]:
    """The first of the most constrained buckets."""
    at, least = 0, verdicts[0].remaining
    for index, verdict in enumerate(verdicts):
        if not verdict.allowed:
            verdict = min(verdicts, key=_tightness)
            return asks[verdicts.index(verdict)], verdict
        # Fast path: of those that give, the level says how much they constrain.
        if (left := verdict.remaining) < least:
            at, least = index, left
    return asks[at], verdicts[at]


def _tightness(verdict: Verdict) -> tuple[bool, int, int]:
    """Orders verdicts: refusals before all, the longest wait first; then by what is left."""
    return verdict.allowed, -verdict.retry_ns, verdict.remaining


@final
class Group:
    """Buckets that are asked together."""

    __slots__ = ("_by", "_known", "counters", "fixed")

    def __init__(self, counters: Sequence[Counter]) -> None:
        self.counters = tuple(counters)
        asks = [(one, one.fixed) for one in counters if one.fixed is not None]
        self.fixed = asked_of(asks) if len(asks) == len(counters) else None
        """What is asked of every request, when that is always the same."""
        self._by = _shared_by(self.counters)
        self._known: dict[str, Asked] = {}

    def asked(self, request: Request) -> Asked:
        """What to ask for this request. Raises: RequestError."""
        if self.fixed is not None:
            return self.fixed
        # Fast path: a text that decides over all of it, and came before.
        text = None if self._by is None else self._by.text(request)
        found = None if text is None else self._known.get(text)
        if found is not None:
            return found
        made = asked_of(
            [(one, ask) for one in self.counters if (ask := one.ask(request)) is not None]
        )
        if text is not None and len(text) <= _CACHED_KEY_BYTES:
            if len(self._known) >= _CACHED_KEYS:
                self._known.clear()
            self._known[text] = made
        return made


@final
class Counter:
    """A bucket with its expressions compiled."""

    __slots__ = (
        "_cost",
        "_known",
        "_leases",
        "_limit",
        "_missing",
        "_place",
        "_table",
        "descriptor",
        "fails_open",
        "fixed",
        "has_fixed_cost",
        "is_due_at_response",
        "is_tokens",
        "needs_request_body",
        "needs_response_body",
    )

    def __init__(self, bucket: Bucket, number: int, services: Services) -> None:
        self._table = services.rates
        self._leases = services.leases
        self._place = f"{services.attachment}[{number}]".encode()
        self._limit = Limit(
            bucket.max_tokens,
            bucket.tokens_per_fill,
            bucket.fill_interval_ns,
            carry_debt=bucket.debt != "forgive",
        )
        self._missing = bucket.on_missing_key
        self._known: dict[tuple[bytes, ...], Ask] = {}
        self.is_tokens = bucket.type == "tokens"
        self.fails_open = bucket.failure_mode == "failOpen"
        sources = [bucket.key] if isinstance(bucket.key, str) else bucket.key
        self.descriptor = None if sources is None else Descriptor(sources, services, "key")
        source = bucket.cost or (_DEFAULT_TOKENS if self.is_tokens else None)
        cost = (
            None
            if source is None
            else Expression(source, services, "cost", with_response=self.is_tokens)
        )
        self._cost = cost
        # LLM usage is complete at the end of a stream; all else the response's head or body tells.
        self.is_due_at_response = (
            cost is not None and cost.names_response and "llm" not in cost.variables
        )
        self.needs_response_body = cost is not None and cost.needs_response_body
        if self.needs_response_body and not self.is_due_at_response:
            raise ConfigError("cost", "`response.body` and `llm` cannot be used together")
        self.needs_request_body = any(
            one is not None and one.needs_request_body for one in (cost, self.descriptor)
        )
        self.has_fixed_cost = self.is_tokens or cost is None
        """Whether each request is asked for the same."""
        is_fixed = self.descriptor is None and self.has_fixed_cost
        self.fixed = self._ask_for(()) if is_fixed and self._table is not None else None
        """The one question of a bucket without expressions."""

    def ask(self, request: Request) -> Ask | None:
        """What to ask for this request; None: nothing. Raises: RequestError."""
        values: tuple[bytes, ...] = ()
        if self.descriptor is not None:
            found = self.descriptor.values(request)
            if found is not None:
                values = found
            elif self._missing == "skip":
                return None
            elif self._missing == "reject":
                raise RequestError(429, REASON, EXCEEDED)
        ask = self._known.get(values) or self._ask_for(values)
        if self._cost is None or self.has_fixed_cost:
            return ask
        try:
            value = self._cost.value(request)
        except (CelError, RequestError):
            value = None
        return ask._replace(cost=_whole(value, 1))

    def _ask_for(self, values: tuple[bytes, ...]) -> Ask:
        table = self._table
        assert table is not None
        key = table.key(b"localRateLimit", self._place, *values)
        label = self._place
        if self.descriptor is not None:
            label += b" " + (self.descriptor.shown(values, key) if values else b"(no key)")
        name = b""
        if self._leases is not None:
            name = self._leases.name(b"localRateLimit", self._place, *values)
        ask = Ask(key, label, self._limit, 0 if self.is_tokens else 1, name)
        # Two hashes and a label cost more than all the rest; clients come again.
        if sum(map(len, values)) <= _CACHED_KEY_BYTES:
            if len(self._known) >= _CACHED_KEYS:
                self._known.clear()
            self._known[values] = ask
        return ask

    def used(self, request: Request, response: Response | None) -> int:
        """What a request has used, in tokens; 0 when that cannot be told."""
        assert self._cost is not None
        try:
            value = self._cost.value(request, response)
        except (CelError, RequestError):
            return 0
        # Fast path: what providers count in.
        if type(value) is int and 0 <= value <= MAX_TOKENS:
            return value
        return _whole(value, 0)


Pair = tuple[Counter, Ask]
"""A bucket, and what it is asked."""
_NOTHING: Final[Mapping[Counter, int]] = {}


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What one request asks."""

    counters: tuple[Counter, ...]
    asks: tuple[Ask, ...]
    """One for each."""
    due: tuple[Pair, ...]
    """Those that are charged later."""


def asked_of(pairs: Sequence[Pair]) -> Asked:
    """Of these buckets this."""
    counters, asks = tuple(one for one, _ in pairs), tuple(ask for _, ask in pairs)
    return Asked(counters, asks, tuple(pair for pair in pairs if pair[0].is_tokens))


def _shared_by(counters: Sequence[Counter]) -> Descriptor | None:
    """The descriptor that says what all buckets are asked; None when there is none."""
    first = counters[0].descriptor if counters else None
    if first is None:
        return None
    is_shared = all(
        one.has_fixed_cost
        and one.descriptor is not None
        and one.descriptor.sources == first.sources
        for one in counters
    )
    return first if is_shared else None


def _whole(value: object, otherwise: int) -> int:
    """A cost as a number of tokens, rounded up; `otherwise` for what is none or is negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return otherwise
    if not math.isfinite(value) or value < 0:
        return otherwise
    return min(math.ceil(value), MAX_TOKENS)
