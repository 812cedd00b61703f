"""TLS contexts towards the endpoints of backends.

Source: spec config section 3.11 (backendTLS); RFC 9525; SPIFFE: X509-SVID.md section 5.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, final

from sidecar.errors import ConfigError
from sidecar.http.identity import IdentityError, subject_alt_names
from sidecar.http.spiffe_id import trust_domain_of
from sidecar.net.svid import Svid, Svids
from sidecar.net.svid_peers import PeerCheck
from sidecar.net.tls_context import HTTP_ALPN, load_pair, load_root, set_groups

_Context = TypeVar("_Context", bound=ssl.SSLContext)


@final
class ClientTls:
    """TLS towards the endpoints of one backend, from its `backendTLS` payload (PEM texts).

    `server_hostname` is sent as SNI and verified, unless the policy names another or says not to.
    """

    __slots__ = ("_contexts", "_names", "_pinned", "server_hostname")

    def __init__(
        self,
        payload: Mapping[str, Any],
        hostname: str,
        place: str = "backendTLS",
        alpn: Sequence[str] = HTTP_ALPN,
        svids: Svids | None = None,
    ) -> None:
        """`alpn` holds where the payload has none. `svids`: where `spiffe` finds its own; None:
        nowhere, so that every connection fails. Raises: ConfigError."""
        names: Sequence[str] | None = payload.get("subjectAltNames")
        if payload.get("insecure") and names is not None:
            raise ConfigError(
                f"{place}.subjectAltNames",
                "names of a certificate that insecure leaves unverified prove nothing",
            )
        self._names = None if names is None else frozenset(_comparable(name) for name in names)
        self._pinned: str = payload.get("hostname") or ""
        self.server_hostname: str = self._pinned or hostname
        offered = tuple(alpn if payload.get("alpn") is None else payload["alpn"])
        without = tuple(name for name in offered if name != "h2")
        self._contexts: _ClientContexts | _SvidContexts
        if payload.get("spiffe") is not None:
            self._contexts = _SvidContexts(payload, offered, without, place, svids or Svids())
            return
        both = one = _client_context(payload, offered, place, _fresh())
        if without != offered:
            one = _client_context(payload, without, place, _fresh())
        self._contexts = _ClientContexts(both, one)

    def named(self, hostname: str) -> ClientTls:
        """The same policy for another host (a dynamic backend); contexts are shared."""
        other = ClientTls.__new__(ClientTls)
        other._contexts = self._contexts
        other._names, other._pinned = self._names, self._pinned
        other.server_hostname = self._pinned or hostname
        return other

    def context(self, *, http1_only: bool) -> ssl.SSLContext:
        """The context to connect with; `http1_only` offers no h2. Raises: ssl.SSLError while there
        is no SVID."""
        return self._contexts.get(http1_only=http1_only)

    def verify(self, ssl_object: ssl.SSLObject) -> None:
        """Check `subjectAltNames`, or whose SVID it is, after the handshake.

        Raises: ssl.SSLCertVerificationError.
        """
        self._contexts.check(ssl_object)
        if self._names is None:
            return
        der = ssl_object.getpeercert(binary_form=True)
        try:
            have = () if der is None else subject_alt_names(der)
        except IdentityError as exc:
            raise ssl.SSLCertVerificationError(1, str(exc)) from exc
        if self._names.isdisjoint(_comparable(name) for name in have):
            raise ssl.SSLCertVerificationError(
                1, "the certificate of the backend has none of the names in subjectAltNames"
            )


@final
class _ClientContexts:
    """Those of certificates that are in the configuration."""

    __slots__ = ("_both", "_http1")

    def __init__(self, both: ssl.SSLContext, http1: ssl.SSLContext) -> None:
        self._both = both
        self._http1 = http1

    def get(self, *, http1_only: bool) -> ssl.SSLContext:
        """See ClientTls.context."""
        return self._http1 if http1_only else self._both

    def check(self, ssl_object: ssl.SSLObject) -> None:
        """See ClientTls.verify: OpenSSL has done it."""


@final
class _SvidContext(ssl.SSLContext):
    """Knows what it was made of: the SVID in force may be another when a handshake ends."""

    peers: PeerCheck
    trust_domain: str


@final
class _SvidContexts:
    """Those of the SVID in force, which are made anew after a rotation.

    Of another trust domain an endpoint is what `subjectAltNames` name, and nobody else.
    """

    __slots__ = ("_kept", "_made_of", "_payload", "_pinned", "_place", "_protocols", "_svids")

    def __init__(
        self,
        payload: Mapping[str, Any],
        both: tuple[str, ...],
        http1: tuple[str, ...],
        place: str,
        svids: Svids,
    ) -> None:
        """Raises: ConfigError."""
        set_groups(
            _fresh(),
            _optional_tuple(payload.get("keyExchangeGroups")),
            f"{place}.keyExchangeGroups",
        )
        # The name of a workload is its ID.
        self._payload = {**payload, "insecureHost": True}
        self._pinned = frozenset(payload.get("subjectAltNames") or ())
        self._protocols = (both, http1)
        self._place = place
        self._svids = svids
        self._made_of: Svid | None = None
        self._kept: tuple[_SvidContext, _SvidContext]

    def get(self, *, http1_only: bool) -> ssl.SSLContext:
        """See ClientTls.context."""
        return self._current()[http1_only]

    def _current(self) -> tuple[_SvidContext, _SvidContext]:
        svid = self._svids.current()
        if svid is None:
            raise ssl.SSLError(1, "the SPIFFE agent has given no certificate that is valid now")
        if svid is self._made_of:
            return self._kept
        named = {trust_domain_of(name) or "" for name in self._pinned}
        bundles = svid.bundles_of({svid.trust_domain, *named})
        payload = {
            **self._payload,
            "cert": svid.chain,
            "key": svid.key,
            "root": "\n".join(bundles.values()),
        }
        both, http1 = (
            _client_context(payload, names, self._place, _SvidContext(ssl.PROTOCOL_TLS_CLIENT))
            for names in self._protocols
        )
        for context in (both, http1):
            context.peers = PeerCheck(bundles, self._svids.now_ns)
            context.trust_domain = svid.trust_domain
        self._kept = (both, http1)
        self._made_of = svid
        return self._kept

    def check(self, ssl_object: ssl.SSLObject) -> None:
        """See ClientTls.verify."""
        context = ssl_object.context
        assert isinstance(context, _SvidContext), "not a connection of these contexts"
        spiffe_id = context.peers.peer(ssl_object)
        if trust_domain_of(spiffe_id) != context.trust_domain and spiffe_id not in self._pinned:
            raise ssl.SSLCertVerificationError(
                1, f"{spiffe_id} is of another trust domain and not in subjectAltNames"
            )


def _fresh() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _comparable(name: str) -> str:
    """DNS names compare without case; the path of a URI (a SPIFFE ID) does not."""
    return name if "://" in name else name.lower()


def _client_context(
    payload: Mapping[str, Any], alpn: Sequence[str], place: str, context: _Context
) -> _Context:
    """The context, which is fresh. Raises: ConfigError."""
    # RFC 9525: a name is in the subject alternative names, or the certificate has none.
    context.hostname_checks_common_name = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    insecure = bool(payload.get("insecure"))
    # `subjectAltNames` stand in the place of the hostname; ClientTls.verify compares them.
    if insecure or payload.get("insecureHost") or payload.get("subjectAltNames") is not None:
        context.check_hostname = False
    if insecure:
        context.verify_mode = ssl.CERT_NONE
    elif payload.get("root") is not None:
        load_root(context, payload["root"], f"{place}.root")
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    cert, key = payload.get("cert"), payload.get("key")
    if (cert is None) != (key is None):
        raise ConfigError(place, "a client certificate needs both cert and key")
    if cert is not None:
        load_pair(context, cert, key, place)
    set_groups(
        context, _optional_tuple(payload.get("keyExchangeGroups")), f"{place}.keyExchangeGroups"
    )
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _optional_tuple(value: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)
