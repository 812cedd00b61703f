"""Rate limits in a compiled gateway: which routes share a bucket, what a reload keeps, what an
exchange is charged however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.gateway.direct import REFUSAL, DirectCall
from sidecar.gateway.pipeline import Pipeline
from sidecar.http.message import Request, Response
from sidecar.net.outbox import Outbox
from tests.support.compiled import InProcess, ask_for
from tests.support.turns import turn_until
from tests.support.upstream import Answer, Seen, Upstream

HOUR = {"tokensPerFill": 1, "fillInterval": "1h"}
TOKENS = {"maxTokens": 10, "type": "tokens", **HOUR}


def script(seen: Seen) -> Answer:
    if seen.target == "/fail":
        return Answer(503, body=b"no")
    return Answer(200, [("x-tokens", "4")], b"hello")


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(script) as made:
        yield made


def limited(limit: int, **more: Any) -> dict[str, Any]:
    return {"localRateLimit": [{"maxTokens": limit, **HOUR}], **more}


def route(up: Upstream, path: str, **policies: Any) -> dict[str, Any]:
    return {
        "name": path.strip("/"),
        "matches": [{"path": {"pathPrefix": path}}],
        "policies": policies,
        "backends": [{"host": up.address}],
    }


def config(*routes: dict[str, Any], **document: Any) -> dict[str, Any]:
    return {"gateways": {"default": {"port": 8080}}, "routes": list(routes), **document}


async def admitted(gateway: InProcess, path: str, count: int, host: str = "h.test") -> int:
    statuses = [(await gateway.text(ask_for(path, host=host)))[0] for _ in range(count)]
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def levels(gateway: InProcess) -> list[int]:
    return sorted(row.level for row in gateway.rates.rows(gateway.clock.monotonic_ns()))


# --- which requests share a bucket --------------------------------------------------------------


async def test_each_route_has_its_own(up: Upstream) -> None:
    async with InProcess(config(route(up, "/a", **limited(2)), route(up, "/b", **limited(2)))) as g:
        assert await admitted(g, "/a", 4) == 2
        assert await admitted(g, "/b", 4) == 2


async def test_a_targeted_policy_is_one_for_all_its_routes(up: Upstream) -> None:
    target = {"gateway": {"gatewayName": "default", "gatewayNamespace": "default"}}
    policy = {
        "name": {"name": "p", "namespace": "default"},
        "target": target,
        "policy": limited(3),
    }
    document = config(route(up, "/a"), route(up, "/b"), policies=[policy])
    async with InProcess(document) as gateway:
        assert await admitted(gateway, "/a", 2) == 2
        assert await admitted(gateway, "/b", 4) == 1


async def test_a_route_on_several_listeners_has_one(up: Upstream) -> None:
    listeners = [{"name": "one", "hostname": "one.test"}, {"name": "two", "hostname": "two.test"}]
    # Other routes come first on one listener: the key of the route differs between the two.
    first = {**route(up, "/z"), "gateways": ["default/two"]}
    shared = {**route(up, "/a", **limited(3)), "gateways": ["default"]}
    del shared["name"]
    document = {
        "gateways": {"default": {"port": 8080, "listeners": listeners}},
        "routes": [first, shared],
    }
    async with InProcess(document) as gateway:
        assert await admitted(gateway, "/a", 2, "one.test") == 2
        assert await admitted(gateway, "/a", 4, "two.test") == 1


async def test_routes_of_a_group_share_the_limit_of_the_route_that_leads_to_it(
    up: Upstream,
) -> None:
    parent = {
        "policies": limited(3),
        "matches": [{"path": {"pathPrefix": "/"}}],
        "backends": [{"routeGroup": "g"}],
    }
    group = {"name": "g", "routes": [route(up, "/a"), route(up, "/b")]}
    async with InProcess(config(parent, routeGroups=[group])) as gateway:
        assert await admitted(gateway, "/a", 2) == 2
        assert await admitted(gateway, "/b", 4) == 1


# --- reload -------------------------------------------------------------------------------------


async def test_a_reload_of_another_route_keeps_the_bucket(up: Upstream) -> None:
    limit = route(up, "/a", **limited(3))
    async with InProcess(config(limit)) as gateway:
        assert await admitted(gateway, "/a", 2) == 2
        gateway.apply(config(limit, route(up, "/b", **limited(9))))
        assert await admitted(gateway, "/a", 4) == 1


async def test_a_reload_of_everything_keeps_the_bucket(up: Upstream) -> None:
    limit = route(up, "/a", **limited(3))
    async with InProcess(config(limit)) as gateway:
        assert await admitted(gateway, "/a", 2) == 2
        gateway.apply(config(limit, frontendPolicies={"http": {"maxBufferSize": 1000}}))
        assert await admitted(gateway, "/a", 4) == 1


async def test_a_limit_that_is_raised_adds_no_tokens_and_one_that_is_lowered_cuts(
    up: Upstream,
) -> None:
    async with InProcess(config(route(up, "/a", **limited(4)))) as gateway:
        assert await admitted(gateway, "/a", 1) == 1
        gateway.apply(config(route(up, "/a", **limited(9))))
        assert await admitted(gateway, "/a", 1) == 1
        gateway.apply(config(route(up, "/a", **limited(1))))
        assert await admitted(gateway, "/a", 4) == 1


# --- order --------------------------------------------------------------------------------------


async def test_whoever_is_refused_before_uses_nothing_up(up: Upstream) -> None:
    rules = {"rules": ['request.headers["x-team"] == "a"']}
    async with InProcess(config(route(up, "/a", **limited(1, authorization=rules)))) as gateway:
        for _ in range(3):
            assert (await gateway.text(ask_for("/a")))[0] == 403
        statuses = [
            (await gateway.text(ask_for("/a", headers={"x-team": "a"})))[0] for _ in range(2)
        ]
        assert statuses == [200, 429]


async def test_a_preflight_passes_and_a_refusal_can_be_read(up: Upstream) -> None:
    cors = {"allowOrigins": ["https://a.test"], "allowMethods": ["GET"]}
    async with InProcess(config(route(up, "/a", **limited(1, cors=cors)))) as gateway:
        assert await admitted(gateway, "/a", 1) == 1
        asked = {"origin": "https://a.test", "access-control-request-method": "GET"}
        assert (await gateway.text(ask_for("/a", "OPTIONS", asked)))[0] == 200
        refused = await gateway.ask(ask_for("/a", headers={"origin": "https://a.test"}))
        assert (refused.status, refused.reason) == (429, "RateLimit")
        assert refused.headers.get(b"access-control-allow-origin") == b"https://a.test"
        assert refused.on_done is not None
        refused.on_done(0, "")


async def test_further_attempts_cost_nothing(up: Upstream) -> None:
    policies = limited(5, retry={"attempts": 2, "codes": [503]})
    async with InProcess(config(route(up, "/fail", **policies))) as gateway:
        assert (await gateway.text(ask_for("/fail")))[0] == 503
        assert levels(gateway) == [4]


async def test_an_answer_of_the_gateway_carries_the_headers(up: Upstream) -> None:
    policies = limited(5, directResponse={"status": 200, "body": "x"})
    async with InProcess(config(route(up, "/a", **policies))) as gateway:
        response = await gateway.ask(ask_for("/a"))
        assert response.headers.get(b"x-ratelimit-remaining") == b"4"
        assert response.on_done is not None
        response.on_done(0, "")


# --- settlement ---------------------------------------------------------------------------------

BY_HEADER = {"localRateLimit": [{**TOKENS, "cost": 'int(response.headers["x-tokens"])'}]}


async def test_tokens_by_a_header_that_the_client_does_not_get(up: Upstream) -> None:
    hidden = {"responseHeaderModifier": {"remove": ["x-tokens"]}}
    async with InProcess(config(route(up, "/a", **BY_HEADER, **hidden))) as gateway:
        response = await gateway.ask(ask_for("/a"))
        assert not response.headers.has(b"x-tokens")
        assert levels(gateway) == [6]
        assert response.on_done is not None
        response.on_done(0, "cut")
        assert levels(gateway) == [6]
        assert await admitted(gateway, "/a", 4) == 2
        assert levels(gateway) == [-2]


async def test_usage_is_charged_when_the_response_ends(up: Upstream) -> None:
    async with InProcess(config(route(up, "/a", localRateLimit=[TOKENS]))) as gateway:
        request = ask_for("/a")
        response = await gateway.ask(request)
        request.state["llm"] = {"totalTokens": 7}
        assert levels(gateway) == [10]
        assert response.on_done is not None
        response.body.close()
        response.on_done(3, "client disconnected")
        assert levels(gateway) == [3]


async def test_usage_is_charged_when_the_client_leaves_before_the_response(up: Upstream) -> None:
    policies = {"localRateLimit": [TOKENS], "delay": {"duration": "1h"}}
    async with InProcess(config(route(up, "/a", **policies))) as gateway:
        request = ask_for("/a")
        task = asyncio.ensure_future(gateway.ask(request))
        await turn_until(lambda: request.endings)
        request.state["llm"] = {"totalTokens": 7}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert levels(gateway) == [3]
        assert not request.endings


async def test_usage_is_charged_when_the_backend_fails(up: Upstream) -> None:
    broken = {**route(up, "/a", localRateLimit=[TOKENS]), "backends": [{"host": "127.0.0.1:1"}]}
    async with InProcess(config(broken)) as gateway:
        request = ask_for("/a")
        request.state["llm"] = {"totalTokens": 7}
        assert (await gateway.text(request))[0] == 503
        assert levels(gateway) == [3]


async def test_an_ending_that_fails_keeps_nothing_from_its_end(
    up: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    async with InProcess(config(route(up, "/a", localRateLimit=[TOKENS]))) as gateway:
        request = ask_for("/a")

        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        request.endings = (broken,)
        request.state["llm"] = {"totalTokens": 7}
        assert (await gateway.text(request))[0] == 200
        assert levels(gateway) == [3]
        assert gateway.in_flight == 0
    assert "a policy failed at the end of a request" in caplog.text


# --- the direct way -----------------------------------------------------------------------------


class Direct:
    """What a front door does with requests that are wholly at hand."""

    def __init__(self, gateway: InProcess) -> None:
        outbox = Outbox(asyncio.get_running_loop())
        bind = next(iter(gateway.gateway.binds))
        self.pipeline = Pipeline(bind, gateway, gateway.random, outbox)
        self.replies: list[Response] = []
        self.agains = 0

    def start(self, request: Request) -> object:
        return self.pipeline.start(request, self.replies.append, self._again)

    def _again(self) -> None:
        self.agains += 1

    async def reply(self) -> tuple[int, bytes | None]:
        await turn_until(lambda: self.replies)
        response = self.replies.pop()
        while await response.body.read():
            continue
        assert response.on_done is not None
        response.on_done(0, "")
        return response.status, response.headers.get(b"x-ratelimit-remaining")


async def test_limits_of_requests_go_the_direct_way(up: Upstream) -> None:
    async with InProcess(config(route(up, "/a", **limited(3)))) as gateway:
        direct = Direct(gateway)
        assert (await gateway.text(ask_for("/a")))[0] == 200  # a connection to keep
        for left in (b"1", b"0"):
            assert isinstance(direct.start(ask_for("/a")), DirectCall)
            assert await direct.reply() == (200, left)
        assert direct.start(ask_for("/a")) is REFUSAL
        assert await direct.reply() == (429, b"0")
        assert gateway.in_flight == 0
        assert gateway.count("agentgateway_requests_total") == 4


async def test_a_request_that_leaves_the_direct_way_is_counted_once(up: Upstream) -> None:
    async with InProcess(config(route(up, "/a", **limited(2)))) as gateway:
        direct = Direct(gateway)
        request = ask_for("/a")
        assert direct.start(request) is None  # no connection is kept yet
        assert levels(gateway) == [1]
        response = await direct.pipeline(request)
        assert (response.status, response.headers.get(b"x-ratelimit-remaining")) == (200, b"1")
        assert levels(gateway) == [1]
        response.body.close()
        assert response.on_done is not None
        response.on_done(0, "")


async def test_tokens_are_settled_on_the_direct_way(up: Upstream) -> None:
    async with InProcess(config(route(up, "/a", localRateLimit=[TOKENS]))) as gateway:
        direct = Direct(gateway)
        assert (await gateway.text(ask_for("/a")))[0] == 200
        request = ask_for("/a")
        assert isinstance(direct.start(request), DirectCall)
        request.state["llm"] = {"totalTokens": 7}
        assert await direct.reply() == (200, b"10")
        assert levels(gateway) == [3]


async def test_a_client_that_leaves_the_direct_way_is_charged(up: Upstream) -> None:
    async with InProcess(config(route(up, "/a", localRateLimit=[TOKENS]))) as gateway:
        direct = Direct(gateway)
        assert (await gateway.text(ask_for("/a")))[0] == 200
        request = ask_for("/a")
        call = direct.start(request)
        assert isinstance(call, DirectCall)
        request.state["llm"] = {"totalTokens": 7}
        call.cancel()
        assert levels(gateway) == [3]
