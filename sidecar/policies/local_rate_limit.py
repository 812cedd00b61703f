"""Refuses what exceeds token buckets that all workers of the gateway share.

Source: spec/config.md sections 3.10, 0.5 (conditional) and 11; spec/llm.md section 4.6.

A bucket is known by the place of the policy, its number in the list and the values of its key: so
it stays through reloads and workers, whatever else changes. What becomes of its level when its
limit changes, `shm.rates` says.

Order of one request: all buckets of the list are asked at once and either all give or none does.
`requests` buckets give the cost, `tokens` buckets only show that they are not empty; those are
charged when the cost is known. Exactly once: a settlement drops each bucket as it charges it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count
from typing import Annotated, Final, final

from pydantic import Discriminator, RootModel, Tag

from shm.bucket import UNKNOWN
from shm.errors import ShmError
from shm.rates import Ask, Verdict
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request, Response
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.buckets import (
    FAILED,
    REASON,
    Asked,
    Bucket,
    Counter,
    Group,
    Settlement,
    asked_of,
    judge,
)
from sidecar.policies.conditional import Choice, alternatives
from sidecar.policies.schema import LIST, OBJECT, ROOT, PolicyConfig, nested
from sidecar.state.leases import LeaseError

_log = logging.getLogger("sidecar.policies.local_rate_limit")
MAX_BUCKETS: Final = 16
STATE: Final = "localRateLimit"


class Entry(Bucket):
    """One alternative."""

    condition: str | None = None
    """CEL; the bucket acts when it is true. Default: it is the fallback and comes last."""


class Alternatives(PolicyConfig):
    """Buckets of which one acts."""

    conditional: list[Entry]
    """1 to 64 buckets; the first whose condition is true acts, or none."""


class Config(
    RootModel[
        Annotated[
            Annotated[list[Bucket], Tag(LIST)] | Annotated[Alternatives, Tag(OBJECT)],
            Discriminator(lambda value: LIST if isinstance(value, list) else OBJECT),
        ]
    ]
):
    """Buckets that all must give, or alternatives."""

    model_config = ROOT


@final
class LocalRateLimit:
    """Buckets made ready. A request costs one call of the table."""

    __slots__ = (
        "_choice",
        "_has_warned",
        "_leases",
        "_now",
        "_only",
        "_table",
        "_take",
        "guard",
        "is_guard",
        "needs_request_body",
        "needs_response_body",
        "on_request",
        "on_response",
    )

    def __init__(self, config: Config, services: Services) -> None:
        self._table = services.rates
        self._take = _nothing if services.rates is None else services.rates.take_all
        self._leases = services.leases
        self._now = services.clock.monotonic_ns
        self._has_warned = False
        root = config.root
        if isinstance(root, Alternatives):
            number = count()
            self._choice = alternatives(
                root.conditional,
                lambda entry, services: Group([Counter(entry, next(number), services)]),
                services,
            )
        else:
            self._choice = Choice([(None, Group(_listed(root, services)))])
        groups = self._choice.items
        self._only = groups[0] if isinstance(root, list) else None
        every = [counter for group in groups for counter in group.counters]
        self.needs_request_body = self._choice.needs_request_body or any(
            counter.needs_request_body for counter in every
        )
        self.needs_response_body = any(counter.needs_response_body for counter in every)
        reads_response = any(counter.is_due_at_response for counter in every)
        self.on_response = _on_response if reads_response else None
        is_leased = self._leases is not None
        self.is_guard = not (reads_response or self.needs_request_body)
        self.guard = self._guard_leased if is_leased else None
        self.on_request = self._on_request_leased if is_leased else self._on_request

    def _on_request(self, request: Request) -> None:
        """Take from every bucket, or refuse. Raises: RequestError 429, or 500 by failure mode."""
        group = self._only or self._choice.pick(request)
        if group is None:
            return
        asked = group.asked(request)
        verdicts: Sequence[Verdict] = ()
        while asks := asked.asks:
            try:
                verdicts = self._take(asks, self._now())
            except ShmError as error:
                verdicts = self._failed(asked.counters, error)
            if UNKNOWN not in verdicts:
                break
            asked = self._without_unknown(asked, verdicts)
        if asks and verdicts:
            self._admit(request, asked, verdicts)

    async def _on_request_leased(self, request: Request) -> None:
        """As `_on_request`, from leases. Raises: RequestError, also 503 without Redis."""
        group = self._only or self._choice.pick(request)
        if group is None:
            return
        asked = group.asked(request)
        verdicts: Sequence[Verdict] = ()
        while asked.asks:
            verdicts = await self._leased(asked)
            if _are_known(verdicts):
                break
            asked = self._without_unknown(asked, verdicts)
        if asked.asks and verdicts:
            self._admit(request, asked, verdicts)

    def _guard_leased(self, request: Request) -> None:
        """As `_on_request_leased`, of leases in hand. Raises: LeaseError when they do not do."""
        group = self._only or self._choice.pick(request)
        if group is None:
            return
        asked = group.asked(request)
        if not asked.asks:
            return
        assert self._leases is not None
        try:
            verdicts = self._leases.take_now(asked.asks)
        except ShmError as error:
            raise LeaseError("shared memory failed") from error
        if verdicts is None or not _are_known(verdicts):
            raise LeaseError("is to be renewed")
        self._admit(request, asked, verdicts)

    def _admit(self, request: Request, asked: Asked, verdicts: Sequence[Verdict]) -> None:
        """Refuse, or see to what is charged later. Raises: RequestError 429."""
        judge(request, asked.asks, verdicts)
        if asked.due:
            table = self._leases or self._table
            assert table is not None
            settlement = Settlement(table, self._now, asked.due)
            request.endings += (settlement,)
            request.state[STATE] = settlement

    async def _leased(self, asked: Asked) -> Sequence[Verdict]:
        """What the leases say; nothing when they cannot say and that means no limit."""
        assert self._leases is not None
        try:
            return await self._leases.take_all(asked.asks)
        except LeaseError as error:
            raise RequestError(503, REASON, f"{FAILED}: {error}") from error
        except ShmError as error:
            return self._failed(asked.counters, error)

    def _failed(self, counters: Sequence[Counter], error: ShmError) -> Sequence[Verdict]:
        """Nothing, when that means no limit. Raises: RequestError 500."""
        self._warn("shared memory failed: %s", error)
        if all(counter.fails_open for counter in counters):
            return ()
        raise RequestError(500, REASON, FAILED) from error

    def _without_unknown(self, asked: Asked, verdicts: Sequence[Verdict]) -> Asked:
        """What is still to be asked when the table had no room for some. Raises: RequestError."""
        self._warn("the table of rate limits is full (config.state.rateKeys)%s", "")
        kept: list[tuple[Counter, Ask]] = []
        for counter, ask, verdict in zip(asked.counters, asked.asks, verdicts, strict=True):
            if verdict.known:
                kept.append((counter, ask))
            elif not counter.fails_open:
                raise RequestError(500, REASON, FAILED)
        return asked_of(kept)

    def _warn(self, message: str, detail: object) -> None:
        # Once: it would come with every request. The table's metrics tell how often.
        if not self._has_warned:
            self._has_warned = True
            _log.error(message, detail)


def _listed(buckets: Sequence[Bucket], services: Services) -> list[Counter]:
    if not 1 <= len(buckets) <= MAX_BUCKETS:
        raise ConfigError("", f"1 to {MAX_BUCKETS} buckets")
    made: list[Counter] = []
    for number, bucket in enumerate(buckets):
        try:
            made.append(Counter(bucket, number, services))
        except ConfigError as problem:
            raise nested(f"[{number}]", problem) from problem
    return made


def _nothing(asks: Sequence[Ask], now_ns: int) -> list[Verdict]:
    """Of no table: policies that are only checked serve nobody."""
    raise ShmError("there is no table of rate limits")


def _are_known(verdicts: Sequence[Verdict]) -> bool:
    return UNKNOWN not in verdicts


def _on_response(request: Request, response: Response) -> None:
    settlement = request.state.get(STATE)
    if isinstance(settlement, Settlement):
        settlement.at_response(request, response)


KIND = PolicyKind("localRateLimit", Config, LocalRateLimit)
