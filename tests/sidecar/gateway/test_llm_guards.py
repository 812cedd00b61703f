"""Guards over texts of one message: runs of texts, and the arguments of calls in whole answers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sidecar.gateway.llm_guard_judges import spread
from sidecar.gateway.llm_guards import Guards
from sidecar.http.message import Response
from sidecar.llm.chat.formats import FORMATS
from sidecar.llm.guard.masked import Masked, Span
from sidecar.llm.guard.subject import Subject
from tests.support.messages import request, services

SSN = "123-45-6789"
RULES = {"regex": {"rules": [{"builtin": "ssn"}, {"builtin": "creditCard"}]}}
REJECT = {"regex": {"action": "reject", "rules": [{"pattern": "secret"}]}}


def guards(**config: Any) -> Guards:
    return Guards(config, services(), lambda *_: None)


@pytest.mark.parametrize(
    ("texts", "spans", "wanted"),
    [
        (["abc", "def"], [(1, 2, "X"), (5, 6, "Y")], ["aXc", "dYf"]),
        (["abc", "def"], [(2, 5, "X")], ["abX", "ef"]),
        (["ab", "cd", "ef"], [(1, 7, "X")], ["aX", "", "f"]),
        (["ab", "", "cd"], [(0, 6, "X")], ["X", "", ""]),
        (["ab", "cd"], [(2, 3, "X")], ["ab", "cd"]),
        (["ab", "cd"], [(0, 1, "X"), (1, 4, "Y"), (4, 5, "Z")], ["XY", "Z"]),
    ],
)
def test_spans_over_a_run_of_texts(texts: list[str], spans: list[Span], wanted: list[str]) -> None:
    run = [Subject("user", "messages", Masked(text)) for text in texts]
    spread(spans, run, 1)
    assert [one.masked.text for one in run] == wanted


def answer(arguments: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}


async def test_arguments_of_answers_are_masked_and_refused() -> None:
    both = guards(response=[RULES, REJECT])
    form = FORMATS["completions"]
    body = answer(orjson.dumps({"ssn": SSN, "cards": [4111, 1111, 1111, 1111]}).decode())
    assert await both.on_answer(form, body, request()) is True
    sent = body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    # Numbers of a list are texts of their own, and make no card together.
    assert orjson.loads(sent) == {"ssn": "<SSN>", "cards": [4111, 1111, 1111, 1111]}
    for arguments in ('{"a": "my secret"}', '{"my secret": 1}', '{"a": "my \\u0073ecret"}'):
        refusal = await both.on_answer(form, answer(arguments), request())
        assert isinstance(refusal, Response)
    assert await both.on_answer(form, answer('{"a": 1}'), request()) is False


async def test_arguments_of_prompts_stay_json() -> None:
    scoped = guards(request=[{**RULES, "scope": ["toolInput"]}])
    call = answer(f'{{"ssn": "{SSN}"}}')["choices"][0]["message"]
    body = {"messages": [{"role": "user", "content": SSN}, call]}
    assert await scoped.on_request(FORMATS["completions"], body, request()) is None
    assert body["messages"][0]["content"] == SSN
    assert call["tool_calls"][0]["function"]["arguments"] == '{"ssn":"<SSN>"}'


async def test_a_long_text_is_searched_in_steps_to_the_same_end() -> None:
    text = "4111 " * 8_000 + SSN
    body = {"messages": [{"role": "user", "content": text}]}
    assert await guards(request=[RULES]).on_request(FORMATS["completions"], body, request()) is None
    assert body["messages"][0]["content"] == text.replace(SSN, "<SSN>")
