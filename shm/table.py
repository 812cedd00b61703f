"""The hash table under `rates`, `budgets`, `sessions` and `endpoints`: a segment of stripes.

Source: design section 5. Layout and invariants are in `shm.stripe`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Self, final

from shm.errors import SegmentRefusedError, ShmError, TableFullError
from shm.layout import Kind
from shm.segment import Segment, segment_name
from shm.stripe import CRC_BYTES, GROUP_SLOTS, KEY_BYTES, STRIPES_OFFSET, Stripe, stripe_bytes

_SECRET_BYTES: Final = 32
_FILL: Final = 0.95
"""The share of a stripe that is meant to be used: up to it, both groups are hardly ever full."""
_KEYS_A_STRIPE: Final = 4096


@final
@dataclass(frozen=True, slots=True)
class TableStats:
    """A table as of one moment. Counts are since its creation, but for `slots` and `used`."""

    name: str
    slots: int
    used: int
    evictions: int
    """Slots freed because they carried no information any more."""
    refusals: int
    """New keys for which there was no room."""
    repairs: int
    """Holders that died, and were cleaned up after."""
    damaged: int
    """Slots found damaged, and freed."""
    waits: int
    """How often a locker found its stripe locked."""
    timeouts: int
    """How often a locker gave up (LockTimeoutError)."""
    size_bytes: int


def _parameters(fields_bytes: int, keys: int) -> tuple[int, int, int, int]:
    """Stripes, groups a stripe and slot bytes of a table for that many keys."""
    stripes = _stripe_count(keys)
    # Keys fall on stripes at random: five standard deviations above the mean are room enough.
    mean = keys / stripes
    groups = math.ceil((mean + 5 * math.sqrt(mean)) / (_FILL * GROUP_SLOTS)) + 1
    return stripes, groups, fields_bytes + CRC_BYTES, 0


def _stripe_count(keys: int) -> int:
    """A power of two: enough that two workers seldom meet, few enough that a stripe is big."""
    return 1 << min(max((keys // _KEYS_A_STRIPE).bit_length(), 3), 10)


def _never(raw: bytes, now_ns: int) -> bool:
    return False


def _nothing(stripe: Stripe) -> None:
    return None


class _ResizedError(SegmentRefusedError):
    """A kept table is sound, and of another size."""

    def __init__(self, problem: str, segment: Segment) -> None:
        super().__init__(problem)
        self.segment = segment


@final
class HashTable:
    """The stripes of one segment, in the process that created it and, over fork, in its children.

    `is_expired(raw, now_ns)` says whether a slot carries no information any more (T5); `repaired`
    is called under a stripe's lock after slots of it were lost or rolled back.
    """

    __slots__ = (
        "_mask",
        "_next",
        "former",
        "groups",
        "hints",
        "is_expired",
        "name",
        "refusal",
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
        expected = STRIPES_OFFSET + stripes * stripe_bytes(self.groups, self.slot_bytes)
        if len(segment.body) != expected or stripes.bit_count() != 1 or not self.groups:
            raise SegmentRefusedError(f"{segment.name}: size does not fit its parameters")
        self.segment = segment
        self.name = segment.header.kind.name
        self.is_expired = is_expired
        self.repaired = repaired
        self._next = 0
        self.refusal = ""
        """Why `open` did not take over the table that was there; empty when it did, or none was."""
        self.former: Sequence[bytes] = ()
        """Slots of a table of another size that `open` replaced; see `move_in`."""
        self.hints: dict[bytes, int] = {}
        """Where this process last saw a key; each use is checked against the slot."""
        self.secret = bytes(segment.body[:_SECRET_BYTES])
        known = (self.hints, is_expired, repaired)
        self._mask = stripes - 1
        self.stripes = [Stripe(segment, index, *known, fresh=fresh) for index in range(stripes)]

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
        size = STRIPES_OFFSET + stripes * stripe_bytes(groups, slot_bytes)
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
            problem = (
                f"{name}: holds {found[0] * found[1] * GROUP_SLOTS} slots of {found[2]} bytes,"
                f" wanted {wanted[0] * wanted[1] * GROUP_SLOTS} of {wanted[2]}"
            )
            if found[2] == wanted[2]:
                raise _ResizedError(problem, segment)
            segment.close()
            raise SegmentRefusedError(problem)
        return cls(segment, is_expired, repaired, fresh=False)

    @classmethod
    def open(
        cls,
        name: str,
        kind: Kind,
        fields_bytes: int,
        keys: int,
        is_expired: Callable[[bytes, int], bool] = _never,
        repaired: Callable[[Stripe], None] = _nothing,
        secret: bytes = b"",
        *,
        stranger: str = "has another secret",
        from_living: bool = False,
    ) -> Self:
        """`inherit`, or `create` when there is nothing to take over, or nothing that can be used.

        What a table of another size held is in `former`, and the keys are made as they were there.
        `secret`: if given, a table of another one cannot be used; `stranger` is then the refusal.
        Raises: SegmentInUseError, ShmError.
        """
        refusal, known = "", (is_expired, repaired)
        former: Sequence[bytes] = ()
        try:
            table = cls.inherit(name, kind, fields_bytes, keys, *known, from_living=from_living)
        except _ResizedError as problem:
            table, refusal = None, str(problem)
            try:
                old = cls(problem.segment, *known, fresh=False)
                if not secret or old.secret == secret:
                    former, secret = list(old.raws()), old.secret
            except ShmError as error:
                refusal = f"{refusal}; {error}"
            problem.segment.close()
        except SegmentRefusedError as problem:
            table, refusal = None, str(problem)
        if table is not None and secret and table.secret != secret:
            refusal = f"{name}: {stranger}"
            table.segment.close()
            table = None
        if table is None:
            table = cls.create(name, kind, fields_bytes, keys, *known, secret)
        table.refusal, table.former = refusal, former
        return table

    def move_in(self, move: Callable[[bytes], object] | None = None) -> None:
        """Take over what a table of another size held, which `refusal` then tells.

        `move` puts one slot, CRC included, into this table, as it is unless told otherwise; a
        TableFullError leaves it behind.
        """
        former, self.former, lost = self.former, (), 0
        for raw in former:
            try:
                (move or self._move)(raw)
            except TableFullError:
                lost += 1
        if former:
            self.refusal += f"; {len(former) - lost} entries were moved, {lost} had no room"

    def _move(self, raw: bytes) -> None:
        key = raw[:KEY_BYTES]
        with self.stripe(key) as stripe:
            # Of no time: nothing that was moved in makes room for another.
            at = stripe.place(key, 0)
            if at < 0:
                raise TableFullError(f"{self.name}: no room")
            stripe.insert(at, raw[:-CRC_BYTES])

    def key(self, *parts: bytes) -> bytes:
        """The key of these parts in this table: (b"a", b"bc") is not (b"ab", b"c")."""
        digest = blake2b(digest_size=KEY_BYTES, key=self.secret)
        for part in parts:
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(part)
        return digest.digest()

    def stripe(self, key: bytes) -> Stripe:
        """Where the key belongs."""
        return self.stripes[(key[0] | key[1] << 8) & self._mask]

    def raws(self) -> Iterator[bytes]:
        """Every slot in use, each consistent in itself; a stripe is locked while it is copied."""
        for stripe in self.stripes:
            yield from stripe.raws()

    def remove(self, key: bytes) -> bool:
        """Free the key's slot; False when it had none."""
        with self.stripe(key) as stripe:
            at = stripe.find(key)
            if at >= 0:
                stripe.remove(at)
        return at >= 0

    def expire(self, now_ns: int) -> int:
        """Free what carries no information any more; how many slots. Locks for 0.3 ms at a time."""
        return sum(stripe.expire(now_ns) for stripe in self.stripes)

    def expire_next(self, now_ns: int) -> int:
        """`expire` of one stripe, each time the next: for whoever tidies up now and then."""
        self._next = (self._next + 1) % len(self.stripes)
        return self.stripes[self._next].expire(now_ns)

    def stats(self) -> TableStats:
        """Takes no lock."""
        used, evictions, refusals, damaged, waits, timeouts = map(
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
            timeouts=timeouts,
            size_bytes=self.segment.header.size_bytes,
        )


class KeptTable:
    """What tables have in common that may outlive their instance: a HashTable, and its end."""

    __slots__ = ("table",)

    def __init__(self, table: HashTable) -> None:
        self.table = table

    def close(self) -> None:
        """Remove the table, if this process owns it."""
        self.table.segment.close()

    def leave(self) -> None:
        """Let go of a kept table; the next instance finds it."""
        self.table.segment.leave()

    def beat(self) -> None:
        """Renew the sign of life of a kept table; at least once an hour."""
        self.table.segment.beat()

    def stats(self) -> TableStats:
        """How full the table is. Takes no lock."""
        return self.table.stats()


@contextmanager
def locked(stripes: Iterable[Stripe]) -> Iterator[None]:
    """All of them at once, each taken once, by rising index. Raises: as entering one does."""
    held: list[Stripe] = []
    try:
        for stripe in sorted(set(stripes), key=_number):
            # One by one: when one raises, those before it must be known.
            held.append(stripe.__enter__())  # noqa: PERF401 - see above
        yield
    finally:
        _leave(held)


def _leave(held: list[Stripe]) -> None:
    """Unlock them, the last first; one that cannot be repaired keeps no other locked."""
    while held:
        try:
            held.pop().leave()
        except BaseException:
            _leave(held)
            raise


def _number(stripe: Stripe) -> int:
    return stripe.index


__all__ = [
    "GROUP_SLOTS",
    "KEY_BYTES",
    "HashTable",
    "KeptTable",
    "Stripe",
    "TableStats",
    "segment_name",
]
