"""Arguments of tool calls: as texts, and JSON again."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.llm.chat.base import TextPart
from sidecar.llm.chat.loose import Field, JsonField
from sidecar.llm.guard.answer_calls import ANSWER_CALLS
from sidecar.llm.guard.arguments import MAX_VALUES, Arguments
from sidecar.llm.guard.masked import Masked
from sidecar.llm.guard.subject import CallTexts, Texts
from sidecar.llm.guard.verdict import GuardError


def replaced(text: str, old: str, new: str) -> str:
    """The arguments with every text of that kind replaced, as a guard would."""
    call = CallTexts(text)
    for subject in call.subjects:
        at = subject.masked.text.find(old)
        if at >= 0:
            subject.masked.edit([(at, at + len(old), new)])
    return call.text()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"a": "my 123", "b": [1, {"c": "123"}]}', '{"a":"my <N>","b":[1,{"c":"<N>"}]}'),
        ('{"a": 123, "b": true, "c": null}', '{"a":"<N>","b":true,"c":null}'),
        ('{"a": 0.123}', '{"a":"0.<N>"}'),
        ('{"123": {"123": 1}}', '{"<N>":{"<N>":1}}'),
        (r'{"a": "\u0031\u0032\u0033"}', '{"a":"<N>"}'),
        ('{"a": "x"}', '{"a": "x"}'),
        ('{"a": 12345678901234567890123, "b": "123"}', '{"a":"<N>45678901234567890123","b":"<N>"}'),
        # No JSON, or no arguments of a function: text.
        ("call 123 now", "call <N> now"),
        ('{"a": "123', '{"a": "<N>'),
        ("123", "<N>"),
        ("", ""),
    ],
)
def test_masks_leave_json(text: str, wanted: str) -> None:
    assert replaced(text, "123", "<N>") == wanted


def test_of_a_repeated_key_the_client_gets_what_was_judged() -> None:
    assert replaced('{"a": "secret", "a": "x"}', "secret", "") == '{"a":"x"}'


def test_deep_arguments_are_one_text() -> None:
    text = "[" * 5000 + '"123"' + "]" * 5000
    assert replaced(text, "123", "<N>") == text.replace("123", "<N>")


def test_too_many_arguments() -> None:
    with pytest.raises(GuardError, match="arguments"):
        Arguments(json.dumps(list(range(MAX_VALUES + 1))))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON))
def test_any_mask_leaves_json(value: dict[str, Any]) -> None:
    call = CallTexts(json.dumps(value))
    for number, subject in enumerate(call.subjects):
        subject.masked.edit([(0, len(subject.masked.text), f'"{number}\\')])
    assert isinstance(json.loads(call.text()), dict)
    assert json.loads(CallTexts(json.dumps(value)).text()) == value


ARGUMENTS = '{"to": "a@b.example"}'
ANSWERS: dict[str, dict[str, Any]] = {
    "completions": {
        "choices": [
            {
                "message": {
                    "tool_calls": [
                        {"type": "function", "function": {"name": "f", "arguments": ARGUMENTS}},
                        {"type": "custom", "custom": {"name": "g", "input": ARGUMENTS}},
                        {"function": None},
                    ],
                    "function_call": {"name": "f", "arguments": ARGUMENTS},
                }
            },
            {"message": None},
        ]
    },
    "messages": {
        "content": [
            {"type": "text", "text": "hm"},
            {"type": "tool_use", "name": "f", "input": {"to": "a@b.example"}},
            {"type": "server_tool_use", "name": "g", "input": {"query": "a@b.example"}},
            {"type": "tool_use", "name": "h", "input": {}},
        ]
    },
    "responses": {
        "output": [
            {"type": "function_call", "arguments": ARGUMENTS},
            {"type": "custom_tool_call", "input": "mail a@b.example"},
            {"type": "mcp_call", "arguments": ARGUMENTS},
            {"type": "web_search_call", "action": {"query": "a@b.example"}},
            {"type": "message", "content": []},
        ]
    },
    "generateContent": {
        "candidates": [
            {"content": {"parts": [{"functionCall": {"name": "f", "args": {"to": "a@b.example"}}}]}}
        ]
    },
}


@pytest.mark.parametrize("name", ANSWERS)
def test_calls_of_answers(name: str) -> None:
    body = orjson.loads(orjson.dumps(ANSWERS[name]))
    before = orjson.dumps(body).count(b"a@b.example")
    texts = Texts(list(ANSWER_CALLS[name](body)))
    for subject in texts.subjects:
        start = subject.masked.text.find("a@b.example")
        if start >= 0:
            subject.masked.edit([(start, start + len("a@b.example"), "<M>")])
    assert texts.write() is True
    after = orjson.dumps(body)
    assert (after.count(b"<M>"), b"a@b" in after) == (before, False)


def test_a_value_stays_a_value_and_a_text_a_text() -> None:
    body: dict[str, Any] = {"value": {"a": "b"}, "text": "b", "args": '{"a": "b"}'}
    parts: list[TextPart] = [
        JsonField("tool", "toolOutput", body, "value"),
        Field("user", "messages", body, "text"),
        Field("assistant", "toolInput", body, "args"),
    ]
    texts = Texts(parts)
    kinds = [(one.role, one.kind, one.is_key) for one in texts.subjects]
    assert kinds == [
        ("tool", "toolOutput", False),
        ("tool", "toolOutput", True),
        ("user", "messages", False),
        ("assistant", "toolInput", False),
        ("assistant", "toolInput", True),
    ]
    assert texts.write() is False
    for subject in Texts(parts).subjects:
        assert isinstance(subject.masked, Masked)
