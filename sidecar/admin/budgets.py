"""`GET /api/budgets/status`: what was spent of each budget.

Source: spec/llm.md section 4.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shm.budgets import BudgetRow
from shm.errors import ShmError
from sidecar.policies.amounts import UNITS, names_in, shown

_MS: Final = 1_000_000
_HEADERS: Final = {"cache-control": "no-store"}


def budgets_route(rows: Callable[[], Iterable[BudgetRow]], wall_ns: Callable[[], int]) -> Route:
    """The route, over the rows of the table."""

    async def status(request: Request) -> Response:
        wanted = request.query_params.get("apiKeyName")
        now_ns = wall_ns()
        try:
            every = [budget_status(row, now_ns) for row in rows()]
        except ShmError as error:
            return JSONResponse({"error": str(error)}, 503, _HEADERS)
        every.sort(key=lambda one: (str(one["apiKeyName"]), str(one["name"])))
        found = [one for one in every if wanted is None or one["apiKeyName"] == wanted]
        return JSONResponse({"observedAt": now_ns // _MS, "budgets": found}, headers=_HEADERS)

    return Route("/api/budgets/status", status, methods=["GET"])


def budget_status(row: BudgetRow, now_ns: int) -> Mapping[str, object]:
    """One budget in the reference's shape; `apiKeyName` is what our `key` gave.

    A window that is over shows nothing spent: the next request begins a new one.
    """
    name, key = names_in(row.label)
    limit = row.limit
    unit = limit.unit
    is_over = row.is_over(now_ns)
    spent = 0 if is_over else row.spent
    return {
        "apiKeyName": key,
        "name": name,
        "limit": {"unit": UNITS[unit], "amount": shown(limit.amount, unit)},
        "usage": {
            "used": shown(spent, unit),
            "remaining": shown(max(limit.amount - spent, 0), unit),
            "exceeded": spent >= limit.amount,
        },
        "window": {
            "start": row.window_start_ns // _MS,
            "end": row.window_end_ns // _MS,
            "durationMs": limit.window_ns // _MS,
            "expired": is_over,
        },
        "onBudgetExceeded": "Block" if limit.blocks else "Audit",
        "updatedAt": row.changed_ns // _MS,
    }
