"""A token bucket as this process last saw it: see `shm.seen`.

Source: design section 5. Slots are laid out in `shm.bucket`; R1 to R4 are those of `shm.rates`.
"""

from __future__ import annotations

from typing import final

from shm.bucket import (
    FIELDS,
    LIMIT,
    MAX_TOKENS,
    SECOND_NS,
    Ask,
    Limit,
    Verdict,
    judged,
    refilled,
)
from shm.seen import Seen


@final
class SeenBucket(Seen):
    """A bucket as this process last saw it; all but `offered` needs its stripe locked."""

    __slots__ = ("label", "level", "limit", "since")

    # Set by `look`, before which nobody reads them.
    level: int
    since: int
    limit: bytes
    """As the slot has it."""
    label: bytes
    """As the slot has it."""

    def look(self) -> bool:
        """See what the slot says; whether there is one."""
        raw = self.find()
        if not raw:
            return False
        _, self.level, self.since, _, self.limit, self.label = FIELDS.unpack_from(raw)
        self.raw = raw
        return True

    def charged(self, limit: Limit, delta: int, now_ns: int) -> tuple[int, int]:
        """Level and `since` after a charge, by the slot's own limit; `limit` bounds the debt."""
        capacity, refill, interval_ns, _ = LIMIT.unpack(self.limit)
        level, since = refilled(self.level, self.since, capacity, refill, interval_ns, now_ns)
        return min(max(level - delta, lowest(limit)), capacity), since

    def offered(self, ask: Ask, now_ns: int) -> Verdict | None:
        """The verdict of a bucket that has tokens and gives none, its stripe not locked (R5).

        None: it holds something else by now, or has to be counted anew.
        """
        if self.stripe.file[self.where] != self.raw:
            return None
        limit, level, since = ask.limit, self.level, self.since
        if self.limit != limit.encoded or level <= 0 or not 0 <= now_ns - since < limit.interval_ns:
            return None
        return judged(ask, level, since, now_ns, True)

    def says(self, limit: bytes, level: int, since: int) -> bool:
        """Whether that is what it holds already."""
        return self.level == level and self.since == since and self.limit == limit

    def store(self, limit: bytes, level: int, since: int, now_ns: int) -> None:
        """Write it."""
        used = now_ns // SECOND_NS & 0xFFFFFFFF
        fields = FIELDS.pack(self.key, level, since, used, limit, self.label)
        self.raw = self.stripe.rewrite(self.where, self.offset, self.raw, fields)
        self.limit, self.level, self.since = limit, level, since


def lowest(limit: Limit) -> int:
    """How far a charge may push the level."""
    return -MAX_TOKENS if limit.carry_debt else 0
