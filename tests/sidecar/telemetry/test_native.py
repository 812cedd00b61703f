"""Both forms of a histogram out of one row of cells."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm.cells import HistogramValue
from shm.metrics import MAX_BOUNDS
from sidecar.admin.metrics import BOUNDS as KNOWN
from sidecar.telemetry.metrics import HTTP_SECONDS
from sidecar.telemetry.native import Forms, Native, widened


def kept(values: list[float], bounds: tuple[float, ...]) -> HistogramValue:
    """As the cells of a series are after these observations."""
    buckets = [0] * (len(bounds) + 1)
    for value in values:
        buckets[bisect_left(bounds, value)] += 1
    return HistogramValue(bounds, tuple(buckets), sum(values))


@pytest.mark.parametrize("bounds", KNOWN)
def test_bounds(bounds: tuple[float, ...]) -> None:
    both = widened(bounds)
    assert len(both) <= MAX_BOUNDS
    assert set(bounds) < set(both)
    assert list(both) == sorted(both)
    assert widened(tuple(bounds)) is both
    native = Forms("both", KNOWN).native(kept([], both))
    assert native is not None
    assert native.schema in (0, 1, 2)
    assert 0 < native.zero_threshold < bounds[0]


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1e6), max_size=30), st.sampled_from(KNOWN))
def test_both_forms_are_exact(values: list[float], bounds: tuple[float, ...]) -> None:
    value = kept(values, widened(bounds))
    forms = Forms("both", KNOWN)
    assert forms.classic(value) == kept(values, bounds)
    native = forms.native(value)
    assert native is not None
    base = 2.0 ** (2.0**-native.schema)
    top = max(bound for bound in value.bounds)
    counts = dict(native.buckets)
    assert native.zero_count == sum(one <= native.zero_threshold for one in values)
    assert native.zero_count + sum(counts.values()) == len(values)
    for index, count in counts.items():
        low, high = base ** (index - 1), base**index
        if high <= top * 1.001:
            # Bounds are powers, rounded; what lies this near to one may count on either side.
            sure = [one for one in values if low * 1.000001 < one <= high * 0.999999]
            near = [one for one in values if low * 0.999999 <= one <= high * 1.000001]
            assert len(sure) <= count <= len(near)
        else:
            assert count == sum(one > top for one in values)


def test_spans_and_deltas() -> None:
    native = Native(1, 0.001, 0, ((-3, 5), (-2, 2), (4, 7)))
    assert native.spans() == [(-3, 2), (5, 1)]
    assert native.deltas() == [5, -3, 5]
    assert Native(1, 0.001, 2, ()).spans() == []
    assert Native(1, 0.001, 2, ()).deltas() == []


def test_modes() -> None:
    value = kept([0.2, 3.0], widened(HTTP_SECONDS))
    assert Forms("native", KNOWN).classic(value) == HistogramValue((), (2,), value.total)
    plain = kept([0.2, 3.0], HTTP_SECONDS)
    for mode in ("classic", "native", "both"):
        forms = Forms(mode, KNOWN)
        assert (forms.classic(plain), forms.native(plain)) == (plain, None)
    assert math.isclose(value.total, 3.2)
