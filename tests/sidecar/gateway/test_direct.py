"""The direct way: what it takes, what it remembers of a request line, and what it must not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.gateway.pipeline import Pipeline
from sidecar.gateway.plan import Bind
from sidecar.http.message import Request, Response
from sidecar.net.outbox import Outbox
from tests.support.compiled import InProcess, ask_for
from tests.support.upstream import Answer, Seen, Upstream

BIND = "bind/8080"


def echo(seen: Seen) -> Answer:
    return Answer(200, [], f"{seen.method} {seen.target} {seen.get('host')}".encode())


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(echo) as made:
        yield made


def route(up: Upstream, **more: Any) -> dict[str, Any]:
    return {"backends": [{"host": up.address}], **more}


def config(*routes: dict[str, Any]) -> dict[str, Any]:
    return {"binds": [{"port": 8080, "listeners": [{"routes": list(routes)}]}]}


async def directly(gateway: InProcess, request: Request) -> str | None:
    """The body of the direct answer, None when the request has to go the long way."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Response] = loop.create_future()
    pipeline = Pipeline(BIND, gateway, gateway.random, Outbox(loop))

    def again() -> None:
        answered.set_exception(AssertionError("the kept connection was stale"))

    if pipeline.start(request, answered.set_result, again) is None:
        return None
    response = await asyncio.wait_for(answered, 20)
    body = await response.body.read()
    assert response.on_done is not None
    response.on_done(len(body), "")
    assert gateway.in_flight == 0
    return body.decode()


def bind_of(gateway: InProcess) -> Bind:
    return gateway.gateway.binds[BIND]


async def test_a_line_that_comes_again(up: Upstream) -> None:
    async with InProcess(config(route(up))) as gateway:
        assert await directly(gateway, ask_for("/x")) is None  # there is no connection yet
        await gateway.text(ask_for("/x"))
        first = bind_of(gateway).known(ask_for("/x"))
        assert first is not None
        for _ in range(2):
            request = ask_for("/x")
            assert await directly(gateway, request) == "GET /x h.test"
            assert (request.route, request.state["path"]) == (first.route, "/x")
            assert request.state["route_match"] == ("prefix", "/")
        assert bind_of(gateway).known(ask_for("/x")) is first
        assert gateway.count("agentgateway_requests_total") == 3


async def test_methods_and_hosts_are_told_apart(up: Upstream) -> None:
    routes = (
        route(up, name="a", matches=[{"path": {"exact": "/x"}, "method": "PUT"}]),
        route(up, name="b", hostnames=["b.test"]),
        route(up, name="c"),
    )
    async with InProcess(config(*routes)) as gateway:
        await gateway.text(ask_for("/x"))
        for method, host, name in (
            ("GET", "h.test", "default/c"),
            ("PUT", "h.test", "default/a"),
            ("GET", "b.test", "default/b"),
            ("GET", "h.test", "default/c"),
        ):
            request = ask_for("/x", method, host=host)
            assert await directly(gateway, request) == f"{method} /x {host}"
            assert getattr(request.route, "route", "") == name


async def test_what_looks_at_headers_is_asked_each_time(up: Upstream) -> None:
    marked = [{"path": {"pathPrefix": "/"}, "headers": [{"name": "x-to", "value": {"exact": "a"}}]}]
    routes = (route(up, name="a", matches=marked), route(up, name="b"))
    async with InProcess(config(*routes)) as gateway:
        await gateway.text(ask_for("/x"))
        for headers, name in (({}, "b"), ({"x-to": "a"}, "a"), ({}, "b")):
            request = ask_for("/x", headers=headers)
            assert await directly(gateway, request) == "GET /x h.test"
            assert getattr(request.route, "route", "") == f"default/{name}"
        assert bind_of(gateway).known(ask_for("/x")) is None


@pytest.mark.parametrize("target", ["/x?key=secret", "/" + "x" * 300])
async def test_lines_not_kept(target: str, up: Upstream) -> None:
    async with InProcess(config(route(up))) as gateway:
        await gateway.text(ask_for("/x"))
        assert await directly(gateway, ask_for(target)) == f"GET {target} h.test"
        assert bind_of(gateway).known(ask_for(target)) is None


async def test_dot_segments_are_resolved_every_time(up: Upstream) -> None:
    async with InProcess(config(route(up))) as gateway:
        await gateway.text(ask_for("/x"))
        for _ in range(2):
            request = ask_for("/a/../b")
            assert await directly(gateway, request) == "GET /b h.test"
            assert (request.target, request.state["path"]) == ("/b", "/b")


async def test_a_request_without_a_host(up: Upstream) -> None:
    async with InProcess(config(route(up))) as gateway:
        await gateway.text(ask_for("/x"))
        for _ in range(2):
            request = ask_for("/x", host="")
            assert await directly(gateway, request) == f"GET /x {up.address}"
            assert request.authority == ""


async def test_a_reload_forgets(up: Upstream) -> None:
    exact = [{"path": {"exact": "/x"}}]
    async with InProcess(config(route(up, name="a"))) as gateway:
        await gateway.text(ask_for("/x"))
        assert await directly(gateway, ask_for("/x")) == "GET /x h.test"
        gateway.apply(config(route(up, name="a"), route(up, name="b", matches=exact)))
        request = ask_for("/x")
        assert await directly(gateway, request) == "GET /x h.test"
        assert getattr(request.route, "route", "") == "default/b"
        denied = {"name": "b", "matches": exact, "policies": {"directResponse": {"status": 403}}}
        gateway.apply(config(route(up, name="a"), denied))
        assert await directly(gateway, ask_for("/x")) is None


async def test_few_lines_are_kept(up: Upstream) -> None:
    async with InProcess(config(route(up))) as gateway:
        await gateway.text(ask_for("/x"))
        assert await directly(gateway, ask_for("/0")) is not None
        choice = bind_of(gateway).known(ask_for("/0"))
        assert choice is not None
        for number in range(1, 1024):
            bind_of(gateway).remember(ask_for(f"/{number}"), choice)
        assert bind_of(gateway).known(ask_for("/0")) is choice
        bind_of(gateway).remember(ask_for("/more"), choice)
        assert bind_of(gateway).known(ask_for("/0")) is None
        assert bind_of(gateway).known(ask_for("/more")) is choice
