"""Tests of sidecar.mcp.upstream.stdio and children with real server processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import UpstreamError
from sidecar.jsonrpc import Json
from sidecar.mcp.upstream.base import Messages, Refused, Scope
from sidecar.mcp.upstream.children import ChildLimits, Children
from sidecar.mcp.upstream.process import ProcessLimits, Spawner, StdioSpec
from sidecar.mcp.upstream.stdio import StdioTarget
from tests.support import mcp_http
from tests.support.mcp_http import drained, outbound, until
from tests.support.processes import is_gone

SERVER = str(Path(mcp_http.__file__).with_name("mcp_stdio.py"))
SESSION = Scope("session", b"s1", 0)
POOL = Scope("principal", b"p1", 0)
MODERN: Any = {"era": "modern", "version": "2026-07-28", "scope": POOL}


class Server:
    """A target and the table behind it."""

    def __init__(self, target: StdioTarget, children: Children) -> None:
        self.target = target
        self.children = children

    async def greet(self, scope: Scope = SESSION) -> Json:
        asking = outbound("initialize", {"protocolVersion": "2025-11-25"}, scope=scope)
        answered = await self.target.request(asking)
        message = (await drained(answered.messages))[-1]
        await self.target.send(outbound("notifications/initialized", id=None, scope=scope))
        return message

    async def open(self, tool: str, *, id: str | int = 1, token: Any = None, **given: Any) -> Any:
        """`given` may hold `era`, `version` and `scope` besides the arguments."""
        how = {key: given.pop(key) for key in ("era", "version", "scope") if key in given}
        params: Json = {"name": tool, "arguments": given}
        if token is not None:
            params["_meta"] = {"progressToken": token}
        answered = await self.target.request(outbound(params=params, id=id, **how))
        return answered.messages

    async def call(self, tool: str, **given: Any) -> str:
        """The text of the last message."""
        return said((await drained(await self.open(tool, **given)))[-1])

    async def pid(self, **how: Any) -> int:
        return int(await self.call("pid", **how))


def said(message: Json) -> str:
    text = message["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text


@asynccontextmanager
async def server(
    *flags: str,
    limits: ChildLimits | None = None,
    process: ProcessLimits | None = None,
    **spec: Any,
) -> AsyncIterator[Server]:
    children = Children(limits, Spawner(process or ProcessLimits(grace_seconds=0.5)))
    argv = (sys.executable, "-I", "-S", SERVER, *flags)
    try:
        yield Server(StdioTarget("t", "t1", StdioSpec(argv, **spec), children), children)
    finally:
        await children.close()


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


async def next_of(messages: Messages | None) -> Json:
    assert messages is not None
    async with asyncio.timeout(10):
        inbound = await messages.next()
    assert inbound is not None
    return inbound.message


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


# --- servers that misbehave -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "answer"), [("twice", "first"), ("garbage", "after"), ("wrong_id", "right")]
)
async def test_junk_is_dropped(tool: str, answer: str) -> None:
    async with server() as it:
        await it.greet()
        assert await it.call(tool) == answer
        assert await it.call("echo", text="fine") == "fine"


async def test_a_server_that_dies_in_a_call_fails_it_and_is_greeted_anew() -> None:
    async with server() as it:
        await it.greet()
        never = await it.open("never")
        with pytest.raises(UpstreamError) as caught:
            await it.call("die")
        assert (caught.value.status, caught.value.retryable) == (502, False)
        assert "exit code 3" in caught.value.message
        with pytest.raises(UpstreamError):
            await drained(never)
        with pytest.raises(Refused):
            await it.call("echo", text="x")


async def test_a_server_that_never_answers() -> None:
    async with server(limits=ChildLimits(request_idle_seconds=0.5)) as it:
        await it.greet()
        with pytest.raises(UpstreamError) as caught:
            await it.call("never")
        assert caught.value.status == 504


async def test_a_line_that_is_too_long_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with server(process=ProcessLimits(line_bytes=10_000)) as it:
        await it.greet()
        messages = await drained(await it.open("long_line", bytes=200_000))
        assert [said(message) for message in messages] == ["after"]
    assert "more than 10000 bytes" in caplog.text


async def test_a_flood_on_standard_error_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidecar.mcp.stderr")
    async with server() as it:
        await it.greet()
        assert await it.call("flood_stderr", lines=20_000) == "flooded"
    lines = [record.getMessage() for record in caplog.records]
    assert "t: line 0" in lines
    assert len(lines) < 500
    assert any("lines were not logged" in line for line in lines)


async def test_a_server_that_does_not_read() -> None:
    limits = ProcessLimits(stdin_bytes=100_000, write_seconds=0.1, grace_seconds=0.3)
    async with server(process=limits) as it:
        await it.greet()
        await it.call("mute")
        sends = [it.open("echo", text="x" * 60_000) for _ in range(20)]
        with pytest.raises(UpstreamError) as caught:
            await asyncio.gather(*sends)
        assert "does not read" in caught.value.message
        assert caught.value.status == 503


async def test_a_reader_that_does_not_read_stops_the_server_and_is_given_up() -> None:
    async with server(limits=ChildLimits(slow_reader_seconds=0.3)) as it:
        await it.greet()
        slow = await it.open("burst", count=5000, size=1000)
        await until(lambda: slow.is_full)
        async with asyncio.timeout(20):
            assert await it.call("echo", text="after") == "after"
        with pytest.raises(UpstreamError, match="too slow"):
            await drained(slow)


async def test_a_slow_reader_that_reads_gets_all() -> None:
    async with server() as it:
        await it.greet()
        stream = await it.open("burst", count=3000, size=1000)
        for _ in range(5):
            await next_of(stream)
            await asyncio.sleep(0.01)
        assert len(await drained(stream)) == 3000 - 5 + 1


# --- ends -----------------------------------------------------------------------------------


async def test_a_server_that_ignores_every_wish_is_killed() -> None:
    async with server("ignore-term", "ignore-eof") as it:
        await it.greet()
        pid = await it.pid()
    assert is_gone(pid)


async def test_a_server_that_closes_its_output_is_of_no_use() -> None:
    async with server() as it:
        await it.greet()
        pid = int(await it.call("hush"))
        await until(lambda: is_gone(pid))
        await until(lambda: len(it.children) == 0)


async def test_what_a_server_started_ends_with_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidecar.mcp.stderr")
    async with server("spawn") as it:
        await it.greet()
        await until(lambda: "pids" in caplog.text)
        pids = [int(word) for word in caplog.text.split("pids ")[1].split()[:2]]
        assert not any(map(is_gone, pids))
        await it.target.end(outbound(message={}, scope=SESSION))
        assert all(map(is_gone, pids))


async def test_what_a_server_started_ends_also_when_it_dies(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sidecar.mcp.stderr")
    async with server("spawn") as it:
        await it.greet()
        await until(lambda: "pids" in caplog.text)
        pids = [int(word) for word in caplog.text.split("pids ")[1].split()[:2]]
        with pytest.raises(UpstreamError):
            await it.call("die")
        assert all(map(is_gone, pids))


async def test_an_idle_server_of_the_pool_ends() -> None:
    async with server(limits=ChildLimits(idle_seconds=0.0)) as it:
        stream = await it.open("slow", **MODERN)
        pid = await it.pid(**MODERN)
        it.children.sweep()
        assert len(it.children) == 1, "somebody waits for it"
        stream.close()
        it.children.sweep()
        await until(lambda: is_gone(pid))
        assert len(it.children) == 0


async def test_targets_that_are_no_more_lose_their_servers() -> None:
    async with server() as it:
        pid = await it.pid(**MODERN)
        await it.children.retire(frozenset(("t1",)))
        assert not is_gone(pid)
        await it.children.retire(frozenset(("t2",)))
        assert is_gone(pid)


# --- starts ---------------------------------------------------------------------------------


async def test_environment_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_OWN", "yes")
    monkeypatch.setenv("SESSION_KEY", "secret")
    names = ["GATEWAY_OWN", "SESSION_KEY", "GIVEN"]
    async with server(env={"GIVEN": "1"}, cwd=str(tmp_path)) as it:
        told = json.loads(await it.call("env", names=names, **MODERN))
        assert told == {"GATEWAY_OWN": "yes", "SESSION_KEY": None, "GIVEN": "1"}
        assert await it.call("cwd", **MODERN) == str(tmp_path)
    async with server(env={"GIVEN": "1"}, clear_env=True) as it:
        told = json.loads(await it.call("env", names=names, **MODERN))
        assert told == {"GATEWAY_OWN": None, "SESSION_KEY": None, "GIVEN": "1"}


async def test_a_server_inherits_nothing_but_its_streams() -> None:
    async with server() as it:
        pid = await it.pid(**MODERN)
        targets = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        assert len(targets) == 3
        assert all(target.startswith("pipe:") for target in targets)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("/no/such/program",), "No such file"),
        (("/etc/passwd",), "Permission denied"),
        (("/bin/echo\0",), "Invalid argument"),
    ],
)
async def test_a_program_that_cannot_be_run(argv: tuple[str, ...], text: str) -> None:
    children = Children()
    with pytest.raises(UpstreamError) as caught:
        await children.get("k", "t", StdioSpec(argv), POOL)
    assert text in caught.value.message
    assert (caught.value.status, caught.value.sent) == (503, False)
    await children.close()


async def test_a_server_that_ends_at_once_is_not_started_again_at_once() -> None:
    async with server("die") as it:
        for _ in range(2):
            with pytest.raises(UpstreamError) as caught:
                await it.greet()
            with contextlib.suppress(UpstreamError):
                await it.greet()
        assert "may be started again in" in caught.value.message
        assert len(it.children) == 0


async def test_an_idle_server_of_the_pool_makes_room() -> None:
    async with server(limits=ChildLimits(children=2)) as it:
        first = await it.pid(**MODERN)
        await it.greet()
        second = await it.pid(**{**MODERN, "scope": Scope("principal", b"p2", 0)})
        await until(lambda: is_gone(first))
        assert not is_gone(second)
        busy = await it.open("slow", **{**MODERN, "scope": Scope("principal", b"p2", 0)})
        with pytest.raises(UpstreamError, match="this worker has 2"):
            await it.pid(**MODERN)
        busy.close()


async def test_a_target_has_a_bound_of_its_own() -> None:
    async with server(limits=ChildLimits(per_target=1)) as it:
        await it.greet()
        with pytest.raises(UpstreamError, match="t has 1 processes"):
            await it.greet(Scope("session", b"s2", 0))


async def test_the_keeper_is_replaced_when_it_dies() -> None:
    async with server() as it:
        await it.greet()
        pid = await it.pid()
        keeper = parent(parent(pid))
        os.kill(keeper, 9)
        await until(lambda: is_gone(keeper))
        assert not is_gone(pid), "servers do not depend on it"
        await it.greet(Scope("session", b"s2", 0))
        assert await it.call("echo", text="x") == "x"


async def test_the_death_of_a_monitor_ends_its_server() -> None:
    async with server() as it:
        await it.greet()
        pid = await it.pid()
        os.kill(parent(pid), 9)
        await until(lambda: is_gone(pid))
        await until(lambda: len(it.children) == 0)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
