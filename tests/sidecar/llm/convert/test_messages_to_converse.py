"""Anthropic messages over Bedrock."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.errors import RequestError
from sidecar.llm.convert.bedrock_betas import KNOWN, allowed
from sidecar.llm.convert.messages_to_converse import CONVERSION
from tests.sidecar.llm.convert import cloud_samples as samples
from tests.sidecar.llm.convert.calls import Frame, context, decoded, of_type
from tests.sidecar.llm.convert.samples import SCHEMA

Json = dict[str, Any]
CACHED: Final = {"type": "ephemeral"}
POINT: Final = {"cachePoint": {"type": "default"}}
TOOL: Final[Json] = {"name": "f", "input_schema": SCHEMA}


def request(body: Json, **fields: Any) -> Json:
    base = {"max_tokens": 3000, "messages": [{"role": "user", "content": "Hi"}]}
    return CONVERSION.request(base | body, context(**fields))


def own(body: Json, **fields: Any) -> Json:
    """What goes through to Claude as it is."""
    out: Json = request(body, **fields).get("additionalModelRequestFields", {})
    return out


def block(content: Json, role: str = "user") -> Any:
    out = request(
        {"messages": [{"role": role, "content": [content, {"type": "text", "text": "."}]}]}
    )
    found = out["messages"][0]["content"]
    return found[0] if len(found) > 1 else None


PDF: Final[Json] = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
BLOCKS: Final[dict[str, tuple[Json, Any]]] = {
    "text": ({"type": "text", "text": "a"}, {"text": "a"}),
    "blank text": ({"type": "text", "text": " "}, None),
    "image": (
        {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "AA=="}},
        {"image": {"format": "gif", "source": {"bytes": "AA=="}}},
    ),
    "pdf": (
        {"type": "document", "title": "a.pdf", "source": PDF},
        {"document": {"format": "pdf", "name": "a", "source": {"bytes": "JVBERi0="}}},
    ),
    "plain text document": (
        {"type": "document", "source": {"type": "text", "data": "notes"}},
        {"document": {"format": "txt", "name": "document", "source": {"text": "notes"}}},
    ),
    "document by URL": (
        {"type": "document", "source": {"type": "url", "url": "https://a.test"}},
        None,
    ),
    "thinking": (
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
    ),
    "unsigned thinking": ({"type": "thinking", "thinking": "hm", "signature": ""}, None),
    "redacted thinking": (
        {"type": "redacted_thinking", "data": "AA=="},
        {"reasoningContent": {"redactedContent": "AA=="}},
    ),
    "tool use": (
        {"type": "tool_use", "id": "1", "name": "a.b", "input": {"x": 1}},
        {"toolUse": {"toolUseId": "1", "name": "a_b", "input": {"x": 1}}},
    ),
    "result": (
        {"type": "tool_result", "tool_use_id": "1", "content": "ok"},
        {"toolResult": {"toolUseId": "1", "content": [{"text": "ok"}], "status": None}},
    ),
    "failed result": (
        {
            "type": "tool_result",
            "tool_use_id": "1",
            "is_error": True,
            "content": [{"type": "text", "text": "no"}, {"type": "search_result"}],
        },
        {"toolResult": {"toolUseId": "1", "content": [{"text": "no"}], "status": "error"}},
    ),
    "good result": (
        {"type": "tool_result", "tool_use_id": "1", "is_error": False},
        {
            "toolResult": {
                "toolUseId": "1",
                "content": [{"text": "(no output)"}],
                "status": "success",
            }
        },
    ),
    "server tool": ({"type": "web_search_tool_result", "content": []}, None),
}


@pytest.mark.parametrize(("content", "wanted"), BLOCKS.values(), ids=BLOCKS)
def test_block(content: Json, wanted: Any) -> None:
    assert block(content) == wanted


def test_an_image_by_url_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        block({"type": "image", "source": {"type": "url", "url": "https://a.test/b.png"}})
    assert caught.value.status == 400


def test_what_one_side_says_in_a_row_is_one_message() -> None:
    out = request({"messages": [{"role": "user", "content": text} for text in "ab"]})
    assert [message["content"] for message in out["messages"]] == [[{"text": "a"}, {"text": "b"}]]


def test_cache_points_go_to_system_then_messages_then_tools() -> None:
    text = {"type": "text", "text": "a", "cache_control": CACHED}
    call = context()
    body = {
        "max_tokens": 9,
        "system": [text],
        "messages": [{"role": "user", "content": [text, text]}],
        "tools": [TOOL | {"cache_control": CACHED}, TOOL | {"name": "g", "cache_control": CACHED}],
    }
    out = CONVERSION.request(body, call)
    assert out["system"] == [{"text": "a"}, POINT]
    assert out["messages"][0]["content"].count(POINT) == 2
    assert out["toolConfig"]["tools"].index(POINT) == 1
    assert out["toolConfig"]["tools"].count(POINT) == 1
    assert call.dropped == ["cache_control"]


def test_thinking_with_a_budget_leaves_tools_free() -> None:
    for choice in ({"type": "any"}, {"type": "tool", "name": "f"}, {"type": "auto"}):
        body: Json = {
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "temperature": 0.5,
            "top_p": 0.5,
            "top_k": 5,
            "tools": [TOOL],
            "tool_choice": choice,
        }
        out = request(body)
        assert out["toolConfig"]["toolChoice"] == {"auto": {}}
        assert out["inferenceConfig"] == {"maxTokens": 3000}
        assert list(out["additionalModelRequestFields"]) == ["thinking"]


def test_adaptive_thinking_changes_nothing_else() -> None:
    out = request({"thinking": {"type": "adaptive"}, "temperature": 1, "top_k": 5})
    assert out["inferenceConfig"]["temperature"] == 1
    assert out["additionalModelRequestFields"] == {"top_k": 5, "thinking": {"type": "adaptive"}}


def test_betas() -> None:
    call = context(headers={"anthropic-beta": "effort-2025-11-24, files-api-2025-04-14"})
    body = {
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hi"}],
        "anthropic_beta": ["context-1m-2025-08-07", "effort-2025-11-24"],
    }
    out = CONVERSION.request(body, call)["additionalModelRequestFields"]
    assert out == {"anthropic_beta": ["effort-2025-11-24", "context-1m-2025-08-07"]}
    assert call.dropped == ["anthropic-beta files-api-2025-04-14"]


def test_betas_of_the_operator() -> None:
    assert allowed("a, default") == KNOWN | {"a"}
    assert allowed("A,b") == {"a", "b"}
    assert allowed("") == frozenset()
    found = own({"anthropic_beta": ["a"]}, settings={"anthropicBetas": allowed("a")})
    assert found == {"anthropic_beta": ["a"]}


def test_output_format_of_the_beta() -> None:
    for key in ("output_format", "output_config"):
        form: Json = {"type": "json_schema", "schema": SCHEMA}
        out = request({key: {"format": form} if key == "output_config" else form})
        assert out["outputConfig"]["textFormat"]["type"] == "json_schema"
        assert "additionalModelRequestFields" not in out


def test_server_tools_are_dropped() -> None:
    call = context()
    tools = [{"type": "web_search_20250305", "name": "web_search"}, TOOL]
    body = {"max_tokens": 9, "messages": [], "tools": tools, "tool_choice": {"type": "any"}}
    out = CONVERSION.request(body, call)
    assert [tool["toolSpec"]["name"] for tool in out["toolConfig"]["tools"]] == ["f"]
    assert out["toolConfig"]["toolChoice"] == {"any": {}}
    assert call.dropped == ["tool web_search_20250305"]


def test_answer() -> None:
    out = CONVERSION.response(samples.CONVERSE, context("m-1"))
    assert [part["type"] for part in out["content"]] == [
        "thinking",
        "redacted_thinking",
        "text",
        "text",
        "tool_use",
    ]
    assert out["stop_reason"] == "tool_use"
    assert out["usage"] == {
        "input_tokens": 60,
        "output_tokens": 20,
        "cache_read_input_tokens": 30,
        "cache_creation_input_tokens": 10,
    }


@pytest.mark.parametrize("reason", ["content_filtered", "guardrail_intervened"])
def test_a_filter_is_a_refusal_whole_and_streamed(reason: str) -> None:
    body = {"output": {"message": {"content": []}}, "stopReason": reason}
    assert CONVERSION.response(body, context())["stop_reason"] == "refusal"
    last = of_type(run([("messageStop", {"stopReason": reason})]), "message_delta")
    assert last[0]["delta"]["stop_reason"] == "refusal"


def run(events: list[tuple[str, Json]]) -> list[Frame]:
    converter = CONVERSION.stream(context())
    frames = [frame for event in samples.events(events) for frame in converter.feed(event)]
    return decoded(frames + converter.finish())


def test_stream() -> None:
    frames = run(samples.CONVERSE_EVENTS)
    assert all(name == data["type"] for name, data in frames)
    starts = of_type(frames, "content_block_start")
    assert [(s["index"], s["content_block"]["type"]) for s in starts] == [
        (0, "thinking"),
        (1, "redacted_thinking"),
        (2, "text"),
        (3, "tool_use"),
        (4, "tool_use"),
    ]
    assert [s["index"] for s in of_type(frames, "content_block_stop")] == [0, 1, 2, 3, 4]
    arguments = "".join(
        d["delta"].get("partial_json", "") for d in of_type(frames, "content_block_delta")
    )
    assert arguments == '{"city":"Rome"}'
    assert frames[-2][1]["usage"]["cache_read_input_tokens"] == 30
    assert frames[-1][0] == "message_stop"


def test_error() -> None:
    out = CONVERSION.error(400, b'{"message":"bad"}', context())
    assert out == {"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}}
