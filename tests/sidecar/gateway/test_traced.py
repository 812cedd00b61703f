"""Who listens to requests of a worker: what is put into its gateway, and taken out again."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from sidecar.gateway.exchange import Exchange
from sidecar.gateway.traced import MAX_WAITING_BYTES, TraceFollower
from sidecar.telemetry.bodies import bodies_of
from tests.sidecar.gateway.test_direct import config, directly, route
from tests.sidecar.gateway.test_recorded import Recording, on_record
from tests.support.compiled import ENGINE, InProcess, ask_for
from tests.support.upstream import Upstream, echo

SECONDS = 20


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(echo) as made:
        yield made


class Listener:
    """As control is one: takes a connection, and gives the events on it."""

    def __init__(self) -> None:
        self.name = f"test-{secrets.token_hex(8)}"
        self.taken: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self.taken = asyncio.get_running_loop().create_future()

    async def event(self) -> dict[str, Any]:
        reader, _ = await asyncio.wait_for(asyncio.shield(self.taken), SECONDS)
        made = await asyncio.wait_for(reader.readuntil(b"\n\n"), SECONDS)
        found: dict[str, Any] = orjson.loads(made.split(b"\ndata: ")[1])
        return found

    async def types(self) -> list[str]:
        """Of a request, to its end."""
        found = [(await self.event())["type"]]
        while found[-1] != "requestFinished":
            found.append((await self.event())["type"])
        return found

    async def end(self) -> None:
        _, writer = await asyncio.wait_for(asyncio.shield(self.taken), SECONDS)
        writer.close()

    def resource(self, expression: str | None = None) -> dict[str, object]:
        return {"address": self.name, "expression": expression}


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind("\0" + listener.name)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.taken.set_result((reader, writer))

    server = await asyncio.start_unix_server(take, sock=made)
    try:
        yield listener
    finally:
        if listener.taken.done():
            listener.taken.result()[1].close()
        server.close()


def follower(gateway: InProcess) -> TraceFollower:
    made = TraceFollower(asyncio.get_running_loop(), gateway.clock, 0)
    made.swapped(gateway.gateway)
    return made


async def until_plain(gateway: InProcess) -> None:
    async with asyncio.timeout(SECONDS):
        while gateway.gateway.exchange is not Exchange:  # noqa: ASYNC110 - of what has no event
            await asyncio.sleep(0)


DIRECT = [
    *("requestStarted", "requestSnapshot", "routeSelection", "backendCallStart"),
    *("backendCallResult", "responseSnapshot", "requestFinished"),
]


async def test_while_somebody_listens(up: Upstream) -> None:
    async with InProcess(config(route(up))) as gateway, listening() as listener:
        told = follower(gateway)
        await gateway.text(ask_for("/x"))
        await told.open(listener.resource('request.path != "/unasked"'), ENGINE)
        assert (await listener.event())["type"] == "traceStarted"
        assert await directly(gateway, ask_for("/unasked")) == ""
        assert await directly(gateway, ask_for("/x", "PUT", body=b"one")) == "one"
        assert await listener.types() == DIRECT
        assert await gateway.text(ask_for("/x", "PUT", body=b"two")) == (200, "two")
        assert await listener.types() == DIRECT
        # What is compiled next is told of as well.
        gateway.apply(config(route(up, name="other")))
        assert gateway.gateway.exchange is Exchange
        told.swapped(gateway.gateway)
        await gateway.text(ask_for("/x"))
        assert await listener.types() == DIRECT
        await listener.end()
        await until_plain(gateway)
        assert await gateway.text(ask_for("/x", "PUT", body=b"four")) == (200, "four")


async def test_bodies_stay_on_record(up: Upstream) -> None:
    async with Recording(config(route(up))) as gateway, listening() as listener:
        told = follower(gateway)
        await told.open(listener.resource(), ENGINE)
        request = ask_for("/x", "PUT", body=b"one")
        await gateway.text(request)
        assert on_record(request) == (("whole", b"one"), ("whole", b"one"))
        told.close()
        request = ask_for("/x", "PUT", body=b"two")
        await gateway.text(request)
        assert on_record(request) == (("whole", b"two"), ("whole", b"two"))


async def test_a_new_listener_takes_the_place_of_the_old(up: Upstream) -> None:
    async with (
        InProcess(config(route(up))) as gateway,
        listening() as first,
        listening() as second,
    ):
        told = follower(gateway)
        await told.open(first.resource(), ENGINE)
        await told.open(second.resource(), ENGINE)
        await second.event()
        request = ask_for("/x")
        await gateway.text(request)
        assert await second.types() == DIRECT
        reader, _ = first.taken.result()
        assert (await asyncio.wait_for(reader.read(), SECONDS)).count(b"event: ") == 1
        assert bodies_of(request) is not None
        assert bodies_of(request).request is None  # type: ignore[union-attr]


@pytest.mark.parametrize("expression", [None, "1 +"])
async def test_nobody_is_there(up: Upstream, expression: str | None) -> None:
    async with InProcess(config(route(up))) as gateway:
        told = follower(gateway)
        await told.open({"address": "test-nobody", "expression": expression}, ENGINE)
        assert gateway.gateway.exchange is Exchange


async def test_a_listener_that_does_not_read(up: Upstream) -> None:
    async with InProcess(config(route(up))) as gateway, listening() as listener:
        told = follower(gateway)
        await told.open(listener.resource(), ENGINE)
        headers = {"x": "y" * 30_000}
        # More than waits here and in the kernel; the requests do not mind.
        for _ in range(MAX_WAITING_BYTES // 30_000 * 2):
            assert (await gateway.text(ask_for("/x", headers=headers)))[0] == 200
        lost = 0
        while not lost:
            event = await listener.event()
            if event["type"] == "dropped":
                lost = event["count"]
            elif event["type"] == "requestFinished":
                # Room again, which the next event tells of.
                await gateway.text(ask_for("/x"))
        assert lost > 0
