"""The choice of the format in which a provider is addressed."""

from __future__ import annotations

from typing import Final

import pytest

from sidecar.errors import RequestError
from sidecar.llm.convert import completions_to_responses, responses_to_messages
from sidecar.llm.convert.select import CHOICES, select

CASES: Final = {
    "same format": ("completions", {"completions", "messages"}, "completions"),
    "Gemini before its shim": (
        "completions",
        {"generateContent", "completions"},
        "generateContent",
    ),
    "messages on OpenAI": ("messages", {"responses", "completions"}, "completions"),
    "messages where only responses is": ("messages", {"responses"}, "responses"),
    "responses on Copilot's Claude": ("responses", {"messages", "completions"}, "completions"),
    "responses on Claude": ("responses", {"messages", "anthropicTokenCount"}, "messages"),
    "responses on Bedrock": ("responses", {"converse"}, "converse"),
    "completions where only responses is": ("completions", {"responses"}, "responses"),
    "completions on Claude": ("completions", {"messages"}, "messages"),
    "embeddings": ("embeddings", {"completions", "embeddings"}, "embeddings"),
}


@pytest.mark.parametrize(("client", "formats", "wanted"), CASES.values(), ids=CASES)
def test_choice(client: str, formats: set[str], wanted: str) -> None:
    upstream, conversion = select(client, formats)
    assert upstream == wanted
    assert (conversion is None) is (client == wanted)


def test_our_own_pairs() -> None:
    assert select("responses", {"messages"})[1] is responses_to_messages.CONVERSION
    assert select("completions", {"responses"})[1] is completions_to_responses.CONVERSION


@pytest.mark.parametrize(
    ("client", "formats"),
    [
        ("generateContent", {"completions"}),
        ("messages", {"generateContent"}),
        ("embeddings", {"completions"}),
        ("unheard-of", set()),
    ],
)
def test_no_way(client: str, formats: set[str]) -> None:
    with pytest.raises(RequestError, match="unsupported conversion") as caught:
        select(client, formats)
    assert caught.value.status == 400


def test_no_pair_twice() -> None:
    for choices in CHOICES.values():
        upstreams = [upstream for upstream, _ in choices]
        assert len(upstreams) == len(set(upstreams))
