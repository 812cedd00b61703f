"""The official Python SDK as client, over four workers and every transport behind the gateway.

Both eras: sessions with `initialize`, and requests that stand for themselves (2026-07-28).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolResult,
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    ResourceUpdatedNotification,
    Root,
    TextContent,
    TextResourceContents,
    ToolListChangedNotification,
)
from pydantic import FileUrl

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_peer import SdkServer, stdio_target
from tests.support.mcp_server import mcp_config

PATIENCE_SECONDS = 20.0
pytestmark = [
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
    pytest.mark.asyncio(loop_scope="module"),
]


class Way(NamedTuple):
    """To one everything server."""

    shape: str
    """Which port of the gateway."""
    mode: str
    """How the client speaks: legacy, oldest (by HTTP and SSE at `/sse`), or a modern version."""
    target: str = ""
    """Of several servers."""

    def name(self, name: str) -> str:
        return f"{self.target}_{name}" if self.target else name

    def uri(self, uri: str) -> str:
        return f"{self.target}+{uri}" if self.target else uri

    @property
    def is_modern(self) -> bool:
        return self.mode not in ("legacy", "oldest")


WAYS = [
    Way("http", "legacy"),
    Way("http", "2026-07-28"),
    Way("stdio", "legacy"),
    Way("stdio", "2026-07-28"),
    Way("sse", "legacy"),
    Way("several", "legacy", "one"),
    Way("several", "legacy", "two"),
    Way("several", "2026-07-28", "one"),
    Way("several", "2026-07-28", "two"),
]
OLDEST = [Way("http", "oldest"), Way("stdio", "oldest"), Way("several", "oldest", "two")]
BRIDGED = [Way("sse", "2026-07-28")]
"""A modern client, and a server that knows but the legacy era."""


def over(*those: Way) -> pytest.MarkDecorator:
    """The test with a client over each of these ways, which its tests share."""
    ids = ["-".join(filter(None, way)) for way in those]
    return pytest.mark.parametrize("person", those, ids=ids, indirect=True)


ways = over(*WAYS, *OLDEST, *BRIDGED)
asked = over(*(way for way in WAYS if not way.is_modern), *OLDEST, *BRIDGED)
modern = over(*(way for way in WAYS if way.is_modern))


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    ports = dict(zip(("http", "stdio", "sse", "several"), free_ports(4), strict=True))
    with SdkServer() as http, SdkServer("sse") as sse:
        old = {"name": "old", "sse": {"host": f"http://{sse.address}/sse"}}
        shapes = (
            mcp_config(ports["http"], ("only", http.address)),
            mcp_config(ports["stdio"], stdio_target("only")),
            mcp_config(ports["sse"], old),
            mcp_config(ports["several"], ("one", http.address), stdio_target("two")),
        )
        binds = [bind for shape in shapes for bind in shape["binds"]]
        with GatewayProcess({"binds": binds}, workers=4):
            yield ports


class Person:
    """Who sits at the client: its answers, and what it was told."""

    def __init__(self, ports: dict[str, int], way: Way) -> None:
        self.way = way
        self.logs: list[Any] = []
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        url = f"http://127.0.0.1:{ports[way.shape]}"
        is_oldest = way.mode == "oldest"
        self.client = Client(
            sse_client(f"{url}/sse") if is_oldest else f"{url}/mcp",
            mode="legacy" if is_oldest else way.mode,
            read_timeout_seconds=PATIENCE_SECONDS,
            sampling_callback=self._sample,
            elicitation_callback=self._elicit,
            list_roots_callback=self._roots,
            logging_callback=self._log,
            message_handler=self._told,
            log_level="info",
            cache=None,
        )

    async def _sample(self, context: Any, params: Any) -> CreateMessageResult:
        asked = params.messages[0].content.text
        said = TextContent(type="text", text=f"model on {asked}")
        return CreateMessageResult(role="assistant", content=said, model="m")

    async def _elicit(self, context: Any, params: Any) -> ElicitResult:
        wanted = params.requested_schema["properties"]
        return ElicitResult(action="accept", content={name: f"my {name}" for name in wanted})

    async def _roots(self, context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///mine"))])

    async def _log(self, params: Any) -> None:
        self.logs.append(params.data)

    async def _told(self, message: Any) -> None:
        await self.told.put(message)

    async def wait_told(self, kind: type) -> Any:
        """The next notification of that kind."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not isinstance(found := await self.told.get(), kind):
                pass
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def person(request: pytest.FixtureRequest, ports: dict[str, int]) -> AsyncIterator[Person]:
    made = Person(ports, request.param)
    is_open, is_over = asyncio.Event(), asyncio.Event()

    async def stay() -> None:
        # The SDK wants its end in the task of its beginning.
        async with made.client:
            is_open.set()
            await is_over.wait()

    staying = asyncio.ensure_future(stay())
    opening = asyncio.ensure_future(is_open.wait())
    await asyncio.wait((staying, opening), return_when=asyncio.FIRST_COMPLETED)
    opening.cancel()
    if staying.done():
        await staying
    yield made
    is_over.set()
    await staying


def text(result: CallToolResult) -> str:
    assert not result.is_error, result
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


@ways
async def test_lists_and_contents(person: Person) -> None:
    way, client = person.way, person.client
    tools = {tool.name for tool in (await client.list_tools()).tools}
    assert {way.name("test_simple_text"), way.name("json_schema_2020_12_tool")} <= tools
    called = await client.call_tool(way.name("test_multiple_content_types"))
    assert [one.type for one in called.content] == ["text", "image", "resource"]
    failed = await client.call_tool(way.name("test_error_handling"))
    assert failed.is_error
    whoami = text(await client.call_tool(way.name("whoami")))
    assert whoami == {"one": "everything", "two": "two"}.get(way.target, whoami)
    with pytest.raises(MCPError, match="Unknown tool"):
        await client.call_tool(way.name("no_such_tool"))


@ways
async def test_prompts_resources_and_completions(person: Person) -> None:
    way, client = person.way, person.client
    name = way.name("test_prompt_with_arguments")
    assert name in {prompt.name for prompt in (await client.list_prompts()).prompts}
    prompt = await client.get_prompt(name, {"arg1": "a", "arg2": "b"})
    assert isinstance(prompt.messages[0].content, TextContent)
    assert prompt.messages[0].content.text == "Prompt with arguments: arg1='a', arg2='b'"
    uri = way.uri("test://static-text")
    assert uri in {str(one.uri) for one in (await client.list_resources()).resources}
    templates = (await client.list_resource_templates()).resource_templates
    assert way.uri("test://template/{id}/data") in {one.uri_template for one in templates}
    read = await client.read_resource(way.uri("test://template/7/data"))
    assert isinstance(read.contents[0], TextResourceContents)
    assert "Data for ID: 7" in read.contents[0].text
    ref = PromptReference(type="ref/prompt", name=name)
    completed = await client.complete(ref, {"name": "arg1", "value": "pari"})
    assert completed.completion.values == ["paris"]


@ways
async def test_progress_and_logs_come_before_the_answer(person: Person) -> None:
    way, client = person.way, person.client
    steps: list[float] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    await client.call_tool(way.name("test_tool_with_progress"), progress_callback=progressed)
    assert steps == [0, 50, 100]
    person.logs.clear()
    await client.call_tool(way.name("test_tool_with_logging"))
    assert person.logs == [
        "Tool execution started",
        "Tool processing data",
        "Tool execution completed",
    ]


@asked
async def test_a_server_asks_the_client(person: Person) -> None:
    way, client = person.way, person.client
    sampled = await client.call_tool(way.name("test_sampling"), {"prompt": "tea"})
    assert text(sampled) == "LLM response: model on tea"
    elicited = await client.call_tool(way.name("test_elicitation"), {"message": "who?"})
    assert "my username" in text(elicited)
    roots = await client.call_tool(way.name("list_roots"))
    assert text(roots) == "file:///mine"


@modern
async def test_a_result_asks_the_client(person: Person) -> None:
    way, client = person.way, person.client
    all_three = await client.call_tool(way.name("test_input_required_result_multiple_inputs"))
    assert text(all_three) == "model on Generate a greeting, my name: file:///mine"
    rounds = await client.call_tool(way.name("test_input_required_result_multi_round"))
    assert text(rounds) == "Your favorite color is my color"
    prompt = await client.get_prompt(way.name("test_input_required_result_prompt"))
    assert isinstance(prompt.messages[0].content, TextContent)
    assert prompt.messages[0].content.text == "Use the context my context"


@ways
async def test_a_cancelled_call_ends_at_the_server(person: Person) -> None:
    way, client = person.way, person.client
    word = "-".join(filter(None, way))
    begun = asyncio.Event()

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    call = asyncio.ensure_future(
        client.call_tool(way.name("wait_cancelled"), {"word": word}, progress_callback=progressed)
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        await begun.wait()
        call.cancel()
        while word not in await _cancelled(person):  # noqa: ASYNC110 - it tells when asked
            await asyncio.sleep(0.02)


async def _cancelled(person: Person) -> list[str]:
    return text(await person.client.call_tool(person.way.name("cancelled_words"))).split()


@over(*WAYS, *OLDEST)
async def test_what_changes_is_told(person: Person) -> None:
    way, client = person.way, person.client
    if way.is_modern:
        async with client.listen(tools_list_changed=True) as events:
            await client.call_tool(way.name("test_trigger_tool_change"))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await anext(aiter(events))
        return
    await client.call_tool(way.name("test_trigger_tool_change"))
    await person.wait_told(ToolListChangedNotification)
    uri = way.uri("test://watched-resource")
    await client.subscribe_resource(uri)
    updated = await person.wait_told(ResourceUpdatedNotification)
    assert str(updated.params.uri) == uri
    await client.unsubscribe_resource(uri)


@over(Way("http", "legacy"), Way("several", "legacy", "one"))
async def test_a_stream_that_ends_early_is_taken_up_again(person: Person) -> None:
    way, client = person.way, person.client
    for _ in range(3):
        called = await client.call_tool(way.name("test_reconnection"))
        assert text(called) == "Reconnection test completed"


@ways
async def test_many_calls_at_once_get_their_own_answers(person: Person) -> None:
    way, client = person.way, person.client
    calls = (
        client.call_tool(way.name("test_x_mcp_header"), {"region": str(number)})
        for number in range(40)
    )
    if way.is_modern:
        # Which parameters a header mirrors is in the list.
        await client.list_tools()
    answers = await asyncio.gather(*calls)
    assert [text(one) for one in answers] == [f"region={number}" for number in range(40)]
