"""Who may speak with whom: every kind of bad certificate, on both sides; rotation; revocation."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from hbone.aio import Credentials, Pool, PoolKey, RevocationList, Server, Settings
from hbone.aio.credentials import _file
from hbone.errors import (
    CertificateError,
    ConnectTimeoutError,
    HandshakeError,
    HboneError,
    PeerRejectedError,
    RevokedError,
)
from tests.hbone.aio.mesh import CLIENT, SERVER, TARGET, echo, mesh, read_all, settle
from tests.hbone.pki import Leaf, Pki, spiffe

NOW = datetime.now(UTC)
MINE = Pki()
FOREIGN_ROOT = Pki("another root")


@dataclass(frozen=True)
class Bad:
    """`leaf(identity)`; whether it is TLS that refuses it, or what comes after."""

    leaf: Callable[[str], Leaf]
    flag: str


BAD = {
    "expired": Bad(lambda who: MINE.leaf(who, end=NOW - timedelta(1)), "TLS_FAILURE"),
    "not yet valid": Bad(lambda who: MINE.leaf(who, start=NOW + timedelta(1)), "TLS_FAILURE"),
    "for code signing": Bad(
        lambda who: MINE.leaf(who, usages=(Usage.CODE_SIGNING,)), "TLS_FAILURE"
    ),
    "of another root": Bad(lambda who: FOREIGN_ROOT.leaf(who), "TLS_FAILURE"),
    "of another root with the name of ours": Bad(lambda who: Pki().leaf(who), "TLS_FAILURE"),
    "without names": Bad(lambda _: MINE.leaf(), "IDENTITY_ERROR"),
    "with a DNS name alone": Bad(lambda _: MINE.leaf(dns="server"), "IDENTITY_ERROR"),
    "with another URI alone": Bad(lambda _: MINE.leaf("https://server"), "IDENTITY_ERROR"),
    "of a foreign trust domain": Bad(
        lambda who: MINE.leaf(who.replace("cluster.local", "td.other")), "IDENTITY_ERROR"
    ),
}


def context_of(leaf: Leaf | None, *, is_server: bool) -> ssl.SSLContext:
    """A TLS context without any of our own checks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if leaf is not None:
        with _file(leaf.chain) as chain, _file(leaf.key) as key:
            context.load_cert_chain(chain, key)
    return context


async def words_of(address: tuple[str, int], context: ssl.SSLContext) -> bytes:
    """What a server says to this client before it hangs up; it speaks first when it is content."""
    try:
        reader, writer = await asyncio.open_connection(*address, ssl=context)
    except (OSError, ssl.SSLError):
        return b""
    try:
        return await asyncio.wait_for(reader.read(100), 20)
    except (OSError, ssl.SSLError):
        return b""
    finally:
        writer.transport.abort()


USAGE_OF_SERVERS = Bad(lambda who: MINE.leaf(who, usages=(Usage.SERVER_AUTH,)), "TLS_FAILURE")
USAGE_OF_CLIENTS = Bad(lambda who: MINE.leaf(who, usages=(Usage.CLIENT_AUTH,)), "TLS_FAILURE")


@pytest.mark.parametrize("kind", [*BAD, "for servers alone", "none"])
async def test_clients_that_are_refused(kind: str) -> None:
    bad = {**BAD, "for servers alone": USAGE_OF_SERVERS}.get(kind)
    async with mesh(pki=MINE) as net:
        leaf = bad.leaf(CLIENT) if bad else None
        assert await words_of(net.key.address, context_of(leaf, is_server=False)) == b""
        await settle(lambda: sum(net.server.ended.values()) == 1)
        assert net.server.ended == {bad.flag if bad else "TLS_FAILURE": 1}
        assert net.server.answered == {}
        assert await net.tunnel(), "and a good one after it"


async def test_the_same_client_with_a_good_certificate_gets_settings() -> None:
    async with mesh(pki=MINE) as net:
        context = context_of(MINE.leaf(CLIENT), is_server=False)
        assert (await words_of(net.key.address, context))[3:4] == b"\x04"


@pytest.mark.parametrize("kind", [*BAD, "for clients alone"])
async def test_servers_that_are_refused(kind: str) -> None:
    bad = {**BAD, "for clients alone": USAGE_OF_CLIENTS}[kind]
    heard = 0

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        try:
            heard += len(await reader.read(100))
        except (OSError, ssl.SSLError):
            heard += 0
        writer.transport.abort()

    context = context_of(bad.leaf(SERVER), is_server=True)
    listener = await asyncio.start_server(impostor, "127.0.0.1", 0, ssl=context)
    async with listener, mesh(pki=MINE) as net:
        key = net.key_of(address=listener.sockets[0].getsockname())
        with pytest.raises((HandshakeError, PeerRejectedError)) as caught:
            await net.pool.connect(key, TARGET)
        assert caught.value.flag == bad.flag
        assert heard == 0, "a client said something to a server it does not know"


async def test_our_client_learns_that_it_was_refused() -> None:
    async with mesh(pki=MINE) as net:
        other = Pki().credentials(CLIENT, roots=MINE.root_pem)
        net.pool.set_credentials(other)
        with pytest.raises(HandshakeError):
            await net.tunnel()
        net.pool.set_credentials(MINE.credentials(CLIENT.replace("cluster.local", "td.other")))
        foreign = net.key_of(source=CLIENT.replace("cluster.local", "td.other"))
        with pytest.raises(HandshakeError, match="may have refused our certificate"):
            await net.pool.connect(foreign, TARGET)


async def test_trust_domains() -> None:
    foreign = spiffe("client", "td.other")
    for allowed, is_welcome in (
        (frozenset[str](), False),
        (frozenset(("td.third",)), False),
        (frozenset(("td.third", "td.other")), True),
        (None, True),
    ):
        server = Server(echo, MINE.credentials(SERVER), trust_domains=allowed)
        port = await server.listen("127.0.0.1", 0)
        pool = Pool(MINE.credentials(foreign))
        key = PoolKey(foreign, frozenset((SERVER,)), ("127.0.0.1", port))
        own = PoolKey(CLIENT, key.expected, key.address)
        pool.set_credentials(MINE.credentials(CLIENT))
        try:
            if is_welcome:
                tunnel = await pool.connect(key, TARGET)
                assert tunnel.peer.identity.trust_domain == "cluster.local"
            else:
                with pytest.raises(HboneError):
                    await pool.connect(key, TARGET)
            assert await pool.connect(own, TARGET), "our own is always welcome"
        finally:
            await pool.close()
            await server.close()


async def test_the_first_identity_counts_and_any_is_expected() -> None:
    other = spiffe("alias")
    server = Server(echo, MINE.credentials("https://x", SERVER, other))
    port = await server.listen("127.0.0.1", 0)
    pool = Pool(MINE.credentials(CLIENT))
    try:
        key = PoolKey(CLIENT, frozenset((other,)), ("127.0.0.1", port))
        tunnel = await pool.connect(key, TARGET)
        assert str(tunnel.peer.identity) == SERVER
        assert tunnel.peer.identities == {SERVER, other}
    finally:
        await pool.close()
        await server.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda context: setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_2),
        lambda context: context.set_alpn_protocols(["http/1.1"]),
        lambda context: context.set_alpn_protocols(["h2c", "http/1.1"]),
    ],
    ids=["TLS 1.2", "ALPN http/1.1", "ALPN others"],
)
async def test_other_protocols_are_refused(change: Callable[[ssl.SSLContext], None]) -> None:
    async with mesh(pki=MINE) as net:
        context = context_of(MINE.leaf(CLIENT), is_server=False)
        change(context)
        assert await words_of(net.key.address, context) == b""
        await settle(lambda: sum(net.server.ended.values()) == 1)


async def test_no_alpn_is_no_http2() -> None:
    async with mesh(pki=MINE) as net:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        leaf = MINE.leaf(CLIENT)
        with _file(leaf.chain) as chain, _file(leaf.key) as key:
            context.load_cert_chain(chain, key)
        assert await words_of(net.key.address, context) == b""
        await settle(lambda: net.server.ended == {"H2_HANDSHAKE_FAILURE": 1})


async def test_plaintext_and_silence() -> None:
    async with mesh(pki=MINE, settings=Settings(handshake_timeout_seconds=0.1)) as net:
        for words in (
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"",
        ):
            reader, writer = await asyncio.open_connection(*net.key.address)
            writer.write(words)
            try:
                answer = await asyncio.wait_for(reader.read(), 20)
            except ConnectionResetError:
                answer = b""
            assert not answer or answer[0] == 0x15, "anything but a TLS alert"
            writer.transport.abort()
        await settle(lambda: net.server.ended == {"TLS_FAILURE": 2, "NETWORK_POLICY": 1})


async def test_a_client_that_makes_tls_and_nothing_more() -> None:
    async with mesh(pki=MINE, settings=Settings(handshake_timeout_seconds=0.2)) as net:
        context = context_of(MINE.leaf(CLIENT), is_server=False)
        reader, writer = await asyncio.open_connection(*net.key.address, ssl=context)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1_000_000), 20)
        writer.transport.abort()
        assert net.server.ended == {"NETWORK_POLICY": 1}


# --- rotation -----------------------------------------------------------------------------


async def test_certificates_change_under_live_tunnels() -> None:
    async with mesh() as net:
        old = await net.tunnel()
        serial = old.peer.chain[0].serial_number
        net.server.set_credentials(net.pki.credentials(SERVER))
        net.pool.set_credentials(net.pki.credentials(CLIENT))
        new = await net.pool.connect(net.key_of(source_ip="127.0.0.1"), TARGET)
        assert new.peer.chain[0].serial_number != serial
        for tunnel in (old, new, await net.tunnel()):
            await tunnel.write(b"x")
            assert await tunnel.read() == b"x"
        assert net.pool.dials == 2


async def test_roots_change_with_the_credentials() -> None:
    pki, other = Pki("a"), Pki("b")
    async with mesh(pki=pki) as net:
        old = await net.tunnel()
        both = pki.root_pem + other.root_pem
        net.server.set_credentials(other.credentials(SERVER, roots=both))
        net.pool.set_credentials(pki.credentials(CLIENT, roots=both))
        await net.pool.connect(net.key_of(source_ip="127.0.0.1"), TARGET)
        net.server.set_credentials(other.credentials(SERVER))
        with pytest.raises(HandshakeError):
            await net.pool.connect(net.key_of(source_ip="127.0.0.2"), TARGET)
        await old.write(b"x")
        assert await old.read() == b"x"


def test_a_file_that_is_bad_leaves_the_old_in_place() -> None:
    leaf = MINE.leaf(SERVER)

    async def run() -> None:
        async with mesh(pki=MINE) as net:
            with pytest.raises(CertificateError):
                net.server.set_credentials(
                    Credentials(leaf.chain, MINE.leaf(SERVER).key, MINE.root_pem)
                )
            assert await net.tunnel()

    asyncio.run(run())


# --- revocation ---------------------------------------------------------------------------


async def test_a_revoked_client() -> None:
    leaf = MINE.leaf(CLIENT)
    async with mesh(pki=MINE) as net:
        net.pool.set_credentials(Credentials(leaf.chain, leaf.key, MINE.root_pem))
        live = await net.tunnel()
        net.server.set_revoked(MINE.revoked(MINE.leaf(CLIENT).certificate))
        await live.write(b"x")
        assert await live.read() == b"x"
        net.server.set_revoked(MINE.revoked(leaf.certificate))
        with pytest.raises(HboneError):
            await read_all(live)
        with pytest.raises(HandshakeError):
            await net.tunnel()
        assert net.server.ended["CERT_REVOKED"] == 2
        net.server.set_revoked(None)
        assert await net.tunnel()


async def test_a_revoked_server() -> None:
    leaf = MINE.leaf(SERVER)
    async with mesh(pki=MINE) as net:
        net.server.set_credentials(Credentials(leaf.chain, leaf.key, MINE.root_pem))
        live = await net.tunnel()
        net.pool.set_revoked(MINE.revoked(leaf.certificate))
        with pytest.raises(RevokedError):
            await live.read()
        with pytest.raises(RevokedError):
            await net.tunnel()


async def test_a_revoked_intermediate() -> None:
    root = Pki()
    good, bad = Pki("good", root), Pki("bad", root)
    async with mesh(pki=good) as net:
        net.pool.set_credentials(bad.credentials(CLIENT))
        live = await net.tunnel()
        assert len(live.peer.chain) == 3
        net.server.set_revoked(root.revoked(bad.root))
        with pytest.raises(HboneError):
            await read_all(live)
        with pytest.raises(HandshakeError):
            await net.tunnel()
        net.pool.set_credentials(good.credentials(CLIENT))
        assert await net.tunnel()


def test_lists_that_prove_nothing() -> None:
    forged = MINE.crl(MINE.leaf(CLIENT).certificate, by=Pki())
    for crl in (b"", b"nonsense", b"-----BEGIN X509 CRL-----\n!\n", forged, FOREIGN_ROOT.crl()):
        with pytest.raises(CertificateError):
            RevocationList(crl, MINE.root_pem)
    both = MINE.crl() + FOREIGN_ROOT.crl()
    RevocationList(both, MINE.root_pem + FOREIGN_ROOT.root_pem)
    with pytest.raises(CertificateError):
        RevocationList(MINE.crl(), b"")


async def test_lists_of_an_intermediate() -> None:
    root = Pki()
    between = Pki("between", root)
    own, bad = between.credentials(SERVER), between.leaf(CLIENT)
    with pytest.raises(CertificateError):
        RevocationList(between.crl(bad.certificate), own.roots_pem)
    async with mesh(pki=between) as net:
        net.pool.set_credentials(Credentials(bad.chain, bad.key, root.root_pem))
        live = await net.tunnel()
        issuers = own.roots_pem + own.issuers_pem
        net.server.set_revoked(RevocationList(between.crl(bad.certificate), issuers))
        with pytest.raises(HboneError):
            await read_all(live)


async def test_an_unknown_issuer_is_let_pass() -> None:
    async with mesh(pki=MINE) as net:
        net.server.set_revoked(
            RevocationList(FOREIGN_ROOT.crl(), FOREIGN_ROOT.root_pem + MINE.root_pem)
        )
        assert await net.tunnel()


async def test_connect_timeout_is_of_the_whole_handshake() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    context = context_of(MINE.leaf(SERVER), is_server=True)
    listener = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    settings = Settings(connect_timeout_seconds=0.2)
    async with listener, mesh(pki=MINE, pool_settings=settings) as net:
        key = net.key_of(address=listener.sockets[0].getsockname())
        with pytest.raises(ConnectTimeoutError, match="handshake"):
            await net.pool.connect(key, TARGET)
