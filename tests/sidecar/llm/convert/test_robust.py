"""Bodies and streams that are wrong somewhere: every pair names the fault or copes, and no more."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import RequestError, UpstreamError
from sidecar.llm.convert import (
    completions_to_messages,
    completions_to_responses,
    messages_to_completions,
    messages_to_responses,
    responses_to_completions,
    responses_to_messages,
)
from sidecar.llm.convert.base import Conversion, StreamEvent
from sidecar.llm.shape import ShapeError
from tests.sidecar.llm.convert import samples
from tests.sidecar.llm.convert.calls import (
    as_bytes,
    context,
    decoded,
    stream,
    stream_in_pieces,
)

Json = dict[str, Any]
ALLOWED: Final = (ShapeError, RequestError, UpstreamError)

REQUESTS: Final = {
    "completions": samples.COMPLETIONS_REQUEST,
    "messages": samples.MESSAGES_REQUEST,
    "responses": samples.RESPONSES_REQUEST,
}
ANSWERS: Final = {
    "completions": (samples.COMPLETION, samples.COMPLETION_CHUNKS),
    "messages": (samples.MESSAGE, samples.MESSAGE_EVENTS),
    "responses": (samples.RESPONSE, samples.RESPONSE_EVENTS),
}
PAIRS: Final[dict[tuple[str, str], Conversion]] = {
    ("completions", "messages"): completions_to_messages.CONVERSION,
    ("completions", "responses"): completions_to_responses.CONVERSION,
    ("messages", "completions"): messages_to_completions.CONVERSION,
    ("messages", "responses"): messages_to_responses.CONVERSION,
    ("responses", "completions"): responses_to_completions.CONVERSION,
    ("responses", "messages"): responses_to_messages.CONVERSION,
}
LAST: Final = {
    "completions": ("", None),
    "messages": ("message_stop", "message_stop"),
    "responses": ("response.completed", "response.completed"),
}
"""Client format → (name, type) of the last event of a whole stream."""

every_pair = pytest.mark.parametrize(
    ("client", "upstream"), PAIRS, ids=["_to_".join(pair) for pair in PAIRS]
)

JSON_VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["text", "tool_use", "message", "function_call", "data:;base64,"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "content", "id"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def spoil(value: Any, draw: Any) -> Any:
    """A copy with one to three places replaced or removed."""
    spoilt = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(spoilt))
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        holder = spoilt
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.booleans()):
            holder[path[-1]] = draw(JSON_VALUES)
        else:
            del holder[path[-1]]
    # What the gateway decodes was once bytes.
    return orjson.loads(orjson.dumps(spoilt))


@every_pair
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_spoilt_request(client: str, upstream: str, data: st.DataObject) -> None:
    body = spoil(REQUESTS[client], data.draw)
    before = copy.deepcopy(body)
    try:
        out = PAIRS[client, upstream].request(body, context(rejects_loss=data.draw(st.booleans())))
    except ALLOWED:
        out = {}
    assert body == before
    orjson.dumps(out)


@every_pair
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_spoilt_answer(client: str, upstream: str, data: st.DataObject) -> None:
    body = spoil(ANSWERS[upstream][0], data.draw)
    try:
        out = PAIRS[client, upstream].response(body, context())
    except ALLOWED:
        out = {}
    orjson.dumps(out)


@every_pair
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_spoilt_stream(client: str, upstream: str, data: st.DataObject) -> None:
    events = spoil(ANSWERS[upstream][1], data.draw)
    converter = PAIRS[client, upstream].stream(context())
    frames: list[bytes] = []
    try:
        for event in events:
            if isinstance(event, dict | None):
                frames += converter.feed(StreamEvent("", event))
        frames += converter.finish()
    except ALLOWED:
        pass
    decoded(frames)


@every_pair
@settings(max_examples=150, deadline=None)
@given(
    status=st.integers(400, 599),
    body=st.binary(max_size=30) | JSON_VALUES.map(orjson.dumps),
    inner=JSON_VALUES,
)
def test_any_error(client: str, upstream: str, status: int, body: bytes, inner: Any) -> None:
    conversion = PAIRS[client, upstream]
    for given_body in (body, orjson.dumps({"error": inner}), orjson.dumps([{"error": inner}])):
        error = conversion.error(status, given_body, context())["error"]
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)


@every_pair
def test_requests_leave_the_client_body_alone(client: str, upstream: str) -> None:
    body = copy.deepcopy(REQUESTS[client])
    first = PAIRS[client, upstream].request(body, context())
    assert body == REQUESTS[client]
    assert PAIRS[client, upstream].request(body, context()) == first


@every_pair
@pytest.mark.parametrize("body", [{}, {"messages": [], "input": []}], ids=["bare", "empty"])
def test_bare_bodies(client: str, upstream: str, body: Json) -> None:
    out = PAIRS[client, upstream].request(body, context("provider-model"))
    assert out["model"] == "provider-model"
    with pytest.raises(ALLOWED):
        PAIRS[client, upstream].response({}, context())


@every_pair
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_stream_split_anywhere(client: str, upstream: str, size: int) -> None:
    data = as_bytes(ANSWERS[upstream][1])
    whole = stream_in_pieces(PAIRS[client, upstream], data, len(data))
    assert whole
    assert stream_in_pieces(PAIRS[client, upstream], data, size) == whole


@every_pair
def test_stream_ends_well(client: str, upstream: str) -> None:
    frames = stream(PAIRS[client, upstream], ANSWERS[upstream][1])
    name, kind = LAST[client]
    assert frames[-1][0] == name
    assert (frames[-1][1] or {}).get("type") == kind
    assert not any(is_failure(data) for _, data in frames)


def is_failure(data: Json | None) -> bool:
    """Whether a client of any format sees that the answer failed."""
    return data is not None and ("error" in data or data.get("type") == "response.failed")


@every_pair
def test_stream_cut_after_every_event(client: str, upstream: str) -> None:
    """A client always learns that the answer is not whole, once and last."""
    events = ANSWERS[upstream][1]
    final = {"completions": 9, "messages": len(events) - 1, "responses": len(events) - 1}
    for count in range(final[upstream]):
        frames = stream(PAIRS[client, upstream], events[:count])
        failures = [index for index, (_, data) in enumerate(frames) if is_failure(data)]
        assert failures == [len(frames) - 1], count


@every_pair
def test_stream_error_event(client: str, upstream: str) -> None:
    error = {"type": "rate_limit_error", "message": "slow down"}
    by_format: dict[str, Json] = {
        "completions": {"error": error},
        "messages": {"type": "error", "error": error},
        "responses": {"type": "error", "code": "rate_limit_exceeded", "message": "slow down"},
    }
    event = by_format[upstream]
    events = ANSWERS[upstream][1]
    for count in (0, 1, 5):
        frames = stream(PAIRS[client, upstream], [*events[:count], event, *events[count:]])
        assert [is_failure(data) for _, data in frames].count(True) == 1
        assert is_failure(frames[-1][1])
        assert "slow down" in str(frames[-1][1])
        assert "rate_limit" in str(frames[-1][1])


@every_pair
def test_nothing_follows_the_end(client: str, upstream: str) -> None:
    events = [event for event in ANSWERS[upstream][1] if event is not None]
    converter = PAIRS[client, upstream].stream(context())
    for event in ANSWERS[upstream][1]:
        converter.feed(StreamEvent("", event))
    for event in events:
        assert converter.feed(StreamEvent("", event)) == []
    assert converter.finish() == []


@every_pair
def test_loss_is_told_or_refused(client: str, upstream: str) -> None:
    call = context()
    PAIRS[client, upstream].request(REQUESTS[client], call)
    assert call.dropped
    with pytest.raises(RequestError) as caught:
        PAIRS[client, upstream].request(REQUESTS[client], context(rejects_loss=True))
    assert caught.value.status == 400
    assert {"completions": "n", "responses": "store", "messages": "top_k"}[client] in call.dropped
