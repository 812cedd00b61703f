"""A legacy client's call at a modern server, and what is left of it (mcp.bridge.up_call)."""

from __future__ import annotations

from typing import Any, cast

from sidecar import jsonrpc
from sidecar.jsonrpc import Json
from sidecar.mcp.bridge.state import Client
from sidecar.mcp.bridge.up import Up
from sidecar.mcp.bridge.up_call import Call
from sidecar.mcp.streams import Ready
from sidecar.mcp.upstream.base import Messages, Outbound
from tests.support.mcp_http import outbound


class Server:
    """Answers each request by the next of these."""

    def __init__(self, *results: Json) -> None:
        self.results = list(results)
        self.asked: list[Json] = []

    async def ask(self, outbound: Outbound, params: Json, client: Client) -> Messages:
        self.asked.append(params)
        return Ready.of(jsonrpc.result("agw-1", self.results.pop(0)))


def wanted(**questions: str) -> Json:
    asked = {key: {"method": method, "params": {}} for key, method in questions.items()}
    return {"resultType": "input_required", "inputRequests": asked, "requestState": "s"}


def call(server: Server, client: Client) -> Call:
    made = Call(cast("Up", server), outbound(params={"name": "t"}), client)
    client.calls[int, 1] = made
    return made


async def test_what_the_client_told_goes_to_the_server() -> None:
    server, client = Server(wanted(a="elicitation/create"), {"content": []}), Client()
    made = call(server, client)
    await made.begin()
    question = await made.next()
    assert question is not None
    answer: Any = {"jsonrpc": "2.0", "id": question.message["id"], "result": {"action": "accept"}}
    client.asked.pop(question.message["id"]).set_result(answer)
    done = await made.next()
    assert done is not None
    assert done.message["result"] == {"content": []}
    assert server.asked[1]["inputResponses"] == {"a": {"action": "accept"}}
    assert server.asked[1]["requestState"] == "s"
    assert not client.asked
    assert not client.calls


async def test_questions_of_a_call_that_was_left_are_forgotten() -> None:
    server, client = Server(wanted(a="roots/list", b="elicitation/create")), Client()
    made = call(server, client)
    await made.begin()
    assert await made.next() is not None
    assert len(client.asked) == 2
    made.close()
    assert not client.asked
    assert not client.calls


async def test_a_task_that_nobody_asked_for_is_an_error() -> None:
    server, client = Server({"resultType": "task", "taskId": "t", "status": "working"}), Client()
    made = call(server, client)
    await made.begin()
    done = await made.next()
    assert done is not None
    assert (done.message["id"], done.message["error"]["code"]) == (1, -32603)
    assert await made.next() is None
