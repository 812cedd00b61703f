"""OpenAI embeddings over Vertex and Bedrock."""

from __future__ import annotations

import base64
import struct
from typing import Any, Final

import pytest

from sidecar.errors import RequestError
from sidecar.llm.convert import embeddings_to_bedrock, embeddings_to_vertex
from sidecar.llm.convert.base import Conversion
from sidecar.llm.shape import ShapeError
from tests.sidecar.llm.convert.calls import context

Json = dict[str, Any]
BEDROCK: Final = embeddings_to_bedrock.CONVERSION
VERTEX: Final = embeddings_to_vertex.CONVERSION
TITAN: Final = "amazon.titan-embed-text-v2:0"
COHERE: Final = "cohere.embed-english-v3"
NOVA: Final = "amazon.nova-2-multimodal-embeddings-v1:0"

REQUESTS: Final[dict[str, tuple[Conversion, str, Json, Json]]] = {
    "titan": (BEDROCK, TITAN, {"input": ["a"]}, {"inputText": "a"}),
    "titan, sized": (
        BEDROCK,
        TITAN,
        {"input": "a", "dimensions": 256, "normalize": False},
        {"inputText": "a", "dimensions": 256, "normalize": False},
    ),
    "cohere": (
        BEDROCK,
        COHERE,
        {"input": ["a", "b"], "truncate": "END", "dimensions": 4},
        {"texts": ["a", "b"], "input_type": "search_query", "truncate": "END"},
    ),
    "cohere, own type": (
        BEDROCK,
        "cohere.embed-v4:0",
        {"input": "a", "input_type": "classification", "dimensions": 4},
        {"texts": ["a"], "input_type": "classification", "output_dimension": 4},
    ),
    "nova": (
        BEDROCK,
        NOVA,
        {"input": "a", "dimensions": 256},
        {
            "taskType": "SINGLE_EMBEDDING",
            "singleEmbeddingParams": {
                "embeddingPurpose": "GENERIC_INDEX",
                "embeddingDimension": 256,
                "text": {"truncationMode": "END", "value": "a"},
            },
        },
    ),
    "vertex": (
        VERTEX,
        "text-embedding-004",
        {"input": "a"},
        {"instances": [{"content": "a", "task_type": "RETRIEVAL_QUERY"}]},
    ),
}


@pytest.mark.parametrize(("conversion", "model", "body", "wanted"), REQUESTS.values(), ids=REQUESTS)
def test_request(conversion: Conversion, model: str, body: Json, wanted: Json) -> None:
    assert conversion.request(body, context(model)) == wanted


@pytest.mark.parametrize("model", [TITAN, NOVA])
def test_models_of_one_text(model: str) -> None:
    with pytest.raises(RequestError) as caught:
        BEDROCK.request({"input": ["a", "b"]}, context(model))
    assert caught.value.status == 400


@pytest.mark.parametrize("conversion", [BEDROCK, VERTEX])
@pytest.mark.parametrize("given", [[1, 2], [[1]], [], None, {}, ["a", 1]])
def test_inputs_that_are_no_text(conversion: Conversion, given: Any) -> None:
    with pytest.raises((RequestError, ShapeError)):
        conversion.request({"input": given}, context(TITAN))


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ShapeError):
        BEDROCK.request({"input": "a", "encoding_format": "int8"}, context(TITAN))


VALUES: Final = [0.5, -1.25, 3]
ANSWERS: Final[dict[str, tuple[Conversion, str, Json, int]]] = {
    "titan": (BEDROCK, TITAN, {"embedding": VALUES, "inputTextTokenCount": 3}, 3),
    "cohere": (BEDROCK, COHERE, {"embeddings": [VALUES]}, 7),
    "cohere by type": (BEDROCK, COHERE, {"embeddings": {"float": [VALUES]}}, 7),
    "nova": (BEDROCK, NOVA, {"embeddings": [{"embedding": VALUES}]}, 7),
    "vertex": (
        VERTEX,
        "m",
        {"predictions": [{"embeddings": {"values": VALUES, "statistics": {"token_count": 5}}}]},
        5,
    ),
}


@pytest.mark.parametrize(("conversion", "model", "body", "tokens"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_answer(
    conversion: Conversion, model: str, body: Json, tokens: int, encoding: str | None
) -> None:
    call = context(model, answer_headers={"x-amzn-bedrock-input-token-count": "7"})
    conversion.request({"input": "a", "encoding_format": encoding}, call)
    out = conversion.response(body, call)
    assert out["model"] == model
    assert out["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    vector = out["data"][0]["embedding"]
    if encoding == "base64":
        vector = list(struct.unpack("<3f", base64.b64decode(vector)))
    assert vector == VALUES


@pytest.mark.parametrize("count", ["", "x", "-1", "9" * 40, "٣"])
def test_a_bad_count_is_no_count(count: str) -> None:
    call = context(COHERE, answer_headers={"x-amzn-bedrock-input-token-count": count})
    assert BEDROCK.response({"embeddings": []}, call)["usage"]["prompt_tokens"] == 0


@pytest.mark.parametrize("vector", [["a"], None, "abc", [None], [[1]], {}])
def test_vectors_that_are_none(vector: Any) -> None:
    if vector is None:
        assert BEDROCK.response({"embedding": None}, context())["data"][0]["embedding"] == []
        return
    with pytest.raises(ShapeError):
        BEDROCK.response({"embedding": vector}, context(TITAN))
