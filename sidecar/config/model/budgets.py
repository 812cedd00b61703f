"""Budgets of what is spent (ours as a policy of traffic; version 1.5 has them on API keys).

Source: spec llm section 4.5.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sidecar.config.model.base import Model
from sidecar.config.model.external import FailureMode, LimitKey
from sidecar.config.scalars import Duration, Expression


class BudgetLimit(Model):
    """How much."""

    unit: Literal["USD", "Tokens"]
    """What is spent."""
    amount: int | float | str
    """More than 0: whole tokens, or USD with at most nine decimals."""


class BudgetWindow(Model):
    """In which time."""

    rolling: str
    """A duration, also in days (`30d`). Windows follow each other from the Unix epoch on."""


class KeyBudget(Model):
    """A budget of an API key."""

    name: str
    """Unique within the list."""
    limit: BudgetLimit
    """How much may be spent."""
    window: BudgetWindow
    """How long it lasts."""
    on_budget_exceeded: Literal["Block", "Audit"] = "Block"
    """Whether requests are refused then (default), or that is only logged."""


class BudgetEntry(KeyBudget):
    """One budget of traffic."""

    key: LimitKey | None = None
    """CEL, or a list of it; requests with equal values share a budget. Default: all do."""
    on_missing_key: Literal["shared", "reject", "skip"] = "shared"
    """Requests without a key share one budget (default), get 429, or have none."""
    estimate: int | float | Expression = 0
    """What a request is expected to cost: a number, or CEL. Default 0."""
    cost: Expression | None = None
    """CEL: what a request cost. Default `llm.cost`, or `llm.totalTokens`."""
    reservation_timeout: Duration | None = None
    """How long an estimate is held at most. Default 10m."""
    failure_mode: FailureMode = "failClosed"
    """When the table has no room for another key. Default: 500."""


BudgetsPolicy = Annotated[list[BudgetEntry], Field(min_length=1, max_length=16)]
