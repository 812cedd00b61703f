"""What is kept of streams without ids, for whom, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.errors import UpstreamError
from sidecar.mcp import event_log, event_logs
from sidecar.mcp.event_ids import Logged, logged, parse
from sidecar.mcp.event_log import Reader
from sidecar.mcp.event_logs import EventLogs
from sidecar.mcp.upstream.base import Inbound, Messages, Scope
from sidecar.mcp.upstream.inbox import Inbox
from tests.support.mcp_http import outbound
from tests.support.turns import turn_until

MINE, OTHER = b"m" * 16, b"o" * 16


def note(number: int, size: int = 0) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "n", "params": {"n": number, "x": "x" * size}}


class Stream:
    """A logged stream of a request, and its server's end."""

    def __init__(self, logs: EventLogs, session: bytes = MINE, identity: int | None = 1) -> None:
        self.logs = logs
        self.session = session
        self.source = Inbox("t", None)
        reader = logs.begin(session, identity, self.source, primes=True)
        assert reader is not None
        self.reader = reader

    def say(self, *numbers: int, size: int = 0) -> None:
        for number in numbers:
            self.source.put(note(number, size), size + 50)

    async def heard(self, count: int) -> list[Inbound]:
        return await taken(self.reader, count)

    async def again(self, last: bytes, session: bytes = MINE) -> Messages | None:
        asked = outbound(scope=Scope("session", session, 0))
        return await self.logs.listen(asked, last)


async def taken(messages: Messages, count: int) -> list[Inbound]:
    found = []
    for _ in range(count):
        inbound = await messages.next()
        assert inbound is not None
        found.append(inbound)
    return found


def numbers(inbound: list[Inbound]) -> list[int]:
    return [one.message["params"]["n"] for one in inbound]


@pytest.fixture
def logs() -> EventLogs:
    return EventLogs(2)


async def test_a_stream_begins_with_an_id_and_goes_on_by_the_last(logs: EventLogs) -> None:
    stream = Stream(logs)
    stream.say(1, 2)
    primed, first, second = await stream.heard(3)
    assert primed.message == {}
    place = parse(primed.event_id)
    assert isinstance(place, Logged)
    assert (place.worker, place.number, place.listens) == (2, 0, False)
    assert numbers([first, second]) == [1, 2]
    stream.reader.close()
    stream.say(3)
    again = await stream.again(first.event_id)
    assert again is not None
    found = await taken(again, 2)
    assert numbers(found) == [2, 3]
    assert found[0].event_id == second.event_id
    stream.say(4)
    assert numbers(await taken(again, 1)) == [4]
    stream.source.finish()
    assert await again.next() is None
    # Whoever comes late gets the same.
    late = await stream.again(primed.event_id)
    assert late is not None
    assert numbers(await taken(late, 4)) == [1, 2, 3, 4]
    assert await late.next() is None
    await logs.close()


async def test_nobody_gets_what_was_told_to_another(logs: EventLogs) -> None:
    mine, beside, other = Stream(logs), Stream(logs, identity=2), Stream(logs, OTHER)
    for number, stream in enumerate((mine, beside, other)):
        stream.say(number)
    (primed, _), _, _ = await mine.heard(2), await beside.heard(2), await other.heard(2)
    place = parse(primed.event_id)
    assert isinstance(place, Logged)
    assert await mine.again(primed.event_id, OTHER) is None
    forged = [
        Logged(2, "0" * 16, 0),
        Logged(2, place.stream, 0, listens=True),
    ]
    for one in forged:
        assert await mine.again(logged(one)) is None
    assert await mine.again(b"7") is None
    found = await mine.again(primed.event_id)
    assert found is not None
    assert numbers(await taken(found, 1)) == [0]
    await logs.close()


async def test_a_server_that_fails_is_the_answer(logs: EventLogs) -> None:
    stream = Stream(logs)
    (primed,) = await stream.heard(1)
    stream.reader.close()
    stream.source.finish(UpstreamError(502, "UpstreamFailure", "it died"))
    again = await stream.again(primed.event_id)
    assert again is not None
    (answer,) = await taken(again, 1)
    assert answer.message["id"] == 1
    assert "it died" in answer.message["error"]["message"]
    assert await again.next() is None
    await logs.close()


async def test_ids_of_the_server_are_passed_on(logs: EventLogs) -> None:
    stream = Stream(logs)
    stream.source.put(note(1), 50, b"own-1")
    stream.source.put(note(2), 50, b"own-2")
    primed, *found = await stream.heard(3)
    assert [one.event_id for one in found] == [b"own-1", b"own-2"]
    stream.reader.close()
    assert stream.source.is_closed
    again = await stream.again(primed.event_id)
    assert again is not None
    assert [one.event_id for one in await taken(again, 1)] == [b"own-1"]
    assert await again.next() is None
    await logs.close()


async def test_a_listening_stream_is_read_on_for_a_moment(
    logs: EventLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(logs, identity=None)
    stream.say(1)
    primed, first = await stream.heard(2)
    assert first.event_id.startswith(b"agw-s2-")
    stream.reader.close()
    stream.say(2)
    live = await stream.again(primed.event_id)
    assert live is not None
    assert not live.is_json
    assert numbers(await taken(live, 2)) == [1, 2]
    monkeypatch.setattr(event_log, "GRACE_SECONDS", 0.0)
    live.close()
    await turn_until(lambda: stream.source.is_closed)
    again = await stream.again(first.event_id)
    assert again is not None
    assert again.is_json
    assert numbers(await taken(again, 1)) == [2]
    assert await again.next() is None
    # The new stream has it from now on.
    assert await stream.again(primed.event_id) is None
    assert len(logs) == 0


async def test_a_session_that_listens_anew(logs: EventLogs) -> None:
    left, read = Stream(logs, identity=None), Stream(logs, identity=None)
    asked, other = Stream(logs), Stream(logs, OTHER, None)
    for stream in (left, asked, other):
        await stream.heard(1)
        stream.reader.close()
    await logs.send(outbound(scope=Scope("session", MINE, 0)))
    assert left.source.is_closed
    assert not any(one.source.is_closed for one in (read, asked, other))
    await logs.close()


async def test_a_second_reader_takes_over(logs: EventLogs) -> None:
    stream = Stream(logs)
    (primed,) = await stream.heard(1)
    waiting = asyncio.ensure_future(stream.reader.next())
    await asyncio.sleep(0)
    again = await stream.again(primed.event_id)
    assert again is not None
    assert await waiting is None
    stream.reader.close()
    stream.say(1)
    assert numbers(await taken(again, 1)) == [1]
    await logs.close()


async def test_what_passes_the_bounds_is_dropped(
    logs: EventLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_logs, "SESSION_EVENTS", 4)
    monkeypatch.setattr(event_logs, "SESSION_BYTES", 4000)
    monkeypatch.setattr(event_logs, "WORKER_BYTES", 4200)
    mine, other = Stream(logs), Stream(logs, OTHER)
    mine.say(*range(10))
    primed = (await mine.heard(11))[0]
    mine.reader.close()
    assert await left(mine, primed.event_id) == [6, 7, 8, 9]
    mine.say(10, size=3500)
    mine.say(11, size=900)
    assert await left(mine, primed.event_id, wait=2) == [11]
    first = (await other.heard(1))[0]
    other.say(0, size=3000)
    other.say(1, size=1500)
    await other.heard(2)
    assert await left(other, first.event_id) == [1]
    assert await left(mine, primed.event_id) == [11]
    other.say(2, size=2000)
    assert await left(other, first.event_id, wait=1) == [1, 2]
    # The worker's oldest, whosever it is.
    assert await left(mine, primed.event_id) == []
    await logs.close()


async def test_an_answer_that_was_dropped_is_told_to_be_lost(
    logs: EventLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_logs, "SESSION_EVENTS", 2)
    stream, beside = Stream(logs), Stream(logs, identity=2)
    answer = {"jsonrpc": "2.0", "id": 1, "result": {}}
    stream.source.put(answer, 50)
    stream.source.finish()
    primed, last = await stream.heard(2)
    assert await stream.reader.next() is None
    stream.reader.close()
    for number in range(3):
        beside.say(number)
    await beside.heard(4)
    again = await stream.again(primed.event_id)
    assert again is not None
    (found,) = await taken(again, 1)
    assert (found.message["id"], found.message["error"]["code"]) == (1, -32603)
    assert await again.next() is None
    # A client that has had it is told nothing.
    once_more = await stream.again(last.event_id)
    assert once_more is not None
    assert await once_more.next() is None
    await logs.close()


async def left(stream: Stream, last: bytes, wait: int = 0) -> list[int]:
    """What a client gets that comes back; `wait`: for so many that are on their way."""
    again = await stream.again(last, stream.session)
    assert isinstance(again, Reader)
    count = len(again.queue)
    await taken(again, count + wait)
    again.close()
    once_more = await stream.again(last, stream.session)
    assert isinstance(once_more, Reader)
    found = numbers(list(once_more.queue))
    once_more.close()
    return found


async def test_a_slow_reader_stops_the_server(logs: EventLogs) -> None:
    stream = Stream(logs)
    stream.say(*range(200))
    (primed,) = await stream.heard(1)
    await asyncio.sleep(0)
    assert len(stream.reader.queue) <= 64
    assert numbers(await stream.heard(200)) == list(range(200))
    assert primed.message == {}
    await logs.close()


async def test_logs_end_with_their_session(logs: EventLogs) -> None:
    mine, other = Stream(logs), Stream(logs, OTHER)
    (primed,), (kept,) = await mine.heard(1), await other.heard(1)
    mine.reader.close()
    logs.end_session(MINE)
    assert await mine.again(primed.event_id) is None
    assert mine.source.is_closed
    assert await other.again(kept.event_id, OTHER) is not None
    await logs.close()
    assert other.source.is_closed
    assert len(logs) == 0


async def test_no_room(logs: EventLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_logs, "WORKER_LOGS", 2)
    first, second = Stream(logs), Stream(logs)
    assert logs.begin(MINE, 1, Inbox("t", None), primes=True) is None
    (primed,), _ = await first.heard(1), await second.heard(1)
    first.reader.close()
    # Those that nobody reads make room.
    assert logs.begin(MINE, 1, Inbox("t", None), primes=True) is not None
    assert await first.again(primed.event_id) is None
    await logs.close()
