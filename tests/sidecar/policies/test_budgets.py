"""budgets on a real table: what passes, what the client is told, what is charged when."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from shm.budgets import BudgetRow, BudgetTable
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies.order import make
from tests.support.clock import HeldClock
from tests.support.messages import request, response, services

COST = 'int(response.headers["x-cost"])'
CALLER = 'request.headers["x-user"]'
HOUR = 3600


def budget(**changes: Any) -> dict[str, Any]:
    return {
        "name": "b",
        "limit": {"unit": "Tokens", "amount": 10},
        "window": {"rolling": "1h"},
        "cost": COST,
        **changes,
    }


class Spending:
    """Policies over one table and one clock."""

    def __init__(self, table: BudgetTable) -> None:
        self.table = table
        self.clock = HeldClock()

    def policy(self, *budgets: dict[str, Any], place: str = "route/a") -> Any:
        made = services(budgets=self.table, clock=self.clock, attachment=place)
        return make("budgets", list(budgets), made)

    def rows(self) -> dict[str, BudgetRow]:
        return {row.label.decode(): row for row in self.table.rows()}

    def spent(self) -> int:
        return sum(row.spent for row in self.table.rows())

    def reserved(self) -> int:
        return sum(row.reserved for row in self.table.rows())


@pytest.fixture
def spending() -> Iterator[Spending]:
    table = BudgetTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", 1000)
    yield Spending(table)
    table.close()


def served(policy: Any, cost: object = 1, made: Request | None = None) -> Response | None:
    """A whole exchange; None: it passed."""
    made = made or request()
    refusal = policy.on_request(made)
    assert refusal is None or isinstance(refusal, Response)
    if refusal is None:
        end(policy, made, response(200, {"x-cost": str(cost)}))
    return refusal


def end(policy: Any, made: Request, answer: Response | None) -> None:
    if answer is not None and policy.on_response is not None:
        policy.on_response(made, answer)
    for ending in made.endings:
        ending(made, answer)


def test_the_crossing_request_passes_and_the_next_gets_the_429(spending: Spending) -> None:
    policy = spending.policy(budget())
    assert served(policy, 9) is None
    assert served(policy, 9) is None
    refusal = served(policy, 9)
    assert refusal is not None
    assert (refusal.status, refusal.reason) == (429, "BudgetExceeded")
    body = refusal.body
    assert isinstance(body, FixedBody)
    assert json.loads(body.unread)["error"]["code"] == "budget_exceeded"
    assert refusal.headers.get(b"content-type") == b"application/json"
    assert 1 <= int(refusal.headers.get(b"retry-after") or 0) <= HOUR
    assert spending.spent() == 18
    spending.clock.pass_seconds(HOUR)
    assert served(policy) is None


def test_a_grpc_client_gets_a_status(spending: Spending) -> None:
    policy = spending.policy(budget())
    served(policy, 10)
    with pytest.raises(RequestError) as caught:
        policy.on_request(request("POST", headers={"content-type": "application/grpc+proto"}))
    assert (caught.value.status, caught.value.message) == (429, "Budget exceeded")


def test_an_estimate_is_held_until_the_end(spending: Spending) -> None:
    policy = spending.policy(budget(estimate='int(request.headers["x-guess"])'))
    first = request(headers={"x-guess": "7"})
    assert policy.on_request(first) is None
    assert spending.reserved() == 7
    assert policy.on_request(request(headers={"x-guess": "4"})) is not None
    end(policy, first, response(200, {"x-cost": "2"}))
    assert (spending.spent(), spending.reserved()) == (2, 0)
    # One that cannot be told is none.
    assert policy.on_request(request()) is None
    assert spending.reserved() == 0


@pytest.mark.parametrize(
    "answer",
    [
        None,
        response(200),
        response(200, {"x-cost": "no number"}),
        response(200, {"x-cost": "-5"}),
        Response(503, reason="UpstreamFailure"),
    ],
    ids=["client left", "no usage", "no number", "negative", "no backend"],
)
def test_what_cannot_be_told_costs_nothing(spending: Spending, answer: Response | None) -> None:
    policy = spending.policy(budget(estimate=10), budget(name="c", cost="llm.totalTokens"))
    made = request()
    assert policy.on_request(made) is None
    end(policy, made, answer)
    assert (spending.spent(), spending.reserved()) == (0, 0)
    assert served(policy) is None


def test_the_llm_gateways_cost_is_the_default(spending: Spending) -> None:
    usd = {"unit": "USD", "amount": 1}
    policy = spending.policy(
        budget(name="usd", limit=usd, cost=None), budget(name="tokens", cost=None)
    )
    made = request()
    assert policy.on_request(made) is None
    made.state["llm"] = {"cost": {"total": 0.00301}, "totalTokens": 101}
    end(policy, made, response())
    found = {label.partition(" ")[0]: row.spent for label, row in spending.rows().items()}
    assert found == {"usd": 3_010_000, "tokens": 101}


def test_an_exchange_is_charged_once(spending: Spending) -> None:
    policy = spending.policy(budget())
    made = request()
    policy.on_request(made)
    answer = response(200, {"x-cost": "3"})
    end(policy, made, answer)
    end(policy, made, answer)
    assert spending.spent() == 3


def test_all_or_none(spending: Spending) -> None:
    policy = spending.policy(budget(name="a", estimate=5), budget(name="b", estimate=5))
    small = spending.policy(budget(name="b"))
    served(small, 6)
    assert policy.on_request(request()) is not None
    assert spending.reserved() == 0


def test_keys_places_and_names_tell_budgets_apart(spending: Spending) -> None:
    policy = spending.policy(budget(key=CALLER))
    served(policy, 10, request(headers={"x-user": "ada"}))
    assert served(policy, 1, request(headers={"x-user": "ada"})) is not None
    assert served(policy, 1, request(headers={"x-user": "bob"})) is None
    assert served(policy, 1) is None
    elsewhere = spending.policy(budget(key=CALLER), place="route/b")
    assert served(elsewhere, 1, request(headers={"x-user": "ada"})) is None
    # The number in the list is nothing to go by.
    moved = spending.policy(budget(name="first"), budget(key=CALLER))
    assert served(moved, 1, request(headers={"x-user": "ada"})) is not None
    assert sorted(spending.rows())[:3] == [
        "b |  | route/a",
        "b | ada | route/a",
        "b | ada | route/b",
    ]


def test_a_missing_key(spending: Spending) -> None:
    assert spending.policy(budget(key=CALLER, onMissingKey="skip")).on_request(request()) is None
    assert spending.rows() == {}
    with pytest.raises(RequestError) as caught:
        spending.policy(budget(key=CALLER, onMissingKey="reject")).on_request(request())
    assert caught.value.status == 429


def test_secrets_are_not_shown(spending: Spending) -> None:
    policy = spending.policy(budget(key='request.headers["authorization"]'))
    served(policy, 1, request(headers={"authorization": "Bearer s3cr3t"}))
    assert "s3cr3t" not in repr(spending.rows())


def test_a_full_table_decides_by_failure_mode() -> None:
    table = BudgetTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", 1)
    try:
        spending = Spending(table)
        policy = spending.policy(budget(key=CALLER))
        name, refusal = fill(policy)
        assert (refusal.status, refusal.message) == (500, "budget failed")
        is_open = spending.policy(budget(key=CALLER, failureMode="failOpen"))
        made = request(headers={"x-user": name})
        assert is_open.on_request(made) is None
        assert made.endings == ()
    finally:
        table.close()


def fill(policy: Any) -> tuple[str, RequestError]:
    """The first key for which there is no room, and what its request gets."""
    number = 0
    while True:
        try:
            policy.on_request(request(headers={"x-user": str(number)}))
        except RequestError as refusal:
            return str(number), refusal
        number += 1


def test_the_log_tells_who_crossed_a_limit(
    spending: Spending, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    policy = spending.policy(budget(key=CALLER, onBudgetExceeded="Audit"))
    for _ in range(3):
        assert served(policy, 9, request(headers={"x-user": "ada"})) is None
    (line,) = caplog.records
    assert (line.name, line.levelname) == ("budget", "WARNING")
    assert line.getMessage() == (
        "api_key=ada budget=b used=18 limit_unit=Tokens limit_amount=10 exceeded=true"
    )


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"limit": {"unit": "USD", "amount": 0}}, "limit.amount"),
        ({"limit": {"unit": "USD", "amount": "0.0000000001"}}, "limit.amount"),
        ({"limit": {"unit": "USD", "amount": "nan"}}, "limit.amount"),
        ({"limit": {"unit": "USD", "amount": True}}, "limit.amount"),
        ({"limit": {"unit": "USD", "amount": 10**30}}, "limit.amount"),
        ({"limit": {"unit": "Tokens", "amount": 1.5}}, "limit.amount"),
        ({"limit": {"unit": "EUR", "amount": 1}}, "limit.unit"),
        ({"window": {"rolling": "0s"}}, "window.rolling"),
        ({"window": {"rolling": "1y"}}, "window.rolling"),
        ({"window": {"rolling": "999999d"}}, "window.rolling"),
        ({"name": ""}, "name"),
        ({"name": "a|b"}, "name"),
        ({"estimate": -1}, "estimate"),
        ({"estimate": "response.code"}, "estimate"),
        ({"key": "(("}, "key"),
        ({"key": []}, "key"),
        ({"cost": "size(response.body) + llm.totalTokens"}, "cost"),
        ({"onBudgetExceeded": "Ask"}, "onBudgetExceeded"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    spending: Spending, change: dict[str, Any], path: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        spending.policy(budget(), budget(**{"name": "c", **change}))
    assert caught.value.path.startswith(f"budgets[1].{path}")


def test_names_are_unique_and_there_are_some(spending: Spending) -> None:
    with pytest.raises(ConfigError, match="another budget"):
        spending.policy(budget(), budget())
    with pytest.raises(ConfigError):
        spending.policy()
    with pytest.raises(ConfigError):
        spending.policy(*(budget(name=f"b{number}") for number in range(17)))


def test_windows_in_days(spending: Spending) -> None:
    served(spending.policy(budget(window={"rolling": "1d12h"})))
    (row,) = spending.table.rows()
    assert row.limit.window_ns == 36 * HOUR * 10**9
