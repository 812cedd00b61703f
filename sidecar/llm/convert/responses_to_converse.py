"""OpenAI responses for the client, Bedrock's Converse for the provider.

Source: spec llm sections 2.9 and 2.10; OpenAI API reference (responses); Amazon Bedrock API
reference (Converse, ConverseStream).
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.convert import responses_request as source
from sidecar.llm.convert import signatures
from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.bedrock_media import image_of_url
from sidecar.llm.convert.cloud_error import bedrock_error
from sidecar.llm.convert.converse_request import ConverseRequest, result_text
from sidecar.llm.convert.provider_error import as_openai
from sidecar.llm.convert.responses_from_converse import ConverseStream, response_of
from sidecar.llm.convert.thinking import budget_of
from sidecar.llm.convert.thought_signatures import clean_id
from sidecar.llm.shape import (
    parse_object,
    to_object,
    to_objects,
    to_optional_count,
    to_text,
)

_MODES: Final = {"auto": "auto", "required": "any", "none": "none", "named": "tool"}


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
        out.add_system(to_text(body.get("instructions"), "instructions"))
        for index, item in enumerate(source.input_items(body)):
            self._item(item, f"input[{index}]")
        maximum = body.get("max_output_tokens")
        out.infer(maximum, body.get("temperature"), body.get("top_p"), None)
        budget = self._budget()
        if budget is not None:
            out.think(budget, has_limit=maximum is not None)
        form = source.schema_format(body)
        if form is not None and form["type"] == "json_schema":
            out.answer_as(form.get("schema") or {}, form.get("name"), form.get("description"))
        elif form is not None:
            self._context.drop("text.format json_object")
        source.drop_unsupported(body, self._context)
        for name in ("user", "metadata"):
            if body.get(name) not in (None, {}):
                self._context.drop(name)
        return out.finish()

    def _budget(self) -> int | None:
        vendor = to_object(self._body.get("vendor_extensions"), "vendor_extensions")
        name = "thinking_budget_tokens"
        budget = to_optional_count(vendor.get(name), f"vendor_extensions.{name}")
        return budget_of(source.effort(self._body)) if budget is None else budget

    def _item(self, item: Json, where: str) -> None:
        kind = item.get("type")
        if source.is_message(item):
            self._message(item, where)
        elif kind in source.CALLS:
            self._out.add("assistant", [self._call(item, where)])
        elif kind in source.RESULTS:
            self._out.add("user", [self._result(item, where)])
        elif kind == "reasoning":
            replayed = _replayed(item, where)
            if not replayed:
                self._context.drop("reasoning of another provider")
            self._out.add("assistant", replayed)
        else:
            self._context.drop(f"input item {kind}")

    def _message(self, item: Json, where: str) -> None:
        role = to_text(item.get("role"), f"{where}.role")
        content = item.get("content")
        if isinstance(content, str):
            content = [{"type": "input_text", "text": content}]
        parts = to_objects(content, f"{where}.content")
        if role in ("system", "developer"):
            for part in parts:
                self._out.add_system(to_text(part.get("text"), f"{where}.content.text"))
            return
        blocks: list[Json] = []
        for index, part in enumerate(parts):
            block = self._part(part, f"{where}.content[{index}]")
            blocks += [] if block is None else [block]
        self._out.add("assistant" if role == "assistant" else "user", blocks)

    def _part(self, part: Json, where: str) -> Json | None:
        kind = source.part_kind(part)
        if kind in ("input_text", "refusal"):
            refused = source.refusal_text(part, where) if kind == "refusal" else ""
            text = refused or to_text(part.get("text"), where)
            return {"text": text} if text.strip() else None
        if kind == "input_image" and part.get("image_url") is not None:
            return image_of_url(to_text(part["image_url"], f"{where}.image_url"), where)
        if kind == "input_file":
            return self._out.documents.of_file(part, where)
        self._context.drop(f"input part {kind}")
        return None

    def _call(self, item: Json, where: str) -> Json:
        if item["type"] == "custom_tool_call":
            given: Json = {"input": to_text(item.get("input"), f"{where}.input")}
        else:
            given = parse_object(to_text(item.get("arguments"), f"{where}.arguments")) or {}
        name = to_text(item.get("name"), f"{where}.name")
        use = {
            "toolUseId": clean_id(to_text(item.get("call_id"), f"{where}.call_id")),
            "name": self._out.names.clean(name, f"{where}.name"),
            "input": given,
        }
        return {"toolUse": use}

    def _result(self, item: Json, where: str) -> Json:
        output = item.get("output")
        if output is None or isinstance(output, str):
            content: list[Json] = [result_text(output or "")]
        else:
            parts = enumerate(to_objects(output, f"{where}.output"))
            blocks = [self._part(part, f"{where}.output[{index}]") for index, part in parts]
            content = [block for block in blocks if block is not None] or [result_text("")]
        call_id = clean_id(to_text(item.get("call_id"), f"{where}.call_id"))
        return {"toolResult": {"toolUseId": call_id, "content": content, "status": None}}

    def _tools(self) -> None:
        for index, tool in enumerate(source.functions(self._body, self._context)):
            where = f"tools[{index}]"
            self._out.add_tool(tool["name"], tool.get("description"), tool.get("parameters"), where)
        mode, name = source.tool_choice(self._body, self._context)
        self._out.choose(_MODES.get(mode, ""), name)
        if self._body.get("parallel_tool_calls") is False:
            self._context.drop("parallel_tool_calls")


def _replayed(item: Json, where: str) -> list[Json]:
    """A reasoning item of an earlier answer; what carries no signature of Claude's is left out."""
    encrypted = to_text(item.get("encrypted_content"), f"{where}.encrypted_content")
    parts = to_objects(item.get("summary"), f"{where}.summary")
    text = "".join(to_text(part.get("text"), f"{where}.summary.text") for part in parts)
    block = signatures.thinking_block(text, encrypted)
    if block is None:
        return []
    if block["type"] == "redacted_thinking":
        return [{"reasoningContent": {"redactedContent": block["data"]}}]
    thought = {"text": text, "signature": block["signature"]}
    return [{"reasoningContent": {"reasoningText": thought}}]


@final
class _ResponsesToConverse:
    """R → Conv."""

    def request(self, body: Json, context: Context) -> Json:
        return _Request(body, context).convert()

    def response(self, body: Json, context: Context) -> Json:
        return response_of(body, context)

    def stream(self, context: Context) -> ConverseStream:
        return ConverseStream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return as_openai(status, bedrock_error(body))


CONVERSION: Conversion = _ResponsesToConverse()
