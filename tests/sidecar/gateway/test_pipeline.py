"""The pipeline in one process: order, limits, and what becomes of a request that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.errors import ClientDisconnected, RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody
from tests.support.compiled import InProcess, ask_for
from tests.support.turns import turn_until
from tests.support.upstream import Answer, Seen, Upstream


def script(seen: Seen) -> Answer:
    if seen.target.startswith("/fail") and seen.get("x-retry-attempt") is None:
        return Answer(503, body=b"first")
    return Answer(200, [("x-up", seen.get("x-attempt-header") or "")], seen.body or b"hello")


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(script) as made:
        yield made


def config(up: Upstream, *routes: dict[str, Any], **listener: Any) -> dict[str, Any]:
    made = [{"backends": [{"host": up.address}], **route} for route in routes or ({},)]
    return {"binds": [{"port": 8080, "listeners": [{"routes": made, **listener}]}]}


async def test_plain(up: Upstream) -> None:
    async with InProcess(config(up)) as gateway:
        assert await gateway.text(ask_for("/x")) == (200, "hello")
        assert gateway.in_flight == 0
        assert gateway.count("agentgateway_requests_total") == 1


async def test_more_than_the_worker_takes(up: Upstream) -> None:
    async with InProcess(config(up)) as gateway:
        gateway.max_in_flight = 1
        held = await gateway.ask(ask_for())
        refused = await gateway.ask(ask_for())
        assert (refused.status, refused.headers.get(b"retry-after")) == (503, b"1")
        for response in (held, refused):
            assert response.on_done is not None
            response.body.close()
            response.on_done(0, "")
        assert gateway.in_flight == 0
        assert (await gateway.text(ask_for()))[0] == 200


async def test_connect_is_denied(up: Upstream) -> None:
    async with InProcess(config(up)) as gateway:
        assert await gateway.text(ask_for("h:1", "CONNECT")) == (405, "method not allowed")


async def test_an_unknown_bind_is_not_found(up: Upstream) -> None:
    async with InProcess(config(up)) as gateway:
        assert await gateway.text(ask_for(), "bind/1") == (404, "bind not found")


async def test_a_cancelled_request_is_counted_and_gone(up: Upstream) -> None:
    slow = {"policies": {"delay": {"duration": "1h"}}}
    async with InProcess(config(up, slow)) as gateway:
        task = asyncio.ensure_future(gateway.ask(ask_for()))
        await turn_until(lambda: gateway.in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gateway.in_flight == 0
        assert gateway.count("agentgateway_requests_total") == 1


async def test_each_attempt_begins_from_the_same_request(up: Upstream) -> None:
    """What the backend's policies changed in one attempt is not there in the next."""
    add = {"requestHeaderModifier": {"add": {"x-added": "1"}}}
    route = {
        "matches": [{"path": {"pathPrefix": "/fail"}}],
        "policies": {"retry": {"attempts": 1, "codes": [503]}},
        "backends": [{"host": up.address, "policies": add}],
    }
    async with InProcess(config(up, route)) as gateway:
        up.take()
        assert await gateway.text(ask_for("/fail", "POST", body=b"data")) == (200, "data")
    first, second = up.take()
    assert first.get_all("x-added") == second.get_all("x-added") == ["1"]
    assert (first.get("x-retry-attempt"), second.get("x-retry-attempt")) == (None, "1")


async def test_mirrors_are_handed_to_the_worker(up: Upstream) -> None:
    mirror = {"requestMirror": {"backend": {"host": up.address}, "percentage": 1.0}}
    async with InProcess(config(up, {"policies": mirror})) as gateway:
        await gateway.text(ask_for("/m"))
        assert [request.target for request in gateway.mirrored] == ["/m"]


async def test_queued_headers_come_last_and_once(up: Upstream) -> None:
    async with InProcess(config(up)) as gateway:
        request = ask_for(headers={"x-attempt-header": "upstream"})
        request.response_headers.append((b"x-up", b"queued"))
        response = await gateway.ask(request)
        assert response.headers.get_all(b"x-up") == [b"queued"]
        assert response.on_done is not None
        response.body.close()
        response.on_done(0, "")


class BrokenBody:
    """A request body whose sender breaks off."""

    length: int | None = None
    trailers: Headers | None = None

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read_nowait(self) -> bytes | None:
        raise self._error

    async def read(self) -> bytes:
        raise self._error

    def close(self) -> None:
        """Nobody listens."""


@pytest.mark.parametrize(
    ("error", "status"),
    [(RequestError(400, "InvalidRequest", "bad framing"), 400), (RuntimeError("bug"), 500)],
)
async def test_a_body_that_cannot_be_read(error: Exception, status: int, up: Upstream) -> None:
    policies = {"transformations": {"request": {"set": {"x": "string(request.body)"}}}}
    async with InProcess(config(up, {"policies": policies})) as gateway:
        up.take()
        request = ask_for("/", "POST")
        request.body = BrokenBody(error)
        assert (await gateway.text(request))[0] == status
        assert up.take() == []


async def test_too_large_for_an_expression_is_a_refusal(up: Upstream) -> None:
    """A body past the limit is a denial, not an absent body (design section 8)."""
    policies = {"authorization": {"rules": [{"deny": 'request.body.contains("evil")'}]}}
    document = {
        **config(up, {"policies": policies}),
        "frontendPolicies": {"http": {"maxBufferSize": 10}},
    }
    async with InProcess(document) as gateway:
        up.take()
        status, _ = await gateway.text(ask_for("/", "POST", body=b"0123456789 evil"))
        assert status == 413
        assert up.take() == []


async def test_response_policies_run_on_local_errors() -> None:
    modify = {"responseHeaderModifier": {"set": {"x-policy": "ran"}}}
    route = {"policies": modify, "backends": []}
    document = {"binds": [{"port": 8080, "listeners": [{"routes": [route]}]}]}
    async with InProcess(document) as gateway:
        response = await gateway.ask(ask_for())
        assert response.status == 500
        assert response.headers.get(b"x-policy") == b"ran"


async def test_a_client_that_left_is_no_error_of_ours(
    up: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    async with InProcess(config(up)) as gateway:
        request = ask_for("/", "POST")
        request.body = BrokenBody(ClientDisconnected("gone"))
        response = await gateway.ask(request)
        assert response.status >= 400
        assert response.on_done is not None
        response.on_done(0, "gone")
        assert gateway.in_flight == 0
    assert caplog.records == []


async def test_timeout_of_one_attempt(up: Upstream) -> None:
    release = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    route = {
        "policies": {"timeout": {"backendRequestTimeout": "50ms"}},
        "backends": [{"host": f"127.0.0.1:{port}"}],
    }
    async with server, InProcess(config(up, route)) as gateway:
        assert await gateway.text(ask_for()) == (504, "upstream call timeout")
        release.set()


async def test_delegation_keeps_its_choice(up: Upstream) -> None:
    """The draw that chose between host and group is not drawn again."""
    inner = {"policies": {"directResponse": {"status": 200, "body": "group"}}}
    for draw, text in ((0.0, "hello"), (0.99, "group")):
        document = config(up, {"backends": [{"host": up.address}, {"routeGroup": "g"}]}) | {
            "routeGroups": [{"name": "g", "routes": [inner]}]
        }
        async with InProcess(document, draw=draw) as gateway:
            assert await gateway.text(ask_for()) == (200, text)


async def test_a_body_at_hand_is_not_consumed_by_a_policy(up: Upstream) -> None:
    policies = {"transformations": {"request": {"set": {"x-len": "string(size(request.body))"}}}}
    async with InProcess(config(up, {"policies": policies})) as gateway:
        up.take()
        request = ask_for("/", "POST", body=b"abc")
        assert type(request.body) is FixedBody
        assert await gateway.text(request) == (200, "abc")
        assert up.take()[0].get("x-len") == "3"
