"""Anthropic messages for the client, OpenAI chat completions for the provider.

Source: spec llm sections 2.5 and 2.6; Anthropic API reference (messages, streaming, errors);
OpenAI API reference (chat).
"""

from __future__ import annotations

import re
from typing import Final, final

import orjson

from sidecar.llm.convert import media, provider_error
from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.bedrock_tools import ToolNames
from sidecar.llm.convert.gemini_effort import effort_for
from sidecar.llm.convert.messages_from_completions import MessageStream, response_of
from sidecar.llm.convert.messages_request import (
    choice_of,
    found_text,
    own_tools,
    schema_of,
    short_name,
)
from sidecar.llm.convert.openai_models import settle_sampling
from sidecar.llm.convert.thinking import openai_effort_of
from sidecar.llm.convert.thought_signatures import own_id, sign_calls
from sidecar.llm.shape import to_count, to_object, to_objects, to_text

_BREAKPOINT: Final = {"mode": "explicit"}
_BREAKPOINT_MODEL: Final = re.compile(r"(?:.*/)?gpt-(\d{1,4})(?:\.(\d{1,4}))?(?:[-.].*)?")
_NO_REASONING_MODEL: Final = re.compile(r"gpt-(?!3|4|5$|5-|5\.1|5\.2)")
"""`gpt-` models that refuse tools unless reasoning is off."""
_UNREASONING_MODEL: Final = re.compile(r"(?:.*/)?(?:gpt-[34]|chatgpt-4o)")
"""Models that know no `reasoning_effort`, and refuse it."""


def takes_breakpoints(model: str) -> bool:
    """Whether the model knows `prompt_cache_breakpoint`: gpt-5.6 and later."""
    found = _BREAKPOINT_MODEL.fullmatch(model)
    return found is not None and (int(found[1]), int(found[2] or 0)) >= (5, 6)


def is_unreasoning(model: str) -> bool:
    """Whether the model refuses any effort."""
    return _UNREASONING_MODEL.match(model) is not None


@final
class _Request:
    """One request under conversion."""

    __slots__ = ("_body", "_context", "_messages", "_names", "_with_breakpoints")

    def __init__(self, body: Json, context: Context) -> None:
        self._body = body
        self._context = context
        self._with_breakpoints = takes_breakpoints(context.model)
        self._messages: list[Json] = []
        self._names = ToolNames(context)

    def convert(self) -> Json:
        body = self._body
        self._system(body.get("system"))
        for index, message in enumerate(to_objects(body.get("messages"), "messages")):
            self._message(message, f"messages[{index}]")
        is_streaming = body.get("stream") is True
        out: Json = {
            "model": self._context.model,
            "messages": self._messages,
            "stream": is_streaming,
        }
        if is_streaming:
            out["stream_options"] = {"include_usage": True}
        for name, target in (
            ("max_tokens", "max_completion_tokens"),
            ("temperature", "temperature"),
            ("top_p", "top_p"),
            ("stop_sequences", "stop"),
        ):
            if body.get(name) is not None:
                out[target] = body[name]
        for name in ("top_k", "container", "mcp_servers"):
            if body.get(name) not in (None, []):
                self._context.drop(name)
        self._tools(out)
        self._reasoning(out)
        settle_sampling(out, out.get("reasoning_effort"), self._context)
        self._metadata(out)
        return out

    def _system(self, system: object) -> None:
        if isinstance(system, str):
            if system:
                self._messages.append({"role": "system", "content": system})
        elif system is not None:
            parts = [self._text(block) for block in to_objects(system, "system")]
            if parts:
                self._messages.append({"role": "system", "content": parts})

    def _message(self, message: Json, where: str) -> None:
        role = to_text(message.get("role"), f"{where}.role")
        content = message.get("content")
        if isinstance(content, str):
            blocks: list[Json] = [{"type": "text", "text": content}]
        else:
            blocks = to_objects(content, f"{where}.content")
        if role == "assistant":
            self._assistant(blocks)
        elif role == "system":
            parts = [self._text(block) for block in blocks if block.get("type") == "text"]
            if parts:
                self._messages.append({"role": "system", "content": parts})
        else:
            self._user(blocks, where)

    def _text(self, block: Json) -> Json:
        part: Json = {"type": "text", "text": to_text(block.get("text"), "text")}
        return self._marked(part, block)

    def _marked(self, part: Json, block: Json) -> Json:
        """With the client's cache mark, where the model takes one."""
        if block.get("cache_control") and self._with_breakpoints:
            part["prompt_cache_breakpoint"] = _BREAKPOINT
        return part

    def _user(self, blocks: list[Json], where: str) -> None:
        """Results of tools go first: OpenAI wants them right behind the calls."""
        parts: list[Json] = []
        for block in blocks:
            kind = block.get("type")
            if kind == "text":
                parts.append(self._text(block))
            elif kind == "image":
                parts += self._image(to_object(block.get("source"), f"{where}.source"), where)
            elif kind == "document":
                parts += self._document(block, where)
            elif kind == "search_result":
                parts.append(
                    self._marked({"type": "text", "text": found_text(block, where)}, block)
                )
            elif kind == "tool_result":
                self._messages.append(self._tool_result(block, where))
            else:
                self._context.drop(f"content block {kind}")
        if parts:
            self._messages.append({"role": "user", "content": parts})

    def _image(self, source: Json, where: str) -> list[Json]:
        url = media.source_url(source, f"{where}.source")
        if url is None:
            self._context.drop(f"image source {source.get('type')}")
            return []
        return [{"type": "image_url", "image_url": {"url": url}}]

    def _document(self, block: Json, where: str) -> list[Json]:
        text = media.document_text(block, where)
        if text is not None:
            return [{"type": "text", "text": text}]
        file = media.document_file(block, where)
        if file is None:
            self._context.drop("document that is not inline")
            return []
        return [{"type": "file", "file": file}]

    def _tool_result(self, block: Json, where: str) -> Json:
        content = block.get("content")
        is_marked = bool(block.get("cache_control"))
        if content is None or isinstance(content, str):
            texts = [content or ""]
        else:
            items = to_objects(content, f"{where}.content")
            texts = [text for item in items for text in _result_texts(item, where)]
            is_marked = is_marked or any(item.get("cache_control") for item in items)
            if len(texts) < len(items):
                self._context.drop("tool result that is not text")
        result: Json = {
            "role": "tool",
            "tool_call_id": own_id(to_text(block.get("tool_use_id"), f"{where}.tool_use_id")),
        }
        if is_marked and self._with_breakpoints:
            parts: list[Json] = [{"type": "text", "text": text} for text in texts or [""]]
            parts[-1]["prompt_cache_breakpoint"] = _BREAKPOINT
            result["content"] = parts
        elif len(texts) > 1:
            result["content"] = [{"type": "text", "text": text} for text in texts]
        else:
            result["content"] = texts[0] if texts else ""
        return result

    def _assistant(self, blocks: list[Json]) -> None:
        message: Json = {"role": "assistant"}
        parts: list[Json] = []
        calls: list[Json] = []
        for block in blocks:
            kind = block.get("type")
            if kind == "text":
                parts.append(self._text(block))
            elif kind == "tool_use":
                arguments = orjson.dumps(block.get("input") or {}).decode()
                name = short_name(to_text(block.get("name"), "tool_use.name"), self._names)
                function = {"name": name, "arguments": arguments}
                identity = to_text(block.get("id"), "tool_use.id")
                calls.append({"type": "function", "id": identity, "function": function})
            else:
                self._context.drop(f"content block {kind}")
        if parts:
            message["content"] = parts
        if calls:
            sign_calls(calls, self._context.model)
            message["tool_calls"] = calls
        if parts or calls:
            self._messages.append(message)

    def _tools(self, out: Json) -> None:
        tools: list[Json] = []
        for tool in own_tools(self._body, self._context):
            name = to_text(tool.get("name"), "tools.name")
            function: Json = {"name": short_name(name, self._names)}
            if tool.get("description") is not None:
                function["description"] = tool["description"]
            function["parameters"] = tool.get("input_schema")
            tools.append({"type": "function", "function": function})
        if tools:
            out["tools"] = tools
        choice = choice_of(self._body, self._context)
        kind = choice.get("type")
        if kind in ("auto", "none"):
            out["tool_choice"] = kind
        elif kind == "any":
            out["tool_choice"] = "required"
        elif kind == "tool":
            name = short_name(to_text(choice.get("name"), "tool_choice.name"), self._names)
            out["tool_choice"] = {"type": "function", "function": {"name": name}}
        if choice.get("disable_parallel_tool_use") is True:
            out["parallel_tool_calls"] = False

    def _reasoning(self, out: Json) -> None:
        config = to_object(self._body.get("output_config"), "output_config")
        thinking = to_object(self._body.get("thinking"), "thinking")
        if config.get("effort") is not None and thinking.get("type") != "adaptive":
            self._context.drop("output_config.effort without adaptive thinking")
        if out.get("tools") and _NO_REASONING_MODEL.match(self._context.model):
            out["reasoning_effort"] = "none"
        elif is_unreasoning(self._context.model):
            if thinking.get("type") in ("adaptive", "enabled"):
                self._context.drop("thinking")
        elif thinking.get("type") == "adaptive":
            effort = config.get("effort") or "high"
            out["reasoning_effort"] = effort_for(effort, self._context.model)
        elif thinking.get("type") == "enabled":
            budget = to_count(thinking.get("budget_tokens"), "thinking.budget_tokens")
            out["reasoning_effort"] = openai_effort_of(budget)
        wanted = schema_of(self._body)
        if wanted is not None:
            schema = {"name": "structured_output", "schema": wanted.get("schema")}
            out["response_format"] = {"type": "json_schema", "json_schema": schema}

    def _metadata(self, out: Json) -> None:
        metadata = to_object(self._body.get("metadata"), "metadata")
        if metadata.get("user_id") is not None:
            out["user"] = metadata["user_id"]


def _result_texts(item: Json, where: str) -> list[str]:
    """The text of a part of a tool's result, or none of what is no text."""
    kind = item.get("type")
    if kind == "text":
        return [to_text(item.get("text"), "text")]
    if kind == "search_result":
        return [found_text(item, where)]
    text = media.document_text(item, where) if kind == "document" else None
    return [] if text is None else [text]


@final
class _MessagesToCompletions:
    """M → C."""

    def request(self, body: Json, context: Context) -> Json:
        return _Request(body, context).convert()

    def response(self, body: Json, context: Context) -> Json:
        return response_of(body, context)

    def stream(self, context: Context) -> MessageStream:
        return MessageStream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return provider_error.as_anthropic(status, provider_error.of_body(body))


CONVERSION: Conversion = _MessagesToCompletions()
