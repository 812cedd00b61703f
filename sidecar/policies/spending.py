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
from collections.abc import Sequence
from typing import Final, final

import orjson

from shm.budget_slots import MAX_AMOUNT
from shm.budgets import Ask, BudgetLimit, BudgetTable, Refused, Reservation, Standing
from shm.errors import ShmError
from sidecar.cel.engine import CelError
from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies.allowances import Budget
from sidecar.policies.amounts import UNITS, label_of, names_in, shown, whole
from sidecar.policies.base import Services
from sidecar.policies.descriptors import Descriptor
from sidecar.policies.expressions import Expression
from sidecar.policies.limit_headers import whole_seconds
from sidecar.policies.schema import nested
from sidecar.state.leases import LeaseError, Leases
from sidecar.state.redis_scripts import MAX_AMOUNT as MAX_LEASED
from sidecar.telemetry.clock import Clock

_log = logging.getLogger("budget")
MAX_BUDGETS: Final = 16
"""Of one list."""
_CACHED_KEYS: Final = 4096
_CACHED_KEY_BYTES: Final = 256
_STATE: Final = "budgets"
_REASON: Final = "BudgetExceeded"
_FAILED: Final = "budget failed"
_MESSAGE: Final = "Budget exceeded"
_BODY: Final = orjson.dumps(
    {"error": {"message": _MESSAGE, "type": "rate_limit_error", "code": "budget_exceeded"}}
)
_DEFAULT_COST: Final = {"USD": "llm.cost.total", "Tokens": "llm.totalTokens"}


@final
class Spending:
    """Budgets made ready: the hooks of a policy, and what they hold."""

    __slots__ = (
        "_clock",
        "_counters",
        "_has_warned",
        "_leases",
        "_table",
        "_ttl_ns",
        "needs_request_body",
        "needs_response_body",
        "on_request",
        "on_response",
    )

    def __init__(self, budgets: Sequence[Budget], services: Services, of: bytes = b"") -> None:
        """`of`: whose budgets they are, beside what each one's `key` says. Raises: ConfigError."""
        self._table = services.budgets
        self._leases = services.leases
        self._clock = services.clock
        self._has_warned = False
        self._counters = _counters(budgets, services, of)
        self._ttl_ns = max(budget.reservation_timeout_ns for budget in budgets)
        self.needs_request_body = any(one.needs_request_body for one in self._counters)
        self.needs_response_body = any(one.needs_response_body for one in self._counters)
        reads_response = any(one.is_told_by_response for one in self._counters)
        self.on_response = _on_response if reads_response else None
        self.on_request = self._on_request if self._leases is None else self._on_request_leased

    def _on_request(self, request: Request) -> Response | None:
        """Hold the estimates, or refuse. Raises: RequestError 500 by failure mode."""
        asked = self._asked(request)
        if not asked:
            return None
        table, now_ns = self._table, self._clock.time_ns()
        assert table is not None
        try:
            made = table.reserve_all([ask for _, ask in asked], now_ns, self._ttl_ns)
        except ShmError as error:
            self._failed(asked, error)
            return None
        return self._admit(request, asked, made, now_ns)

    async def _on_request_leased(self, request: Request) -> Response | None:
        """As `_on_request`, within leases. Raises: RequestError, also 503 without Redis."""
        asked = self._asked(request)
        if not asked:
            return None
        leases, now_ns = self._leases, self._clock.time_ns()
        assert leases is not None
        try:
            made = await leases.reserve_all([ask for _, ask in asked], now_ns, self._ttl_ns)
        except LeaseError as error:
            raise RequestError(503, _REASON, f"{_FAILED}: {error}") from error
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
            raise RequestError(500, _REASON, _FAILED) from error

    def _admit(
        self, request: Request, asked: _Asked, made: list[Reservation] | Refused, now_ns: int
    ) -> Response | None:
        """The refusal, or see to it that the request is charged. Raises: RequestError 429."""
        if isinstance(made, Refused):
            return asked[made.number][0].refusal(request, made.standing, now_ns)
        held = [(one, hold) for (one, _), hold in zip(asked, made, strict=True)]
        assert self._table is not None
        settlement = Settlement(self._table, self._leases, self._clock, held)
        request.endings += (settlement,)
        request.state[_STATE] = settlement
        return None

    def _warn(self, error: ShmError) -> None:
        # Once: it would come with every request. The table's metrics tell how often.
        if not self._has_warned:
            self._has_warned = True
            _log.error("budgets cannot be kept (config.state.budgetKeys): %s", error)


def _counters(budgets: Sequence[Budget], services: Services, of: bytes) -> tuple[_Counter, ...]:
    made: list[_Counter] = []
    names: set[str] = set()
    for number, budget in enumerate(budgets):
        if budget.name in names:
            raise ConfigError(f"[{number}].name", "another budget of this list has this name")
        names.add(budget.name)
        try:
            made.append(_Counter(budget, services, of))
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

    __slots__ = ("_charges", "_clock", "_held", "_table", "_told")

    def __init__(
        self,
        table: BudgetTable,
        leases: Leases | None,
        clock: Clock,
        held: list[tuple[_Counter, Reservation]],
    ) -> None:
        self._table = table
        self._charges = table if leases is None else leases
        self._clock = clock
        self._held = held
        self._told: dict[int, int] = {}

    def at_response(self, request: Request, response: Response) -> None:
        """Note what the response's head or body tells, as the backend gave it."""
        for index, (counter, _) in enumerate(self._held):
            if counter.is_told_by_response:
                self._told[index] = counter.spent(request, response)

    def __call__(self, request: Request, response: Response | None) -> None:
        """The exchange is over: charge, and give back what was held."""
        held, self._held = self._held, []
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

    def _settle(self, counter: _Counter, reservation: Reservation, actual: int) -> None:
        if not actual:
            self._table.refund(reservation)
            return
        standing = self._charges.commit(reservation, actual, self._clock.time_ns())
        # Said once a window, by the request that crosses the limit; each charge for who asks.
        if standing.exceeded and standing.spent - actual < standing.limit:
            counter.tell(logging.WARNING, reservation, standing)
        elif _log.isEnabledFor(logging.DEBUG):
            counter.tell(logging.DEBUG, reservation, standing)


@final
class _Counter:
    """A budget with its expressions compiled."""

    __slots__ = (
        "_cost",
        "_descriptor",
        "_estimate",
        "_fixed_estimate",
        "_known",
        "_leases",
        "_limit",
        "_missing",
        "_of",
        "_place",
        "_table",
        "fails_open",
        "is_told_by_response",
        "name",
        "needs_request_body",
        "needs_response_body",
        "unit",
    )

    def __init__(self, budget: Budget, services: Services, of: bytes) -> None:
        self._table = services.budgets
        self._place = services.attachment.encode()
        self._of = (of,) if of else ()
        self.name = budget.name
        self.unit = UNITS.index(budget.limit.unit)
        self._limit = _limit(budget, self.unit)
        self._leases = services.leases
        if services.leases is not None and self._limit.amount > MAX_LEASED:
            raise ConfigError("limit.amount", "more than can be counted with state in Redis")
        self._missing = budget.on_missing_key
        self.fails_open = budget.failure_mode == "failOpen"
        self._known: dict[tuple[bytes, ...], Ask] = {}
        sources = [budget.key] if isinstance(budget.key, str) else budget.key
        self._descriptor = None if sources is None else Descriptor(sources, services, "key")
        estimate = budget.estimate
        self._estimate = (
            Expression(estimate, services, "estimate") if isinstance(estimate, str) else None
        )
        self._fixed_estimate = 0 if isinstance(estimate, str) else _estimated(estimate, self.unit)
        source = budget.cost or _DEFAULT_COST[budget.limit.unit]
        cost = self._cost = Expression(source, services, "cost", with_response=True)
        # LLM usage is complete at the end of a stream; all else the response's head or body tells,
        # before other policies change it.
        self.is_told_by_response = cost.names_response and "llm" not in cost.variables
        self.needs_response_body = cost.needs_response_body
        if self.needs_response_body and not self.is_told_by_response:
            raise ConfigError("cost", "`response.body` and `llm` cannot be used together")
        self.needs_request_body = any(
            one is not None and one.needs_request_body
            for one in (cost, self._estimate, self._descriptor)
        )

    def ask(self, request: Request) -> Ask | None:
        """What to ask for this request; None: nothing. Raises: RequestError."""
        values: tuple[bytes, ...] = self._of
        if self._descriptor is not None:
            found = self._descriptor.values(request)
            if found is not None:
                values = found
            elif self._missing == "skip":
                return None
            elif self._missing == "reject":
                raise RequestError(429, _REASON, _MESSAGE)
        ask = self._known.get(values) or self._ask_for(values)
        if self._estimate is None:
            return ask
        amount = whole(_value(self._estimate, request), self.unit)
        return ask._replace(amount=amount or 0)

    def _ask_for(self, values: tuple[bytes, ...]) -> Ask:
        table = self._table
        assert table is not None
        key = table.key(b"budgets", self._place, self.name.encode(), *values)
        of = b"".join(self._of)
        if values and self._descriptor is not None:
            of = self._descriptor.shown(values, key)
        label = label_of(self.name, of, self._place)
        shared = b""
        if self._leases is not None:
            shared = self._leases.name(b"budgets", self._place, self.name.encode(), *values)
        ask = Ask(key, label, self._limit, self._fixed_estimate, shared)
        # Two hashes and a label cost more than all the rest; clients come again.
        if sum(map(len, values)) <= _CACHED_KEY_BYTES:
            if len(self._known) >= _CACHED_KEYS:
                self._known.clear()
            self._known[values] = ask
        return ask

    def spent(self, request: Request, response: Response | None) -> int:
        """What a request cost; 0 when no backend answered, or when that cannot be told."""
        if response is None or response.reason != "Upstream":
            return 0
        return whole(_value(self._cost, request, response), self.unit) or 0

    def refusal(self, request: Request, standing: Standing, now_ns: int) -> Response:
        """The 429. Raises: RequestError to a gRPC client, who gets a status instead of a body."""
        left_ns = max(standing.window_end_ns - now_ns, 1)
        again = (b"retry-after", b"%d" % whole_seconds(left_ns))
        kind = request.headers.get(b"content-type")
        if kind is not None and kind.startswith(b"application/grpc"):
            raise RequestError(429, _REASON, _MESSAGE, headers=(again,))
        headers = Headers(((b"content-type", b"application/json"), again))
        response = Response(429, headers, FixedBody(_BODY), reason=_REASON)
        response.error = f"{_MESSAGE}: {self.name}"
        return response

    def tell(self, level: int, reservation: Reservation, standing: Standing) -> None:
        """The line of the log that a charge gets."""
        _, of = names_in(reservation.ask.label)
        _log.log(
            level,
            "api_key=%s budget=%s used=%s limit_unit=%s limit_amount=%s exceeded=%s",
            of or "-",
            self.name,
            shown(standing.spent, self.unit),
            UNITS[self.unit],
            shown(standing.limit, self.unit),
            "true" if standing.exceeded else "false",
        )


def _limit(budget: Budget, unit: int) -> BudgetLimit:
    amount = whole(budget.limit.amount, unit, is_exact=True)
    if amount is None or not 1 <= amount <= MAX_AMOUNT:
        text = "more than 0, a whole number of tokens or USD with at most nine decimals"
        raise ConfigError("limit.amount", text)
    blocks = budget.on_budget_exceeded == "Block"
    return BudgetLimit(amount, budget.window.rolling, blocks, unit)


def _estimated(estimate: float, unit: int) -> int:
    amount = whole(estimate, unit)
    if amount is None:
        raise ConfigError("estimate", "must be 0 or more")
    return amount


def _value(source: Expression, request: Request, response: Response | None = None) -> object:
    try:
        return source.value(request, response)
    except (CelError, RequestError):
        return None


_Asked = list[tuple[_Counter, Ask]]
"""Budgets and, one for each, what they are asked."""
