"""Bedrock and Google: bodies and streams that are wrong somewhere, cut short, or split anywhere."""

from __future__ import annotations

import contextlib
import copy
import importlib
from typing import Any, Final

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import RequestError, UpstreamError
from sidecar.http.sse import encode_event
from sidecar.llm.chat.framing import EventDecoder
from sidecar.llm.convert.base import Conversion, StreamEvent
from sidecar.llm.shape import ShapeError
from tests.sidecar.llm.convert import cloud_samples as samples
from tests.sidecar.llm.convert.calls import context, decoded
from tests.sidecar.llm.convert.test_robust import JSON_VALUES, is_failure, spoil
from tests.support import eventstream

Json = dict[str, Any]
ALLOWED: Final = (ShapeError, RequestError, UpstreamError)
SLOW: Final = (HealthCheck.too_slow,)
"""A busy machine is no fault."""
CHATS: Final[dict[str, tuple[Json, Json, list[tuple[str, Json]]]]] = {
    "completions_to_converse": (
        samples.COMPLETIONS_REQUEST,
        samples.CONVERSE,
        samples.CONVERSE_EVENTS,
    ),
    "messages_to_converse": (samples.MESSAGES_REQUEST, samples.CONVERSE, samples.CONVERSE_EVENTS),
    "responses_to_converse": (samples.RESPONSES_REQUEST, samples.CONVERSE, samples.CONVERSE_EVENTS),
    "completions_to_gemini": (samples.COMPLETIONS_REQUEST, samples.GEMINI, samples.GEMINI_EVENTS),
}
UNARY: Final[dict[str, Json]] = {
    "embeddings_to_vertex": samples.EMBEDDINGS_REQUEST,
    "embeddings_to_bedrock": samples.EMBEDDINGS_REQUEST,
    "rerank_to_bedrock": samples.RERANK_REQUEST,
    "rerank_to_vertex": samples.RERANK_REQUEST,
    "count_tokens_to_bedrock": samples.COUNT_REQUEST,
    "count_tokens_to_vertex": samples.COUNT_REQUEST,
}
EVERY: Final[dict[str, tuple[Json, Json]]] = {
    **{name: (request, answer) for name, (request, answer, _) in CHATS.items()},
    **{name: (request, samples.UNARY_ANSWERS[name]) for name, request in UNARY.items()},
    "vertex_claude": (samples.MESSAGES_REQUEST, {}),
}
MODELS: Final = ("anthropic.claude-x", "amazon.nova-x", "cohere.embed-v4", "gemini-3-x", "titan")
CACHING: Final = {"cacheSystem": True, "cacheMessages": True, "cacheTools": True, "minTokens": 1}
every = pytest.mark.parametrize("name", EVERY)
every_chat = pytest.mark.parametrize("name", CHATS)


def conversion(name: str) -> Conversion:
    found: Conversion = importlib.import_module(f"sidecar.llm.convert.{name}").CONVERSION
    return found


def call(draw: Any, **fields: Any) -> Any:
    model = draw(st.sampled_from(MODELS))
    return context(model, settings={"region": "eu-west-1", "promptCaching": CACHING}, **fields)


@every
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_spoilt_request(name: str, data: st.DataObject) -> None:
    body = spoil(EVERY[name][0], data.draw)
    before = copy.deepcopy(body)
    out: Json = {}
    try:
        current = call(data.draw, rejects_loss=data.draw(st.booleans()))
        out = conversion(name).request(body, current)
    except ALLOWED:
        pass
    assert body == before
    orjson.dumps(out)


@every
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_spoilt_answer(name: str, data: st.DataObject) -> None:
    current = call(data.draw)
    with contextlib.suppress(*ALLOWED):
        conversion(name).request(EVERY[name][0], current)
    out: Json = {}
    with contextlib.suppress(*ALLOWED):
        out = conversion(name).response(spoil(EVERY[name][1], data.draw), current)
    orjson.dumps(out)


@every_chat
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_spoilt_stream(name: str, data: st.DataObject) -> None:
    given_events = spoil([list(pair) for pair in CHATS[name][2]], data.draw)
    converter = conversion(name).stream(context(is_streaming=True))
    frames: list[bytes] = []
    try:
        for pair in given_events:
            if isinstance(pair, list) and len(pair) == 2:
                event, body = pair
                if isinstance(event, str) and isinstance(body, dict | None):
                    frames += converter.feed(StreamEvent(event, body))
        frames += converter.finish()
    except ALLOWED:
        pass
    decoded(frames)


@every
@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(
    status=st.integers(400, 599),
    body=st.binary(max_size=30) | JSON_VALUES.map(orjson.dumps),
    inner=JSON_VALUES,
)
def test_any_error(name: str, status: int, body: bytes, inner: Any) -> None:
    shapes = (
        {"error": inner},
        [{"error": inner}],
        {"message": inner},
        {"error": {"status": inner}},
    )
    for given_body in (body, *map(orjson.dumps, shapes)):
        error = conversion(name).error(status, given_body, context())["error"]
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        assert error["type"]


@every
def test_requests_leave_the_body_alone(name: str) -> None:
    body = copy.deepcopy(EVERY[name][0])
    model = "amazon.titan" if name.startswith("embeddings") else "anthropic.claude-x"
    caching = {"promptCaching": CACHING}
    first = conversion(name).request(body, context(model, settings=caching))
    assert body == EVERY[name][0]
    assert conversion(name).request(body, context(model, settings=caching)) == first
    assert caching == {"promptCaching": CACHING}


@every
def test_empty_answers_are_refused(name: str) -> None:
    if name == "vertex_claude":
        return  # same format: what comes is what goes
    with pytest.raises(ALLOWED):
        conversion(name).response({}, context())


@pytest.mark.parametrize("name", UNARY)
def test_unary_calls_have_no_stream(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        conversion(name).stream(context())
    assert caught.value.status == 400


# --- streams --------------------------------------------------------------------------------


def run(name: str, events: list[StreamEvent]) -> list[tuple[str, Any]]:
    converter = conversion(name).stream(context(is_streaming=True))
    frames = [frame for event in events for frame in converter.feed(event)]
    return decoded(frames + converter.finish())


def provider_bytes(name: str) -> bytes:
    pairs = CHATS[name][2]
    if name.endswith("converse"):
        return b"".join(eventstream.event(kind, orjson.dumps(data)) for kind, data in pairs)
    return b"".join(encode_event(orjson.dumps(data)) for _, data in pairs)


def in_pieces(name: str, size: int) -> bytes:
    data = provider_bytes(name)
    decoder = EventDecoder("eventstream" if name.endswith("converse") else "sse")
    converter = conversion(name).stream(context(is_streaming=True))
    out: list[bytes] = []
    for start in range(0, len(data), size):
        for event in decoder.feed(data[start : start + size]):
            out += converter.feed(event)
    for event in decoder.finish():
        out += converter.feed(event)
    return b"".join(out + converter.finish())


@every_chat
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_stream_split_anywhere(name: str, size: int) -> None:
    whole = in_pieces(name, 1_000_000)
    assert whole
    assert in_pieces(name, size) == whole


@every_chat
def test_stream_cut_after_every_event(name: str) -> None:
    """A client always learns that the answer is not whole, once and last."""
    events = samples.events(CHATS[name][2])
    ends = next(
        index
        for index, event in enumerate(events)
        if event.name == "messageStop" or b"finishReason" in orjson.dumps(event.data)
    )
    for count in range(len(events) + 1):
        frames = run(name, events[:count])
        failures = [index for index, (_, data) in enumerate(frames) if is_failure(data)]
        assert failures == ([len(frames) - 1] if count <= ends else []), count


@every_chat
def test_stream_error(name: str) -> None:
    error = StreamEvent("throttlingException", {"message": "slow down"})
    if name == "completions_to_gemini":
        told = {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}
        error = StreamEvent("", {"error": told})
    events = samples.events(CHATS[name][2])
    for count in (0, 1, 3):
        frames = run(name, [*events[:count], error, *events[count:]])
        assert [is_failure(data) for _, data in frames].count(True) == 1
        assert is_failure(frames[-1][1])
        assert "slow down" in str(frames[-1][1])
        assert "rate_limit" in str(frames[-1][1])


@every_chat
def test_nothing_follows_the_end(name: str) -> None:
    events = samples.events(CHATS[name][2])
    converter = conversion(name).stream(context())
    for event in events:
        converter.feed(event)
    converter.finish()
    assert [frame for event in events for frame in converter.feed(event)] == []
    assert converter.finish() == []


@every_chat
def test_unknown_events_are_ignored(name: str) -> None:
    events = samples.events(CHATS[name][2])
    more = [item for event in events for item in (event, StreamEvent("future", {"x": 1}))]
    assert run(name, more) == run(name, events)


@every_chat
def test_loss_is_told_or_refused(name: str) -> None:
    current = context("anthropic.claude-x")
    conversion(name).request(CHATS[name][0], current)
    assert current.dropped
    with pytest.raises(RequestError) as caught:
        conversion(name).request(CHATS[name][0], context(rejects_loss=True))
    assert caught.value.status == 400
