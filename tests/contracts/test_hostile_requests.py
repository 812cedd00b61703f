"""Requests that want a header, a target or a place of their choice out of what policies compute.

Source: spec/hardening.md cases 36 to 40.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.http.message import Response
from tests.support.compiled import InProcess, ask_for
from tests.support.upstream import Answer, Seen, Upstream

GIVEN = 'url.decode(request.headers["x-v"])'
"""What the client wants, in the hands of an expression that trusts it."""
VALUES = {
    "line end": "a%0d%0ainjected:%201",
    "line feed": "a%0ainjected:%201",
    "carriage return": "a%0dinjected:%201",
    "nul": "a%00b",
    "blank line": "a%0d%0a%0d%0aGET%20/evil%20HTTP/1.1",
    "folded": "a%0d%0a%20b",
    "escape": "a%1b%5b31m",
    "delete": "a%7fb",
    "empty": "",
    "blanks": "%20%20",
    "two requests": "/x%20HTTP/1.1%0d%0ahost:%20evil.test%0d%0a%0d%0a",
    "blank within": "/x%20y",
    "fragment": "/x%23y",
    "other host": "//evil.test/x",
    "absolute": "http://evil.test/x",
    "up": "/../../x",
    "user": "user@evil.test",
    "port": "evil.test:99999",
    "two hosts": "a.test,evil.test",
    "long": "a" * 5000,
    "no text": "%ff%fe",
}


def change(name: str) -> dict[str, Any]:
    return {"transformations": {"request": {"set": {name: GIVEN}}}}


REQUESTS: dict[str, dict[str, Any]] = {
    "header": change("x-made"),
    "added header": {"transformations": {"request": {"add": {"x-made": GIVEN}}}},
    "path": change(":path"),
    "method": change(":method"),
    "authority": change(":authority"),
    "all headers": {"transformations": {"request": {"replace": f'{{"x-made": {GIVEN}}}'}}},
    "name": {"transformations": {"request": {"replace": f'{{{GIVEN}: "1"}}'}}},
}
RESPONSES: dict[str, dict[str, Any]] = {
    "header": {"transformations": {"response": {"set": {"x-made": GIVEN}}}},
    "status": {"transformations": {"response": {"set": {":status": GIVEN}}}},
    "cookie": {"transformations": {"response": {"add": {"set-cookie": f'"a=" + {GIVEN}'}}}},
    "own answer": {
        "directResponse": {"status": 200, "headers": {"x-made": GIVEN, "location": GIVEN}}
    },
}


def echo(seen: Seen) -> Answer:
    return Answer(200, [("x-up", "1")], b"served")


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(echo) as made:
        yield made


def config(up: Upstream, policies: dict[str, Any], **match: Any) -> dict[str, Any]:
    route = {"policies": policies, "backends": [{"host": up.address}], **match}
    return {"binds": [{"port": 8080, "listeners": [{"routes": [route]}]}]}


def is_clean(text: str) -> bool:
    return not any(ord(letter) < 32 or ord(letter) == 127 for letter in text)


async def ended(response: Response) -> Response:
    while await response.body.read():
        pass
    assert response.on_done is not None
    response.on_done(0, "")
    return response


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", REQUESTS)
async def test_what_reaches_the_backend(place: str, value: str, up: Upstream) -> None:
    up.take()
    async with InProcess(config(up, REQUESTS[place])) as gateway:
        response = await ended(await gateway.ask(ask_for("/a", headers={"x-v": VALUES[value]})))
    assert response.status in (200, 400, 500, 502, 503)
    seen = up.take()
    assert len(seen) == (response.status == 200)
    for one in seen:
        assert one.get("injected") is None
        assert one.target.startswith("/")
        assert is_clean(one.target)
        assert " " not in one.target
        assert all(is_clean(text) for pair in one.headers for text in pair)
        assert len(one.get_all("host")) == 1
        if place != "authority":
            assert one.get("host") in ("h.test", up.address)


async def test_what_is_harmless_gets_there(up: Upstream) -> None:
    """The expressions above do give what the client wants."""
    headers = {"x-v": "/b%2Bc"}
    for place, name in (("header", "x-made"), ("path", "")):
        up.take()
        async with InProcess(config(up, REQUESTS[place])) as gateway:
            assert (await gateway.text(ask_for("/a", headers=headers)))[0] == 200
        (seen,) = up.take()
        assert (seen.get(name) if name else seen.target) == "/b+c"
    async with InProcess(config(up, RESPONSES["own answer"])) as gateway:
        response = await ended(await gateway.ask(ask_for("/a", headers=headers)))
    assert response.headers.get(b"x-made") == b"/b+c"


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", RESPONSES)
async def test_what_reaches_the_client(place: str, value: str, up: Upstream) -> None:
    async with InProcess(config(up, RESPONSES[place])) as gateway:
        response = await ended(await gateway.ask(ask_for("/a", headers={"x-v": VALUES[value]})))
    assert 200 <= response.status <= 599
    assert response.headers.get(b"injected") is None
    for name, content in response.headers:
        assert is_clean(name.decode("latin-1"))
        assert is_clean(content.decode("latin-1"))


TARGETS = [
    *("/old//evil.test", "/old//evil.test/%2f..", "/old/%2f%2fevil.test", "/old/..//evil.test"),
    *("/old/%5cevil.test", "/old/\\evil.test", "/old/.//evil.test", "/old@evil.test", "/old:80/x"),
    *("/old/%0d%0alocation:%20http://evil.test", "/old?x=//evil.test", "//evil.test/old"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("to", ["/", "/new"])
async def test_redirects_lead_to_the_host_that_was_configured(
    target: str, to: str, up: Upstream
) -> None:
    match = {"matches": [{"path": {"pathPrefix": "/old"}}]}
    policies = {"requestRedirect": {"path": {"prefix": to}}}
    async with InProcess(config(up, policies, **match)) as gateway:
        response = await ended(await gateway.ask(ask_for(target)))
    location = response.headers.get(b"location")
    if location is None:
        assert response.status in (400, 404)
        return
    assert location.startswith(b"http://h.test/")
    assert is_clean(location.decode())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("to", ["/", "/new"])
async def test_rewrites_stay_paths(target: str, to: str, up: Upstream) -> None:
    up.take()
    match = {"matches": [{"path": {"pathPrefix": "/old"}}]}
    policies = {"urlRewrite": {"path": {"prefix": to}}}
    async with InProcess(config(up, policies, **match)) as gateway:
        response = await ended(await gateway.ask(ask_for(target)))
    seen = up.take()
    assert len(seen) == (response.status == 200)
    for one in seen:
        assert one.target.startswith(to)
        assert is_clean(one.target)
        assert one.get("host") == "h.test"
