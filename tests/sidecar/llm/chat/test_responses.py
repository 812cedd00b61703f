"""Tests of sidecar.llm.chat.responses."""

from __future__ import annotations

import pytest

from sidecar.errors import RequestError
from sidecar.llm.chat.responses import FORMAT
from tests.sidecar.llm.chat.bodies import RESPONSES, RESPONSES_ANSWER, Json


def test_what_a_request_says() -> None:
    assert FORMAT.params(RESPONSES) == {"max_tokens": 9}
    assert FORMAT.prompt(RESPONSES) == [
        {"role": "system", "content": "be kind"},
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]
    assert FORMAT.prompt({"input": "hi"}) == [{"role": "user", "content": "hi"}]


def test_texts_of_a_request() -> None:
    assert [(p.role, p.kind, p.text) for p in FORMAT.request_texts(RESPONSES)] == [
        ("system", "systemPrompt", "be kind"),
        ("developer", "systemPrompt", "be brief"),
        ("user", "messages", "hi"),
        ("assistant", "messages", "hm"),
        ("assistant", "toolInput", '{"a":1}'),
        ("tool", "toolOutput", "42"),
        ("assistant", "toolInput", "free"),
    ]


def test_texts_of_an_answer() -> None:
    assert [p.text for p in FORMAT.response_texts(RESPONSES_ANSWER)] == ["hm", "done"]


def test_usage() -> None:
    usage = FORMAT.usage(RESPONSES_ANSWER, with_content=True)
    assert usage.completion == ["done"]
    assert (usage.input_tokens, usage.cached_input_tokens) == (10, 4)
    assert usage.output_messages[0]["finish_reason"] == "completed"


def test_enrichment_makes_a_list_of_a_string() -> None:
    body: Json = {"input": "own"}
    FORMAT.enrich(
        body, [{"role": "system", "content": "a"}], [{"role": "assistant", "content": "b"}]
    )
    assert body["input"] == [
        {
            "type": "message",
            "role": "system",
            "content": [{"type": "input_text", "text": "a"}],
        },
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "own"}],
        },
        {"type": "message", "role": "assistant", "content": "b"},
    ]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"input": 5}, "input"),
        ({"input": ["x"]}, r"input\[0\]"),
        ({"input": "x", "instructions": 5}, "instructions"),
    ],
    ids=str,
)
def test_wrong_shapes(body: Json, where: str) -> None:
    with pytest.raises(RequestError, match=f"^{where}: "):
        FORMAT.check(body)


def test_a_stored_prompt_needs_no_input() -> None:
    FORMAT.check({"model": "m", "prompt": {"id": "p"}})
