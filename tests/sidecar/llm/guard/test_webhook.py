"""What is said to and by a guard webhook."""

from __future__ import annotations

import orjson
import pytest

from sidecar.llm.guard.webhook import Phase, Refused, WebhookError, decode, encode


def test_bodies() -> None:
    texts = [("user", "a"), ("assistant", "b")]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert orjson.loads(encode("Request", texts)) == {"body": {"messages": messages}}
    choices = [{"message": message} for message in messages]
    assert orjson.loads(encode("Response", texts)) == {"body": {"choices": choices}}


@pytest.mark.parametrize(
    ("phase", "action", "wanted"),
    [
        ("Request", {}, None),
        ("Request", {"reason": "ok"}, None),
        ("Request", {"body": "no", "status_code": 400}, Refused(b"no", 400)),
        ("Request", {"body": {"messages": [{"role": "user", "content": "x"}]}}, ["x"]),
        ("Response", {"body": {"choices": [{"message": {"content": "x"}}]}}, ["x"]),
    ],
)
def test_answers(phase: Phase, action: object, wanted: object) -> None:
    assert decode(phase, orjson.dumps({"action": action}), 1) == wanted


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"action": "pass"}',
        b'{"action": {"body": "no"}}',
        b'{"action": {"body": "no", "status_code": 999}}',
        b'{"action": {"body": "no", "status_code": true}}',
        b'{"action": {"body": {"messages": []}}}',
        b'{"action": {"body": {"messages": [{"content": 1}]}}}',
        b'{"action": {"body": {"choices": [{"message": {"content": "x"}}]}}}',
        b'{"action": {"body": null, "reason": "?"}}',
        b'{"action": {"status_code": 403}}',
    ],
)
def test_what_is_not_understood_is_no_pass(answer: bytes) -> None:
    with pytest.raises(WebhookError):
        decode("Request", answer, 1)
