"""Certificates made on demand: for which names, by which authorities, how many are kept."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.errors import ConfigError
from sidecar.net.minting import Authority, Minted, cache_limits, is_name
from sidecar.net.tls import ServerTls, TlsDefaults, TlsListener
from tests.support.authority import Authority as Root

ROOT = Root("gateway")
KEY = ROOT.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
LISTENER = TlsListener("k", "", cert=ROOT.root, private_key=KEY, is_authority=True)


def test_a_leaf_is_for_one_name_and_of_the_authority() -> None:
    cert, key = Authority(ROOT.root, KEY).leaf("a.example")
    leaf, root = x509.load_pem_x509_certificates(cert.encode())
    assert root == ROOT.certificate
    leaf.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert key.startswith("-----BEGIN PRIVATE KEY-----")
    assert KEY not in key


def handshake(server: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """The client's end of one that the client believes."""
    context = ssl.create_default_context(cadata=ROOT.root)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, there, server_hostname=name)
    other = server.wrap_bio(there, back, server_side=True)
    for _ in range(10):
        done = 0
        for one in (client, other):
            try:
                one.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
        if done == 2:
            return client
    raise AssertionError("no handshake")


def test_a_client_that_trusts_the_authority_believes_every_name() -> None:
    tls = ServerTls([LISTENER])
    for name in ("a.example", "b.c.example", "x" * 63 + ".example", "localhost"):
        context = tls.context_for(name)
        assert context is not None
        assert handshake(context, name).version() == "TLSv1.3"
        assert tls.context_for(name) is context


@pytest.mark.parametrize(
    "name", ["", "a b", "a..b", ".a", "*.a", "a/b", "x" * 64, "a." * 130 + "a", "a\0b", "é"]
)
def test_names_for_which_none_is_made(name: str) -> None:
    assert not is_name(name)
    assert ServerTls([LISTENER]).context_for(name) is None


def test_without_a_name_it_is_the_listeners() -> None:
    tls = ServerTls([replace(LISTENER, hostname="a.example"), replace(LISTENER, key="any")])
    context = tls.context_for("a.example")
    assert context is not None
    assert tls.context_for("") is None


def test_what_is_no_authority() -> None:
    leaf = ROOT.issue(["b.example"])
    with pytest.raises(ConfigError) as caught:
        ServerTls([replace(LISTENER, cert=leaf.cert, private_key=leaf.key)])
    assert caught.value.path == "listeners[k].tls.cert"


def test_so_many_are_kept_and_for_so_long() -> None:
    made: list[str] = []
    now = [0.0]

    def make(name: str) -> str:
        made.append(name)
        return name + str(len(made))

    kept = Minted(make, 10.0, 2, lambda: now[0])
    assert (kept.of("a"), kept.of("a"), kept.of("b")) == ("a1", "a1", "b2")
    kept.of("c")
    assert kept.of("b") == "b2"
    assert kept.of("a") == "a4"
    now[0] = 10.0
    assert kept.of("a") == "a5"


def test_the_environment_bounds_them() -> None:
    assert cache_limits({}) == (300.0, 256)
    env = {"DYNAMIC_CA_CERT_CACHE_TTL": "1m", "DYNAMIC_CA_CERT_CACHE_CAPACITY": "8"}
    found = TlsDefaults.from_policy({}, env)
    assert (found.minted_seconds, found.minted_count) == (60.0, 8)
    for bad in ({"DYNAMIC_CA_CERT_CACHE_TTL": "x"}, {"DYNAMIC_CA_CERT_CACHE_CAPACITY": "0"}):
        with pytest.raises(ConfigError):
            cache_limits(bad)
