"""networkExtAuthz: what is asked about a connection, and what is refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.message import Connection, Request, Response
from sidecar.policies.order import make
from tests.support.callouts import Service
from tests.support.clock import HeldClock
from tests.support.messages import response, services

DOWN = UpstreamError(503, "UpstreamFailure", "connection refused")
CLIENT = Connection("10.0.0.9", 4711, "10.0.0.1", 8080)


def payload(http: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"host": "a:1", "protocol": {"http": http or {}}, **more}


def gate(given: dict[str, Any], answer: Response | Exception | None = None) -> tuple[Any, Service]:
    def answered(asked: Request) -> Response:
        if isinstance(answer, Exception):
            raise answer
        return answer or response(200)

    service = Service(http=answered)
    around = replace(services(clock=HeldClock()), callouts=service)
    return make("networkExtAuthz", given, around), service


@pytest.mark.parametrize(
    ("status", "permits"), [(200, True), (204, True), (403, False), (302, False)]
)
async def test_only_2xx_lets_in(status: int, permits: bool) -> None:
    made, service = gate(payload(), response(status))
    assert await made.permits(CLIENT) is permits
    ((asked, body, _),) = service.requests
    assert (asked.method, asked.target, list(asked.headers), body) == ("GET", "/", [], b"")


@pytest.mark.parametrize(
    ("mode", "permits"), [("deny", False), ({"denyWithStatus": 503}, False), ("allow", True)]
)
async def test_a_service_that_fails(mode: Any, permits: bool) -> None:
    made, _ = gate(payload(failureMode=mode), DOWN)
    assert await made.permits(CLIENT) is permits


async def test_an_expression_that_fails_lets_nobody_in() -> None:
    made, service = gate(payload({"path": "source.identity.namespace"}, failureMode="allow"))
    assert not await made.permits(CLIENT)
    assert service.requests == []


async def test_a_flood_of_connections_is_bounded() -> None:
    made, service = gate(payload(failureMode="allow"))
    held = asyncio.Event()

    async def send(*_: object, **__: object) -> Response:
        await held.wait()
        return response(200)

    service.send = send  # type: ignore[method-assign]
    waiting = [asyncio.create_task(made.permits(CLIENT)) for _ in range(1024)]
    await asyncio.sleep(0)
    assert not await made.permits(CLIENT)
    held.set()
    assert all(await asyncio.gather(*waiting))
    assert await made.permits(CLIENT)


async def test_decisions_are_kept_by_what_is_known() -> None:
    made, service = gate(
        payload(
            {"metadata": {"end": "response.headers['x-end']"}},
            cache={"key": ["source.address"], "ttl": "duration(extauthz.end)"},
        ),
        response(200, {"x-end": "5s"}),
    )
    for _ in range(3):
        assert await made.permits(CLIENT)
    assert await made.permits(replace(CLIENT, peer_host="10.0.0.8"))
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"host": "a:1"}, "protocol"),
        (payload({"path": "request.path"}), "protocol.http.path"),
        (payload({"body": "jwt.sub"}), "protocol.http.body"),
        (payload({"redirect": "'/a'"}), "protocol.http.redirect"),
        (payload({"includeResponseHeaders": ["a"]}), "protocol.http.includeResponseHeaders"),
        (payload({"metadata": {"a": "request.path"}}), "protocol.http.metadata.a"),
        (
            payload({"addRequestHeaders": {"x": "request.host"}}),
            "protocol.http.addRequestHeaders.x",
        ),
        (payload(includeRequestHeaders=["a"]), "includeRequestHeaders"),
        (payload(includeRequestBody={}), "includeRequestBody"),
        (
            payload(cache={"key": ["source.address", "request.path"], "ttl": "1"}),
            "cache.key[1]",
        ),
        (payload(cache={"key": ["source.address"], "ttl": "request.path"}), "cache.ttl"),
    ],
    ids=str,
)
def test_what_needs_a_request_is_refused(given: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gate(given)
    assert caught.value.path == f"networkExtAuthz.{path}"
