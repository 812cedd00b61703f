"""TLS by SPIFFE between two of ours: who is let in, whom we trust, rotation, expiry."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidecar.config.svid import svid_resource
from sidecar.errors import ConfigError
from sidecar.net.handshake import check
from sidecar.net.svid import Svid, Svids, further_domains
from sidecar.net.svid_peers import PeerCheck, verified_chain
from sidecar.net.tls import ServerTls, TlsDefaults, TlsListener
from sidecar.net.tls_client import ClientTls
from sidecar.net.tls_context import load_pair
from tests.hbone.pki import END, Leaf, Pki
from tests.support.authority import Authority
from tests.support.clock import HeldClock

NOW = datetime.fromtimestamp(HeldClock().time_ns() // 10**9, UTC)
YEAR = 365 * 86_400
OURS, PARTNER, OTHER = Pki("ours"), Pki("partner"), Pki("other")
GATEWAY, CART = "spiffe://example.org/gateway", "spiffe://example.org/ns/shop/sa/cart"
AGENT = "spiffe://partner.test/agent"
LISTENER = TlsListener.from_data("k", {"protocol": "HTTPS", "tls": {"spiffe": {}}})
V12 = ssl.TLSVersion.TLSv1_2


def svid(
    spiffe_id: str,
    leaf: Leaf,
    roots: Pki = OURS,
    federated: Mapping[str, Pki] | None = None,
    end: datetime = END,
) -> Svid:
    made = svid_resource(
        spiffe_id,
        leaf.chain.decode(),
        leaf.key.decode(),
        roots.root_pem.decode(),
        {name: pki.root_pem.decode() for name, pki in (federated or {}).items()},
        int(end.timestamp()),
    )
    return Svid.from_data(made.data)


BOTH = {"partner.test": PARTNER}
OWN = OURS.leaf(GATEWAY)


def holder(own: Svid | None = None, *, further: str = "", at: HeldClock | None = None) -> Svids:
    svids = Svids(at or HeldClock())
    svids.further = further_domains({"additionalTrustDomains": further})
    svids.put(own or svid(GATEWAY, OWN))
    return svids


def client_of(leaf: Leaf | None, roots: Pki = OURS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=roots.root_pem.decode())
    if leaf is not None:
        _load(context, leaf)
    return context


def server_of(leaf: Leaf) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, leaf)
    return context


def _load(context: ssl.SSLContext, leaf: Leaf) -> None:
    load_pair(context, leaf.chain.decode(), leaf.key.decode(), "test")


def shake(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after the handshake. Raises: ssl.SSLError of either."""
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(one, two, session=session),
        server.wrap_bio(two, one, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[1], ends[0]


def serve(svids: Svids) -> ServerTls:
    return ServerTls([LISTENER], TlsDefaults(), svids)


def context_of(server: ServerTls) -> ssl.SSLContext:
    context = server.context_for("")
    assert context is not None
    return context


def accept(server: ServerTls, client: ssl.SSLContext) -> None:
    """Raises: ssl.SSLError or IdentityError."""
    check(shake(context_of(server), client)[0])


# --- listeners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("maximum", [V12, ssl.TLSVersion.TLSv1_3])
def test_a_client_of_the_trust_domain_is_let_in(maximum: ssl.TLSVersion) -> None:
    client = client_of(OURS.leaf(CART))
    client.maximum_version = maximum
    own, other = shake(context_of(serve(holder())), client)
    check(own)
    shown = other.getpeercert()
    assert shown is not None
    assert shown["subjectAltName"] == (("URI", GATEWAY),)
    assert other.selected_alpn_protocol() is None


@pytest.mark.parametrize(
    "leaf",
    [
        None,
        OTHER.leaf(CART),
        PARTNER.leaf(AGENT),
        OURS.leaf(CART, end=datetime(2021, 1, 1, tzinfo=UTC)),
    ],
    ids=["none", "forged", "foreign", "expired"],
)
def test_who_openssl_refuses(leaf: Leaf | None) -> None:
    with pytest.raises(ssl.SSLError):
        accept(serve(holder(svid(GATEWAY, OWN, federated=BOTH))), client_of(leaf))


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (OURS.leaf(AGENT), "trust domain partner.test is not trusted here"),
        (OURS.leaf(CART, GATEWAY), "is no SVID: it has 2 URIs"),
        (OURS.leaf(dns="a.test"), "is no SVID: it has 0 URIs"),
        (OURS.leaf("spiffe://example.org/a/../b"), "is no SPIFFE ID"),
    ],
)
def test_who_is_refused_though_the_chain_is_good(leaf: Leaf, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        accept(serve(holder()), client_of(leaf))


def test_each_bundle_vouches_for_its_own_trust_domain_alone() -> None:
    server = serve(holder(svid(GATEWAY, OWN, federated=BOTH), further="partner.test"))
    accept(server, client_of(PARTNER.leaf(AGENT)))
    accept(server, client_of(OURS.leaf(CART)))
    for forged in (PARTNER.leaf(CART), OURS.leaf(AGENT)):
        with pytest.raises(Exception, match="does not vouch for the peer's certificate"):
            accept(server, client_of(forged))
    # An authority of theirs, below the root, and a chain of ours that is as long.
    below = Pki("below", above=PARTNER)
    accept(server, client_of(below.leaf(AGENT)))
    with pytest.raises(Exception, match=r"the bundle of example\.org does not vouch"):
        accept(server, client_of(below.leaf(CART)))


def test_a_bundle_of_our_own_trust_domain_from_others_is_not_used() -> None:
    own = svid(GATEWAY, OWN, federated={"example.org": OTHER})
    assert own.bundles == {"example.org": OURS.root_pem.decode()}


def test_further_trust_domains() -> None:
    assert further_domains({}) == frozenset()
    assert further_domains({"additionalTrustDomains": "a, b,"}) == frozenset("ab")
    svids = holder(svid(GATEWAY, OWN, federated={**BOTH, "other.test": OTHER}))
    svids.further = further_domains({"skipValidateTrustDomain": True})
    for leaf in (PARTNER.leaf(AGENT), OTHER.leaf("spiffe://other.test/x"), OURS.leaf(CART)):
        accept(serve(svids), client_of(leaf))


def test_nothing_is_served_before_the_first_and_after_the_end() -> None:
    at = HeldClock()
    svids = Svids(at)
    server = serve(svids)
    assert server.context_for("") is None
    assert server.listener_for("") == "k"
    svids.put(svid(GATEWAY, OWN, end=NOW + timedelta(seconds=60)))
    accept(server, client_of(OURS.leaf(CART)))
    at.pass_seconds(60)
    assert server.context_for("") is None
    svids.put(svid(GATEWAY, OWN))
    accept(server, client_of(OURS.leaf(CART)))
    svids.put(None)
    assert server.context_for("") is None


def test_rotation_makes_new_contexts_and_keeps_open_connections() -> None:
    svids = holder()
    server = serve(svids)
    client = client_of(OURS.leaf(CART))
    first = context_of(server)
    assert context_of(server) is first
    before, other = shake(first, client)
    svids.put(svid(GATEWAY, OTHER.leaf(GATEWAY), OTHER))
    assert context_of(server) is not first
    with pytest.raises(ssl.SSLError):
        shake(context_of(server), client)
    accept(server, client_of(OTHER.leaf(CART), OTHER))
    before.write(b"still here")
    assert other.read(64) == b"still here"


def test_a_resumed_session_is_one_that_was_verified_here() -> None:
    at = HeldClock()
    svids = holder(svid(GATEWAY, OWN, federated=BOTH), further="partner.test", at=at)
    context = context_of(serve(svids))
    client = client_of(PARTNER.leaf(AGENT, end=NOW + timedelta(days=80 * 365)))
    client.maximum_version = V12
    own, other = shake(context, client)
    session = other.session
    again, _ = shake(context, client, session)
    assert again.session_reused
    assert verified_chain(again) == []
    with pytest.raises(Exception, match="does not vouch"):
        check(again)  # what was not looked at when it began
    check(own)
    check(again)
    at.pass_seconds(90 * YEAR)
    with pytest.raises(Exception, match="has expired"):
        check(again)


def test_no_session_of_tls_1_3_can_be_resumed() -> None:
    context, client = context_of(serve(holder())), client_of(OURS.leaf(CART))
    own, other = shake(context, client)
    own.write(b"x")
    assert other.read(1) == b"x"  # and whatever tickets came before it
    again, _ = shake(context, client, other.session)
    assert not again.session_reused


def test_settings_of_all_listeners_hold() -> None:
    server = ServerTls([LISTENER], TlsDefaults(min_version="TLS_V1_3", alpn=("x",)), holder())
    client = client_of(OURS.leaf(CART))
    client.set_alpn_protocols(["x"])
    assert shake(context_of(server), client)[0].selected_alpn_protocol() == "x"
    client.maximum_version = V12
    with pytest.raises(ssl.SSLError):
        shake(context_of(server), client)
    suites = TlsDefaults(max_version="TLS_V1_2", cipher_suites=("TLS_AES_128_GCM_SHA256",))
    for impossible in (TlsDefaults(groups=("none",)), suites):
        with pytest.raises(ConfigError):
            ServerTls([LISTENER], impossible, holder())


def test_a_listener_without_svid_beside_one_with() -> None:
    pair = Authority().issue(["a.test"])
    plain = TlsListener("p", "a.test", cert=pair.cert, private_key=pair.key)
    server = ServerTls([LISTENER, plain])
    assert server.context_for("a.test") is not None
    assert server.context_for("b.test") is None
    with pytest.raises(ConfigError):
        server.front_context()


# --- backends -------------------------------------------------------------------------------------


def dial(svids: Svids, server: ssl.SSLContext, **more: Any) -> ssl.SSLObject:
    """The server's end. Raises: ssl.SSLError."""
    client = ClientTls({"spiffe": {}, **more}, "up.test", svids=svids)
    own, other = shake(server, client.context(http1_only=False))
    client.verify(other)
    return own


def test_a_backend_of_the_trust_domain_sees_our_certificate() -> None:
    server = server_of(OURS.leaf("spiffe://example.org/up"))
    server.load_verify_locations(cadata=OURS.root_pem.decode())
    server.verify_mode = ssl.CERT_REQUIRED
    shown = dial(holder(), server).getpeercert()
    assert shown is not None
    assert shown["subjectAltName"] == (("URI", GATEWAY),)


UP, FRIEND = "spiffe://example.org/up", "spiffe://partner.test/up"


@pytest.mark.parametrize(
    ("leaf", "pinned", "is_trusted"),
    [
        (OURS.leaf(UP), None, True),
        (OURS.leaf(UP), [UP], True),
        (OURS.leaf(UP), [FRIEND, UP], True),
        (OURS.leaf(UP), [GATEWAY], False),
        (OURS.leaf(UP), [], False),
        (OURS.leaf(UP, dns="up.test"), ["up.test"], True),
        (OURS.leaf(UP, dns="up.test"), ["no.test"], False),
        (OTHER.leaf(UP), [UP], False),
        (PARTNER.leaf(UP), [UP], False),
        (PARTNER.leaf(FRIEND), None, False),
        (PARTNER.leaf(FRIEND), [FRIEND], True),
        (PARTNER.leaf(FRIEND), [UP, FRIEND], True),
        (PARTNER.leaf(UP), [UP, FRIEND], False),
        (OURS.leaf(FRIEND), [UP, FRIEND], False),
        (PARTNER.leaf(FRIEND, dns="up.test"), ["up.test", AGENT], False),
        (OURS.leaf(dns="up.test"), None, False),
        (OTHER.leaf("spiffe://other.test/up"), ["spiffe://other.test/up"], False),
    ],
)
def test_which_backend_is_trusted(leaf: Leaf, pinned: list[str] | None, is_trusted: bool) -> None:
    svids = holder(svid(GATEWAY, OWN, federated=BOTH))
    more = {} if pinned is None else {"subjectAltNames": pinned}
    if is_trusted:
        dial(svids, server_of(leaf), **more)
        return
    with pytest.raises(ssl.SSLError):
        dial(svids, server_of(leaf), **more)


def test_no_backend_is_dialled_without_an_svid() -> None:
    client = ClientTls({"spiffe": {}}, "up.test")
    with pytest.raises(ssl.SSLError, match="has given no certificate that is valid now"):
        client.context(http1_only=False)


def test_contexts_of_a_backend_are_shared_until_a_rotation() -> None:
    svids = holder()
    client = ClientTls({"spiffe": {}, "keyExchangeGroups": ["P-256"]}, "up.test", svids=svids)
    both, one = client.context(http1_only=False), client.context(http1_only=True)
    assert both is not one
    assert client.named("b").context(http1_only=True) is one
    svids.put(svid(GATEWAY, OURS.leaf(GATEWAY)))
    assert client.context(http1_only=True) is not one
    with pytest.raises(ConfigError) as caught:
        ClientTls({"spiffe": {}, "keyExchangeGroups": ["X"]}, "up.test", "b")
    assert caught.value.path == "b.keyExchangeGroups"


def test_a_handshake_is_judged_by_what_it_began_with() -> None:
    svids = holder(svid(GATEWAY, OWN, federated=BOTH))
    client = ClientTls({"spiffe": {}, "subjectAltNames": [UP, FRIEND]}, "up.test", svids=svids)
    ends = [
        shake(server_of(leaf), client.context(http1_only=False))[1]
        for leaf in (PARTNER.leaf(UP), PARTNER.leaf(FRIEND))
    ]
    svids.put(svid(GATEWAY, OWN))  # without the partner's bundle
    client.context(http1_only=False)
    with pytest.raises(ssl.SSLError, match="does not vouch for the peer's certificate"):
        client.verify(ends[0])
    client.verify(ends[1])


# --- what the snapshot has ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"spiffe_id": "https://example.org"},
        {"key": OURS.leaf(GATEWAY).key.decode()},
        {"chain": "junk"},
        {"roots": ""},
        {"federated": {"partner.test": "junk"}},
    ],
)
def test_what_cannot_be_used_is_refused(change: dict[str, Any]) -> None:
    whole = svid_resource(
        GATEWAY, OWN.chain.decode(), OWN.key.decode(), OURS.root_pem.decode(), {}, 2**32
    )
    with pytest.raises(ConfigError) as caught:
        Svid.from_data({**whole.data, **change})
    assert "PRIVATE" not in str(caught.value)


def test_no_secret_is_shown() -> None:
    assert "PRIVATE" not in repr(svid(GATEWAY, OWN))


def test_what_passed_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.net.svid_peers._PASSED_MAX", 2)
    bundles = svid(GATEWAY, OWN, federated=BOTH).bundles
    peers = PeerCheck(bundles, HeldClock().time_ns)
    context = context_of(serve(holder(svid(GATEWAY, OWN, federated=BOTH), further="partner.test")))
    for _ in range(4):
        peers.peer(shake(context, client_of(OURS.leaf(CART)))[0])
    assert len(peers._passed) == 2
