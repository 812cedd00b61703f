"""`/api/budgets/status`: the reference's shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
from starlette.applications import Starlette

from shm.budgets import BudgetLimit, BudgetRow
from shm.errors import LockTimeoutError
from sidecar.admin.budgets import budget_status, budgets_route

MS = 1_000_000
DAY = 86_400_000 * MS
START = 20_000 * DAY
LIMIT = BudgetLimit(8_000_000, DAY, blocks=True)
ROW = BudgetRow(
    b"k" * 16, b"daily | ada | route/a", LIMIT, 9_030_000, 5, START, 1, START + 7 * MS, 0
)


async def ask(*rows: BudgetRow, query: str = "") -> httpx.Response:
    return await asked(lambda: iter(rows), query)


async def asked(rows: Callable[[], Iterator[BudgetRow]], query: str = "") -> httpx.Response:
    app = Starlette(routes=[budgets_route(rows, lambda: START + 9 * MS)])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://admin"
    ) as client:
        return await client.get("/api/budgets/status" + query)


async def test_the_shape() -> None:
    answer = await ask(ROW)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "observedAt": (START + 9 * MS) // MS,
        "budgets": [
            {
                "apiKeyName": "ada",
                "name": "daily",
                "limit": {"unit": "USD", "amount": "0.008"},
                "usage": {"used": "0.00903", "remaining": "0", "exceeded": True},
                "window": {
                    "start": START // MS,
                    "end": (START + DAY) // MS,
                    "durationMs": DAY // MS,
                    "expired": False,
                },
                "onBudgetExceeded": "Block",
                "updatedAt": (START + 7 * MS) // MS,
            }
        ],
    }


async def test_one_key() -> None:
    other = replace(ROW, label=b"daily | bob | route/a")
    got = (await ask(other, ROW, query="?apiKeyName=bob")).json()
    assert [one["apiKeyName"] for one in got["budgets"]] == ["bob"]
    both = (await ask(other, ROW)).json()
    assert [one["apiKeyName"] for one in both["budgets"]] == ["ada", "bob"]


def test_a_window_that_is_over_shows_nothing_spent() -> None:
    tokens = replace(ROW, limit=BudgetLimit(250, DAY, blocks=False, unit=1), spent=303)
    now = budget_status(tokens, START)
    assert now["usage"] == {"used": "303", "remaining": "0", "exceeded": True}
    assert now["onBudgetExceeded"] == "Audit"
    over = budget_status(tokens, START + DAY)
    assert over["usage"] == {"used": "0", "remaining": "250", "exceeded": False}


async def test_a_table_that_does_not_answer() -> None:
    def rows() -> Iterator[BudgetRow]:
        raise LockTimeoutError("held")

    assert (await asked(rows)).status_code == 503
