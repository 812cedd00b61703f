"""The metrics table against plain dicts, through any operations and a death at any line."""

from __future__ import annotations

import itertools
import os
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shm.cells import HistogramValue, SeriesKind
from shm.metrics import MetricsTable, Writer
from tests.shm.lines import killed_at

COLUMNS, ROWS = 3, 14
BOUNDS = (1.0, 10.0)
NUMBERS = itertools.count()
NAMES = st.integers(0, 4).map(b"series %d".__mod__)
LINES = st.one_of(st.none(), st.integers(1, 60))
"""At which of its lines a writer dies; None: it is this process, which lives."""
COLUMN = st.integers(0, COLUMNS - 1)


@dataclass
class Known:
    """A series, a value a column. `cells` of a histogram: its buckets, and the sum."""

    kind: SeriesKind
    cells: list[list[float]] = field(default_factory=list)

    @property
    def value(self) -> float | HistogramValue:
        sums: list[float] = [sum(column) for column in zip(*self.cells, strict=True)]
        if self.kind != SeriesKind.HISTOGRAM:
            return sums[0]
        return HistogramValue(BOUNDS, tuple(int(one) for one in sums[:-1]), sums[-1])


class MetricsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        instance = f"test-metrics-{os.getpid()}-{next(NUMBERS)}"
        self.table = MetricsTable.create(instance, COLUMNS, ROWS)
        self.series: dict[bytes, Known] = {}
        self.used = 1
        self.dropped = 0
        self.writers: list[Writer] = [self.table.writer(column) for column in range(COLUMNS)]

    def teardown(self) -> None:
        self.table.close()

    def succeed(self, column: int) -> None:
        """A new process takes the column: gauges begin at zero (M2)."""
        self.writers[column] = self.table.writer(column)
        for known in self.series.values():
            if known.kind == SeriesKind.GAUGE:
                known.cells[column] = [0]

    def rows_of(self, kind: SeriesKind) -> int:
        return len(BOUNDS) + 2 if kind == SeriesKind.HISTOGRAM else 1

    def register(self, key: bytes, kind: SeriesKind) -> None:
        """The series is there from now on."""
        width = self.rows_of(kind)
        cells = max(width - 1, 0) + 1 if kind == SeriesKind.HISTOGRAM else 1
        self.series[key] = Known(kind, [[0] * cells for _ in range(COLUMNS)])
        self.used += width

    def do(
        self,
        key: bytes,
        kind: SeriesKind,
        column: int,
        line: int | None,
        action: Callable[[Writer], object],
        change: Callable[[list[float]], list[float]],
    ) -> None:
        """The action in that column, of which `change` says what it makes of the cells."""
        fits = key in self.series or self.used + self.rows_of(kind) <= ROWS
        dropped = self.table.dropped()
        assert dropped == self.dropped
        is_cut = False
        if line is None:
            action(self.writers[column])
        else:
            is_cut = killed_at(line, lambda: action(self.writers[column]))
        if not fits:
            self.dropped = self.table.dropped()
            assert self.dropped - dropped in ((0, 1) if is_cut else (1,))
        elif key not in self.series and (
            not is_cut or key in {one.key for one in self.table.collect()}
        ):
            self.register(key, kind)
        if key in self.series:
            self.note(key, column, change, is_cut)
        if is_cut:
            self.succeed(column)

    def note(
        self, key: bytes, column: int, change: Callable[[list[float]], list[float]], is_cut: bool
    ) -> None:
        """Of what was cut, each cell is as it was or as it was to be (no lock: no more is said)."""
        known = self.series[key]
        before, after = known.cells[column], change(known.cells[column])
        if not is_cut:
            known.cells[column] = after
            return
        (found,) = [one.value for one in self.table.collect() if one.key == key]
        got = [*found.buckets, found.total] if isinstance(found, HistogramValue) else [float(found)]
        others = [
            sum(cells)
            for cells in zip(
                *(one for n, one in enumerate(known.cells) if n != column), strict=True
            )
        ]
        known.cells[column] = [all_of - rest for all_of, rest in zip(got, others, strict=True)]
        for now, old, new in zip(known.cells[column], before, after, strict=True):
            assert now in (old, new)

    @rule(name=NAMES, column=COLUMN, by=st.integers(0, 9), line=LINES)
    def count(self, name: bytes, column: int, by: int, line: int | None) -> None:
        key = b"count " + name
        self.do(
            *(key, SeriesKind.COUNTER, column, line),
            lambda writer: writer.counter(key).add(by),
            lambda cells: [cells[0] + by],
        )

    @rule(name=NAMES, column=COLUMN, value=st.integers(-9, 9), line=LINES)
    def gauge(self, name: bytes, column: int, value: int, line: int | None) -> None:
        key = b"gauge " + name
        self.do(
            *(key, SeriesKind.GAUGE, column, line),
            lambda writer: writer.gauge(key).set(value),
            lambda cells: [value],
        )

    @rule(name=NAMES, column=COLUMN, value=st.integers(0, 12), line=LINES)
    def observe(self, name: bytes, column: int, value: int, line: int | None) -> None:
        key = b"histogram " + name

        def change(cells: list[float]) -> list[float]:
            changed = [*cells[:-1], cells[-1] + value]
            changed[bisect_left(BOUNDS, value)] += 1
            return changed

        self.do(
            *(key, SeriesKind.HISTOGRAM, column, line),
            lambda writer: writer.histogram(key, BOUNDS).observe(value),
            change,
        )

    @rule(column=COLUMN)
    def replace(self, column: int) -> None:
        self.succeed(column)

    @invariant()
    def agrees(self) -> None:
        assert {one.key: (one.kind, one.value) for one in self.table.collect()} == {
            key: (known.kind, known.value) for key, known in self.series.items()
        }
        assert (self.table.used_rows, self.table.dropped()) == (self.used, self.dropped)


TestMetrics: Any = MetricsMachine.TestCase
TestMetrics.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
