"""The catalogue in use."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.llm.default_prices import DefaultPrices
from sidecar.llm.price_book import PriceBook
from sidecar.llm.usage import Usage
from tests.support.clock import HeldClock


def source(rate: str, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    model = {"rates": {"input": rate, "output": "30"}, "tags": list(tags)}
    return {"inline": {"providers": {"mine": {"models": {"m": model}}}}}


def _no_file(path: str) -> bytes:
    raise FileNotFoundError(2, "No such file", path)


def test_a_call_is_priced_in_floats_for_cel() -> None:
    book = PriceBook(HeldClock(), None)
    usage = Usage(input_tokens=1, output_tokens=100)
    assert book("mine", "m", usage, excludes_cache=False) == ("NoCatalog", None, None)
    book.reload([source("10", ("fast",))], _no_file)
    status, cost, rates = book("mine", "m", usage, excludes_cache=False)
    assert cost is not None
    assert (status, cost["total"], cost["input"], cost["output"]) == (
        "Exact",
        0.00301,
        0.00001,
        0.003,
    )
    assert set(cost) == {
        "total",
        "input",
        "output",
        "cacheRead",
        "cacheWrite",
        "reasoning",
        "inputAudio",
        "outputAudio",
    }
    assert rates == {"input": 10.0, "output": 30.0}
    assert book.tags("mine", "m") == {"fast"}
    assert book("mine", "x", usage, excludes_cache=False) == ("Missing", None, None)


@given(st.integers(0, 10**9), st.decimals(0, 10**4, places=6))
def test_floats_give_the_nano_usd_back(tokens: int, rate: Decimal) -> None:
    book = PriceBook(HeldClock(), None)
    book.reload([source(str(rate))], _no_file)
    _, cost, _ = book("mine", "m", Usage(input_tokens=tokens), excludes_cache=False)
    assert cost is not None
    exact = tokens * rate / 10**6
    if exact < 1000:
        nano = Decimal(1).scaleb(-9)
        assert abs(Decimal(str(cost["total"])) - exact) < nano / 1000
    assert cost["total"] == float(exact)


def test_a_bad_source_leaves_the_catalogue_as_it_was() -> None:
    book = PriceBook(HeldClock(), None)
    book.reload([source("10")], _no_file)
    for bad in (source("-1"), {"file": "/nonexistent"}):
        with pytest.raises(ConfigError):
            book.reload([bad], _no_file)
    assert book("mine", "m", Usage(input_tokens=1), excludes_cache=False)[0] == "Exact"
    book.reload([source("20")], _no_file)
    _, cost, _ = book("mine", "m", Usage(input_tokens=1), excludes_cache=False)
    assert cost is not None
    assert cost["total"] == 0.00002


def test_default_prices_by_date() -> None:
    book = PriceBook(HeldClock(), DefaultPrices())
    status, cost, _ = book("openai", "gpt-4o", Usage(input_tokens=1000), excludes_cache=False)
    assert cost is not None
    assert (status, cost["total"]) == ("Exact", 0.0025)
