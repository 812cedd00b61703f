"""The official `openai` package through the gateway, at every provider's simulator.

Source: spec/llm.md sections 1, 2 and 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.gateway import free_ports
from tests.support.providers import EMBEDDERS, PROVIDERS, simulated
from tests.support.simulator import Models

(PORT,) = free_ports(1)
SAID = [{"role": "user", "content": "hello there"}]
TEXT = "You said: hello there"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
FLAT_TOOL = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": False}
ARGUMENTS = '{"city":"simulated"}'


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with simulated(PORT) as (_, made):
        yield made


@pytest.fixture(scope="module")
def client(models: Models) -> Iterator[Any]:
    base = f"http://127.0.0.1:{PORT}/v1"
    with openai.OpenAI(base_url=base, api_key="mine", max_retries=0, timeout=20) as made:
        yield made


every_provider = pytest.mark.parametrize("name", PROVIDERS)


@every_provider
def test_chat(client: Any, name: str) -> None:
    answer = client.chat.completions.create(model=name, messages=SAID)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4)


@every_provider
def test_streamed_chat(client: Any, name: str) -> None:
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=name, messages=SAID, stream=True, stream_options=options
        )
    )
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == TEXT
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [c.usage.completion_tokens for c in chunks if c.usage] == [4]


@every_provider
def test_a_tool_and_its_result(client: Any, name: str) -> None:
    asked = client.chat.completions.create(model=name, messages=SAID, tools=[TOOL])
    assert asked.choices[0].finish_reason == "tool_calls"
    message = asked.choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, squeezed(call.function.arguments)) == ("get_weather", ARGUMENTS)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns = [*SAID, message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(model=name, messages=turns, tools=[TOOL])
    assert answer.choices[0].message.content == "The tool said: sunny"


def squeezed(arguments: str) -> str:
    return arguments.replace(" ", "")


@every_provider
def test_a_streamed_tool(client: Any, name: str) -> None:
    chunks = list(
        client.chat.completions.create(model=name, messages=SAID, tools=[TOOL], stream=True)
    )
    calls = [call for c in chunks if c.choices for call in c.choices[0].delta.tool_calls or ()]
    assert [call.function.name for call in calls if call.function.name] == ["get_weather"]
    assert squeezed("".join(call.function.arguments or "" for call in calls)) == ARGUMENTS


@every_provider
def test_responses(client: Any, name: str) -> None:
    answer = client.responses.create(model=name, input="hello there")
    assert (answer.output_text, answer.status) == (TEXT, "completed")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 4)


@every_provider
def test_streamed_responses(client: Any, name: str) -> None:
    events = list(client.responses.create(model=name, input="hello there", stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == TEXT
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == TEXT


@every_provider
def test_a_tool_of_responses(client: Any, name: str) -> None:
    answer = client.responses.create(model=name, input="hello there", tools=[FLAT_TOOL])
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert (call.name, squeezed(call.arguments)) == ("get_weather", ARGUMENTS)


@every_provider
def test_no_room(client: Any, models: Models, name: str) -> None:
    models.take()
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=f"{name}-fail-429", messages=SAID)
    assert caught.value.status_code == 429
    assert "simulated failure 429" in str(caught.value)
    assert len(models.take()) == 1


@pytest.mark.parametrize("name", EMBEDDERS)
def test_embeddings(client: Any, name: str) -> None:
    # The package asks for base64 by itself, and unpacks it.
    one = client.embeddings.create(model=name, input="hello there")
    other = client.embeddings.create(model=name, input="hello there", encoding_format="float")
    assert one.data[0].embedding == other.data[0].embedding
    assert len(one.data[0].embedding) == 8
    assert one.usage.prompt_tokens == 2


def test_models(client: Any) -> None:
    names = {entry.id for entry in client.models.list()}
    assert set(PROVIDERS) <= names
    assert client.models.retrieve("anthropic").id == "anthropic"


def test_an_unknown_model(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=SAID)
    assert caught.value.code == "model_not_found"
