"""Load and health of upstream endpoints, as all workers of a gateway see them.

Source: design section 5 (`endpoints`); spec config sections 10.5 and 10.6.

Two segments. `load` has a row for each slot, found by the slot's place, of words that are read
without a lock (see `shm.load`). `endpoints` is a hash table (see `shm.table`) of what decides over
ejection (see `shm.standing`).

Whoever decides (an ejection, a return, the end of a streak) does so on the slot, under its stripe's
lock, so that five failures in a row are five of all workers together.

Invariants:
    E1  An in-flight cell is written by the living holder of its column alone; it is zeroed, under
        the claims lock, once that holder is dead. So what a killed worker had in flight vanishes,
        and nothing else does.
    E2  The slot is the truth; the copies in its row are stored after its commit, under the same
        lock, and `_reconcile` makes them anew when the writer died in between.
    E3  Two workers that store the latency at once lose one of two observations of an average. That
        is the only word with several unlocked writers.
    E4  A row that a column uses has its slot, under the row's key. Damage that frees the slot
        (T4) makes it anew at the same place, as good as new, before the lock is let go.
    E5  A slot is freed when no column uses its row. The columns of dead workers keep using theirs
        until a successor says which it wants: an ejection outlives the only worker there is.
    E6  A cell of a column that does not use the row is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Final, NamedTuple, Self, final

from shm.errors import SegmentRefusedError, ShmError
from shm.layout import Kind
from shm.load import EJECTED, HEALTH, LATENCY, TROUBLED, LoadRows
from shm.segment import segment_name
from shm.standing import FRESH, SLOT_BYTES, Standing, bounded_ns, packed, standing_of
from shm.stripe import GROUP_SLOTS, KEY_BYTES, Stripe
from shm.table import HashTable, TableStats

KIND: Final = Kind("endpoint", 1)


class Row(NamedTuple):
    """One endpoint as of one moment."""

    key: bytes
    label: bytes
    standing: Standing
    latency_seconds: float
    in_flight: tuple[int, ...]
    """By column."""
    users: int
    """Columns that use it."""


@final
class Slot:
    """One endpoint in one worker: its column's cell, and everybody's words.

    `begin`, `end`, `load` and the properties take no lock; `update` takes the stripe's.
    """

    __slots__ = ("_flights", "_own", "_stripe", "_words", "_words_as_reals", "at", "key", "row")

    def __init__(self, table: EndpointTable, key: bytes, at: int, row: int, column: int) -> None:
        self._stripe = table.stripe_of(row)
        self.key = key
        self.at = at
        self.row = row
        self._words, self._words_as_reals, self._flights = table.load.views(row)
        self._own = self._flights[column : column + 1]

    def begin(self) -> None:
        """One call more is under way."""
        self._own[0] += 1

    def end(self) -> None:
        """One call less."""
        self._own[0] -= 1

    @property
    def in_flight(self) -> int:
        """Calls under way, of all workers."""
        return sum(self._flights)

    def leave(self) -> int:
        """Count no more; how many calls this worker had under way."""
        count = self._own[0]
        self._own[0] = 0
        return count

    @property
    def health(self) -> float:
        """From 0 to 1."""
        return self._words_as_reals[HEALTH]

    @property
    def ejected_until_ns(self) -> int:
        """CLOCK_MONOTONIC; 0: it is not ejected."""
        return self._words[EJECTED]

    @property
    def is_troubled(self) -> bool:
        """See Standing."""
        return self._words[TROUBLED] != 0

    @property
    def latency_seconds(self) -> float:
        """A moving average, 0 before the first observation."""
        return self._words_as_reals[LATENCY]

    @latency_seconds.setter
    def latency_seconds(self, value: float) -> None:
        self._words_as_reals[LATENCY] = value

    def observe(self, latency_seconds: float, weight: float) -> bool:
        """Let one more latency count by this weight, the first wholly, and tell `is_troubled`.

        As with the property: of two workers at once, one observation may be lost (E2).
        """
        reals = self._words_as_reals
        old = reals[LATENCY]
        reals[LATENCY] = (
            latency_seconds if old == 0.0 else weight * latency_seconds + (1.0 - weight) * old
        )
        return self._words[TROUBLED] != 0

    def load(self) -> tuple[float, float, int]:
        """Health, latency in seconds, calls under way."""
        reals = self._words_as_reals
        return reals[HEALTH], reals[LATENCY], sum(self._flights)

    def update(self, change: Callable[[Standing], Standing]) -> tuple[Standing, Standing]:
        """Replace the standing by `change` of it, as one step for all workers: before and after.

        Raises: ShmError when the table cannot be used; then nothing has changed.
        """
        key, at = self.key, self.at
        with self._stripe as stripe:
            raw = stripe.read(at) or stripe.read(at)  # damage has been made good by now (E4)
            if raw[:KEY_BYTES] != key:
                raise SegmentRefusedError(f"endpoints: row {self.row} lost its slot (E4)")
            before = standing_of(raw)
            after = change(before)
            if after != before:
                stripe.write(at, raw, packed(key, after))
                # The copies (E2), in this worker's views of them.
                self._words_as_reals[HEALTH] = after.health
                self._words[TROUBLED] = after.is_troubled
                self._words[EJECTED] = bounded_ns(after.ejected_until_ns)
        return before, after


@final
class Column:
    """One worker's part of the table. Not shared between threads or over a fork."""

    __slots__ = ("_number", "_table")

    def __init__(self, table: EndpointTable, number: int) -> None:
        self._table = table
        self._number = number

    def key(self, *parts: bytes) -> bytes:
        """The key of an endpoint, 16 bytes."""
        return self._table.key(*parts)

    def open(self, key: bytes, label: bytes) -> Slot | None:
        """The slot of an endpoint, made when it is new; None when the table is full.

        `label` is for people, cut to 72 bytes. Raises: ShmError.
        """
        found = self._table.use(self._number, key, label)
        return None if found is None else Slot(self._table, key, *found, self._number)

    def retain(self, slots: Collection[Slot]) -> int:
        """Stop using all rows but those of `slots`; how many. Raises: ShmError.

        Nobody may use a slot that was let go of, nor one that `leave` was called on.
        """
        keep = {slot.row for slot in slots}
        gone = [row for row in self._table.load.used_by(self._number) if row not in keep]
        for row in gone:
            self._table.let_go(self._number, row)
        return len(gone)


@final
class _Hook:
    """What the hash table calls after a repair: it is made before the one who reconciles."""

    __slots__ = ("reconcile",)

    def __init__(self) -> None:
        self.reconcile: Callable[[Stripe], None] | None = None

    def __call__(self, stripe: Stripe) -> None:
        if self.reconcile is not None:
            self.reconcile(stripe)


@final
class EndpointTable:
    """The table, in the process that created it and, over fork, in its children."""

    __slots__ = ("_first_rows", "_is_reconciling", "_stripe_slots", "_table", "load")

    def __init__(self, table: HashTable, load: LoadRows, hook: _Hook) -> None:
        self._stripe_slots = table.groups * GROUP_SLOTS
        if load.rows != len(table.stripes) * self._stripe_slots:
            raise SegmentRefusedError(f"{load.segment.name}: does not fit its table")
        self._table = table
        self.load = load
        self._is_reconciling = False
        self._first_rows = {
            stripe: number * self._stripe_slots for number, stripe in enumerate(table.stripes)
        }
        hook.reconcile = self._reconcile

    @classmethod
    def create(cls, instance: str, endpoints: int, columns: int) -> Self:
        """A table of room for `endpoints` and of a column (≤ 1,024) for each worker.

        A slot and its row take 53 + 64 * ceil((128 + 5 * columns) / 64) bytes.
        Raises: SegmentInUseError, ShmError.
        """
        hook = _Hook()
        name = segment_name(instance, "endpoints")
        table = HashTable.create(name, KIND, SLOT_BYTES, endpoints, repaired=hook)
        try:
            slots = len(table.stripes) * table.groups * GROUP_SLOTS
            load = LoadRows.create(segment_name(instance, "load"), columns, slots)
        except ShmError:
            table.segment.close()
            raise
        return cls(table, load, hook)

    @classmethod
    def attach(cls, instance: str) -> Self:
        """A running instance's table. Raises: SegmentMissingError, SegmentRefusedError."""
        hook = _Hook()
        table = HashTable.attach(segment_name(instance, "endpoints"), KIND, repaired=hook)
        return cls(table, LoadRows.attach(segment_name(instance, "load")), hook)

    def verify(self) -> None:
        """Check the segments once more. Raises: SegmentRefusedError."""
        self._table.segment.verify()
        self.load.segment.verify()

    def close(self) -> None:
        """In the owner: remove the table. Elsewhere: let go."""
        self.load.segment.close()
        self._table.segment.close()

    def key(self, *parts: bytes) -> bytes:
        """The key of an endpoint, 16 bytes."""
        return self._table.key(*parts)

    def column(self, number: int) -> Column:
        """Take a column for this process (E1). Raises: ShmError when its holder still lives."""
        self.load.claim(number)
        return Column(self, number)

    def release_dead(self) -> int:
        """Zero what dead workers had in flight (E1); how many calls that was."""
        return self.load.release_dead()

    # --- slots ------------------------------------------------------------------------------

    def use(self, column: int, key: bytes, label: bytes) -> tuple[int, int] | None:
        """Let a column use an endpoint: its slot's place and its row. See Column."""
        with self._table.stripe(key) as stripe:
            at = stripe.find(key)
            # A slot that nobody uses is what a death inside `let_go` leaves: as good as none.
            if at < 0 or not self.load.users(self._row(stripe, at)):
                at = self._make(stripe, key, label, at)
                if at < 0:
                    return None
            row = self._row(stripe, at)
            self.load.use(row, column)
        return at, row

    def _make(self, stripe: Stripe, key: bytes, label: bytes, at: int) -> int:
        """A slot as good as new and its row; -1 when there is no room."""
        fields = packed(key, FRESH)
        if at >= 0:
            stripe.change([(at, fields)])
        else:
            at = stripe.place(key, 0)
            if at < 0:
                return -1
            row = self._row(stripe, at)
            if self.load.users(row):
                # Room was made of a damaged slot that is in use (E4).
                stripe.insert(at, packed(self.load.key(row), FRESH))
                return -1
            stripe.insert(at, fields)
        row = self._row(stripe, at)
        self.load.name(row, key, label)
        self._publish(row, FRESH)
        return at

    def let_go(self, column: int, row: int) -> None:
        """Take a column's use of a row back, and free what nobody uses (E5, E6)."""
        with self.stripe_of(row) as stripe:
            self.load.let_go(row, column)
            if not self.load.users(row):
                stripe.remove(stripe.offset(row % self._stripe_slots))

    def stripe_of(self, row: int) -> Stripe:
        """Where the slot of a row is."""
        return self._table.stripes[row // self._stripe_slots]

    def reset(self, key: bytes) -> bool:
        """Forget what is held against an endpoint, and its latency; False when it is not known."""
        with self._table.stripe(key) as stripe:
            at = stripe.find(key)
            if at < 0:
                return False
            row = self._row(stripe, at)
            stripe.change([(at, packed(key, FRESH))])
            self._publish(row, FRESH)
            self.load.views(row)[1][LATENCY] = 0.0
        return True

    def rows(self) -> Iterator[Row]:
        """Every endpoint in use; a stripe is locked while it is copied."""
        for stripe in self._table.stripes:
            with stripe:
                slots = [(at, stripe.read(at)) for at in stripe.slots()]
                found = [self._seen(self._row(stripe, at), raw) for at, raw in slots if raw]
            yield from found

    def _seen(self, row: int, raw: bytes) -> Row:
        load = self.load
        _, reals, cells = load.views(row)
        return Row(
            raw[:KEY_BYTES],
            load.label(row),
            standing_of(raw),
            reals[LATENCY],
            tuple(cells),
            load.users(row),
        )

    def stats(self) -> TableStats:
        """Takes no lock."""
        stats = self._table.stats()
        size = stats.size_bytes + self.load.segment.header.size_bytes
        return replace(stats, name="endpoints", size_bytes=size)

    def _row(self, stripe: Stripe, at: int) -> int:
        return self._first_rows[stripe] + stripe.ordinal(at)

    def _publish(self, row: int, standing: Standing) -> None:
        """Copy what is read without the lock (E2)."""
        self.load.publish(
            row, standing.health, bounded_ns(standing.ejected_until_ns), standing.is_troubled
        )

    def _reconcile(self, stripe: Stripe) -> None:
        """After slots were lost or rolled back: hold E2, E4 and E5 again. Under the lock."""
        if self._is_reconciling:  # damage found below: the loop gets there, or has been there
            return
        self._is_reconciling = True
        try:
            first = self._first_rows[stripe]
            used = set(stripe.slots())
            for ordinal in range(self._stripe_slots):
                at = stripe.offset(ordinal)
                raw = stripe.read(at) if at in used else b""
                self._reconcile_row(stripe, at, first + ordinal, raw)
        finally:
            self._is_reconciling = False

    def _reconcile_row(self, stripe: Stripe, at: int, row: int, raw: bytes) -> None:
        users = self.load.users(row)
        if users and not raw:
            stripe.change([(at, packed(self.load.key(row), FRESH))])
            self._publish(row, FRESH)
        elif users:
            self._publish(row, standing_of(raw))
        elif raw:
            stripe.remove(at)
