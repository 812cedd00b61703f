"""What a budget is configured by: how much, in which window, and for whom.

Source: spec/llm.md section 4.5.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from shm.budget_slots import MAX_AMOUNT
from sidecar.config.scalars import duration_ns
from sidecar.policies.amounts import Unit
from sidecar.policies.schema import LIST, PLAIN, PolicyConfig

_DAYS: Final = re.compile(r"([0-9]{1,6})d(.*)")
_SECOND_NS: Final = 1_000_000_000


def _duration(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("invalid type: expected a duration such as `24h` or `30d`")
    return duration_ns(value)


def _window(value: object) -> int:
    days = _DAYS.fullmatch(value) if isinstance(value, str) else None
    if days is None:
        window_ns = _duration(value)
    else:
        window_ns = int(days[1]) * 24 * 3600 * _SECOND_NS + _duration(days[2] or "0")
    if not _SECOND_NS <= window_ns <= MAX_AMOUNT:
        raise ValueError("must be one second or longer")
    return window_ns


def _number_or_text(value: object) -> str:
    return PLAIN if isinstance(value, str) else LIST


class Limit(PolicyConfig):
    """How much."""

    unit: Unit
    """USD or Tokens."""
    amount: int | float | str
    """More than 0. Tokens: a whole number. USD: at most nine decimals; text keeps all of them."""


class Window(PolicyConfig):
    """In which time."""

    rolling: Annotated[int, BeforeValidator(_window)]
    """Length of the window, a second or more, also in days (`30d`). Windows follow each other from
    the Unix epoch on."""


class Allowance(PolicyConfig):
    """What may be spent in a window."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._ -]+$")
    """Unique within the list; letters, digits, dots, dashes, underscores and blanks."""
    limit: Limit
    """How much may be spent."""
    window: Window
    """How long it lasts."""
    on_budget_exceeded: Literal["Block", "Audit"] = "Block"
    """Whether requests are refused once it is spent (default), or that is only logged."""


class Budget(Allowance):
    """One budget of traffic."""

    key: (
        Annotated[
            Annotated[str, Tag(PLAIN)] | Annotated[list[str], Tag(LIST)],
            Discriminator(lambda value: LIST if isinstance(value, list) else PLAIN),
        ]
        | None
    ) = None
    """CEL, or a list: requests with the same values share a budget. Default: all share one."""
    on_missing_key: Literal["shared", "reject", "skip"] = "shared"
    """For requests without a value: one budget for all of them (default), 429, or no budget."""
    estimate: Annotated[
        Annotated[str, Tag(PLAIN)] | Annotated[int | float, Tag(LIST)],
        Discriminator(_number_or_text),
    ] = 0
    """What a request is expected to cost, held until it has ended: a number, or CEL. Default: 0."""
    cost: str | None = None
    """CEL, evaluated at the end; default `llm.cost.total`, or `llm.totalTokens`."""
    reservation_timeout_ns: Annotated[int, BeforeValidator(_duration)] = Field(
        default=600 * _SECOND_NS, alias="reservationTimeout"
    )
    """How long an estimate is held at most. What was spent is charged also later. Default: 10m."""
    failure_mode: Literal["failClosed", "failOpen"] = "failClosed"
    """When there is no room for another budget: 500 (default), or no budget for the request."""
