"""What a model was asked, read out of the body of any provider's format.

The formats differ in names only as far as the simulator is concerned, so one reader does: turns
are `messages`, `input` or `contents`; a tool is known by its name and its schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

Json = dict[str, Any]

_TEXT_KEYS: Final = (
    "text",
    "content",
    "parts",
    "output",
    "toolResult",
    "functionResponse",
    "response",
    "result",
    "json",
)
_RESULT_TYPES: Final = frozenset(("tool_result", "function_call_output"))
_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")


class BadAskError(Exception):
    """A body that a provider would refuse; the text says why."""


@final
@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `schema`: JSON Schema of its arguments."""

    name: str
    schema: Json


@final
@dataclass(frozen=True, slots=True)
class Ask:
    """One question. `prompt`: all text of it; `last`: that of the last turn."""

    model: str
    prompt: str
    last: str
    tool: Tool | None
    """The one that is to be called: named by the client, else the first; None after its result."""
    is_result: bool
    """The last turn is what a tool gave."""
    limit: int | None
    """Tokens that the answer may have."""
    schema: Json | None
    """JSON Schema that the answer is to fit."""
    is_thinking: bool


def read(body: Json, model: str = "") -> Ask:
    """Raises: BadAskError without turns or without a model."""
    model = model or as_text(body.get("model"))
    if not model:
        raise BadAskError("model: missing")
    turns = next((body[key] for key in ("messages", "input", "contents") if key in body), None)
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    if not isinstance(turns, list) or not turns:
        raise BadAskError("messages: expected a list that is not empty")
    system = [body.get(key) for key in ("system", "instructions", "systemInstruction")]
    last = " ".join(texts(turns[-1]))
    is_result = _is_result(turns[-1])
    return Ask(
        model=model,
        prompt=" ".join(texts([system, turns])),
        last=last,
        tool=None if is_result else _chosen(body),
        is_result=is_result,
        limit=_limit(body),
        schema=_schema(body),
        is_thinking=_is_thinking(body),
    )


def texts(value: object) -> Iterator[str]:
    """Every text in a turn or a list of them, in order; pictures and ids are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for key in _TEXT_KEYS:
            if key in value:
                yield from texts(value[key])


def tokens(text: str) -> int:
    """The simulator's tokens are words."""
    return len(text.split())


def as_object(value: object) -> Json:
    """The object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The list, or an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """The text, or "" in place of anything else."""
    return value if isinstance(value, str) else ""


def _is_result(turn: object) -> bool:
    given = as_object(turn)
    if given.get("role") == "tool" or given.get("type") in _RESULT_TYPES:
        return True
    parts = as_list(given.get("content")) + as_list(given.get("parts"))
    return any(
        as_object(part).get("type") in _RESULT_TYPES
        or "toolResult" in as_object(part)
        or "functionResponse" in as_object(part)
        for part in parts
    )


def _tools(body: Json) -> Iterator[Tool]:
    given = as_list(body.get("tools")) or as_list(as_object(body.get("toolConfig")).get("tools"))
    for entry in map(as_object, given):
        single = entry.get("function") or entry.get("toolSpec") or entry
        for tool in map(as_object, entry.get("functionDeclarations") or [single]):
            if as_text(tool.get("name")):
                yield Tool(tool["name"], _tool_schema(tool))


def _tool_schema(tool: Json) -> Json:
    for key in ("parameters", "parametersJsonSchema", "input_schema"):
        if key in tool:
            return as_object(tool[key])
    return as_object(as_object(tool.get("inputSchema")).get("json"))


def _chosen(body: Json) -> Tool | None:
    given = list(_tools(body))
    config = as_object(body.get("toolConfig"))
    calling = as_object(config.get("functionCallingConfig"))
    choice = body.get("tool_choice", config.get("toolChoice"))
    named = as_object(choice)
    if "none" in (choice, named.get("type")) or calling.get("mode") == "NONE":
        return None
    function = as_object(named.get("function") or named.get("tool") or named)
    allowed = as_list(calling.get("allowedFunctionNames")) or [function.get("name")]
    return next((tool for tool in given if tool.name in allowed), given[0] if given else None)


def _limit(body: Json) -> int | None:
    google = as_object(body.get("generationConfig")).get("maxOutputTokens")
    bedrock = as_object(body.get("inferenceConfig")).get("maxTokens")
    for value in (*(body.get(key) for key in _LIMITS), google, bedrock):
        if isinstance(value, int) and value > 0:
            return value
    return None


def _schema(body: Json) -> Json | None:
    """Of the answer, wherever the format says it."""
    completions = as_object(as_object(body.get("response_format")).get("json_schema"))
    responses = as_object(as_object(body.get("text")).get("format"))
    messages = as_object(as_object(body.get("output_config")).get("format"))
    google = as_object(body.get("generationConfig"))
    for place in (completions, responses, messages):
        if place.get("schema"):
            return as_object(place["schema"])
    found = google.get("responseJsonSchema") or google.get("responseSchema")
    return as_object(found) if found else None


def _is_thinking(body: Json) -> bool:
    google = as_object(as_object(body.get("generationConfig")).get("thinkingConfig"))
    more = as_object(body.get("additionalModelRequestFields"))
    kinds = {as_object(place.get("thinking")).get("type") for place in (body, more)}
    effort = as_object(body.get("reasoning")).get("effort") or body.get("reasoning_effort")
    return (
        bool(kinds & {"enabled", "adaptive"})
        or google.get("includeThoughts") is True
        or effort not in (None, "none")
    )
