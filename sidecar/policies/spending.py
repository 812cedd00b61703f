"""Counts what is spent against budgets that all workers share, for the policies that have some.

Source: spec/llm.md section 4.5 (of version 1.5: windows aligned to the epoch, charged afterwards,
the 429 and its body).

Order of one request: all budgets of the list are asked at once, and either each holds its estimate
or none does; a budget without an estimate only asks that something is left, so that the request
which crosses the limit passes and the next is refused. When the exchange is over, however it ended,
each is charged what the backend's response cost: nothing when there was none, or when the cost
cannot be told. A worker that dies has its holds returned by control.

A budget is known by the place of the policy, its name and the values of its key: so it stays
through reloads, whatever else changes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, final

from shm.budgets import Ask, BudgetTable, Refused, Reservation
from shm.errors import ShmError
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request, Response
from sidecar.policies.allowances import Budget
from sidecar.policies.amounts import shown
from sidecar.policies.base import Services
from sidecar.policies.budget_counter import REASON, Counter
from sidecar.policies.schema import nested
from sidecar.state.leases import LeaseError

_log = logging.getLogger("budget")
MAX_BUDGETS: Final = 16
"""Of one list."""
_STATE: Final = "budgets"
_FAILED: Final = "budget failed"
_NOTHING: Final[Mapping[int, int]] = {}


@final
class Spending:
    """Budgets made ready: the hooks of a policy, and what they hold."""

    __slots__ = (
        "_counters",
        "_fixed",
        "_fixed_asks",
        "_has_warned",
        "_table",
        "clock",
        "is_guard",
        "leases",
        "needs_request_body",
        "needs_response_body",
        "on_request",
        "on_response",
        "ttl_ns",
    )

    def __init__(self, budgets: Sequence[Budget], services: Services, of: bytes = b"") -> None:
        """`of`: whose budgets they are, beside what each one's `key` says. Raises: ConfigError."""
        self._table = services.budgets
        self.leases = services.leases
        self.clock = services.clock
        self._has_warned = False
        self._counters = _counters(budgets, services, of)
        fixed = [(one, one.fixed) for one in self._counters if one.fixed is not None]
        self._fixed: _Asked = fixed if len(fixed) == len(self._counters) else []
        self._fixed_asks = [ask for _, ask in self._fixed]
        """What is asked of every request, when that is always the same; else nothing."""
        self.ttl_ns = max(budget.reservation_timeout_ns for budget in budgets)
        self.needs_request_body = any(one.needs_request_body for one in self._counters)
        self.needs_response_body = any(one.needs_response_body for one in self._counters)
        reads_response = any(one.is_told_by_response for one in self._counters)
        self.on_response = _on_response if reads_response else None
        self.is_guard = self.leases is None and not (
            reads_response or self.needs_request_body or self.needs_response_body
        )
        self.on_request = self._on_request if self.leases is None else self._on_request_leased

    def _on_request(self, request: Request) -> Response | None:
        """Hold the estimates, or refuse. Raises: RequestError 500 by failure mode."""
        # Fast path: budgets without expressions.
        asked = self._fixed or self._asked(request)
        if not asked:
            return None
        table, now_ns = self._table, self.clock.time_ns()
        assert table is not None
        asks = self._fixed_asks or [ask for _, ask in asked]
        try:
            # Fast path: one budget, of which nothing is held.
            if len(asks) == 1 and (free := table.without_hold(asks[0], now_ns)) is not None:
                self._owe(request, ((asked[0][0], free),))
                return None
            made = table.reserve_all(asks, now_ns, self.ttl_ns)
        except ShmError as error:
            self._failed(asked, error)
            return None
        return self._admit(request, asked, made, now_ns)

    async def _on_request_leased(self, request: Request) -> Response | None:
        """As `_on_request`, within leases. Raises: RequestError, also 503 without Redis."""
        asked = self._asked(request)
        if not asked:
            return None
        leases, now_ns = self.leases, self.clock.time_ns()
        assert leases is not None
        try:
            made = await leases.reserve_all([ask for _, ask in asked], now_ns, self.ttl_ns)
        except LeaseError as error:
            raise RequestError(503, REASON, f"{_FAILED}: {error}") from error
        except ShmError as error:
            self._failed(asked, error)
            return None
        return self._admit(request, asked, made, now_ns)

    def _asked(self, request: Request) -> _Asked:
        return [(one, ask) for one in self._counters if (ask := one.ask(request)) is not None]

    def _failed(self, asked: _Asked, error: ShmError) -> None:
        """Go on when that means no budget. Raises: RequestError 500."""
        self._warn(error)
        if not all(one.fails_open for one, _ in asked):
            raise RequestError(500, REASON, _FAILED) from error

    def _admit(
        self, request: Request, asked: _Asked, made: list[Reservation] | Refused, now_ns: int
    ) -> Response | None:
        """The refusal, or see to it that the request is charged. Raises: RequestError 429."""
        if isinstance(made, Refused):
            return asked[made.number][0].refusal(request, made.standing, now_ns)
        self._owe(request, [(one, hold) for (one, _), hold in zip(asked, made, strict=True)])
        return None

    def _owe(self, request: Request, held: Sequence[tuple[Counter, Reservation]]) -> None:
        """See to it that the request is charged."""
        assert self._table is not None
        settlement = Settlement(self, self._table, held)
        request.endings += (settlement,)
        request.state[_STATE] = settlement

    def _warn(self, error: ShmError) -> None:
        # Once: it would come with every request. The table's metrics tell how often.
        if not self._has_warned:
            self._has_warned = True
            _log.error("budgets cannot be kept (config.state.budgetKeys): %s", error)


def _counters(budgets: Sequence[Budget], services: Services, of: bytes) -> tuple[Counter, ...]:
    made: list[Counter] = []
    names: set[str] = set()
    for number, budget in enumerate(budgets):
        if budget.name in names:
            raise ConfigError(f"[{number}].name", "another budget of this list has this name")
        names.add(budget.name)
        try:
            made.append(Counter(budget, services, of))
        except ConfigError as problem:
            raise nested(f"[{number}]", problem) from problem
    return tuple(made)


def _on_response(request: Request, response: Response) -> None:
    settlement = request.state.get(_STATE)
    if isinstance(settlement, Settlement):
        settlement.at_response(request, response)


@final
class Settlement:
    """What the budgets of one request are still to be charged. See message.Ending."""

    __slots__ = ("_expected", "_held", "_of", "_table", "_told")

    def __init__(
        self, of: Spending, table: BudgetTable, held: Sequence[tuple[Counter, Reservation]]
    ) -> None:
        self._of = of
        self._table = table
        self._expected: Sequence[Reservation] = ()
        """What is held beside the estimates of the budgets themselves."""
        self._held = held
        self._told: Mapping[int, int] = _NOTHING

    def at_response(self, request: Request, response: Response) -> None:
        """Note what the response's head or body tells, as the backend gave it."""
        self._told = {
            index: counter.spent(request, response)
            for index, (counter, _) in enumerate(self._held)
            if counter.is_told_by_response
        }

    async def anticipate(self, request: Request) -> Response | None:
        """Hold what the request is likely to cost, beyond what is held. See base.Anticipating.

        Raises: RequestError 429 (gRPC), 500 and 503 by failure mode.
        """
        if self._expected:
            return None
        asked = [
            (counter, hold.ask._replace(amount=more))
            for counter, hold in self._held
            if (more := counter.expected(request) - hold.ask.amount) > 0
        ]
        if not asked:
            return None
        of = self._of
        now_ns = of.clock.time_ns()
        asks = [ask for _, ask in asked]
        try:
            if of.leases is not None:
                made = await of.leases.reserve_all(asks, now_ns, of.ttl_ns)
            else:
                made = self._table.reserve_all(asks, now_ns, of.ttl_ns)
        except LeaseError as error:
            raise RequestError(503, REASON, f"{_FAILED}: {error}") from error
        except ShmError as error:
            if all(counter.fails_open for counter, _ in asked):
                return None
            raise RequestError(500, REASON, _FAILED) from error
        if isinstance(made, Refused):
            return asked[made.number][0].refusal(request, made.standing, now_ns)
        self._expected = made
        return None

    def __call__(self, request: Request, response: Response | None) -> None:
        """The exchange is over: charge, and give back what was held."""
        held, self._held = self._held, ()
        expected, self._expected = self._expected, ()
        for index, (counter, reservation) in enumerate(held):
            if counter.is_told_by_response:
                actual = self._told.get(index, 0)
            else:
                actual = counter.spent(request, response)
            try:
                self._settle(counter, reservation, actual)
            except ShmError as error:
                text = shown(actual, counter.unit)
                _log.error("%s: %s were not charged: %s", counter.name, text, error)
        # Last: until it was charged, nobody else may take what the request had held.
        for reservation in expected:
            try:
                self._table.refund(reservation)
            except ShmError as error:
                _log.error("what was held is given back at its time: %s", error)

    def _settle(self, counter: Counter, reservation: Reservation, actual: int) -> None:
        of = self._of
        if not actual:
            self._table.refund(reservation)
            return
        charges = of.leases or self._table
        standing = charges.commit(reservation, actual, of.clock.time_ns())
        # Said once a window, by the request that crosses the limit; each charge for who asks.
        if standing.exceeded and standing.spent - actual < standing.limit:
            counter.tell(logging.WARNING, reservation, standing)
        elif _log.isEnabledFor(logging.DEBUG):
            counter.tell(logging.DEBUG, reservation, standing)


_Asked = list[tuple[Counter, Ask]]
"""Budgets and, one for each, what they are asked."""
