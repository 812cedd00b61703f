"""Native histograms out of the cells of ordinary ones: exponential bounds beside a metric's own.

The bounds of a metric's native form are powers of 2^(2^-schema), so cells whose bounds are those
and the classic ones together give both forms exactly: neighbouring cells are summed up for either.
What lies below the lowest power counts as zero; what lies above the highest is told in the bucket
next to it. Both ends are an octave outside the metric's own bounds.

Source: Prometheus, native histograms specification (schemas, zero bucket, spans and deltas).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final, Literal, final

from shm.cells import HistogramValue
from shm.metrics import MAX_BOUNDS

Mode = Literal["classic", "native", "both"]
"""`config.histograms`."""
_FINEST: Final = 2


@final
@dataclass(frozen=True, slots=True)
class Native:
    """The native form. `buckets`: counts by index, without empty ones; bucket `i` reaches from
    `base ** (i - 1)` to `base ** i`, where base is 2^(2^-schema)."""

    schema: int
    zero_threshold: float
    zero_count: int
    buckets: tuple[tuple[int, int], ...]
    """`(index, count)`, ascending."""

    def spans(self) -> list[tuple[int, int]]:
        """`(gap to the span before, or the first index; length)`."""
        found: list[tuple[int, int]] = []
        behind = 0
        for index, _ in self.buckets:
            if found and index == behind:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((index - behind, 1))
            behind = index + 1
        return found

    def deltas(self) -> list[int]:
        """Each count less the one before it."""
        counts = [0, *(count for _, count in self.buckets)]
        return [after - before for before, after in pairwise(counts)]


@final
@dataclass(frozen=True, slots=True)
class _Grid:
    schema: int
    first: int
    """Index of the lowest bound."""
    bounds: tuple[float, ...]


@cache
def _grid(classic: tuple[float, ...]) -> _Grid:
    """The finest whose bounds fit into a series beside the classic ones."""
    low = math.floor(math.log2(classic[0])) - 1
    high = math.ceil(math.log2(classic[-1])) + 1
    for schema in range(_FINEST, -1, -1):
        steps = 1 << schema
        indexes = range(low * steps, high * steps + 1)
        bounds = tuple(2.0 ** (index / steps) for index in indexes)
        if len({*bounds, *classic}) <= MAX_BOUNDS:
            break
    return _Grid(schema, low * steps, bounds)


@cache
def widened(classic: tuple[float, ...]) -> tuple[float, ...]:
    """The bounds of both forms together; the same object for the same bounds."""
    return tuple(sorted({*classic, *_grid(classic).bounds}))


@final
class Forms:
    """Which forms a scrape shows of histograms that were kept by `widened` bounds."""

    __slots__ = ("_classic_of", "_has_classic")

    def __init__(self, mode: Mode, known: Iterable[tuple[float, ...]]) -> None:
        """`known`: the classic bounds of every metric that there is."""
        self._has_classic = mode != "native"
        self._classic_of = {} if mode == "classic" else {widened(one): one for one in known}

    def classic(self, value: HistogramValue) -> HistogramValue:
        """By the metric's own bounds; by none, where that form is not wanted."""
        bounds = self._classic_of.get(value.bounds)
        if bounds is None:
            return value
        if not self._has_classic:
            return HistogramValue((), (value.observations,), value.total)
        return HistogramValue(bounds, _summed(value, bounds), value.total)

    def native(self, value: HistogramValue) -> Native | None:
        """None for a histogram that has no such form."""
        bounds = self._classic_of.get(value.bounds)
        if bounds is None:
            return None
        grid = _grid(bounds)
        zero, *counts = _summed(value, grid.bounds)
        found = enumerate(counts, grid.first + 1)
        buckets = tuple((index, count) for index, count in found if count)
        return Native(grid.schema, grid.bounds[0], zero, buckets)


def _summed(value: HistogramValue, bounds: tuple[float, ...]) -> tuple[int, ...]:
    """The counts between some of the value's bounds, the last of them up to +Inf."""
    chosen = frozenset(bounds)
    counts: list[int] = []
    count = 0
    for bound, cell in zip(value.bounds, value.buckets, strict=False):
        count += cell
        if bound in chosen:
            counts.append(count)
            count = 0
    return (*counts, count + value.buckets[-1])
