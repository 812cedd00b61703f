"""Anthropic's count_tokens for the client, Bedrock's CountTokens for the provider.

Bedrock counts the tokens of a call as InvokeModel would get it: Claude's own body, in base64.

Source: spec llm section 2.10; Amazon Bedrock API reference (CountTokens).
"""

from __future__ import annotations

import base64
from typing import Final

import orjson

from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.cloud_error import bedrock_error
from sidecar.llm.convert.provider_error import as_anthropic
from sidecar.llm.convert.unary import UnaryConversion
from sidecar.llm.shape import ShapeError, to_count, to_object, to_objects

_VERSION: Final = "bedrock-2023-05-31"
_LEFT_OUT: Final = frozenset(("model", "messages", "max_tokens", "stream", "anthropic_version"))


def _request(body: Json, context: Context) -> Json:
    inner: Json = {"messages": to_objects(body.get("messages"), "messages")}
    inner.update((name, value) for name, value in body.items() if name not in _LEFT_OUT)
    # InvokeModel's body must have a limit, above any thinking; nothing is generated.
    thinking = to_object(body.get("thinking"), "thinking")
    inner["max_tokens"] = 1 + to_count(thinking.get("budget_tokens"), "thinking.budget_tokens")
    inner["anthropic_version"] = context.headers.get("anthropic-version", _VERSION)
    return {"input": {"invokeModel": {"body": base64.b64encode(orjson.dumps(inner)).decode()}}}


def _response(body: Json, context: Context) -> Json:
    if body.get("inputTokens") is None:
        raise ShapeError("inputTokens", "a number")
    return {"input_tokens": to_count(body["inputTokens"], "inputTokens")}


CONVERSION: Conversion = UnaryConversion(
    _request, _response, lambda status, body: as_anthropic(status, bedrock_error(body))
)
