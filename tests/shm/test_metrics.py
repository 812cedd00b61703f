"""The metrics table: registration, sums, fullness, and exact counts among killed processes."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from shm.cells import HistogramValue, SeriesKind
from shm.errors import LockBrokenError, SegmentRefusedError, ShmError
from shm.metrics import MAX_KEY_BYTES, MetricsTable
from shm.segment import segment_name, unlink

INSTANCE = f"test-metrics-{os.getpid()}"
FILE = Path("/dev/shm") / segment_name(INSTANCE, "metrics")[1:]
BOUNDS = (0.1, 1.0, 10.0)


@pytest.fixture
def table() -> Iterator[MetricsTable]:
    table = MetricsTable.create(INSTANCE, workers=4, rows=32)
    yield table
    table.close()
    unlink(segment_name(INSTANCE, "metrics"))


def fork(action: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def values(table: MetricsTable) -> dict[bytes, Any]:
    return {series.key: series.value for series in table.collect()}


def test_an_empty_table_has_no_series(table: MetricsTable) -> None:
    assert (values(table), table.used_rows, table.dropped()) == ({}, 1, 0)


def test_kinds(table: MetricsTable) -> None:
    writer = table.writer(0)
    writer.counter(b"requests").add(3)
    writer.real_counter(b"seconds").add(0.5)
    writer.gauge(b"open").set(-2.5)
    histogram = writer.histogram(b"latency", BOUNDS)
    for seconds in (0.05, 0.1, 5, 50):
        histogram.observe(seconds)
    assert list(table.collect()) == [
        (b"requests", SeriesKind.COUNTER, 3),
        (b"seconds", SeriesKind.REAL_COUNTER, 0.5),
        (b"open", SeriesKind.GAUGE, -2.5),
        (b"latency", SeriesKind.HISTOGRAM, HistogramValue(BOUNDS, (2, 0, 1, 1), 55.15)),
    ]
    assert table.used_rows == 1 + 3 + len(BOUNDS) + 2


def test_the_same_series_is_the_same_cell(table: MetricsTable) -> None:
    writer = table.writer(0)
    assert writer.counter(b"a") is writer.counter(b"a")
    assert writer.histogram(b"h", BOUNDS) is writer.histogram(b"h", BOUNDS)
    writer.histogram(b"h", list(BOUNDS)).observe(1)
    assert values(table)[b"h"].observations == 1


def test_a_large_counter_is_exact(table: MetricsTable) -> None:
    counter = table.writer(0).counter(b"bytes")
    counter.add(2**63)
    counter.add(1)
    assert values(table) == {b"bytes": 2**63 + 1}


def test_columns_are_summed(table: MetricsTable) -> None:
    def work(column: int) -> None:
        writer = table.writer(column)
        writer.counter(b"shared").add(column + 1)
        writer.counter(b"own%d" % column).add(1)
        writer.histogram(b"h", BOUNDS).observe(column)

    assert [exit_code(fork(lambda c=c: work(c))) for c in range(4)] == [0] * 4  # type: ignore[misc]
    result = values(table)
    assert result[b"shared"] == 10
    assert [result[b"own%d" % c] for c in range(4)] == [1] * 4
    assert result[b"h"] == (BOUNDS, (1, 1, 2, 0), 6.0)


def test_a_reader_that_attaches_sees_the_same(table: MetricsTable) -> None:
    table.writer(0).histogram(b"h", BOUNDS).observe(1)
    assert values(MetricsTable.attach(INSTANCE)) == values(table)


def test_a_successor_goes_on_and_its_gauges_begin_at_zero(table: MetricsTable) -> None:
    def work() -> None:
        writer = table.writer(2)
        writer.counter(b"count").add(5)
        writer.gauge(b"in flight").add(3)
        os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(fork(work)) == -signal.SIGKILL
    assert values(table) == {b"count": 5, b"in flight": 0}  # nothing is in flight in the dead
    writer = table.writer(2)
    writer.counter(b"count").add(1)
    writer.gauge(b"in flight").add(1)
    assert values(table) == {b"count": 6, b"in flight": 1}


def test_a_column_has_one_living_writer(table: MetricsTable) -> None:
    table.writer(1)

    def intrude() -> None:
        with pytest.raises(ShmError, match="held by process"):
            table.writer(1)

    assert exit_code(fork(intrude)) == 0
    for column in (-1, 4):
        with pytest.raises(ShmError, match="column"):
            table.writer(column)


def test_a_full_table_counts_what_it_drops_and_overwrites_nothing(table: MetricsTable) -> None:
    writer = table.writer(0)
    for index in range(31):
        writer.counter(b"%d" % index).add(index)
    for index in range(31, 200):
        writer.counter(b"%d" % index).add(10)
    writer.gauge(b"g").set(5)
    writer.histogram(b"h", BOUNDS).observe(1)
    assert values(table) == {b"%d" % index: index for index in range(31)}
    assert table.dropped() == 169 + 2


def test_a_histogram_that_does_not_fit_leaves_room_for_counters(table: MetricsTable) -> None:
    writer = table.writer(0)
    for index in range(28):
        writer.counter(b"%d" % index)
    writer.histogram(b"h", BOUNDS).observe(1)
    writer.counter(b"last").add(1)
    assert (table.dropped(), values(table)[b"last"]) == (1, 1)


def test_a_full_table_still_finds_what_another_registered(table: MetricsTable) -> None:
    writer = table.writer(0)

    def fill() -> None:
        other = table.writer(1)
        for index in range(40):
            other.counter(b"%d" % index).add(1)

    assert exit_code(fork(fill)) == 0
    writer.counter(b"7").add(1)
    writer.counter(b"new").add(1)
    assert (values(table)[b"7"], table.dropped()) == (2, 9 + 1)


@pytest.mark.parametrize(("size", "dropped"), [(0, 0), (MAX_KEY_BYTES, 0), (MAX_KEY_BYTES + 1, 1)])
def test_key_sizes(table: MetricsTable, size: int, dropped: int) -> None:
    table.writer(0).counter(b"k" * size).add(1)
    assert (table.dropped(), len(values(table))) == (dropped, 1 - dropped)


def test_a_series_keeps_its_kind_and_bounds(table: MetricsTable) -> None:
    writer = table.writer(0)
    writer.counter(b"x")
    writer.histogram(b"h", BOUNDS)
    for attempt in (
        lambda: writer.gauge(b"x"),
        lambda: writer.histogram(b"x", ()),
        lambda: writer.histogram(b"h", (1.0,)),
    ):
        with pytest.raises(ShmError, match="already"):
            attempt()


@pytest.mark.parametrize(
    "bounds", [(1.0, 1.0), (2.0, 1.0), (float("inf"),), (float("nan"),), tuple(range(65))]
)
def test_bounds_are_checked(table: MetricsTable, bounds: tuple[float, ...]) -> None:
    with pytest.raises(ShmError, match="bounds"):
        table.writer(0).histogram(b"h", bounds)


@pytest.mark.parametrize("count", [0, 64])
def test_bounds_survive_the_way_through_memory(count: int) -> None:
    table = MetricsTable.create(INSTANCE, workers=1, rows=128)
    try:
        bounds = tuple(float(number) for number in range(count))
        table.writer(0).histogram(b"h", bounds).observe(3)
        (series,) = MetricsTable.attach(INSTANCE).collect()
        assert isinstance(series.value, HistogramValue)
        assert (series.value.bounds, series.value.observations) == (bounds, 1)
    finally:
        table.close()


@pytest.mark.parametrize(("workers", "rows"), [(0, 32), (1025, 32), (1, 1), (1, 1 << 21)])
def test_capacity_is_checked(workers: int, rows: int) -> None:
    with pytest.raises(ShmError, match="out of range"):
        MetricsTable.create(INSTANCE, workers, rows)


def test_54_a_corrupt_entry_is_refused(table: MetricsTable) -> None:
    table.writer(0).counter(b"first").add(1)
    data = FILE.read_bytes()
    with FILE.open("r+b") as file:
        file.seek(data.index(b"first"))
        file.write(b"worst")
    with pytest.raises(SegmentRefusedError, match="corrupt directory entry 1"):
        list(MetricsTable.attach(INSTANCE).collect())


def test_54_an_impossible_directory_breaks_the_lock_and_not_the_process(
    table: MetricsTable,
) -> None:
    def die_with_it() -> None:
        with table._lock:
            table._words[8] = 1 << 40
            os.kill(os.getpid(), signal.SIGKILL)

    exit_code(fork(die_with_it))
    with pytest.raises(LockBrokenError, match="used rows"):
        table.writer(0)


def test_53_a_registrant_killed_at_any_line_wedges_nobody(table: MetricsTable) -> None:
    line, came_through = 0, False
    while not came_through:
        line += 1
        code = exit_code(fork(lambda: register_and_die(table, line)))  # noqa: B023 - runs at once
        assert code in (0, -signal.SIGKILL)
        came_through = code == 0
        assert set(values(table)) <= {b"c", b"h"}
        table.writer(1).counter(b"c").add(1)
    assert values(table)[b"c"] == line + 1  # the one that came through added its own
    assert table.recoveries > 5


def register_and_die(table: MetricsTable, number: int) -> None:
    """Register two series; die at the n-th line of the package on the way there."""
    left = number

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if "/tests/" in frame.f_code.co_filename or "/shm/" not in frame.f_code.co_filename:
            return None
        left -= event == "line"
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    sys.settrace(on_line)
    writer = table.writer(0)
    writer.histogram(b"h", BOUNDS)
    writer.counter(b"c").add(1)
    sys.settrace(None)


GOAL = 8
"""The word of the shared page that says how far to count; those before it are the progress."""


def count_up(table: MetricsTable, column: int, page: memoryview) -> None:
    """Raise twelve series and their histograms in steps of 50 to the goal, from where they are."""
    writer = table.writer(column)
    keys = [b"series %d" % index for index in range(12)]
    for mark in itertools.count(50, 50):
        writer.counter(b"mark %d" % mark)  # registrations among the additions
        for key in random.Random(os.getpid() + mark).sample(keys, 12):
            cell, histogram = writer.counter(key), writer.histogram(b"h " + key, BOUNDS)
            while cell.value < min(mark, page[GOAL]):
                cell.add(1)
                histogram.observe(cell.value)
                page[column] += 1
        if mark >= page[GOAL]:
            return


def test_52_counts_are_exact_among_killed_workers() -> None:
    """Each column's writer goes on from the cells of its killed predecessor, up to a common goal.

    So every total is three times the goal, unless an addition was lost, doubled or misplaced.
    """
    page = memoryview(mmap.mmap(-1, 4096)).cast("Q")
    page[GOAL] = 1 << 40
    table = MetricsTable.create(INSTANCE, workers=3, rows=200)

    def start(column: int) -> int:
        return fork(lambda: count_up(table, column, page))

    try:
        kills = kill_at_random(start, page, random.Random(52), rounds=50)
        page[GOAL] = goal = 10 + max(v for v in values(table).values() if isinstance(v, int))
        assert [exit_code(start(column)) for column in range(3)] == [0] * 3
        result = values(table)
        for index in range(12):
            assert result[b"series %d" % index] == 3 * goal
            observed = result[b"h series %d" % index].observations
            assert 0 <= 3 * goal - observed <= kills  # a kill may fall between the two
    finally:
        table.close()


def kill_at_random(
    start: Callable[[int], int], page: memoryview, chance: random.Random, rounds: int
) -> int:
    """Kill and replace the writers of three columns, each after some progress; at last kill all."""
    pids = {column: start(column) for column in range(3)}
    for _ in range(rounds):
        column = chance.randrange(3)
        mark = page[column] + chance.randrange(1, 600)
        while page[column] < mark:
            os.sched_yield()
        os.kill(pids[column], signal.SIGKILL)
        assert exit_code(pids[column]) == -signal.SIGKILL
        pids[column] = start(column)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
    return rounds + 3
