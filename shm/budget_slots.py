"""What a slot of the budgets table holds. No I/O, no lock.

Source: design section 5 (`budgets`); spec llm section 4.5 (windows aligned to the Unix epoch).

Slot, 324 bytes, of one of two kinds; written and read under its stripe's lock:

    offset size type  budget                       annex: of one process, when the slot has no room
    0      16   -     key                          id: the budget's first two bytes, 14 of its own
    16     8    u64   resets so far                0
    24     1    u8    1                            2
    25     109  -     label, UTF-8, zeros behind   the budget's key, zeros behind
    134    1    u8    flags: 1 blocks              0
    135    1    u8    unit, the caller's           0
    136    8    i64   limit                        0
    144    8    i64   window length, ns; 0: none   0
    152    8    i64   window start, ns (epoch)     0
    160    8    i64   last change, ns (epoch)      0
    168    8    u64   sequence of the last change  0
    176    8    i64   spent                        0
    184    8    i64   reserved by all processes    0
    192    128  -     4 holds, 32 bytes each       1 hold, zeros behind
    320    4    u32   CRC-32

What a request changes stands together, at the end. A hold is all that one process reserves of a
budget; one with a sum of 0 is free for any process:

    +0     8    i64   sum of the process's reservations
    +8     8    i64   latest deadline of them, ns (epoch)
    +16    8    u64   owner's start, ticks since boot
    +24    4    u32   owner's pid
    +28    4    u32   epoch: which making of this hold, by its owner

Amounts are whole units (nano-USD, tokens), times ns since the Unix epoch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

from shm.errors import ShmError
from shm.layout import Kind
from shm.stripe import KEY_BYTES

KIND: Final = Kind("budgets", 3)
LABEL_BYTES: Final = 109
HOLDS_AT: Final = 192
HOLD_BYTES: Final = 32
HOLDS: Final = 4
"""In a budget's own slot. Of more processes that hold some at a time, the others take an annex."""
_ANNEXES: Final = 8_192
MAX_AMOUNT: Final = 2**62
"""The largest limit, and the largest amount that one reservation holds."""
MAX_SPENT: Final = 2**63 - 1
"""Where `spent` stops: above every limit, so that a budget that got there stays exceeded."""
SLOT: Final = struct.Struct(f"=16sQB{LABEL_BYTES}sBBqqqqQqq{HOLDS * HOLD_BYTES}s")
HOLD: Final = struct.Struct("=qqQII")
HOT: Final = struct.Struct("=qqQqq")
"""What a request changes of a budget: start, last change, sequence, spent and reserved."""
AMOUNT_AND_WINDOW: Final = struct.Struct("=qq")
"""What stands before it."""
MAKER: Final = struct.Struct("=QII")
"""The second half of a hold: its owner and epoch."""
MAKER_AT: Final = 16
OWNER: Final = struct.Struct("=QI")
LIMIT_AT: Final = 134
HOT_AT: Final = 152
_KIND_AT: Final = 24
_LABEL_AT: Final = 25
_HOLDS_END: Final = HOLDS_AT + HOLDS * HOLD_BYTES
_LIMIT: Final = struct.Struct("=BBqq")
_BUDGET: Final = 1
_ANNEX: Final = 2
_BLOCKS: Final = 1
_NO_HOLDS: Final = bytes(HOLDS * HOLD_BYTES)

assert SLOT.size == _HOLDS_END == 320, "slot design note"
assert HOLD.size == MAKER_AT + MAKER.size == HOLD_BYTES, "slot design note"
assert _LABEL_AT + LABEL_BYTES == LIMIT_AT == HOT_AT - _LIMIT.size, "slot design note"


class Budget(NamedTuple):
    """A budget's slot, field by field."""

    key: bytes
    resets: int
    kind: int
    label: bytes
    flags: int
    unit: int
    limit: int
    window_ns: int
    start_ns: int
    changed_ns: int
    sequence: int
    spent: int
    reserved: int
    holds: bytes


class Hold(NamedTuple):
    """What one process reserves of a budget."""

    at: int
    """Where it lies in its slot."""
    amount: int
    deadline_ns: int
    ticks: int
    pid: int
    epoch: int

    @property
    def maker(self) -> bytes:
        """Its owner and epoch, as the slot has them."""
        return MAKER.pack(self.ticks, self.pid, self.epoch)


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
    encoded: bytes = field(init=False, repr=False, compare=False)
    """What a slot has at LIMIT_AT that goes by this limit."""

    def __post_init__(self) -> None:
        if not 1 <= self.amount <= MAX_AMOUNT:
            raise ShmError(f"budget: a limit of {self.amount}; 1 to 2**62")
        if not 0 <= self.window_ns <= MAX_AMOUNT:
            raise ShmError(f"budget: a window of {self.window_ns} ns")
        encoded = _LIMIT.pack(flags_of(self), self.unit, self.amount, self.window_ns)
        object.__setattr__(self, "encoded", encoded)


class Ask(NamedTuple):
    """What one request wants of one budget."""

    key: bytes
    label: bytes
    """What an operator sees of the budget, at most 109 bytes; kept from its first use on."""
    limit: BudgetLimit
    amount: int
    """Held until it is settled. 0: only asks that something is left."""
    name: bytes = b""
    """What the budget is called on every machine that shares it, 16 bytes; see `shm.leases`."""


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


def slots_for(keys: int) -> int:
    """Of a table with room for so many budgets, and for annexes: those that are empty make room."""
    return keys + max(keys // 2, _ANNEXES)


def budget_in(raw: bytes) -> Budget:
    """A slot of a budget."""
    return Budget(*SLOT.unpack_from(raw))


def is_budget(raw: bytes) -> bool:
    """Whether a slot is a budget's, or an annex."""
    return raw[_KIND_AT] == _BUDGET


def annex(annex_id: bytes, key: bytes, hold: bytes) -> bytes:
    """The fields of an annex of the budget `key`."""
    return SLOT.pack(annex_id, 0, _ANNEX, key, 0, 0, 0, 0, 0, 0, 0, 0, 0, hold)


def budget_of(raw: bytes) -> bytes:
    """The key of the budget whose holds a slot has: its own, or that of an annex's budget."""
    return raw[:KEY_BYTES] if is_budget(raw) else raw[_LABEL_AT : _LABEL_AT + KEY_BYTES]


def holds_in(raw: bytes) -> Iterator[Hold]:
    """What processes hold by this slot; none that is empty."""
    for number, one in enumerate(HOLD.iter_unpack(raw[HOLDS_AT:_HOLDS_END])):
        hold = Hold(HOLDS_AT + number * HOLD_BYTES, *one)
        if hold.amount:
            yield hold


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
        kind=_BUDGET,
        flags=flags_of(limit),
        unit=limit.unit,
        label=label[:LABEL_BYTES],
        holds=_NO_HOLDS,
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


def slot_of(row: BudgetRow, reserved: int = 0, holds: bytes = _NO_HOLDS) -> Budget:
    """The slot of a row, with what is reserved and held here."""
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
        kind=_BUDGET,
        flags=flags_of(limit),
        unit=limit.unit,
        label=row.label[:LABEL_BYTES],
        holds=holds,
    )


def flags_of(limit: BudgetLimit) -> int:
    """What a slot has as its flags."""
    return _BLOCKS if limit.blocks else 0
