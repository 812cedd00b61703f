"""OpenAI chat completions for the client, Anthropic messages for the provider.

Source: spec llm sections 2.3 and 2.4; OpenAI API reference (chat); Anthropic API reference
(messages, streaming).
"""

from __future__ import annotations

from typing import Any, Final, final

import orjson

from sidecar.llm.convert import media, provider_error
from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.completions_from_messages import CompletionStream, response_of
from sidecar.llm.convert.completions_request import unlisted
from sidecar.llm.convert.thinking import settle_sampling, think
from sidecar.llm.convert.thought_signatures import clean_id
from sidecar.llm.shape import (
    joined_text,
    to_list,
    to_object,
    to_objects,
    to_optional_count,
    to_text,
)

DEFAULT_MAX_TOKENS: Final = 4096
"""Anthropic requires a limit, OpenAI does not."""
_KEPT: Final = ("temperature", "top_p", "stream")
_UNSUPPORTED: Final = (
    "n",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "functions",
    "function_call",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
    "metadata",
    "store",
    "verbosity",
    "top_k",
)


def _request(body: Json, context: Context) -> Json:
    system: list[Json] = []
    messages: list[Json] = []
    for index, message in enumerate(to_objects(body.get("messages"), "messages")):
        _message(message, f"messages[{index}]", system, messages, context)
    maximum = to_optional_count(
        body.get("max_completion_tokens") or body.get("max_tokens"), "max_tokens"
    )
    out: Json = {
        "model": context.model,
        "messages": messages,
        "max_tokens": maximum or DEFAULT_MAX_TOKENS,
    }
    if system:
        out["system"] = system_of(system)
    out.update((name, body[name]) for name in _KEPT if body.get(name) is not None)
    if out.get("stream") is False:
        del out["stream"]
    _stop(body, out)
    _tools(body, out, context)
    settle_sampling(out, context)
    think(out, body.get("reasoning_effort"), context)
    _response_format(body, out)
    if body.get("user") is not None:
        out["metadata"] = {"user_id": to_text(body["user"], "user")}
    for name in _UNSUPPORTED:
        if body.get(name) not in (None, 1 if name == "n" else None, False, [], {}):
            context.drop(name)
    return out


def system_of(blocks: list[Json]) -> str | list[Json]:
    """One text; only cache marks are worth keeping the blocks apart."""
    if any("cache_control" in block for block in blocks):
        return blocks
    return "\n".join(block["text"] for block in blocks)


def _message(
    message: Json, where: str, system: list[Json], messages: list[Json], context: Context
) -> None:
    role = to_text(message.get("role"), f"{where}.role")
    content = message.get("content")
    if role in ("system", "developer"):
        system += _system_blocks(content, f"{where}.content")
    elif role == "assistant":
        blocks = _assistant_blocks(message, where, context)
        if blocks:
            messages.append({"role": "assistant", "content": blocks})
    elif role == "tool":
        result = {
            "type": "tool_result",
            "tool_use_id": clean_id(to_text(message.get("tool_call_id"), f"{where}.tool_call_id")),
            "content": joined_text(content, f"{where}.content", "\n"),
        }
        messages.append({"role": "user", "content": [result]})
    else:
        blocks = _user_blocks(content, f"{where}.content", context)
        if blocks:
            messages.append({"role": "user", "content": blocks})


def _system_blocks(content: object, where: str) -> list[Json]:
    """One block a message, or one a part when a part carries a cache mark."""
    if content is not None and not isinstance(content, str):
        parts = to_objects(content, where)
        if any(part.get("cache_control") for part in parts):
            texts = (_marked(text_block(to_text(p.get("text"), where)), p) for p in parts)
            return [block for blocks in texts for block in blocks]
    return text_block(joined_text(content, where, "\n"))


def text_block(text: str) -> list[Json]:
    """Anthropic refuses blank text."""
    return [{"type": "text", "text": text}] if text.strip() else []


def _marked(blocks: list[Json], part: Json) -> list[Json]:
    """With the cache mark that some clients put on parts of chat completions."""
    if part.get("cache_control") and blocks:
        blocks[-1]["cache_control"] = part["cache_control"]
    return blocks


def _user_blocks(content: object, where: str, context: Context) -> list[Json]:
    if content is None or isinstance(content, str):
        return text_block(content or "")
    blocks: list[Json] = []
    for index, part in enumerate(to_objects(content, where)):
        blocks += _marked(_user_block(part, f"{where}[{index}]", context), part)
    return blocks


def _user_block(part: Json, where: str, context: Context) -> list[Json]:
    kind = part.get("type")
    if kind == "text":
        return text_block(to_text(part.get("text"), f"{where}.text"))
    if kind == "image_url":
        image = to_object(part.get("image_url"), f"{where}.image_url")
        url = to_text(image.get("url"), f"{where}.image_url.url")
        return [{"type": "image", "source": media.image_source(url)}]
    if kind == "file":
        file = to_object(part.get("file"), f"{where}.file")
        document = media.document_block(file, f"{where}.file", context)
        return [] if document is None else [document]
    context.drop(f"content part {kind}")
    return []


def _assistant_blocks(message: Json, where: str, context: Context) -> list[Json]:
    content = message.get("content")
    blocks: list[Json] = []
    if isinstance(content, str):
        blocks += text_block(content)
    else:
        for index, part in enumerate(to_objects(content, f"{where}.content")):
            text = part.get("text") if part.get("type") == "text" else part.get("refusal")
            blocks += text_block(to_text(text, f"{where}.content[{index}]"))
    blocks += text_block(to_text(message.get("refusal"), f"{where}.refusal"))
    if message.get("reasoning_content"):
        context.drop("replayed reasoning")  # without Anthropic's signature it would be refused
    calls = to_objects(message.get("tool_calls"), f"{where}.tool_calls")
    blocks += [_tool_use(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return blocks


def _tool_use(call: Json, where: str) -> Json:
    is_custom = call.get("type") == "custom"
    function = to_object(call.get("custom" if is_custom else "function"), f"{where}.function")
    if is_custom:
        arguments: Any = {"input": to_text(function.get("input"), f"{where}.custom.input")}
    else:
        arguments = _arguments(to_text(function.get("arguments"), f"{where}.function.arguments"))
    return {
        "type": "tool_use",
        "id": clean_id(to_text(call.get("id"), f"{where}.id")),
        "name": to_text(function.get("name"), f"{where}.function.name"),
        "input": arguments,
    }


def _arguments(text: str) -> Any:
    """JSON arguments; no text is no arguments, and what is not JSON stays a string."""
    if not text.strip():
        return {}
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _stop(body: Json, out: Json) -> None:
    stop = body.get("stop")
    if stop is not None:
        out["stop_sequences"] = [stop] if isinstance(stop, str) else to_list(stop, "stop")


def _tools(body: Json, out: Json, context: Context) -> None:
    tools: list[Json] = []
    for index, tool in enumerate(to_objects(body.get("tools"), "tools")):
        if tool.get("type") != "function":
            context.drop(f"tool type {tool.get('type')}")
            continue
        function = to_object(tool.get("function"), f"tools[{index}].function")
        entry: Json = {"name": to_text(function.get("name"), f"tools[{index}].function.name")}
        if function.get("description") is not None:
            entry["description"] = function["description"]
        # A function without parameters has none; Anthropic refuses a tool without a schema.
        entry["input_schema"] = function.get("parameters") or {"type": "object"}
        tools += _marked([entry], tool)
    if not tools:
        # Anthropic refuses a choice among none, and OpenAI's clients often send one.
        return
    out["tools"] = tools
    choice = _tool_choice(unlisted(body.get("tool_choice"), context))
    # Beside `none`, Anthropic refuses it.
    if body.get("parallel_tool_calls") is False and choice != {"type": "none"}:
        choice = (choice or {"type": "auto"}) | {"disable_parallel_tool_use": True}
    if choice:
        out["tool_choice"] = choice


def _tool_choice(choice: object) -> Json | None:
    if isinstance(choice, str):
        kind = {"auto": "auto", "required": "any", "none": "none"}.get(choice)
        return None if kind is None else {"type": kind}
    function = to_object(to_object(choice, "tool_choice").get("function"), "tool_choice.function")
    name = function.get("name")
    return None if name is None else {"type": "tool", "name": to_text(name, "tool_choice.name")}


def _response_format(body: Json, out: Json) -> None:
    wanted = to_object(body.get("response_format"), "response_format")
    if wanted.get("type") not in ("json_schema", "json_object"):
        return
    given = to_object(wanted.get("json_schema"), "response_format.json_schema").get("schema")
    schema = given or {"type": "object", "additionalProperties": True}
    out["output_config"] = {"format": {"type": "json_schema", "schema": schema}}


@final
class _CompletionsToMessages:
    """C → M."""

    def request(self, body: Json, context: Context) -> Json:
        return _request(body, context)

    def response(self, body: Json, context: Context) -> Json:
        return response_of(body, context)

    def stream(self, context: Context) -> CompletionStream:
        return CompletionStream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return provider_error.as_openai(status, provider_error.of_body(body))


CONVERSION: Conversion = _CompletionsToMessages()
