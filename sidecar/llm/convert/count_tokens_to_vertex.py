"""Anthropic's count_tokens for the client, Vertex's for the provider.

Source: spec llm sections 1.2 and 2.10; Vertex AI documentation (Claude models, count tokens).
"""

from __future__ import annotations

from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.cloud_error import google_error
from sidecar.llm.convert.provider_error import as_anthropic
from sidecar.llm.convert.unary import UnaryConversion
from sidecar.llm.convert.vertex_claude import adjusted
from sidecar.llm.shape import ShapeError, to_count


def _request(body: Json, context: Context) -> Json:
    """All models share one path, so the model stays in the body."""
    return adjusted(body) | {"model": context.model}


def _response(body: Json, context: Context) -> Json:
    if body.get("input_tokens") is None:
        raise ShapeError("input_tokens", "a number")
    return body | {"input_tokens": to_count(body["input_tokens"], "input_tokens")}


CONVERSION: Conversion = UnaryConversion(
    _request, _response, lambda status, body: as_anthropic(status, google_error(body))
)
