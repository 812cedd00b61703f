"""Windows of streams: masks over event borders, whatever the cut."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sidecar.http.sse import SseDecoder, SseEvent
from sidecar.llm.guard.patterns import Patterns
from sidecar.llm.guard.stream_texts import STREAM_TEXTS
from sidecar.llm.guard.subject import CallTexts
from sidecar.llm.guard.window import CONTEXT, WINDOW, Window

SSN = "123-45-6789"
RULES = Patterns({"rules": [{"builtin": "ssn"}, {"pattern": "(?s)BEGIN.*?END"}]})


def run(name: str, events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The events that come out, and the most that were held at a time."""
    window = Window(STREAM_TEXTS[name])
    out = b""
    most = held = 0
    for number in range(len(events) + 1):
        is_last = number == len(events)
        if not is_last:
            window.add(SseEvent(orjson.dumps(events[number])), events[number])
        for channel in window.due(is_last=is_last):
            channel.settle(RULES.find(channel.text), is_last=is_last)
        out += window.release(is_last=is_last)
        held = number + 1 - out.count(b"\n\n")
        most = max(most, held)
    return [orjson.loads(event.data) for event in SseDecoder().feed(out)], most


def choice(text: str, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}}]}


def text_of(events: list[dict[str, Any]], index: int = 0) -> str:
    choices = [one["choices"][0] for one in events]
    return "".join(one["delta"]["content"] for one in choices if one["index"] == index)


@pytest.mark.parametrize("lead", [0, 1, CONTEXT, WINDOW - 6, WINDOW, WINDOW + CONTEXT, 5000])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 255, 256, 257, 1024, 4096])
def test_a_mask_reaches_over_any_border(lead: int, size: int) -> None:
    text = "w " * (lead // 2) + SSN + " é" * 700
    events = [choice(text[at : at + size]) for at in range(0, len(text), size)]
    out, _ = run("completions", events)
    assert text_of(out) == text.replace(SSN, "<SSN>")
    assert len(out) == len(events)


@pytest.mark.parametrize("cut", range(1, len(SSN)))
def test_every_cut_of_a_match(cut: int) -> None:
    out, _ = run("completions", [choice("a " + SSN[:cut]), choice(SSN[cut:] + " b")])
    assert text_of(out) == "a <SSN> b"


def test_what_is_held_is_bounded() -> None:
    out, most = run("completions", [choice("word ")] * 5000)
    assert most <= (WINDOW + CONTEXT) // 5 + 2
    assert text_of(out) == "word " * 5000


def test_a_match_that_does_not_end_is_given_up() -> None:
    text = "BEGIN" + " word" * 20_000
    out, most = run("completions", [choice(text[at : at + 50]) for at in range(0, len(text), 50)])
    assert text_of(out) == text
    assert most < 100


def test_choices_are_texts_of_their_own() -> None:
    pieces = [SSN[:4], SSN[4:]]
    events = [choice(piece, index) for piece in pieces for index in (0, 1)]
    out, _ = run("completions", events)
    assert (text_of(out, 0), text_of(out, 1)) == ("<SSN>", "<SSN>")
    # Interleaved halves of one number in two choices are no number.
    out, _ = run("completions", [choice(SSN[:4], 0), choice(SSN[4:], 1)])
    assert text_of(out, 0) + text_of(out, 1) == SSN


def test_messages_and_gemini() -> None:
    deltas: list[dict[str, Any]] = [
        {"type": "text_delta", "text": SSN[:5]},
        {"type": "text_delta", "text": SSN[5:]},
    ]
    out, _ = run("messages", [{"type": "x", "index": 0, "delta": one} for one in deltas])
    assert "".join(one["delta"]["text"] for one in out) == "<SSN>"
    parts: list[dict[str, Any]] = [
        {"candidates": [{"content": {"parts": [{"text": one}]}}]} for one in ("123-45", "-6789")
    ]
    out, _ = run("generateContent", parts)
    assert orjson.dumps(out).count(b"<SSN>") == 1
    assert b"6789" not in orjson.dumps(out)


def test_responses_repeat_nothing_that_was_masked() -> None:
    part = {"type": "output_text", "text": SSN}
    item = {"type": "message", "content": [dict(part)]}
    place = {"output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.output_text.delta", "delta": SSN[:5], **place},
        {"type": "response.output_text.delta", "delta": SSN[5:], **place},
        {"type": "response.output_text.done", "text": SSN, **place},
        {"type": "response.content_part.done", "part": dict(part), **place},
        {"type": "response.output_item.done", "item": item},
        {"type": "response.completed", "response": {"output": [orjson.loads(orjson.dumps(item))]}},
    ]
    out, _ = run("responses", events)
    assert [one["type"] for one in out] == [one["type"] for one in events]
    assert b"6789" not in orjson.dumps(out)
    assert orjson.dumps(out).count(b"<SSN>") == 5


# --- arguments of tool calls --------------------------------------------------------------------

ARGUMENTS = '{"ssn": "123-45-6789", "n": 1}'
WANTED = {"ssn": "<SSN>", "n": 1}


def judged(window: Window, *, is_last: bool) -> bytes:
    """What goes out once what is due was judged, as the gateway does it."""
    for channel in window.due(is_last=is_last):
        if not channel.is_call:
            channel.settle(RULES.find(channel.text), is_last=is_last)
            continue
        call = CallTexts(channel.text)
        for subject in call.subjects:
            subject.masked.edit(RULES.find(subject.masked.text))
        channel.settle_call(call.text())
    return window.release(is_last=is_last)


def run_calls(name: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    window = Window(STREAM_TEXTS[name])
    out = b""
    for event in events:
        window.add(SseEvent(orjson.dumps(event)), event)
        out += judged(window, is_last=False)
    out += judged(window, is_last=True)
    made = [orjson.loads(event.data) for event in SseDecoder().feed(out)]
    assert len(made) == len(events)
    assert b"6789" not in out
    return made


def tool(text: str, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    calls = [{"index": index, "function": {"arguments": text}}] if text else []
    return {"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": finish}]}


@pytest.mark.parametrize("size", [1, 2, 7, 13, 100])
def test_calls_of_completions(size: int) -> None:
    pieces = [ARGUMENTS[at : at + size] for at in range(0, len(ARGUMENTS), size)]
    events = [tool(piece, index) for index in (0, 1) for piece in pieces]
    made = run_calls("completions", [*events, tool("", finish="tool_calls"), choice("ok")])
    found = {0: "", 1: ""}
    for event in made:
        for call in event["choices"][0]["delta"].get("tool_calls", ()):
            found[call["index"]] += call["function"]["arguments"]
    assert [orjson.loads(text) for text in found.values()] == [WANTED, WANTED]
    # A stream that ends without saying so: what there is is judged.
    assert run_calls("completions", [tool(piece) for piece in pieces])


def test_calls_are_released_where_they_end() -> None:
    window = Window(STREAM_TEXTS["messages"])
    delta = {"type": "input_json_delta", "partial_json": ARGUMENTS}
    for event in (
        {"type": "content_block_start", "index": 1, "content_block": {"input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": delta},
    ):
        window.add(SseEvent(orjson.dumps(event)), event)
    assert judged(window, is_last=False).count(b"\n\n") == 1
    stop = {"type": "content_block_stop", "index": 1}
    window.add(SseEvent(orjson.dumps(stop)), stop)
    first, last = SseDecoder().feed(judged(window, is_last=False))
    assert orjson.loads(orjson.loads(first.data)["delta"]["partial_json"]) == WANTED
    assert orjson.loads(last.data) == stop


def test_calls_of_responses_are_repeated_under_their_masks() -> None:
    place = {"output_index": 0, "item_id": "i"}
    name = "response.function_call_arguments"
    item = {"type": "function_call", "arguments": ARGUMENTS}
    events: list[dict[str, Any]] = [
        {"type": f"{name}.delta", "delta": ARGUMENTS[:9], **place},
        {"type": f"{name}.delta", "delta": ARGUMENTS[9:], **place},
        {"type": f"{name}.done", "arguments": ARGUMENTS, **place},
        {"type": "response.output_item.done", "item": dict(item)},
        {"type": "response.completed", "response": {"output": [dict(item)]}},
    ]
    made = run_calls("responses", events)
    assert orjson.loads(made[0]["delta"] + made[1]["delta"]) == WANTED
    assert orjson.loads(made[2]["arguments"]) == WANTED
    assert orjson.loads(made[4]["response"]["output"][0]["arguments"]) == WANTED


def test_calls_of_gemini_are_values() -> None:
    call = {"functionCall": {"name": "f", "args": orjson.loads(ARGUMENTS)}}
    (made,) = run_calls("generateContent", [{"candidates": [{"content": {"parts": [call]}}]}])
    assert made["candidates"][0]["content"]["parts"][0]["functionCall"]["args"] == WANTED
    partial = {"jsonPath": "$.ssn", "stringValue": SSN, "willContinue": False}
    parts = [{"functionCall": {"partialArgs": [partial]}}]
    (made,) = run_calls("generateContent", [{"candidates": [{"content": {"parts": parts}}]}])
    assert partial["stringValue"] == "<SSN>"


def test_what_tells_the_text_again_is_masked_or_dropped() -> None:
    token = {"token": SSN[:6], "logprob": 0.0, "bytes": [49]}
    deltas: list[dict[str, Any]] = [
        {"content": text, "reasoning_details": [{"type": "reasoning.text", "text": text}]}
        for text in (SSN[:6], SSN[6:])
    ]
    events = [{"choices": [{"delta": one, "logprobs": {"content": [token]}}]} for one in deltas]
    out, _ = run("completions", events)
    details = [one["choices"][0]["delta"]["reasoning_details"][0]["text"] for one in out]
    assert [one["choices"][0]["delta"]["content"] for one in out] == details
    assert "".join(details) == "<SSN>"
    assert [one["choices"][0]["logprobs"] for one in out] == [None, None]
    segment = {"segment": {"text": f"a {SSN}"}}
    grounded = {"content": {}, "groundingMetadata": {"groundingSupports": [segment]}}
    out, _ = run("generateContent", [{"candidates": [grounded | {"logprobsResult": {"a": 1}}]}])
    assert b"a <SSN>" in orjson.dumps(out)
    assert b"logprobs" not in orjson.dumps(out)
    citation = {"type": "citations_delta", "citation": {"cited_text": SSN}}
    out, _ = run("messages", [{"type": "content_block_delta", "index": 0, "delta": citation}])
    assert out[0]["delta"]["citation"]["cited_text"] == "<SSN>"


@pytest.mark.parametrize("name", STREAM_TEXTS)
@pytest.mark.parametrize("kind", [None, 7, ["x"], {"type": "x"}])
def test_a_type_that_is_none(name: str, kind: object) -> None:
    event = {"type": kind, "delta": kind, "item": {"type": kind}, "index": kind}
    assert run(name, [event])[0] == [event]
