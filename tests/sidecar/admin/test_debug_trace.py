"""One stream of requests as they happen: what is left when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.requests import Request

from sidecar.admin.debug_trace import _Listener, _Traces
from sidecar.cel.engine import Engine

FRAME = b"event: x\ndata: {}\n\n"
SECONDS = 20


async def test_workers_are_let_go_that_tell_more_than_is_read() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    before = asyncio.all_tasks()
    listener = _Listener()
    await listener.open()
    readers = []
    for _ in range(2):
        made = socket.socket(socket.AF_UNIX)
        made.connect("\0" + listener.address)
        reader, writer = await asyncio.open_unix_connection(sock=made)
        writer.write(FRAME * 1000)
        readers.append((reader, writer))
    for _ in range(500):
        assert await listener.next() == FRAME
    receiving = asyncio.all_tasks() - before
    assert len(receiving) == 2
    listener.close()
    await asyncio.wait_for(asyncio.wait(receiving), SECONDS)
    for reader, writer in readers:
        with contextlib.suppress(ConnectionResetError):  # what it had written was not read
            assert await asyncio.wait_for(reader.read(), SECONDS) == b""
        writer.close()
    assert not complaints


async def test_a_client_that_leaves_in_the_middle_of_an_event_is_forgotten() -> None:
    told: list[Mapping[str, object] | None] = []
    is_stuck, never = asyncio.Event(), asyncio.Event()

    async def receive() -> MutableMapping[str, Any]:
        await is_stuck.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            is_stuck.set()
            await never.wait()

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "query_string": b"", "headers": []}
    stream = await _Traces(Engine(), told.append, lambda: False).trace(Request(scope))
    await asyncio.wait_for(stream(scope, receive, send), SECONDS)
    assert len(told) == 2
    assert told[-1] is None
