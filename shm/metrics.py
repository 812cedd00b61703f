"""Counters, gauges and histograms: one column a worker, so that an increment takes no lock.

Source: design section 5 (`metrics`); Prometheus exposition format for what a histogram means.

Body, behind the header; R rows and W columns are the header's parameters 0 and 1:

    offset          size    type  field                     written by              seen torn
    0               64      lock  directory lock            `lock`
    64              8       u64   used rows                 registrant, locked       no: one word
    72              56      -     zero
    128             64*W    -     column claims:            the claimant, locked
      +0            8       u64   pid, 0: never claimed
      +8            8       u64   start, ticks since boot
      +16           8       u64   claims so far
    128+64*W        536*R   -     directory, an entry a row  registrant, locked     no (M1)
      +0            4       u32   kind (SeriesKind)
      +4            4       u32   rows of the series
      +8            4       u32   key bytes, ≤ 512
      +12           4       u32   histogram bounds, ≤ 64
      +16           4       u32   CRC-32 of kind, rows, key bytes, bounds, key
      +20           4       -     zero
      +24           512     bytes key; in a histogram's second row: its bounds, f64
    next 64*n       8·R     -     column 0, then the others, each aligned to 64:
                            u64 or f64 cell     the column's holder, alone, no lock  no: one word

A counter or gauge has one row. A histogram of n bounds has n+1 bucket rows (u64, not cumulative,
the last is +Inf) and one row for the sum (f64). The count is not stored: it is the sum of the
buckets, so it agrees with them even when the writer was killed between two stores. Row 0 belongs to
the table: it counts what was not recorded, because the table was full or the key too long.

Invariants:
    M1  Entries below `used rows` are complete and never change; rows from it on have zero cells.
    M2  One living process writes a column. Its successor takes over the cells as they are, except
        gauges, which describe a process and begin at zero.
    M3  A series keeps its kind and bounds; another kind under the same key is refused.
    M4  A full table stays full for series that do not fit; what they would add is counted in row 0.
So a holder of the lock that dies leaves nothing half-made (M1): what it wrote past `used rows` is
written over.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Self, TypeVar, final

from shm import layout
from shm.cells import (
    Cell,
    DroppedCell,
    DroppedHistogram,
    Histogram,
    HistogramValue,
    Series,
    SeriesKind,
    real,
)
from shm.errors import SegmentRefusedError, ShmError
from shm.layout import LINE_BYTES, aligned
from shm.lock import LOCK_BYTES, RobustLock
from shm.segment import Identity, Segment, segment_name

KIND = layout.Kind("metrics", 1)
_Number = TypeVar("_Number", int, float)

MAX_KEY_BYTES = 512
MAX_BOUNDS = 64
MAX_ROWS = 1 << 20
MAX_COLUMNS = 1024

_USED = 64 // 8
_CLAIMS_OFFSET = 128
_PID, _START, _CLAIMS = range(3)
_ENTRY_HEAD = struct.Struct("=5I4x")
_ENTRY_BYTES = _ENTRY_HEAD.size + MAX_KEY_BYTES

assert _ENTRY_BYTES == 536, "body design note"


class _Entry(NamedTuple):
    row: int
    rows: int
    key: bytes
    kind: SeriesKind
    bounds: tuple[float, ...]


@final
class MetricsTable:
    """The table, in the process that created it and, over fork, in its children."""

    __slots__ = (
        "_columns_offset",
        "_entries",
        "_lock",
        "_segment",
        "_synced",
        "_words",
        "rows",
        "workers",
    )

    def __init__(self, segment: Segment, *, fresh: bool) -> None:
        self.rows, self.workers, *_ = segment.header.parameters
        self._columns_offset = _columns_offset(self.workers, self.rows)
        if len(segment.body) != _body_bytes(self.workers, self.rows):
            raise SegmentRefusedError(f"{segment.name}: size does not fit its rows and columns")
        self._segment = segment
        self._words = segment.body.cast("Q")
        self._entries: dict[bytes, _Entry] = {}
        self._synced = 1
        make_lock = RobustLock.create if fresh else RobustLock
        self._lock = make_lock(segment.body[:LOCK_BYTES], self._repair)

    @classmethod
    def create(cls, instance: str, workers: int, rows: int = 4096) -> Self:
        """A new table of `workers` columns (≤ 1,024) and `rows` rows (2 to 1,048,576).

        It takes (536 + 8 * workers) bytes a row. Raises: SegmentInUseError, ShmError.
        """
        if not (1 <= workers <= MAX_COLUMNS and 2 <= rows <= MAX_ROWS):
            raise ShmError(f"metrics: {workers} columns of {rows} rows are out of range")
        name = segment_name(instance, KIND.name)
        segment = Segment.create(name, KIND, _body_bytes(workers, rows), (rows, workers, 0, 0))
        table = cls(segment, fresh=True)
        table._words[_USED] = 1  # row 0 is the table's own
        segment.seal()
        return table

    @classmethod
    def attach(cls, instance: str) -> Self:
        """A running instance's table. Raises: SegmentMissingError, SegmentRefusedError."""
        return cls(Segment.attach(segment_name(instance, KIND.name), KIND), fresh=False)

    @property
    def used_rows(self) -> int:
        """Rows taken, the table's own included."""
        return self._words[_USED]

    @property
    def recoveries(self) -> int:
        """How often the lock was recovered from a dead registrant."""
        return self._lock.recoveries

    def verify(self) -> None:
        """Check the segment once more. Raises: SegmentRefusedError."""
        self._segment.verify()

    def close(self) -> None:
        """In the owner: remove the table. Elsewhere: let go."""
        self._segment.close()

    def writer(self, column: int) -> Writer:
        """Take a column for this process (M2). Raises: ShmError when its holder still lives."""
        if not 0 <= column < self.workers:
            raise ShmError(f"metrics column {column} is not in 0 to {self.workers - 1}")
        with self._lock:
            self._claim(column)
            self._sync()
            cells = self._cells(column)
            for entry in self._entries.values():
                if entry.kind == SeriesKind.GAUGE:
                    cells[entry.row] = 0
        return Writer(self, cells)

    def _claim(self, column: int) -> None:
        base = (_CLAIMS_OFFSET + column * LINE_BYTES) // 8
        me = Identity.of_self()
        holder = self._words[base + _PID]
        if holder != me.pid and self._is_held(column):
            raise ShmError(f"metrics column {column} is held by process {holder}")
        self._words[base + _START] = me.start_ticks
        self._words[base + _PID] = me.pid
        self._words[base + _CLAIMS] += 1

    def register(self, key: bytes, kind: SeriesKind, bounds: tuple[float, ...] = ()) -> int | None:
        """The first row of a series, made when it is new; None when there is no room (M4).

        Raises: ShmError when the key has another kind or other bounds (M3).
        """
        if len(key) > MAX_KEY_BYTES:
            return None
        entry = self._entries.get(key)
        rows = 1 if kind != SeriesKind.HISTOGRAM else len(bounds) + 2
        # Fast path: all is known that will ever be known, and it does not fit. No lock, however
        # many new keys a flood of label values brings.
        if entry is None and self._synced == self.used_rows > self.rows - rows:
            return None
        if entry is None:
            with self._lock:
                self._sync()
                entry = self._entries.get(key) or self._append(key, kind, rows, bounds)
        if entry is not None and (entry.kind != kind or entry.bounds != bounds):
            raise ShmError(
                f"series {key!r} is a {entry.kind.name.lower()} already, or has other bounds"
            )
        return entry.row if entry else None

    def dropped(self) -> int:
        """What was not recorded for want of room, over all columns."""
        return sum(self._cells(column)[0] for column in self._claimed())

    def collect(self) -> Iterator[Series]:
        """Every series in the order of registration, summed over the columns.

        Gauges of a dead worker do not count. The cells move on while they are read; each is whole.
        """
        with self._lock:
            self._sync()
        used = self._synced
        columns = {column: self._cells(column)[:used] for column in self._claimed()}
        reals = {column: real(cells) for column, cells in columns.items()}
        whole = _sums(columns.values(), used)
        floats = _sums(reals.values(), used)
        living = _sums([reals[column] for column in reals if self._is_held(column)], used)
        for entry in self._entries.values():
            yield Series(entry.key, entry.kind, _value(entry, whole, floats, living))

    def _claimed(self) -> list[int]:
        first = _CLAIMS_OFFSET // 8 + _CLAIMS
        return [c for c in range(self.workers) if self._words[first + c * LINE_BYTES // 8]]

    def _is_held(self, column: int) -> bool:
        base = (_CLAIMS_OFFSET + column * LINE_BYTES) // 8
        return Identity(self._words[base + _PID], self._words[base + _START], 0).is_alive()

    def _cells(self, column: int) -> memoryview:
        """A column as uint64 cells."""
        start = self._columns_offset + column * aligned(8 * self.rows)
        return self._segment.body[start : start + 8 * self.rows].cast("Q")

    def _entry_offset(self, row: int) -> int:
        return _CLAIMS_OFFSET + LINE_BYTES * self.workers + row * _ENTRY_BYTES

    def _append(
        self, key: bytes, kind: SeriesKind, rows: int, bounds: tuple[float, ...]
    ) -> _Entry | None:
        """Write an entry, then count it (M1). Under the lock, and synced."""
        row = self._words[_USED]
        if row + rows > self.rows:
            return None
        body = self._segment.body
        start = self._entry_offset(row)
        crc = _entry_crc(kind, rows, len(key), len(bounds), key)
        _ENTRY_HEAD.pack_into(body, start, kind, rows, len(key), len(bounds), crc)
        body[start + _ENTRY_HEAD.size : start + _ENTRY_HEAD.size + len(key)] = key
        if kind == SeriesKind.HISTOGRAM:
            struct.pack_into(f"={len(bounds)}d", body, self._bounds_offset(row), *bounds)
        self._words[_USED] = row + rows
        self._sync()
        return self._entries[key]

    def _bounds_offset(self, row: int) -> int:
        return self._entry_offset(row + 1) + _ENTRY_HEAD.size

    def _sync(self) -> None:
        """Learn the series others have registered. Under the lock."""
        used = self._words[_USED]
        while self._synced < used:
            entry = self._read_entry(self._synced)
            self._entries[entry.key] = entry
            self._synced += entry.rows

    def _read_entry(self, row: int) -> _Entry:
        body = self._segment.body
        start = self._entry_offset(row)
        kind, rows, key_bytes, bounds_count, crc = _ENTRY_HEAD.unpack_from(body, start)
        key_start = start + _ENTRY_HEAD.size
        key = bytes(body[key_start : key_start + min(key_bytes, MAX_KEY_BYTES)])
        if crc != _entry_crc(kind, rows, key_bytes, bounds_count, key) or not rows:
            raise SegmentRefusedError(f"{self._segment.name}: corrupt directory entry {row} (M1)")
        bounds: tuple[float, ...] = ()
        if kind == SeriesKind.HISTOGRAM:
            bounds = struct.unpack_from(f"={bounds_count}d", body, self._bounds_offset(row))
        return _Entry(row, rows, key, SeriesKind(kind), bounds)

    def _repair(self) -> None:
        """M1 makes a registration all or nothing; what is left to check is that the words fit."""
        if not 1 <= self._words[_USED] <= self.rows:
            raise SegmentRefusedError(f"{self._segment.name}: used rows out of range")
        self._sync()


@final
class Writer:
    """One worker's way to its column. Not shared between threads or over a fork."""

    __slots__ = ("_cells", "_dropped", "_histograms", "_series", "_table")

    def __init__(self, table: MetricsTable, cells: memoryview) -> None:
        self._table = table
        self._cells = cells
        self._dropped = DroppedCell(cells[:1])
        self._series: dict[tuple[bytes, SeriesKind], Cell] = {}
        self._histograms: dict[bytes, tuple[Sequence[float], Histogram]] = {}

    def counter(self, key: bytes) -> Cell:
        """The uint64 counter of this series. Raises: ShmError when it is of another kind (M3)."""
        return self._series.get((key, SeriesKind.COUNTER)) or self._open(key, SeriesKind.COUNTER)

    def real_counter(self, key: bytes) -> Cell:
        """The float64 counter of this series, for seconds or money."""
        return self._series.get((key, SeriesKind.REAL_COUNTER)) or self._open(
            key, SeriesKind.REAL_COUNTER
        )

    def gauge(self, key: bytes) -> Cell:
        """The float64 gauge of this series; a scrape adds up those of the living workers."""
        return self._series.get((key, SeriesKind.GAUGE)) or self._open(key, SeriesKind.GAUGE)

    def histogram(self, key: bytes, bounds: Sequence[float]) -> Histogram:
        """The histogram of this series. `bounds`: ≤ 64 finite bounds, ascending, without +Inf.

        Raises: ShmError for bad bounds, or others than the series has (M3).
        """
        known = self._histograms.get(key)
        if known is not None and known[0] is bounds:  # Fast path: the caller's own constant
            return known[1]
        return self._open_histogram(key, bounds)

    def _open(self, key: bytes, kind: SeriesKind) -> Cell:
        row = self._table.register(key, kind)
        if row is None:
            return self._dropped
        cells = self._cells[row : row + 1]
        cell = Cell(cells if kind == SeriesKind.COUNTER else real(cells))
        self._series[key, kind] = cell
        return cell

    def _open_histogram(self, key: bytes, bounds: Sequence[float]) -> Histogram:
        limits = tuple(map(float, bounds))
        ascending = all(a < b for a, b in itertools.pairwise(limits))
        if len(limits) > MAX_BOUNDS or not ascending or not all(map(math.isfinite, limits)):
            raise ShmError(
                f"series {key!r}: bounds must be at most {MAX_BOUNDS}, finite, ascending"
            )
        row = self._table.register(key, SeriesKind.HISTOGRAM, limits)
        if row is None:
            return DroppedHistogram((), self._cells[:1], real(self._cells[:1]))
        last = row + len(limits) + 1
        histogram = Histogram(limits, self._cells[row:last], real(self._cells[last : last + 1]))
        self._histograms[key] = (bounds, histogram)
        return histogram


def _columns_offset(workers: int, rows: int) -> int:
    return aligned(_CLAIMS_OFFSET + LINE_BYTES * workers + _ENTRY_BYTES * rows)


def _body_bytes(workers: int, rows: int) -> int:
    return _columns_offset(workers, rows) + workers * aligned(8 * rows)


def _entry_crc(kind: int, rows: int, key_bytes: int, bounds_count: int, key: bytes) -> int:
    return zlib.crc32(key, zlib.crc32(struct.pack("=4I", kind, rows, key_bytes, bounds_count)))


def _sums(columns: Collection[memoryview[_Number]], used: int) -> Sequence[_Number]:
    """Row by row over the columns; `tolist` copies a column in one go."""
    if not columns:
        return [0] * used
    return [sum(cells) for cells in zip(*(column.tolist() for column in columns), strict=True)]


def _value(
    entry: _Entry, whole: Sequence[int], floats: Sequence[float], living: Sequence[float]
) -> float | HistogramValue:
    """An entry's value: `floats` over all columns, `living` over those that a process holds."""
    if entry.kind == SeriesKind.HISTOGRAM:
        last = entry.row + entry.rows - 1
        return HistogramValue(entry.bounds, tuple(whole[entry.row : last]), floats[last])
    if entry.kind == SeriesKind.COUNTER:
        return whole[entry.row]
    return living[entry.row] if entry.kind == SeriesKind.GAUGE else floats[entry.row]
