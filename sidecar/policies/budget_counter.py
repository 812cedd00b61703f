"""One budget of a policy: its key, its limit, what requests are asked of it and cost.

Source: spec/llm.md section 4.5.
"""

from __future__ import annotations

import logging
from typing import Final, final

import orjson

from shm.budget_slots import MAX_AMOUNT
from shm.budgets import Ask, BudgetLimit, Reservation, Standing
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
from sidecar.state.redis_scripts import MAX_AMOUNT as MAX_LEASED

_log = logging.getLogger("budget")
REASON: Final = "BudgetExceeded"
MESSAGE: Final = "Budget exceeded"
_CACHED_KEYS: Final = 4096
_CACHED_KEY_BYTES: Final = 256
_BODY: Final = orjson.dumps(
    {"error": {"message": MESSAGE, "type": "rate_limit_error", "code": "budget_exceeded"}}
)
_OPENAI: Final = b'{"error":{"message":'
_DEFAULT_COST: Final = {"USD": "llm.cost.total", "Tokens": "llm.totalTokens"}


@final
class Counter:
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
        "fixed",
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
        is_fixed = self._descriptor is None and self._estimate is None
        self.fixed = self._ask_for(self._of) if is_fixed and self._table is not None else None
        """The one question of a budget without expressions: those of API keys."""

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
                raise RequestError(429, REASON, MESSAGE)
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
        try:
            value = self._cost.value(request, response)
        except (CelError, RequestError):
            return 0
        return whole(value, self.unit) or 0

    def expected(self, request: Request) -> int:
        """What it would cost by what is known now; 0 when that is nothing."""
        if self.is_told_by_response:
            return 0
        return whole(_value(self._cost, request), self.unit) or 0

    def refusal(self, request: Request, standing: Standing, now_ns: int) -> Response:
        """The 429. Raises: RequestError to a gRPC client, who gets a status instead of a body."""
        left_ns = max(standing.window_end_ns - now_ns, 1)
        again = (b"retry-after", b"%d" % whole_seconds(left_ns))
        kind = request.headers.get(b"content-type")
        if kind is not None and kind.startswith(b"application/grpc"):
            raise RequestError(429, REASON, MESSAGE, headers=(again,))
        headers = Headers(((b"content-type", b"application/json"), again))
        response = Response(429, headers, FixedBody(_body(request)), reason=REASON)
        response.error = f"{MESSAGE}: {self.name}"
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


def _body(request: Request) -> bytes:
    """The reference's, which is OpenAI's shape; that of the client's API where it is another."""
    shape = getattr(request.route, "error_shape", None)
    made: bytes | None = shape and shape(request, 429, MESSAGE, "budget_exceeded")
    return _BODY if made is None or made.startswith(_OPENAI) else made


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
