"""OpenAI embeddings for the client, Bedrock's InvokeModel for the provider.

The body is the model maker's own: Amazon Nova's, Cohere's, or else Amazon Titan's.

Source: spec llm section 2.13; Amazon Bedrock user guide (Titan text embeddings, Cohere Embed, Nova
multimodal embeddings).
"""

from __future__ import annotations

from typing import Final

from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.cloud_error import bedrock_error
from sidecar.llm.convert.embedding_vectors import (
    embeddings,
    inputs_of,
    only_input,
    remember_encoding,
)
from sidecar.llm.convert.provider_error import as_openai
from sidecar.llm.convert.unary import UnaryConversion
from sidecar.llm.shape import (
    ShapeError,
    to_count,
    to_list,
    to_object,
    to_objects,
    to_optional_count,
    to_text,
)

TOKENS_HEADER: Final = "x-amzn-bedrock-input-token-count"
_SIZED_COHERE: Final = "embed-v4"
"""Of Cohere's models on Bedrock only this one takes a size."""


def _request(body: Json, context: Context) -> Json:
    remember_encoding(body, context)
    dimensions = to_optional_count(body.get("dimensions"), "dimensions")
    if body.get("user") is not None:
        context.drop("user")
    if "nova" in context.model:
        return _nova(body, dimensions)
    if "cohere" in context.model:
        return _cohere(body, dimensions, context)
    return _titan(body, dimensions)


def _nova(body: Json, dimensions: int | None) -> Json:
    params: Json = {
        "embeddingPurpose": "GENERIC_INDEX",
        "text": {"truncationMode": "END", "value": only_input(body)},
    }
    if dimensions is not None:
        params["embeddingDimension"] = dimensions
    return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": params}


def _cohere(body: Json, dimensions: int | None, context: Context) -> Json:
    out: Json = {
        "texts": inputs_of(body),
        "input_type": to_text(body.get("input_type"), "input_type") or "search_query",
    }
    if body.get("truncate") is not None:
        out["truncate"] = to_text(body["truncate"], "truncate")
    if dimensions is not None:
        if _SIZED_COHERE in context.model:
            out["output_dimension"] = dimensions
        else:
            context.drop("dimensions")
    return out


def _titan(body: Json, dimensions: int | None) -> Json:
    out: Json = {"inputText": only_input(body)}
    if dimensions is not None:
        out["dimensions"] = dimensions
    if body.get("normalize") is not None:
        if not isinstance(body["normalize"], bool):
            raise ShapeError("normalize", "true or false")
        out["normalize"] = body["normalize"]
    return out


def _response(body: Json, context: Context) -> Json:
    if "embedding" in body:
        tokens = to_count(body.get("inputTextTokenCount"), "inputTextTokenCount")
        return embeddings([body["embedding"]], tokens, context)
    given = body.get("embeddings")
    if isinstance(given, dict):  # Cohere by type, which is how its fourth version answers
        given = to_object(given, "embeddings").get("float")
    if given is None:
        raise ShapeError("embeddings", "a list")
    vectors = to_list(given, "embeddings")
    if "nova" in context.model:
        vectors = [item.get("embedding") for item in to_objects(vectors, "embeddings")]
    return embeddings(vectors, _tokens(context), context)


def _tokens(context: Context) -> int:
    """Only a header tells what Nova and Cohere have read."""
    count = context.answer_headers.get(TOKENS_HEADER, "")
    return int(count) if count.isascii() and count.isdigit() and len(count) < 16 else 0


CONVERSION: Conversion = UnaryConversion(
    _request, _response, lambda status, body: as_openai(status, bedrock_error(body))
)
