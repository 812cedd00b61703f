"""What Anthropic's clients send, to providers of other formats: one rule for all of them."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.llm.convert import messages_to_completions, messages_to_converse, messages_to_responses
from sidecar.llm.convert.base import Conversion
from tests.sidecar.llm.convert.calls import context, text_of

Json = dict[str, Any]
PAIRS: Final[dict[str, Conversion]] = {
    "completions": messages_to_completions.CONVERSION,
    "responses": messages_to_responses.CONVERSION,
    "converse": messages_to_converse.CONVERSION,
}
FOUND: Final[Json] = {
    "type": "search_result",
    "title": "T",
    "source": "https://a.test",
    "content": [{"type": "text", "text": "found"}],
}
TEXTS: Final[Json] = {
    "type": "document",
    "source": {"type": "content", "content": [{"type": "text", "text": "found"}]},
}


def request(pair: str, body: Json, model: str = "m") -> tuple[Json, list[str]]:
    call = context(model)
    base = {"max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}
    return PAIRS[pair].request(base | body, call), call.dropped


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("block", [FOUND, TEXTS], ids=["search result", "texts"])
def test_texts_stay_texts(pair: str, block: Json) -> None:
    result = {"type": "tool_result", "tool_use_id": "1", "content": [block]}
    for content in ([block], [result]):
        out, dropped = request(pair, {"messages": [{"role": "user", "content": content}]})
        assert "found" in text_of(out)
        assert dropped == []


@pytest.mark.parametrize("pair", PAIRS)
def test_the_betas_word_for_the_answers_form(pair: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object", "title": "beta"}}
    old, _ = request(pair, {"output_format": form})
    new, _ = request(pair, {"output_config": {"format": form}})
    assert "beta" in text_of(old)
    assert old == new
    assert request(pair, {"output_format": "markdown"}) == request(pair, {})


SAMPLING: Final = {
    "gpt-4o": (None, ["stop", "temperature", "top_p"]),
    "o3": (None, []),
    "gpt-5-mini": (None, []),
    "gpt-5-chat-latest": (None, ["stop", "temperature", "top_p"]),
    "gpt-5.2": (None, ["stop", "temperature", "top_p"]),
    "openai/gpt-5.2": ("low", ["stop"]),
    "gpt-5.1-codex-max": (None, ["stop"]),
    "openai/gpt-5.2-pro": (None, ["stop"]),
    "mistral-large": ("low", ["stop", "temperature", "top_p"]),
}


@pytest.mark.parametrize("model", SAMPLING)
def test_settings_that_models_refuse(model: str) -> None:
    effort, kept = SAMPLING[model]
    body: Json = {"temperature": 0.5, "top_p": 0.5, "stop_sequences": ["A"]}
    if effort is not None:
        body |= {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
    out, dropped = request("completions", body, model)
    assert [key for key in ("stop", "temperature", "top_p") if key in out] == kept
    names = {"stop": "stop_sequences"}
    told = [names.get(key, key) for key in ("stop", "temperature", "top_p") if key not in kept]
    assert dropped == told


def test_what_a_model_does_anyway_is_not_told() -> None:
    assert request("responses", {"temperature": 1}, "o3")[1] == []


@pytest.mark.parametrize("pair", PAIRS)
def test_no_choice_among_tools_that_are_left_out(pair: str) -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    called = [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f"}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]},
    ]
    body = {"tools": [search], "tool_choice": {"type": "any"}, "messages": called}
    out, dropped = request(pair, body)
    assert "hoice" not in text_of(out)
    assert dropped == ["tool web_search_20250305"]


@pytest.mark.parametrize("pair", PAIRS)
def test_names_that_only_anthropic_takes_come_back(pair: str) -> None:
    name = "mcp__" + "n" * 70
    call = context("m")
    body = {
        "max_tokens": 99,
        "tools": [{"name": name, "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": name},
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": name}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]},
        ],
    }
    text = text_of(PAIRS[pair].request(body, call))
    ((sent, known),) = call.tool_names.items()
    assert (len(sent), known) == (64, name)
    assert name not in text
    assert text.count(sent) == 3


def test_a_name_comes_back_as_the_client_knows_it() -> None:
    call = context("m", tool_names={"short": "long"})
    function = {"name": "short", "arguments": "{}"}
    message = {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]}
    body = {"id": "x", "model": "m", "choices": [{"message": message}]}
    assert PAIRS["completions"].response(body, call)["content"][0]["name"] == "long"
