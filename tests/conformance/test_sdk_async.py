"""The asynchronous clients of the official packages, with thinking, and OpenAI's realtime client.

Source: spec/llm.md sections 1, 2 and 2.15.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest
from websockets.sync.server import ServerConnection, serve

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.providers import PROVIDERS, simulated
from tests.support.simulator import Models

PORT, LIVE = free_ports(2)
SAID = [{"role": "user", "content": "hello there"}]
TEXT = "You said: hello there"
CLAUDES = ("anthropic", "vertex-claude", "bedrock", "foundry-claude")


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with simulated(PORT) as (_, made):
        yield made


@pytest.fixture
async def openai_client(models: Models) -> AsyncIterator[Any]:
    base = f"http://127.0.0.1:{PORT}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="x", max_retries=0, timeout=20) as made:
        yield made


@pytest.fixture
async def claude_client(models: Models) -> AsyncIterator[Any]:
    base = f"http://127.0.0.1:{PORT}"
    async with anthropic.AsyncAnthropic(
        base_url=base, api_key="x", max_retries=0, timeout=20
    ) as made:
        yield made


every_provider = pytest.mark.parametrize("name", PROVIDERS)


@every_provider
async def test_chat(openai_client: Any, name: str) -> None:
    answer = await openai_client.chat.completions.create(model=name, messages=SAID)
    assert answer.choices[0].message.content == TEXT


@every_provider
async def test_streamed_chat(openai_client: Any, name: str) -> None:
    stream = await openai_client.chat.completions.create(model=name, messages=SAID, stream=True)
    pieces = [one.choices[0].delta.content or "" async for one in stream if one.choices]
    assert "".join(pieces) == TEXT


@every_provider
async def test_streamed_responses(openai_client: Any, name: str) -> None:
    async with openai_client.responses.stream(model=name, input="hello there") as stream:
        kinds = [event.type async for event in stream]
        whole = await stream.get_final_response()
    assert whole.output_text == TEXT
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


@every_provider
async def test_streamed_message(claude_client: Any, name: str) -> None:
    async with claude_client.messages.stream(model=name, max_tokens=100, messages=SAID) as stream:
        assert "".join([text async for text in stream.text_stream]) == TEXT
        assert (await stream.get_final_message()).stop_reason == "end_turn"


@every_provider
async def test_no_room(openai_client: Any, claude_client: Any, name: str) -> None:
    with pytest.raises(openai.RateLimitError):
        await openai_client.chat.completions.create(model=f"{name}-fail-429", messages=SAID)
    with pytest.raises(anthropic.RateLimitError):
        await claude_client.messages.create(model=f"{name}-fail-429", max_tokens=100, messages=SAID)


@pytest.mark.parametrize("name", CLAUDES)
async def test_thinking(claude_client: Any, name: str) -> None:
    asked = {
        "model": name,
        "max_tokens": 3000,
        "messages": SAID,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    answer = await claude_client.messages.create(**asked)
    thought, text = answer.content
    assert (thought.type, text.text) == ("thinking", TEXT)
    assert thought.thinking
    async with claude_client.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    assert streamed.content[0].thinking == thought.thinking
    # What was thought goes back with its signature.
    turns = [*SAID, {"role": "assistant", "content": answer.content}, *SAID]
    again = await claude_client.messages.create(**{**asked, "messages": turns})
    assert again.content[-1].text == TEXT


@pytest.mark.parametrize("name", CLAUDES)
async def test_reasoning_of_claude(openai_client: Any, name: str) -> None:
    answer = await openai_client.chat.completions.create(
        model=name, messages=SAID, reasoning_effort="low"
    )
    message = answer.choices[0].message
    assert message.content == TEXT
    assert message.reasoning_content
    answer = await openai_client.responses.create(
        model=name, input="hello there", reasoning={"effort": "low"}
    )
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output_text == TEXT


# --- realtime ---------------------------------------------------------------------------------


def session(connection: ServerConnection) -> None:
    """A provider that answers each item with the same text."""
    connection.send(json.dumps({"type": "session.created", "event_id": "e1", "session": {}}))
    for message in connection:
        event = json.loads(message)
        if event["type"] != "response.create":
            continue
        head = {"response_id": "r1", "item_id": "i1", "output_index": 0, "content_index": 0}
        for word in ("hello", " you"):
            delta = {"type": "response.output_text.delta", "event_id": "e2", "delta": word}
            connection.send(json.dumps({**delta, **head}))
        usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        response = {"id": "r1", "object": "realtime.response", "status": "completed"}
        done = {"type": "response.done", "event_id": "e3"}
        connection.send(json.dumps({**done, "response": {**response, "usage": usage}}))


@pytest.fixture(scope="module")
def live() -> Iterator[str]:
    with serve(session, "127.0.0.1", 0, compression=None) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        backend = {
            "name": "live",
            "provider": {"openAI": {}},
            "hostOverride": f"127.0.0.1:{made.socket.getsockname()[1]}",
            "pathPrefix": "/v1",
        }
        policies = {"ai": {"routes": {"/v1/realtime": "realtime"}}}
        route = {"policies": policies, "backends": [{"ai": backend}]}
        with GatewayProcess({"binds": [{"port": LIVE, "listeners": [{"routes": [route]}]}]}):
            yield f"http://127.0.0.1:{LIVE}/v1"
        made.shutdown()
        thread.join()


async def test_realtime(live: str) -> None:
    url = live.replace("http://", "ws://")
    made: Any = openai.AsyncOpenAI(base_url=live, websocket_base_url=url, api_key="x")
    async with (
        made as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        assert (await connection.recv()).type == "session.created"
        await connection.response.create()
        words = []
        async for event in connection:
            if event.type == "response.output_text.delta":
                words.append(event.delta)
            elif event.type == "response.done":
                assert event.response.usage.total_tokens == 5
                break
        assert "".join(words) == "hello you"
