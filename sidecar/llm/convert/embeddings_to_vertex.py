"""OpenAI embeddings for the client, Vertex's predict for the provider.

Source: spec llm section 2.13; Vertex AI API reference (text embeddings).
"""

from __future__ import annotations

from typing import Final

from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.cloud_error import google_error
from sidecar.llm.convert.embedding_vectors import embeddings, inputs_of, remember_encoding
from sidecar.llm.convert.provider_error import as_openai
from sidecar.llm.convert.unary import UnaryConversion
from sidecar.llm.shape import (
    ShapeError,
    to_count,
    to_object,
    to_objects,
    to_optional_count,
    to_text,
)

_DEFAULT_TASK: Final = "RETRIEVAL_QUERY"


def _request(body: Json, context: Context) -> Json:
    remember_encoding(body, context)
    shared: Json = {"task_type": to_text(body.get("task_type"), "task_type") or _DEFAULT_TASK}
    if body.get("title") is not None:
        shared["title"] = to_text(body["title"], "title")
    out: Json = {"instances": [{"content": text} | shared for text in inputs_of(body)]}
    parameters: Json = {}
    if body.get("auto_truncate") is not None:
        if not isinstance(body["auto_truncate"], bool):
            raise ShapeError("auto_truncate", "true or false")
        parameters["autoTruncate"] = body["auto_truncate"]
    dimensions = to_optional_count(body.get("dimensions"), "dimensions")
    if dimensions is not None:
        parameters["outputDimensionality"] = dimensions
    if parameters:
        out["parameters"] = parameters
    if body.get("user") is not None:
        context.drop("user")
    return out


def _response(body: Json, context: Context) -> Json:
    if "predictions" not in body:
        raise ShapeError("predictions", "a list")
    vectors: list[object] = []
    tokens = 0
    for prediction in to_objects(body["predictions"], "predictions"):
        embedding = to_object(prediction.get("embeddings"), "predictions.embeddings")
        statistics = to_object(embedding.get("statistics"), "predictions.embeddings.statistics")
        tokens += to_count(statistics.get("token_count"), "statistics.token_count")
        vectors.append(embedding.get("values"))
    return embeddings(vectors, tokens, context)


CONVERSION: Conversion = UnaryConversion(
    _request, _response, lambda status, body: as_openai(status, google_error(body))
)
