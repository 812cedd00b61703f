"""Cohere's rerank over Bedrock and Vertex."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.llm.convert import rerank_to_bedrock, rerank_to_vertex
from sidecar.llm.convert.base import Conversion
from sidecar.llm.convert.rerank_to_bedrock import model_arn
from sidecar.llm.shape import ShapeError
from tests.sidecar.llm.convert.calls import context

Json = dict[str, Any]
BEDROCK: Final = rerank_to_bedrock.CONVERSION
VERTEX: Final = rerank_to_vertex.CONVERSION
BODY: Final[Json] = {"query": "q", "documents": ["a", {"text": "b"}, {"title": "c"}]}


def source(text: str) -> Json:
    document = {"type": "TEXT", "textDocument": {"text": text}}
    return {"type": "INLINE", "inlineDocumentSource": document}


def test_bedrock_request() -> None:
    call = context("cohere.rerank-v3-5:0", settings={"region": "us-west-2"})
    body = BODY | {"top_n": 2, "max_tokens_per_doc": 9, "return_documents": False}
    arn = "arn:aws:bedrock:us-west-2::foundation-model/cohere.rerank-v3-5:0"
    assert BEDROCK.request(body, call) == {
        "queries": [{"type": "TEXT", "textQuery": {"text": "q"}}],
        "sources": [source("a"), source("b"), source('{"title":"c"}')],
        "rerankingConfiguration": {
            "type": "BEDROCK_RERANKING_MODEL",
            "bedrockRerankingConfiguration": {
                "numberOfResults": 2,
                "modelConfiguration": {
                    "modelArn": arn,
                    "additionalModelRequestFields": {"max_tokens_per_doc": 9},
                },
            },
        },
    }


ARNS: Final = {
    "eu-west-1": "arn:aws:bedrock:eu-west-1::foundation-model/m",
    "cn-north-1": "arn:aws-cn:bedrock:cn-north-1::foundation-model/m",
    "us-gov-west-1": "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/m",
}


@pytest.mark.parametrize(("region", "arn"), ARNS.items())
def test_arn(region: str, arn: str) -> None:
    assert model_arn(context("m", settings={"region": region})) == arn
    assert model_arn(context(arn)) == arn


def test_vertex_request() -> None:
    call = context("m")
    assert VERTEX.request(BODY | {"top_n": 1, "max_tokens_per_doc": 9}, call) == {
        "model": "m",
        "query": "q",
        "records": [
            {"id": "0", "content": "a"},
            {"id": "1", "content": "b"},
            {"id": "2", "content": '{"title":"c"}'},
        ],
        "topN": 1,
    }
    assert call.dropped == ["max_tokens_per_doc"]


ANSWERS: Final[dict[str, tuple[Conversion, Json]]] = {
    "bedrock": (BEDROCK, {"results": [{"index": 1, "relevanceScore": 0.5}, {"index": 0}]}),
    "vertex": (VERTEX, {"records": [{"id": "1", "score": 0.5}, {"id": "0"}]}),
}


@pytest.mark.parametrize(("conversion", "body"), ANSWERS.values(), ids=ANSWERS)
def test_answer(conversion: Conversion, body: Json) -> None:
    assert conversion.response(body, context())["results"] == [
        {"index": 1, "relevance_score": 0.5},
        {"index": 0, "relevance_score": 1.0},
    ]


@pytest.mark.parametrize(("conversion", "body"), ANSWERS.values(), ids=ANSWERS)
def test_documents_come_back_when_asked_for(conversion: Conversion, body: Json) -> None:
    call = context()
    conversion.request(BODY | {"return_documents": True}, call)
    results = conversion.response(body, call)["results"]
    assert [result["document"] for result in results] == [{"text": "b"}, {"text": "a"}]
    with pytest.raises(ShapeError):
        conversion.response({"results": [{"index": 9}], "records": [{"id": "9"}]}, call)


@pytest.mark.parametrize("conversion", [BEDROCK, VERTEX])
@pytest.mark.parametrize("body", [{}, {"query": "q", "documents": []}, {"documents": ["a"]}])
def test_bad_requests(conversion: Conversion, body: Json) -> None:
    with pytest.raises(ShapeError):
        conversion.request(body, context())
