"""Anthropic messages for the client, Bedrock's Converse for the provider.

Source: spec llm sections 2.9 and 2.10; Anthropic API reference (messages, streaming); Amazon
Bedrock API reference (Converse, ConverseStream).
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.bedrock_betas import betas_of
from sidecar.llm.convert.bedrock_media import image_of_source
from sidecar.llm.convert.cloud_error import bedrock_error
from sidecar.llm.convert.converse_request import ConverseRequest, result_text
from sidecar.llm.convert.messages_from_converse import ConverseStream, response_of
from sidecar.llm.convert.messages_request import choice_of, found_text, is_own, schema_of
from sidecar.llm.convert.provider_error import as_anthropic
from sidecar.llm.convert.thought_signatures import clean_id
from sidecar.llm.shape import to_object, to_objects, to_text

_UNSUPPORTED: Final = ("container", "context_management", "mcp_servers", "service_tier")


# --- request --------------------------------------------------------------------------------


@final
class _Request:
    """One request under conversion. Cache points are allotted to system, messages, tools."""

    __slots__ = ("_body", "_context", "_out")

    def __init__(self, body: Json, context: Context) -> None:
        self._body = body
        self._context = context
        self._out = ConverseRequest(context)

    def convert(self) -> Json:
        body, out = self._body, self._out
        tools = to_objects(body.get("tools"), "tools")
        self._reserve_names(tools)
        self._system(body.get("system"), "system")
        for index, message in enumerate(to_objects(body.get("messages"), "messages")):
            self._message(message, f"messages[{index}]")
        for index, tool in enumerate(tools):
            self._tool(tool, f"tools[{index}]")
        self._choice(choice_of(body, self._context))
        out.infer(
            body.get("max_tokens"),
            body.get("temperature"),
            body.get("top_p"),
            body.get("stop_sequences"),
        )
        self._extras()
        for name in _UNSUPPORTED:
            if body.get(name) not in (None, {}, [], "auto"):
                self._context.drop(name)
        return out.finish()

    def _reserve_names(self, tools: list[Json]) -> None:
        for index, tool in enumerate(tools):
            if is_own(tool):
                where = f"tools[{index}].name"
                self._out.names.clean(to_text(tool.get("name"), where), where)

    def _system(self, system: object, where: str) -> None:
        if system is None or isinstance(system, str):
            self._out.add_system(system or "")
            return
        for index, block in enumerate(to_objects(system, where)):
            text = to_text(block.get("text"), f"{where}[{index}].text")
            self._out.add_system(text, is_cached=bool(block.get("cache_control")))

    def _message(self, message: Json, where: str) -> None:
        role = to_text(message.get("role"), f"{where}.role")
        content = message.get("content")
        if role == "system":
            self._system(content, f"{where}.content")
            return
        role = "assistant" if role == "assistant" else "user"
        if isinstance(content, str):
            self._out.add(role, [{"text": content}] if content.strip() else [])
            return
        blocks: list[Json] = []
        for index, block in enumerate(to_objects(content, f"{where}.content")):
            converted = self._block(block, f"{where}.content[{index}]")
            if converted is not None:
                blocks.append(converted)
                if block.get("cache_control"):
                    blocks += self._out.cache_point()
        self._out.add(role, blocks)

    def _block(self, block: Json, where: str) -> Json | None:
        kind = block.get("type")
        if kind == "text":
            text = to_text(block.get("text"), f"{where}.text")
            return {"text": text} if text.strip() else None
        if kind == "image":
            return image_of_source(to_object(block.get("source"), f"{where}.source"), where)
        if kind == "tool_use":
            return self._tool_use(block, where)
        if kind == "tool_result":
            return self._tool_result(block, where)
        if kind == "thinking":
            return _thinking(block, where)
        if kind == "redacted_thinking":
            data = to_text(block.get("data"), f"{where}.data")
            return {"reasoningContent": {"redactedContent": data}}
        if kind == "document":
            return self._out.documents.of_block(block, where)
        if kind == "search_result":
            found = found_text(block, where)
            return {"text": found} if found else None
        self._context.drop(f"content block {kind}")
        return None

    def _tool_use(self, block: Json, where: str) -> Json:
        given = block.get("input")
        name = to_text(block.get("name"), f"{where}.name")
        use = {
            "toolUseId": clean_id(to_text(block.get("id"), f"{where}.id")),
            "name": self._out.names.clean(name, f"{where}.name"),
            "input": given if isinstance(given, dict) else {},
        }
        return {"toolUse": use}

    def _tool_result(self, block: Json, where: str) -> Json:
        is_error = block.get("is_error")
        result = {
            "toolUseId": clean_id(to_text(block.get("tool_use_id"), f"{where}.tool_use_id")),
            "content": self._result_content(block.get("content"), f"{where}.content"),
            "status": None if is_error is None else "error" if is_error else "success",
        }
        return {"toolResult": result}

    def _result_content(self, content: object, where: str) -> list[Json]:
        if content is None or isinstance(content, str):
            return [result_text(content or "")]
        out: list[Json] = []
        for index, part in enumerate(to_objects(content, where)):
            if part.get("type") in ("text", "image", "document", "search_result"):
                converted = self._block(part, f"{where}[{index}]")
                out += [] if converted is None else [converted]
            else:
                self._context.drop(f"tool result block {part.get('type')}")
        return out or [result_text("")]

    def _tool(self, tool: Json, where: str) -> None:
        if not is_own(tool):
            self._context.drop(f"tool {tool.get('type')}")
            return
        schema = to_object(tool.get("input_schema"), f"{where}.input_schema")
        name = to_text(tool.get("name"), f"{where}.name")
        self._out.add_tool(name, tool.get("description"), schema or None, where)
        if tool.get("cache_control"):
            self._out.add_tool_cache_point()

    def _choice(self, choice: Json) -> None:
        kind = choice.get("type")
        if kind == "tool":
            self._out.choose("tool", to_text(choice.get("name"), "tool_choice.name"))
        elif kind in ("auto", "any", "none"):
            self._out.choose(str(kind))
        if choice.get("disable_parallel_tool_use"):
            self._context.drop("disable_parallel_tool_use")

    def _extras(self) -> None:
        """What only Claude knows goes through Converse as it is."""
        body, out = self._body, self._out
        if body.get("top_k") is not None:
            out.set_own("top_k", body["top_k"])
        thinking = to_object(body.get("thinking"), "thinking")
        if thinking:
            out.think_as(thinking)
        config = dict(to_object(body.get("output_config"), "output_config"))
        config.pop("format", None)
        form = schema_of(body)
        if form is not None:
            out.answer_as(form.get("schema") or {})
        if config:
            out.set_own("output_config", config)
        metadata = to_object(body.get("metadata"), "metadata")
        if metadata:
            out.set_own("metadata", metadata)
        betas = betas_of(body, self._context)
        if betas:
            out.set_own("anthropic_beta", betas)


def _thinking(block: Json, where: str) -> Json | None:
    """Without its signature a provider would refuse it, and needs none: it is left out."""
    text = to_text(block.get("thinking"), f"{where}.thinking")
    signature = to_text(block.get("signature"), f"{where}.signature")
    if not signature:
        return None
    return {"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}


@final
class _MessagesToConverse:
    """M → Conv."""

    def request(self, body: Json, context: Context) -> Json:
        return _Request(body, context).convert()

    def response(self, body: Json, context: Context) -> Json:
        return response_of(body, context)

    def stream(self, context: Context) -> ConverseStream:
        return ConverseStream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return as_anthropic(status, bedrock_error(body))


CONVERSION: Conversion = _MessagesToConverse()
