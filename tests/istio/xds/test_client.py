"""The client over grpc.aio against an istiod that keeps the protocol, and one that does not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from istio.endpoint import Endpoint
from istio.errors import ResourceError
from istio.xds.client import Settings, Subscription, XdsClient
from istio.xds.delta import Node
from istio.xds.node import node_of
from tests.support.authority import Authority
from tests.support.cut import Cut
from tests.support.istiod import PATIENCE_SECONDS, Heard, Istiod

# grpc.aio's one queue wakes the loops it was used in, so no test may leave it a closed one.
pytestmark = pytest.mark.asyncio(loop_scope="session")

A, B = "type.googleapis.com/test.A", "type.googleapis.com/test.B"
NODE = Node("agentgateway~1.2.3.4~pod.ns~ns.svc.cluster.local", {"NAMESPACE": "ns"})


class Waits:
    """A clock that does not wait, and says how long it would have."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0.001)


class Consumer:
    """Holds what was applied; refuses resources that say `bad`."""

    def __init__(self, type_url: str = A) -> None:
        self.held: dict[str, bytes] = {}
        self.type_url = type_url
        self.changed = asyncio.Condition()
        self.calls = 0

    def decode(self, payload: bytes) -> bytes:
        if payload == b"undecodable":
            raise ResourceError("it cannot be decoded")
        if payload == b"bug":
            raise KeyError("bug")
        return payload

    async def apply(self, updates: Mapping[str, Any], removed: Sequence[str]) -> Mapping[str, str]:
        for name in removed:
            self.held.pop(name, None)
        refused = {name: "it is bad" for name, value in updates.items() if value == b"bad"}
        self.held.update({name: updates[name] for name in updates if name not in refused})
        self.calls += 1
        async with self.changed:
            self.changed.notify_all()
        return refused

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(condition)

    @property
    def subscription(self) -> Subscription:
        return Subscription(self.type_url, self.decode, self.apply)


@pytest.fixture
def istiod() -> Iterator[Istiod]:
    with Istiod() as one:
        yield one


@asynccontextmanager
async def running(
    endpoint: Endpoint, *consumers: Consumer, settings: Settings | None = None
) -> AsyncIterator[tuple[XdsClient, Waits]]:
    waits = Waits()
    client = XdsClient(
        endpoint,
        NODE,
        [one.subscription for one in consumers],
        settings=settings,
        clock=waits,
    )
    task = asyncio.create_task(client.run())
    try:
        yield client, waits
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ready(client: XdsClient) -> None:
    await asyncio.wait_for(client.wait_ready(), PATIENCE_SECONDS)


def acknowledged_by(stream: int) -> Callable[[Heard], bool]:
    """The client has said all that it has to say: gRPC hides how a stream ended under a write."""
    return lambda one: one.stream == stream and not one.is_first


async def off(call: Callable[..., Any], *arguments: Any) -> Any:
    """What blocks, beside the event loop."""
    return await asyncio.to_thread(call, *arguments)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - of what has no event, as counts
            await asyncio.sleep(0.002)


async def test_initial_load_changes_and_removals(istiod: Istiod) -> None:
    istiod.put(A, {"x": b"1", "y": b"2"})
    a, b = Consumer(A), Consumer(B)
    async with running(Endpoint(istiod.address), a, b) as (client, _):
        await ready(client)
        assert a.held == {"x": b"1", "y": b"2"}
        istiod.put(A, {"y": b"3", "z": b"4"})
        await a.wait(lambda: "z" in a.held)
        istiod.remove(A, "x")
        await a.wait(lambda: "x" not in a.held)
        assert a.held == {"y": b"3", "z": b"4"}
        await off(istiod.wait, lambda one: not one.is_first and one.request.type_url == A, 3)
        assert not any(one.is_nack for one in istiod.heard)
        state = client.dump()
        assert (state["connected"], state["connects"], state["failures"]) == (True, 1, 0)
        assert state["types"][A] == {
            "held": 2,
            "responses": 3,
            "resources": 4,
            "removals": 1,
            "nacks": 0,
            "refused": {},
        }
    first = istiod.heard[0].request
    assert first.node.id == NODE.id
    assert dict(first.node.metadata) == {"NAMESPACE": "ns"}


async def test_not_ready_before_every_type_came(istiod: Istiod) -> None:
    istiod.is_silent = True
    a = Consumer(A)
    async with running(Endpoint(istiod.address), a) as (client, _):
        await off(istiod.wait, lambda one: one.is_first)
        assert not client.is_ready
        assert client.pending() == (A,)
        istiod.is_silent = False
        istiod.resend(A)
        istiod.put(A, {"x": b"1"})
        await ready(client)
        assert client.pending() == ()


async def test_metadata_and_a_token_read_anew_for_each_stream(
    istiod: Istiod, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    istiod.token = "first"
    endpoint = Endpoint(
        istiod.address,
        token_file=str(token),
        cluster_id="c1",
        headers=(("x-extra", "1"),),
    )
    a = Consumer()
    async with running(endpoint, a) as (client, _):
        await ready(client)
        metadata = istiod.heard[0].metadata
        assert metadata["authorization"] == "Bearer first"
        assert (metadata["clusterid"], metadata["x-extra"]) == ("c1", "1")
        istiod.token = "second"
        istiod.end_streams()
        await until(lambda: "UNAUTHENTICATED" in (client.stats.last_error or ""))
        assert "the token is not accepted" in str(client.stats.last_error)
        assert "first" not in str(client.dump())
        token.write_text("second")
        await off(istiod.wait, lambda one: one.metadata["authorization"] == "Bearer second")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot read the token file"), ("", "no token"), ("a\nb", "no token")],
)
async def test_no_token_no_stream(
    istiod: Istiod, tmp_path: Path, content: str | None, reason: str
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_text(content)
    async with running(Endpoint(istiod.address, token_file=str(token)), Consumer()) as (client, _):
        await until(lambda: client.stats.last_error is not None)
        assert reason in str(client.stats.last_error)
    assert istiod.streams == 0


async def test_bad_resources_are_named_and_the_others_applied(istiod: Istiod) -> None:
    istiod.put(A, {"good": b"1", "b1": b"bad", "b2": b"undecodable", "b3": b"bug"})
    a = Consumer()
    async with running(Endpoint(istiod.address), a) as (client, _):
        await ready(client)
        (nack,) = await off(istiod.wait, lambda one: one.is_nack)
        text = nack.request.error_detail.message
        for part in ("b1: it is bad", "b2: it cannot be decoded", "b3: internal error"):
            assert part in text
        assert a.held == {"good": b"1"}
        assert dict(client.versions(A)).keys() == {"good"}
        istiod.put(A, {"b1": b"2", "b2": b"2", "b3": b"2"})
        await a.wait(lambda: len(a.held) == 4)


async def test_a_nack_loop_keeps_what_is_good(istiod: Istiod) -> None:
    istiod.on_nack = "resend"
    istiod.put(A, {"good": b"1", "b": b"bad"})
    a = Consumer()
    async with running(Endpoint(istiod.address), a) as (client, _):
        await off(istiod.wait, lambda one: one.is_nack, 5)
        assert a.held == {"good": b"1"}
        assert client.is_ready
        istiod.put(A, {"b": b"2"})
        await a.wait(lambda: a.held.get("b") == b"2")
        assert client.stats.connects == 1


async def test_resent_resources_change_nothing(istiod: Istiod) -> None:
    istiod.put(A, {"x": b"1"})
    a = Consumer()
    async with running(Endpoint(istiod.address), a) as (client, _):
        await ready(client)
        istiod.resend(A)
        await a.wait(lambda: a.calls == 2)
        assert a.held == {"x": b"1"}
        assert dict(client.versions(A)) == istiod.versions(A)


async def test_a_reconnect_tells_what_is_held_and_learns_the_difference(istiod: Istiod) -> None:
    istiod.put(A, {"x": b"1", "y": b"1", "bad": b"bad"})
    a = Consumer()
    async with running(Endpoint(istiod.address), a) as (client, _):
        await ready(client)
        held = dict(client.versions(A))
        await off(istiod.stop)
        istiod.remove(A, "y")
        istiod.put(A, {"x": b"2"})
        await off(istiod.start)
        await a.wait(lambda: a.held == {"x": b"2"})
        again = [one for one in istiod.heard if one.is_first][-1].request
        assert dict(again.initial_resource_versions) == held
        assert held.keys() == {"x", "y"}
        assert client.is_ready


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED])
async def test_graceful_ends_do_not_lengthen_the_wait(
    istiod: Istiod, code: grpc.StatusCode
) -> None:
    async with running(Endpoint(istiod.address), Consumer()) as (client, waits):
        for number in range(1, 4):
            await off(istiod.wait, acknowledged_by(number))
            istiod.end_streams(code)
        await off(istiod.wait_streams, 4)
        assert waits.seconds[:3] == [0.010] * 3
        assert client.stats.failures == 0


async def test_failures_double_the_wait_and_a_message_ends_that(istiod: Istiod) -> None:
    istiod.token = "wanted"
    async with running(Endpoint(istiod.address), Consumer()) as (client, waits):
        await until(lambda: len(waits.seconds) >= 13)
        assert waits.seconds[:6] == [0.010, 0.020, 0.040, 0.080, 0.160, 0.320]
        assert max(waits.seconds) == 15.0
        istiod.token = None
        await ready(client)
        istiod.end_streams(grpc.StatusCode.INTERNAL, "oops")
        await until(lambda: client.stats.last_error is not None)
        await until(lambda: waits.seconds[-1] == 0.010)


async def test_octets_that_are_no_response_end_the_stream(istiod: Istiod) -> None:
    istiod.put(A, {"x": b"1"})
    a = Consumer()
    async with running(Endpoint(istiod.address), a) as (client, _):
        await ready(client)
        istiod.send_raw(b"\xff\xff\xff")
        await off(istiod.wait_streams, 2)
        istiod.put(A, {"x": b"2"})
        await a.wait(lambda: a.held == {"x": b"2"})
        assert client.stats.failures == 1


async def test_a_connection_that_drops_in_mid_message(istiod: Istiod) -> None:
    content = {f"name{number}": bytes(1000) for number in range(200)}
    istiod.put(A, content)
    a = Consumer()
    with Cut(istiod.port, after_bytes=50_000) as cut:
        async with running(Endpoint(f"http://127.0.0.1:{cut.port}"), a) as (client, _):
            await ready(client)
            assert a.held == content
            assert (cut.cuts, a.calls) == (1, 1)
            assert client.stats.connects >= 2


async def test_nobody_there(istiod: Istiod) -> None:
    istiod.stop()
    async with running(Endpoint(istiod.address), Consumer()) as (client, _):
        await until(lambda: client.stats.failures > 0)
        assert "UNAVAILABLE" in str(client.stats.last_error)
        await off(istiod.start)
        await ready(client)
        assert client.stats.last_error is None


async def test_an_istiod_that_says_nothing_at_first_is_left(istiod: Istiod) -> None:
    istiod.is_silent = True
    settings = Settings(first_response_seconds=0.05, look_seconds=0.02)
    async with running(Endpoint(istiod.address), Consumer(), settings=settings) as (client, _):
        await off(istiod.wait_streams, 2)
        await until(lambda: "sends nothing of" in (client.stats.last_error or ""))


async def test_a_peer_that_takes_the_connection_and_hangs() -> None:
    settings = Settings(connect_seconds=0.05)
    # The kernel takes connections that nobody accepts.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}")
        async with running(endpoint, Consumer(), settings=settings) as (client, _):
            await until(lambda: client.stats.last_error is not None)
            assert "timed out; a NetworkPolicy may block it" in str(client.stats.last_error)


async def test_tls_roots_from_a_file_that_is_replaced(tmp_path: Path) -> None:
    authority, other = Authority("one"), Authority("two")
    roots = tmp_path / "root-cert.pem"
    roots.write_text(other.root)
    tls = authority.issue(["istiod.istio-system.svc"])
    settings = Settings(look_seconds=0.02)
    a = Consumer()
    with Istiod(tls) as istiod:
        endpoint = Endpoint(istiod.address, roots=str(roots), server_name="istiod.istio-system.svc")
        async with running(endpoint, a, settings=settings) as (client, _):
            await until(lambda: client.stats.failures > 0)
            assert istiod.streams == 0
            roots.write_text(authority.root)
            await ready(client)
            roots.write_text(authority.root + other.root)
            await off(istiod.wait_streams, 2)


async def test_a_server_of_another_name_is_not_believed(tmp_path: Path) -> None:
    authority = Authority()
    with Istiod(authority.issue(["elsewhere.svc"])) as istiod:
        endpoint = Endpoint(istiod.address, roots=authority.root, server_name="istiod.svc")
        async with running(endpoint, Consumer()) as (client, _):
            await until(lambda: client.stats.failures > 0)
        assert istiod.streams == 0


async def test_the_node_is_made_of_the_environment() -> None:
    node = node_of(
        {
            "NAMESPACE": "ns",
            "GATEWAY": "gw",
            "POD_NAME": "gw-0",
            "INSTANCE_IP": "10.0.0.1",
            "NODE_NAME": "n1",
            "CLUSTER_ID": "c1",
            "ISTIO_METAJSON_LABELS": '{"a": "b"}',
        }
    )
    assert node.id == "agentgateway~10.0.0.1~gw-0.ns~ns.svc.cluster.local"
    assert node.metadata == {
        "NAME": "gw-0",
        "NAMESPACE": "ns",
        "INSTANCE_IPS": "10.0.0.1",
        "NODE_NAME": "n1",
        "role": "ns~gw",
        "GATEWAY_NAME": "gw",
        "CLUSTER_ID": "c1",
        "LABELS": {"a": "b"},
    }


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({}, "NAMESPACE must be set"),
        ({"NAMESPACE": "ns"}, "GATEWAY must be set"),
        ({"NAMESPACE": "ns", "GATEWAY": "g", "INSTANCE_IP": "x"}, "INSTANCE_IP: `x`"),
        ({"NAMESPACE": "a~b", "GATEWAY": "g"}, "NAMESPACE: `a~b`"),
        ({"NAMESPACE": "a", "GATEWAY": "g", "ISTIO_METAJSON_X": "{"}, "ISTIO_METAJSON_X: "),
    ],
)
async def test_bad_environments(env: dict[str, str], reason: str) -> None:
    with pytest.raises(Exception, match=f"^{reason}"):
        node_of(env)
