"""Tokens that a worker has at hand: the least recently used go first.

Memory is bounded by the number of entries; what has passed goes when it is met or crowded out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple, final

from sidecar.llm.credentials.base import Fetched

_NS: Final = 1_000_000_000


class Held(NamedTuple):
    """A value and its times, CLOCK_MONOTONIC."""

    value: str
    fresh_ns: int
    valid_ns: int

    def __repr__(self) -> str:
        return f"<token until {self.valid_ns}>"


@final
class RecentTokens:
    """At most `limit` of them."""

    __slots__ = ("_held", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[bytes, Held] = OrderedDict()

    def get(self, key: bytes, now_ns: int) -> Held | None:
        """What may be used now, be it fresh or not."""
        found = self._held.get(key)
        if found is None:
            return None
        if now_ns >= found.valid_ns:
            del self._held[key]
            return None
        self._held.move_to_end(key)
        return found

    def put(self, key: bytes, got: Fetched[bytes], now_ns: int) -> str:
        """Keep it as long as it says; the value as text."""
        value = got.value.decode("ascii")
        if got.valid_seconds > 0 and self._limit > 0:
            fresh, valid = (int(one * _NS) for one in (got.fresh_seconds, got.valid_seconds))
            self._held[key] = Held(value, now_ns + fresh, now_ns + valid)
            self._held.move_to_end(key)
            while len(self._held) > self._limit:
                self._held.popitem(last=False)
        return value

    def __len__(self) -> int:
        return len(self._held)
