"""Token buckets as arithmetic: limits, asks, verdicts, and the slot that a bucket is. No lock.

Source: spec config section 3.10 (discrete refills); invariants R1 to R4 are in `shm.rates`.

Slot, 96 bytes; `shm.rates` reads and writes it under its stripe's lock (but for R5):

    offset size type  field      unit
    0      16   -     key        keyed hash
    16     8    i64   level      tokens; below 0: debt
    24     8    i64   since      ns, CLOCK_MONOTONIC: the refill that was counted last
    32     4    u32   used       s, CLOCK_MONOTONIC: the last change
    36     8    u64   capacity   tokens
    44     8    u64   refill     tokens an interval
    52     8    u64   interval   ns
    60     1    u8    flags      1: the debt is carried
    61     31   char  label      padded with zeros; what is longer loses its middle
    92     4    u32   CRC-32
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

from shm.errors import ShmError

LABEL_BYTES: Final = 31
LATE_NS: Final = 10_000_000_000
"""How far behind others a call may be, by waiting and scheduling, without a clock set back."""
MAX_TOKENS: Final = 2**62
HEAD: Final = struct.Struct("=16sqqI")
LIMIT: Final = struct.Struct("=QQQ?")
LIMIT_AT: Final = HEAD.size
LABEL_AT: Final = LIMIT_AT + LIMIT.size
FIELDS_BYTES: Final = LABEL_AT + LABEL_BYTES
FIELDS: Final = struct.Struct(f"=16sqqI{LIMIT.size}s{LABEL_BYTES}s")
"""All of a slot but its checksum: key, level, since, used, limit and label."""
_new: Final = tuple.__new__
SECOND_NS: Final = 1_000_000_000

assert (LIMIT_AT, LABEL_AT, FIELDS_BYTES, FIELDS.size) == (36, 61, 92, 92), "slot design note"


@final
@dataclass(frozen=True, slots=True)
class Limit:
    """What a bucket holds and how it fills. Raises: ShmError for numbers out of range."""

    capacity: int
    """Tokens, 1 to 2**62; a new bucket is full."""
    refill: int
    """Tokens added each interval, 1 to `capacity`."""
    interval_ns: int
    """Nanoseconds, 1 to 2**62."""
    carry_debt: bool = True
    """Whether `settle` may push the level below 0; else it stops there."""
    encoded: bytes = field(init=False, repr=False, compare=False)
    """As slots hold it."""

    def __post_init__(self) -> None:
        if not 1 <= self.refill <= self.capacity <= MAX_TOKENS:
            raise ShmError(f"limit: refill {self.refill} and capacity {self.capacity} do not fit")
        if not 1 <= self.interval_ns <= MAX_TOKENS:
            raise ShmError(f"limit: an interval of {self.interval_ns} ns")
        encoded = LIMIT.pack(self.capacity, self.refill, self.interval_ns, self.carry_debt)
        object.__setattr__(self, "encoded", encoded)


class Ask(NamedTuple):
    """What one request wants of one bucket."""

    key: bytes
    label: bytes
    """What an operator sees of the bucket; kept from its first use on."""
    limit: Limit
    cost: int
    """Tokens; 0 asks only that the level is above 0, and less is refused."""
    name: bytes = b""
    """What the bucket is called on every machine that shares it, 16 bytes; see `shm.leases`."""


class Verdict(NamedTuple):
    """What a bucket says to an ask."""

    allowed: bool
    remaining: int
    """Tokens left after this take; never below 0."""
    retry_ns: int
    """Refused: until `cost` tokens are there, or all that the bucket can hold. Allowed: 0."""
    next_ns: int
    """Until the next refill adds tokens; 0: the bucket is full."""
    known: bool
    """False: no room for a new key. Nothing was taken; the caller's failure mode decides."""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """A bucket as of one moment."""

    key: bytes
    label: bytes
    level: int
    """Tokens; below 0: debt."""
    limit: Limit
    used_seconds: int
    """The last change, seconds of CLOCK_MONOTONIC."""


UNKNOWN: Final = Verdict(allowed=False, remaining=0, retry_ns=0, next_ns=0, known=False)


def seconds(now_ns: int) -> int:
    """As `used` has it."""
    return now_ns // SECOND_NS & 0xFFFFFFFF


def fitted(label: bytes) -> bytes:
    """The label in the bytes that a slot has for it; both ends of a long one tell most."""
    if len(label) > LABEL_BYTES:
        half = LABEL_BYTES // 2
        label = label[:half] + b"~" + label[-half:]
    return label.ljust(LABEL_BYTES, b"\0")


def refilled(
    level: int, since: int, capacity: int, refill: int, interval_ns: int, now_ns: int
) -> tuple[int, int]:
    """Level and `since` as of now (R2)."""
    elapsed = now_ns - since
    if elapsed >= interval_ns:
        count = elapsed // interval_ns
        return min(level + count * refill, capacity), since + count * interval_ns
    return level, now_ns if elapsed < -max(interval_ns, LATE_NS) else since


def advanced(raw: bytes, limit: Limit, now_ns: int) -> tuple[int, int]:
    """Level and `since` of a slot as of now, under this limit (R4)."""
    _, level, since, _ = HEAD.unpack_from(raw)
    capacity, refill, interval_ns, _ = LIMIT.unpack_from(raw, LIMIT_AT)
    level, since = refilled(level, since, capacity, refill, interval_ns, now_ns)
    if capacity != limit.capacity:
        is_full = level >= capacity
        level = limit.capacity if is_full else min(level, limit.capacity)
    return level, since if interval_ns == limit.interval_ns else now_ns


def judged(ask: Ask, level: int, since: int, now_ns: int, allowed: bool) -> Verdict:
    """The verdict on a bucket of this level and `since`, both as of now."""
    limit = ask.limit
    interval_ns, capacity = limit.interval_ns, limit.capacity
    due_ns = since + interval_ns - now_ns
    next_ns = 0 if level >= capacity else due_ns
    # What Verdict(...) does, without its own function, which takes longer than all the rest.
    if allowed:
        return _new(Verdict, (True, level if level > 0 else 0, 0, next_ns, True))
    lacking = min(max(ask.cost, 1), capacity) - level
    retry_ns = due_ns + (lacking - 1) // limit.refill * interval_ns if lacking > 0 else 0
    return _new(Verdict, (False, level if level > 0 else 0, retry_ns, next_ns, True))


def row_of(raw: bytes, now_ns: int) -> Row:
    """What the slot says, as of now."""
    key, level, since, used = HEAD.unpack_from(raw)
    capacity, refill, interval_ns, carry_debt = LIMIT.unpack_from(raw, LIMIT_AT)
    limit = Limit(capacity, refill, interval_ns, carry_debt)
    level, _ = refilled(level, since, capacity, refill, interval_ns, now_ns)
    label = raw[LABEL_AT:FIELDS_BYTES].rstrip(b"\0")
    return Row(key, label, level, limit, used)


def is_full(raw: bytes, now_ns: int) -> bool:
    """Whether the bucket is full again (R3)."""
    _, level, since, _ = HEAD.unpack_from(raw)
    capacity, refill, interval_ns, _ = LIMIT.unpack_from(raw, LIMIT_AT)
    level, _ = refilled(level, since, capacity, refill, interval_ns, now_ns)
    return bool(level >= capacity)
