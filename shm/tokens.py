"""Tokens of other systems that all workers use: who fetched one, until when it may be shown.

Source: design section 5; Gray and Cheriton, "Leases", 1989.

Slot, 8,268 bytes, on `shm.table`; written and read under its stripe's lock:

    offset size type  field       unit
    0      16   -     key         keyed hash of all that the token depends on
    16     8    i64   fresh       ns, CLOCK_MONOTONIC: until then it is used without more ado
    24     8    i64   valid       ns, CLOCK_MONOTONIC: until then it is used while one is fetched
    32     8    i64   lease end   ns, CLOCK_MONOTONIC; 0: nobody fetches
    40     8    u64   holder      start ticks since boot
    48     8    u64   holder pid  0: nobody
    56     8    u64   generation  changes of the slot, from 1
    64     2    u16   value bytes
    66     6    -     zero
    72     8192 -     value       zeros behind it
    8264   4    u32   CRC-32

States: (absent) → leased, without a value (`claim`) → kept (`put`) → leased, with a value (`claim`,
when it is not fresh any more) → kept (`put`) … → (absent) once `valid` and the lease have passed.
`give_up` ends a lease without a value; the slot then holds what it held before.

Invariants:
    K1  A value is given out only before `valid`.
    K2  At most one process holds a key's lease, while it lives and before the lease's end. So at
        most one asks for the token; one that dies, or hangs, is relieved.
    K3  `put` and `give_up` act for the holder alone: who was relieved changes nothing any more.
        Its value is as good as the other one, and is used by it, but not kept.
    K4  The value is wiped when its slot is freed or given another value; what is left of it is the
        undo image of its stripe, until the next change there.
    K5  The table ends with its instance. It is never kept: a token must not outlive who may use it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Self, final

from shm.errors import TableFullError, ValueTooLongError
from shm.layout import Kind
from shm.segment import Identity, segment_name, start_ticks
from shm.table import HashTable, Stripe, TableStats

KIND: Final = Kind("tokens", 1)
MAX_VALUE_BYTES: Final = 8192
_HEAD: Final = struct.Struct("=16sqqqQQQH6x")
_VALUE_AT: Final = _HEAD.size
_FIELDS_BYTES: Final = _VALUE_AT + MAX_VALUE_BYTES

assert _FIELDS_BYTES == 8264, "slot design note"


class Token(NamedTuple):
    """A value as of one moment."""

    value: bytes
    fresh_ns: int
    """Until then it is used without more ado, CLOCK_MONOTONIC."""
    valid_ns: int
    """Until then it is used while a new one is fetched."""

    def __repr__(self) -> str:
        # Values are secrets; a traceback or a debugger shows tuples.
        return f"<token until {self.valid_ns}>"


class _Slot(NamedTuple):
    key: bytes
    fresh_ns: int
    valid_ns: int
    lease_ns: int
    start: int
    pid: int
    generation: int
    value: bytes


@final
class TokenTable:
    """The table, in the process that made it and, over fork, in its children.

    Times are CLOCK_MONOTONIC in ns. Every method may raise LockTimeoutError and LockBrokenError.
    """

    __slots__ = ("_stripe", "key", "table")

    def __init__(self, table: HashTable) -> None:
        self.table = table
        self._stripe = table.stripe
        self.key = table.key
        """The hash of these parts, 16 bytes."""

    @classmethod
    def create(cls, instance: str, keys: int) -> Self:
        """A new table with room for `keys` tokens. Raises: SegmentInUseError, ShmError."""
        name = segment_name(instance, KIND.name)
        return cls(HashTable.create(name, KIND, _FIELDS_BYTES, keys, _is_expired))

    @classmethod
    def attach(cls, instance: str) -> Self:
        """A running instance's table. Raises: SegmentMissingError, SegmentRefusedError."""
        return cls(HashTable.attach(segment_name(instance, KIND.name), KIND, _is_expired))

    def close(self) -> None:
        """Remove the table, if this process owns it."""
        self.table.segment.close()

    def get(self, key: bytes, now_ns: int) -> Token | None:
        """The value, if there is one to use now (K1)."""
        with self._stripe(key) as stripe:
            _, raw = stripe.get(key)
        if not raw:
            return None
        slot = _unpacked(raw)
        if now_ns >= slot.valid_ns:
            return None
        return Token(slot.value, slot.fresh_ns, slot.valid_ns)

    def claim(self, key: bytes, holder: Identity, now_ns: int, until_ns: int) -> bool:
        """Make the process the one that fetches the value; False while another does (K2).

        A process that has the lease already gets it again. Raises: TableFullError.
        """
        with self._stripe(key) as stripe:
            at, raw = stripe.get(key)
            if not raw:
                slot = _Slot(key, 0, 0, until_ns, holder.start_ticks, holder.pid, 1, b"")
                self._insert(stripe, slot, now_ns)
                return True
            slot = _unpacked(raw)
            if _is_held(slot, now_ns) and not _is_holder(slot, holder):
                return False
            taken = slot._replace(
                lease_ns=until_ns,
                start=holder.start_ticks,
                pid=holder.pid,
                generation=slot.generation + 1,
            )
            stripe.write(at, raw, _packed(taken))
        return True

    def put(self, key: bytes, holder: Identity, token: Token) -> bool:
        """Keep the value that the lease was for, and end the lease; False when it was lost (K3).

        Raises: ValueTooLongError, and then the lease still runs.
        """
        if len(token.value) > MAX_VALUE_BYTES:
            raise ValueTooLongError(
                f"token: {len(token.value)} bytes, the table holds {MAX_VALUE_BYTES}"
            )
        with self._stripe(key) as stripe:
            at, raw = stripe.get(key)
            slot = _unpacked(raw) if raw else None
            if slot is None or not _is_holder(slot, holder):
                return False
            kept = _Slot(
                key, token.fresh_ns, token.valid_ns, 0, 0, 0, slot.generation + 1, token.value
            )
            stripe.write(at, raw, _packed(kept))
        return True

    def give_up(self, key: bytes, holder: Identity) -> None:
        """End the lease without a value, if the process has it (K3)."""
        with self._stripe(key) as stripe:
            at, raw = stripe.get(key)
            slot = _unpacked(raw) if raw else None
            if slot is None or not _is_holder(slot, holder):
                return
            if not slot.value:
                stripe.remove(at)
                return
            free = slot._replace(lease_ns=0, start=0, pid=0, generation=slot.generation + 1)
            stripe.write(at, raw, _packed(free))

    def is_fetched(self, key: bytes, now_ns: int) -> bool:
        """Whether a process that lives holds the key's lease."""
        with self._stripe(key) as stripe:
            _, raw = stripe.get(key)
        return bool(raw) and _is_held(_unpacked(raw), now_ns)

    def forget(self, key: bytes) -> bool:
        """Free the key's slot, and with it the value; False when it had none."""
        return self.table.remove(key)

    def tidy(self, now_ns: int) -> int:
        """Free what has passed, in one stripe, each time the next; how many (K4)."""
        return self.table.expire_next(now_ns)

    def stats(self) -> TableStats:
        """How full the table is, and what befell it. Takes no lock."""
        return self.table.stats()

    def _insert(self, stripe: Stripe, slot: _Slot, now_ns: int) -> None:
        at = stripe.place(slot.key, now_ns)
        if at < 0:
            raise TableFullError(f"{self.table.name}: no room for another token")
        stripe.insert(at, _packed(slot))


def _is_holder(slot: _Slot, holder: Identity) -> bool:
    return slot.pid != 0 and (slot.pid, slot.start) == (holder.pid, holder.start_ticks)


def _is_held(slot: _Slot, now_ns: int) -> bool:
    return slot.pid != 0 and now_ns < slot.lease_ns and start_ticks(slot.pid) == slot.start


def _packed(slot: _Slot) -> bytes:
    head = _HEAD.pack(*slot[:7], len(slot.value))
    return (head + slot.value).ljust(_FIELDS_BYTES, b"\0")


def _unpacked(raw: bytes) -> _Slot:
    key, fresh, valid, lease, start, pid, generation, size = _HEAD.unpack_from(raw)
    value = raw[_VALUE_AT : _VALUE_AT + size]
    return _Slot(key, fresh, valid, lease, start, pid, generation, value)


def _is_expired(raw: bytes, now_ns: int) -> bool:
    slot = _HEAD.unpack_from(raw)
    return bool(now_ns >= max(slot[2], slot[3]))
