"""Amounts as text, as numbers of expressions, and as they are counted."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm.budget_slots import MAX_AMOUNT
from sidecar.policies.amounts import label_of, names_in, shown, whole

USD, TOKENS = 0, 1


@pytest.mark.parametrize(
    ("value", "unit", "counted"),
    [
        (0.1, USD, 100_000_000),
        ("0.000000001", USD, 1),
        (0.0000000014, USD, 1),
        (0.00301, USD, 3_010_000),
        (Decimal("0.5"), USD, 500_000_000),
        (7, TOKENS, 7),
        (7.2, TOKENS, 8),
        (10**30, TOKENS, MAX_AMOUNT),
        (10**18, USD, MAX_AMOUNT),
        (0, USD, 0),
        *((bad, USD, None) for bad in (-1, float("nan"), float("inf"), "x", "", None, True, [1])),
        ("1" * 65, TOKENS, None),
        ("1.5e-05", USD, 15_000),
        ("2E3", TOKENS, 2000),
        *(
            (bad, TOKENS, None)
            for bad in ("1e400", "1_0", " 1", "1\n", "+1", "-0", ".5", "1.", "\u0661")
        ),
    ],
)
def test_whole(value: object, unit: int, counted: int | None) -> None:
    assert whole(value, unit) == counted


@given(st.integers(0, MAX_AMOUNT), st.sampled_from([USD, TOKENS]))
def test_what_is_shown_is_what_was_counted(amount: int, unit: int) -> None:
    assert whole(shown(amount, unit), unit, is_exact=True) == amount


@given(st.floats(0, 20_000) | st.integers(0, 10**14).map(lambda half: half / 2e9))
def test_usd_are_rounded_as_their_text_is(amount: float) -> None:
    exact = Decimal(str(amount)).scaleb(9).to_integral_value(ROUND_HALF_EVEN)
    assert whole(amount, USD) == int(exact)


@pytest.mark.parametrize(
    ("amount", "text"), [(9_030_000, "0.00903"), (0, "0"), (-5 * 10**8, "-0.5")]
)
def test_usd_as_text(amount: int, text: str) -> None:
    assert shown(amount, USD) == text


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_label_gives_its_names_back(key: str, place: str) -> None:
    name, found = names_in(label_of("team", key.encode(), b"route/" + place.encode())[:105])
    assert name == "team"
    if " | " not in place and len(key.encode()) <= 40:
        assert found == key
