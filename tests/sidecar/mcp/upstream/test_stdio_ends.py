"""Servers that run as processes: those that misbehave, how they end, and how they start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from pathlib import Path

import pytest

from sidecar.errors import UpstreamError
from sidecar.mcp.upstream.base import Refused, Scope
from sidecar.mcp.upstream.children import ChildLimits, Children
from sidecar.mcp.upstream.process import ProcessLimits, StdioSpec
from tests.support.mcp_http import drained, outbound, until
from tests.support.mcp_stdio_target import MODERN, POOL, SESSION, next_of, said, server
from tests.support.processes import is_gone
from tests.support.turns import turn_until

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


async def test_a_server_that_is_wanted_no_more_while_it_starts() -> None:
    async with server() as it:
        greeting = asyncio.ensure_future(it.greet())
        await turn_until(lambda: len(it.children) == 1)
        greeting.cancel()
        await it.target.end(outbound(message={}, scope=SESSION))
        assert len(it.children) == 0
        with pytest.raises(asyncio.CancelledError):
            await greeting


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
