"""Bodies of formats the gateway does not know: usage, model and parameters by where they may be.

Looked at: OpenAI (chat, responses, images, audio), Anthropic, Bedrock (Converse and the models'
own bodies under invoke), Gemini, Cloud Code's `response` envelope, Cohere. Nothing is edited.

Source: spec llm section 2.14; the API references of those providers.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, final

from sidecar.llm.chat import completions, converse, gemini, loose, messages, responses
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.pieces import (
    AUDIO_SECOND,
    CHARACTER,
    IMAGE,
    PAGE,
    RERANK_SEARCH,
    Pieces,
    with_piece,
)
from sidecar.llm.shape import parse_object
from sidecar.llm.usage import Usage

_PARAMS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "topP": "top_p",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "maxOutputTokens": "max_tokens",
    "maxTokens": "max_tokens",
    "maxTokenCount": "max_tokens",
    "max_gen_len": "max_tokens",
    "max_tokens": "max_tokens",
    "frequency_penalty": "frequency_penalty",
    "frequencyPenalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "presencePenalty": "presence_penalty",
    "seed": "seed",
    "dimensions": "dimensions",
    "encoding_format": "encoding_format",
}
_CONFIGS: Final = (
    "generationConfig",
    "generation_config",
    "inferenceConfig",
    "textGenerationConfig",
    "request",
)
_ENVELOPES: Final = ("response", "message", "metadata")
"""Objects that may hold the answer's head: responses and Cloud Code, Anthropic, Converse."""
_INVOCATION: Final = "amazon-bedrock-invocationMetrics"
_PICTURE: Final = frozenset(("b64_json", "url"))
_SPEECH: Final = "/audio/speech"
_TEXT_KEYS: Final = frozenset(("contentBlockDelta", "outputText", "generation", "candidates"))


def _read_usage(usage: Json, into: Usage) -> None:
    """A usage object of whichever family, told apart by its keys."""
    if "input_tokens" in usage or "output_tokens" in usage:
        if "total_tokens" not in usage and "input_tokens_details" not in usage:
            messages.read_usage(usage, into)
            return
        found = Usage()
        responses.read_usage(usage, found)
    elif "inputTokens" in usage or "outputTokens" in usage:
        found = Usage()
        converse.read_usage(usage, found)
    elif "prompt_tokens" in usage or "completion_tokens" in usage or "total_tokens" in usage:
        found = Usage(provider_model=into.provider_model)
        completions.read_usage(usage, found)
    else:
        return
    into.merge(found)


def _read_counts(body: Json, into: Usage) -> None:
    """Counts that stand outside a usage object: Titan, Llama and Bedrock's metrics, Cohere."""
    metrics = loose.obj(body.get(_INVOCATION))
    tokens = loose.obj(loose.obj(body.get("meta")).get("tokens"))
    results = (loose.count(item.get("tokenCount")) for item in loose.objects(body.get("results")))
    sent = (
        loose.count(metrics.get("inputTokenCount")),
        loose.count(body.get("inputTextTokenCount")),
        loose.count(body.get("prompt_token_count")),
        loose.count(tokens.get("input_tokens")),
    )
    received = (
        loose.count(metrics.get("outputTokenCount")),
        loose.count(body.get("generation_token_count")),
        loose.count(tokens.get("output_tokens")),
        loose.total(*results),
    )
    found = Usage(
        input_tokens=next((value for value in sent if value is not None), None),
        output_tokens=next((value for value in received if value is not None), None),
        cached_input_tokens=loose.count(metrics.get("cacheReadInputTokenCount")),
        cache_creation_input_tokens=loose.count(metrics.get("cacheWriteInputTokenCount")),
    )
    found.total_tokens = loose.total(found.input_tokens, found.output_tokens)
    into.merge(found)


def _read_pieces(body: Json, into: Usage) -> None:
    """What is paid for by the piece: transcripts, pictures, pages, ranking; searches."""
    usage = loose.obj(body.get("usage"))
    seconds = usage.get("seconds", usage.get("prompt_audio_seconds"))
    if seconds is None and "text" in body:
        seconds = body.get("duration")  # of OpenAI's `verbose_json`
    into.piece(AUDIO_SECOND, seconds)
    pictures = [one for one in loose.objects(body.get("data")) if not _PICTURE.isdisjoint(one)]
    into.piece(IMAGE, len(pictures))
    into.piece(PAGE, loose.obj(body.get("usage_info")).get("pages_processed"))
    billed = loose.obj(loose.obj(body.get("meta")).get("billed_units"))
    into.piece(RERANK_SEARCH, billed.get("search_units"))
    if isinstance(body.get("candidates"), list):
        gemini.count_searches(body, into)
    for part in (body, loose.obj(body.get("response"))):
        responses.count_pieces(part.get("output"), into)


def asked_pieces(path: str, body: Json | None) -> Pieces | None:
    """What a request is charged for, whatever its answer says: the text to be spoken."""
    if body is None or not path.endswith(_SPEECH):
        return None
    return with_piece(None, CHARACTER, len(loose.text(body.get("input"))))


def _read(body: Json, into: Usage) -> None:
    """One answer or one stream event."""
    for part in (body, *(body[key] for key in _ENVELOPES if isinstance(body.get(key), dict))):
        model = loose.name(part.get("model")) or loose.name(part.get("modelVersion"))
        into.provider_model = model or into.provider_model
        into.service_tier = loose.name(part.get("service_tier")) or into.service_tier
        if isinstance(part.get("usage"), dict):
            _read_usage(part["usage"], into)
        if isinstance(part.get("usageMetadata"), dict):
            found = Usage()
            gemini.read_usage(part["usageMetadata"], found)
            into.merge(found)
    _read_counts(body, into)
    _read_pieces(body, into)


def _inner(body: Json) -> Json:
    """What an invoke frame wraps in base64; the body itself when there is no wrapping."""
    wrapped = body.get("bytes")
    if not isinstance(wrapped, str):
        return body
    try:
        return parse_object(base64.b64decode(wrapped, validate=True)) or body
    except binascii.Error:
        return body


def _is_text(name: str, body: Json) -> bool:
    kind = loose.text(body.get("type"))
    if name == "contentBlockDelta" or kind == "content_block_delta" or kind.endswith(".delta"):
        return True
    choices = loose.objects(body.get("choices"))
    if any(loose.obj(choice.get("delta")).get("content") for choice in choices):
        return True
    return not _TEXT_KEYS.isdisjoint(body) or "candidates" in loose.obj(body.get("response"))


def usage_of_bytes(data: bytes) -> Usage:
    """What a whole answer reports; nothing when it is no JSON object."""
    usage = Usage()
    body = parse_object(data)
    if body is not None:
        _read(body, usage)
    return usage


@final
class _Reader:
    """Reads the events of any stream."""

    __slots__ = ("_usage",)

    def __init__(self) -> None:
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        return self._usage

    def feed(self, name: str, data: Json | None) -> bool:
        if data is None:
            return False
        body = _inner(data)
        _read(body, self._usage)
        return _is_text(name, body)


@final
class _Detect(PlainFormat):
    """Whatever it is. Nothing is checked, and content is never taken."""

    name = "detect"

    def check(self, body: Json) -> None:
        return

    def params(self, body: Json) -> Json:
        out = loose.pick(body, _PARAMS)
        for key in _CONFIGS:
            inner = loose.obj(body.get(key))
            out = loose.pick(inner, _PARAMS) | out
            out = loose.pick(loose.obj(inner.get("generationConfig")), _PARAMS) | out
        return out

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        usage = Usage()
        _read(body, usage)
        return usage

    def reader(self, *, with_content: bool = False) -> _Reader:
        return _Reader()


FORMAT: WireFormat = _Detect()
