"""Cohere's rerank request read, and its answer written, for providers of other forms.

Source: Cohere API reference (rerank); spec llm section 2.13.
"""

from __future__ import annotations

from typing import Final

import orjson

from sidecar.llm.convert.base import Context, Json
from sidecar.llm.shape import ShapeError, to_count, to_list, to_optional_count, to_text

_DOCUMENTS: Final = "documents"
READ: Final = frozenset(("model", "query", "documents", "top_n", "return_documents"))
"""Fields that have a place of their own with every provider."""


def query_of(body: Json) -> str:
    """The query. Raises: ShapeError."""
    if not isinstance(body.get("query"), str):
        raise ShapeError("query", "a string")
    return str(body["query"])


def texts_of(body: Json, context: Context) -> list[str]:
    """The documents' texts. An object without a text is ranked as its JSON. Raises: ShapeError.

    What the client wants to have back is kept in the context.
    """
    documents = to_list(body.get("documents"), "documents")
    if not documents:
        raise ShapeError("documents", "a list that is not empty")
    texts = [_text(item, f"documents[{index}]") for index, item in enumerate(documents)]
    if body.get("return_documents") is True:
        context.asked[_DOCUMENTS] = documents
    return texts


def _text(document: object, where: str) -> str:
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        raise ShapeError(where, "a string or an object")
    if "text" in document:
        return to_text(document["text"], f"{where}.text")
    return orjson.dumps(document).decode()


def wanted_of(body: Json) -> int | None:
    """How many results the client wants. Raises: ShapeError."""
    return to_optional_count(body.get("top_n"), "top_n")


def result_of(index: object, score: object, context: Context) -> Json:
    """One result. A provider that gives no score vouches for it wholly. Raises: ShapeError."""
    place = to_count(index, "results.index")
    if score is None:
        score = 1.0
    if not isinstance(score, int | float) or isinstance(score, bool):
        raise ShapeError("results.score", "a number")
    out: Json = {"index": place, "relevance_score": score}
    documents = context.asked.get(_DOCUMENTS)
    if documents is not None:
        if place >= len(documents):
            raise ShapeError("results.index", "the place of a document")
        document = documents[place]
        out["document"] = {"text": document} if isinstance(document, str) else document
    return out
