"""Cells and histograms over plain memory."""

from __future__ import annotations

import math

import pytest

from shm.cells import Cell, DroppedCell, DroppedHistogram, Histogram, HistogramValue, real


def words(count: int) -> memoryview:
    return memoryview(bytearray(8 * count)).cast("Q")


def test_a_whole_counter_refuses_fractions() -> None:
    cell = Cell(words(1))
    cell.add(2)
    cell.add(3)
    assert cell.value == 5
    with pytest.raises(TypeError):
        cell.add(0.5)
    with pytest.raises(ValueError, match="invalid value"):
        cell.add(-6)
    assert cell.value == 5


def test_a_real_cell_takes_any_number() -> None:
    cell = Cell(real(words(1)))
    cell.add(0.25)
    cell.add(-1)
    assert cell.value == -0.75
    cell.set(7)
    assert cell.value == 7


def test_the_dropped_count_calls() -> None:
    memory = words(1)
    DroppedCell(memory).add(100)
    DroppedCell(memory).set(100)
    DroppedHistogram((), memory, real(memory)).observe(100.0)
    assert memory[0] == 3


@pytest.mark.parametrize(
    ("observed", "buckets"),
    [
        pytest.param(-1.0, [1, 0, 0], id="below"),
        pytest.param(1.0, [1, 0, 0], id="a-bound-is-inclusive"),
        pytest.param(1.5, [0, 1, 0], id="between"),
        pytest.param(2.5, [0, 0, 1], id="above"),
        pytest.param(math.inf, [0, 0, 1], id="infinite"),
        pytest.param(math.nan, [0, 0, 0], id="nan-is-left-out"),
    ],
)
def test_buckets(observed: float, buckets: list[int]) -> None:
    memory, total = words(3), real(words(1))
    Histogram((1.0, 2.0), memory, total).observe(observed)
    assert memory.tolist() == buckets
    assert total[0] == (0.0 if math.isnan(observed) else observed)


def test_observations_are_the_sum_of_the_buckets() -> None:
    assert HistogramValue((1.0,), (2, 3), 9.0).observations == 5
