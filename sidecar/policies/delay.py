"""Waits before the request goes on, to inject latency.

Source: spec/config.md section 3.4.
"""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Awaitable, Callable
from typing import final

from sidecar.cel.engine import CelError
from sidecar.config.scalars import duration_seconds
from sidecar.http.message import Request
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.expressions import Expression
from sidecar.policies.schema import PolicyConfig


class Config(PolicyConfig):
    """How long to wait."""

    duration: str
    """A duration such as `2s`, or CEL that gives a duration or a number of milliseconds.
    Nothing is waited for when the value is zero, negative or cannot be computed."""


@final
class Delay:
    """A constant or computed wait. The pipeline's request deadline cancels it."""

    __slots__ = ("_expression", "_fixed_seconds", "_sleep", "needs_request_body")

    def __init__(
        self,
        config: Config,
        services: Services,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sleep = sleep
        self._fixed_seconds = 0.0
        self._expression: Expression | None = None
        try:
            self._fixed_seconds = duration_seconds(config.duration)
        except ValueError:
            self._expression = Expression(config.duration, services, "duration")
        self.needs_request_body = (
            self._expression is not None and self._expression.needs_request_body
        )

    async def on_request(self, request: Request) -> None:
        """Wait."""
        seconds = self._seconds(request)
        if seconds > 0:
            await self._sleep(seconds)

    def _seconds(self, request: Request) -> float:
        if self._expression is None:
            return self._fixed_seconds
        try:
            value = self._expression.value(request)
        except CelError:
            return 0.0
        if isinstance(value, datetime.timedelta):
            return value.total_seconds()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return 0.0
        return value / 1000 if math.isfinite(value) else 0.0


KIND = PolicyKind("delay", Config, Delay)
