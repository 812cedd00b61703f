"""Tests of sidecar.mcp.peers: two workers in one loop, and a worker that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.mcp import peer_connection, peers
from sidecar.mcp.peers import OwnedTarget, OwnerGone, Peers
from sidecar.mcp.upstream.base import Answered, Held, Messages, Outbound, Refused, Scope
from sidecar.mcp.upstream.inbox import Inbox
from sidecar.telemetry.w3c import TraceContext
from tests.support.mcp_http import drained, outbound, until
from tests.support.processes import descendants, is_gone, wait_gone

HERE = Scope("session", b"s1", 0)
THERE = Scope("session", b"s1", 1)
LOG = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "é"}}
ANSWER = {"jsonrpc": "2.0", "id": 1, "result": {}}


class Recorded:
    """A target that keeps what it got, and answers as its box is filled."""

    name = "t"

    def __init__(self) -> None:
        self.got: list[tuple[str, Outbound]] = []
        self.fault: Exception | None = None
        self.boxes: list[Inbox] = []
        self.closed: list[Inbox] = []
        self.last_event_id = b""
        self.has_stream = True

    async def request(self, outbound: Outbound) -> Answered:
        self._took("request", outbound)
        return Answered(self._box(), Held("up", "2025-11-25", "192.0.2.1:80"))

    async def send(self, outbound: Outbound) -> None:
        self._took("send", outbound)

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        self._took("listen", outbound)
        self.last_event_id = last_event_id
        return self._box() if self.has_stream else None

    async def end(self, outbound: Outbound) -> None:
        self._took("end", outbound)

    def _took(self, what: str, outbound: Outbound) -> None:
        self.got.append((what, outbound))
        if self.fault is not None:
            raise self.fault

    def _box(self) -> Inbox:
        box = Inbox("t", 10.0)
        box.on_close = lambda: self.closed.append(box)
        self.boxes.append(box)
        return box

    def fill(self, *messages: Any) -> None:
        for message in messages:
            self.boxes[-1].put(message, 10, b"e1")
        self.boxes[-1].finish()


class Pair:
    def __init__(self, directory: Path) -> None:
        self.there = Recorded()
        self.here = Recorded()
        self.asking = Peers(str(directory), 0, {"k": self.here}.get)
        self.owner = Peers(str(directory), 1, {"k": self.there}.get)
        self.target = OwnedTarget(self.here, "k", self.asking)

    async def begin(self, **how: Any) -> Messages:
        """A request that the owner has taken."""
        count = len(self.there.boxes)
        asking = asyncio.ensure_future(self.target.request(outbound(scope=THERE, **how)))
        await until(lambda: len(self.there.boxes) > count)
        return (await asking).messages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
async def pair(folder: Path) -> AsyncIterator[Pair]:
    made = Pair(folder)
    await made.asking.start()
    await made.owner.start()
    yield made
    await made.asking.close()
    await made.owner.close()
    assert not os.listdir(folder)


async def test_what_is_held_here_takes_no_hop(pair: Pair) -> None:
    asking = outbound(scope=HERE)
    assert (await pair.target.request(asking)).messages is pair.here.boxes[0]
    await pair.target.send(asking)
    await pair.target.listen(asking)
    await pair.target.end(asking)
    assert [what for what, _ in pair.here.got] == ["request", "send", "listen", "end"]
    assert not pair.there.got


async def test_the_owner_gets_all_of_a_request(pair: Pair) -> None:
    asking = outbound(
        params={"name": "é", "arguments": {"n": 1.5}},
        era="modern",
        held=Held("u", "v", "p"),
        headers=Headers([(b"x-a", b"\xff")]),
        scope=THERE,
    )
    asking.of.headers.append((b"authorization", b"Bearer x"))
    asking.of.trace = TraceContext(0xA, 0xB, 0xC, True, b"k=v")
    answering = asyncio.ensure_future(pair.target.request(asking))
    await until(lambda: bool(pair.there.boxes))
    pair.there.boxes[0].retry_ms = 7
    pair.there.fill(LOG, ANSWER)
    answered = await answering
    ((_, got),) = pair.there.got
    assert (got.message, got.era, got.version) == (asking.message, "modern", asking.version)
    assert (got.held, got.headers, got.scope) == (asking.held, asking.headers, asking.scope)
    assert (got.of.headers, got.of.target) == (asking.of.headers, asking.of.target)
    assert got.of.connection.peer_host == "192.0.2.7"
    assert isinstance(got.of.trace, TraceContext)
    assert (got.of.trace.trace_id, got.of.trace.span_id, got.of.trace.state) == (0xA, 0xB, b"k=v")
    assert answered.held == Held("up", "2025-11-25", "192.0.2.1:80")
    first = await answered.messages.next()
    assert first is not None
    assert (first.message, first.event_id, answered.messages.retry_ms) == (LOG, b"e1", 7)
    assert await drained(answered.messages) == [ANSWER]


async def test_a_connection_serves_one_exchange_after_the_other(pair: Pair) -> None:
    for _ in range(3):
        messages = await pair.begin()
        pair.there.fill(ANSWER)
        assert await drained(messages) == [ANSWER]
        await pair.target.send(outbound(scope=THERE))
        await pair.target.end(outbound(scope=THERE))
    assert len(pair.owner._connections) == 1


async def test_many_at_once(pair: Pair) -> None:
    streams = [await pair.begin(id=number) for number in range(40)]
    for number, box in enumerate(pair.there.boxes):
        box.put({**ANSWER, "id": number}, 10)
        box.finish()
    assert [(await drained(stream))[0]["id"] for stream in streams] == list(range(40))


async def test_closing_reaches_the_owner(pair: Pair) -> None:
    messages = await pair.begin()
    messages.close()
    messages.close()
    await until(lambda: pair.there.closed == pair.there.boxes)
    assert await messages.next() is None


async def test_a_caller_that_is_cancelled_reaches_the_owner(pair: Pair) -> None:
    class Slow(Recorded):
        left = False

        async def request(self, outbound: Outbound) -> Answered:
            self.got.append(("request", outbound))
            try:
                await asyncio.Event().wait()
            finally:
                self.left = True
            raise AssertionError

    slow = Slow()
    pair.owner._target_of = {"k": slow}.get  # type: ignore[assignment]
    asking = asyncio.ensure_future(pair.target.request(outbound(scope=THERE)))
    await until(lambda: bool(slow.got))
    asking.cancel()
    await until(lambda: slow.left)


async def test_listening(pair: Pair) -> None:
    asking = asyncio.ensure_future(pair.target.listen(outbound(message={}, scope=THERE), b"e\xff"))
    await until(lambda: bool(pair.there.boxes))
    pair.there.fill(LOG)
    messages = await asking
    assert messages is not None
    assert await drained(messages) == [LOG]
    assert pair.there.last_event_id == b"e\xff"
    pair.there.has_stream = False
    assert await pair.target.listen(outbound(message={}, scope=THERE)) is None


@pytest.mark.parametrize("op", ["request", "send", "listen"])
async def test_what_the_server_did_is_told(pair: Pair, op: str) -> None:
    headers = Headers([(b"www-authenticate", b"Bearer")])
    pair.there.fault = Refused(401, headers, b"\xff")
    with pytest.raises(Refused) as refused:
        await getattr(pair.target, op)(outbound(scope=THERE))
    assert (refused.value.status, refused.value.headers, refused.value.body) == (
        401, headers, b"\xff",
    )  # fmt: skip
    pair.there.fault = UpstreamError(504, "Timeout", "late", retryable=True, sent=False)
    with pytest.raises(UpstreamError) as failed:
        await getattr(pair.target, op)(outbound(scope=THERE))
    error = failed.value
    assert (error.status, error.code, error.message) == (504, "Timeout", "late")
    assert (error.retryable, error.sent) == (True, False)
    await pair.target.end(outbound(scope=THERE))


async def test_a_failure_within_a_stream_is_told(pair: Pair) -> None:
    messages = await pair.begin()
    pair.there.boxes[0].put(LOG, 10)
    pair.there.boxes[0].finish(UpstreamError(502, "UpstreamFailure", "died"))
    assert await messages.next() is not None
    with pytest.raises(UpstreamError, match="died"):
        await messages.next()


async def test_a_refusal_within_a_stream_is_a_failure(pair: Pair) -> None:
    messages = await pair.begin()
    pair.there.boxes[0].finish(Refused(404, Headers(), b""))  # type: ignore[arg-type]
    with pytest.raises(UpstreamError, match="404"):
        await messages.next()


async def test_a_target_that_the_owner_does_not_know(pair: Pair) -> None:
    with pytest.raises(UpstreamError) as caught:
        await pair.asking.request(1, "other", outbound(scope=THERE))
    assert (caught.value.status, caught.value.sent, caught.value.retryable) == (503, False, True)


async def test_messages_that_are_too_long(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "MAX_FRAME_BYTES", 10_000)
    long = {**LOG, "params": {"data": "x" * 20_000}}
    with pytest.raises(UpstreamError, match="10000 bytes"):
        await pair.target.request(outbound(message={**long, "id": 1}, scope=THERE))
    messages = await pair.begin()
    pair.there.fill(long)
    with pytest.raises(UpstreamError, match="10000 bytes"):
        await messages.next()


async def test_a_reader_that_is_slow_stops_the_owner(pair: Pair) -> None:
    messages = await pair.begin()
    box = pair.there.boxes[0]
    line = {**LOG, "params": {"data": "x" * 10_000}}
    for _ in range(2000):
        box.put(line, 10_000)
    await asyncio.sleep(0.2)
    assert box.is_full, "what nobody reads stays with the owner"
    box.finish()
    assert len(await drained(messages)) == 2000


# --- who may talk ---------------------------------------------------------------------------


async def test_the_folder_must_be_ours_alone(folder: Path) -> None:
    os.chmod(folder, 0o750)
    with pytest.raises(ConfigError, match="0700"):
        await Peers(str(folder), 0, {}.get).start()


async def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="too long"):
        await Peers(str(deep), 0, {}.get).start()


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">I", 9_000_000),
        struct.pack(">I", 3) + b"no!",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 2) + b"{}",
        (struct.pack(">I", 2) + b"{}") * 2,
    ],
    ids=["too long", "no JSON", "no object", "no question", "two questions"],
)
async def test_junk_ends_the_connection(pair: Pair, raw: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(pair.owner.path(1))
    writer.write(raw)
    async with asyncio.timeout(20):
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            assert True, "reset is as good"
    writer.close()
    messages = await pair.begin()
    pair.there.fill(ANSWER)
    assert await drained(messages) == [ANSWER]


async def test_another_users_connection_is_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.geteuid()
    monkeypatch.setattr(peers.os, "geteuid", lambda: real + 1)
    reader, writer = await asyncio.open_unix_connection(pair.owner.path(1))
    assert await reader.read() == b""
    writer.close()
    with pytest.raises(OwnerGone):
        await pair.target.request(outbound(scope=THERE))


# --- owners that end ------------------------------------------------------------------------


async def test_an_owner_that_is_not_there(pair: Pair) -> None:
    nobody = Scope("session", b"s1", 7)
    for op in (pair.target.request, pair.target.send, pair.target.listen):
        with pytest.raises(OwnerGone) as caught:
            await op(outbound(scope=nobody))
        assert (caught.value.sent, caught.value.retryable) == (False, True)
    await pair.target.end(outbound(scope=nobody))


async def test_a_socket_that_nobody_listens_on_is_taken_over(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(folder / "worker-1.sock"))
    asking = Peers(str(folder), 0, {}.get)
    with pytest.raises(OwnerGone):
        await asking.send(1, "k", outbound(scope=THERE))
    target = Recorded()
    owner = Peers(str(folder), 1, {"k": target}.get)
    await owner.start()
    await asking.send(1, "k", outbound(scope=THERE))
    assert len(target.got) == 1
    await asking.close()
    await owner.close()


async def test_an_owner_that_ends_within_a_stream(pair: Pair) -> None:
    messages = await pair.begin()
    await pair.owner.close()
    with pytest.raises(OwnerGone) as caught:
        await drained(messages)
    assert caught.value.sent
    with pytest.raises(OwnerGone):
        await pair.target.request(outbound(scope=THERE))
    await pair.owner.start()
    again = await pair.begin()
    pair.there.fill(ANSWER)
    assert await drained(again) == [ANSWER]


@contextmanager
def holder(directory: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    directory.chmod(0o700)
    command = [sys.executable, "-m", "tests.support.mcp_holder", str(directory), "1", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"listens\n"
            yield process
        finally:
            process.kill()


async def test_a_killed_holder_leaves_no_process_and_is_told_apart(folder: Path) -> None:
    with holder(folder, "spawn", "ignore-term", "ignore-eof") as process:
        asking = Peers(str(folder), 0, {}.get)
        greeting = outbound("initialize", {"protocolVersion": "2025-11-25"}, scope=THERE)
        answered = await asking.request(1, "t1", greeting)
        assert answered.held.version == "2025-11-25"
        assert len(await drained(answered.messages)) == 1
        never = outbound(params={"name": "never"}, scope=THERE)
        waiting = (await asking.request(1, "t1", never)).messages
        # Keeper, monitor, server, and the two that the server started.
        below = descendants(process.pid)
        assert len(below) == 5
        process.kill()
        with pytest.raises(OwnerGone) as caught:
            await drained(waiting)
        assert caught.value.sent
        for pid in below:
            wait_gone(pid)
        with pytest.raises(OwnerGone) as later:
            await asking.request(1, "t1", never)
        assert not later.value.sent
        await asking.close()


@pytest.mark.parametrize("least", [1, 2, 3, 5, 8, 12])
async def test_a_holder_killed_while_it_starts_servers_leaves_nothing(
    folder: Path, least: int
) -> None:
    """`least`: processes below the holder when it is killed."""
    with holder(folder, "spawn", "ignore-term", "ignore-eof", str(folder)) as process:
        asking = Peers(str(folder), 0, {}.get)
        starting = [asyncio.ensure_future(_start(asking, number)) for number in range(4)]
        seen: set[int] = set()

        def has_grown() -> bool:
            seen.update(descendants(process.pid))
            return len(seen) >= least

        await until(has_grown)
        process.kill()
        process.wait()
        await asyncio.gather(*starting, return_exceptions=True)
        await asking.close()
    await until(lambda: all(map(is_gone, seen)))
    await until(lambda: not servers_in(folder))


async def _start(asking: Peers, number: int) -> None:
    scope = Scope("principal", bytes((number,)), 1)
    never = outbound(params={"name": "never"}, era="modern", scope=scope)
    await asking.request(1, "t1", never)


def servers_in(folder: Path) -> list[str]:
    """Fixture servers that were started with the folder's name."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            if os.fsencode(folder) in command and b"mcp_stdio.py" in command:
                found.append(name)
    return found
