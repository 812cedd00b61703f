"""Messages of servers on their way to one client (mcp.streams)."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.jsonrpc import JsonRpcError
from sidecar.mcp.streams import Answering, Merged, Ready, close_one, opened
from sidecar.mcp.upstream.base import Inbound, Messages, Refused
from tests.support.turns import turn_until


class Failing:
    """A stream that ends so."""

    is_json = False
    retry_ms: int | None = None

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.is_closed = False

    async def next(self) -> Inbound | None:
        await asyncio.sleep(0)
        raise self.error

    def close(self) -> None:
        self.is_closed = True


def answer(identity: int) -> Messages:
    return Ready.of({"jsonrpc": "2.0", "id": identity, "result": {}})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JsonRpcError(-32000, "no", data={"why": 1}), -32000),
        (UpstreamError(502, "UpstreamFailure", "gone"), -32603),
        (Refused(500, Headers(), b""), -32603),
    ],
    ids=["rpc", "upstream", "refused"],
)
async def test_each_of_a_batch_is_answered(error: Exception, code: int) -> None:
    failing = Failing(error)
    merged = Merged([answer(1), Answering(failing, 2), answer(3)])
    found = {}
    async with asyncio.timeout(20):
        while (inbound := await merged.next()) is not None:
            found[inbound.message["id"]] = inbound.message
    assert set(found) == {1, 2, 3}
    assert found[2]["error"]["code"] == code
    assert failing.is_closed


async def test_a_task_that_fails_does_not_hang_its_reader() -> None:
    loop = asyncio.get_running_loop()
    told: list[BaseException | None] = []
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
    merged = Merged([Failing(ValueError("our own bug"))])
    async with asyncio.timeout(20):
        assert await merged.next() is None
    assert [type(one) for one in told] == [ValueError]


class Closing:
    """A stream that knows whether it was closed."""

    is_json = False
    retry_ms: int | None = None

    def __init__(self) -> None:
        self.is_closed = False

    async def next(self) -> Inbound | None:
        return None

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("is_left", [False, True])
async def test_what_nobody_will_read_is_closed(is_left: bool) -> None:
    """One server has answered when the client leaves, or another one fails."""
    given, late = Closing(), Closing()
    began, waits, fails = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def at_once() -> Messages | None:
        return given

    async def none() -> Messages | None:
        return None

    async def fail() -> Messages | None:
        await fails.wait()
        raise UpstreamError(502, "UpstreamFailure", "gone")

    async def stubborn() -> Messages | None:
        began.set()
        try:
            await waits.wait()
        except asyncio.CancelledError:
            # Its answer came in the turn in which it was given up.
            return late
        return None

    asking = asyncio.ensure_future(opened([at_once(), none(), fail(), stubborn()], close_one))
    await began.wait()
    if is_left:
        asking.cancel()
    else:
        fails.set()
    with pytest.raises(asyncio.CancelledError if is_left else UpstreamError):
        await asking
    await turn_until(lambda: given.is_closed and late.is_closed)


async def test_what_all_gave_is_kept() -> None:
    given = Closing()

    async def give() -> Messages | None:
        return given

    assert await opened([give(), give()], close_one) == [given, given]
    assert not given.is_closed
