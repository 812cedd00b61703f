"""Prices and what calls cost: exact sums, tiers, fallbacks, conventions, look-up."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.llm.cost import Catalog, Tokens, load, price, tokens_of
from sidecar.llm.default_prices import DefaultPrices
from sidecar.llm.prices import Rates, parse, parse_text
from sidecar.llm.usage import Usage

NOW = 1_790_000_000
RATE_NAMES = (
    *("input", "output", "cacheRead", "cacheWrite", "reasoning", "inputAudio", "outputAudio"),
)


def one(rates: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"providers": {"openai": {"models": {"m": {"rates": rates, **more}}}}}


def catalog(*documents: Any, defaults: DefaultPrices | None = None) -> Catalog:
    return load([{"inline": document} for document in documents], _no_file, defaults)


def _no_file(path: str) -> bytes:
    raise FileNotFoundError(2, "No such file", path)


def cost_of(rates: dict[str, str], tokens: Tokens, **more: Any) -> dict[str, float]:
    prices = parse(one(rates, **more), "c")[("openai", "m")]
    return price(tokens, prices).parts()


def test_a_call_of_the_documentation() -> None:
    prices = parse(one({"input": "10", "output": "30"}), "c")[("openai", "m")]
    found = price(Tokens(input=1, output=100), prices)
    assert found.parts()["total"] == 0.00301
    assert found.nano_usd == 3_010_000
    assert found.rates is not None
    assert found.rates.usd == {"input": 10.0, "output": 30.0}


@pytest.mark.parametrize(
    ("rates", "tokens", "total"),
    [
        ({"input": "1.25", "output": "10"}, Tokens(input=3), "0.00000375"),
        ({"input": "1", "output": "2"}, Tokens(cache_read=10, cache_write=5), "0.000015"),
        (
            {"input": "1", "output": "2", "cacheRead": "0.1", "cacheWrite": "1.25"},
            Tokens(cache_read=10, cache_write=4),
            "0.000006",
        ),
        ({"input": "1", "output": "2"}, Tokens(reasoning=3, output_audio=1), "0.000008"),
        (
            {"input": "1", "output": "2", "reasoning": "3", "inputAudio": "4", "outputAudio": "5"},
            Tokens(reasoning=1, input_audio=1, output_audio=1),
            "0.000012",
        ),
        ({"input": "0", "output": "0"}, Tokens(input=5), "0"),
        ({"input": "0.000001"}, Tokens(input=1), "0.000000000001"),
        ({"input": "1"}, Tokens(input=1), "0.000001"),
    ],
)
def test_rates_and_their_fallbacks(rates: dict[str, str], tokens: Tokens, total: str) -> None:
    assert cost_of(rates, tokens)["total"] == float(total)


@pytest.mark.parametrize(
    ("tokens", "rate"),
    [
        (Tokens(input=100), 1),
        (Tokens(input=101), 2),
        (Tokens(input=50, cache_read=25, cache_write=25, input_audio=1), 2),
        (Tokens(input=1000), 2),
        (Tokens(input=1001), 3),
        (Tokens(input=100, output=5000), 1),
    ],
)
def test_a_tier_reprices_the_whole_request(tokens: Tokens, rate: int) -> None:
    tiers = [
        {"contextOver": 100, "rates": {"input": "2", "output": "2"}},
        {"contextOver": 1000, "rates": {"input": "3", "output": "3"}},
    ]
    found = cost_of({"input": "1", "output": "1"}, tokens, tiers=tiers)
    assert found["total"] == rate * (tokens.context + tokens.generated) / 10**6


@pytest.mark.parametrize("rates", [{}, {"output": "1"}, {"cacheRead": "1"}])
def test_a_rate_that_is_needed_and_missing(rates: dict[str, str]) -> None:
    prices = parse(one(rates), "c")[("openai", "m")]
    found = price(Tokens(input=1), prices)
    assert (found.status, found.nano_usd, found.parts()) == ("Unpriced", None, {})


counts = st.integers(0, 10**7)
money = st.decimals(0, 1000, places=6).map(str)


@given(st.tuples(counts, counts, counts, counts), st.tuples(money, money, money, money))
def test_the_parts_are_the_total(counted: tuple[int, ...], rates: tuple[str, ...]) -> None:
    names = ("input", "output", "cacheRead", "cacheWrite")
    prices = parse(one(dict(zip(names, rates, strict=True))), "c")[("openai", "m")]
    found = price(Tokens(*counted), prices)
    exact = sum(
        (count * Decimal(rate) for count, rate in zip(counted, rates, strict=True)), Decimal(0)
    )
    assert Decimal(sum(found.pico_usd)).scaleb(-12) == exact / 10**6
    assert found.parts()["total"] == float(exact / 10**6)


@pytest.mark.parametrize(
    ("usage", "excludes", "expected"),
    [
        (Usage(), False, Tokens()),
        (
            Usage(input_tokens=100, cached_input_tokens=60, output_tokens=50, reasoning_tokens=20),
            False,
            Tokens(input=40, cache_read=60, output=30, reasoning=20),
        ),
        (
            Usage(input_tokens=100, cached_input_tokens=60, cache_creation_input_tokens=5),
            True,
            Tokens(input=100, cache_read=60, cache_write=5),
        ),
        (
            Usage(input_tokens=10, input_audio_tokens=4, output_tokens=9, output_audio_tokens=6),
            False,
            Tokens(input=6, input_audio=4, output=3, output_audio=6),
        ),
        (
            Usage(input_tokens=1, cached_input_tokens=5, output_tokens=1, reasoning_tokens=9),
            False,
            Tokens(cache_read=5, reasoning=9),
        ),
    ],
)
def test_each_token_is_counted_once(usage: Usage, excludes: bool, expected: Tokens) -> None:
    assert tokens_of(usage, excludes_cache=excludes) == expected


@pytest.mark.parametrize(
    ("special", "usage", "part", "amount"),
    [
        (
            {"cacheWrite1h": "20"},
            Usage(cache_creation_input_tokens=10, long_cache_creation_input_tokens=4),
            "cacheWrite",
            6 * 5 + 4 * 20,
        ),
        # Without a rate of their own, and more of them than there are.
        ({}, Usage(cache_creation_input_tokens=10, long_cache_creation_input_tokens=4), "", 10 * 5),
        (
            {"cacheWrite1h": "20"},
            Usage(cache_creation_input_tokens=3, long_cache_creation_input_tokens=4),
            "cacheWrite",
            3 * 20,
        ),
        ({"inputImage": "7"}, Usage(input_tokens=10, input_image_tokens=8), "input", 2 + 8 * 7),
        ({"inputImage": "0"}, Usage(input_tokens=10, input_image_tokens=8), "input", 2),
        (
            {"outputImage": "30"},
            Usage(output_tokens=10, output_image_tokens=9, reasoning_tokens=1),
            "output",
            9 * 30,
        ),
    ],
)
def test_classes_that_few_have(
    special: dict[str, str], usage: Usage, part: str, amount: int
) -> None:
    rates = {"input": "1", "output": "2", "cacheWrite": "5", "reasoning": "0"}
    found = catalog(one(rates | special)).cost("openai", "m", usage, NOW, excludes_cache=True)
    parts = found.parts()
    assert parts["total"] == amount / 1e6
    assert parts.keys() == {"total", *(name for name in RATE_NAMES)}
    if part:
        assert parts[part] == amount / 1e6


def test_only_images_have_a_rate() -> None:
    prices = catalog(one({"input": "1", "outputImage": "30"}))
    drawn = Usage(input_tokens=1, output_tokens=5, output_image_tokens=5)
    found = prices.cost("openai", "m", drawn, NOW, excludes_cache=False)
    assert found.parts()["total"] == (1 + 5 * 30) / 1e6
    said = Usage(input_tokens=1, output_tokens=6, output_image_tokens=5)
    assert prices.cost("openai", "m", said, NOW, excludes_cache=False).status == "Unpriced"


def test_service_tiers() -> None:
    services = {
        "flex": {"rates": {"input": "0.5"}},
        "priority": {
            "rates": {"input": "2", "output": "4"},
            "tiers": [{"contextOver": 5, "rates": {"input": "3", "output": "3"}}],
        },
    }
    first = one({"input": "1", "output": "2"}, serviceTiers=services)
    second = one({}, serviceTiers={"flex": {"rates": {"output": "1"}}})
    prices = catalog(first, second)

    def total(tier: str | None, sent: int = 1) -> float:
        usage = Usage(input_tokens=sent, output_tokens=1, service_tier=tier)
        found = prices.cost("openai", "m", usage, NOW, excludes_cache=False)
        return round(found.parts()["total"] * 1e6, 9)

    assert [total(name) for name in (None, "default", "flex", "priority")] == [3, 3, 1.5, 6]
    assert total("priority", 6) == 21
    # As agentgateway, an entry is what it says: unknown keys are refused.
    with pytest.raises(ConfigError, match=r"serviceTiers\.flex: unknown field `tags`"):
        catalog(one({}, serviceTiers={"flex": {"tags": []}}))


def test_rates_of_the_default_table() -> None:
    found = DefaultPrices().find("anthropic", "claude-sonnet-4-5", NOW)
    assert found is not None
    assert found.rates.cache_write_1h == 6_000_000
    assert found.rates.cache_write == 3_750_000


def status(found: Catalog, answered: str | None, asked: str, provider: str = "openai") -> Any:
    usage = Usage(input_tokens=1, output_tokens=1, provider_model=answered)
    return found.cost(provider, asked, usage, NOW, excludes_cache=False)


@pytest.mark.parametrize(
    ("answered", "asked", "total"),
    [
        ("dated-2024-08-06", "x", "0.000004"),
        ("m", "other", "0.000002"),
        ("unknown", "m", "0.000002"),
        (None, "m", "0.000002"),
        ("m-2024-08-06", "alias", "0.000002"),
        ("m@20240806", "alias", "0.000002"),
        ("m-20240806", "alias", "0.000002"),
        ("m-latest", "alias", "0.000002"),
        ("alias", "m-20240806", "0.000002"),
    ],
)
def test_models_are_looked_up_exactly_and_then_without_their_date(
    answered: str | None, asked: str, total: str
) -> None:
    document = one({"input": "1", "output": "1"})
    models = document["providers"]["openai"]["models"]
    models["dated-2024-08-06"] = {"rates": {"input": "2", "output": "2"}}
    models["dated"] = {"rates": {"input": "9", "output": "9"}}
    found = status(catalog(document), answered, asked)
    assert found.parts()["total"] == float(total)


def test_statuses() -> None:
    assert status(catalog(), "m", "m").status == "NoCatalog"
    found = catalog(one({"input": "1"}))
    assert status(found, "m2", "m3").status == "Missing"
    assert status(found, "m", "m", provider="azure").status == "Missing"
    assert status(found, "m", "m").status == "Unpriced"


def test_an_entry_for_its_tags_hides_no_price() -> None:
    tags = {"providers": {"azure": {"models": {"prod-chat": {"tags": ["claude-opus-4-5"]}}}}}
    found = status(catalog(tags, defaults=DefaultPrices()), "claude-opus-4-5", "prod-chat", "azure")
    assert (found.status, found.nano_usd) == ("Exact", 30_000)
    assert status(catalog(tags), "claude-opus-4-5", "prod-chat", "azure").status == "Unpriced"


def test_later_sources_stand_over_earlier_ones() -> None:
    first = one(
        {"input": "1", "output": "1"},
        tiers=[{"contextOver": 5, "rates": {"input": "2"}}],
        tags=["a"],
    )
    second = one({"input": "3", "cacheRead": "0.5"}, tags=["b"])
    found = catalog(first, orjson.dumps(second).decode())
    prices = found.find("openai", "m", "m", NOW)
    assert prices is not None
    assert prices.rates == Rates(input=3_000_000, output=1_000_000, cache_read=500_000)
    assert prices.tiers == ((5, Rates(input=2_000_000)),)
    assert found.tags("openai", "m") == {"a", "b"}
    assert found.tags("openai", "none") == frozenset()
    third = one({}, tiers=[{"contextOver": 9, "rates": {"input": "4"}}])
    prices = catalog(first, third).find("openai", "m", "m", NOW)
    assert prices is not None
    assert prices.tiers == ((9, Rates(input=4_000_000)),)


def test_files() -> None:
    found = load([{"file": "x"}], lambda path: orjson.dumps(one({"input": "1"})))
    assert ("openai", "m") in found.entries()
    with pytest.raises(ConfigError) as caught:
        load([{"inline": {}}, {"file": "x"}], _no_file)
    assert str(caught.value) == "config.modelCatalog[1].file: cannot be read: No such file"


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], "c"),
        ({"x": 1}, "c"),
        ({"providers": []}, "c.providers"),
        ({"providers": {"p": {"y": 1}}}, "c.providers.p"),
        (one({"input": "-1"}), "c.providers.openai.models.m.rates.input"),
        (one({"input": "1e"}), "c.providers.openai.models.m.rates.input"),
        (one({"input": "NaN"}), "c.providers.openai.models.m.rates.input"),
        (one({"input": "Infinity"}), "c.providers.openai.models.m.rates.input"),
        (one({"input": "1e400000"}), "c.providers.openai.models.m.rates.input"),
        (one({"input": "0.0000001"}), "c.providers.openai.models.m.rates.input"),
        (one({"input": 1}), "c.providers.openai.models.m.rates.input"),  # type: ignore[dict-item]
        (one({"inputs": "1"}), "c.providers.openai.models.m.rates"),
        (one({}, tiers=[{"contextOver": -1}]), "c.providers.openai.models.m.tiers[0].contextOver"),
        (
            one({}, tiers=[{"contextOver": 5}, {"contextOver": 5}]),
            "c.providers.openai.models.m.tiers[1].contextOver",
        ),
        (one({}, tags=[1]), "c.providers.openai.models.m.tags"),
        (one({}, tags="x"), "c.providers.openai.models.m.tags"),
    ],
)
def test_catalogues_that_are_refused(document: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(document, "c")
    assert caught.value.path == path


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
keys = st.sampled_from(
    ("providers", "models", "rates", "tiers", "tags", "contextOver", "input", "cacheRead")
)


@given(
    st.recursive(
        values,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=20,
    )
)
def test_any_json_is_a_catalogue_or_refused(data: Any) -> None:
    for document in (data, one(data), {"providers": {"p": {"models": {"m": data}}}}):
        with contextlib.suppress(ConfigError):
            parse(document, "c")


def test_text_that_is_no_json() -> None:
    with pytest.raises(ConfigError, match="line 2"):
        parse_text("{\n'", "c")


@pytest.fixture(scope="module")
def defaults() -> DefaultPrices:
    return DefaultPrices()


@pytest.mark.parametrize(
    ("provider", "model", "input", "output"),
    [
        ("openai", "gpt-4o", "2.5", "10"),
        ("openai", "gpt-4o-2024-08-06", "2.5", "10"),
        ("azure", "gpt-4o-2024-08-06", "2.5", "10"),
        ("anthropic", "claude-haiku-4-5-20251001", "1", "5"),
        ("gcp.gemini", "gemini-2.5-pro", "1.25", "10"),
        ("gcp.gemini", "models/gemini-2.5-pro", "1.25", "10"),
        ("gcp.vertex_ai", "claude-sonnet-4-5@20250929", "3", "15"),
        ("aws.bedrock", "us.anthropic.claude-3-5-sonnet-20241022-v2:0", "3", "15"),
        ("copilot", "claude-sonnet-4", "3", "15"),
    ],
)
def test_default_prices(
    defaults: DefaultPrices, provider: str, model: str, input: str, output: str
) -> None:
    found = defaults.find(provider, model, NOW)
    assert found is not None
    usd = found.rates.usd
    assert (usd["input"], usd["output"]) == (float(input), float(output))


def test_default_tiers_are_whole(defaults: DefaultPrices) -> None:
    found = defaults.find("gcp.gemini", "gemini-2.5-pro", NOW)
    assert found is not None
    assert found.at(200_001).usd["output"] == 15
    assert found.at(200_000).usd["output"] == 10


def test_names_without_default_prices(defaults: DefaultPrices) -> None:
    for provider, model in (("openai", "nothing"), ("nobody", "gpt-4o"), ("openai", "x" * 10_000)):
        assert defaults.find(provider, model, NOW) is None


def test_the_operators_prices_stand_over_the_default_ones(defaults: DefaultPrices) -> None:
    document = {
        "providers": {"openai": {"models": {"gpt-4o": {"rates": {"input": "7", "output": "7"}}}}}
    }
    found = catalog(document, defaults=defaults)
    dated = status(found, "gpt-4o-2024-08-06", "gpt-4o")
    assert dated.rates is not None
    assert dated.rates.usd == {"input": 7.0, "output": 7.0}
    assert status(found, "gpt-4o-mini", "x").status == "Exact"
    assert status(found, None, "gpt-4o-mini").status == "Exact"
    assert status(found, "no", "such").status == "Missing"
