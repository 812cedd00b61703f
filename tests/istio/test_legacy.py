"""Istio's older TLS to workloads: who is revoked, whose certificate is over, and what is kept.

Source: spec istio sections 1.2, 2.4 (step 9) and 6 (row 21).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from hbone.aio import Credentials
from hbone.errors import CertificateError, PeerRejectedError, RevokedError
from istio import legacy
from istio.legacy import LegacyTls
from tests.hbone.pki import Leaf, Pki, spiffe

US, SERVER = spiffe("us"), spiffe("server")
EXPECTED = frozenset((SERVER,))
PATIENCE_SECONDS = 20.0


class Held(asyncio.Protocol):
    """Knows when it is over."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


class Old:
    """A server of older TLS; `fresh()` is a connection of ours to it."""

    def __init__(self, tls: LegacyTls, port: int) -> None:
        self.tls = tls
        self.port = port

    async def fresh(self, expected: frozenset[str] = EXPECTED) -> tuple[asyncio.Transport, Held]:
        held = Held()
        transport = await self.tls.connect(lambda: held, "127.0.0.1", self.port, expected)
        return transport, held


@asynccontextmanager
async def listening(pki: Pki, leaf: Leaf, tls: LegacyTls) -> AsyncIterator[Old]:
    context = Credentials(leaf.chain, leaf.key, pki.root_pem).context(is_server=True)
    context.set_alpn_protocols(["istio"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Held, "127.0.0.1", 0, ssl=context)
    async with server:
        yield Old(tls, server.sockets[0].getsockname()[1])


async def ended(held: Held) -> None:
    await asyncio.wait_for(held.lost.wait(), PATIENCE_SECONDS)


async def test_who_is_revoked_is_cut_off_and_nobody_else() -> None:
    pki = Pki()
    bad, good = pki.leaf(SERVER), pki.leaf(SERVER)
    tls = LegacyTls(asyncio.get_running_loop(), pki.credentials(US))
    async with listening(pki, bad, tls) as one, listening(pki, good, tls) as other:
        _, gone = await one.fresh()
        kept, _ = await other.fresh()
        tls.set_revoked(pki.revoked(bad.certificate))
        await ended(gone)
        assert not kept.is_closing()
        with pytest.raises(RevokedError):
            await one.fresh()
        tls.set_revoked(None)
        again, held = await one.fresh()
        for transport in (kept, again):
            transport.abort()
        await ended(held)


async def test_who_is_somebody_else_and_who_has_no_certificate() -> None:
    pki = Pki()
    tls = LegacyTls(asyncio.get_running_loop(), pki.credentials(US))
    async with listening(pki, pki.leaf(SERVER), tls) as old:
        with pytest.raises(PeerRejectedError):
            await old.fresh(frozenset((spiffe("other"),)))
        foreign = Pki("foreign")
        tls.set_credentials(foreign.credentials(US))  # whose roots are others, too
        with pytest.raises(ssl.SSLError):
            await old.fresh()


async def test_our_own_certificate_is_over() -> None:
    pki = Pki()
    leaf = pki.leaf(US, end=datetime.now(UTC) - timedelta(hours=1))
    loop = asyncio.get_running_loop()
    tls = LegacyTls(loop, Credentials(leaf.chain, leaf.key, pki.root_pem))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        with pytest.raises(CertificateError, match="expired"):
            await Old(tls, nobody.getsockname()[1]).fresh()
        nobody.setblocking(False)
        with pytest.raises(BlockingIOError):
            nobody.accept()


async def test_connections_that_ended_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "_SWEEP", 2)
    pki = Pki()
    prepared: list[socket.socket] = []
    loop = asyncio.get_running_loop()
    tls = LegacyTls(loop, pki.credentials(US), prepare=prepared.append)
    async with listening(pki, pki.leaf(SERVER), tls) as old:
        for _ in range(5):
            transport, held = await old.fresh()
            transport.abort()
            await ended(held)
        kept, held = await old.fresh()
        assert len(tls._peers) <= 2
        assert kept in tls._peers
        assert len(prepared) == 6, "each was marked before it connected"
        kept.abort()
        await ended(held)
