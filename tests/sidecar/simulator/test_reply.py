from __future__ import annotations

from typing import Any

import pytest

from sidecar.simulator.ask import Ask, BadAskError, Json, Tool, read
from sidecar.simulator.reply import Reply, example, make

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
WEATHER = Tool("weather", SCHEMA)
FUNCTION = {"name": "weather", "parameters": SCHEMA}
TOOLS: dict[str, Json] = {
    "completions": {"tools": [{"type": "function", "function": FUNCTION}]},
    "responses": {"tools": [{"type": "function", **FUNCTION}]},
    "messages": {"tools": [{"name": "weather", "input_schema": SCHEMA}]},
    "gemini": {"tools": [{"functionDeclarations": [FUNCTION]}]},
    "converse": {
        "toolConfig": {
            "tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}]
        }
    },
}


def ask(**body: Any) -> Ask:
    return read({"model": "m", "messages": [{"role": "user", "content": "one two"}], **body})


def reply(**body: Any) -> Reply:
    return make(ask(**body))


@pytest.mark.parametrize(
    "body",
    [
        {"input": "one two"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "one two"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "one two"}]}]},
        {"contents": [{"parts": [{"text": "one"}, {"text": "two"}]}]},
        {"messages": [{"role": "user", "content": [{"text": "one two"}]}]},
    ],
    ids=["input", "messages", "items", "gemini", "converse"],
)
def test_text_of_every_format(body: Json) -> None:
    made = make(read(body, "m"))
    assert (made.text, made.input_tokens, made.output_tokens) == ("You said: one two", 2, 4)
    assert "".join(made.pieces) == made.text


@pytest.mark.parametrize("body", TOOLS.values(), ids=TOOLS)
def test_tool_of_every_format(body: Json) -> None:
    assert ask(**body).tool == WEATHER
    call = reply(**body).call
    assert call is not None
    assert (call.name, call.arguments) == ("weather", {"city": "simulated", "days": 1})
    assert "".join(call.halves()) == call.text


@pytest.mark.parametrize(
    "choice",
    [
        {"tool_choice": "none"},
        {"tool_choice": {"type": "none"}},
        {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
    ],
)
def test_no_tool_where_none_is_wanted(choice: Json) -> None:
    assert ask(**(TOOLS["completions"] | choice)).tool is None


@pytest.mark.parametrize(
    "choice",
    [
        {"tool_choice": {"type": "function", "function": {"name": "b"}}},
        {"tool_choice": {"type": "tool", "name": "b"}},
        {"toolConfig": {"toolChoice": {"tool": {"name": "b"}}}},
        {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["b"]}}},
    ],
)
def test_the_tool_that_is_named(choice: Json) -> None:
    tool = ask(tools=[{"name": "a"}, {"name": "b"}], **choice).tool
    assert tool is not None
    assert tool.name == "b"


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "tool", "content": "sunny"},
        {"type": "function_call_output", "output": "sunny"},
        {"role": "user", "content": [{"type": "tool_result", "content": "sunny"}]},
        {"role": "user", "content": [{"toolResult": {"content": [{"text": "sunny"}]}}]},
        {"role": "user", "parts": [{"functionResponse": {"response": {"result": "sunny"}}}]},
    ],
)
def test_the_result_of_a_tool_is_told(turn: Json) -> None:
    made = make(read({"messages": [turn], **TOOLS["messages"]}, "m"))
    assert (made.call, made.text) == (None, "The tool said: sunny")


@pytest.mark.parametrize(
    "limit",
    [{"max_tokens": 2}, {"generationConfig": {"maxOutputTokens": 2}}],
)
def test_limit(limit: Json) -> None:
    made = reply(**limit)
    assert (made.text, made.finish, made.output_tokens) == ("You said:", "cut", 2)


def test_schema_of_the_answer() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    assert reply(response_format=form).text == '{"city":"simulated","days":1}'


def test_thoughts() -> None:
    made = reply(thinking={"type": "enabled", "budget_tokens": 1024})
    assert made.thought
    assert made.output_tokens == 4 + made.thought_tokens


def test_number_of_words() -> None:
    assert make(ask(), 50).output_tokens == 50


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": 1}, {"input": None}])
def test_without_turns(body: Json) -> None:
    with pytest.raises(BadAskError):
        read({"model": "m", **body})


def test_without_a_model() -> None:
    with pytest.raises(BadAskError):
        read({"input": "x"})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": ["a", "b"]}, "a"),
        ({"const": 3}, 3),
        ({"type": ["string", "null"]}, "simulated"),
        ({"type": "array", "items": {"type": "number"}}, [1.5]),
        ({"anyOf": [{"type": "boolean"}]}, True),
        ({"type": "STRING"}, "simulated"),
        ({"type": "null"}, None),
        ({}, {}),
    ],
)
def test_example(schema: Json, value: object) -> None:
    assert example(schema) == value


def test_an_endless_schema_ends() -> None:
    schema: Json = {"type": "array"}
    schema["items"] = schema
    assert example(schema) is not None
