"""An OpenAI chat completions request as Google's generateContent.

Source: spec llm section 2.11; OpenAI API reference (chat); Gemini API reference (generateContent,
function calling, thinking).
"""

from __future__ import annotations

from typing import Any, Final, final

from sidecar.errors import RequestError
from sidecar.llm.convert.base import Context, Json
from sidecar.llm.convert.completions_request import unlisted
from sidecar.llm.convert.gemini_schema import Inlined, clean_schema, settled_schema
from sidecar.llm.convert.media import parse_data_url
from sidecar.llm.convert.thinking import budget_of
from sidecar.llm.convert.thought_signatures import (
    UNCHECKED,
    demands_signatures,
    signature_of,
    split_call_id,
)
from sidecar.llm.shape import (
    joined_text,
    parse_object,
    to_list,
    to_object,
    to_objects,
    to_text,
)

STRICT: Final = "strictSchemas"
"""Of `Context.settings`: schemas go to Vertex AI, which refuses more of them."""
_FILLER: Final = {"text": " "}
"""Gemini refuses a turn without a text."""
_CONFIG: Final = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("top_k", "topK"),
    ("frequency_penalty", "frequencyPenalty"),
    ("presence_penalty", "presencePenalty"),
    ("n", "candidateCount"),
    ("seed", "seed"),
)
_LEVELS: Final = {
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
_UNSUPPORTED: Final = (
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
)
_MEDIA_TYPES: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "heic": "image/heic",
    "heif": "image/heif",
    "bmp": "image/bmp",
    "pdf": "application/pdf",
    "mp4": "video/mp4",
    "mov": "video/mov",
    "mpeg": "video/mpeg",
    "webm": "video/webm",
    "mp3": "audio/mp3",
    "wav": "audio/wav",
}


@final
class GeminiRequest:
    """One request under conversion."""

    __slots__ = (
        "_body",
        "_calls",
        "_contents",
        "_context",
        "_inlined",
        "_order",
        "_results",
        "_system",
    )

    def __init__(self, body: Json, context: Context) -> None:
        self._body = body
        self._context = context
        self._inlined = Inlined()
        self._system: list[str] = []
        self._contents: list[Json] = []
        self._calls: dict[str, str] = {}
        """Id of a call → its function's name."""
        self._order: dict[str, int] = {}
        """Id of a call of the last model turn → its place there."""
        self._results: list[tuple[int, Json]] | None = None
        """Results of the turn under way, with the place of their calls."""

    def convert(self) -> Json:
        """The body. Raises: ShapeError, RequestError 400."""
        body = self._body
        for index, message in enumerate(to_objects(body.get("messages"), "messages")):
            self._message(message, f"messages[{index}]")
        self._end_results()
        out: Json = {"contents": self._contents or [{"role": "user", "parts": [_FILLER]}]}
        cached = self._own("cached_content", "cachedContent")
        if cached is None:
            self._head(out)
        else:
            # What is cached brings these along, and Gemini refuses them beside it.
            out["cachedContent"] = to_text(cached, "cached_content")
        self._config(out)
        self._extras(out)
        for name in _UNSUPPORTED:
            if body.get(name) not in (None, False, [], {}):
                self._context.drop(name)
        return out

    # --- messages ---

    def _message(self, message: Json, where: str) -> None:
        role = to_text(message.get("role"), f"{where}.role")
        content = message.get("content")
        if role == "tool":
            self._result(message, where)
            return
        self._end_results()
        if role in ("system", "developer"):
            text = joined_text(content, f"{where}.content", "\n")
            self._system += [text] if text.strip() else []
        elif role == "assistant":
            parts = self._assistant(message, where)
            if parts:
                self._contents.append({"role": "model", "parts": parts})
        else:
            parts = self._parts(content, f"{where}.content")
            if not any("text" in part for part in parts):
                parts.append(_FILLER)
            self._contents.append({"role": "user", "parts": parts})

    def _parts(self, content: object, where: str) -> list[Json]:
        if content is None or isinstance(content, str):
            return [{"text": content}] if content else []
        out: list[Json] = []
        for index, part in enumerate(to_objects(content, where)):
            converted = self._part(part, f"{where}[{index}]")
            out += [] if converted is None else [converted]
        return out

    def _part(self, part: Json, where: str) -> Json | None:
        kind = part.get("type")
        if kind in ("text", "refusal"):
            text = to_text(part.get(kind), f"{where}.{kind}")
            return {"text": text} if text else None
        if kind == "image_url":
            return _image(to_object(part.get("image_url"), f"{where}.image_url"), where)
        if kind == "input_audio":
            audio = to_object(part.get("input_audio"), f"{where}.input_audio")
            form = to_text(audio.get("format"), f"{where}.input_audio.format")
            data = to_text(audio.get("data"), f"{where}.input_audio.data")
            return {"inlineData": {"mimeType": f"audio/{form or 'wav'}", "data": data}}
        if kind == "file":
            file = to_object(part.get("file"), f"{where}.file")
            parsed = parse_data_url(to_text(file.get("file_data"), f"{where}.file.file_data"))
            if parsed is not None:
                return {"inlineData": {"mimeType": parsed[0], "data": parsed[1]}}
        self._context.drop(f"content part {kind}")
        return None

    def _assistant(self, message: Json, where: str) -> list[Json]:
        parts = self._parts(message.get("content"), f"{where}.content")
        parts += self._parts(to_text(message.get("refusal"), f"{where}.refusal"), where)
        if message.get("reasoning_content"):
            self._context.drop("replayed reasoning")
        self._order = {}
        given = to_objects(message.get("tool_calls"), f"{where}.tool_calls")
        calls = [self._call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(given)]
        is_signed = any("thoughtSignature" in call for call in calls)
        if calls and not is_signed and demands_signatures(self._context.model):
            calls[0]["thoughtSignature"] = UNCHECKED
        return parts + calls

    def _call(self, call: Json, where: str) -> Json:
        is_custom = call.get("type") == "custom"
        function = to_object(call.get("custom" if is_custom else "function"), f"{where}.function")
        name = to_text(function.get("name"), f"{where}.function.name")
        if is_custom:
            given: Json = {"input": to_text(function.get("input"), f"{where}.custom.input")}
        else:
            arguments = to_text(function.get("arguments"), f"{where}.function.arguments")
            given = parse_object(arguments) or {}
        identity = to_text(call.get("id"), f"{where}.id")
        self._calls[identity] = name
        self._order.setdefault(identity, len(self._order))
        part: Json = {"functionCall": {"name": name, "args": given}}
        # Clients of Google's own imitation of OpenAI have it beside the call.
        signature = split_call_id(identity)[1] or signature_of(call)
        if signature:
            part["thoughtSignature"] = signature
        return part

    def _result(self, message: Json, where: str) -> None:
        identity = to_text(message.get("tool_call_id"), f"{where}.tool_call_id")
        name = self._calls.get(identity) or to_text(message.get("name"), f"{where}.name")
        if not name:
            raise RequestError(
                400, "InvalidRequest", f"{where}: tool_call_id names no call of this conversation"
            )
        text = joined_text(message.get("content"), f"{where}.content", "\n")
        answer = {"functionResponse": {"name": name, "response": {"content": text}}}
        if self._results is None:
            self._results = []
        self._results.append((self._order.get(identity, len(self._order)), answer))

    def _end_results(self) -> None:
        """Gemini matches results with calls by their order, not by an id."""
        results, self._results = self._results, None
        if results is not None:
            results.sort(key=lambda each: each[0])
            self._contents.append({"role": "user", "parts": [part for _, part in results]})

    # --- system and tools ---

    def _head(self, out: Json) -> None:
        if self._system:
            out["systemInstruction"] = {"parts": [{"text": "\n".join(self._system)}]}
        declarations = self._declarations()
        if declarations:
            out["tools"] = [{"functionDeclarations": declarations}]
        choice = self._choice(unlisted(self._body.get("tool_choice"), self._context))
        # Google refuses a choice among none.
        if choice is not None and declarations:
            out["toolConfig"] = {"functionCallingConfig": choice}
        if self._body.get("parallel_tool_calls") is False:
            self._context.drop("parallel_tool_calls")

    def _declarations(self) -> list[Json]:
        out: list[Json] = []
        for index, tool in enumerate(to_objects(self._body.get("tools"), "tools")):
            where = f"tools[{index}].function"
            if tool.get("type") != "function":
                self._context.drop(f"tool type {tool.get('type')}")
                continue
            function = to_object(tool.get("function"), where)
            entry: Json = {"name": to_text(function.get("name"), f"{where}.name")}
            if function.get("description") is not None:
                entry["description"] = to_text(function["description"], f"{where}.description")
            if function.get("parameters"):
                entry["parameters"] = self._schema(function["parameters"], f"{where}.parameters")
            out.append(entry)
        return out

    def _schema(self, schema: object, where: str) -> Json:
        clean = clean_schema(schema, where, self._inlined)
        return settled_schema(clean) if self._context.settings.get(STRICT) else clean

    def _choice(self, choice: object) -> Json | None:
        if choice is None:
            return None
        if isinstance(choice, str):
            return {"mode": {"none": "NONE", "required": "ANY"}.get(choice, "AUTO")}
        function = to_object(to_object(choice, "tool_choice").get("function"), "tool_choice")
        if function.get("name") is None:
            return {"mode": "AUTO"}
        name = to_text(function["name"], "tool_choice.function.name")
        return {"mode": "ANY", "allowedFunctionNames": [name]}

    # --- parameters ---

    def _config(self, out: Json) -> None:
        body = self._body
        config = {new: body[name] for name, new in _CONFIG if body.get(name) is not None}
        maximum = body.get("max_completion_tokens") or body.get("max_tokens")
        if maximum is not None:
            config["maxOutputTokens"] = maximum
        stop = body.get("stop")
        if stop is not None:
            config["stopSequences"] = [stop] if isinstance(stop, str) else to_list(stop, "stop")
        self._format(config)
        thinking = self._thinking()
        if thinking:
            config["thinkingConfig"] = thinking
        if config:
            out["generationConfig"] = config

    def _format(self, config: Json) -> None:
        wanted = to_object(self._body.get("response_format"), "response_format")
        if wanted.get("type") not in ("json_object", "json_schema"):
            return
        config["responseMimeType"] = "application/json"
        if wanted["type"] == "json_schema":
            where = "response_format.json_schema"
            schema = to_object(wanted.get("json_schema"), where).get("schema")
            if schema:
                config["responseSchema"] = self._schema(schema, f"{where}.schema")

    def _thinking(self) -> Json | None:
        own = self._own("thinking_config", "thinkingConfig")
        if own is not None:
            return to_object(own, "thinking_config")
        effort = self._body.get("reasoning_effort")
        budget = budget_of(effort)
        if budget is None:
            return None
        if _is_third_generation(self._context.model):
            return {"thinkingLevel": _LEVELS[str(effort)], "includeThoughts": True}
        return {"thinkingBudget": budget, "includeThoughts": True}

    def _extras(self, out: Json) -> None:
        for names, new in (
            (("safety_settings", "safetySettings"), "safetySettings"),
            (("labels",), "labels"),
        ):
            value = self._own(*names)
            if value is not None:
                out[new] = value

    def _own(self, *names: str) -> Any:
        """Google's own keys, at the top or where its OpenAI-like endpoint takes them."""
        extra = self._body.get("extra_body")
        google = extra.get("google") if isinstance(extra, dict) else None
        for holder in (self._body, google):
            for name in names:
                if isinstance(holder, dict) and holder.get(name) is not None:
                    return holder[name]
        return None


def _is_third_generation(model: str) -> bool:
    return model.rpartition("/")[2].startswith("gemini-3")


def _image(image: Json, where: str) -> Json:
    url = to_text(image.get("url"), f"{where}.image_url.url")
    parsed = parse_data_url(url)
    if parsed is not None:
        kind = "image/jpeg" if parsed[0] == "image/jpg" else parsed[0]
        return {"inlineData": {"mimeType": kind, "data": parsed[1]}}
    if not url.startswith("gs://"):
        raise RequestError(
            400, "InvalidRequest", f"{where}: Gemini takes images as data URLs and gs:// only"
        )
    named = (image.get(key) for key in ("format", "mime_type", "content_type"))
    kind = next((name for name in named if isinstance(name, str) and name), "")
    kind = kind or _MEDIA_TYPES.get(url.rpartition(".")[2].lower(), "")
    if not kind:
        raise RequestError(
            400, "InvalidRequest", f"{where}: the image's media type is not known: give `format`"
        )
    if "/" not in kind:
        kind = _MEDIA_TYPES.get(kind.lower(), f"image/{kind}")
    return {"fileData": {"mimeType": kind, "fileUri": url}}
