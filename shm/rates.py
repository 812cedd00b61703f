"""Token buckets of all workers: check and take are one critical section, so a limit is exact.

Source: design section 5 (`rates`); spec config section 3.10 (discrete refills).

A bucket is a slot of 96 bytes: see `shm.bucket`. With tags and the room that keeps both groups from
being full a key costs 111 bytes: 1,000,000 keys, 111 MB.

A bucket is made full by its first use, which also anchors it: refills come at anchor + n intervals,
each of them whole. Invariants:
    R1  level ≤ capacity. Only `take` and `settle` lower it, only refills, refunds and `reset`
        raise it; a refusal changes nothing.
    R2  Time that lies before `since` refills nothing. If it lies more than an interval and more
        than `LATE_NS` before, the clock was set back, and `since` becomes that time. So a step back
        gives no token, what the clock goes through again counts for as long as it really takes, and
        nobody waits for a refill longer than two intervals and `LATE_NS`.
    R3  A full bucket says nothing that a new one would not, but when its next refill is due; that
        is what `is_expired` means (T5). Losing it delays a refill, and never brings one early.
    R4  A take with another limit than the slot's counts the old refills up to now, then goes on by
        the new limit: a full bucket stays full, another keeps its level, at most the new capacity.
        Another interval anchors the bucket anew. `settle` goes by the slot's limit: the answer to
        an old request does not bring the old limit back.
    R5  `take_all` locks stripes by rising index, but for a bucket that gives nothing: where its
        octets are those that this process last saw, it is judged by them without its lock, since
        that is what it held at some moment of the call. A stripe's changes happen whole or not at
        all; who dies between two stripes has taken from the first only: its own request, and
        nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self, final

from shm.bucket import (
    FIELDS_BYTES,
    HEAD,
    LABEL_AT,
    LATE_NS,
    LIMIT_AT,
    UNKNOWN,
    Ask,
    Limit,
    Row,
    Verdict,
    advanced,
    fitted,
    is_full,
    judged,
    row_of,
    seconds,
)
from shm.layout import Kind
from shm.lock import trylock, unlock
from shm.rate_seen import SeenBucket, lowest
from shm.seen import SeenSlots
from shm.segment import segment_name
from shm.table import KEY_BYTES, HashTable, KeptTable, Stripe, locked

KIND: Final = Kind("rates", 1)


@final
class RateTable(KeptTable):
    """The table, in the process that made it and, over fork, in its children.

    Times are CLOCK_MONOTONIC in ns. Every method may raise LockTimeoutError and LockBrokenError.
    """

    __slots__ = ("_buckets", "_stripe", "key")

    def __init__(self, table: HashTable) -> None:
        super().__init__(table)
        self._stripe = table.stripe
        self._buckets = SeenSlots(SeenBucket, table)
        self.key = table.key
        """The key of these parts, 16 bytes; the caller may keep it."""

    @classmethod
    def create(cls, instance: str, keys: int) -> Self:
        """A new table with room for `keys` buckets. Raises: SegmentInUseError, ShmError."""
        name = segment_name(instance, KIND.name)
        return cls(HashTable.create(name, KIND, FIELDS_BYTES, keys, is_full))

    @classmethod
    def open(cls, instance: str, keys: int, *, from_living: bool = False) -> Self:
        """The kept table of an earlier instance, or a new one that is kept.

        `from_living`: also take it over from a predecessor that still runs. One that cannot be
        used is replaced, and so is one with room for another number of keys, whose buckets move:
        `table.refusal` says it.
        Raises: SegmentInUseError, ShmError.
        """
        name = segment_name(instance, KIND.name, kept=True)
        table = HashTable.open(name, KIND, FIELDS_BYTES, keys, is_full, from_living=from_living)
        table.move_in()
        return cls(table)

    @classmethod
    def attach(cls, instance: str, *, kept: bool = False) -> Self:
        """A running instance's table. Raises: SegmentMissingError, SegmentRefusedError."""
        return cls(HashTable.attach(segment_name(instance, KIND.name, kept=kept), KIND, is_full))

    def take(self, ask: Ask, now_ns: int) -> Verdict:
        """Take the cost if it is there. Exact over all processes."""
        key, _, limit, cost, _ = ask
        bucket = self._buckets[key]
        stripe = bucket.stripe
        code = trylock(stripe.mutex)
        if code:
            stripe.settle(code)
        try:
            if stripe.file[bucket.where] == bucket.raw or bucket.look():
                level, since = bucket.level, bucket.since
                is_same = bucket.limit == limit.encoded
                # Fast path: nothing to count but the cost.
                if not is_same or not 0 <= now_ns - since < limit.interval_ns:
                    level, since = advanced(bucket.raw, limit, now_ns)
                allowed = 0 <= cost <= level and level > 0
                if allowed and (cost or not is_same):
                    level -= cost
                    bucket.store(limit.encoded, level, since, now_ns)
                verdict = judged(ask, level, since, now_ns, allowed)
            else:
                verdict = _begun(stripe, ask, now_ns)
        except BaseException:
            stripe.leave()
            raise
        unlock(stripe.mutex)
        return verdict

    def take_all(self, asks: Sequence[Ask], now_ns: int) -> list[Verdict]:
        """Take all costs, or none when a bucket refuses or is not known.

        `allowed` says what each bucket could give; the whole is allowed when all of them are. Asks
        of one key add up, under the limit of the first. To go on without one that is not known, ask
        again for the others.
        """
        if len(asks) == 1:
            return [self.take(asks[0], now_ns)]
        # Fast path: a request and its tokens, or a client and all of them.
        if len(asks) == 2 and asks[0].key != asks[1].key:
            one, two = asks
            # Tokens are charged later, beside the request.
            if not two.cost:
                verdict = self._buckets[two.key].offered(two, now_ns)
                if verdict is not None:
                    return [self.take(one, now_ns), verdict]
            elif not one.cost:
                verdict = self._buckets[one.key].offered(one, now_ns)
                if verdict is not None:
                    return [verdict, self.take(two, now_ns)]
            return self._take_two(one, two, now_ns)
        with locked([self._stripe(ask.key) for ask in asks]):
            return self._taken(asks, now_ns)

    def _take_two(self, one: Ask, two: Ask, now_ns: int) -> list[Verdict]:
        """`take_all` of two different keys."""
        buckets = self._buckets[one.key], self._buckets[two.key]
        low, high = buckets[0].stripe, buckets[1].stripe
        if low is high:
            with low:
                return self._taken_two((one, two), buckets, now_ns)
        if low.index > high.index:
            low, high = high, low
        code = trylock(low.mutex)
        if code:
            low.settle(code)
        try:
            code = trylock(high.mutex)
            if code:
                high.settle(code)
            try:
                verdicts = self._taken_two((one, two), buckets, now_ns)
            except BaseException:
                high.leave()
                raise
            unlock(high.mutex)
        except BaseException:
            low.leave()
            raise
        unlock(low.mutex)
        return verdicts

    def _taken_two(
        self, asks: tuple[Ask, Ask], buckets: tuple[SeenBucket, SeenBucket], now_ns: int
    ) -> list[Verdict]:
        """`_taken` of two different keys, without what only more need."""
        (one, two), (bucket, other) = asks, buckets
        stripe, beside = bucket.stripe, other.stripe
        if not (stripe.file[bucket.where] == bucket.raw or bucket.look()):
            return self._taken(asks, now_ns)
        if not (beside.file[other.where] == other.raw or other.look()):
            return self._taken(asks, now_ns)
        limit, cost, beside_limit, beside_cost = one.limit, one.cost, two.limit, two.cost
        level, since = bucket.level, bucket.since
        # Fast path, twice: nothing to count.
        if bucket.limit != limit.encoded or not 0 <= now_ns - since < limit.interval_ns:
            level, since = advanced(bucket.raw, limit, now_ns)
        left, anchor = other.level, other.since
        if other.limit != beside_limit.encoded or not 0 <= now_ns - anchor < (
            beside_limit.interval_ns
        ):
            left, anchor = advanced(other.raw, beside_limit, now_ns)
        allowed = 0 <= cost <= level and level > 0
        beside_allowed = 0 <= beside_cost <= left and left > 0
        if allowed and beside_allowed:
            level -= cost
            left -= beside_cost
            # Fast path: tokens, which are charged later, beside the request.
            if not beside_cost and other.says(beside_limit.encoded, left, anchor):
                bucket.store(limit.encoded, level, since, now_ns)
            elif stripe is beside:
                fields = _fields(bucket.raw, limit, level, since, now_ns)
                places = bucket.where.start, bucket.raw, fields, other.where.start, other.raw
                stripe.write_two(*places, _fields(other.raw, beside_limit, left, anchor, now_ns))
            else:
                bucket.store(limit.encoded, level, since, now_ns)
                other.store(beside_limit.encoded, left, anchor, now_ns)
        return [
            judged(one, level, since, now_ns, allowed),
            judged(two, left, anchor, now_ns, beside_allowed),
        ]

    def _taken(self, asks: Sequence[Ask], now_ns: int) -> list[Verdict]:
        """`take_all`, with all stripes locked."""
        buckets = {ask.key: self._bucket(ask, now_ns) for ask in reversed(asks)}
        if None in buckets.values():
            # Room first: making it may free a full bucket, be it another of ours.
            for ask in asks:
                _make_room(self._stripe(ask.key), ask, now_ns)
            buckets = {ask.key: self._bucket(ask, now_ns) for ask in reversed(asks)}
        verdicts = [_tried(ask, buckets[ask.key], now_ns) for ask in asks]
        if all([verdict.allowed for verdict in verdicts]):  # noqa: C419 - a list is quicker
            for bucket in buckets.values():
                if bucket is not None:
                    bucket.store(now_ns)
            return verdicts
        return [
            _untaken(ask, verdict, buckets[ask.key], now_ns)
            for ask, verdict in zip(asks, verdicts, strict=True)
        ]

    def settle(self, ask: Ask, now_ns: int, delta: int) -> None:
        """Correct an earlier take of the bucket: above 0 it charges, below 0 it gives back.

        A bucket that is gone was full; if there is no room to charge it anew, that is counted among
        the table's refusals.
        """
        key, _, limit, _, _ = ask
        bucket = self._buckets[key]
        stripe = bucket.stripe
        code = trylock(stripe.mutex)
        if code:
            bucket.settle(code)
        try:
            if stripe.file[bucket.where] == bucket.raw or bucket.look():
                level, since = bucket.level - delta, bucket.since
                # Fast path: nothing to count but the charge, and nothing to bound it.
                if (
                    bucket.limit != limit.encoded
                    or not 0 <= level <= limit.capacity
                    or not 0 <= now_ns - since < limit.interval_ns
                ):
                    level, since = bucket.charged(limit, delta, now_ns)
                bucket.store(bucket.limit, level, since, now_ns)
            else:
                _charged(stripe, ask, delta, now_ns)
        except BaseException:
            stripe.leave()
            raise
        unlock(stripe.mutex)

    def peek(self, key: bytes, now_ns: int) -> Row | None:
        """The bucket as of now; None: it was never used, or was full and is gone."""
        with self._stripe(key) as stripe:
            _, raw = stripe.get(key)
        return row_of(raw, now_ns) if raw else None

    def rows(self, now_ns: int) -> Iterator[Row]:
        """All buckets, each consistent in itself."""
        return (row_of(raw, now_ns) for raw in self.table.raws())

    def reset(self, key: bytes) -> bool:
        """Make the bucket full, with its next use as the anchor; False when it is not there."""
        return self.table.remove(key)

    def tidy(self, now_ns: int) -> int:
        """Free buckets that are full again, in one stripe, each time the next; how many.

        Only for the count of slots in use to mean something: room is made without it. Takes up to
        4 ms, and the lock for 0.3 ms at a time.
        """
        return self.table.expire_next(now_ns)

    def _bucket(self, ask: Ask, now_ns: int) -> _Bucket | None:
        stripe = self._stripe(ask.key)
        at, raw = stripe.get(ask.key)
        if not raw:
            return None
        level, since = _level(raw, ask.limit, now_ns)
        return _Bucket(stripe, at, raw, ask.limit, level, level, since)


@final
@dataclass(slots=True)
class _Bucket:
    """A bucket in hand, its stripe locked."""

    stripe: Stripe
    at: int
    raw: bytes
    limit: Limit
    found: int
    """The level before this take."""
    level: int
    since: int

    def store(self, now_ns: int) -> None:
        fields = _fields(self.raw, self.limit, self.level, self.since, now_ns)
        self.stripe.write(self.at, self.raw, fields)


def _level(raw: bytes, limit: Limit, now_ns: int) -> tuple[int, int]:
    """Level and `since` as of now (R4)."""
    _, level, since, _ = HEAD.unpack_from(raw)
    # Fast path: nothing to count.
    if raw.startswith(limit.encoded, LIMIT_AT) and 0 <= now_ns - since < limit.interval_ns:
        return level, since
    return advanced(raw, limit, now_ns)


def _fields(raw: bytes, limit: Limit, level: int, since: int, now_ns: int) -> bytes:
    """The slot with another level, under this limit."""
    head = HEAD.pack(raw[:KEY_BYTES], level, since, seconds(now_ns))
    return head + limit.encoded + raw[LABEL_AT:FIELDS_BYTES]


def _charged(stripe: Stripe, ask: Ask, delta: int, now_ns: int) -> None:
    """Charge a bucket that is gone, and so was full."""
    key, label, limit, _, _ = ask
    level = min(max(limit.capacity - delta, lowest(limit)), limit.capacity)
    at = stripe.place(key, now_ns) if level < limit.capacity else -1
    if at >= 0:
        head = HEAD.pack(key, level, now_ns, seconds(now_ns))
        stripe.insert(at, head + limit.encoded + fitted(label))


def _begun(stripe: Stripe, ask: Ask, now_ns: int) -> Verdict:
    """The first take of a bucket."""
    key, label, limit, cost, _ = ask
    allowed = 0 <= cost <= limit.capacity
    level = limit.capacity - cost if allowed else limit.capacity
    if allowed:
        at = stripe.place(key, now_ns)
        if at < 0:
            return UNKNOWN
        head = HEAD.pack(key, level, now_ns, seconds(now_ns))
        stripe.insert(at, head + limit.encoded + fitted(label))
    return judged(ask, level, now_ns, now_ns, allowed)


def _make_room(stripe: Stripe, ask: Ask, now_ns: int) -> None:
    """Insert a bucket that is not there yet, full; nothing when the table has no room."""
    if stripe.find(ask.key) < 0:
        at = stripe.place(ask.key, now_ns)
        if at >= 0:
            head = HEAD.pack(ask.key, ask.limit.capacity, now_ns, seconds(now_ns))
            stripe.insert(at, head + ask.limit.encoded + fitted(ask.label))


def _tried(ask: Ask, bucket: _Bucket | None, now_ns: int) -> Verdict:
    """Take from the bucket in hand; the slot stays as it is."""
    if bucket is None:
        return UNKNOWN
    allowed = 0 <= ask.cost <= bucket.level and bucket.level > 0
    if allowed:
        bucket.level -= ask.cost
    return judged(ask, bucket.level, bucket.since, now_ns, allowed)


def _untaken(ask: Ask, verdict: Verdict, bucket: _Bucket | None, now_ns: int) -> Verdict:
    """The verdict, with the numbers of a bucket that gave nothing."""
    if bucket is None:
        return verdict
    return judged(ask, bucket.found, bucket.since, now_ns, verdict.allowed)


__all__ = ["LATE_NS", "Ask", "Limit", "RateTable", "Row", "Verdict"]
