"""The official A2A client and agent through the gateway: all bindings, both eras, two workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import orjson
import pytest
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.errors import A2AClientError
from a2a.helpers import new_text_message
from a2a.types import (
    AgentCard,
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    StreamResponse,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import A2AError, InvalidParamsError, VersionNotSupportedError

from tests.support.a2a_agent import A2aAgent
from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports

BINDINGS = ("JSONRPC", "HTTP+JSON", "GRPC")
ERAS = ("1.0", "0.3")
WAYS = [(binding, era) for binding in BINDINGS for era in ERAS]
JSON = {"content-type": "application/json"}
WELL_KNOWN = "/.well-known/agent-card.json"
PUBLIC = "https://93.184.216.34/hook"


@dataclass(frozen=True)
class Place:
    """A gateway before an agent."""

    gateway: GatewayProcess
    port: int
    agent: A2aAgent

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def call(self, method: str, path: str = "/a2a/jsonrpc", **params: Any) -> Got:
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        return fetch(self.port, path, "POST", headers=JSON, body=orjson.dumps(body))


def config(port: int, agent: A2aAgent) -> dict[str, Any]:
    http = [{"host": f"127.0.0.1:{agent.http}"}]
    rules = [{"deny": 'a2a.method == request.headers["x-no"]'}]
    told = {
        "response": {
            "set": {"x-a2a": '[backend.protocol, a2a.binding, a2a.version, a2a.method].join(" ")'}
        }
    }
    policies = {"a2a": {}, "authorization": {"rules": rules}, "transformations": told}

    def route(prefix: str, backends: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "matches": [{"path": {"pathPrefix": prefix}}],
            "policies": {**policies, **more},
            "backends": backends,
        }

    limit = {"localRateLimit": [{"maxTokens": 1, "tokensPerFill": 1, "fillInterval": "1h"}]}
    routes = [
        route("/lf.a2a.v1.A2AService", [{"host": f"127.0.0.1:{agent.grpc}"}]),
        route("/a2a.v1.A2AService", [{"host": f"127.0.0.1:{agent.grpc_03}"}]),
        route("/agents/echo", http, urlRewrite={"path": {"prefix": "/"}}),
        route("/limited", http, urlRewrite={"path": {"prefix": "/"}}, **limit),
        route("/new", http, a2a={"versions": ["1.0"]}, urlRewrite={"path": {"prefix": "/"}}),
        route("/dead", [{"host": f"127.0.0.1:{free_ports(1)[0]}"}]),
        route("/", http),
    ]
    return {
        "binds": [{"port": port, "listeners": [{"routes": routes}]}],
        "frontendPolicies": {"http": {"maxBufferSize": 65536}},
    }


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    *ports, port = free_ports(4)
    with (
        A2aAgent(ports) as agent,
        GatewayProcess(config(port, agent), workers=2) as gateway,
    ):
        yield Place(gateway, port, agent)


def channel(url: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(url)


@asynccontextmanager
async def client_of(
    place: Place, binding: str, era: str, *, path: str = "", streaming: bool = True
) -> AsyncIterator[Client]:
    """From the card that the gateway gives, as any client comes to it."""
    async with httpx.AsyncClient(timeout=20) as http:
        card = await A2ACardResolver(http, f"http://{place.address}{path}").get_agent_card()
        kept = [
            one
            for one in card.supported_interfaces
            if (one.protocol_binding, one.protocol_version) == (binding, era)
        ]
        assert len(kept) == 1
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(kept)
        made = ClientFactory(
            ClientConfig(
                streaming=streaming,
                httpx_client=http,
                grpc_channel_factory=channel,
                supported_protocol_bindings=[binding],
            )
        ).create(card)
        async with made:
            yield made


def message(text: str, **more: Any) -> SendMessageRequest:
    return SendMessageRequest(message=new_text_message(text, role=Role.ROLE_USER), **more)


async def said(client: Client, text: str) -> list[StreamResponse]:
    return [event async for event in client.send_message(message(text))]


def answer(events: list[StreamResponse]) -> str:
    parts = [
        part
        for event in events
        for artifact in (
            [event.artifact_update.artifact]
            if event.HasField("artifact_update")
            else event.task.artifacts
        )
        for part in artifact.parts
    ]
    return "".join(part.text for part in parts)


@pytest.mark.parametrize(("binding", "era"), WAYS)
async def test_a_message_its_task_and_its_end(place: Place, binding: str, era: str) -> None:
    async with client_of(place, binding, era, streaming=False) as client:
        events = await said(client, "hello")
        assert answer(events) == "echo: hello"
        task = await client.get_task(GetTaskRequest(id=events[-1].task.id))
        assert task.status.state == TaskState.TASK_STATE_COMPLETED
        with pytest.raises(A2AError):
            await client.get_task(GetTaskRequest(id="nobody's"))


@pytest.mark.parametrize(("binding", "era"), WAYS)
async def test_events_come_as_they_happen(place: Place, binding: str, era: str) -> None:
    async with client_of(place, binding, era) as client:
        events = client.send_message(message("wait"))
        seen = [await anext(events), await anext(events)]
        # The agent goes on only when it is told to, after these have arrived.
        await said(client, "go on")
        seen += [event async for event in events]
    assert answer(seen) == "echo: wait"
    kinds = [event.WhichOneof("payload") for event in seen]
    assert kinds[-2:] == ["artifact_update", "status_update"]
    assert seen[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED


@pytest.mark.parametrize(("binding", "era"), WAYS)
async def test_extended_card_leads_through_the_gateway(
    place: Place, binding: str, era: str
) -> None:
    async with client_of(place, binding, era) as client:
        card = await client.get_extended_agent_card(GetExtendedAgentCardRequest())
    assert card.name == "echo for friends"
    check_urls(place, card)


def check_urls(place: Place, card: AgentCard) -> None:
    assert not card.signatures
    for one in card.supported_interfaces:
        bare = one.url.removeprefix("http://").partition("/")[0]
        assert bare == place.address, one


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_below_a_prefix(place: Place, binding: str) -> None:
    async with client_of(place, binding, "1.0", path="/agents/echo") as client:
        assert answer(await said(client, "there")) == "echo: there"
        card = await client.get_extended_agent_card(GetExtendedAgentCardRequest())
    urls = {one.url for one in card.supported_interfaces}
    assert urls == {
        f"http://{place.address}/agents/echo/a2a/jsonrpc",
        f"http://{place.address}/agents/echo/a2a/rest",
        place.address,
    }


@pytest.mark.parametrize(("binding", "era"), WAYS)
async def test_webhooks_inside_are_refused(place: Place, binding: str, era: str) -> None:
    async with client_of(place, binding, era, streaming=False) as client:
        task = (await said(client, "hello"))[-1].task
        hook = TaskPushNotificationConfig(task_id=task.id, url="http://169.254.169.254/latest")
        refused = pytest.raises((InvalidParamsError, A2AClientError), match=r"not public|400")
        with refused:
            await client.create_task_push_notification_config(hook)
        hook.url = PUBLIC
        made = await client.create_task_push_notification_config(hook)
        assert made.url == PUBLIC
        inside = SendMessageConfiguration(
            task_push_notification_config=TaskPushNotificationConfig(url="http://0x7f.1:9/")
        )
        with refused:
            async for _ in client.send_message(message("hello", configuration=inside)):
                pass


@pytest.mark.parametrize(("binding", "era"), WAYS)
async def test_rules_over_methods(place: Place, binding: str, era: str) -> None:
    """One name for a method, however it is spelt."""
    from a2a.client import ClientCallContext

    async with client_of(place, binding, era, streaming=False) as client:
        task = (await said(client, "ask"))[-1].task
        assert task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        context = ClientCallContext(service_parameters={"x-no": "CancelTask"})
        with pytest.raises((A2AClientError, A2AError)):
            await client.cancel_task(CancelTaskRequest(id=task.id), context=context)
        still = await client.get_task(GetTaskRequest(id=task.id), context=context)
        assert still.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        done = await client.cancel_task(CancelTaskRequest(id=task.id))
        assert done.status.state == TaskState.TASK_STATE_CANCELED


# --- without a client in between ----------------------------------------------------------------


def test_card_of_both_eras(place: Place) -> None:
    got = fetch(place.port, WELL_KNOWN, host="agents.test")
    card = orjson.loads(got.body)
    base = "http://agents.test"
    assert card["url"] == f"{base}/a2a/jsonrpc"
    assert {one["url"] for one in card["supportedInterfaces"]} == {
        f"{base}/a2a/jsonrpc",
        f"{base}/a2a/rest",
        "agents.test:80",
    }
    assert {one["url"] for one in card["additionalInterfaces"]} == {
        f"{base}/a2a/rest",
        "agents.test:80",
    }
    assert "signatures" not in card
    assert str(place.agent.http).encode() not in got.body
    assert got.get("cache-control") == "max-age=30"
    assert got.get("x-a2a") == "a2a HTTP+JSON 0.3 GetAgentCard"


def test_card_is_validated_by_its_new_octets(place: Place) -> None:
    first = fetch(place.port, WELL_KNOWN)
    tag = first.get("etag")
    assert tag is not None
    again = fetch(place.port, WELL_KNOWN, headers={"if-none-match": f'"x", W/{tag}'})
    assert (again.status, again.body, again.get("etag")) == (304, b"", tag)
    direct = fetch(place.agent.http, WELL_KNOWN).get("etag")
    assert direct is not None
    assert fetch(place.port, WELL_KNOWN, headers={"if-none-match": direct}).status == 200
    head = fetch(place.port, WELL_KNOWN, "HEAD")
    assert (head.status, head.body, head.get("etag")) == (200, b"", tag)
    assert head.get("content-length") == first.get("content-length")
    secure = fetch(place.port, WELL_KNOWN, headers={"x-forwarded-proto": "https"})
    assert orjson.loads(secure.body)["url"] == "https://h.test/a2a/jsonrpc"
    assert secure.get("etag") != tag


def test_telemetry(place: Place) -> None:
    text = {"kind": "message", "role": "user", "messageId": "m"}
    parts = [{"kind": "text", "text": "log me"}]
    assert place.call("message/stream", message={**text, "parts": parts}).status == 200
    line = place.gateway.wait_line("a2a.method=message/stream")
    for field in (
        "protocol=a2a",
        "a2a.response.outcome=success",
        "a2a.result.kind=status-update",
        "a2a.task.state=completed",
        "a2a.context.id=",
    ):
        assert field in line
    assert place.call("tasks/get", id="nobody's").status == 200
    outcome = "a2a.response.outcome=error a2a.response.error_code=-32001"
    place.gateway.wait_line(f"a2a.method=tasks/get {outcome}")
    got = place.call("notAMethod")
    assert got.status == 200
    place.gateway.wait_metric(
        "agentgateway_a2a_requests_total",
        1,
        method="unknown",
        binding="JSONRPC",
        version="0.3",
        outcome="error",
    )


def test_own_errors_have_the_form_of_the_binding(place: Place) -> None:
    said = {"message": {"role": "user", "messageId": "m", "parts": []}}
    assert place.call("tasks/get", "/limited/a2a/jsonrpc", id="x").status == 200
    refused = place.call("message/send", "/limited/a2a/jsonrpc", **said)
    assert refused.status == 429
    answer = orjson.loads(refused.body)
    assert (answer["id"], answer["error"]["code"]) == (7, -32600)
    assert answer["error"]["data"][0]["domain"] == "agentgateway.dev"
    rest = fetch(place.port, "/limited/a2a/rest/tasks")
    status = orjson.loads(rest.body)["error"]
    assert (rest.status, status["code"], status["status"]) == (429, 429, "RESOURCE_EXHAUSTED")
    dead = place.call("GetTask", "/dead", id="x")
    assert dead.status == 503
    assert orjson.loads(dead.body)["error"]["code"] == -32603


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"GetTask","method":"CancelTask"}', -32700),
        (b'{"jsonrpc":"2.0","id":7,"method":"GetTask","Method":"CancelTask"}', -32600),
        (b'[{"jsonrpc":"2.0","id":7,"method":"GetTask"}]', -32600),
        (b'{"jsonrpc":"2.0","id":7,"method":', -32700),
        (b'{"jsonrpc":"2.0","method":"x","params":' + b"[" * 200 + b"]" * 200 + b"}", -32700),
    ],
)
def test_bodies_that_parsers_read_apart(place: Place, body: bytes, code: int) -> None:
    got = fetch(place.port, "/a2a/jsonrpc", "POST", headers=JSON, body=body)
    assert got.status == 400
    assert orjson.loads(got.body)["error"]["code"] == code


def test_bodies_past_the_limit(place: Place) -> None:
    got = place.call("SendMessage", text="x" * 70_000)
    assert got.status == 413


async def test_versions(place: Place) -> None:
    got = fetch(place.port, "/a2a/rest/tasks", headers={"a2a-version": "7.0"})
    error = orjson.loads(got.body)["error"]
    assert (got.status, error["details"][0]["reason"]) == (400, "VERSION_NOT_SUPPORTED")
    old = place.call("message/send", "/new/a2a/jsonrpc")
    assert (old.status, orjson.loads(old.body)["error"]["code"]) == (200, -32009)
    assert orjson.loads(old.body)["id"] == 7
    async with client_of(place, "GRPC", "1.0") as client:
        from a2a.client import ClientCallContext

        context = ClientCallContext(service_parameters={"A2A-Version": "7.0"})
        with pytest.raises((VersionNotSupportedError, A2AClientError)):
            await client.get_task(GetTaskRequest(id="x"), context=context)


async def test_many_at_once(place: Place) -> None:
    """Every stream gets its own events, over both workers."""

    async def one(number: int) -> None:
        binding, era = WAYS[number % len(WAYS)]
        async with client_of(place, binding, era) as client:
            assert answer(await said(client, f"n{number}")) == f"echo: n{number}"

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(one(number))
