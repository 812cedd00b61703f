"""Tests of sidecar.llm.chat.messages and of count_tokens, which shares its requests."""

from __future__ import annotations

import orjson
import pytest

from sidecar.errors import RequestError
from sidecar.llm.chat import count_tokens
from sidecar.llm.chat.messages import FORMAT
from tests.sidecar.llm.chat.bodies import MESSAGES, MESSAGES_ANSWER, Json


def test_what_a_request_says() -> None:
    assert FORMAT.model(MESSAGES) == "claude-x"
    assert FORMAT.is_streaming(MESSAGES)
    assert FORMAT.params(MESSAGES) == {"temperature": 1, "max_tokens": 9}
    assert FORMAT.prompt(MESSAGES) == [
        {"role": "system", "content": "be kind\nbe brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "I will"},
        {"role": "user", "content": "and now"},
    ]


def test_texts_of_a_request() -> None:
    assert [(p.role, p.kind, p.text) for p in FORMAT.request_texts(MESSAGES)] == [
        ("system", "systemPrompt", "be kind"),
        ("system", "systemPrompt", "be brief"),
        ("user", "messages", "hello"),
        ("assistant", "messages", "hm"),
        ("assistant", "messages", "I will"),
        ("assistant", "toolInput", '{"a":1}'),
        ("user", "toolOutput", "42"),
        ("user", "messages", "a page"),
        ("user", "messages", "and now"),
    ]


def test_a_replaced_tool_input_stays_an_object() -> None:
    body: Json = {
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "input": {"mail": "a@b.c"}}]}
        ]
    }
    (part,) = FORMAT.request_texts(body)
    part.replace(part.text.replace("a@b.c", "<EMAIL_ADDRESS>"))
    block = body["messages"][0]["content"][0]
    assert block["input"] == {"mail": "<EMAIL_ADDRESS>"}
    part.replace("no json")
    assert block["input"] == {"text": "no json"}


def test_texts_of_an_answer() -> None:
    assert [p.text for p in FORMAT.response_texts(MESSAGES_ANSWER)] == ["hm", "done"]


def test_usage() -> None:
    assert FORMAT.usage(MESSAGES_ANSWER, with_content=True).as_dict() == {
        "input_tokens": 7,
        "output_tokens": 3,
        "total_tokens": 10,
        "cached_input_tokens": 2,
        "provider_model": "claude-x-1",
        "completion": ["done"],
        "output_messages": [
            {
                "role": "assistant",
                "content": [{"type": "tool_call", "id": "t2", "name": "f", "arguments": {"a": 2}}],
                "finish_reason": "tool_use",
            }
        ],
    }


def test_the_last_word_of_a_stream_counts() -> None:
    reader = FORMAT.reader()
    first = {"usage": {"input_tokens": 90, "output_tokens": 1}}
    reader.feed("", {"type": "message_start", "message": first})
    last = {"input_tokens": 9, "output_tokens": 20, "cache_read_input_tokens": 81}
    reader.feed("", {"type": "message_delta", "delta": {}, "usage": last})
    assert reader.usage.as_dict() == {
        "input_tokens": 9,
        "output_tokens": 20,
        "total_tokens": 29,
        "cached_input_tokens": 81,
    }


def test_enrichment_of_a_system_string() -> None:
    body: Json = {"system": "own", "messages": []}
    FORMAT.enrich(body, [{"role": "system", "content": "a"}], [{"role": "system", "content": "b"}])
    assert [block["text"] for block in body["system"]] == ["a", "own", "b"]


def test_enrichment_without_system_leaves_it_alone() -> None:
    body: Json = {"system": "own", "messages": []}
    FORMAT.enrich(body, [{"role": "user", "content": "a"}], [])
    assert body == {"system": "own", "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1]}, r"messages\[0\]"),
        ({"messages": [], "system": 5}, "system"),
        ({"messages": [], "system": ["x"]}, r"system\[0\]"),
        ({"messages": [], "stream": "yes"}, "stream"),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", [FORMAT, count_tokens.FORMAT], ids=["messages", "count_tokens"])
def test_wrong_shapes(form: object, body: Json, where: str) -> None:
    assert form in (FORMAT, count_tokens.FORMAT)
    with pytest.raises(RequestError, match=f"^{where}: "):
        (FORMAT if form is FORMAT else count_tokens.FORMAT).check(body)


def test_a_count() -> None:
    assert count_tokens.FORMAT.usage({"input_tokens": 12}).as_dict() == {"count_tokens": 12}


def test_texts_however_deep_they_are_nested() -> None:
    head, tail = b'{"type":"tool_result","content":[', b"]}"
    inner = head * 500 + b'{"type":"text","text":"x"}' + tail * 500
    body = orjson.loads(b'{"messages":[{"role":"user","content":[' + inner + b"]}]}")
    assert [(p.kind, p.text) for p in FORMAT.request_texts(body)] == [("toolOutput", "x")]


def test_cache_writes_of_an_hour() -> None:
    kept = {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}
    answer = {
        "type": "message",
        "usage": {"input_tokens": 1, "cache_creation_input_tokens": 7, "cache_creation": kept},
    }
    usage = FORMAT.usage(answer)
    assert usage.cache_creation_input_tokens == 7
    assert usage.long_cache_creation_input_tokens == 4
    answer["usage"] = {"cache_creation": {"ephemeral_1h_input_tokens": 0}}
    assert FORMAT.usage(answer).as_dict() == {}
