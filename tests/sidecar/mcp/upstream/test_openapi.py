"""Tests of sidecar.mcp.upstream.openapi and openapi_source."""

from __future__ import annotations

import asyncio
import gc
import gzip
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import pytest

from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.mcp.openapi.toolbox import Toolbox, toolbox
from sidecar.mcp.upstream import openapi, openapi_source
from sidecar.mcp.upstream.base import Held, Outbound
from sidecar.mcp.upstream.openapi import OpenApiTarget
from sidecar.mcp.upstream.openapi_source import FixedSource, RemoteSource, Sources
from tests.support.clock import HeldClock
from tests.support.mcp_http import Exchange, Script, drained, http_server, outbound
from tests.support.openapi_documents import pets

MANY = {
    "openapi": "3.1.0",
    "paths": {f"/p{n}": {"get": {"operationId": f"t{n}"}} for n in range(600)},
}
GET = {"name": "get_pets_by_id", "arguments": {"path": {"id": "1"}}}
PET = orjson.dumps({"name": "Rex", "id": 1})


class Nowhere:
    async def __call__(self, *_: object) -> Any:
        raise UpstreamError(503, "UpstreamFailure", "connect refused", sent=False)


def target(document: dict[str, Any], send: Any = None) -> OpenApiTarget:
    return OpenApiTarget("api", send or Nowhere(), "api.example:8080", fixed(document))


def fixed(document: dict[str, Any]) -> FixedSource:
    return FixedSource(lambda: toolbox(document))


async def answer(made: OpenApiTarget, asking: Outbound) -> dict[str, Any]:
    answered = await made.request(asking)
    assert answered.messages.is_json
    (message,) = await drained(answered.messages)
    assert message["id"] == asking.message["id"]
    return message


async def called(script: Script, asking: Outbound | None = None) -> dict[str, Any]:
    async with http_server(script) as sender:
        asking = asking or outbound("tools/call", GET)
        return (await answer(target(pets(), sender), asking))["result"]  # type: ignore[no-any-return]


async def test_pages_of_a_long_list() -> None:
    made = target(MANY)
    names: list[str] = []
    cursor: dict[str, Any] = {}
    for size in (250, 250, 100):
        result = (await answer(made, outbound("tools/list", cursor)))["result"]
        assert len(result["tools"]) == size
        names += [tool["name"] for tool in result["tools"]]
        cursor = {"cursor": result.get("nextCursor")}
    assert cursor == {"cursor": None}
    assert names == [f"t{n}" for n in range(600)]


@pytest.mark.parametrize("cursor", ["", "0", "3", "-1", "x", "²", "9" * 400, 250, ["250"]])
async def test_a_cursor_of_its_own_making_alone(cursor: Any) -> None:
    found = await answer(target(MANY), outbound("tools/list", {"cursor": cursor}))
    assert found["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("asked", "told"),
    [("2025-06-18", "2025-06-18"), ("2031-01-01", "2025-11-25"), (7, "2025-11-25")],
)
async def test_initialize_says_which_version_is_held(asked: Any, told: str) -> None:
    answered = await target(pets()).request(outbound("initialize", {"protocolVersion": asked}))
    (message,) = await drained(answered.messages)
    assert message["result"]["protocolVersion"] == told
    assert answered.held == Held("", told)


async def test_it_says_nothing_by_itself() -> None:
    made = target(pets())
    assert await made.listen(outbound(), b"") is None
    await made.send(outbound("notifications/initialized", id=None))
    await made.end(outbound())
    answered = await made.request(outbound("subscriptions/listen", {}, era="modern", id="s"))
    first = await answered.messages.next()
    assert first is not None
    assert first.message["method"] == "notifications/subscriptions/acknowledged"
    assert first.message["params"]["notifications"] == {}
    waiting = asyncio.ensure_future(answered.messages.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    answered.messages.close()
    assert await waiting is None


async def test_a_modern_client_pings_in_vain() -> None:
    found = await answer(target(pets()), outbound("ping", era="modern"))
    assert found["error"]["code"] == -32601


async def test_what_is_sent() -> None:
    seen: list[Exchange] = []

    async def script(exchange: Exchange) -> None:
        seen.append(exchange)
        await exchange.whole(200, orjson.loads(PET))

    passed = [
        (b"authorization", b"Bearer passed"),
        (b"x-team", b"blue"),
        (b"x-api-key", b"mine"),
        (b"cookie", b"a=b"),
        (b"origin", b"https://app.example"),
        (b"sec-fetch-mode", b"cors"),
        (b"mcp-param-x", b"1"),
        (b"accept-encoding", b"br"),
        (b"content-type", b"application/json"),
    ]
    result = await called(script, outbound("tools/call", GET, headers=Headers(passed)))
    assert result["structuredContent"] == {"name": "Rex", "id": 1}
    assert (seen[0].method, seen[0].target) == ("GET", "/v1/pets/1")
    wanted = {"accept", "accept-encoding", "authorization", "host", "x-team"}
    assert set(seen[0].headers) - {"content-length"} == wanted
    assert seen[0].headers["host"] == "api.example:8080"
    assert seen[0].headers["accept-encoding"] == "identity"


async def test_a_compressed_answer_is_read() -> None:
    async def script(exchange: Exchange) -> None:
        body = gzip.compress(PET)
        await exchange.whole(200, body, content_type="application/json", content_encoding="gzip")

    assert (await called(script))["structuredContent"] == {"name": "Rex", "id": 1}


async def test_a_compressed_answer_has_its_bounds() -> None:
    async def script(exchange: Exchange) -> None:
        body = gzip.compress(b"0" * 4_500_000)
        await exchange.whole(200, body, content_type="application/json", content_encoding="gzip")

    with pytest.raises(UpstreamError) as caught:
        await called(script)
    assert caught.value.status == 502


async def test_an_answer_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi, "END_SECONDS", 0.2)

    async def script(exchange: Exchange) -> None:
        await exchange.head(200, content_type="application/json")
        await exchange.chunk(b"{")
        await exchange.gone.wait()

    with pytest.raises(UpstreamError, match=r"did not end its answer in 0\.2 s") as caught:
        await called(script)
    assert caught.value.status == 504


async def test_an_answer_that_breaks_off() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head(200, content_type="application/json")
        await exchange.chunk(b"{")
        exchange.cut()

    with pytest.raises(UpstreamError):
        await called(script)


async def test_who_leaves_ends_the_call() -> None:
    begun = asyncio.Event()
    left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        begun.set()
        await exchange.gone.wait()
        left.set()

    async with http_server(script) as sender:
        task = asyncio.ensure_future(target(pets(), sender).request(outbound("tools/call", GET)))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(left.wait(), 20)


async def test_a_document_that_became_bad_fails_the_server() -> None:
    with pytest.raises(UpstreamError, match="Swagger"):
        await target({"swagger": "2.0"}).request(outbound("tools/list"))


# --- documents that are fetched -----------------------------------------------------------------


class Library:
    """Where a document is fetched from, and the worker that fetches."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        self.raw = b"first"
        self.headers = Headers()
        self.failure: UpstreamError | None = None
        self.made: list[bytes] = []
        self.fetches = 0
        self.is_busy = False
        self.tasks: list[asyncio.Task[None]] = []
        self.source = RemoteSource("http://x", self.fetch, self.make, self.clock, self.later)

    async def fetch(self) -> tuple[Headers, bytes]:
        self.fetches += 1
        if self.failure is not None:
            raise self.failure
        return self.headers, self.raw

    def make(self, raw: bytes) -> Toolbox:
        self.made.append(raw)
        if raw == b"bad":
            raise ConfigError("", "OpenAPI document, #: bad")
        info = {"title": raw.decode(), "version": "1"}
        return toolbox({"openapi": "3.1.0", "info": info})

    def later(self, make: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        if not self.is_busy:
            self.tasks.append(asyncio.get_running_loop().create_task(make()))
        return not self.is_busy

    async def title(self) -> str:
        """Of what is current, when all fetches have ended."""
        found = (await self.source.toolbox()).title
        await asyncio.gather(*self.tasks)
        return found

    def pass_seconds(self, seconds: int) -> None:
        self.clock.pass_seconds(seconds)


async def test_a_document_is_fetched_at_once_and_then_daily() -> None:
    library = Library()
    assert await library.title() == "first"
    library.raw = b"second"
    library.pass_seconds(24 * 3600 - 1)
    assert await library.title() == "first"
    assert library.fetches == 1
    library.pass_seconds(1)
    # Whoever asks first gets what there was: nobody waits for a refresh.
    assert await library.title() == "first"
    assert await library.title() == "second"
    assert library.fetches == 2


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (b"max-age=3600", 3600),
        (b"public, max-age=5", 60),
        (b"no-store", 60),
        (b"no-cache", 60),
        (b"private", 24 * 3600),
    ],
)
async def test_the_answer_says_how_long_it_is_good(said: bytes, seconds: int) -> None:
    library = Library()
    library.headers = Headers([(b"cache-control", said)])
    await library.title()
    library.pass_seconds(seconds - 1)
    await library.title()
    assert library.fetches == 1
    library.pass_seconds(1)
    await library.title()
    assert library.fetches == 2
    assert library.made == [b"first"], "the same octets are not read twice"


@pytest.mark.parametrize("is_bad", [False, True])
async def test_a_failure_keeps_the_last_good_one(is_bad: bool) -> None:
    library = Library()
    await library.title()
    library.pass_seconds(24 * 3600)
    if is_bad:
        library.raw = b"bad"
    else:
        library.failure = UpstreamError(502, "UpstreamFailure", "down")
    assert await library.title() == await library.title() == "first"
    assert library.fetches == 2
    library.pass_seconds(15)
    library.raw, library.failure = b"second", None
    await library.title()
    assert (await library.title(), library.fetches) == ("second", 3)


async def test_without_a_document_there_are_no_tools_for_a_while() -> None:
    library = Library()
    library.failure = UpstreamError(502, "UpstreamFailure", "status 500")
    for _ in range(3):
        with pytest.raises(UpstreamError, match="http://x cannot be had: status 500") as caught:
            await library.source.toolbox()
        assert (caught.value.status, caught.value.sent) == (503, False)
    assert library.fetches == 1
    library.failure = None
    library.pass_seconds(1)
    assert await library.title() == "first"


async def test_a_fetch_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi_source, "FETCH_SECONDS", 0.1)
    library = Library()

    async def fetch() -> Any:
        await asyncio.Event().wait()

    library.source.fetch_by(fetch)
    with pytest.raises(UpstreamError, match=r"no answer within 0\.1 s"):
        await library.source.toolbox()
    await asyncio.gather(*library.tasks)


async def test_too_much_under_way() -> None:
    library = Library()
    await library.title()
    library.is_busy = True
    library.pass_seconds(24 * 3600)
    assert await library.title() == "first"
    library.is_busy = False
    library.pass_seconds(1)
    await library.title()
    assert library.fetches == 2


async def test_many_who_ask_share_one_fetch() -> None:
    library = Library()
    found = await asyncio.gather(*(library.source.toolbox() for _ in range(20)))
    assert len(set(map(id, found))) == 1
    assert (library.fetches, len(library.made)) == (1, 1)


async def test_sources_are_shared_while_they_are_used() -> None:
    sources, library = Sources(), Library()
    one = sources.fixed(b"a", lambda: toolbox(pets()))
    assert sources.fixed(b"a", lambda: toolbox({})) is one
    args = (b"b", "http://x", library.fetch, library.make, library.clock, library.later)
    far = sources.remote(*args)
    assert sources.remote(*args) is far
    assert await one.toolbox() is await one.toolbox()
    await asyncio.gather(*library.tasks)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
