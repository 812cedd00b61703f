"""Exchanges with their bodies on record: which have them, on the direct way and on the long one."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.config.problems import InvalidConfigError
from sidecar.gateway.exchange import Exchange
from sidecar.gateway.recorded import exchanges
from sidecar.gateway.surroundings import Telemetry
from sidecar.http.message import FixedBody, Request, Response
from sidecar.telemetry.bodies import Bodies, Recorder, Room, bodies_of
from tests.sidecar.gateway.test_direct import config, directly, route
from tests.support.compiled import InProcess, ask_for, snapshot_data
from tests.support.upstream import Answer, Seen, Upstream


def say(seen: Seen) -> Answer:
    return Answer(200, [], b"got " + seen.body)


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(say) as made:
        yield made


class Recording(InProcess):
    """With a recorder, as a configuration has whose expressions name both bodies."""

    room = Room()

    def _telemetry(self, *_: object) -> Telemetry:
        recorder = Recorder(8, self.room, wants_request=True, wants_response=True)
        return dataclasses.replace(super()._telemetry(), recorder=recorder)


def on_record(request: Request) -> tuple[object, object]:
    bodies = bodies_of(request)
    assert bodies is not None
    return tuple(  # type: ignore[return-value]
        None if one is None else (one.fate, one.fields()["bodyPrefix"])
        for one in (bodies.request, bodies.response)
    )


async def test_both_ways(up: Upstream) -> None:
    free = Recording.room.free_bytes
    async with Recording(config(route(up))) as gateway:
        request = ask_for("/x", "PUT", body=b"one")
        assert await directly(gateway, request) is None  # there is no connection yet
        assert await gateway.text(request) == (200, "got one")
        assert on_record(request) == (("whole", b"one"), ("whole", b"got one"))
        request = ask_for("/x", "PUT", body=b"three")
        assert await directly(gateway, request) == "got three"
        assert on_record(request) == (("whole", b"three"), ("truncated", b"got thre"))
        del request
        assert Recording.room.free_bytes == free


async def test_a_refusal(up: Upstream) -> None:
    keys = {"mode": "strict", "keys": [{"key": "sesame"}]}
    async with Recording(config(route(up, policies={"apiKey": keys}))) as gateway:
        for ask in (directly, long):
            request = ask_for("/x", "PUT", body=b"one")
            text = await ask(gateway, request)
            assert text is not None
            said = ("truncated", text.encode()[:8])
            assert on_record(request) == (("whole", b"one"), said)


async def long(gateway: InProcess, request: Request) -> str:
    return (await gateway.text(request))[1]


async def test_a_retry_is_recorded_once(up: Upstream) -> None:
    again = route(up, policies={"retry": {"attempts": 1, "codes": [200]}})
    async with Recording(config(again)) as gateway:
        request = ask_for("/x", "PUT", body=b"one")
        up.take()
        assert await gateway.text(request) == (200, "got one")
        assert len(up.take()) == 2
        assert on_record(request) == (("whole", b"one"), ("whole", b"got one"))


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_answers_without_a_body(method: str, status: int) -> None:
    async with Recording({}) as gateway:
        request = ask_for("/x", method)
        exchange = gateway.gateway.exchange(request, gateway)
        exchange.answer(Response(status, body=FixedBody(b"what the client does not get")))
        assert on_record(request) == (("whole", b""), ("whole", b""))
        exchange.finish_cancelled()


async def test_tunnels_have_no_bodies(up: Upstream) -> None:
    async with Recording(config(route(up))) as gateway:
        for method, upgrade in (("CONNECT", ""), ("GET", "websocket")):
            request = ask_for("/x", method)
            request.upgrade = upgrade
            exchange = gateway.gateway.exchange(request, gateway)
            response = Response(101)
            response.tunnel = object()  # type: ignore[assignment]
            exchange.answer(response)
            assert on_record(request) == (None, None)
            assert type(response.body) is FixedBody


async def test_without_such_an_expression_nothing_is_kept(up: Upstream) -> None:
    assert exchanges(None) is Exchange
    async with InProcess(config(route(up))) as gateway:
        assert gateway.gateway.exchange is Exchange
        request = ask_for("/x", "PUT", body=b"one")
        await gateway.text(request)
        assert bodies_of(request) is None


async def test_one_direction_alone() -> None:
    recorder = Recorder(8, Room(), wants_request=False, wants_response=True)
    async with InProcess({}) as gateway:
        request = ask_for("/x", "PUT", body=b"one")
        exchange = exchanges(recorder)(request, gateway)
        exchange.answer(Response(200, body=FixedBody(b"two")))
        assert on_record(request) == (None, ("whole", b"two"))
        exchange.finish_cancelled()
        await asyncio.sleep(0)
        assert isinstance(bodies_of(request), Bodies)


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({"randomSampling": "request.body.size() > 3"}, "randomSampling"),
        ({"clientSampling": "has(response.body)"}, "clientSampling"),
        ({"resources": {"x": "string(request.bodyPrefix)"}}, "resources.x"),
    ],
)
def test_what_is_decided_before_there_is_a_body(policy: dict[str, Any], path: str) -> None:
    tracing = {"host": "127.0.0.1:4317", **policy}
    with pytest.raises(InvalidConfigError, match=f"{path}: names a body"):
        snapshot_data({"frontendPolicies": {"tracing": tracing}})
