"""OpenAI responses for the client, Anthropic messages for the provider.

The reference has no such pair. Thinking survives a conversation (signatures.py), and so do images,
documents and cache marks.

Source: OpenAI API reference (responses); Anthropic API reference (messages, extended thinking).
"""

from __future__ import annotations

from typing import Any, Final, final

import orjson

from sidecar.llm.convert import media, provider_error, signatures
from sidecar.llm.convert import responses_request as source
from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.completions_to_messages import DEFAULT_MAX_TOKENS, system_of, text_block
from sidecar.llm.convert.responses_from_messages import ResponseStream, response_of
from sidecar.llm.convert.thinking import budget_of, settle_sampling, think
from sidecar.llm.convert.thought_signatures import clean_id
from sidecar.llm.shape import joined_text, to_objects, to_optional_count, to_text

MAX_CACHE_MARKS: Final = 4
"""Anthropic refuses more."""
_KEPT: Final = ("temperature", "top_p")


@final
class _Request:
    """One request under conversion."""

    __slots__ = ("_body", "_context", "_marks", "_messages", "_system")

    def __init__(self, body: Json, context: Context) -> None:
        self._body = body
        self._context = context
        self._marks = 0
        self._system: list[Json] = []
        self._messages: list[Json] = []

    def convert(self) -> Json:
        body = self._body
        self._system += text_block(to_text(body.get("instructions"), "instructions"))
        for index, item in enumerate(source.input_items(body)):
            self._item(item, f"input[{index}]")
        out: Json = {"model": self._context.model, "messages": self._messages}
        if self._system:
            out["system"] = system_of(self._system)
        out.update((name, body[name]) for name in _KEPT if body.get(name) is not None)
        if body.get("stream") is True:
            out["stream"] = True
        self._tools(out)
        self._limit(out)
        self._format(out)
        user = body.get("safety_identifier") or body.get("user")
        if user is not None:
            out["metadata"] = {"user_id": to_text(user, "user")}
        if body.get("metadata") not in (None, {}):
            self._context.drop("metadata")
        source.drop_unsupported(body | {"safety_identifier": None}, self._context)
        return out

    def _limit(self, out: Json) -> None:
        """OpenAI's default limit leaves room to answer after any thinking, and so does this."""
        effort = source.effort(self._body)
        maximum = to_optional_count(self._body.get("max_output_tokens"), "max_output_tokens")
        out["max_tokens"] = maximum or DEFAULT_MAX_TOKENS + (budget_of(effort) or 0)
        settle_sampling(out, self._context)
        think(out, effort, self._context)

    # --- input ---

    def _item(self, item: Json, where: str) -> None:
        kind = item.get("type")
        if source.is_message(item):
            self._message(item, where)
        elif kind in source.CALLS:
            self._add("assistant", [self._tool_use(item, where)])
        elif kind in source.RESULTS:
            self._add("user", [self._tool_result(item, where)])
        elif kind == "reasoning":
            self._reasoning(item, where)
        else:
            self._context.drop(f"input item {kind}")

    def _add(self, role: str, blocks: list[Json]) -> None:
        """One message for what one side says in a row: results of one round belong together."""
        if not blocks:
            return
        if self._messages and self._messages[-1]["role"] == role:
            self._messages[-1]["content"] += blocks
        else:
            self._messages.append({"role": role, "content": blocks})

    def _message(self, item: Json, where: str) -> None:
        role = to_text(item.get("role"), f"{where}.role")
        blocks = self._blocks(item.get("content"), f"{where}.content")
        if role in ("system", "developer"):
            texts = [block for block in blocks if block["type"] == "text"]
            if len(texts) < len(blocks):
                self._context.drop("system content that is not text")
            self._system += texts
        else:
            self._add("assistant" if role == "assistant" else "user", blocks)

    def _blocks(self, content: object, where: str) -> list[Json]:
        if content is None or isinstance(content, str):
            return text_block(content or "")
        blocks: list[Json] = []
        for part in to_objects(content, where):
            new = self._part(part, where)
            if part.get("prompt_cache_breakpoint") is not None and new:
                self._mark(new[-1])
            blocks += new
        return blocks

    def _mark(self, block: Json) -> None:
        if self._marks == MAX_CACHE_MARKS:
            self._context.drop("prompt_cache_breakpoint beyond the fourth")
            return
        self._marks += 1
        block["cache_control"] = {"type": "ephemeral"}

    def _part(self, part: Json, where: str) -> list[Json]:
        """The blocks that a part becomes: one, or none when it has no counterpart."""
        kind = part.get("type")
        if source.part_kind(part) == "input_text":
            return text_block(to_text(part.get("text"), f"{where}.text"))
        if kind == "refusal":
            return text_block(source.refusal_text(part, where))
        if kind == "input_image" and part.get("image_url") is not None:
            url = to_text(part["image_url"], f"{where}.image_url")
            return [{"type": "image", "source": media.image_source(url)}]
        if kind == "input_file":
            document = media.document_block(part, where, self._context)
            return [] if document is None else [document]
        self._context.drop(f"input part {kind}")
        return []

    def _tool_use(self, item: Json, where: str) -> Json:
        if item["type"] == "custom_tool_call":
            arguments: Any = {"input": to_text(item.get("input"), f"{where}.input")}
        else:
            arguments = _arguments(to_text(item.get("arguments"), f"{where}.arguments"))
        return {
            "type": "tool_use",
            "id": clean_id(to_text(item.get("call_id"), f"{where}.call_id")),
            "name": to_text(item.get("name"), f"{where}.name"),
            "input": arguments,
        }

    def _tool_result(self, item: Json, where: str) -> Json:
        output = item.get("output")
        result: Json = {
            "type": "tool_result",
            "tool_use_id": clean_id(to_text(item.get("call_id"), f"{where}.call_id")),
        }
        if output is None or isinstance(output, str):
            result["content"] = output or ""
        else:
            result["content"] = self._blocks(output, f"{where}.output")
        if item.get("status") == "incomplete":
            result["is_error"] = True
        return result

    def _reasoning(self, item: Json, where: str) -> None:
        summary = joined_text(item.get("summary"), f"{where}.summary", "\n\n")
        encrypted = to_text(item.get("encrypted_content"), f"{where}.encrypted_content")
        block = signatures.thinking_block(summary, encrypted)
        if block is None:
            self._context.drop("reasoning of another provider")
        else:
            self._add("assistant", [block])

    # --- settings ---

    def _tools(self, out: Json) -> None:
        tools: list[Json] = []
        for function in source.functions(self._body, self._context):
            entry: Json = {"name": function["name"]}
            if "description" in function:
                entry["description"] = function["description"]
            schema = function.get("parameters")
            entry["input_schema"] = {"type": "object"} if schema is None else schema
            tools.append(entry)
        mode, name = source.tool_choice(self._body, self._context)
        choice: Json | None = None
        if mode == "named":
            choice = {"type": "tool", "name": name}
        elif mode and (tools or mode == "none"):
            choice = {"type": "any" if mode == "required" else mode}
        if self._body.get("parallel_tool_calls") is False and tools and mode != "none":
            choice = (choice or {"type": "auto"}) | {"disable_parallel_tool_use": True}
        if tools:
            out["tools"] = tools
        if choice is not None and tools:
            out["tool_choice"] = choice

    def _format(self, out: Json) -> None:
        wanted = source.schema_format(self._body)
        if wanted is None:
            return
        schema = {"type": "object", "additionalProperties": True}
        if wanted["type"] == "json_schema":
            schema = wanted.get("schema") or schema
        config = out.setdefault("output_config", {})
        config["format"] = {"type": "json_schema", "schema": schema}


def _arguments(text: str) -> Json:
    """Anthropic takes an object only; what is none (a call that was cut off) goes into one."""
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"input": value}


@final
class _ResponsesToMessages:
    """R → M."""

    def request(self, body: Json, context: Context) -> Json:
        return _Request(body, context).convert()

    def response(self, body: Json, context: Context) -> Json:
        return response_of(body, context)

    def stream(self, context: Context) -> ResponseStream:
        return ResponseStream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return provider_error.as_openai(status, provider_error.of_body(body))


CONVERSION: Conversion = _ResponsesToMessages()
