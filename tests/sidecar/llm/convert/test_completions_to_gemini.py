"""Chat completions over Google's generateContent."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.errors import RequestError, UpstreamError
from sidecar.llm.convert.completions_to_gemini import CONVERSION
from tests.sidecar.llm.convert import cloud_samples as samples
from tests.sidecar.llm.convert.calls import Frame, context, decoded
from tests.sidecar.llm.convert.samples import PDF, PNG, SCHEMA

Json = dict[str, Any]
FILLER: Final = {"text": " "}
TOOL: Final[Json] = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


def request(body: Json, **fields: Any) -> Json:
    base = {"messages": [{"role": "user", "content": "Hi"}]}
    return CONVERSION.request(base | body, context(**fields))


def image(url: str, **fields: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def parts(*content: Json) -> list[Json]:
    out = request({"messages": [{"role": "user", "content": list(content)}]})
    found: list[Json] = out["contents"][0]["parts"]
    return found


PARTS: Final[dict[str, tuple[Json, list[Json]]]] = {
    "text": ({"type": "text", "text": "a"}, [{"text": "a"}]),
    "image": (
        image(PNG),
        [{"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}, FILLER],
    ),
    "jpg": (
        image("data:image/jpg;base64,AA=="),
        [{"inlineData": {"mimeType": "image/jpeg", "data": "AA=="}}, FILLER],
    ),
    "stored, by extension": (
        image("gs://b/a.webp"),
        [{"fileData": {"mimeType": "image/webp", "fileUri": "gs://b/a.webp"}}, FILLER],
    ),
    "stored, by format": (
        image("gs://b/a", format="png"),
        [{"fileData": {"mimeType": "image/png", "fileUri": "gs://b/a"}}, FILLER],
    ),
    "stored, by media type": (
        image("gs://b/a.webp", mime_type="image/heic"),
        [{"fileData": {"mimeType": "image/heic", "fileUri": "gs://b/a.webp"}}, FILLER],
    ),
    "audio": (
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}},
        [{"inlineData": {"mimeType": "audio/mp3", "data": "AA=="}}, FILLER],
    ),
    "file": (
        {"type": "file", "file": {"file_data": PDF}},
        [{"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}}, FILLER],
    ),
    "unknown": ({"type": "video"}, [FILLER]),
}


@pytest.mark.parametrize(("content", "wanted"), PARTS.values(), ids=PARTS)
def test_part(content: Json, wanted: list[Json]) -> None:
    assert parts(content) == wanted


@pytest.mark.parametrize("url", ["https://a.test/b.png", "gs://b/a", "file.png"])
def test_images_it_cannot_send_are_refused(url: str) -> None:
    with pytest.raises(RequestError) as caught:
        parts(image(url))
    assert caught.value.status == 400


def test_no_message_is_one_turn() -> None:
    out = request({"messages": [{"role": "system", "content": "a"}]})
    assert out["contents"] == [{"role": "user", "parts": [FILLER]}]
    assert out["systemInstruction"] == {"parts": [{"text": "a"}]}


def test_system_texts_are_joined() -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
    ]
    assert request({"messages": messages})["systemInstruction"] == {"parts": [{"text": "a\nb"}]}


def call(identity: str, name: str) -> Json:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": "{}"}}


def test_results_follow_the_order_of_calls() -> None:
    messages = [
        {"role": "assistant", "tool_calls": [call("1", "a"), call("2__thought__sig", "b")]},
        {"role": "tool", "tool_call_id": "2__thought__sig", "content": "two"},
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "user", "content": "And?"},
    ]
    contents = request({"messages": messages})["contents"]
    assert contents[0]["parts"] == [
        {"functionCall": {"name": "a", "args": {}}},
        {"functionCall": {"name": "b", "args": {}}, "thoughtSignature": "sig"},
    ]
    assert [part["functionResponse"]["name"] for part in contents[1]["parts"]] == ["a", "b"]
    assert contents[2] == {"role": "user", "parts": [{"text": "And?"}]}


def test_a_result_of_no_call_needs_a_name() -> None:
    message = {"role": "tool", "tool_call_id": "x", "content": "a"}
    with pytest.raises(RequestError):
        request({"messages": [message]})
    out = request({"messages": [message | {"name": "f"}]})
    assert out["contents"][0]["parts"][0]["functionResponse"]["name"] == "f"


CHOICES: Final[dict[str, tuple[Any, Json | None]]] = {
    "unsaid": (None, None),
    "none": ("none", {"mode": "NONE"}),
    "auto": ("auto", {"mode": "AUTO"}),
    "required": ("required", {"mode": "ANY"}),
    "named": (
        {"type": "function", "function": {"name": "f"}},
        {"mode": "ANY", "allowedFunctionNames": ["f"]},
    ),
}


@pytest.mark.parametrize(("choice", "wanted"), CHOICES.values(), ids=CHOICES)
def test_tool_choice(choice: Any, wanted: Json | None) -> None:
    out = request({"tools": [TOOL], "tool_choice": choice})
    assert out.get("toolConfig", {}).get("functionCallingConfig") == wanted


CONFIG: Final[dict[str, tuple[str, Json, Json | None]]] = {
    "nothing": ("gemini-2.5-pro", {}, None),
    "limit": ("gemini-2.5-pro", {"max_tokens": 5}, {"maxOutputTokens": 5}),
    "stop": ("gemini-2.5-pro", {"stop": "A"}, {"stopSequences": ["A"]}),
    "effort": (
        "gemini-2.5-pro",
        {"reasoning_effort": "high"},
        {"thinkingConfig": {"thinkingBudget": 4096, "includeThoughts": True}},
    ),
    "level": (
        "gemini-3-pro",
        {"reasoning_effort": "max"},
        {"thinkingConfig": {"thinkingLevel": "high", "includeThoughts": True}},
    ),
    "no effort": ("gemini-3-pro", {"reasoning_effort": "none"}, None),
    "own": (
        "gemini-3-pro",
        {"reasoning_effort": "max", "thinking_config": {"thinkingBudget": 1}},
        {"thinkingConfig": {"thinkingBudget": 1}},
    ),
    "own, as Google's endpoint takes it": (
        "gemini-2.5-pro",
        {"extra_body": {"google": {"thinking_config": {"thinkingBudget": 1}}}},
        {"thinkingConfig": {"thinkingBudget": 1}},
    ),
    "json": (
        "gemini-2.5-pro",
        {"response_format": {"type": "json_object"}},
        {"responseMimeType": "application/json"},
    ),
}


@pytest.mark.parametrize(("model", "body", "wanted"), CONFIG.values(), ids=CONFIG)
def test_generation_config(model: str, body: Json, wanted: Json | None) -> None:
    assert request(body, model=model).get("generationConfig") == wanted


def test_cached_content_brings_its_head_along() -> None:
    out = request(
        {
            "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
            "tools": [TOOL],
            "tool_choice": "auto",
            "cached_content": "cachedContents/1",
            "safety_settings": [{"category": "c", "threshold": "t"}],
            "labels": {"team": "blue"},
        }
    )
    assert sorted(out) == ["cachedContent", "contents", "labels", "safetySettings"]


# --- answers --------------------------------------------------------------------------------


def test_answer() -> None:
    out = CONVERSION.response(samples.GEMINI, context())
    assert (out["id"], out["model"]) == ("r-1", "gemini-x")
    assert [c["finish_reason"] for c in out["choices"]] == ["tool_calls", "length"]
    message = out["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Let me see.", "hm")
    assert message["tool_calls"][0]["id"] == "call_r-1_0__thought__sig=="
    assert out["usage"] == {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "completion_tokens_details": {"reasoning_tokens": 5},
        "prompt_tokens_details": {"cached_tokens": 30},
    }


def test_a_signature_goes_back_with_its_call() -> None:
    message = CONVERSION.response(samples.GEMINI, context())["choices"][0]["message"]
    identity = message["tool_calls"][0]["id"]
    result = {"role": "tool", "tool_call_id": identity, "content": "sunny"}
    contents = request({"messages": [message, result]})["contents"]
    assert contents[0]["parts"][-1] == samples.CALL_PART
    assert contents[1]["parts"][0]["functionResponse"]["name"] == "weather"


FINISH: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "TOO_MANY_TOOL_CALLS": "content_filter",
    "MALFORMED_FUNCTION_CALL": "stop",
}


@pytest.mark.parametrize(("reason", "wanted"), FINISH.items())
def test_finish_reason(reason: str, wanted: str) -> None:
    candidate = {"content": {"parts": [{"text": "a"}]}, "finishReason": reason}
    out = CONVERSION.response({"candidates": [candidate]}, context())
    assert out["choices"][0]["finish_reason"] == wanted


def test_no_candidate() -> None:
    assert CONVERSION.response({"usageMetadata": {}}, context())["choices"][0]["message"] == {
        "role": "assistant",
        "content": "",
    }
    with pytest.raises(UpstreamError):
        CONVERSION.response({}, context())


def run(events: list[tuple[str, Json]]) -> list[Frame]:
    converter = CONVERSION.stream(context())
    frames = [frame for event in samples.events(events) for frame in converter.feed(event)]
    return decoded(frames + converter.finish())


def test_stream() -> None:
    frames = run(samples.GEMINI_EVENTS)
    chunks = [data for _, data in frames if data]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert [d["role"] for d in deltas if "role" in d] == ["assistant"]
    assert "".join(d["content"] or "" for d in deltas) == "Let me see."
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-1]["usage"]["total_tokens"] == 120
    assert frames[-1] == ("", None)


def test_stream_of_the_first_candidate_only() -> None:
    name, data = samples.gemini_chunk({"text": "second"})
    data["candidates"][0]["index"] = 1
    assert "second" not in str(run([(name, data), samples.gemini_chunk(finishReason="STOP")]))


def test_blocked_stream() -> None:
    frames = run([("", {"promptFeedback": {"blockReason": "SAFETY"}})])
    assert frames[0][1]["choices"][0]["finish_reason"] == "content_filter"
    assert frames[-1] == ("", None)


ERRORS: Final = {
    "INVALID_ARGUMENT": "invalid_request_error",
    "FAILED_PRECONDITION": "invalid_request_error",
    "NOT_FOUND": "not_found_error",
    "PERMISSION_DENIED": "authentication_error",
    "UNAUTHENTICATED": "authentication_error",
    "RESOURCE_EXHAUSTED": "rate_limit_error",
    "UNAVAILABLE": "api_error",
}


@pytest.mark.parametrize(("status", "kind"), ERRORS.items())
@pytest.mark.parametrize("shape", ['{"error":%s}', '[{"error":%s}]'])
def test_error(status: str, kind: str, shape: str) -> None:
    body = shape % f'{{"code":400,"message":"no","status":"{status}"}}'
    error = CONVERSION.error(400, body.encode(), context())["error"]
    assert (error["type"], error["code"], error["message"]) == (kind, status, "no")
