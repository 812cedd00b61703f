"""A policy that fails as nobody foresaw: 500, counted, and nothing reaches the backend.

Whatever the kind, the phase and the way: in a task, and directly from a connection's callbacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.gateway.pipeline import Pipeline
from sidecar.http.message import Response
from sidecar.net.outbox import Outbox
from sidecar.policies import order
from sidecar.policies.chain import Hook, hook_of
from sidecar.policies.order import KINDS, REQUEST_ORDER, RESERVED, RESPONSE_ORDER, make
from tests.contracts.test_policies import SAMPLES
from tests.support.compiled import InProcess, ask_for
from tests.support.messages import services
from tests.support.upstream import Upstream

PLACES = [
    (phase, key)
    for phase, keys in REQUEST_ORDER.items()
    for key in keys
    # The picker's backend is a service; its requests are in test_inference_routing.
    if key not in (RESERVED, "inferenceRouting")
]
ANSWERS = [
    place
    for place in RESPONSE_ORDER
    # The samples of these count nothing and have nothing to do with an answer.
    if place[1] not in ("inferenceRouting", "localRateLimit", "budgets", "remoteRateLimit")
]


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream() as made:
        yield made


def broken(monkeypatch: pytest.MonkeyPatch, key: str, *hooks: str) -> None:
    """From now on, these hooks of the kind raise."""
    kind = type(make(key, _sample(key, "route"), services()))

    def fail(*_: object) -> None:
        raise RuntimeError("a secret nobody thought of")

    async def fail_later(*_: object) -> None:
        fail()

    def hook_or_fault(policy: object, name: str) -> Hook | None:
        hook = hook_of(policy, name)
        if hook is None or type(policy) is not kind or name not in hooks:
            return hook
        return fail_later if hook[1] else fail, hook[1]

    monkeypatch.setattr(order, "hook_of", hook_or_fault)


def _sample(key: str, phase: str) -> Any:
    if key == "directResponse":
        return {"status": 204}
    if key == "transformations" and phase == "backend":
        return {"request": {"remove": ["x-gone"]}, "response": {"set": {"x-team": "'b'"}}}
    return SAMPLES[key]


def config(up: Upstream, phase: str, key: str) -> dict[str, Any]:
    policies = {key: _sample(key, phase)}
    backend: dict[str, Any] = {"host": up.address}
    route: dict[str, Any] = {"backends": [backend]}
    listener: dict[str, Any] = {"routes": [route]}
    {"gateway": listener, "route": route, "backend": backend}[phase]["policies"] = policies
    return {"binds": [{"port": 8080, "listeners": [listener]}]}


@pytest.mark.parametrize(("phase", "key"), PLACES, ids=lambda one: str(one))
async def test_on_a_request(
    phase: str, key: str, up: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, key, "on_request", "guard")
    async with InProcess(config(up, phase, key)) as gateway:
        assert await gateway.text(ask_for(headers={"x-team": "a"})) == (500, "internal error")
        assert gateway.count("agentgateway_requests_total") == 1
        assert gateway.in_flight == 0
    assert up.take() == []


GUARDS = [key for key, kind in KINDS.items() if key in REQUEST_ORDER["route"]]


@pytest.mark.parametrize("key", GUARDS)
async def test_on_the_direct_way(key: str, up: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either it takes nothing, or it fails like the other; the connection has an answer."""
    config_of = config(up, "route", key)
    # Another route makes the connection that the direct way needs.
    (listener,) = config_of["binds"][0]["listeners"]
    listener["routes"][0]["matches"] = [{"path": {"exact": "/judged"}}]
    listener["routes"].append({"name": "open", "backends": [{"host": up.address}]})
    broken(monkeypatch, key, "on_request", "guard")
    async with InProcess(config_of) as gateway:
        assert (await gateway.text(ask_for("/open")))[0] == 200
        up.take()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Response | None] = loop.create_future()
        pipeline = Pipeline("bind/8080", gateway, gateway.random, Outbox(loop))
        request = ask_for("/judged", headers={"x-team": "a"})
        # The first of a line goes the long way, which remembers its route.
        for _ in range(2):
            begun = pipeline.start(request, answered.set_result, lambda: answered.set_result(None))
            if begun is not None:
                break
            assert await gateway.text(request) == (500, "internal error")
        else:
            assert up.take() == []
            return
        response = await asyncio.wait_for(answered, 20)
        if response is None:
            response = await pipeline(request)
        assert response.status == 500
        response.body.close()
        assert response.on_done is not None
        response.on_done(0, "")
        assert gateway.in_flight == 0
    assert up.take() == []


@pytest.mark.parametrize(("phase", "key"), ANSWERS, ids=lambda one: str(one))
async def test_on_an_answer(
    phase: str, key: str, up: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not changed as it should be is not shown."""
    broken(monkeypatch, key, "on_response")
    async with InProcess(config(up, phase, key)) as gateway:
        status, text = await gateway.text(ask_for("/shown", headers={"x-team": "a"}))
        assert (status, text) == (500, "internal error")
        assert gateway.count("agentgateway_requests_total") == 1
    up.take()
