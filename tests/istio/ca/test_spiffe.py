"""Certificates of a SPIFFE agent on a Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
)

from istio.ca.identity import Identity
from istio.ca.spiffe import SpiffeSource, pem_of, target_of
from istio.errors import CaError
from tests.hbone.pki import Pki, spiffe
from tests.istio.ca.moved import MovedClock
from tests.support.spiffe_agent import Agent, Answer, federated, svid

pytestmark = pytest.mark.asyncio(loop_scope="session")

CART, OTHER = spiffe("cart"), spiffe("other")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    one = Agent(tmp_path / "agent.sock")
    yield one
    one.stop()


@asynccontextmanager
async def running(source: SpiffeSource) -> AsyncIterator[list[Identity]]:
    published: list[Identity] = []
    task = asyncio.create_task(source.run(published.append))
    try:
        yield published
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of what has no event, as counts
            await asyncio.sleep(0.002)


def clock() -> MovedClock:
    return MovedClock(datetime.now(UTC))


async def test_what_the_agent_pushes_is_published(agent: Agent) -> None:
    pki = Pki("intermediate", above=Pki())
    first, second = pki.leaf(CART), pki.leaf(CART)
    source = SpiffeSource(agent.address, clock=clock())
    async with running(source) as published:
        agent.put(Answer(svids=[svid(pki, first, CART)]))
        await until(lambda: len(published) == 1)
        agent.put(Answer(svids=[svid(pki, second, CART)]))
        await until(lambda: len(published) == 2)
    assert published[0].spiffe_id == CART
    assert published[0].chain_pem == first.chain
    assert published[0].chain_pem.count(b"BEGIN CERTIFICATE") == 2
    assert published[0].roots_pem == pki.root_pem
    assert published[1].chain_pem == second.chain
    assert agent.metadata[0]["workload.spiffe.io"] == "true"


async def test_one_of_several_identities(agent: Agent) -> None:
    pki = Pki()
    both = [svid(pki, pki.leaf(OTHER), OTHER), svid(pki, pki.leaf(CART), CART)]
    source = SpiffeSource(agent.address, expected=CART, clock=clock())
    async with running(source) as published:
        agent.put(Answer(svids=both))
        await until(lambda: len(published) == 1)
        assert published[0].spiffe_id == CART


async def test_any_spiffe_id_will_do(agent: Agent) -> None:
    pki = Pki()
    name = "spiffe://example.org/gateway/1"
    source = SpiffeSource(agent.address, clock=clock())
    async with running(source) as published:
        agent.put(Answer(svids=[svid(pki, pki.leaf(name), name)]))
        await until(lambda: len(published) == 1)
        assert published[0].spiffe_id == name


async def test_bundles_of_federated_trust_domains(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    pki, partner = Pki(), Pki("partner")
    answer = Answer(svids=[svid(pki, pki.leaf(CART), CART)])
    for name, der in federated({"partner.test": partner}).items():
        answer.federated_bundles[name] = der
    answer.federated_bundles["spiffe://broken.test"] = b"junk"
    answer.federated_bundles["spiffe://empty.test"] = b""
    answer.federated_bundles["spiffe://No/Domain"] = partner.root.public_bytes(Encoding.DER)
    answer.crl.append(b"list")
    source = SpiffeSource(agent.address, clock=clock())
    async with running(source) as published:
        agent.put(answer)
        await until(lambda: len(published) == 1)
    assert published[0].federated == {"partner.test": partner.root_pem}
    assert published[0].roots_pem == pki.root_pem
    assert source.status.dump(datetime.now(UTC))["federated"] == ["partner.test"]
    said = "\n".join(caplog.messages)
    assert "broken.test of the SPIFFE agent is no DER; nobody of it is trusted" in said
    assert "spiffe://empty.test is of no trust domain, or empty" in said
    assert "spiffe://No/Domain is of no trust domain" in said
    assert "revocation lists of the SPIFFE agent are not used" in said


async def test_failures_keep_what_is_there(agent: Agent) -> None:
    pki = Pki()
    good = svid(pki, pki.leaf(CART), CART)
    source = SpiffeSource(agent.address, clock=clock())
    async with running(source) as published:
        agent.put(Answer(svids=[good]))
        await until(lambda: len(published) == 1)
        agent.put(grpc.StatusCode.PERMISSION_DENIED)
        await until(lambda: source.status.last_error is not None)
        assert "PERMISSION_DENIED: the agent says no" in str(source.status.last_error)
        assert source.status.identity == published[0]
        agent.put(Answer())
        await until(lambda: "has no identity" in str(source.status.last_error))
        agent.put(None)
        agent.put(Answer(svids=[good]))
        await until(lambda: len(published) == 2)


async def test_bad_answers(agent: Agent) -> None:
    pki = Pki()
    leaf = pki.leaf(CART)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"x509_svid": b""}, "the certificate chain, empty,"),
        ({"x509_svid": b"\x30\x82"}, "the certificate of the SPIFFE agent is no DER"),
        ({"x509_svid": b"\x30\x01\x00"}, "the certificate of the SPIFFE agent is no DER cert"),
        ({"bundle": b"junk"}, "the bundle of the SPIFFE agent is no DER"),
        ({"x509_svid_key": b"secret"}, "the SPIFFE agent's key is no PKCS#8"),
        ({"spiffe_id": OTHER}, f"is for {CART}, and {OTHER} is expected"),
    ]
    source = SpiffeSource(agent.address, clock=clock())
    async with running(source) as published:
        for changes, reason in cases:
            one = svid(pki, leaf, CART)
            for name, value in changes.items():
                setattr(one, name, value)
            agent.put(Answer(svids=[one]))
            await until(lambda reason=reason: reason in str(source.status.last_error))
            assert "secret" not in str(source.status.last_error)
            agent.put(None)
        assert published == []


async def test_der_is_split() -> None:
    pki = Pki("intermediate", above=Pki())
    chain = x509.load_pem_x509_certificates(pki.leaf(CART).chain)
    der = b"".join(one.public_bytes(Encoding.DER) for one in chain)
    assert x509.load_pem_x509_certificates(pem_of(der, "it")) == chain
    for cut in (1, 3, 10, len(der) - 1):
        with pytest.raises(CaError):
            pem_of(der[:cut], "it")


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("unix:///run/agent.sock", "unix:/run/agent.sock"),
        ("unix:/run/agent.sock", "unix:/run/agent.sock"),
        ("tcp://127.0.0.1:8000", "ipv4:127.0.0.1:8000"),
        ("tcp://[::1]:8000", "ipv6:[::1]:8000"),
    ],
)
async def test_endpoints(address: str, target: str) -> None:
    assert target_of(address) == target


@pytest.mark.parametrize("address", ["", "/run/x", "unix://run/x", "tcp://h", "https://h:1"])
async def test_what_is_no_endpoint(address: str) -> None:
    with pytest.raises(CaError, match="is no endpoint"):
        target_of(address)
