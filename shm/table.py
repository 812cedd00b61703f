"""The hash table under `rates`, `budgets`, `sessions` and `endpoints`: exact, bounded, unkillable.

Source: design section 5; Azar, Broder, Karlin and Upfal, "Balanced Allocations", 1994 (two
choices); tag bytes as in Abseil's Swiss tables, reduced to what is easy to repair after a crash.

Body, behind the header; S stripes of G groups of 16 slots, each of B bytes:

    offset size type field                         written by            a reader may see torn
    0      32   -    secret of the key hash        creator               no: before the magic
    32     32   -    zero
    64     -    -    stripes, one each:
      +0   64   lock                               `lock`
      +64  8    u64  undo images in use, 0 to 3    lock's holder         no: one word
      +72  8    u64  slots in use                  lock's holder         no: one word
      +80  8    u64  evictions since creation      lock's holder         no: one word
      +88  8    u64  keys refused for want of room lock's holder         no: one word
      +96  8    u64  slots found damaged           lock's holder         no: one word
      +104 8    u64  times a locker had to wait    lock's holder         no: one word
      +112 8    u64  the table's own word          lock's holder         no: one word
      +120 8    -    zero
      +128 U    -    undo: 3 x (u64 slot offset, B bytes), padded to 64   only without the lock
      +128+U    groups, one each:
        +0  16  u8   tag of each slot, 0 when it is free                  only without the lock
        +16 16B -    slots: 16 bytes key, the table's fields, u32 CRC-32  only without the lock

Parameters of the header: stripes, groups a stripe, slot bytes, 0.

A key is a keyed 128-bit hash, so nobody outside can choose keys that collide. Its first two bytes
name the stripe, and two more words name the two groups of that stripe in which its slot may lie:
deletion is one store, nothing is ever moved, and there are no tombstones. With 16 slots a group
both groups are first full when the table is about 97 % full.

Invariants:
    T1  Whoever reads or changes a stripe holds its lock.
    T2  A change of slots is a transaction: the old images are stored, then the count of them, then
        the slots, then the count is 0 again: that store is the commit. A holder that dies in
        between leaves a count, and the next locker puts the images back. So a change of up to 3
        slots happens whole or not at all.
    T3  The slots are the truth. Tags and the count of slots in use are an index over them, and
        repair makes it anew.
    T4  A slot in use has a key other than zero and a right CRC. One without is damage that no death
        of a holder explains (T2): it is freed and counted, and never believed.
    T5  Room is made only by freeing slots whose table says that they carry no information any more.
        When there are none, a new key is refused; a live slot is never overwritten.
    T6  Repair reads and writes only its stripe, and may run again over a half-done repair.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from types import TracebackType
from typing import Final, Self, final

from shm.errors import SegmentRefusedError, ShmError
from shm.layout import HEADER_BYTES, Kind, aligned
from shm.lock import LOCK_BYTES, RobustLock, trylock, unlock
from shm.segment import Segment, segment_name

KEY_BYTES: Final = 16
GROUP_SLOTS: Final = 16
MAX_IMAGES: Final = 3
_SECRET_BYTES: Final = 32
_STRIPES_OFFSET: Final = 64
_UNDO_OFFSET: Final = 128
_UNDO, _USED, _EVICTED, _REFUSED, _DAMAGED, _WAITED, _OWN = range(7)
_OFFSET: Final = struct.Struct("=Q")
_CRC: Final = struct.Struct("<I")
_RESIDUE: Final = 0x2144DF1C
"""What CRC-32 gives over data followed by its own CRC-32, little-endian."""
_FREE: Final = bytes(KEY_BYTES)
_FILL: Final = 0.95
"""The share of a stripe that is meant to be used: up to it, both groups are hardly ever full."""
_KEYS_A_STRIPE: Final = 4096
_HINTS: Final = 8192


@final
@dataclass(frozen=True, slots=True)
class TableStats:
    """A table as of one moment. `waits`: how often a locker found its stripe locked."""

    name: str
    slots: int
    used: int
    evictions: int
    refusals: int
    repairs: int
    damaged: int
    waits: int
    size_bytes: int


def _parameters(fields_bytes: int, keys: int) -> tuple[int, int, int, int]:
    """Stripes, groups a stripe and slot bytes of a table for that many keys."""
    stripes = _stripe_count(keys)
    # Keys fall on stripes at random: five standard deviations above the mean are room enough.
    mean = keys / stripes
    groups = math.ceil((mean + 5 * math.sqrt(mean)) / (_FILL * GROUP_SLOTS)) + 1
    return stripes, groups, fields_bytes + _CRC.size, 0


def _stripe_count(keys: int) -> int:
    """A power of two: enough that two workers seldom meet, few enough that a stripe is big."""
    return 1 << min(max((keys // _KEYS_A_STRIPE).bit_length(), 3), 10)


@final
class Stripe:
    """One lock and its slots, as this process sees them. A context manager: inside, T1 holds.

    Slots are named by their offset in the mapping. `raw` is a slot's bytes, CRC included.
    """

    __slots__ = (
        "_address",
        "_file",
        "_first",
        "_group_bytes",
        "_groups",
        "_hints",
        "_is_expired",
        "_repaired",
        "_slot_bytes",
        "_undo",
        "_words",
        "lock",
    )

    def __init__(self, table: HashTable, index: int, *, fresh: bool) -> None:
        segment = table.segment
        self._file = segment.file
        self._slot_bytes = table.slot_bytes
        self._groups = table.groups
        self._group_bytes = GROUP_SLOTS * (1 + table.slot_bytes)
        start = _STRIPES_OFFSET + index * _stripe_bytes(table.groups, table.slot_bytes)
        head = segment.body[start : start + _UNDO_OFFSET]
        self._words = head[LOCK_BYTES:].cast("Q")
        self._undo = HEADER_BYTES + start + _UNDO_OFFSET
        self._first = self._undo + _undo_bytes(table.slot_bytes)
        self._hints = table.hints
        self._is_expired = table.is_expired
        self._repaired = table.repaired
        make = RobustLock.create if fresh else RobustLock
        self.lock = make(head[:LOCK_BYTES], self._repair, self._count_wait)
        self._address = self.lock.address

    def __enter__(self) -> Self:
        """Raises: LockBrokenError, LockTimeoutError."""
        # The lock's own `with`, inlined: entering and leaving is a tenth of a table's operation.
        code = trylock(self._address)
        if code:
            self.lock.settle(code)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._words[_UNDO]:  # an exception came out of a transaction: as if we had died
            self._repair()
        unlock(self._address)

    @property
    def own_word(self) -> int:
        """A word for the table's own use, 0 at first."""
        return self._words[_OWN]

    @own_word.setter
    def own_word(self, value: int) -> None:
        self._words[_OWN] = value

    def find(self, key: bytes) -> int:
        """Where the key's slot is; -1 when it has none."""
        file = self._file
        # Fast path: it is where this process last saw it.
        at = self._hints.get(key, -1)
        if at >= 0 and file[at : at + KEY_BYTES] == key:
            return at
        tag = _tag(key)
        for group in self._candidates(key):
            at_tag = file.find(tag, group, group + GROUP_SLOTS)
            while at_tag >= 0:
                at = group + GROUP_SLOTS + (at_tag - group) * self._slot_bytes
                if file[at : at + KEY_BYTES] == key:
                    self._remember(key, at)
                    return at
                at_tag = file.find(tag, at_tag + 1, group + GROUP_SLOTS)
        return -1

    def read(self, at: int) -> bytes:
        """The slot's bytes; b"" when it was damaged, and then it is free (T4)."""
        raw = self._file[at : at + self._slot_bytes]
        if zlib.crc32(raw) == _RESIDUE:
            return raw
        self._words[_DAMAGED] += 1
        self._release(at)
        self._repaired(self)
        return b""

    def write(self, at: int, raw: bytes, fields: bytes) -> None:
        """Replace the slot `raw`, as read, by `fields`: the key and all else but the CRC."""
        file, undo, words = self._file, self._undo, self._words
        file[undo : undo + 8 + len(raw)] = _OFFSET.pack(at) + raw
        words[_UNDO] = 1
        file[at : at + len(raw)] = fields + _CRC.pack(zlib.crc32(fields))
        words[_UNDO] = 0  # the commit (T2)

    def place(self, key: bytes, now_ns: int) -> int:
        """A free slot in which the key may lie; -1 when there is none, which is counted (T5).

        Nothing has changed yet. `now_ns` is what the table's `is_expired` compares with.
        """
        groups = self._candidates(key)
        file = self._file
        first, second = (file[group : group + GROUP_SLOTS] for group in groups)
        # The emptier of the two: this is what keeps both from being full early.
        is_second = second.count(0) > first.count(0)
        group, tags = (groups[1], second) if is_second else (groups[0], first)
        free = tags.find(0)
        if free >= 0:
            return group + GROUP_SLOTS + free * self._slot_bytes
        for group in groups:
            at = self._evict(group, now_ns)
            if at >= 0:
                return at
        self._words[_REFUSED] += 1
        return -1

    def change(self, changes: list[tuple[int, bytes]]) -> None:
        """Write, insert and free up to three slots at once (T2): `(slot, fields)`; b"" frees it."""
        file, words, size = self._file, self._words, self._slot_bytes
        assert len(changes) <= MAX_IMAGES, "T2"
        undo = self._undo
        for at, _ in changes:
            file[undo : undo + 8 + size] = _OFFSET.pack(at) + file[at : at + size]
            undo += 8 + size
        words[_UNDO] = len(changes)
        for at, fields in changes:
            self._store(at, fields)
        words[_UNDO] = 0  # the commit (T2)

    def insert(self, at: int, fields: bytes) -> None:
        """Fill the free slot that `place` named."""
        self.change([(at, fields)])
        self._remember(fields[:KEY_BYTES], at)

    def remove(self, at: int) -> None:
        """Free a slot."""
        self.change([(at, b"")])

    def slots(self) -> Iterator[int]:
        """Every slot in use. Those it has named may be changed or freed meanwhile."""
        file = self._file
        for number in range(self._groups):
            group = self._first + number * self._group_bytes
            tags = file[group : group + GROUP_SLOTS]
            if tags != _FREE:
                for index, tag in enumerate(tags):
                    if tag:
                        yield group + GROUP_SLOTS + index * self._slot_bytes

    def expire(self, now_ns: int) -> int:
        """Free what carries no information any more; how many slots."""
        gone = [at for at in self.slots() if self._may_go(at, now_ns)]
        for at in gone:
            self.remove(at)
        self._words[_EVICTED] += len(gone)
        return len(gone)

    def counts(self) -> tuple[int, int, int, int, int]:
        """Used, evictions, refusals, damaged, waits. Each is one word: no lock is needed."""
        words = self._words
        return words[_USED], words[_EVICTED], words[_REFUSED], words[_DAMAGED], words[_WAITED]

    def _candidates(self, key: bytes) -> tuple[int, int]:
        """The two groups in which the key may lie."""
        count = self._groups
        one = int.from_bytes(key[2:6], "little") % count
        two = int.from_bytes(key[6:10], "little") % count
        first, size = self._first, self._group_bytes
        return first + one * size, first + two * size

    def _remember(self, key: bytes, at: int) -> None:
        hints = self._hints
        if len(hints) >= _HINTS:
            hints.clear()
        hints[key] = at

    def _store(self, at: int, fields: bytes) -> None:
        """Write a slot and its tag, inside a transaction."""
        file, size = self._file, self._slot_bytes
        tag_at = self._tag_offset(at)
        was_used = file[tag_at] != 0
        if fields:
            assert len(fields) == size - _CRC.size, "slot layout"
            file[at : at + size] = fields + _CRC.pack(zlib.crc32(fields))
            file[tag_at : tag_at + 1] = _tag(fields)
        else:
            file[at : at + size] = bytes(size)
            file[tag_at] = 0
        self._words[_USED] += bool(fields) - was_used

    def _release(self, at: int) -> None:
        """Free a damaged slot: outside of a transaction, since there is nothing to go back to."""
        self._file[at : at + KEY_BYTES] = _FREE
        self._file[self._tag_offset(at)] = 0
        self._words[_USED] -= 1

    def _tag_offset(self, at: int) -> int:
        group, inside = divmod(at - self._first, self._group_bytes)
        slot = (inside - GROUP_SLOTS) // self._slot_bytes
        return self._first + group * self._group_bytes + slot

    def _evict(self, group: int, now_ns: int) -> int:
        """Free one slot of a full group; -1 when all are live."""
        for index in range(GROUP_SLOTS):
            at = group + GROUP_SLOTS + index * self._slot_bytes
            if self._may_go(at, now_ns):
                self.remove(at)
                self._words[_EVICTED] += 1
                return at
        return -1

    def _may_go(self, at: int, now_ns: int) -> bool:
        raw = self.read(at)
        return not raw or self._is_expired(raw, now_ns)

    def _count_wait(self) -> None:
        self._words[_WAITED] += 1

    def _repair(self) -> None:
        """Undo the transaction of a dead holder (T2), then make the index anew (T3, T4)."""
        file, size = self._file, self._slot_bytes
        images = self._words[_UNDO]
        if images > MAX_IMAGES:
            raise SegmentRefusedError(f"{images} undo images (T2)")
        for number in reversed(range(images)):
            undo = self._undo + number * (8 + size)
            (at,) = _OFFSET.unpack_from(file, undo)
            if not self._is_slot(at):
                raise SegmentRefusedError(f"undo image {number} is of no slot (T2)")
            file[at : at + size] = file[undo + 8 : undo + 8 + size]
        self._words[_UNDO] = 0
        self._index()
        self._repaired(self)

    def _is_slot(self, at: int) -> bool:
        group, inside = divmod(at - self._first, self._group_bytes)
        aligned_slot = (inside - GROUP_SLOTS) % self._slot_bytes == 0
        return 0 <= group < self._groups and inside >= GROUP_SLOTS and aligned_slot

    def _index(self) -> None:
        file, size, used = self._file, self._slot_bytes, 0
        for number in range(self._groups):
            group = self._first + number * self._group_bytes
            tags = bytearray(GROUP_SLOTS)
            for index in range(GROUP_SLOTS):
                at = group + GROUP_SLOTS + index * size
                key = file[at : at + KEY_BYTES]
                if key == _FREE:
                    continue
                if zlib.crc32(file[at : at + size]) != _RESIDUE:
                    self._words[_DAMAGED] += 1
                    file[at : at + KEY_BYTES] = _FREE
                    continue
                tags[index : index + 1] = _tag(key)
                used += 1
            file[group : group + GROUP_SLOTS] = bytes(tags)
        self._words[_USED] = used


def _tag(key: bytes) -> bytes:
    return bytes((key[10] or 1,))


def _undo_bytes(slot_bytes: int) -> int:
    return aligned(MAX_IMAGES * (8 + slot_bytes))


def _stripe_bytes(groups: int, slot_bytes: int) -> int:
    group_bytes = groups * GROUP_SLOTS * (1 + slot_bytes)
    return aligned(_UNDO_OFFSET + _undo_bytes(slot_bytes) + group_bytes)


def _never(raw: bytes, now_ns: int) -> bool:
    return False


def _nothing(stripe: Stripe) -> None:
    return None


@final
class HashTable:
    """The stripes of one segment, in the process that created it and, over fork, in its children.

    `is_expired(raw, now_ns)` says whether a slot carries no information any more (T5); `repaired`
    is called under a stripe's lock after slots of it were lost or rolled back.
    """

    __slots__ = (
        "groups",
        "hints",
        "is_expired",
        "name",
        "repaired",
        "secret",
        "segment",
        "slot_bytes",
        "stripes",
    )

    def __init__(
        self,
        segment: Segment,
        is_expired: Callable[[bytes, int], bool] = _never,
        repaired: Callable[[Stripe], None] = _nothing,
        *,
        fresh: bool,
    ) -> None:
        stripes, self.groups, self.slot_bytes, _ = segment.header.parameters
        expected = _STRIPES_OFFSET + stripes * _stripe_bytes(self.groups, self.slot_bytes)
        if len(segment.body) != expected or stripes & (stripes - 1) or not self.groups:
            raise SegmentRefusedError(f"{segment.name}: size does not fit its parameters")
        self.segment = segment
        self.name = segment.header.kind.name
        self.is_expired = is_expired
        self.repaired = repaired
        self.hints: dict[bytes, int] = {}
        """Where this process last saw a key; each use is checked against the slot."""
        self.secret = bytes(segment.body[:_SECRET_BYTES])
        self.stripes = [Stripe(self, index, fresh=fresh) for index in range(stripes)]

    @classmethod
    def create(
        cls,
        name: str,
        kind: Kind,
        fields_bytes: int,
        keys: int,
        is_expired: Callable[[bytes, int], bool] = _never,
        repaired: Callable[[Stripe], None] = _nothing,
        secret: bytes = b"",
    ) -> Self:
        """A table with room for `keys` keys, owned by this process.

        `fields_bytes`: a slot without its CRC, key included. `secret`: 32 bytes, to find the
        keys of an earlier table again; random without it.
        Raises: SegmentInUseError, ShmError.
        """
        if keys < 1:
            raise ShmError(f"{kind.name}: {keys} keys; at least 1")
        parameters = _parameters(fields_bytes, keys)
        stripes, groups, slot_bytes, _ = parameters
        size = _STRIPES_OFFSET + stripes * _stripe_bytes(groups, slot_bytes)
        segment = Segment.create(name, kind, size, parameters)
        segment.body[:_SECRET_BYTES] = secret or os.urandom(_SECRET_BYTES)
        table = cls(segment, is_expired, repaired, fresh=True)
        segment.beat()
        segment.seal()
        return table

    @classmethod
    def attach(
        cls,
        name: str,
        kind: Kind,
        is_expired: Callable[[bytes, int], bool] = _never,
        repaired: Callable[[Stripe], None] = _nothing,
    ) -> Self:
        """A running instance's table. Raises: SegmentMissingError, SegmentRefusedError."""
        return cls(Segment.attach(name, kind), is_expired, repaired, fresh=False)

    @classmethod
    def inherit(
        cls,
        name: str,
        kind: Kind,
        fields_bytes: int,
        keys: int,
        is_expired: Callable[[bytes, int], bool] = _never,
        repaired: Callable[[Stripe], None] = _nothing,
        *,
        from_living: bool = False,
    ) -> Self | None:
        """The kept table of an earlier instance, now ours; None when there is none.

        Locks that its processes died with are repaired when they are next taken.
        Raises: SegmentInUseError; SegmentRefusedError when it is damaged, of another layout or of
        another size than `keys` asks for: `create` then replaces it.
        """
        segment = Segment.inherit(name, kind, from_living=from_living)
        if segment is None:
            return None
        wanted = _parameters(fields_bytes, keys)
        if segment.header.parameters != wanted:
            found = segment.header.parameters
            segment.close()
            raise SegmentRefusedError(
                f"{name}: holds {found[0] * found[1] * GROUP_SLOTS} slots of {found[2]} bytes,"
                f" wanted {wanted[0] * wanted[1] * GROUP_SLOTS} of {wanted[2]}"
            )
        return cls(segment, is_expired, repaired, fresh=False)

    def key(self, *parts: bytes) -> bytes:
        """The key of these parts in this table: (b"a", b"bc") is not (b"ab", b"c")."""
        digest = blake2b(digest_size=KEY_BYTES, key=self.secret)
        for part in parts:
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(part)
        return digest.digest()

    def stripe(self, key: bytes) -> Stripe:
        """Where the key belongs."""
        stripes = self.stripes
        return stripes[(key[0] | key[1] << 8) & len(stripes) - 1]

    def raws(self) -> Iterator[bytes]:
        """Every slot in use, each consistent in itself; a stripe is locked while it is copied."""
        for stripe in self.stripes:
            with stripe:
                raws = [stripe.read(at) for at in stripe.slots()]
            yield from filter(None, raws)

    def remove(self, key: bytes) -> bool:
        """Free the key's slot; False when it had none."""
        with self.stripe(key) as stripe:
            at = stripe.find(key)
            if at >= 0:
                stripe.remove(at)
        return at >= 0

    def expire(self, now_ns: int) -> int:
        """Free what carries no information any more, one stripe at a time; how many slots."""
        count = 0
        for stripe in self.stripes:
            with stripe:
                count += stripe.expire(now_ns)
        return count

    def stats(self) -> TableStats:
        """Takes no lock."""
        used, evictions, refusals, damaged, waits = map(
            sum, zip(*(stripe.counts() for stripe in self.stripes), strict=True)
        )
        return TableStats(
            name=self.name,
            slots=len(self.stripes) * self.groups * GROUP_SLOTS,
            used=used,
            evictions=evictions,
            refusals=refusals,
            repairs=sum(stripe.lock.recoveries for stripe in self.stripes),
            damaged=damaged,
            waits=waits,
            size_bytes=self.segment.header.size_bytes,
        )


__all__ = ["KEY_BYTES", "HashTable", "Stripe", "TableStats", "segment_name"]
