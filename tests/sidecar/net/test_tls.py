"""Contexts of listeners and backends, shaken hands with in memory: no sockets."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.net.tls import ServerTls, TlsDefaults, TlsListener, chosen_listener
from sidecar.net.tls_client import ClientTls
from tests.support.authority import Authority
from tests.support.certificates import Pair, make_pair

ROOT = Authority("servers")
CLIENTS = Authority("clients")
OTHERS = Authority("others")
CLIENT = CLIENTS.issue(["spiffe://td/ns/n/sa/s"])
PAIRS = {
    name: ROOT.issue([name]) for name in ("a.example", "*.example", "*.b.example", "default.test")
}


def listener(key: str, hostname: str, pair: Pair, **more: Any) -> TlsListener:
    return TlsListener(key, hostname, cert=pair.cert, private_key=pair.key, **more)


EXACT = listener("exact", "a.example", PAIRS["a.example"])
WIDE = listener("wide", "*.example", PAIRS["*.example"])
WIDER = listener("deep", "*.b.example", PAIRS["*.b.example"])
ANY = listener("any", "", PAIRS["default.test"])


class Shake:
    """A finished handshake: both ends, wired back to back."""

    def __init__(
        self,
        server_context: ssl.SSLContext,
        client_context: ssl.SSLContext,
        name: str | None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server_context.wrap_bio(self.to_server, self.to_client, server_side=True)
        self.client = client_context.wrap_bio(
            self.to_client, self.to_server, server_hostname=name, session=session
        )
        steps: list[Callable[[], None]] = [self.client.do_handshake, self.server.do_handshake]
        while steps:
            for step in list(steps):
                try:
                    step()
                except ssl.SSLWantReadError:
                    continue
                steps.remove(step)
        # What TLS 1.3 says after the handshake: alerts about a certificate, and tickets.
        self.server.write(b"x")
        assert self.client.read(1) == b"x"


def trusting(**more: Any) -> ssl.SSLContext:
    """A client that trusts the test servers; `cert` is a pair it presents."""
    payload: dict[str, Any] = {"root": ROOT.root}
    if "cert" in more:
        payload |= {"cert": more["cert"].cert, "key": more["cert"].key}
    client = ClientTls(payload, "unused", alpn=more.get("alpn", ("h2", "http/1.1")))
    context = client.context(http1_only=False)
    context.check_hostname = False
    if "maximum" in more:
        context.maximum_version = more["maximum"]
    return context


def shake(server: ServerTls, name: str, client: ssl.SSLContext | None = None) -> Shake:
    context = server.context_for(name)
    assert context is not None
    return Shake(context, trusting() if client is None else client, name or None)


def served_names(shaken: Shake) -> list[str]:
    certificate = shaken.client.getpeercert()
    assert certificate is not None
    return [value for _, value in certificate["subjectAltName"]]  # type: ignore[misc]


# --- choosing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.example", "exact"),
        ("x.example", "wide"),
        ("x.y.example", "wide"),
        ("x.b.example", "deep"),
        ("b.example", "wide"),
        ("example", "any"),
        ("other.test", "any"),
        ("", "any"),
    ],
)
def test_choice_by_server_name(name: str, key: str) -> None:
    server = ServerTls([EXACT, WIDE, WIDER, ANY])
    assert server.listener_for(name) == key
    for context in (server.context_for(name), server.front_context()):
        assert context is not None
        shaken = Shake(context, trusting(), name or None)
        assert chosen_listener(shaken.server) == key


def test_no_listener_for_a_name() -> None:
    server = ServerTls([EXACT])
    assert server.context_for("b.example") is None
    assert server.listener_for("") is None
    with pytest.raises(ssl.SSLError):
        Shake(server.front_context(), trusting(), "b.example")


def test_front_context_ignores_case_and_final_dot() -> None:
    server = ServerTls([EXACT, ANY])
    shaken = Shake(server.front_context(), trusting(), "A.EXAMPLE")
    assert served_names(shaken) == ["a.example"]


def test_passed_through_listener_has_no_context() -> None:
    passed = TlsListener.from_data("p", {"hostname": "p.example", "protocol": "TLS", "tls": None})
    server = ServerTls([EXACT, passed])
    assert server.listener_for("p.example") == "p"
    assert server.context_for("p.example") is None
    with pytest.raises(ConfigError):
        server.front_context()


def test_hostname_twice_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        ServerTls([ANY, replace(ANY, key="star", hostname="*")])
    assert caught.value.path == "listeners[star].hostname"


# --- replacing ------------------------------------------------------------------------------------


def test_replaced_certificate_leaves_connections_alone() -> None:
    server = ServerTls([EXACT, ANY])
    front = server.front_context()
    before = shake(server, "a.example")
    new = ROOT.issue(["new.example"])
    kept = server.context_for("")
    server.replace([listener("exact", "a.example", new), ANY])
    assert server.context_for("") is kept
    assert served_names(shake(server, "a.example")) == ["new.example"]
    assert served_names(Shake(front, trusting(), "a.example")) == ["new.example"]
    before.client.write(b"still here")
    assert before.server.read(100) == b"still here"
    assert served_names(before) == ["a.example"]


def test_replacement_that_fails_changes_nothing() -> None:
    server = ServerTls([EXACT])
    wrong = Pair(PAIRS["a.example"].cert, PAIRS["*.example"].key)
    with pytest.raises(ConfigError):
        server.replace([listener("other", "z.example", wrong)])
    assert server.listener_for("a.example") == "exact"
    assert server.listener_for("z.example") is None


def test_new_defaults_make_new_contexts() -> None:
    server = ServerTls([EXACT])
    server.replace([EXACT], TlsDefaults(max_version="TLS_V1_2"))
    assert shake(server, "a.example").server.version() == "TLSv1.2"


# --- versions, suites, groups, ALPN ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "maximum", "version", "cipher"),
    [
        ({}, "TLSv1_3", "TLSv1.3", None),
        ({}, "TLSv1_2", "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ({"max_version": "TLS_V1_2"}, "TLSv1_3", "TLSv1.2", None),
        (
            {"cipher_suites": ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",)},
            "TLSv1_3",
            "TLSv1.2",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
        (
            {
                "cipher_suites": (
                    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
                )
            },
            "TLSv1_2",
            "TLSv1.2",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
        (
            {
                "cipher_suites": (
                    "TLS13_AES_256_GCM_SHA384",
                    "TLS_AES_128_GCM_SHA256",
                    "TLS13_CHACHA20_POLY1305_SHA256",
                )
            },
            "TLSv1_3",
            "TLSv1.3",
            None,
        ),
        ({"groups": ("P-384",)}, "TLSv1_3", "TLSv1.3", None),
    ],
)
def test_settings(settings: dict[str, Any], maximum: str, version: str, cipher: str | None) -> None:
    for server in (
        ServerTls([replace(EXACT, **settings)]),
        ServerTls([EXACT], TlsDefaults(**settings)),
    ):
        client = trusting(maximum=ssl.TLSVersion[maximum])
        shaken = shake(server, "a.example", client)
        assert shaken.server.version() == version
        found = shaken.server.cipher()
        assert found is not None
        assert cipher is None or found[0] == cipher


@pytest.mark.parametrize(
    ("settings", "maximum"),
    [
        ({"min_version": "TLS_V1_3"}, "TLSv1_2"),
        (
            {
                "cipher_suites": (
                    "TLS_AES_256_GCM_SHA384",
                    "TLS_AES_128_GCM_SHA256",
                    "TLS_CHACHA20_POLY1305_SHA256",
                )
            },
            "TLSv1_2",
        ),
        ({"cipher_suites": ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",)}, "TLSv1_3"),
    ],
)
def test_settings_exclude(settings: dict[str, Any], maximum: str) -> None:
    server = ServerTls([replace(EXACT, **settings)])
    with pytest.raises(ssl.SSLError):
        shake(server, "a.example", trusting(maximum=ssl.TLSVersion[maximum]))


THREE = ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"min_version": "TLS_V1_1"}, "listeners[exact].tls"),
        ({"min_version": "TLS_V1_3", "max_version": "TLS_V1_2"}, "listeners[exact].tls"),
        ({"cipher_suites": ("TLS_RSA_WITH_RC4_128_MD5",)}, "listeners[exact].tls.cipherSuites"),
        (
            {"cipher_suites": THREE, "max_version": "TLS_V1_2"},
            "listeners[exact].tls.cipherSuites",
        ),
        (
            {
                "cipher_suites": ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",),
                "min_version": "TLS_V1_3",
            },
            "listeners[exact].tls.cipherSuites",
        ),
        ({"groups": ("P-521",)}, "listeners[exact].tls.keyExchangeGroups"),
    ],
)
def test_settings_refused(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerTls([replace(EXACT, **settings)])
    assert caught.value.path == path


@pytest.mark.skipif(
    hasattr(ssl.SSLContext, "set_ciphersuites"), reason="this Python can choose TLS 1.3 suites"
)
def test_part_of_the_suites_of_tls_1_3_is_refused() -> None:
    with pytest.raises(ConfigError):
        ServerTls([replace(EXACT, cipher_suites=THREE[:2])])


@pytest.mark.parametrize(
    ("defaults", "protocol", "offered", "chosen"),
    [
        (TlsDefaults(), "HTTPS", ("h2", "http/1.1"), "h2"),
        (TlsDefaults(), "HTTPS", ("http/1.1",), "http/1.1"),
        (TlsDefaults(), "HTTPS", ("acme-tls/1",), None),
        (TlsDefaults(), "TLS", ("h2",), None),
        (TlsDefaults(alpn=("http/1.1",)), "HTTPS", ("h2", "http/1.1"), "http/1.1"),
        (TlsDefaults(alpn=()), "HTTPS", ("h2",), None),
    ],
)
def test_alpn(
    defaults: TlsDefaults, protocol: str, offered: tuple[str, ...], chosen: str | None
) -> None:
    server = ServerTls([replace(EXACT, protocol=protocol)], defaults)
    shaken = shake(server, "a.example", trusting(alpn=offered))
    assert shaken.server.selected_alpn_protocol() == chosen


def test_defaults_of_a_policy() -> None:
    policy = {"alpn": [[104, 50]], "minVersion": "TLS_V1_3", "cipherSuites": list(THREE)}
    assert TlsDefaults.from_policy(policy) == TlsDefaults(("h2",), "TLS_V1_3", None, THREE)
    assert TlsDefaults.from_policy({}) == TlsDefaults()


# --- client certificates --------------------------------------------------------------------------

MUTUAL = replace(EXACT, key="mutual", root=CLIENTS.root)


def test_client_certificate() -> None:
    shaken = shake(ServerTls([MUTUAL, ANY]), "a.example", trusting(cert=CLIENT))
    der = shaken.server.getpeercert(binary_form=True)
    assert der == ssl.PEM_cert_to_DER_cert(CLIENT.cert)


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cert", [None, OTHERS.issue(["x"]), ROOT.issue(["x"])])
def test_client_without_a_trusted_certificate(cert: Pair | None, maximum: ssl.TLSVersion) -> None:
    client = trusting(maximum=maximum) if cert is None else trusting(cert=cert, maximum=maximum)
    with pytest.raises(ssl.SSLError):
        shake(ServerTls([MUTUAL, ANY]), "a.example", client)


def test_intermediate_authority_alone_is_trusted() -> None:
    middle = Authority("middle", CLIENTS)
    server = ServerTls([replace(EXACT, root=middle.root)])
    shake(server, "a.example", trusting(cert=middle.issue(["x"])))


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_of_an_open_listener_is_not_resumed_on_a_guarded_one(
    maximum: ssl.TLSVersion,
) -> None:
    server = ServerTls([MUTUAL, ANY])
    client = trusting(maximum=maximum)
    session = shake(server, "open.example", client).client.session
    assert session is not None
    resumed = Shake(_context(server, "open.example"), client, "open.example", session)
    assert resumed.server.session_reused
    with pytest.raises(ssl.SSLError):
        Shake(_context(server, "a.example"), client, "a.example", session)


def _context(server: ServerTls, name: str) -> ssl.SSLContext:
    context = server.context_for(name)
    assert context is not None
    return context


@pytest.mark.parametrize(
    "other",
    [
        MUTUAL,
        replace(EXACT, root=OTHERS.root),
        replace(EXACT, max_version="TLS_V1_2"),
        replace(EXACT, groups=("P-384",)),
    ],
)
def test_front_context_refuses_listeners_that_differ(other: TlsListener) -> None:
    with pytest.raises(ConfigError):
        ServerTls([other, ANY]).front_context()
    server = ServerTls([EXACT, ANY])
    server.front_context()
    with pytest.raises(ConfigError):
        server.replace([other, ANY])
    assert server.listener_for("a.example") == "exact"


def test_front_context_of_guarded_listeners_asks_for_certificates() -> None:
    server = ServerTls([MUTUAL, replace(ANY, root=CLIENTS.root)])
    shaken = Shake(server.front_context(), trusting(cert=CLIENT), "a.example")
    assert shaken.server.getpeercert(binary_form=True)
    with pytest.raises(ssl.SSLError):
        Shake(server.front_context(), trusting(), "a.example")


# --- PEM texts ------------------------------------------------------------------------------------

LISTENER_DATA = {
    "hostname": "a.example",
    "protocol": "HTTPS",
    "tls": {
        "mode": "static",
        "cert": PAIRS["a.example"].cert,
        "key": PAIRS["a.example"].key,
        "root": None,
        "min_version": None,
        "max_version": "TLS_V1_2",
        "cipher_suites": None,
    },
}


def test_listener_data() -> None:
    found = TlsListener.from_data("k", LISTENER_DATA)
    assert found == replace(EXACT, key="k", max_version="TLS_V1_2")
    assert "PRIVATE" not in repr(found)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"tls": None}, "listeners[k].tls"),
        ({"tls": {**LISTENER_DATA["tls"], "cert": None}}, "listeners[k].tls.cert"),  # type: ignore[dict-item]
        ({"tls": {**LISTENER_DATA["tls"], "key": ""}}, "listeners[k].tls.key"),  # type: ignore[dict-item]
    ],
)
def test_listener_data_refused(change: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TlsListener.from_data("k", {**LISTENER_DATA, **change})
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("change", "path", "word"),
    [
        ({"private_key": PAIRS["*.example"].key}, "key", "belong"),
        ({"private_key": make_pair("a", b"secret").key}, "key", "encrypted"),
        ({"private_key": "garbage"}, "key", "cannot be used"),
        ({"cert": "garbage"}, "key", "cannot be used"),
        ({"cert": PAIRS["a.example"].cert[:200]}, "key", "cannot be used"),
        ({"root": "garbage"}, "root", "PEM"),
        ({"root": PAIRS["a.example"].key}, "root", "PEM"),
        ({"root": ""}, "root", "PEM"),
    ],
)
def test_bad_pem_is_refused_without_repeating_it(
    change: dict[str, Any], path: str, word: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerTls([replace(EXACT, **change)])
    assert caught.value.path == f"listeners[exact].tls.{path}"
    assert word in caught.value.message
    assert "PRIVATE KEY" not in str(caught.value)


def test_keys_leave_no_descriptor_behind() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    ServerTls([EXACT, ANY])
    with pytest.raises(ConfigError):
        ServerTls([replace(EXACT, private_key="garbage")])
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- towards backends -----------------------------------------------------------------------------


def dial(payload: dict[str, Any], hostname: str, names: list[str], **more: Any) -> Shake:
    """Shake hands with a backend that has a certificate for `names`, and verify it."""
    pair = ROOT.issue(names)
    client = ClientTls(payload, hostname)
    server = ServerTls([listener("s", "", pair, root=more.get("root"))])
    context = server.context_for("")
    assert context is not None
    shaken = Shake(context, client.context(http1_only=False), client.server_hostname)
    client.verify(shaken.client)
    return shaken


TRUST = {"root": ROOT.root}


@pytest.mark.parametrize(
    ("payload", "hostname", "names"),
    [
        pytest.param(TRUST, "a.example", ["a.example"], id="host"),
        pytest.param(TRUST, "x.b.example", ["*.b.example"], id="wildcard"),
        pytest.param(TRUST, "10.0.0.1", ["10.0.0.1"], id="address"),
        pytest.param(TRUST | {"hostname": "b.example"}, "10.0.0.1", ["b.example"], id="pinned"),
        pytest.param(TRUST | {"insecureHost": True}, "a.example", ["z.example"], id="any-host"),
        pytest.param({"insecure": True}, "a.example", ["z.example"], id="insecure"),
        pytest.param(
            TRUST | {"subjectAltNames": ["spiffe://td/x", "Y.example"]},
            "a.example",
            ["y.example"],
            id="alternative-name",
        ),
        pytest.param(
            TRUST | {"subjectAltNames": ["spiffe://td/x"], "insecureHost": True},
            "a.example",
            ["spiffe://td/x"],
            id="alternative-uri",
        ),
    ],
)
def test_backend_is_accepted(payload: dict[str, Any], hostname: str, names: list[str]) -> None:
    dial(payload, hostname, names)


@pytest.mark.parametrize(
    ("payload", "hostname", "names"),
    [
        pytest.param(TRUST, "a.example", ["z.example"], id="another-host"),
        pytest.param(TRUST, "a.example", [], id="no-names"),
        pytest.param({}, "a.example", ["a.example"], id="unknown-root"),
        pytest.param({"root": OTHERS.root}, "a.example", ["a.example"], id="other-root"),
        pytest.param({"insecureHost": True}, "a.example", ["a.example"], id="any-host-bad-root"),
        pytest.param(
            TRUST | {"subjectAltNames": ["b.example"]}, "a.example", ["a.example"], id="pinned-name"
        ),
        pytest.param(
            TRUST | {"subjectAltNames": ["spiffe://td/x"]},
            "a.example",
            ["spiffe://td/X"],
            id="uri-case",
        ),
        pytest.param(TRUST | {"subjectAltNames": []}, "a.example", ["a.example"], id="empty-list"),
    ],
)
def test_backend_is_refused(payload: dict[str, Any], hostname: str, names: list[str]) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        dial(payload, hostname, names)


def test_client_certificate_towards_a_backend() -> None:
    payload = TRUST | {"cert": CLIENT.cert, "key": CLIENT.key}
    shaken = dial(payload, "a.example", ["a.example"], root=CLIENTS.root)
    assert shaken.server.getpeercert(binary_form=True)
    with pytest.raises(ssl.SSLError):
        dial(TRUST, "a.example", ["a.example"], root=CLIENTS.root)


@pytest.mark.parametrize(
    ("payload", "http1_only", "chosen"),
    [
        (TRUST, False, "h2"),
        (TRUST, True, "http/1.1"),
        (TRUST | {"alpn": ["http/1.1"]}, False, "http/1.1"),
        (TRUST | {"alpn": ["h2"]}, True, None),
        (TRUST | {"alpn": []}, False, None),
    ],
)
def test_backend_alpn(payload: dict[str, Any], http1_only: bool, chosen: str | None) -> None:
    client = ClientTls(payload, "a.example")
    shaken = Shake(
        _context(ServerTls([EXACT]), "a.example"),
        client.context(http1_only=http1_only),
        client.server_hostname,
    )
    assert shaken.client.selected_alpn_protocol() == chosen


def test_same_policy_for_another_host() -> None:
    client = ClientTls(TRUST, "a.example")
    other = client.named("b.example")
    assert (client.server_hostname, other.server_hostname) == ("a.example", "b.example")
    assert other.context(http1_only=True) is client.context(http1_only=True)
    assert ClientTls(TRUST | {"hostname": "p"}, "a").named("b").server_hostname == "p"


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"cert": CLIENT.cert}, "b"),
        ({"key": CLIENT.key}, "b"),
        ({"cert": CLIENT.cert, "key": "garbage"}, "b.key"),
        ({"root": "garbage"}, "b.root"),
        ({"insecure": True, "subjectAltNames": ["a"]}, "b.subjectAltNames"),
        ({"keyExchangeGroups": ["X25519_MLKEM1024"]}, "b.keyExchangeGroups"),
        ({"keyExchangeGroups": []}, "b.keyExchangeGroups"),
    ],
)
def test_backend_policy_refused(payload: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ClientTls(payload, "a.example", "b")
    assert caught.value.path == path


def test_backend_group() -> None:
    payload = TRUST | {"keyExchangeGroups": ["P-256"]}
    dial(payload, "a.example", ["a.example"])
    only_384 = ServerTls([replace(EXACT, groups=("P-384",))])
    client = ClientTls(payload, "a.example").context(http1_only=False)
    with pytest.raises(ssl.SSLError):
        Shake(_context(only_384, "a.example"), client, "a.example")
