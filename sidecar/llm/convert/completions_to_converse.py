"""OpenAI chat completions for the client, Bedrock's Converse for the provider.

Source: spec llm sections 2.9 and 2.10; OpenAI API reference (chat); Amazon Bedrock API reference
(Converse, ConverseStream).
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.bedrock_media import image_of_url
from sidecar.llm.convert.cloud_error import bedrock_error
from sidecar.llm.convert.completions_from_converse import ConverseStream, response_of
from sidecar.llm.convert.completions_request import unlisted
from sidecar.llm.convert.converse_request import ConverseRequest, result_text
from sidecar.llm.convert.provider_error import as_openai
from sidecar.llm.convert.thinking import budget_of
from sidecar.llm.convert.thought_signatures import clean_id
from sidecar.llm.shape import (
    joined_text,
    parse_object,
    to_object,
    to_objects,
    to_text,
)

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
    "user",
    "metadata",
    "store",
    "verbosity",
    "top_k",
)
_MODES: Final = {"auto": "auto", "required": "any", "none": "none"}


# --- request --------------------------------------------------------------------------------


@final
class _Request:
    """One request under conversion."""

    __slots__ = ("_body", "_context", "_out")

    def __init__(self, body: Json, context: Context) -> None:
        self._body = body
        self._context = context
        self._out = ConverseRequest(context)

    def convert(self) -> Json:
        body, out = self._body, self._out
        self._tools()
        for index, message in enumerate(to_objects(body.get("messages"), "messages")):
            self._message(message, f"messages[{index}]")
        maximum = body.get("max_completion_tokens") or body.get("max_tokens")
        out.infer(maximum, body.get("temperature"), body.get("top_p"), body.get("stop"))
        budget = budget_of(body.get("reasoning_effort"))
        if budget is not None:
            out.think(budget, has_limit=maximum is not None)
        self._format()
        for name in _UNSUPPORTED:
            if body.get(name) not in (None, 1 if name == "n" else None, False, [], {}):
                self._context.drop(name)
        return out.finish()

    def _message(self, message: Json, where: str) -> None:
        role = to_text(message.get("role"), f"{where}.role")
        content = message.get("content")
        if role in ("system", "developer"):
            self._system(content, f"{where}.content")
        elif role == "assistant":
            self._out.add("assistant", self._assistant(message, where))
        elif role == "tool":
            self._out.add("user", [_tool_result(message, where)])
        else:
            self._out.add("user", self._parts(content, f"{where}.content"))

    def _system(self, content: object, where: str) -> None:
        if content is None or isinstance(content, str):
            self._out.add_system(content or "")
            return
        for part in to_objects(content, where):
            is_cached = bool(part.get("cache_control"))
            self._out.add_system(to_text(part.get("text"), f"{where}.text"), is_cached=is_cached)

    def _parts(self, content: object, where: str) -> list[Json]:
        """The blocks of a content. Bedrock refuses blank text."""
        if content is None or isinstance(content, str):
            return [{"text": content}] if content and content.strip() else []
        blocks: list[Json] = []
        for index, part in enumerate(to_objects(content, where)):
            block = self._part(part, f"{where}[{index}]")
            if block is not None:
                blocks.append(block)
                if part.get("cache_control"):
                    blocks += self._out.cache_point()
        return blocks

    def _part(self, part: Json, where: str) -> Json | None:
        kind = part.get("type")
        if kind in ("text", "refusal"):
            text = to_text(part.get(kind), f"{where}.{kind}")
            return {"text": text} if text.strip() else None
        if kind == "image_url":
            given = to_object(part.get("image_url"), f"{where}.image_url")
            return image_of_url(to_text(given.get("url"), f"{where}.image_url.url"), where)
        if kind == "file":
            file = to_object(part.get("file"), f"{where}.file")
            return self._out.documents.of_file(file, f"{where}.file")
        self._context.drop(f"content part {kind}")
        return None

    def _assistant(self, message: Json, where: str) -> list[Json]:
        blocks: list[Json] = []
        thought = to_text(message.get("reasoning_content"), f"{where}.reasoning_content")
        signature = to_text(message.get("reasoning_signature"), f"{where}.reasoning_signature")
        if thought and signature:
            text = {"text": thought, "signature": signature}
            blocks.append({"reasoningContent": {"reasoningText": text}})
        blocks += self._parts(message.get("content"), f"{where}.content")
        blocks += self._parts(to_text(message.get("refusal"), f"{where}.refusal"), where)
        calls = to_objects(message.get("tool_calls"), f"{where}.tool_calls")
        blocks += [self._tool_use(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
        return blocks

    def _tool_use(self, call: Json, where: str) -> Json:
        is_custom = call.get("type") == "custom"
        function = to_object(call.get("custom" if is_custom else "function"), f"{where}.function")
        if is_custom:
            given: Json = {"input": to_text(function.get("input"), f"{where}.custom.input")}
        else:
            arguments = to_text(function.get("arguments"), f"{where}.function.arguments")
            given = parse_object(arguments) or {}
        name = to_text(function.get("name"), f"{where}.function.name")
        use = {
            "toolUseId": clean_id(to_text(call.get("id"), f"{where}.id")),
            "name": self._out.names.clean(name, f"{where}.function.name"),
            "input": given,
        }
        return {"toolUse": use}

    def _tools(self) -> None:
        for index, tool in enumerate(to_objects(self._body.get("tools"), "tools")):
            where = f"tools[{index}].function"
            if tool.get("type") != "function":
                self._context.drop(f"tool type {tool.get('type')}")
                continue
            function = to_object(tool.get("function"), where)
            name = to_text(function.get("name"), f"{where}.name")
            schema = to_object(function.get("parameters"), f"{where}.parameters")
            self._out.add_tool(name, function.get("description"), schema or None, where)
            if tool.get("cache_control"):
                self._out.add_tool_cache_point()
        self._choice(unlisted(self._body.get("tool_choice"), self._context))
        if self._body.get("parallel_tool_calls") is False:
            self._context.drop("parallel_tool_calls")

    def _choice(self, choice: object) -> None:
        if isinstance(choice, str):
            self._out.choose(_MODES.get(choice, ""))
            return
        function = to_object(to_object(choice, "tool_choice").get("function"), "tool_choice")
        if function.get("name") is not None:
            self._out.choose("tool", to_text(function["name"], "tool_choice.function.name"))

    def _format(self) -> None:
        wanted = to_object(self._body.get("response_format"), "response_format")
        if wanted.get("type") == "json_schema":
            schema = to_object(wanted.get("json_schema"), "response_format.json_schema")
            self._out.answer_as(
                schema.get("schema") or {}, schema.get("name"), schema.get("description")
            )
        elif wanted.get("type") == "json_object":
            self._context.drop("response_format json_object")


def _tool_result(message: Json, where: str) -> Json:
    text = joined_text(message.get("content"), f"{where}.content", "\n")
    result = {
        "toolUseId": clean_id(to_text(message.get("tool_call_id"), f"{where}.tool_call_id")),
        "content": [result_text(text)],
        "status": None,
    }
    return {"toolResult": result}


@final
class _CompletionsToConverse:
    """C → Conv."""

    def request(self, body: Json, context: Context) -> Json:
        return _Request(body, context).convert()

    def response(self, body: Json, context: Context) -> Json:
        return response_of(body, context)

    def stream(self, context: Context) -> ConverseStream:
        return ConverseStream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return as_openai(status, bedrock_error(body))


CONVERSION: Conversion = _CompletionsToConverse()
