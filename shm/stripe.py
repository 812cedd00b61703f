"""One lock and its slots: a share of a hash table that no death of a holder leaves half-changed.

Source: design section 5; Azar, Broder, Karlin and Upfal, "Balanced Allocations", 1994 (two
choices); tag bytes as in Abseil's Swiss tables, reduced to what is easy to repair after a crash.

Body, behind the header; S stripes of G groups of 32 slots, each of B bytes:

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
      +120 8    u64  times a locker gave up        who gave up           no: one word
      +128 U    -    undo: 3 x (u64 slot offset, B bytes), padded to 64   only without the lock
      +128+U    groups, one each:
        +0  32  u8   tag of each slot, 0 when it is free                  only without the lock
        +32 32B -    slots: 16 bytes key, the table's fields, u32 CRC-32  only without the lock

Parameters of the header: stripes, groups a stripe, slot bytes, 0.

A key is a keyed 128-bit hash, so nobody outside can choose keys that collide. Its first two bytes
name the stripe, and two more words name the two groups of that stripe in which its slot may lie:
deletion is one store, nothing is ever moved, and there are no tombstones. With 32 slots a group
the first key for which both groups are full comes when a stripe is 96 % full, in one of a hundred
stripes at 94 %; tables are made so that their stripes stay below (`shm.table`).

Invariants:
    T1  Whoever reads or changes a stripe holds its lock. Only the count of those who gave up is
        written without it: two of them within 0.1 µs may count as one. And who only compares a
        slot with what it once was may look without it (R5 in `shm.rates`): octets that are equal
        were written by nobody in between, or not yet.
    T2  A change of slots is a transaction: the old images are stored, then the count of them, then
        the slots, then the count is 0 again: that store is the commit. A holder that dies in
        between leaves a count, and the next locker puts the images back. So a change of up to 3
        slots happens whole or not at all.
    T3  The slots are the truth. Tags and the count of slots in use are an index over them, and
        repair makes it anew.
    T4  A slot in use has a key other than zero and a right CRC. One without is damage that no death
        of a holder explains (T2): it is freed and counted, and never believed. Damage of a tag is
        found when the slot seems free and is not; the index is then made anew. Octets that are the
        same as what this process has checked or written need no other check (`shm.seen`).
    T5  Room is made only by freeing slots whose table says that they carry no information any more.
        When there are none, a new key is refused; a live slot is never overwritten.
    T6  Repair reads and writes only its stripe, and may run again over a half-done repair.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self, final

from shm.errors import LockTimeoutError, SegmentRefusedError
from shm.layout import HEADER_BYTES, aligned
from shm.lock import LOCK_BYTES, RobustLock, trylock, unlock
from shm.segment import Segment

KEY_BYTES: Final = 16
GROUP_SLOTS: Final = 32
MAX_IMAGES: Final = 3
STRIPES_OFFSET: Final = 64
_UNDO_OFFSET: Final = 128
_UNDO, _USED, _EVICTED, _REFUSED, _DAMAGED, _WAITED, _OWN, _GAVE_UP = range(8)
_OFFSET: Final = struct.Struct("=Q")
_CRC: Final = struct.Struct("<I")
CRC_BYTES: Final = _CRC.size
_crc: Final = zlib.crc32
_crc_bytes: Final = _CRC.pack
_offset_bytes: Final = _OFFSET.pack
_CHOICES: Final = struct.Struct("<II")
_RESIDUE: Final = 0x2144DF1C
"""What CRC-32 gives over data followed by its own CRC-32, little-endian."""
_FREE: Final = bytes(KEY_BYTES)
_NO_TAGS: Final = bytes(GROUP_SLOTS)
_HINTS: Final = 8192
_PORTION: Final = 8
"""Groups that `expire` looks through at a time: about 0.3 ms."""


@final
class Stripe:
    """One lock and its slots, as this process sees them. A context manager: inside, T1 holds.

    Slots are named by their offset in the mapping. `raw` is a slot's bytes, CRC included.
    """

    __slots__ = (
        "_first",
        "_group_bytes",
        "_groups",
        "_hints",
        "_image",
        "_is_expired",
        "_pair",
        "_repaired",
        "_slot_bytes",
        "_undo",
        "_words",
        "_zeros",
        "file",
        "index",
        "lock",
        "mutex",
    )

    def __init__(
        self,
        segment: Segment,
        index: int,
        hints: dict[bytes, int],
        is_expired: Callable[[bytes, int], bool],
        repaired: Callable[[Stripe], None],
        *,
        fresh: bool,
    ) -> None:
        _, self._groups, slot_bytes, _ = segment.header.parameters
        self.index = index
        """Who takes several stripes takes them by rising index."""
        self.file = segment.file
        self._slot_bytes = slot_bytes
        self._zeros = bytes(slot_bytes)
        self._pair = struct.Struct(f"=Q{slot_bytes}sQ{slot_bytes}s")
        self._group_bytes = GROUP_SLOTS * (1 + slot_bytes)
        start = STRIPES_OFFSET + index * stripe_bytes(self._groups, slot_bytes)
        head = segment.body[start : start + _UNDO_OFFSET]
        self._words = head[LOCK_BYTES:].cast("Q")
        self._undo = HEADER_BYTES + start + _UNDO_OFFSET
        self._image = slice(self._undo, self._undo + 8 + slot_bytes)
        """Where the only image of a small change goes."""
        self._first = self._undo + _undo_bytes(slot_bytes)
        self._hints = hints
        self._is_expired = is_expired
        self._repaired = repaired
        make = RobustLock.create if fresh else RobustLock
        self.lock = make(head[:LOCK_BYTES], self._repair, self._count_wait)
        self.mutex = self.lock.mutex

    def __enter__(self) -> Self:
        """Raises: LockBrokenError, LockTimeoutError."""
        # The lock's own `with`, inlined: entering and leaving is a tenth of a table's operation.
        code = trylock(self.mutex)
        if code:
            self.settle(code)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Fast path: nothing was left undone.
        if kind is None:
            unlock(self.mutex)
        else:
            self.leave()

    def leave(self) -> None:
        """Unlock it, perhaps with an exception: out of a transaction it is as if we had died."""
        try:
            if self._words[_UNDO]:
                self._repair()
        finally:
            unlock(self.mutex)

    @property
    def own_word(self) -> int:
        """A word for the table's own use, 0 at first."""
        return self._words[_OWN]

    @own_word.setter
    def own_word(self, value: int) -> None:
        self._words[_OWN] = value

    def step_own_word(self) -> int:
        """Add 1 to the table's own word; what it is then."""
        words = self._words
        value = words[_OWN] + 1
        words[_OWN] = value
        return value

    def find(self, key: bytes) -> int:
        """Where the key's slot is; -1 when it has none."""
        file = self.file
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
        raw = self.file[at : at + self._slot_bytes]
        if _crc(raw) == _RESIDUE:
            return raw
        self._words[_DAMAGED] += 1
        self._release(at)
        self._repaired(self)
        return b""

    def get(self, key: bytes) -> tuple[int, bytes]:
        """Where the key's slot is and what it holds; b"" when it has none, or it was damaged."""
        # Fast path: where this process last saw it, looked at once instead of found, then read.
        at = self._hints.get(key, -1)
        if at >= 0:
            raw = self.file[at : at + self._slot_bytes]
            if raw[:KEY_BYTES] == key and _crc(raw) == _RESIDUE:
                return at, raw
        at = self.find(key)
        return at, self.read(at) if at >= 0 else b""

    def write(self, at: int, raw: bytes, fields: bytes) -> None:
        """Replace the slot `raw`, as read, by `fields`: the key and all else but the CRC."""
        file, words = self.file, self._words
        file[self._image] = _offset_bytes(at) + raw
        words[_UNDO] = 1
        file[at : at + self._slot_bytes] = fields + _crc_bytes(_crc(fields))
        words[_UNDO] = 0  # the commit (T2)

    def place_at(self, at: int) -> tuple[slice, bytes]:
        """Where a slot is, as `rewrite` wants it."""
        return slice(at, at + self._slot_bytes), _offset_bytes(at)

    def rewrite(self, where: slice, offset: bytes, raw: bytes, fields: bytes) -> bytes:
        """`write` at a place that `place_at` gave; what the slot holds from now on."""
        file, words = self.file, self._words
        file[self._image] = offset + raw
        words[_UNDO] = 1
        file[where] = fresh = fields + _crc_bytes(_crc(fields))
        words[_UNDO] = 0  # the commit (T2)
        return fresh

    def write_two(
        self, at: int, raw: bytes, fields: bytes, other_at: int, other_raw: bytes, other: bytes
    ) -> None:
        """`write` of two different slots at once (T2)."""
        file, undo, words = self.file, self._undo, self._words
        size = len(raw)
        # Both images in one store, and no loop: half as long as `change` of the two.
        images = self._pair.pack(at, raw, other_at, other_raw)
        file[undo : undo + len(images)] = images
        words[_UNDO] = 2
        file[at : at + size] = fields + _crc_bytes(_crc(fields))
        file[other_at : other_at + size] = other + _crc_bytes(_crc(other))
        words[_UNDO] = 0  # the commit (T2)

    def place(self, key: bytes, now_ns: int) -> int:
        """A free slot in which the key may lie; -1 when there is none, which is counted (T5).

        Nothing has changed yet. `now_ns` is what the table's `is_expired` compares with.
        """
        groups = self._candidates(key)
        file = self.file
        group, other = groups
        tags, others = file[group : group + GROUP_SLOTS], file[other : other + GROUP_SLOTS]
        # The emptier of the two: this is what keeps both from being full early.
        if others.count(0) > tags.count(0):
            group, tags = other, others
        free = tags.find(0)
        if free >= 0:
            at = group + GROUP_SLOTS + free * self._slot_bytes
            return at if file[at : at + KEY_BYTES] == _FREE else self._misplaced(key, now_ns)
        for group in groups:
            at = self._evict(group, now_ns)
            if at >= 0:
                return at
        self._words[_REFUSED] += 1
        return -1

    def change(self, changes: list[tuple[int, bytes]]) -> None:
        """Write, insert and free up to three slots at once (T2): `(slot, fields)`; b"" frees it.

        They are different slots.
        """
        file, words, size = self.file, self._words, self._slot_bytes
        assert len(changes) <= MAX_IMAGES, "T2"
        undo = b"".join([_OFFSET.pack(at) + file[at : at + size] for at, _ in changes])
        file[self._undo : self._undo + len(undo)] = undo
        words[_UNDO] = len(changes)
        used, image_at = 0, 8
        for at, fields in changes:
            before = undo[image_at : image_at + KEY_BYTES]
            image_at += 8 + size
            file[at : at + size] = fields + _crc_bytes(_crc(fields)) if fields else self._zeros
            # Fast path: the same key stays, and with it the tag.
            if fields[:KEY_BYTES] != before:
                used += bool(fields) - (before != _FREE)
                file[self._tag_offset(at)] = _tag(fields)[0] if fields else 0
        if used:
            words[_USED] = max(words[_USED] + used, 0)  # below 0 only by damage of the word
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
        for first in range(0, self._groups, _PORTION):
            yield from self._portion(first)

    def ordinal(self, at: int) -> int:
        """The number of a slot within its stripe, from 0; see `offset`."""
        group, inside = divmod(at - self._first, self._group_bytes)
        return group * GROUP_SLOTS + (inside - GROUP_SLOTS) // self._slot_bytes

    def offset(self, ordinal: int) -> int:
        """Where the slot of that number is, in use or not."""
        group, index = divmod(ordinal, GROUP_SLOTS)
        return self._first + group * self._group_bytes + GROUP_SLOTS + index * self._slot_bytes

    def expire(self, now_ns: int) -> int:
        """Free what carries no information any more; how many slots. Takes the lock, in turns."""
        count = 0
        for first in range(0, self._groups, _PORTION):
            with self:
                for at in self._portion(first):
                    raw = self.read(at)
                    if raw and self._is_expired(raw, now_ns):
                        self.remove(at)
                        self._words[_EVICTED] += 1
                        count += 1
        return count

    def copy(self) -> bytes:
        """All groups as they are now, for `raws`; 0.1 ms for 4,000 slots."""
        return self.file[self._first : self._first + self._groups * self._group_bytes]

    def raws(self) -> Iterator[bytes]:
        """Every slot in use, as of one moment. The lock is taken for the copy, not for the checks.

        A damaged one is freed (T4) and left out.
        """
        with self:
            copy = self.copy()
        size = self._slot_bytes
        for group in range(0, len(copy), self._group_bytes):
            for index in range(GROUP_SLOTS):
                if copy[group + index]:
                    at = group + GROUP_SLOTS + index * size
                    raw = copy[at : at + size]
                    if _crc(raw) == _RESIDUE:
                        yield raw
                    else:
                        self._check(self._first + at)

    def counts(self) -> tuple[int, int, int, int, int, int]:
        """Used, evictions, refusals, damaged, waits, given up. One word each: needs no lock."""
        _, used, evicted, refused, damaged, waited, _, gave_up = self._words
        return used, evicted, refused, damaged, waited, gave_up

    def _candidates(self, key: bytes) -> tuple[int, int]:
        """The two groups in which the key may lie."""
        count, first, size = self._groups, self._first, self._group_bytes
        one, two = _CHOICES.unpack_from(key, 2)
        return first + one % count * size, first + two % count * size

    def _portion(self, first: int) -> Iterator[int]:
        """The slots in use of some groups."""
        file = self.file
        for number in range(first, min(first + _PORTION, self._groups)):
            group = self._first + number * self._group_bytes
            tags = file[group : group + GROUP_SLOTS]
            if tags != _NO_TAGS:
                for index, tag in enumerate(tags):
                    if tag:
                        yield group + GROUP_SLOTS + index * self._slot_bytes

    def _check(self, at: int) -> None:
        """Look at a slot again, whose copy was damaged."""
        with self:
            if self.file[self._tag_offset(at)]:
                self.read(at)

    def _misplaced(self, key: bytes, now_ns: int) -> int:
        """A place after all, when a slot turned out to be in use whose tag said free (T4)."""
        self._words[_DAMAGED] += 1
        self._index()
        self._repaired(self)
        at = self.find(key)
        return at if at >= 0 else self.place(key, now_ns)

    def settle(self, code: int) -> None:
        """For a caller that inlines `with`, as a request's own changes do, which saves a third.

        It calls `trylock(stripe.mutex)` and, when that gave another code than 0, this; then
        `unlock(stripe.mutex)`, or `leave` with an exception under way.
        Raises: LockBrokenError, LockTimeoutError.
        """
        try:
            self.lock.settle(code)
        except LockTimeoutError:
            self._words[_GAVE_UP] += 1  # without the lock: T1
            raise

    def _remember(self, key: bytes, at: int) -> None:
        hints = self._hints
        if len(hints) >= _HINTS:
            hints.clear()
        hints[key] = at

    def _release(self, at: int) -> None:
        """Free a damaged slot: outside of a transaction, since there is nothing to go back to."""
        self.file[at : at + KEY_BYTES] = _FREE
        self.file[self._tag_offset(at)] = 0
        self._words[_USED] = max(self._words[_USED] - 1, 0)

    def _tag_offset(self, at: int) -> int:
        group, inside = divmod(at - self._first, self._group_bytes)
        slot = (inside - GROUP_SLOTS) // self._slot_bytes
        return self._first + group * self._group_bytes + slot

    def _evict(self, group: int, now_ns: int) -> int:
        """Free one slot of a full group; -1 when all are live."""
        for index in range(GROUP_SLOTS):
            at = group + GROUP_SLOTS + index * self._slot_bytes
            raw = self.read(at)
            if raw and self._is_expired(raw, now_ns):
                self.remove(at)
                self._words[_EVICTED] += 1
                return at
            # Damaged, and free by now, unless `repaired` has filled it again.
            if not raw and self.file[at : at + KEY_BYTES] == _FREE:
                return at
        return -1

    def _count_wait(self) -> None:
        self._words[_WAITED] += 1

    def _repair(self) -> None:
        """Undo the transaction of a dead holder (T2), then make the index anew (T3, T4)."""
        file, size = self.file, self._slot_bytes
        images = self._words[_UNDO]
        if images > MAX_IMAGES:
            raise SegmentRefusedError(f"{images} undo images (T2)")
        for number in reversed(range(images)):
            undo = self._undo + number * (8 + size)
            (at,) = _OFFSET.unpack(file[undo : undo + 8])
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
        file, size, used = self.file, self._slot_bytes, 0
        for number in range(self._groups):
            group = self._first + number * self._group_bytes
            tags = bytearray(GROUP_SLOTS)
            for index in range(GROUP_SLOTS):
                at = group + GROUP_SLOTS + index * size
                key = file[at : at + KEY_BYTES]
                if key == _FREE:
                    continue
                if _crc(file[at : at + size]) != _RESIDUE:
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


def stripe_bytes(groups: int, slot_bytes: int) -> int:
    """What a stripe of that many groups takes."""
    group_bytes = groups * GROUP_SLOTS * (1 + slot_bytes)
    return aligned(_UNDO_OFFSET + _undo_bytes(slot_bytes) + group_bytes)
