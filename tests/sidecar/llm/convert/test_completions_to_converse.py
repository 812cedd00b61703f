"""Chat completions over Bedrock."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.errors import RequestError, UpstreamError
from sidecar.llm.convert.base import StreamEvent
from sidecar.llm.convert.completions_to_converse import CONVERSION
from sidecar.llm.shape import ShapeError
from tests.sidecar.llm.convert import cloud_samples as samples
from tests.sidecar.llm.convert.calls import Frame, context, decoded
from tests.sidecar.llm.convert.samples import PDF, PNG, SCHEMA

Json = dict[str, Any]
TOOL: Final[Json] = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
POINT: Final = {"cachePoint": {"type": "default"}}


def request(body: Json, **fields: Any) -> Json:
    base = {"messages": [{"role": "user", "content": "Hi"}]}
    return CONVERSION.request(base | body, context(**fields))


def blocks(*content: Json) -> list[Json]:
    out: list[Json] = request({"messages": [{"role": "user", "content": list(content)}]})[
        "messages"
    ][0]["content"]
    return out


INFERENCE: Final[dict[str, tuple[Json, Json]]] = {
    "default limit": ({}, {"maxTokens": 4096}),
    "old limit": ({"max_tokens": 5}, {"maxTokens": 5}),
    "new limit wins": ({"max_tokens": 5, "max_completion_tokens": 6}, {"maxTokens": 6}),
    "one stop": ({"stop": "A"}, {"maxTokens": 4096, "stopSequences": ["A"]}),
    "sampling": (
        {"temperature": 0.5, "top_p": 0.25, "stop": ["A", "B"]},
        {"maxTokens": 4096, "temperature": 0.5, "topP": 0.25, "stopSequences": ["A", "B"]},
    ),
}


@pytest.mark.parametrize(("body", "wanted"), INFERENCE.values(), ids=INFERENCE)
def test_inference(body: Json, wanted: Json) -> None:
    assert request(body)["inferenceConfig"] == wanted


THINKING: Final[dict[str, tuple[Json, int | None, int]]] = {
    "medium": ({"reasoning_effort": "medium"}, 2048, 4096),
    "as much as the usual limit": ({"reasoning_effort": "high"}, 4096, 8192),
    "more than the usual limit": ({"reasoning_effort": "xhigh"}, 8192, 12288),
    "within the client's limit": ({"reasoning_effort": "high", "max_tokens": 2000}, 1999, 2000),
    "no room": ({"reasoning_effort": "high", "max_tokens": 1024}, None, 1024),
    "none": ({"reasoning_effort": "none"}, None, 4096),
}


@pytest.mark.parametrize(("body", "budget", "limit"), THINKING.values(), ids=THINKING)
def test_thinking_fits_below_the_limit(body: Json, budget: int | None, limit: int) -> None:
    out = request(body)
    thinking = out.get("additionalModelRequestFields", {}).get("thinking", {})
    assert thinking.get("budget_tokens") == budget
    assert out["inferenceConfig"]["maxTokens"] == limit


USER: Final[Json] = {"role": "user", "content": "Hi"}
ROUND: Final[list[Json]] = [
    USER,
    {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "ok"},
]
THOUGHT: Final[Json] = {"reasoning_content": "hm", "reasoning_signature": "sig"}
AGAINST: Final[dict[str, tuple[list[Json], Any, bool]]] = {
    "nothing": ([USER], None, True),
    "auto": ([USER], "auto", True),
    "a forced tool": ([USER], "required", False),
    "a named tool": ([USER], {"type": "function", "function": {"name": "f"}}, False),
    "a round without thinking": (ROUND, None, False),
    "a round with its thinking": ([USER, ROUND[1] | THOUGHT, ROUND[2]], None, True),
    "a round that is over": ([*ROUND, USER], None, True),
}


@pytest.mark.parametrize(("messages", "choice", "thinks"), AGAINST.values(), ids=AGAINST)
def test_what_stands_against_thinking(messages: list[Json], choice: Any, thinks: bool) -> None:
    call = context()
    body: Json = {"messages": messages, "reasoning_effort": "high", "tools": [TOOL]}
    out = CONVERSION.request(body | {"tool_choice": choice}, call)
    assert ("additionalModelRequestFields" in out) == thinks
    assert ("reasoning effort in a tool round" in call.dropped) != thinks
    assert out["inferenceConfig"]["maxTokens"] == (8192 if thinks else 4096)


def test_thinking_wants_its_own_temperature() -> None:
    call = context()
    body = {"messages": [USER], "reasoning_effort": "low", "temperature": 0, "top_p": 1}
    assert CONVERSION.request(body, call)["inferenceConfig"] == {"maxTokens": 4096}
    assert call.dropped == ["temperature with reasoning"]


CHOICES: Final[dict[str, tuple[Any, Json | None]]] = {
    "unsaid": (None, None),
    "auto": ("auto", {"auto": {}}),
    "required": ("required", {"any": {}}),
    "none": ("none", None),
    "named": ({"type": "function", "function": {"name": "f"}}, {"tool": {"name": "f"}}),
}


@pytest.mark.parametrize(("choice", "wanted"), CHOICES.values(), ids=CHOICES)
def test_tool_choice(choice: Any, wanted: Json | None) -> None:
    out = request({"tools": [TOOL], "tool_choice": choice})
    assert out["toolConfig"].get("toolChoice") == wanted


def test_tool_names_are_cleaned_and_come_back() -> None:
    call = context()
    long = "n" * 70
    names = ["a.b", "a_b", long, "ok"]
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    out = CONVERSION.request(body, call)
    sent = [tool["toolSpec"]["name"] for tool in out["toolConfig"]["tools"]]
    assert sent[0] == "a_b"
    assert sent[1].startswith("a_b_")
    assert len(sent[2]) == 64
    assert sent[2].startswith("n" * 57 + "_")
    assert sent[3] == "ok"
    assert [call.tool_names.get(name, name) for name in sent] == names
    use = {"toolUse": {"toolUseId": "t", "name": sent[0], "input": {}}}
    answer = CONVERSION.response({"output": {"message": {"content": [use]}}}, call)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "a.b"
    started = CONVERSION.stream(call).feed(StreamEvent(*samples.call_start(0, "t", sent[2])))
    assert long in str(decoded(started))


def test_neighbours_of_a_role_are_merged() -> None:
    out = request(
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "user", "content": "b"},
                {"role": "assistant", "content": " "},
                {"role": "user", "content": "c"},
            ]
        }
    )
    assert out["messages"] == [{"role": "user", "content": [{"text": t} for t in "abc"]}]


def test_system_is_apart() -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {"role": "system", "content": " "},
        {"role": "user", "content": "c"},
    ]
    assert request({"messages": messages})["system"] == [{"text": "a"}, {"text": "b"}]


def test_media() -> None:
    file = {"type": "file", "file": {"filename": "a b?.pdf", "file_data": PDF}}
    image = {"type": "image_url", "image_url": {"url": PNG.replace("png", "jpg")}}
    out = blocks({"type": "text", "text": "Look"}, image, file, file)
    assert out[1] == {"image": {"format": "jpeg", "source": {"bytes": "iVBORw0KGgo="}}}
    assert [block["document"]["name"] for block in out[2:]] == ["a b", "a b (2)"]
    assert out[2]["document"]["format"] == "pdf"
    assert out[2]["document"]["source"] == {"bytes": "JVBERi0="}


@pytest.mark.parametrize("url", ["https://a.test/b.png", "data:image/bmp;base64,AA=="])
def test_images_it_cannot_send_are_refused(url: str) -> None:
    with pytest.raises(RequestError) as caught:
        blocks({"type": "image_url", "image_url": {"url": url}})
    assert caught.value.status == 400


def test_arguments_that_are_no_object_are_empty() -> None:
    for arguments in ("", "[1]", "{", "3"):
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        out = request({"messages": [{"role": "assistant", "tool_calls": [call]}]})
        assert out["messages"][0]["content"][0]["toolUse"]["input"] == {}


def test_a_tool_without_a_name_is_refused() -> None:
    with pytest.raises(ShapeError):
        request({"tools": [{"type": "function", "function": {}}]})


def test_schema() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    out = request({"response_format": form})["outputConfig"]["textFormat"]
    assert out["structure"]["jsonSchema"]["name"] == "n"
    assert out["structure"]["jsonSchema"]["schema"].startswith('{"type":"object"')


def test_guardrail_and_metadata() -> None:
    guardrail = {"guardrailIdentifier": "g", "guardrailVersion": "1", "trace": "enabled"}
    headers = {"x-bedrock-metadata": '{"team":"blue","n":1,"ok":true,"no":null}'}
    out = request({}, settings={"guardrailConfig": guardrail}, headers=headers)
    assert out["guardrailConfig"] == guardrail
    assert out["requestMetadata"] == {"team": "blue", "n": "1", "ok": "true"}


@pytest.mark.parametrize("header", ["[1]", "{", '{"a":{}}', '{"a":[1]}'])
def test_metadata_must_be_flat(header: str) -> None:
    with pytest.raises(RequestError):
        request({}, headers={"x-bedrock-metadata": header})


# --- caching --------------------------------------------------------------------------------

CHAT: Final[list[Json]] = [
    {"role": "system", "content": "word " * 1000},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]
CACHING: Final[dict[str, tuple[str, Json, list[str]]]] = {
    "defaults": ("anthropic.claude-x", {}, ["system", "1"]),
    "nova": ("eu.amazon.nova-x", {}, ["system", "1"]),
    "profile": ("arn:aws:bedrock:r:1:application-inference-profile/p", {}, ["system", "1"]),
    "old claude": ("anthropic.claude-v2", {}, []),
    "another model": ("meta.llama", {}, []),
    "system too short": ("anthropic.claude-x", {"minTokens": 1301}, ["1"]),
    "exactly long enough": ("anthropic.claude-x", {"minTokens": 1300}, ["system", "1"]),
    "no system": ("anthropic.claude-x", {"cacheSystem": False}, ["1"]),
    "no messages": ("anthropic.claude-x", {"cacheMessages": False}, ["system"]),
    "offset": ("anthropic.claude-x", {"cacheMessageOffset": 1}, ["system", "0"]),
    "offset too far": ("anthropic.claude-x", {"cacheMessageOffset": 2}, ["system"]),
    "tools": ("anthropic.claude-x", {"cacheTools": True}, ["system", "1", "tools"]),
}


@pytest.mark.parametrize(("model", "rules", "wanted"), CACHING.values(), ids=CACHING)
def test_prompt_caching(model: str, rules: Json, wanted: list[str]) -> None:
    settings = {"promptCaching": rules}
    out = request({"messages": CHAT, "tools": [TOOL]}, model=model, settings=settings)
    found = ["system"] if POINT in out["system"] else []
    found += [str(i) for i, m in enumerate(out["messages"]) if m["content"][-1] == POINT]
    found += ["tools"] if out["toolConfig"]["tools"][-1] == POINT else []
    assert found == wanted


def test_cache_control_of_the_client_is_kept_up_to_four() -> None:
    cached = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    call = context("anthropic.claude-x", settings={"promptCaching": {}})
    body = {"messages": [{"role": "user", "content": [cached] * 5}]}
    out = CONVERSION.request(body, call)
    assert out["messages"][0]["content"].count(POINT) == 4
    assert call.dropped == ["cache_control"]


# --- answers --------------------------------------------------------------------------------


def test_answer() -> None:
    out = CONVERSION.response(samples.CONVERSE, context("m-1"))
    assert out["model"] == "m-1"
    assert out["choices"][0]["finish_reason"] == "tool_calls"
    message = out["choices"][0]["message"]
    assert message["content"] == "Let me see.As said."
    assert (message["reasoning_content"], message["reasoning_signature"]) == ("hm", "sig")
    assert message["tool_calls"][0]["function"]["arguments"] == '{"city":"Rome"}'
    assert out["usage"] == {
        "prompt_tokens": 60,
        "completion_tokens": 20,
        "total_tokens": 120,
        "cache_read_input_tokens": 30,
        "cache_creation_input_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
    }


FINISH: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "something_new": "stop",
}


@pytest.mark.parametrize(("reason", "wanted"), FINISH.items())
def test_finish_reason(reason: str, wanted: str) -> None:
    body = {"output": {"message": {"content": []}}, "stopReason": reason}
    assert CONVERSION.response(body, context())["choices"][0]["finish_reason"] == wanted


def test_no_output_is_refused() -> None:
    with pytest.raises(UpstreamError):
        CONVERSION.response({"message": "no"}, context())


def run(events: list[tuple[str, Json]]) -> list[Frame]:
    converter = CONVERSION.stream(context(request_id="r-1"))
    frames = [frame for event in samples.events(events) for frame in converter.feed(event)]
    return decoded(frames + converter.finish())


def test_stream() -> None:
    frames = run(samples.CONVERSE_EVENTS)
    assert frames[-1] == ("", None)
    deltas = [d["choices"][0]["delta"] for _, d in frames if d and d["choices"]]
    assert [d["role"] for d in deltas if "role" in d] == ["assistant"]
    assert "".join(d["content"] or "" for d in deltas) == "Let me see."
    assert [d["reasoning_content"] for d in deltas if "reasoning_content" in d] == [
        "hm",
        "[REDACTED]",
    ]
    calls = [call for d in deltas for call in d.get("tool_calls", [])]
    assert [c["function"]["name"] for c in calls if c["id"]] == ["weather", "run"]
    texts = {0: "", 1: ""}
    for each in calls:
        texts[each["index"]] += each["function"].get("arguments", "")
    assert texts == {0: '{"city":"Rome"}', 1: "{}"}
    assert all(d["id"] == "r-1" for _, d in frames if d)
    assert frames[-2][1]["usage"]["total_tokens"] == 120


def test_stream_without_usage_ends_well() -> None:
    frames = run([*samples.CONVERSE_EVENTS[:-1]])
    assert frames[-1] == ("", None)


def test_error() -> None:
    body = b'{"message":"Too many tokens"}'
    assert CONVERSION.error(429, body, context())["error"] == {
        "message": "Too many tokens",
        "type": "rate_limit_error",
        "param": None,
        "code": None,
    }
    assert "no key" in CONVERSION.error(403, b'{"Message":"no key"}', context())["error"]["message"]
