"""The official `google-genai` package through the gateway, at the simulators that have its format.

Gemini's format is not converted to others, so the other providers answer it with an error.
Source: spec/llm.md sections 1, 2.1 and 2.12.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors

from tests.support.gateway import free_ports
from tests.support.providers import simulated
from tests.support.simulator import Models

(PORT,) = free_ports(1)
TEXT = "You said: hello there"
SCHEMA = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}
TOOLS = [{"function_declarations": [{"name": "get_weather", "parameters": SCHEMA}]}]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with simulated(PORT) as (_, made):
        yield made


@pytest.fixture(scope="module")
def client(models: Models) -> Iterator[Any]:
    options = {"base_url": f"http://127.0.0.1:{PORT}", "timeout": 20_000}
    made = genai.Client(api_key="mine", http_options=options)
    yield made
    made.close()


every_gemini = pytest.mark.parametrize("name", ["gemini", "vertex-gemini"])


@every_gemini
def test_content(client: Any, name: str) -> None:
    answer = client.models.generate_content(model=name, contents="hello there")
    assert answer.text == TEXT
    used = answer.usage_metadata
    assert (used.prompt_token_count, used.candidates_token_count) == (2, 4)


@every_gemini
def test_streamed_content(client: Any, name: str) -> None:
    chunks = list(client.models.generate_content_stream(model=name, contents="hello there"))
    assert "".join(chunk.text for chunk in chunks) == TEXT
    assert chunks[-1].candidates[0].finish_reason == "STOP"


@every_gemini
def test_a_tool_and_its_result(client: Any, name: str) -> None:
    config = {"tools": TOOLS}
    asked = client.models.generate_content(model=name, contents="hello there", config=config)
    (call,) = asked.function_calls
    assert (call.name, call.args) == ("get_weather", {"city": "simulated"})
    result = {"function_response": {"name": call.name, "response": {"result": "sunny"}}}
    turns = [
        {"role": "user", "parts": [{"text": "hello there"}]},
        asked.candidates[0].content,
        {"role": "user", "parts": [result]},
    ]
    answer = client.models.generate_content(model=name, contents=turns, config=config)
    assert answer.text == "The tool said: sunny"


@every_gemini
def test_count(client: Any, name: str) -> None:
    assert client.models.count_tokens(model=name, contents="hello there").total_tokens == 2


@every_gemini
def test_no_room(client: Any, name: str) -> None:
    with pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model=f"{name}-fail-429", contents="hello there")
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")


def test_a_provider_without_the_format(client: Any) -> None:
    with pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model="anthropic", contents="hello there")
    assert caught.value.code == 400
    assert caught.value.status == "INVALID_ARGUMENT"


def test_embeddings(client: Any, models: Models) -> None:
    """Google's own format for them is passed on, to the model's name at the provider."""
    models.take()
    answer = client.models.embed_content(model="embed-gemini", contents="hello there")
    assert [len(one.values) > 0 for one in answer.embeddings] == [True]
    (seen,) = models.take()
    assert seen.target.endswith("/models/gemini-embedding-001:batchEmbedContents")
    assert seen.headers["authorization"] == "Bearer sk-simulated"
    assert "mine" not in str(seen.headers)
