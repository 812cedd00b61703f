"""Decisions of an authorization service that are kept: for whom, how long, and how many.

Source: spec/config.md section 3.8.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from sidecar.errors import RequestError
from sidecar.http.message import Request
from tests.support.authorizers import DOWN, GRPC, Grpc, Plain, by_http, cached, policy
from tests.support.callouts import Service
from tests.support.clock import HeldClock
from tests.support.ext_authz import Answer
from tests.support.messages import request, response

SECOND = 1_000_000_000


def keyed(key: str | None = "k", target: str = "/") -> Request:
    return request("GET", target, {} if key is None else {"x-key": key})


async def test_a_decision_is_kept_for_its_time():
    clock = HeldClock()
    service = Grpc(Answer(set=[("x-user", "ann")], metadata={"a": 1}))
    made = policy(cached(GRPC), service, clock=clock)
    for _ in range(3):
        one = keyed()
        assert await made.on_request(one) is None
        assert one.headers.get(b"x-user") == b"ann"
        assert one.state["extauthz"] == {"a": 1}
    assert len(service.messages) == 1
    await made.on_request(keyed("other"))
    assert len(service.messages) == 2
    await made.on_request(keyed(None))
    await made.on_request(keyed(None))
    assert len(service.messages) == 4
    clock.pass_seconds(10)
    await made.on_request(keyed())
    assert len(service.messages) == 5


async def test_one_request_renews_a_decision_before_its_end():
    clock = HeldClock()
    service = Grpc()
    made = policy(cached(GRPC), service, clock=clock)
    await made.on_request(keyed())
    clock.pass_seconds(9)
    service.answer = DOWN
    # The one that asks fails, and what was decided still holds; nobody else asks.
    for _ in range(3):
        assert await made.on_request(keyed()) is None
    assert len(service.messages) == 2
    clock.pass_seconds(1)
    with pytest.raises(RequestError):
        await made.on_request(keyed())


class Held(Service):
    """A service that answers when the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: asyncio.Queue[Answer | Exception] = asyncio.Queue()

    async def unary(self, path: str, message: bytes, *_: object, **__: object) -> bytes:
        self.messages.append(message)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer.encoded()


async def test_requests_of_one_key_ask_once():
    service = Held()
    made = policy(cached(GRPC), service)
    asking = [asyncio.create_task(made.on_request(keyed())) for _ in range(5)]
    await asyncio.sleep(0)
    service.answers.put_nowait(Answer())
    assert await asyncio.gather(*asking) == [None] * 5
    assert len(service.messages) == 1


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_who_waits_for_a_call_that_fails_asks_itself(is_cancelled):
    service = Held()
    made = policy(cached(GRPC), service)
    first = asyncio.create_task(made.on_request(keyed()))
    await asyncio.sleep(0)
    second = asyncio.create_task(made.on_request(keyed()))
    await asyncio.sleep(0)
    if is_cancelled:
        first.cancel()
    else:
        service.answers.put_nowait(DOWN)
    with pytest.raises((RequestError, asyncio.CancelledError)):
        await first
    service.answers.put_nowait(Answer())
    assert await second is None
    assert len(service.messages) == 2


async def test_kinds_of_values_are_told_apart():
    service = Grpc()
    payload = {
        **GRPC,
        "cache": {"key": ["json(request.headers['x-key'])"], "ttl": "duration('1h')"},
    }
    made = policy(payload, service)
    for key in ("1", '"1"', "true", '"true"', "[1]", '"[1]"', "1"):
        await made.on_request(keyed(key))
    assert len(service.messages) == 6


async def test_denials_are_kept_as_far_as_they_decide():
    for status, calls in ((401, 1), (403, 1), (500, 2), (404, 2), (429, 2)):
        service = Plain(response(status, {}, b"x"))
        made = policy(cached(by_http()), service)
        for _ in range(2):
            got = await made.on_request(keyed())
            assert (got.status, await got.body.read()) == (status, b"x")
        assert len(service.requests) == calls, status


async def test_a_redirect_is_told_anew_for_each_request():
    service = Plain(response(401))
    made = policy(cached(by_http(redirect="'/login?rd=' + request.path")), service)
    for path in ("/a", "/b"):
        got = await made.on_request(keyed("k", path))
        assert got.headers.get(b"location") == f"/login?rd={path}".encode()
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        ("duration('5s')", 5),
        ("timestamp('1970-01-01T00:01:05Z')", 65),
        ("extauthz.expires - 5", 95),
        ("response.headers['x-ttl'] == '7' ? duration('7s') : duration('0s')", 7),
        ("0", 0),
        ("duration('-5s')", 0),
        ("'5s'", 0),
        ("true", 0),
        ("request.headers['nope']", 0),
    ],
)
async def test_how_long_a_decision_is_kept(ttl, seconds):
    clock = HeldClock(-1_700_000_000 * SECOND)
    service = Plain(response(200, {"x-ttl": "7"}, b'{"exp": 100}'))
    payload = cached(by_http(metadata={"expires": "json(response.body).exp"}), ttl)
    made = policy(payload, service, clock=clock)
    await made.on_request(keyed())
    clock.pass_seconds(max(seconds - 6, 0))
    await made.on_request(keyed())
    early = 2 if seconds <= 0 else 1
    assert len(service.requests) == early
    clock.pass_seconds(7)
    await made.on_request(keyed())
    assert len(service.requests) == early + 1


async def test_the_cache_has_a_bound():
    service = Grpc()
    made = policy(cached(GRPC, maxEntries=2), service)
    for key in ("a", "b", "a", "c", "a"):
        await made.on_request(keyed(key))
    assert len(service.messages) == 3
    await made.on_request(keyed("b"))
    assert len(service.messages) == 4
    none = policy(cached(GRPC, maxEntries=0), service)
    for _ in range(2):
        await none.on_request(keyed())
    assert len(service.messages) == 6


async def test_what_the_cache_keeps_has_a_bound_in_octets():
    large = Plain(response(403, body=bytes(1 << 20)))
    made = policy(cached(by_http()), large)

    async def judged(key: str) -> int:
        with contextlib.suppress(RequestError):
            await made.on_request(keyed(key))
        return len(large.requests)

    # Sixteen megabytes are kept, so that the first is gone by the time when all have come.
    for number in range(17):
        assert await judged(f"k{number}") == number + 1
    assert await judged("k16") == 17
    assert await judged("k0") == 18
    # Keys count as well: a client may make them long.
    small = Plain()
    made = policy(cached(by_http()), small)
    for number in range(20):
        await made.on_request(keyed(f"{number}" + "k" * (1 << 20)))
    await made.on_request(keyed("0" + "k" * (1 << 20)))
    assert len(small.requests) == 21
