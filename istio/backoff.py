"""How long to wait before the next attempt, the longer the more have failed; pure.

Source: spec istio 3.4 rule 6, and the table of 3.6.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import final


@final
class Backoff:
    """`first_seconds`, doubled by each failure up to `most_seconds`, ± `jitter` of it."""

    __slots__ = ("_first", "_jitter", "_most", "_next", "_random")

    def __init__(
        self,
        first_seconds: float,
        most_seconds: float,
        *,
        jitter: float = 0.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`uniform(a, b)`: a number between the two."""
        self._first = first_seconds
        self._most = most_seconds
        self._jitter = jitter
        self._random = uniform
        self._next = first_seconds

    def wait_seconds(self, *, grows: bool = True) -> float:
        """How long to wait now; `grows`: the wait after this one is twice as long."""
        seconds = self._next
        if grows:
            self._next = min(self._next * 2, self._most)
        return seconds * self._random(1 - self._jitter, 1 + self._jitter)

    def reset(self) -> None:
        """Something succeeded."""
        self._next = self._first
