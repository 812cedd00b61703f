"""Certificates that expire while connections live: no tunnel begins, those that live go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from hbone.aio import Credentials
from hbone.errors import CertificateError, HandshakeError, TunnelUnprocessedError
from tests.hbone.aio.mesh import CLIENT, SERVER, TARGET, Mesh, mesh, settle
from tests.hbone.pki import Pki

HOUR = timedelta(hours=1)
Step = Callable[[], None]


@pytest.fixture
def two_hours_pass(monkeypatch: pytest.MonkeyPatch) -> Step:
    """The wall clock, of which TLS itself, in C, knows nothing."""
    real = time.time

    def step() -> None:
        monkeypatch.setattr(time, "time", lambda: real() + 7200)

    return step


def brief(pki: Pki, identity: str) -> Credentials:
    """Of a certificate that ends in an hour."""
    leaf = pki.leaf(identity, end=datetime.now(UTC) + HOUR)
    return Credentials(leaf.chain, leaf.key, pki.root_pem)


async def echoes(net: Mesh) -> None:
    async with await net.tunnel() as tunnel:
        await tunnel.write(b"there")
        assert await tunnel.read() == b"there"


async def test_a_client_whose_certificate_expired(two_hours_pass: Step) -> None:
    async with mesh() as net:
        net.pool.set_credentials(brief(net.pki, CLIENT))
        alive = await net.tunnel()
        two_hours_pass()
        with pytest.raises(CertificateError, match="expired"):
            await net.tunnel()
        assert net.pool.dials == 1
        await alive.write(b"goes on")
        assert await alive.read() == b"goes on"
        net.pool.set_credentials(net.pki.credentials(CLIENT))
        await echoes(net)
        assert net.pool.dials == 2, "the old connection proves nothing any more"
        alive.abort()
        await settle(lambda: net.pool.connections == 1)


async def test_a_server_whose_certificate_expired(two_hours_pass: Step) -> None:
    async with mesh() as net:
        net.server.set_credentials(brief(net.pki, SERVER))
        alive = await net.tunnel()
        two_hours_pass()
        with pytest.raises(HandshakeError):
            await net.tunnel()
        assert net.server.ended == {"IDENTITY_ERROR": 1}
        await alive.write(b"goes on")
        assert await alive.read() == b"goes on"
        net.server.set_credentials(net.pki.credentials(SERVER))
        await echoes(net)
        alive.abort()


async def test_a_client_that_asks_on_a_connection_of_old(two_hours_pass: Step) -> None:
    async with mesh() as net:
        net.pool.set_credentials(brief(net.pki, CLIENT))
        alive = await net.tunnel()
        (endpoint,) = net.pool._endpoints
        two_hours_pass()
        with pytest.raises(TunnelUnprocessedError):
            await endpoint.open(TARGET)
        assert net.server.answered == {200: 1}
        alive.abort()
        await settle(lambda: net.server.connections == 0)
