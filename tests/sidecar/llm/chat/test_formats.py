"""Tests of what all wire formats promise, over every format of sidecar.llm.chat.formats."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import RequestError
from sidecar.llm.chat.formats import CHAT, FORMATS
from tests.sidecar.llm.chat.bodies import ANSWERS, EVENTS, REQUESTS, Json

JUNK = st.sampled_from([None, True, 0, -1, 1.5, 2**63, "", "x", [], [1], [None], {}, {"a": 1}]).map(
    copy.deepcopy
)


@st.composite
def spoilt(draw: st.DrawFn, body: Json) -> Json:
    """The body with some values, anywhere in it, replaced or removed."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = body
        while holder:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
                holder = holder[key]
                continue
            if draw(st.booleans()):
                holder[key] = draw(JUNK)
            else:
                del holder[key]
            break
    return body


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_spoilt_requests(name: str, data: st.DataObject) -> None:
    """`check` refuses in its own way, and nothing else raises, checked or not."""
    form = FORMATS[name]
    body = data.draw(spoilt(REQUESTS[name]) if REQUESTS[name] else st.just({}))
    with contextlib.suppress(RequestError):
        form.check(body)
    form.model(body)
    form.is_streaming(body)
    form.params(body)
    form.prompt(body)
    for part in form.request_texts(body):
        assert isinstance(part.text, str)
        part.replace("masked")
    form.enrich(body, [{"role": "system", "content": "s"}], [{"role": "user", "content": "u"}])


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_spoilt_answers(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    body = data.draw(spoilt(ANSWERS[name]))
    usage = form.usage(body, with_content=True)
    orjson.dumps(usage.as_dict())
    for part in form.response_texts(body):
        assert isinstance(part.text, str)
        part.replace("masked")


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data(), with_content=st.booleans())
def test_spoilt_streams(name: str, data: st.DataObject, with_content: bool) -> None:
    reader = FORMATS[name].reader(with_content=with_content)
    for event, body in EVENTS.get(name, EVENTS["messages"]):
        reader.feed(event, data.draw(spoilt(body)))
        reader.feed(event, None)
    orjson.dumps(reader.usage.as_dict(), option=orjson.OPT_NON_STR_KEYS)


@pytest.mark.parametrize("name", FORMATS)
def test_valid_requests_pass_the_check(name: str) -> None:
    FORMATS[name].check(copy.deepcopy(REQUESTS[name]))


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"detect", "converse", "realtime"}))
@pytest.mark.parametrize("model", [1, [], {}])
def test_a_model_must_be_a_string(name: str, model: object) -> None:
    with pytest.raises(RequestError, match="model: a string expected") as caught:
        FORMATS[name].check(REQUESTS[name] | {"model": model})
    assert (caught.value.status, caught.value.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("name", sorted(CHAT))
def test_masking_reaches_every_text(name: str) -> None:
    """Replacing every text leaves none of the old ones in the body."""
    form = FORMATS[name]
    for bodies, read in ((REQUESTS, form.request_texts), (ANSWERS, form.response_texts)):
        body = copy.deepcopy(bodies[name])
        old = [part.text for part in read(body)]
        for part in read(body):
            part.replace("MASK")
        assert old
        new = [part.text for part in read(body)]
        assert set(new) <= {"MASK", '{"text":"MASK"}'}
        assert len(new) == len(old)


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_a_stream_tells_what_it_said(name: str) -> None:
    reader = FORMATS[name].reader(with_content=True)
    had_text = [reader.feed(event, body) for event, body in EVENTS[name]]
    assert any(had_text)
    usage = reader.usage
    assert usage.completion == ["done"]
    if name != "realtime":
        (message,) = usage.output_messages
        assert message["content"] == [
            {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": 1}}
        ]
        assert "finish_reason" in message
    assert usage.input_tokens
    assert usage.output_tokens
    assert reader.usage.as_dict() == usage.as_dict()  # looking does not change it


@pytest.mark.parametrize("name", sorted(EVENTS.keys() - {"realtime"}))
def test_a_stream_without_content_counts_the_same(name: str) -> None:
    light, full = (FORMATS[name].reader(with_content=content) for content in (False, True))
    for event, body in EVENTS[name]:
        assert light.feed(event, body) == full.feed(event, body)
    counted = full.usage.as_dict()
    del counted["completion"], counted["output_messages"]
    assert light.usage.as_dict() == counted


ERRORS: dict[str, tuple[Json, bytes]] = {
    "completions": (
        {
            "error": {
                "message": "slow down",
                "type": "rate_limit_error",
                "param": None,
                "code": "budget_exceeded",
            }
        },
        b'data: {"error":{"message":"slow down",',
    ),
    "messages": (
        {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}},
        b'event: error\ndata: {"type":"error",',
    ),
    "generateContent": (
        {
            "error": {
                "code": 429,
                "message": "slow down",
                "status": "RESOURCE_EXHAUSTED",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "budget_exceeded",
                    }
                ],
            }
        },
        b'data: {"error":{"code":429,',
    ),
}
for like, names in {
    "completions": ("responses", "embeddings", "rerank", "detect", "realtime", "converse"),
    "messages": ("anthropicTokenCount",),
    "generateContent": ("geminiCountTokens",),
}.items():
    ERRORS |= dict.fromkeys(names, ERRORS[like])
ERRORS["responses"] = (ERRORS["completions"][0], b'event: error\ndata: {"type":"error",')
ERRORS["realtime"] = (ERRORS["completions"][0], b'{"type":"error","error":{')


@pytest.mark.parametrize("name", FORMATS)
def test_errors_in_the_clients_shape(name: str) -> None:
    body, begin = ERRORS[name]
    form = FORMATS[name]
    assert form.error(429, "slow down", code="budget_exceeded") == body
    frame = form.error_frame(429, "slow down", code="budget_exceeded")
    assert frame.startswith(begin)
    assert orjson.loads(frame[frame.index(b"{") :])["error"] == body["error"]
    assert name == "realtime" or frame.endswith(b"\n\n")
