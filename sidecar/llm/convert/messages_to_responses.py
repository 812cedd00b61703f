"""Anthropic messages for the client, OpenAI responses for the provider.

Source: spec llm section 2.7; Anthropic API reference (messages, streaming); OpenAI API reference
(responses, streaming events).
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.llm.convert import media, provider_error
from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.bedrock_tools import ToolNames
from sidecar.llm.convert.messages_from_responses import MessageStream, response_of
from sidecar.llm.convert.messages_request import (
    choice_of,
    found_text,
    own_tools,
    schema_of,
    short_name,
)
from sidecar.llm.convert.messages_to_completions import is_unreasoning, takes_breakpoints
from sidecar.llm.convert.openai_models import settle_sampling
from sidecar.llm.convert.responses_limits import output_limit
from sidecar.llm.convert.thinking import openai_effort_of
from sidecar.llm.convert.thought_signatures import own_id
from sidecar.llm.shape import to_count, to_object, to_objects, to_text

_BREAKPOINT: Final = {"mode": "explicit"}
_KEPT: Final = ("temperature", "top_p", "metadata")
_UNSUPPORTED: Final = ("stop_sequences", "top_k", "container", "mcp_servers")


@final
class _Request:
    """One request under conversion."""

    __slots__ = ("_body", "_context", "_input", "_names", "_with_breakpoints")

    def __init__(self, body: Json, context: Context) -> None:
        self._body = body
        self._context = context
        self._with_breakpoints = takes_breakpoints(context.model)
        self._input: list[Json] = []
        self._names = ToolNames(context)

    def convert(self) -> Json:
        body = self._body
        out: Json = {"model": self._context.model, "input": self._input}
        self._system(out)
        for index, message in enumerate(to_objects(body.get("messages"), "messages")):
            self._message(message, f"messages[{index}]")
        out["stream"] = body.get("stream") is True
        if body.get("max_tokens") is not None:
            out["max_output_tokens"] = output_limit(body["max_tokens"])
        for name in _KEPT:
            if body.get(name) is not None:
                out[name] = body[name]
        for name in _UNSUPPORTED:
            if body.get(name) not in (None, []):
                self._context.drop(name)
        self._tools(out)
        self._reasoning(out)
        effort = to_object(out.get("reasoning"), "reasoning").get("effort")
        settle_sampling(out, effort, self._context)
        return out

    def _system(self, out: Json) -> None:
        system = self._body.get("system")
        if system is None or isinstance(system, str):
            text = system or ""
        else:
            blocks = to_objects(system, "system")
            if self._with_breakpoints and any(block.get("cache_control") for block in blocks):
                parts = [self._text(block, "system") for block in blocks]
                self._input.append(_message_item("system", parts))
                return
            text = "\n".join(to_text(block.get("text"), "system.text") for block in blocks)
        if text:
            out["instructions"] = text

    def _message(self, message: Json, where: str) -> None:
        role = to_text(message.get("role"), f"{where}.role")
        content = message.get("content")
        if isinstance(content, str):
            blocks: list[Json] = [{"type": "text", "text": content}]
        else:
            blocks = to_objects(content, f"{where}.content")
        if role == "assistant":
            self._assistant(blocks, where)
        else:
            self._user("system" if role == "system" else "user", blocks, where)

    def _text(self, block: Json, where: str) -> Json:
        part: Json = {"type": "input_text", "text": to_text(block.get("text"), f"{where}.text")}
        if block.get("cache_control") and self._with_breakpoints:
            part["prompt_cache_breakpoint"] = _BREAKPOINT
        return part

    def _user(self, role: str, blocks: list[Json], where: str) -> None:
        """Items in the order of the blocks: a result ends the message before it."""
        parts: list[Json] = []
        for block in blocks:
            if block.get("type") == "tool_result":
                if parts:
                    self._input.append(_message_item(role, parts))
                    parts = []
                self._input.append(self._tool_result(block, where))
            else:
                parts += self._part(block, where)
        if parts:
            self._input.append(_message_item(role, parts))

    def _part(self, block: Json, where: str) -> list[Json]:
        """The input parts that a block becomes: one, or none when it has no counterpart."""
        kind = block.get("type")
        if kind == "text":
            return [self._text(block, where)]
        if kind == "image":
            source = to_object(block.get("source"), f"{where}.source")
            return self._image(source, f"{where}.source")
        if kind == "document":
            return self._document(block, where)
        if kind == "search_result":
            return [{"type": "input_text", "text": found_text(block, where)}]
        self._context.drop(f"content block {kind}")
        return []

    def _image(self, source: Json, where: str) -> list[Json]:
        part: Json = {"type": "input_image", "detail": "auto"}
        url = media.source_url(source, where)
        if url is not None:
            return [part | {"image_url": url}]
        if source.get("type") == "file":
            return [part | {"file_id": to_text(source.get("file_id"), f"{where}.file_id")}]
        self._context.drop(f"image source {source.get('type')}")
        return []

    def _document(self, block: Json, where: str) -> list[Json]:
        if to_object(block.get("citations"), f"{where}.citations").get("enabled") is True:
            self._context.drop("citations")
        text = media.document_text(block, where)
        if text is not None:
            return [{"type": "input_text", "text": text}]
        file = media.document_file(block, where)
        if file is not None:
            return [{"type": "input_file", **file}]
        source = to_object(block.get("source"), f"{where}.source")
        if source.get("type") == "url":
            url = to_text(source.get("url"), f"{where}.source.url")
            return [{"type": "input_file", "file_url": url}]
        self._context.drop(f"document source {source.get('type')}")
        return []

    def _tool_result(self, block: Json, where: str) -> Json:
        content = block.get("content")
        result: Json = {
            "type": "function_call_output",
            "call_id": own_id(to_text(block.get("tool_use_id"), f"{where}.tool_use_id")),
        }
        if content is None or isinstance(content, str):
            result["output"] = content or ""
        else:
            items = to_objects(content, f"{where}.content")
            parts = [part for item in items for part in self._part(item, f"{where}.content")]
            is_text = all(part["type"] == "input_text" for part in parts)
            texts = (part["text"] for part in parts if is_text)
            result["output"] = "\n".join(texts) if is_text else parts
        if block.get("is_error") is True:
            result["status"] = "incomplete"
        return result

    def _assistant(self, blocks: list[Json], where: str) -> None:
        parts: list[Json] = []
        for block in blocks:
            kind = block.get("type")
            if kind == "text":
                text = to_text(block.get("text"), f"{where}.text")
                parts.append({"type": "output_text", "text": text, "annotations": []})
            elif kind == "tool_use":
                self._flush(parts)
                parts = []
                # The item's own id is left out: the provider's must begin with `fc`.
                self._input.append(
                    {
                        "type": "function_call",
                        "call_id": own_id(to_text(block.get("id"), f"{where}.id")),
                        "name": self._name(block, where),
                        "arguments": orjson.dumps(block.get("input") or {}).decode(),
                    }
                )
            else:
                self._context.drop(f"content block {kind}")
        self._flush(parts)

    def _flush(self, parts: list[Json]) -> None:
        if parts:
            item = _message_item("assistant", parts)
            self._input.append(item | {"id": self._context.new_id("msg_"), "status": "completed"})

    def _tools(self, out: Json) -> None:
        tools: list[Json] = []
        for index, tool in enumerate(own_tools(self._body, self._context)):
            entry: Json = {
                "type": "function",
                "name": self._name(tool, f"tools[{index}]"),
            }
            if tool.get("description") is not None:
                entry["description"] = tool["description"]
            entry["parameters"] = tool.get("input_schema")
            # Unsaid means strict there, and schemas that were not written for it would be refused.
            entry["strict"] = tool.get("strict") is True
            tools.append(entry)
        if tools:
            out["tools"] = tools
        self._tool_choice(out)

    def _name(self, holder: Json, where: str) -> str:
        return short_name(to_text(holder.get("name"), f"{where}.name"), self._names)

    def _tool_choice(self, out: Json) -> None:
        choice = choice_of(self._body, self._context)
        kind = choice.get("type")
        if kind in ("auto", "none"):
            out["tool_choice"] = kind
        elif kind == "any":
            out["tool_choice"] = "required"
        elif kind == "tool":
            name = self._name(choice, "tool_choice")
            out["tool_choice"] = {"type": "function", "name": name}
        if choice.get("disable_parallel_tool_use") is True:
            out["parallel_tool_calls"] = False

    def _reasoning(self, out: Json) -> None:
        config = to_object(self._body.get("output_config"), "output_config")
        thinking = to_object(self._body.get("thinking"), "thinking")
        effort = config.get("effort")
        if is_unreasoning(self._context.model):
            if thinking.get("type") in ("adaptive", "enabled"):
                self._context.drop("thinking")
        elif thinking.get("type") == "enabled":
            budget = to_count(thinking.get("budget_tokens"), "thinking.budget_tokens")
            effort = effort or (openai_effort_of(budget) if budget else "high")
            out["reasoning"] = {"effort": effort}
        elif thinking.get("type") == "adaptive":
            out["reasoning"] = {"effort": effort or "high"}
        elif effort is not None:
            self._context.drop("output_config.effort without thinking")
        wanted = schema_of(self._body)
        if wanted is not None:
            schema = {"name": "structured_output", "schema": wanted.get("schema")}
            out["text"] = {"format": {"type": "json_schema", **schema}}


def _message_item(role: str, parts: list[Json]) -> Json:
    return {"type": "message", "role": role, "content": parts}


@final
class _MessagesToResponses:
    """M → R."""

    def request(self, body: Json, context: Context) -> Json:
        return _Request(body, context).convert()

    def response(self, body: Json, context: Context) -> Json:
        return response_of(body, context)

    def stream(self, context: Context) -> MessageStream:
        return MessageStream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return provider_error.as_anthropic(status, provider_error.of_body(body))


CONVERSION: Conversion = _MessagesToResponses()
