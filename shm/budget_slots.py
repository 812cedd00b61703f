"""What a slot of the budgets table holds, and the arithmetic of its window. No I/O, no lock.

Source: design section 5 (`budgets`); spec llm section 4.5 (windows aligned to the Unix epoch).

Slot, 192 bytes, of one of two kinds; written and read under its stripe's lock:

    offset size type  budget                       hold: all that one process reserves of a budget
    0      16   -     key                          id: the budget's first two bytes, 14 of its own
    16     8    i64   spent                        sum of the process's reservations
    24     8    i64   reserved by all processes    epoch: which making of this slot, by its owner
    32     8    i64   window start, ns (epoch)     latest deadline of them, ns (epoch)
    40     8    i64   window length, ns; 0: none   owner's start, ticks since boot
    48     8    i64   limit                        owner's pid
    56     8    u64   sequence of the last change  0
    64     8    i64   last change, ns (epoch)      made, ns (epoch)
    72     8    u64   resets so far                0
    80     1    u8    1                            2
    81     1    u8    flags: 1 blocks              0
    82     1    u8    unit, the caller's           0
    83     105  -     label, UTF-8, zeros behind   the budget's key, zeros behind
    188    4    u32   CRC-32

Amounts are whole units (nano-USD, tokens), times ns since the Unix epoch.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

from shm.errors import ShmError
from shm.layout import Kind
from shm.stripe import KEY_BYTES

KIND: Final = Kind("budgets", 2)
LABEL_BYTES: Final = 105
MAX_AMOUNT: Final = 2**62
"""The largest limit, and the largest amount that one reservation holds."""
MAX_SPENT: Final = 2**63 - 1
"""Where `spent` stops: above every limit, so that a budget that got there stays exceeded."""
SLOT: Final = struct.Struct(f"=16sqqqqqQqQBBB{LABEL_BYTES}s")
_LIMIT: Final = struct.Struct("=qq")
_AMOUNT: Final = struct.Struct("=q")
_SPENDING: Final = struct.Struct("=qqqqqQq")
"""From `spent` to the last change."""
_KIND_OFFSET: Final = 80
BUDGET: Final = 1
HOLD: Final = 2
_HELD: Final = struct.Struct("=qqq")
"""Sum, epoch and deadline of a hold."""
_HELD_END: Final = KEY_BYTES + _HELD.size
_IDLE_NS: Final = 3600 * 1_000_000_000
_BLOCKS: Final = 1
_new: Final = tuple.__new__

assert SLOT.size == 188, "slot design note"


class Budget(NamedTuple):
    """A budget's slot, field by field."""

    key: bytes
    spent: int
    reserved: int
    start_ns: int
    window_ns: int
    limit: int
    sequence: int
    changed_ns: int
    resets: int
    kind: int
    flags: int
    unit: int
    label: bytes


class Hold(NamedTuple):
    """A hold's slot, field by field; the fields that are always 0 have no name to go by."""

    key: bytes
    amount: int
    epoch: int
    deadline_ns: int
    ticks: int
    pid: int
    zero_1: int
    made_ns: int
    zero_2: int
    kind: int
    zero_3: int
    zero_4: int
    budget: bytes
    """The budget's key."""


@final
@dataclass(frozen=True, slots=True)
class BudgetLimit:
    """What may be spent in which time. Raises: ShmError for numbers out of range."""

    amount: int
    """Nano-USD or tokens, 1 to 2**62."""
    window_ns: int
    """Nanoseconds, windows are aligned to the Unix epoch; 0: never begins anew."""
    blocks: bool
    """Whether it refuses once it is spent; else it is only watched."""
    unit: int = 0
    """What the amount counts, 0 to 255: the caller's own, kept for readers."""
    marks: tuple[bytes, bytes] = field(init=False, repr=False, compare=False)
    """What a slot has at 40 and at 81 that goes by this limit."""

    def __post_init__(self) -> None:
        if not 1 <= self.amount <= MAX_AMOUNT:
            raise ShmError(f"budget: a limit of {self.amount}; 1 to 2**62")
        if not 0 <= self.window_ns <= MAX_AMOUNT:
            raise ShmError(f"budget: a window of {self.window_ns} ns")
        marks = _LIMIT.pack(self.window_ns, self.amount), bytes((_flags(self), self.unit))
        object.__setattr__(self, "marks", marks)


class Standing(NamedTuple):
    """A budget as of one moment."""

    spent: int
    reserved: int
    limit: int
    window_start_ns: int
    window_end_ns: int
    """0: the window never ends."""
    exceeded: bool
    """Nothing is left: the next request would be refused, if the budget blocks."""


@final
@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A budget for the journal and for readers: all that must not be lost, and what is reserved."""

    key: bytes
    label: bytes
    limit: BudgetLimit
    spent: int
    reserved: int
    window_start_ns: int
    sequence: int
    changed_ns: int
    resets: int

    @property
    def window_end_ns(self) -> int:
        """When it begins anew; 0: never."""
        return self.window_start_ns + self.limit.window_ns if self.limit.window_ns else 0

    def is_over(self, wall_ns: int) -> bool:
        """Whether the window has ended, so that nothing of it counts any more."""
        return 0 < self.window_end_ns <= wall_ns


def budget_in(raw: bytes) -> Budget:
    """A slot of the kind BUDGET."""
    return Budget(*SLOT.unpack_from(raw))


def hold_in(raw: bytes) -> Hold:
    """A slot of the kind HOLD."""
    held = Hold(*SLOT.unpack_from(raw))
    return held._replace(budget=held.budget[:KEY_BYTES])


def amount_in(raw: bytes) -> int:
    """What a hold sums up to."""
    return int.from_bytes(raw[16:24], sys.byteorder)


def held_in(raw: bytes) -> tuple[int, int, int]:
    """Sum, epoch and deadline of a hold."""
    amount, epoch, deadline_ns = _HELD.unpack_from(raw, KEY_BYTES)
    return amount, epoch, deadline_ns


def with_held(raw: bytes, amount: int, epoch: int, deadline_ns: int) -> bytes:
    """The fields of a hold's slot with another sum and deadline."""
    return raw[:16] + _HELD.pack(amount, epoch, deadline_ns) + raw[_HELD_END : SLOT.size]


def is_budget(raw: bytes) -> bool:
    """Which of the two kinds a slot is."""
    return raw[_KIND_OFFSET] == BUDGET


def window_now(
    spent: int, start: int, length: int, window_ns: int, wall_ns: int
) -> tuple[int, int]:
    """Spend and start of the window at this time, of a budget whose window is now that long.

    Windows only move forward: a clock that was set back finds the later window still running, with
    its spend, until it has come to that window's end. A window of another length takes over what
    was spent in the one that runs: nothing is forgotten before its time.
    """
    # Fast path: the window that runs.
    if length == window_ns and wall_ns - start < length:
        return spent, start
    if length and wall_ns - start >= length:
        spent = 0
    if not window_ns:
        return spent, 0
    aligned = wall_ns - wall_ns % window_ns
    return spent, max(start, aligned) if length == window_ns else aligned


Allowance = Callable[[int, int], int]
"""What may be spent here of a budget that machines share, by what is spent and reserved, and by the
start of the window. Called under the lock of the budget's stripe."""


def refused(
    raw: bytes, limit: BudgetLimit, amount: int, wall_ns: int, allowance: Allowance | None = None
) -> Standing | None:
    """Where a budget stands that has not so much left; None when it has, or only watches.

    `raw`: its slot, b"" for a new one.
    """
    if not limit.blocks:
        return None
    window, most = limit.window_ns, limit.amount
    if raw:
        spent, reserved, start, length, _, _, _ = _SPENDING.unpack_from(raw, KEY_BYTES)
        spent, start = window_now(spent, start, length, window, wall_ns)
    else:
        spent, reserved, start = 0, 0, wall_ns - wall_ns % window if window else 0
    if allowance is not None:
        most = allowance(spent + reserved, start)
    if spent + reserved + (amount if amount > 1 else 1) <= most:
        return None
    return Standing(spent, reserved, most, start, start + window if window else 0, spent >= most)


def charged(
    raw: bytes, actual: int, given_back: int, wall_ns: int, sequence: int
) -> tuple[bytes, Standing]:
    """The fields of a budget's slot after a charge, in the window of now, and where it stands.

    By the slot's own limit: the end of an old request does not bring an old limit back.
    """
    spent, reserved, start, window, limit, _, _ = _SPENDING.unpack_from(raw, KEY_BYTES)
    # Fast path: the window that runs.
    if window and wall_ns - start >= window:
        spent, start = window_now(spent, start, window, window, wall_ns)
    spent += actual
    if spent > MAX_SPENT:
        spent = MAX_SPENT
    reserved -= given_back
    changes = _SPENDING.pack(spent, reserved, start, window, limit, sequence, wall_ns)
    end = start + window if window else 0
    # What Standing(...) does, without its own function.
    standing = _new(Standing, (spent, reserved, limit, start, end, spent >= limit))
    return raw[:16] + changes + raw[72 : SLOT.size], standing


def reservable(raw: bytes, limit: BudgetLimit, amount: int, wall_ns: int) -> int:
    """What is reserved of a budget that can hold so much more as it is; below 0: look closer.

    As it is: it goes by this limit, its window runs, and it is not idle.
    """
    spent, reserved, start, window, most, _, changed = _SPENDING.unpack_from(raw, KEY_BYTES)
    if window != limit.window_ns or most != limit.amount or not raw.startswith(limit.marks[1], 81):
        return -1
    if wall_ns - start >= window > 0 or (not spent and wall_ns - changed >= _IDLE_NS):
        return -1
    if limit.blocks and spent + reserved + (amount if amount > 1 else 1) > most:
        return -1
    return int(reserved)


def reserved_in(raw: bytes) -> int:
    """What is reserved of the budget in a slot."""
    return int.from_bytes(raw[24:32], sys.byteorder, signed=True)


def with_reserved(raw: bytes, reserved: int) -> bytes:
    """The fields of a budget's slot with another sum of reservations."""
    return raw[:24] + _AMOUNT.pack(reserved) + raw[32 : SLOT.size]


def standing_of(slot: Budget) -> Standing:
    """The standing, by the slot's own limit and window."""
    end = slot.start_ns + slot.window_ns if slot.window_ns else 0
    is_exceeded = slot.spent >= slot.limit
    return Standing(slot.spent, slot.reserved, slot.limit, slot.start_ns, end, is_exceeded)


def new_budget(key: bytes, label: bytes, limit: BudgetLimit, wall_ns: int) -> Budget:
    """A budget of which nothing is spent."""
    window = limit.window_ns
    return Budget(
        key=key,
        spent=0,
        reserved=0,
        start_ns=wall_ns - wall_ns % window if window else 0,
        window_ns=window,
        limit=limit.amount,
        sequence=0,
        changed_ns=wall_ns,
        resets=0,
        kind=BUDGET,
        flags=_flags(limit),
        unit=limit.unit,
        label=label[:LABEL_BYTES],
    )


def goes_by(raw: bytes, limit: BudgetLimit) -> bool:
    """Whether the slot has this limit already."""
    numbers, flags = limit.marks
    return raw.startswith(numbers, 40) and raw.startswith(flags, 81)


def renewed(slot: Budget, limit: BudgetLimit, wall_ns: int) -> Budget:
    """The budget under another limit, in the window of now."""
    spent, start = window_now(slot.spent, slot.start_ns, slot.window_ns, limit.window_ns, wall_ns)
    return slot._replace(
        spent=spent,
        start_ns=start,
        window_ns=limit.window_ns,
        limit=limit.amount,
        flags=_flags(limit),
        unit=limit.unit,
        changed_ns=wall_ns,
    )


def row_of(slot: Budget) -> BudgetRow:
    """A budget's slot for the journal and for readers."""
    return BudgetRow(
        key=slot.key,
        label=slot.label.rstrip(b"\0"),
        limit=BudgetLimit(slot.limit, slot.window_ns, bool(slot.flags & _BLOCKS), slot.unit),
        spent=slot.spent,
        reserved=slot.reserved,
        window_start_ns=slot.start_ns,
        sequence=slot.sequence,
        changed_ns=slot.changed_ns,
        resets=slot.resets,
    )


def slot_of(row: BudgetRow, reserved: int) -> Budget:
    """The slot of a row, with what is reserved here."""
    limit = row.limit
    return Budget(
        key=row.key,
        spent=row.spent,
        reserved=reserved,
        start_ns=row.window_start_ns,
        window_ns=limit.window_ns,
        limit=limit.amount,
        sequence=row.sequence,
        changed_ns=row.changed_ns,
        resets=row.resets,
        kind=BUDGET,
        flags=_flags(limit),
        unit=limit.unit,
        label=row.label[:LABEL_BYTES],
    )


def is_stale(raw: bytes, now_ns: int) -> bool:
    """Whether a budget's window is over, or nothing was spent of it for an hour."""
    spent, _, start, window, _, _, changed = _SPENDING.unpack_from(raw, KEY_BYTES)
    if window and now_ns - start >= window:
        return True
    # One of which nothing was spent is kept for the request that made it.
    return bool(spent == 0 and now_ns - changed >= _IDLE_NS)


def is_expired(raw: bytes, now_ns: int) -> bool:
    """Whether a slot says no more than a new budget would, or holds nothing: T5."""
    if is_budget(raw):
        return not reserved_in(raw) and is_stale(raw, now_ns)
    return not amount_in(raw)


def _flags(limit: BudgetLimit) -> int:
    return _BLOCKS if limit.blocks else 0
