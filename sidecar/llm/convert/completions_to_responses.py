"""OpenAI chat completions for the client, responses for the provider.

The reference has no such pair. Nothing is stored at the provider unless the client asks for it,
as with chat completions.

Source: OpenAI API reference (chat; create a response).
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.convert import provider_error
from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.completions_from_responses import CompletionStream, response_of
from sidecar.llm.convert.responses_limits import output_limit
from sidecar.llm.convert.thought_signatures import own_id
from sidecar.llm.shape import joined_text, to_object, to_objects, to_text

_KEPT: Final = (
    "temperature",
    "top_p",
    "user",
    "metadata",
    "parallel_tool_calls",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
)
_UNSUPPORTED: Final = (
    "n",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "functions",
    "function_call",
    "audio",
    "prediction",
    "web_search_options",
    "top_k",
)
_MODES: Final = ("auto", "none", "required")


@final
class _Request:
    """One request under conversion."""

    __slots__ = ("_body", "_context", "_custom_calls", "_input")

    def __init__(self, body: Json, context: Context) -> None:
        self._body = body
        self._context = context
        self._input: list[Json] = []
        self._custom_calls: set[str] = set()
        """Ids of free-form calls: their results have a type of their own."""

    def convert(self) -> Json:
        body = self._body
        for index, message in enumerate(to_objects(body.get("messages"), "messages")):
            self._message(message, f"messages[{index}]")
        out: Json = {
            "model": self._context.model,
            "input": self._input,
            "stream": body.get("stream") is True,
            "store": body.get("store") is True,
        }
        maximum = body.get("max_completion_tokens") or body.get("max_tokens")
        if maximum is not None:
            out["max_output_tokens"] = output_limit(maximum)
        out.update((name, body[name]) for name in _KEPT if body.get(name) is not None)
        self._tools(out)
        self._text_settings(out)
        if body.get("reasoning_effort") is not None:
            out["reasoning"] = {"effort": body["reasoning_effort"]}
        if body.get("logprobs") is True:
            out["include"] = ["message.output_text.logprobs"]
            out["top_logprobs"] = body.get("top_logprobs") or 0
        for name in _UNSUPPORTED:
            if body.get(name) not in (None, 1 if name == "n" else None, 0, False, [], {}):
                self._context.drop(name)
        return out

    # --- messages ---

    def _message(self, message: Json, where: str) -> None:
        role = to_text(message.get("role"), f"{where}.role")
        if role == "assistant":
            self._assistant(message, where)
        elif role == "tool":
            self._result(message, where)
        else:
            role = role if role in ("system", "developer") else "user"
            self._add(role, self._content(message.get("content"), f"{where}.content"))

    def _add(self, role: str, content: str | list[Json]) -> None:
        if content:
            self._input.append({"type": "message", "role": role, "content": content})

    def _content(self, content: object, where: str) -> str | list[Json]:
        if content is None or isinstance(content, str):
            return content or ""
        return [new for part in to_objects(content, where) for new in self._part(part, where)]

    def _part(self, part: Json, where: str) -> list[Json]:
        """The input parts that a content part becomes: one, or none without a counterpart."""
        kind = part.get("type")
        out: Json | None = None
        if kind == "text":
            out = {"type": "input_text", "text": to_text(part.get("text"), f"{where}.text")}
        elif kind == "image_url":
            image = to_object(part.get("image_url"), f"{where}.image_url")
            out = {
                "type": "input_image",
                "image_url": to_text(image.get("url"), f"{where}.image_url.url"),
                "detail": image.get("detail") or "auto",
            }
        elif kind == "file":
            file = to_object(part.get("file"), f"{where}.file")
            names = ("file_id", "filename", "file_data")
            known = {name: file[name] for name in names if file.get(name) is not None}
            out = {"type": "input_file", **known}
        if out is None:
            self._context.drop(f"content part {kind}")
            return []
        if part.get("prompt_cache_breakpoint") is not None:
            out["prompt_cache_breakpoint"] = part["prompt_cache_breakpoint"]
        return [out]

    def _assistant(self, message: Json, where: str) -> None:
        content = message.get("content")
        refusal = to_text(message.get("refusal"), f"{where}.refusal")
        if isinstance(content, str) and not refusal:
            self._add("assistant", content)
        else:
            given = [{"type": "text", "text": content}] if isinstance(content, str) else content
            parts = [_said(part, where) for part in to_objects(given, f"{where}.content")]
            if refusal:
                parts.append({"type": "refusal", "refusal": refusal})
            self._add("assistant", parts)
        if message.get("reasoning_content"):
            self._context.drop("replayed reasoning")
        for index, call in enumerate(to_objects(message.get("tool_calls"), f"{where}.tool_calls")):
            self._call(call, f"{where}.tool_calls[{index}]")

    def _call(self, call: Json, where: str) -> None:
        is_custom = call.get("type") == "custom"
        kind, key = ("custom", "input") if is_custom else ("function", "arguments")
        function = to_object(call.get(kind), f"{where}.{kind}")
        identity = own_id(to_text(call.get("id"), f"{where}.id"))
        if is_custom:
            self._custom_calls.add(identity)
        self._input.append(
            {
                "type": "custom_tool_call" if is_custom else "function_call",
                "call_id": identity,
                "name": to_text(function.get("name"), f"{where}.{kind}.name"),
                key: to_text(function.get(key), f"{where}.{kind}.{key}"),
            }
        )

    def _result(self, message: Json, where: str) -> None:
        identity = own_id(to_text(message.get("tool_call_id"), f"{where}.tool_call_id"))
        is_custom = identity in self._custom_calls
        self._input.append(
            {
                "type": "custom_tool_call_output" if is_custom else "function_call_output",
                "call_id": identity,
                "output": joined_text(message.get("content"), f"{where}.content", "\n"),
            }
        )

    # --- settings ---

    def _tools(self, out: Json) -> None:
        tools: list[Json] = []
        for index, tool in enumerate(to_objects(self._body.get("tools"), "tools")):
            if tool.get("type") in ("function", "custom"):
                tools.append(_tool(tool, f"tools[{index}]"))
            else:
                self._context.drop(f"tool type {tool.get('type')}")
        if tools:
            out["tools"] = tools
        choice = self._body.get("tool_choice")
        if isinstance(choice, str):
            if choice in _MODES:
                out["tool_choice"] = choice
        elif choice is not None:
            out["tool_choice"] = _choice(to_object(choice, "tool_choice"))

    def _text_settings(self, out: Json) -> None:
        text: Json = {}
        wanted = to_object(self._body.get("response_format"), "response_format")
        if wanted.get("type") == "json_schema":
            schema = to_object(wanted.get("json_schema"), "response_format.json_schema")
            text["format"] = {"type": "json_schema", "strict": False} | schema
        elif wanted.get("type") == "json_object":
            text["format"] = {"type": "json_object"}
        if self._body.get("verbosity") is not None:
            text["verbosity"] = self._body["verbosity"]
        if text:
            out["text"] = text


def _said(part: Json, where: str) -> Json:
    """A part of what the assistant said before."""
    if part.get("type") == "refusal":
        return {"type": "refusal", "refusal": to_text(part.get("refusal"), f"{where}.refusal")}
    return {"type": "output_text", "text": to_text(part.get("text"), f"{where}.text")}


def _tool(tool: Json, where: str) -> Json:
    """A tool without its wrapper."""
    kind = tool["type"]
    inner = to_object(tool.get(kind), f"{where}.{kind}")
    out: Json = {"type": kind, "name": to_text(inner.get("name"), f"{where}.{kind}.name")}
    if inner.get("description") is not None:
        out["description"] = inner["description"]
    if kind == "function":
        out["parameters"] = inner.get("parameters")
        # Unsaid means strict there, and not strict in chat completions.
        return out | {"strict": inner.get("strict") is True}
    form = to_object(inner.get("format"), f"{where}.custom.format")
    if form.get("type") == "grammar":
        grammar = to_object(form.get("grammar"), f"{where}.custom.format.grammar")
        return out | {"format": {"type": "grammar"} | grammar}
    return out | ({"format": form} if form else {})


def _choice(choice: Json) -> Json:
    """A tool choice that names tools, without the wrappers."""
    kind = choice.get("type")
    if kind == "allowed_tools":
        allowed = to_object(choice.get("allowed_tools"), "tool_choice.allowed_tools")
        tools = to_objects(allowed.get("tools"), "tool_choice.allowed_tools.tools")
        return {
            "type": "allowed_tools",
            "mode": allowed.get("mode") or "auto",
            "tools": [_choice(tool) for tool in tools if tool.get("type") != "allowed_tools"],
        }
    kind = "custom" if kind == "custom" else "function"
    inner = to_object(choice.get(kind), f"tool_choice.{kind}")
    return {"type": kind, "name": to_text(inner.get("name"), f"tool_choice.{kind}.name")}


@final
class _CompletionsToResponses:
    """C → R."""

    def request(self, body: Json, context: Context) -> Json:
        return _Request(body, context).convert()

    def response(self, body: Json, context: Context) -> Json:
        return response_of(body, context)

    def stream(self, context: Context) -> CompletionStream:
        return CompletionStream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return provider_error.as_openai(status, provider_error.of_body(body))


CONVERSION: Conversion = _CompletionsToResponses()
