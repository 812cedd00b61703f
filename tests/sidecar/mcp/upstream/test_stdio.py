"""Tests of sidecar.mcp.upstream.stdio and children with real server processes."""

from __future__ import annotations

import asyncio
import json

import pytest

from sidecar.errors import UpstreamError
from sidecar.mcp.upstream.base import Refused, Scope
from sidecar.mcp.upstream.children import ChildLimits
from tests.support.mcp_http import drained, outbound
from tests.support.mcp_stdio_target import MODERN, POOL, SESSION, next_of, said, server
from tests.support.processes import is_gone

# --- sessions -------------------------------------------------------------------------------


async def test_a_session_has_a_process_of_its_own() -> None:
    other = Scope("session", b"s2", 0)
    async with server() as it:
        greeting = await it.greet()
        assert greeting["result"]["serverInfo"]["name"] == "fixture"
        await it.greet(other)
        pids = {await it.pid(), await it.pid(scope=other)}
        assert len(pids) == 2
        assert await it.pid() in pids
        await it.target.end(outbound(message={}, scope=SESSION))
        assert [is_gone(pid) for pid in sorted(pids)].count(True) == 1
        with pytest.raises(Refused) as caught:
            await it.pid()
        assert caught.value.status == 404
    assert all(map(is_gone, pids))


async def test_without_a_greeting_the_session_is_not_known() -> None:
    async with server() as it:
        for ask in (
            it.open("pid"),
            it.target.send(outbound("notifications/initialized", id=None)),
            it.target.listen(outbound(message={})),
        ):
            with pytest.raises(Refused) as caught:
                await ask
            assert caught.value.status == 404
        assert len(it.children) == 0


async def test_the_held_version_is_the_servers() -> None:
    async with server() as it:
        asking = outbound("initialize", {"protocolVersion": "2025-06-18"}, version="")
        assert (await it.target.request(asking)).held.version == "2025-06-18"


async def test_requests_that_share_a_server_greet_it_once() -> None:
    async with server() as it:
        greetings = await asyncio.gather(*(it.greet(POOL) for _ in range(5)))
        assert {json.dumps(greeting) for greeting in greetings} == {json.dumps(greetings[0])}
        assert await it.call("greetings", scope=POOL) == "1"


async def test_a_refused_greeting_ends_the_process() -> None:
    async with server("refuse-greeting") as it:
        asking = outbound("initialize", {"protocolVersion": "2025-11-25"})
        (message,) = await drained((await it.target.request(asking)).messages)
        assert message["error"]["code"] == -32602
        assert len(it.children) == 0


async def test_a_server_that_does_not_greet_is_ended() -> None:
    async with server("silent-greeting", limits=ChildLimits(greeting_seconds=0.2)) as it:
        with pytest.raises(UpstreamError) as caught:
            await it.greet()
        assert caught.value.status == 504
        assert len(it.children) == 0


async def test_who_waits_behind_a_greeting_that_was_given_up_gets_another_server() -> None:
    async with server("silent-greeting", limits=ChildLimits(greeting_seconds=0.2)) as it:
        results = await asyncio.gather(it.greet(POOL), it.greet(POOL), return_exceptions=True)
        assert [type(result) for result in results] == [UpstreamError, UpstreamError]
        assert {result.status for result in results} == {504}  # type: ignore[union-attr]


# --- modern, pooled -------------------------------------------------------------------------


async def test_modern_requests_of_a_principal_share_a_process() -> None:
    async with server() as it:
        pids = await asyncio.gather(*(it.pid(id=7, **MODERN) for _ in range(20)))
        assert len(set(pids)) == 1
        other = {**MODERN, "scope": Scope("principal", b"p2", 0)}
        assert await it.pid(**other) not in pids
        await it.target.end(outbound(message={}, scope=POOL))
        assert await it.pid(**MODERN) == pids[0], "the pool keeps it"


async def test_equal_ids_and_tokens_do_not_meet() -> None:
    async with server() as it:
        streams = []
        for _ in range(2):
            streams.append(await it.open("slow", id=1, **MODERN))
            assert (await next_of(streams[-1]))["method"] == "notifications/message"
        assert await it.call("release", id=1, **MODERN) == "done"
        answers = [(await drained(stream))[-1] for stream in streams]
        assert [answer["id"] for answer in answers] == [1, 1]
        assert len({said(answer) for answer in answers}) == 2


@pytest.mark.parametrize("token", ["text", 0, 17])
async def test_progress_comes_under_the_clients_token(token: str | int) -> None:
    async with server() as it:
        messages = await drained(await it.open("progress", token=token, id="a", **MODERN))
        assert [message["params"]["progressToken"] for message in messages[:-1]] == [token] * 3
        assert messages[-1]["id"] == "a"


async def test_closing_cancels_a_modern_request() -> None:
    async with server() as it:
        stream = await it.open("never", id="x", **MODERN)
        stream.close()
        stream.close()
        assert len(json.loads(await it.call("cancelled", **MODERN))) == 1


async def test_closing_does_not_cancel_a_legacy_request_but_the_client_may() -> None:
    async with server() as it:
        await it.greet()
        (await it.open("never", id="x")).close()
        assert json.loads(await it.call("cancelled")) == []
        cancel = {"requestId": "x"}
        await it.target.send(outbound("notifications/cancelled", cancel, id=None))
        await it.target.send(outbound("notifications/cancelled", {"requestId": "?"}, id=None))
        (wire,) = json.loads(await it.call("cancelled"))
        assert isinstance(wire, int)


async def test_a_subscription_is_tagged_with_the_clients_id() -> None:
    async with server() as it:
        asking = outbound("subscriptions/listen", {"toolsListChanged": True}, id="sub", **MODERN)
        messages = (await it.target.request(asking)).messages
        for method in ("subscriptions/acknowledged", "tools/list_changed"):
            inbound = await messages.next()
            assert inbound is not None
            assert inbound.message["method"] == f"notifications/{method}"
            tag = inbound.message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"]
            assert tag == "sub"


async def test_a_legacy_server_says_that_it_knows_no_discovery() -> None:
    async with server("legacy") as it:
        asking = outbound("server/discover", {}, **MODERN)
        (message,) = await drained((await it.target.request(asking)).messages)
        assert message["error"]["code"] == -32601


# --- streams --------------------------------------------------------------------------------


async def test_a_log_line_goes_to_the_request_and_a_change_to_who_listens() -> None:
    async with server() as it:
        await it.greet()
        listening = await it.target.listen(outbound(message={}))
        messages = await drained(await it.open("log"))
        assert [message.get("method") for message in messages] == ["notifications/message", None]
        assert (await next_of(listening))["method"] == "notifications/tools/list_changed"


async def test_what_nobody_hears_waits_for_a_listener() -> None:
    async with server() as it:
        await it.greet()
        await it.call("log")
        listening = await it.target.listen(outbound(message={}))
        assert (await next_of(listening))["method"] == "notifications/tools/list_changed"


async def test_a_question_goes_to_the_request_and_its_answer_back() -> None:
    async with server() as it:
        await it.greet()
        stream = await it.open("ask")
        question = await next_of(stream)
        assert (question["id"], question["method"]) == ("q1", "elicitation/create")
        answer = {"jsonrpc": "2.0", "id": "q1", "result": {"action": "accept"}}
        await it.target.send(outbound(message=answer))
        assert json.loads(said((await drained(stream))[-1])) == {"action": "accept"}


async def test_a_ping_of_the_server_is_answered_here() -> None:
    async with server() as it:
        await it.greet()
        (message,) = await drained(await it.open("ping"))
        assert said(message) == "{}"


async def test_the_end_of_the_process_ends_what_listens() -> None:
    async with server() as it:
        await it.greet()
        listening = await it.target.listen(outbound(message={}))
        with pytest.raises(UpstreamError):
            await it.call("die")
        assert listening is not None
        assert await drained(listening) == []
