"""Cohere's rerank for the client, Vertex's ranking API for the provider.

Source: spec llm section 2.13; Discovery Engine API reference (rankingConfigs.rank).
"""

from __future__ import annotations

from sidecar.llm.convert.base import Context, Conversion, Json
from sidecar.llm.convert.cloud_error import google_error
from sidecar.llm.convert.provider_error import as_openai
from sidecar.llm.convert.rerank_documents import READ, query_of, result_of, texts_of, wanted_of
from sidecar.llm.convert.unary import UnaryConversion
from sidecar.llm.shape import ShapeError, to_objects, to_text


def _request(body: Json, context: Context) -> Json:
    texts = texts_of(body, context)
    out: Json = {
        "model": context.model,
        "query": query_of(body),
        "records": [{"id": str(index), "content": text} for index, text in enumerate(texts)],
    }
    wanted = wanted_of(body)
    if wanted is not None:
        out["topN"] = wanted
    for name, value in body.items():
        if name not in READ and value is not None:
            context.drop(name)
    return out


def _response(body: Json, context: Context) -> Json:
    if "records" not in body:
        raise ShapeError("records", "a list")
    results = [
        result_of(_index(record.get("id")), record.get("score"), context)
        for record in to_objects(body["records"], "records")
    ]
    return {"results": results}


def _index(identity: object) -> int:
    """Records were named by their place."""
    text = to_text(identity, "records.id")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ShapeError("records.id", "the number of a record")
    return int(text)


CONVERSION: Conversion = UnaryConversion(
    _request, _response, lambda status, body: as_openai(status, google_error(body))
)
