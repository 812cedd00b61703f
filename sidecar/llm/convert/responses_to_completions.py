"""OpenAI responses for the client, chat completions for the provider.

Source: spec llm section 2.8; OpenAI API reference (responses, chat).
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.convert import provider_error
from sidecar.llm.convert import responses_request as source
from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.custom_tools import pack
from sidecar.llm.convert.gemini_effort import effort_for
from sidecar.llm.convert.responses_from_completions import ResponseStream, response_of
from sidecar.llm.convert.thought_signatures import own_id, sign_calls
from sidecar.llm.shape import to_object, to_objects, to_text

_KEPT: Final = (
    ("max_output_tokens", "max_completion_tokens"),
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("parallel_tool_calls", "parallel_tool_calls"),
    ("user", "user"),
    ("metadata", "metadata"),
    ("service_tier", "service_tier"),
)
_BREAKPOINT: Final = "prompt_cache_breakpoint"


@final
class _Request:
    """One request under conversion."""

    __slots__ = ("_body", "_context", "_messages")

    def __init__(self, body: Json, context: Context) -> None:
        self._body = body
        self._context = context
        self._messages: list[Json] = []

    def convert(self) -> Json:
        body = self._body
        out: Json = {"model": self._context.model, "messages": self._messages}
        instructions = to_text(body.get("instructions"), "instructions")
        if instructions:
            self._messages.append({"role": "developer", "content": instructions})
        for index, item in enumerate(source.input_items(body)):
            self._item(item, f"input[{index}]")
        for message in self._messages:
            sign_calls(message.get("tool_calls", []), self._context.model)
        out["stream"] = body.get("stream") is True
        if out["stream"]:
            out["stream_options"] = {"include_usage": True}
        for name, target in _KEPT:
            if body.get(name) not in (None, {}):
                out[target] = body[name]
        self._tools(out)
        effort = source.effort(body)
        if effort is not None:
            out["reasoning_effort"] = effort_for(effort, self._context.model)
        self._format(out)
        source.drop_unsupported(body, self._context)
        return out

    def _item(self, item: Json, where: str) -> None:
        kind = item.get("type")
        if source.is_message(item):
            self._message(item, where)
        elif kind in source.CALLS:
            self._call(item, where)
        elif kind in source.RESULTS:
            result = {
                "role": "tool",
                "content": source.output_text(item, where, self._context),
                "tool_call_id": own_id(to_text(item.get("call_id"), f"{where}.call_id")),
            }
            self._messages.append(result)
        else:
            self._context.drop(f"input item {kind}")

    def _message(self, item: Json, where: str) -> None:
        role = to_text(item.get("role"), f"{where}.role")
        if role == "system" and item.get("type") is None:
            role = "developer"
        content = item.get("content")
        if not isinstance(content, str):
            parts = to_objects(content, f"{where}.content")
            parts = [new for part in parts for new in self._part(part, f"{where}.content")]
            if not parts:
                return
            content = parts
        self._messages.append({"role": role, "content": content})

    def _part(self, part: Json, where: str) -> list[Json]:
        """The content parts that an input part becomes: one, or none without a counterpart."""
        kind = part.get("type")
        out: Json | None = None
        if source.part_kind(part) == "input_text":
            out = {"type": "text", "text": to_text(part.get("text"), f"{where}.text")}
        elif kind == "refusal":
            out = {"type": "refusal", "refusal": source.refusal_text(part, where)}
        elif kind == "input_image" and part.get("image_url") is not None:
            image = {"url": to_text(part["image_url"], f"{where}.image_url")}
            if part.get("detail") is not None:
                image["detail"] = to_text(part["detail"], f"{where}.detail")
            out = {"type": "image_url", "image_url": image}
        elif kind == "input_file" and part.get("file_data") is not None:
            names = ("filename", "file_data")
            file = {name: part[name] for name in names if part.get(name) is not None}
            out = {"type": "file", "file": file}
        elif kind == "input_audio":
            audio = to_object(part.get("input_audio"), f"{where}.input_audio")
            out = {"type": "input_audio", "input_audio": audio}
        if out is None:
            self._context.drop(f"input part {kind}")
            return []
        if part.get(_BREAKPOINT) is not None:
            out[_BREAKPOINT] = part[_BREAKPOINT]
        return [out]

    def _call(self, item: Json, where: str) -> None:
        """Calls side by side belong to one message."""
        if item["type"] == "custom_tool_call":
            arguments = pack(to_text(item.get("input"), f"{where}.input"))
        else:
            arguments = to_text(item.get("arguments"), f"{where}.arguments")
        name = to_text(item.get("name"), f"{where}.name")
        call = {
            "type": "function",
            "id": to_text(item.get("call_id"), f"{where}.call_id"),
            "function": {"name": name, "arguments": arguments},
        }
        if self._messages and "tool_calls" in self._messages[-1]:
            self._messages[-1]["tool_calls"].append(call)
        else:
            self._messages.append({"role": "assistant", "tool_calls": [call]})

    def _tools(self, out: Json) -> None:
        functions = source.functions(self._body, self._context)
        if functions:
            out["tools"] = [{"type": "function", "function": each} for each in functions]
        else:
            # Without tools, OpenAI and others refuse whatever is said of them.
            out.pop("parallel_tool_calls", None)
        mode, name = source.tool_choice(self._body, self._context)
        if not functions:
            return
        if mode == "named":
            out["tool_choice"] = {"type": "function", "function": {"name": name}}
        elif mode:
            out["tool_choice"] = mode

    def _format(self, out: Json) -> None:
        wanted = source.schema_format(self._body)
        if wanted is None:
            return
        out["response_format"] = {"type": wanted["type"]}
        if wanted["type"] == "json_schema":
            names = ("name", "description", "schema", "strict")
            schema = {name: wanted[name] for name in names if wanted.get(name) is not None}
            out["response_format"]["json_schema"] = schema


@final
class _ResponsesToCompletions:
    """R → C."""

    def request(self, body: Json, context: Context) -> Json:
        return _Request(body, context).convert()

    def response(self, body: Json, context: Context) -> Json:
        return response_of(body, context)

    def stream(self, context: Context) -> ResponseStream:
        return ResponseStream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return provider_error.as_openai(status, provider_error.of_body(body))


CONVERSION: Conversion = _ResponsesToCompletions()
