"""When catalogues are fetched, and which of them stay."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.snapshot import Resource
from sidecar.errors import UpstreamError
from sidecar.gateway.price_feeds import PriceFeeds, repriced, sources_of, texts_of
from sidecar.llm.price_feed import Feed

URL = "https://prices.test/all.json?token=t0p"
SOURCE = {"url": URL, "refresh": 60.0, "inline": "{}"}


class Server:
    """What is at the URL, and how often it was asked for."""

    def __init__(self) -> None:
        self.text: str | None = "one"
        self.asked: list[str] = []
        self.now = 100.0
        self.counted: list[str] = []
        self.texts: dict[str, str] = {}
        self.feeds = PriceFeeds(self.texts, self.fetch, lambda: self.now, self.counted.append)

    def fetch(self, url: str, etag: str) -> Feed | None:
        assert url == URL
        self.asked.append(etag)
        if self.text is None:
            raise UpstreamError(502, "UpstreamFailure", "answered 500")
        return None if etag == self.text else Feed(self.text, self.text)

    async def look(self, after_seconds: float = 0) -> bool:
        self.now += after_seconds
        return await self.feeds.refresh([{"inline": "{}"}, SOURCE])


async def test_it_is_fetched_when_it_is_due() -> None:
    server = Server()
    assert await server.look()
    assert server.texts == {URL: "one"}
    assert not await server.look(59)
    assert server.asked == [""]
    assert not await server.look(1)
    assert server.asked == ["", "one"]
    server.text = "two"
    assert await server.look(60)
    assert server.texts == {URL: "two"}
    assert server.counted == ["changed", "unchanged", "changed"]


async def test_what_cannot_be_had_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    await server.look()
    server.text = None
    for seconds in (60, 15, 14, 1):
        assert not await server.look(seconds)
    assert server.counted == ["changed", "failed", "failed", "failed"]
    assert server.texts == {URL: "one"}
    # Said once, without what may be a secret.
    assert [one.message for one in caplog.records] == [
        "prices at https://prices.test/all.json: answered 500; trying again until they come"
    ]
    server.text = "two"
    assert await server.look(15)
    assert server.texts == {URL: "two"}


async def test_a_source_that_went_and_came_is_fetched_at_once() -> None:
    server = Server()
    await server.look()
    assert not await server.feeds.refresh([])
    del server.texts[URL]
    assert await server.look()


def test_resources() -> None:
    data: dict[str, Any] = {"sources": [{"inline": "{}"}, dict(SOURCE)]}
    before = {"catalog/prices": Resource.of("catalog", "prices", data)}
    assert texts_of(before) == {URL: "{}"}
    after = repriced(before, {URL: "new"})
    assert sources_of(after) == [{"inline": "{}"}, {**SOURCE, "inline": "new"}]
    assert after["catalog/prices"].digest != before["catalog/prices"].digest
    assert sources_of({}) == ()
    assert texts_of(before) == {URL: "{}"}
