"""Certificates of an istiod: good ones, renewal, and everything a CA can do wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from istio.ca.client import CaSource, split
from istio.ca.identity import Identity
from istio.endpoint import Endpoint
from istio.errors import CaError, IstioError
from tests.istio.ca.moved import MovedClock
from tests.support.authority import Authority
from tests.support.istiod import PATIENCE_SECONDS, Istiod

pytestmark = pytest.mark.asyncio(loop_scope="session")

ID = "spiffe://cluster.local/ns/shop/sa/cart"
OTHER = "spiffe://cluster.local/ns/shop/sa/other"


def middle(_low: float, _high: float) -> float:
    return (_low + _high) / 2


@pytest.fixture
def istiod() -> Iterator[Istiod]:
    with Istiod() as one:
        yield one


def source(istiod: Istiod, clock: MovedClock | None = None, **options: Any) -> CaSource:
    endpoint = Endpoint(istiod.address, **options)
    return CaSource(endpoint, ID, ttl_seconds=3600, clock=clock or MovedClock(), uniform=middle)


@asynccontextmanager
async def running(one: CaSource) -> AsyncIterator[list[Identity]]:
    published: list[Identity] = []
    task = asyncio.create_task(one.run(published.append))
    try:
        yield published
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - of what has no event, as counts
            await asyncio.sleep(0.002)


async def test_a_certificate(istiod: Istiod, tmp_path: Path) -> None:
    token = tmp_path / "istio-token"
    token.write_text("jwt\n")
    istiod.token = "jwt"
    identity = await source(istiod, token_file=str(token), cluster_id="c1").fetch()
    assert identity.spiffe_id == ID
    assert identity.roots_pem.decode() == istiod.authority.root
    assert identity.chain_pem.count(b"BEGIN CERTIFICATE") == 1
    (request,) = istiod.requested
    assert request.validity_duration == 3600
    assert not request.HasField("metadata")  # a waypoint impersonates nobody
    (metadata,) = istiod.ca_metadata
    assert (metadata["authorization"], metadata["clusterid"]) == ("Bearer jwt", "c1")
    token.write_text("other")
    with pytest.raises(IstioError, match=r"UNAUTHENTICATED.*the token is not accepted"):
        await source(istiod, token_file=str(token)).fetch()


async def test_over_tls() -> None:
    authority = Authority()
    with Istiod(authority.issue(["istiod.istio-system.svc"])) as istiod:
        options = {"roots": authority.root, "server_name": "istiod.istio-system.svc"}
        assert (await source(istiod, **options).fetch()).spiffe_id == ID
        with pytest.raises(IstioError, match="UNAVAILABLE"):
            await source(istiod, roots=Authority().root).fetch()


async def test_renewed_at_half_life_with_a_new_key(istiod: Istiod) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    clock = MovedClock(start)
    istiod.certify = lambda request: istiod.signed(request, start=clock.now())
    async with running(source(istiod, clock)) as published:
        await until(lambda: len(published) >= 3)
    first, second, third = published[:3]
    assert second.not_before == start + timedelta(minutes=30)
    assert third.not_before == start + timedelta(minutes=60)
    assert len({first.key_pem, second.key_pem, third.key_pem}) == 3
    assert max(clock.slept) <= 60  # a machine that was asleep notices


async def test_the_old_one_stays_while_the_ca_is_down(istiod: Istiod) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    clock = MovedClock(start)
    answers = [lambda request: istiod.signed(request, start=clock.now())]

    def certify(request: Any) -> list[str]:
        if answers:
            return answers.pop()(request)
        raise istiod.refusal(grpc.StatusCode.INTERNAL, "the CA is broken")

    istiod.certify = certify
    one = source(istiod, clock)
    async with running(one) as published:
        await until(lambda: one.status.failures >= 12)
        waits = clock.slept[-12:]
        assert len(published) == 1
        assert one.status.identity == published[0]
        assert "INTERNAL: the CA is broken" in str(one.status.last_error)
        assert max(waits) == 150.0
        tail = [seconds for seconds in clock.slept if seconds < 60 or seconds > 60]
        assert tail[-12:][:4] == [0.5, 1.0, 2.0, 4.0]
        answers.append(lambda request: istiod.signed(request, start=clock.now()))
        await until(lambda: len(published) == 2)
        assert one.status.last_error is None
        state = one.status.dump(clock.now())
        assert state["spiffeId"] == ID
        assert "PRIVATE" not in str(state)


async def test_an_expired_one_is_said_to_be(istiod: Istiod) -> None:
    clock = MovedClock(datetime(2026, 1, 1, tzinfo=UTC))
    good = True

    def certify(request: Any) -> list[str]:
        if good:
            return istiod.signed(request, start=clock.now())
        raise istiod.refusal(grpc.StatusCode.UNAVAILABLE, "down")

    istiod.certify = certify
    one = source(istiod, clock)
    async with running(one) as published:
        await until(lambda: len(published) == 1)
        good = False
        await until(lambda: one.status.failures > 0)
        clock.move(timedelta(days=1))
        assert one.status.dump(clock.now())["isExpired"] is True
        good = True
        await until(lambda: clock.now() < published[-1].not_after)


def answers(istiod: Istiod) -> dict[str, tuple[Callable[[Any], list[str]], str]]:
    def refuse(code: grpc.StatusCode) -> Callable[[Any], list[str]]:
        def certify(_request: Any) -> list[str]:
            raise istiod.refusal(code, "no")

        return certify

    past = datetime(2020, 1, 1, tzinfo=UTC)
    later = datetime(2090, 1, 1, tzinfo=UTC)
    stranger = "\n".join(istiod.authority.issue([ID]).cert.splitlines()) + "\n"
    root = istiod.authority.root
    return {
        "empty chain": (lambda _: [], "empty certificate chain"),
        "empty leaf": (lambda _: ["", root], "empty certificate chain"),
        "no roots": (lambda one: istiod.signed(one)[:1], "no roots"),
        "bad leaf": (lambda _: ["junk", root], "element 0 of the CA's chain"),
        "bad roots": (lambda one: [istiod.signed(one)[0], "junk"], "element 1 of the CA's chain"),
        "empty roots": (lambda one: [istiod.signed(one)[0], " "], "element 1 of the CA's chain"),
        "wrong identity": (lambda one: istiod.signed(one, name=OTHER), f"is for {OTHER}"),
        "no identity": (lambda one: istiod.signed(one, name="http://x"), "has no identity"),
        "another's key": (lambda _: [stranger, root], "not for the private key"),
        "expired": (lambda one: istiod.signed(one, start=past), "expired at"),
        "not yet": (lambda one: istiod.signed(one, start=later), "do the clocks differ"),
        "refused": (refuse(grpc.StatusCode.PERMISSION_DENIED), "PERMISSION_DENIED: no"),
        "bad request": (refuse(grpc.StatusCode.INVALID_ARGUMENT), "INVALID_ARGUMENT: no"),
    }


async def test_what_a_ca_can_do_wrong(istiod: Istiod) -> None:
    """Each is told apart, and none is published."""
    for name, (certify, reason) in answers(istiod).items():
        istiod.certify = certify
        with pytest.raises(CaError) as caught:
            await source(istiod).fetch()
        assert reason in str(caught.value), name
        assert "PRIVATE" not in str(caught.value)


async def test_a_ca_that_hangs(istiod: Istiod) -> None:
    release = threading.Event()

    def certify(request: Any) -> list[str]:
        release.wait(PATIENCE_SECONDS)
        return istiod.signed(request)

    istiod.certify = certify
    one = CaSource(Endpoint(istiod.address), ID, call_seconds=0.05)
    try:
        with pytest.raises(CaError, match="DEADLINE_EXCEEDED"):
            await one.fetch()
    finally:
        release.set()


async def test_intermediates_belong_to_the_chain_and_the_last_to_nobody_else(
    istiod: Istiod,
) -> None:
    root = istiod.authority.root
    chain, roots = split([root, root, root + root])
    assert chain.count(b"BEGIN CERTIFICATE") == 2
    assert roots.count(b"BEGIN CERTIFICATE") == 2
