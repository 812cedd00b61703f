"""Catalogues from web servers that are slow, wrong, or too generous."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest

from sidecar.errors import UpstreamError
from sidecar.llm import price_feed
from sidecar.llm.price_feed import Feed, fetch
from tests.support.upstream import Answer, Seen, Upstream

GOOD = b'{"providers":{"openai":{"models":{"m":{"rates":{"input":"1.5"}}}}}}'
LARGE = b" " * (price_feed.MAX_BYTES + 1)
ANSWERS = {
    "/good": Answer(200, [("etag", '"v1"')], GOOD),
    "/plain": Answer(200, [], GOOD),
    "/gzip": Answer(200, [("content-encoding", "gzip")], gzip.compress(GOOD)),
    "/moved": Answer(302, [("location", "/good")]),
    "/gone": Answer(404, [], GOOD),
    "/html": Answer(200, [], b"<html>"),
    "/wrong": Answer(200, [], b'{"providers":{"openai":{"models":{"m":{"rates":{"input":-1}}}}}}'),
    "/latin": Answer(200, [], b'{"providers":{"\xe9":{}}}'),
    "/bomb": Answer(200, [("content-encoding", "gzip")], gzip.compress(LARGE)),
    "/drop": Answer(drop=True),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    def serve(seen: Seen) -> Answer:
        if seen.get("if-none-match") == '"v1"':
            return Answer(304)
        return ANSWERS[seen.target]

    with Upstream(serve) as made:
        yield made


@pytest.mark.parametrize(("path", "etag"), [("/good", '"v1"'), ("/plain", ""), ("/gzip", "")])
def test_a_catalogue(server: Upstream, path: str, etag: str) -> None:
    assert fetch(f"http://{server.address}{path}") == Feed(GOOD.decode(), etag)


def test_one_that_is_known_already(server: Upstream) -> None:
    assert fetch(f"http://{server.address}/good", '"v1"') is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/moved", "answered 302"),
        ("/gone", "answered 404"),
        ("/html", "not JSON"),
        ("/wrong", "a decimal number as text expected"),
        ("/latin", "not UTF-8"),
        ("/bomb", "too large"),
        ("/drop", "RemoteProtocolError"),
    ],
)
def test_what_is_none(server: Upstream, path: str, reason: str) -> None:
    with pytest.raises(UpstreamError, match=reason):
        fetch(f"http://{server.address}{path}")


def test_a_server_that_trickles(server: Upstream) -> None:
    with pytest.raises(UpstreamError, match=r"takes too long|Timeout"):
        fetch(f"http://{server.address}/good", seconds=1e-6)
