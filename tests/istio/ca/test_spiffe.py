"""Certificates of a SPIFFE agent on a Unix socket."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from istio.ca._pb import spiffe_pb2 as wire
from istio.ca.identity import Identity
from istio.ca.spiffe import METHOD, SpiffeSource, pem_of, target_of
from istio.errors import CaError
from tests.hbone.pki import Leaf, Pki, spiffe
from tests.istio.ca.moved import MovedClock

pytestmark = pytest.mark.asyncio(loop_scope="session")

CART, OTHER = spiffe("cart"), spiffe("other")
Answer = wire.X509SVIDResponse


def svid(pki: Pki, leaf: Leaf, name: str) -> wire.X509SVID:
    chain = x509.load_pem_x509_certificates(leaf.chain)
    roots = x509.load_pem_x509_certificates(pki.root_pem)
    key = load_pem_private_key(leaf.key, None)
    return wire.X509SVID(
        spiffe_id=name,
        x509_svid=b"".join(one.public_bytes(Encoding.DER) for one in chain),
        x509_svid_key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        bundle=b"".join(one.public_bytes(Encoding.DER) for one in roots),
    )


class Agent:
    """`put` an answer for the call there is, or the next; a status, or None for OK, ends it."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self.metadata: list[dict[str, str]] = []
        self._waiting: list[Answer | grpc.StatusCode | None] = []
        self._call: queue.Queue[Answer | grpc.StatusCode | None] | None = None
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(4))
        service, method = METHOD[1:].split("/")
        handler = grpc.unary_stream_rpc_method_handler(
            self._fetch, wire.X509SVIDRequest.FromString, Answer.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def put(self, answer: Answer | grpc.StatusCode | None) -> None:
        with self._lock:
            if self._call is None:
                self._waiting.append(answer)
                return
            self._call.put(answer)
            if not isinstance(answer, Answer):
                self._call = None

    def _fetch(self, _request: Any, context: Any) -> Iterator[Answer]:
        call: queue.Queue[Answer | grpc.StatusCode | None] = queue.Queue()
        context.add_callback(lambda: call.put(None))
        with self._lock:
            self.metadata.append(dict(context.invocation_metadata()))
            waiting, self._waiting, self._call = self._waiting, [], call
        for answer in waiting:
            self.put(answer)
        while isinstance(answer := call.get(), Answer):
            yield answer
        if answer is not None:
            context.abort(answer, "the agent says no")

    def stop(self) -> None:
        self.put(None)
        self._server.stop(0).wait(10)


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
    async with asyncio.timeout(10):
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
