"""The official `anthropic` package through the gateway, at every provider's simulator.

Source: spec/llm.md sections 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.support.gateway import free_ports
from tests.support.providers import PROVIDERS, simulated
from tests.support.simulator import Models

(PORT,) = free_ports(1)
SAID = [{"role": "user", "content": "hello there"}]
TEXT = "You said: hello there"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with simulated(PORT) as (_, made):
        yield made


@pytest.fixture(scope="module")
def client(models: Models) -> Iterator[Any]:
    base = f"http://127.0.0.1:{PORT}"
    with anthropic.Anthropic(base_url=base, api_key="mine", max_retries=0, timeout=20) as made:
        yield made


every_provider = pytest.mark.parametrize("name", PROVIDERS)


@every_provider
def test_message(client: Any, name: str) -> None:
    answer = client.messages.create(model=name, max_tokens=100, messages=SAID)
    assert [block.text for block in answer.content] == [TEXT]
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 4)


@every_provider
def test_streamed_message(client: Any, name: str) -> None:
    with client.messages.stream(model=name, max_tokens=100, messages=SAID) as stream:
        assert "".join(stream.text_stream) == TEXT
        whole = stream.get_final_message()
    assert whole.stop_reason == "end_turn"
    assert whole.usage.output_tokens == 4


@every_provider
def test_a_tool_and_its_result(client: Any, name: str) -> None:
    asked = client.messages.create(model=name, max_tokens=100, messages=SAID, tools=[TOOL])
    assert asked.stop_reason == "tool_use"
    (use,) = [block for block in asked.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get_weather", {"city": "simulated"})
    given = {"type": "tool_use", "id": use.id, "name": use.name, "input": use.input}
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    turns = [
        *SAID,
        {"role": "assistant", "content": [given]},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(model=name, max_tokens=100, messages=turns, tools=[TOOL])
    assert answer.content[0].text == "The tool said: sunny"


@every_provider
def test_a_streamed_tool(client: Any, name: str) -> None:
    with client.messages.stream(model=name, max_tokens=100, messages=SAID, tools=[TOOL]) as stream:
        whole = stream.get_final_message()
    (use,) = [block for block in whole.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get_weather", {"city": "simulated"})


@every_provider
def test_no_room(client: Any, name: str) -> None:
    with pytest.raises(anthropic.RateLimitError) as caught:
        client.messages.create(model=f"{name}-fail-429", max_tokens=100, messages=SAID)
    error = caught.value.body
    assert error["type"] == "error"
    assert "simulated failure 429" in error["error"]["message"]


@pytest.mark.parametrize("name", ["anthropic", "vertex-claude", "bedrock", "foundry-claude"])
def test_count_by_the_provider(client: Any, name: str) -> None:
    assert client.messages.count_tokens(model=name, messages=SAID).input_tokens == 2


def test_count_by_the_gateway(client: Any) -> None:
    assert client.messages.count_tokens(model="openai", messages=SAID).input_tokens > 2


def test_an_unknown_model(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nobody", max_tokens=100, messages=SAID)
