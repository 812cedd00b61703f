"""Keys that are fetched: when, how often, what a failure does, who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies.callouts import ANSWER_BYTES, Nowhere
from sidecar.policies.jwks import MAX_BYTES
from sidecar.policies.kept import KeptKeys
from sidecar.policies.remote_keys import RemoteKeys, kept_keys, reachable
from tests.support.clock import HeldClock
from tests.support.issuer import jwk, jwks

URL = "https://idp.example/keys"


class Provider:
    """What answers in the place of an identity provider, one answer after the other."""

    label = "idp"

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []
        self.limit = 0
        self.held: asyncio.Event | None = None

    async def send(
        self, request: Request, timeout_seconds: float, limit_bytes: int = ANSWER_BYTES
    ) -> Response:
        self.asked.append(request)
        self.limit = limit_bytes
        if self.held is not None:
            await self.held.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def unary(self, *_: object, **__: object) -> bytes:
        raise AssertionError

    def unary_later(self, *_: object) -> bool:
        raise AssertionError


def answer(body: str, status: int = 200, **headers: str) -> Response:
    fields = Headers((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items())
    return Response(status, fields, FixedBody(body.encode()))


DOWN = UpstreamError(503, "UpstreamFailure", "connection refused")
SET = jwks("p256")
OTHER = jwks("p384")


class Background:
    """Runs what is started, and waits for it."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.is_full = False

    def start(self, make: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        if self.is_full:
            return False
        self.tasks.append(asyncio.get_running_loop().create_task(make()))
        return True

    async def settle(self) -> None:
        while self.tasks:
            await self.tasks.pop()


class Setting:
    def __init__(self, *answers: Response | Exception) -> None:
        self.clock = HeldClock()
        self.background = Background()
        self.provider = Provider(*answers)
        self.keys = RemoteKeys(URL, "/keys", self.provider, self.clock, self.background.start)

    def kids(self) -> list[str] | None:
        return None if self.keys.current is None else list(self.keys.current)

    def due_in(self) -> float:
        """Seconds until the timer goes off."""
        timer = self.keys._timer
        assert timer is not None
        return round(timer.when() - asyncio.get_running_loop().time())

    async def again(self, *answers: Response | Exception) -> None:
        """What the timer does."""
        self.provider.answers += answers
        self.keys.fetch()
        await self.background.settle()


async def test_fetched_at_once_and_again() -> None:
    made = Setting(answer(SET))
    assert made.kids() is None
    await made.background.settle()
    assert made.kids() == ["p256"]
    assert made.due_in() == 900
    (asked,) = made.provider.asked
    assert (asked.method, asked.target) == ("GET", "/keys")
    assert asked.headers.get(b"accept-encoding") == b"identity"
    assert made.provider.limit == MAX_BYTES
    await made.again(answer(OTHER))
    assert made.kids() == ["p384"]
    made.keys.close()


async def test_the_same_octets_are_the_same_set() -> None:
    made = Setting(answer(SET))
    await made.background.settle()
    first = made.keys.current
    await made.again(answer(SET))
    assert made.keys.current is first
    made.keys.close()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("max-age=3600", 3600),
        ("public, Max-Age=3600, must-revalidate", 3600),
        ("max-age=5", 60),
        ("max-age=0", 60),
        ("max-age=999999999", 86400),
        ("max-age=99999999999999999999", 86400),
        ("s-maxage=5", 900),
        ("no-store", 60),
        ("no-cache, max-age=600", 60),
        ("nonsense", 900),
    ],
)
async def test_freshness(value: str, seconds: int) -> None:
    made = Setting(answer(SET, cache_control=value))
    await made.background.settle()
    assert made.due_in() == seconds
    made.keys.close()


@pytest.mark.parametrize(
    "failure",
    [
        DOWN,
        UpstreamError(502, "UpstreamFailure", "larger than 262144 bytes"),
        answer(SET, 500),
        answer(SET, 302, location="https://evil.example/"),
        answer(SET, 206),
        answer("<html>"),
        answer('{"keys":[]}'),
        answer('{"keys":[{"kty":"oct","kid":"k","k":"AA"}]}'),
        answer(SET, content_encoding="gzip"),
    ],
)
async def test_a_failure_changes_nothing(failure: Response | Exception) -> None:
    made = Setting(answer(SET))
    await made.background.settle()
    first = made.keys.current
    await made.again(failure)
    assert made.keys.current is first
    assert made.due_in() == 15
    await made.again(answer(OTHER))
    assert made.kids() == ["p384"]
    made.keys.close()


async def test_keys_of_yesterday_are_dropped() -> None:
    made = Setting(answer(SET))
    await made.background.settle()
    made.clock.pass_seconds(86_399)
    await made.again(DOWN)
    assert made.kids() == ["p256"]
    made.clock.pass_seconds(2)
    await made.again(DOWN)
    assert made.kids() is None
    await made.again(answer(SET))
    assert made.kids() == ["p256"]
    made.keys.close()


async def test_unknown_keys_bring_few_fetches() -> None:
    made = Setting(answer(SET), answer(OTHER), answer(OTHER))
    await made.background.settle()
    for _ in range(100):
        if made.keys.is_worth_waiting():
            await made.keys.wait()
    assert len(made.provider.asked) == 2
    assert made.kids() == ["p384"]
    made.clock.pass_seconds(31)
    assert made.keys.is_worth_waiting()
    await made.keys.wait()
    assert len(made.provider.asked) == 3
    made.keys.close()


async def test_without_keys_requests_ask_once_a_second() -> None:
    made = Setting(DOWN, DOWN, answer(SET))
    await made.background.settle()
    assert not made.keys.is_worth_waiting()
    made.clock.pass_seconds(1)
    assert made.keys.is_worth_waiting()
    await made.keys.wait()
    assert not made.keys.is_worth_waiting()
    made.clock.pass_seconds(1)
    assert made.keys.is_worth_waiting()
    await made.keys.wait()
    assert made.kids() == ["p256"]
    made.keys.close()


async def test_many_wait_for_one_fetch() -> None:
    made = Setting(answer(SET))
    made.provider.held = asyncio.Event()
    waiting = [asyncio.ensure_future(made.keys.wait()) for _ in range(50)]
    await asyncio.sleep(0)
    assert made.keys.is_worth_waiting()
    assert not any(one.done() for one in waiting)
    made.provider.held.set()
    await asyncio.gather(*waiting)
    assert len(made.provider.asked) == 1
    made.keys.close()


async def test_a_background_that_is_full() -> None:
    clock, background, provider = HeldClock(), Background(), Provider(answer(SET))
    background.is_full = True
    keys = RemoteKeys(URL, "/keys", provider, clock, background.start)
    assert provider.asked == []
    assert not keys.is_worth_waiting()
    background.is_full = False
    clock.pass_seconds(1)
    assert keys.is_worth_waiting()
    await keys.wait()
    assert keys.current is not None
    keys.close()


async def test_kept_over_compilations() -> None:
    background = Background()
    kept = KeptKeys(background.start)
    first, second = Provider(answer(SET)), Provider(answer(OTHER))
    clock = HeldClock()
    kept.begin_round()
    keys = kept_keys(kept, URL, "/keys", first, clock)
    kept.end_round()
    await background.settle()
    kept.begin_round()
    assert kept_keys(kept, URL, "/keys", second, clock) is keys
    kept.end_round()
    assert second.asked == []
    keys.fetch()
    await background.settle()
    assert len(second.asked) == 1
    kept.begin_round()
    kept.end_round()
    assert (
        kept_keys(kept, URL, "/keys", Provider(answer(jwks(jwk("p256", "new")))), clock) is not keys
    )
    keys.fetch()
    await background.settle()
    assert len(second.asked) == 1
    kept.close()


@pytest.mark.parametrize(
    "url",
    [
        *("", "idp.example/keys", "ftp://idp.example/", "https:///keys", "https://[::1/keys"),
        *("https://ada:pw@idp.example/", "https://idp.example/#x", "https://idp.example/a b"),
        "https://idp.example/é",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reachable(url, Nowhere())
    assert caught.value.path == "url"
    assert "pw" not in caught.value.message


def test_the_query_stays() -> None:
    assert reachable("https://idp.example?a=b", Nowhere())[0] == "/?a=b"
    assert reachable("http://127.0.0.1:81/x?a=b", Nowhere())[0] == "/x?a=b"
