"""What a worker holds of a series: a cell or a histogram over its own column. No lock, no I/O.

Source: design section 5 (`metrics`: single writer); layout and invariants are in `shm.metrics`.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from typing import NamedTuple, cast, final


class SeriesKind(enum.IntEnum):
    """What a series is. REAL_COUNTER counts in float64, COUNTER in uint64."""

    DROPPED = 0
    COUNTER = 1
    REAL_COUNTER = 2
    GAUGE = 3
    HISTOGRAM = 4


class HistogramValue(NamedTuple):
    """A histogram summed over all columns. `buckets` are not cumulative; the last one is +Inf."""

    bounds: tuple[float, ...]
    buckets: tuple[int, ...]
    total: float
    """The sum of what was observed."""

    @property
    def observations(self) -> int:
        """How many values were observed: always the sum of the buckets."""
        return sum(self.buckets)


class Series(NamedTuple):
    """One series as a scrape sees it."""

    key: bytes
    kind: SeriesKind
    value: float | HistogramValue


def real(cells: memoryview) -> memoryview[float]:
    """The same uint64 cells as float64."""
    return cells.cast("B").cast("d")


class Cell:
    """One number of one worker. `add` is one statement on shared memory (0.09 µs), no lock."""

    __slots__ = ("_cell",)

    def __init__(self, cell: memoryview | memoryview[float]) -> None:
        # A view of uint64 refuses fractions at run time; the annotation of `add` cannot say so.
        self._cell = cast("memoryview[float]", cell)

    @property
    def value(self) -> float:
        """What this column holds, all earlier holders included."""
        return self._cell[0]

    def add(self, n: float) -> None:
        """Add; a COUNTER takes whole numbers, a GAUGE also negative ones."""
        self._cell[0] += n

    def set(self, value: float) -> None:
        """Replace; for gauges."""
        self._cell[0] = value


@final
class DroppedCell(Cell):
    """Stands for a series that found no room: every call counts one lost change."""

    __slots__ = ()

    def add(self, n: float) -> None:
        """Count one lost change."""
        self._cell[0] += 1

    def set(self, value: float) -> None:
        """Count one lost change."""
        self._cell[0] += 1


class Histogram:
    """One histogram of one worker: `buckets` one longer than `bounds`, `total` one float64 cell."""

    __slots__ = ("_bounds", "_buckets", "_total")

    def __init__(
        self, bounds: tuple[float, ...], buckets: memoryview, total: memoryview[float]
    ) -> None:
        self._bounds = bounds
        self._buckets = buckets
        self._total = total

    def observe(self, x: float) -> None:
        """Count `x` in the first bucket whose bound is not below it. NaN is left out."""
        if x != x:  # NaN would poison the sum for the life of the series
            return
        self._buckets[bisect_left(self._bounds, x)] += 1
        self._total[0] += x


@final
class DroppedHistogram(Histogram):
    """Stands for a histogram that found no room. `buckets` is the dropped cell."""

    __slots__ = ()

    def observe(self, x: float) -> None:
        """Count one lost observation."""
        self._buckets[0] += 1
