"""Arithmetic on a budget's slot: its window, and what is spent, reserved and held. No I/O, no lock.

Source: spec llm section 4.5 (windows aligned to the Unix epoch). Slots are laid out in
`shm.budget_slots`; a slot goes in as it was read, and its fields come out, without the checksum.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Final

from shm.budget_slots import (
    HOLD_BYTES,
    HOLDS_AT,
    HOT,
    HOT_AT,
    LIMIT_AT,
    MAKER_AT,
    MAX_AMOUNT,
    MAX_SPENT,
    SLOT,
    Budget,
    BudgetLimit,
    Standing,
    flags_of,
    is_budget,
)

Part = tuple[bytes, int, bytes, int]
"""What a reservation is of a hold: the key of the hold's slot, where it lies in it, whose it is and
which making of it (16 bytes), and the amount."""
Allowance = Callable[[int, int], int]
"""What may be spent here of a budget that machines share, by what is spent and reserved, and by the
start of the window. Called under the lock of the budget's stripe."""

_AMOUNT: Final = struct.Struct("=q")
_RESERVED_AT: Final = HOLDS_AT - _AMOUNT.size
_WINDOW: Final = struct.Struct("=q")
_WINDOW_AT: Final = HOT_AT - _WINDOW.size
_SUM: Final = struct.Struct("=qq")
"""Sum and deadline of a hold."""
_HOT_AND_SUM: Final = struct.Struct("=qqQqqqq")
"""Both, for the first hold."""
_ALL: Final = struct.Struct("=qqqqQqqqq")
"""The limit, the window's length, and both."""
_ALL_AT: Final = HOT_AT - 16
_FIRST_MAKER_AT: Final = HOLDS_AT + MAKER_AT
_FIELDS: Final = SLOT.size
IDLE_NS: Final = 3600 * 1_000_000_000
_new: Final = tuple.__new__


# --- the window ---------------------------------------------------------------------------


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


def renewed(slot: Budget, limit: BudgetLimit, wall_ns: int) -> Budget:
    """The budget under another limit, in the window of now."""
    spent, start = window_now(slot.spent, slot.start_ns, slot.window_ns, limit.window_ns, wall_ns)
    return slot._replace(
        spent=spent,
        start_ns=start,
        window_ns=limit.window_ns,
        limit=limit.amount,
        flags=flags_of(limit),
        unit=limit.unit,
        changed_ns=wall_ns,
    )


def standing_of(slot: Budget) -> Standing:
    """The standing, by the slot's own limit and window."""
    end = slot.start_ns + slot.window_ns if slot.window_ns else 0
    is_exceeded = slot.spent >= slot.limit
    return Standing(slot.spent, slot.reserved, slot.limit, slot.start_ns, end, is_exceeded)


def goes_by(raw: bytes, limit: BudgetLimit) -> bool:
    """Whether the slot has this limit already."""
    return raw.startswith(limit.encoded, LIMIT_AT)


def is_stale(raw: bytes, now_ns: int) -> bool:
    """Whether a budget's window is over, or nothing was spent of it for an hour."""
    (window,) = _WINDOW.unpack_from(raw, _WINDOW_AT)
    start, changed, _, spent, _ = HOT.unpack_from(raw, HOT_AT)
    if window and now_ns - start >= window:
        return True
    # One of which nothing was spent is kept for the request that made it.
    return bool(spent == 0 and now_ns - changed >= IDLE_NS)


def is_expired(raw: bytes, now_ns: int) -> bool:
    """Whether a slot says no more than a new budget would, or holds nothing: T5."""
    if is_budget(raw):
        return not reserved_in(raw) and is_stale(raw, now_ns)
    return not held_in(raw, HOLDS_AT)[0]


# --- what is reserved ---------------------------------------------------------------------


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
        (length,) = _WINDOW.unpack_from(raw, _WINDOW_AT)
        start, _, _, spent, reserved = HOT.unpack_from(raw, HOT_AT)
        spent, start = window_now(spent, start, length, window, wall_ns)
    else:
        spent, reserved, start = 0, 0, wall_ns - wall_ns % window if window else 0
    if allowance is not None:
        most = allowance(spent + reserved, start)
    if spent + reserved + (amount if amount > 1 else 1) <= most:
        return None
    return Standing(spent, reserved, most, start, start + window if window else 0, spent >= most)


def reserved_in(raw: bytes) -> int:
    """What is reserved of the budget in a slot."""
    return int.from_bytes(raw[_RESERVED_AT:HOLDS_AT], sys.byteorder, signed=True)


def with_reserved(raw: bytes, reserved: int) -> bytes:
    """The fields of a budget's slot with another sum of reservations."""
    return raw[:_RESERVED_AT] + _AMOUNT.pack(reserved) + raw[HOLDS_AT:_FIELDS]


def held_in(raw: bytes, at: int) -> tuple[int, int]:
    """Sum and deadline of the hold there."""
    amount, deadline_ns = _SUM.unpack_from(raw, at)
    return amount, deadline_ns


def with_held(raw: bytes, at: int, amount: int, deadline_ns: int) -> bytes:
    """The fields of a slot with another sum and deadline of the hold there."""
    return raw[:at] + _SUM.pack(amount, deadline_ns) + raw[at + MAKER_AT : _FIELDS]


def with_hold(raw: bytes, at: int, hold: bytes) -> bytes:
    """The fields of a slot with another hold there."""
    return raw[:at] + hold + raw[at + HOLD_BYTES : _FIELDS]


def place_in(raw: bytes, who: bytes) -> int:
    """Where a process holds, or may hold, by a budget's own slot; -1: nowhere.

    `who`: what its holds have at MAKER_AT.
    """
    free = -1
    for at in range(HOLDS_AT, _FIELDS, HOLD_BYTES):
        if raw.startswith(who, at + MAKER_AT):
            return at
        if free < 0 and not held_in(raw, at)[0]:
            free = at
    return free


def maker_in(raw: bytes, at: int) -> bytes:
    """Whose hold it is, and which making of it."""
    return raw[at + MAKER_AT : at + HOLD_BYTES]


# --- what a request does ------------------------------------------------------------------


def held_more(
    raw: bytes,
    limit: BudgetLimit,
    amount: int,
    who: bytes,
    times: tuple[int, int],
) -> tuple[bytes, int] | None:
    """The fields after holding so much more, and where; None: look closer.

    This is for the budget as it is mostly found: it goes by this limit, its window runs, it is not
    idle, it has so much left, and this process has a hold in its slot. Of an amount of 0 nothing
    changes. `times`: now, and the deadline.
    """
    wall_ns, deadline_ns = times
    window = limit.window_ns
    start, changed, sequence, spent, reserved, held, latest_ns = _HOT_AND_SUM.unpack_from(
        raw, HOT_AT
    )
    if not raw.startswith(limit.encoded, LIMIT_AT) or wall_ns - start >= window > 0:
        return None
    left = (limit.amount if limit.blocks else MAX_AMOUNT) - spent - reserved
    if amount > left or left <= 0 or (not spent and wall_ns - changed >= IDLE_NS):
        return None
    if amount <= 0:
        return b"", 0
    # Fast path: the first hold is this process's.
    if raw.startswith(who, _FIRST_MAKER_AT) and deadline_ns <= MAX_SPENT:
        if deadline_ns < latest_ns and held:
            deadline_ns = latest_ns
        hot = _HOT_AND_SUM.pack(
            start, changed, sequence, spent, reserved + amount, held + amount, deadline_ns
        )
        return raw[:HOT_AT] + hot + raw[_FIRST_MAKER_AT:_FIELDS], HOLDS_AT
    at = raw.find(who, _FIRST_MAKER_AT) - MAKER_AT
    # Not where a hold begins: the bytes came together by accident.
    if at < 0 or at % HOLD_BYTES or deadline_ns > MAX_SPENT:
        return None
    held, latest_ns = _SUM.unpack_from(raw, at)
    if deadline_ns < latest_ns and held:
        deadline_ns = latest_ns
    fields = (
        raw[:_RESERVED_AT]
        + _AMOUNT.pack(reserved + amount)
        + raw[HOLDS_AT:at]
        + _SUM.pack(held + amount, deadline_ns)
        + raw[at + MAKER_AT : _FIELDS]
    )
    return fields, at


def charged(
    raw: bytes, actual: int, part: Part | None, wall_ns: int, sequence: int
) -> tuple[bytes, Standing]:
    """The fields of a budget's slot after a charge, in the window of now, and where it stands.

    `part` of a hold of this slot is given back, if it is still there. By the slot's own limit: the
    end of an old request does not bring an old limit back.
    """
    limit, window, start, _, _, spent, reserved, held, latest_ns = _ALL.unpack_from(raw, _ALL_AT)
    # Fast path: the window that runs.
    if window and wall_ns - start >= window:
        spent, start = window_now(spent, start, window, window, wall_ns)
    if actual > 0:
        spent += actual
    if spent > MAX_SPENT:
        spent = MAX_SPENT
    tail = raw[_FIRST_MAKER_AT:_FIELDS]
    if part is not None and raw.startswith(part[2], part[1] + MAKER_AT):
        _, at, _, amount = part
        if at == HOLDS_AT:
            amount = amount if amount < held else held
            held -= amount
        else:
            before, deadline_ns = _SUM.unpack_from(raw, at)
            amount = amount if amount < before else before
            tail = with_held(raw, at, before - amount, deadline_ns)[_FIRST_MAKER_AT:]
        reserved -= amount
    hot = _HOT_AND_SUM.pack(start, wall_ns, sequence, spent, reserved, held, latest_ns)
    end = start + window if window else 0
    # What Standing(...) does, without its own function.
    standing = _new(Standing, (spent, reserved, limit, start, end, spent >= limit))
    return raw[:HOT_AT] + hot + tail, standing


def given_back(raw: bytes, part: Part) -> tuple[bytes, int] | None:
    """The fields of a slot without this part of a hold, and how much that is; None: not there."""
    _, at, maker, amount = part
    if not raw.startswith(maker, at + MAKER_AT):
        return None
    before, deadline_ns = held_in(raw, at)
    amount = min(amount, before)
    return with_held(raw, at, before - amount, deadline_ns), amount


assert HOLDS_AT % HOLD_BYTES == 0, "held_more"
assert HOT_AT + HOT.size == HOLDS_AT
assert MAX_AMOUNT < MAX_SPENT
