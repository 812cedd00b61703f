"""What is paid for by the piece: how many there were, and what they cost to the pico-USD."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.http.sse import encode_event
from sidecar.llm.chat.detect import asked_pieces, usage_of_bytes
from sidecar.llm.chat.formats import FORMATS
from sidecar.llm.chat.passthrough import StreamTap
from sidecar.llm.cost import load
from sidecar.llm.default_prices import DefaultPrices
from sidecar.llm.pieces import PiecePrice, cost_of, milli
from sidecar.llm.prices import parse
from sidecar.llm.usage import Usage

Json = dict[str, Any]
NOW = 1_790_000_000
SEARCHES = [
    {"type": "reasoning", "summary": []},
    {"type": "web_search_call", "action": {"type": "search", "query": "x"}},
    {"type": "web_search_call", "action": {"type": "open_page", "url": "x"}},
    {"type": "web_search_call"},
    {"type": "file_search_call", "queries": ["a", "b"]},
    {"type": "image_generation_call", "result": "aGk="},
    {"type": "image_generation_call", "result": None},
]
CALLED = {"webSearch": 2000, "fileSearch": 1000, "outputImage": 1000}


def grounded(model: str, *queries: str) -> Json:
    candidate: Json = {"content": {"parts": [{"text": "x"}]}}
    candidate["groundingMetadata"] = {"webSearchQueries": list(queries)}
    return {"modelVersion": model, "candidates": [candidate], "usageMetadata": {}}


ANSWERS: list[tuple[str, Json, Json | None]] = [
    (
        "messages",
        {"usage": {"output_tokens": 1, "server_tool_use": {"web_search_requests": 3}}},
        {"webSearch": 3000},
    ),
    ("messages", {"usage": {"server_tool_use": {"web_search_requests": 0}}}, None),
    ("messages", {"usage": {"server_tool_use": None}}, None),
    ("completions", {"usage": {"total_tokens": 1, "num_search_queries": 2}}, {"webSearch": 2000}),
    (
        "completions",
        {"usage": {"total_tokens": 1, "server_tool_use": {"web_search_requests": 4}}},
        {"webSearch": 4000},
    ),
    (
        "completions",
        {"model": "gpt-4o-search-preview-2025-03-11", "usage": {"total_tokens": 1}},
        {"webSearch": 1000},
    ),
    ("completions", {"model": "gpt-4o", "usage": {"prompt_tokens": 1}}, None),
    (
        "completions",
        {"usage": {"prompt_tokens": 4, "total_tokens": 9, "prompt_audio_seconds": 2}},
        {"inputAudioSecond": 2000},
    ),
    ("responses", {"output": SEARCHES, "usage": {}}, CALLED),
    ("responses", {"output": [{"type": "message"}], "usage": {}}, None),
    ("generateContent", grounded("gemini-2.5-flash", "a", "b"), {"webSearch": 1000}),
    ("generateContent", grounded("gemini-3-pro-preview", "a", "b", ""), {"webSearch": 2000}),
    ("generateContent", grounded("gemini-3-pro-preview"), None),
    ("rerank", {"meta": {"billed_units": {"search_units": 1}}}, {"rerankSearch": 1000}),
]


@pytest.mark.parametrize(("name", "body", "expected"), ANSWERS)
def test_pieces_of_answers(name: str, body: Json, expected: Json | None) -> None:
    assert FORMATS[name].usage(body).pieces == expected
    # Whatever it is, it is recognised.
    assert usage_of_bytes(orjson.dumps(body)).pieces == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"text": "x", "usage": {"type": "duration", "seconds": 12}}, {"inputAudioSecond": 12000}),
        ({"text": "x", "duration": 3.217, "segments": []}, {"inputAudioSecond": 3217}),
        ({"text": "x", "duration": "8.47"}, {"inputAudioSecond": 8470}),
        ({"duration": 3.2}, None),
        ({"usage": {"prompt_audio_seconds": 7, "prompt_tokens": 4}}, {"inputAudioSecond": 7000}),
        ({"created": 1, "data": [{"url": "x"}, {"b64_json": "x"}]}, {"outputImage": 2000}),
        ({"data": [{"embedding": [1]}]}, None),
        ({"pages": [], "usage_info": {"pages_processed": 4}}, {"inputPage": 4000}),
    ],
)
def test_pieces_of_answers_that_nobody_converts(body: Json, expected: Json | None) -> None:
    assert usage_of_bytes(orjson.dumps(body)).pieces == expected


def test_spoken_text_is_counted_where_it_is_asked_for() -> None:
    assert asked_pieces("/v1/audio/speech", {"input": "héllo"}) == {"inputCharacter": 5000}
    assert asked_pieces("/v1/audio/speech", {"input": ""}) is None
    assert asked_pieces("/v1/audio/speech", None) is None
    assert asked_pieces("/v1/embeddings", {"input": "hello"}) is None


EVENTS: dict[str, tuple[list[Json], Json]] = {
    "messages": (
        [
            {"type": "message_start", "message": {"usage": {"input_tokens": 1}}},
            *[{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}] * 4,
            {
                "type": "message_delta",
                "usage": {"output_tokens": 4, "server_tool_use": {"web_search_requests": 2}},
            },
        ],
        {"webSearch": 2000},
    ),
    "completions": (
        [
            *[{"choices": [{"delta": {"content": "x"}}]}] * 4,
            {"choices": [], "usage": {"completion_tokens": 4, "num_search_queries": 1}},
        ],
        {"webSearch": 1000},
    ),
    "responses": (
        [
            *[{"type": "response.output_text.delta", "delta": "x"}] * 4,
            {
                "type": "response.completed",
                "response": {"output": SEARCHES, "usage": {"output_tokens": 4}},
            },
        ],
        CALLED,
    ),
    # Not in the last event, and between others that nobody decodes.
    "generateContent": (
        [
            *[{**grounded("gemini-3-pro"), "usageMetadata": {"candidatesTokenCount": 1}}] * 3,
            {**grounded("gemini-3-pro", "a", "b"), "usageMetadata": {"candidatesTokenCount": 4}},
            *[{**grounded("gemini-3-pro"), "usageMetadata": {"candidatesTokenCount": 5}}] * 3,
        ],
        {"webSearch": 2000},
    ),
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("as_detect", [False, True])
def test_pieces_of_streams(name: str, *, as_detect: bool) -> None:
    events, expected = EVENTS[name]
    tap = StreamTap(FORMATS["detect" if as_detect else name], "sse")
    for body in events:
        tap.feed(encode_event(orjson.dumps(body)))
    tap.finish()
    assert tap.usage.pieces == expected
    assert tap.usage.output_tokens in (4, 5)


def test_searches_in_the_last_event_do_not_bring_back_older_counts() -> None:
    tap = StreamTap(FORMATS["generateContent"], "sse")
    for made in range(1, 6):
        queries = ("a", "b") if made == 5 else ()
        body = grounded("gemini-3-pro", *queries)
        if not queries:
            del body["candidates"][0]["groundingMetadata"]
        body["usageMetadata"] = {"candidatesTokenCount": made}
        tap.feed(encode_event(orjson.dumps(body)))
    tap.finish()
    assert (tap.usage.output_tokens, tap.usage.pieces) == (5, {"webSearch": 2000})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((2, 2000), (0.5, 500), ("1.25", 1250), (0, 0), (-1, None), (True, None), ("x", None)),
        *((None, None), (float("nan"), None), (float("inf"), None), (10**10, None), ([1], None)),
    ],
)
def test_amounts(value: object, expected: int | None) -> None:
    assert milli(value) == expected


@given(st.integers(0, 10**13), st.integers(1, 10**6), st.integers(1, 10**7))
def test_a_cost_is_rounded_once(pico_usd: int, per: int, amount: int) -> None:
    found = cost_of({"inputAudioSecond": PiecePrice(pico_usd, per)}, {"inputAudioSecond": amount})
    assert found is not None
    exact = Fraction(pico_usd) * amount / (per * 1000)
    assert abs(found - exact) <= Fraction(1, 2)


def entry(**more: Any) -> Json:
    return {"providers": {"openai": {"models": {"m": more}}}}


def nano(document: Json, **used: Any) -> tuple[str, int | None]:
    found = load([{"inline": document}], lambda path: b"").cost(
        "openai", "m", Usage(**used), NOW, excludes_cache=False
    )
    return found.status, found.nano_usd


RATES = {"input": "1", "output": "2"}


def test_pieces_of_a_catalogue() -> None:
    pieces = {"webSearch": "0.01", "inputAudioSecond": "0.000100000001", "request": "0.000005"}
    document = entry(rates=RATES, pieces=pieces)
    # 5 micro-USD for the call, 3 for its tokens.
    assert nano(document, input_tokens=1, output_tokens=1) == ("Exact", 8_000)
    searched = {"webSearch": 2000, "fileSearch": 1000}
    assert nano(document, input_tokens=1, pieces=searched) == ("Exact", 20_006_000)
    assert nano(document, pieces={"inputAudioSecond": 1500}) == ("Exact", 155_000)
    # What has no price is free, as before; what nothing is known of has no cost.
    assert nano(entry(rates=RATES), pieces={"webSearch": 1000}) == ("Exact", 0)
    heard = entry(pieces={"inputAudioSecond": "0.0001"})
    assert nano(heard, pieces={"inputAudioSecond": 10_000}) == ("Exact", 1_000_000)
    assert nano(heard)[0] == "Unpriced"
    assert nano(heard, input_tokens=1, pieces={"inputAudioSecond": 1000})[0] == "Unpriced"


def test_pieces_are_merged_and_of_service_tiers() -> None:
    tiers = {"flex": {"pieces": {"webSearch": "0.005"}}}
    first = parse(entry(rates=RATES, pieces={"webSearch": "0.01", "request": "1"}), "c")
    second = parse(entry(pieces={"request": "2"}, serviceTiers=tiers), "c")
    found = second[("openai", "m")].over(first[("openai", "m")])
    assert found.pieces == {"webSearch": PiecePrice(10**10), "request": PiecePrice(2 * 10**12)}
    assert found.served["flex"].pieces["webSearch"] == PiecePrice(5 * 10**9)
    assert found.served["flex"].pieces["request"] == PiecePrice(2 * 10**12)


@pytest.mark.parametrize(
    ("pieces", "path"),
    [
        ({"webSearches": "1"}, "unknown field"),
        ({"webSearch": 1}, "webSearch: a decimal"),
        ({"webSearch": "-1"}, "webSearch: a decimal"),
        ({"webSearch": "0.0000000000001"}, "webSearch: at most twelve decimals"),
        ([], "pieces: a mapping"),
    ],
)
def test_pieces_that_are_refused(pieces: object, path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        parse(entry(pieces=pieces), "c")


@pytest.fixture(scope="module")
def defaults() -> DefaultPrices:
    return DefaultPrices()


@pytest.mark.parametrize(
    ("provider", "model", "used", "nano_usd"),
    [
        ("openai", "gpt-4.1", {"webSearch": 2000}, 20_000_000),
        ("openai", "gpt-4.1", {"fileSearch": 1000}, 2_500_000),
        ("openai", "whisper-1", {"inputAudioSecond": 12_345}, 1_234_500),
        # 0.111 USD an hour: nothing is lost by rounding a second's price.
        ("groq", "whisper-large-v3", {"inputAudioSecond": 3_600_000}, 111_000_000),
        ("openai", "tts-1", {"inputCharacter": 5000}, 75_000),
        ("anthropic", "claude-sonnet-4-5", {"webSearch": 1000}, 10_000_000),
        ("gcp.gemini", "gemini-2.5-flash", {"webSearch": 1000}, 35_000_000),
        ("perplexity", "sonar", None, 12_000_000),
    ],
)
def test_default_prices(
    defaults: DefaultPrices, provider: str, model: str, used: Json | None, nano_usd: int
) -> None:
    catalog = load([], lambda path: b"", defaults)
    found = catalog.cost(provider, model, Usage(pieces=used), NOW, excludes_cache=False)
    assert (found.status, found.nano_usd) == ("Exact", nano_usd)
    assert found.parts()["pieces"] == found.parts()["total"] == nano_usd / 1e9


def test_default_prices_of_service_tiers(defaults: DefaultPrices) -> None:
    later = 1_792_000_000  # after 12 October 2026, when the table has these from
    found = defaults.find("openai", "gpt-4.1", later)
    assert found is not None
    assert found.rates.usd["input"] == 2
    assert found.served["priority"].rates.usd["input"] == 3.5
    assert found.served["priority"].rates.usd["cacheRead"] == 0.875
    assert found.served["priority"].pieces == found.pieces
    before = defaults.find("openai", "gpt-4.1", NOW - 10**7)
    assert before is not None
    assert "priority" not in before.served
