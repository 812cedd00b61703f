"""TLS contexts: those of a bind's listeners, chosen by server name, and those towards backends.

Source: spec config sections 1.4, 1.10 (tls), 2.1 and 3.11 (backendTLS); RFC 8446; RFC 9525.

Each listener has a context of its own, and a connection gets the context of its listener before the
handshake begins, from the server name of its client hello (`sidecar.net.clienthello`). The usual
way, one context whose callback switches to another, is not safe in general: OpenSSL switches the
certificate and leaves what was copied when the connection object was made, namely whether a client
certificate is asked for, the versions, and the cache of sessions, so that a session of an open
listener could be resumed on one that requires certificates. `front_context` offers that way for
servers that cannot look at the hello first, and only for listeners that differ in nothing but
certificate, ALPN and TLS 1.2 suites.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, final

from sidecar.errors import ConfigError
from sidecar.http.identity import IdentityError, subject_alt_names
from sidecar.net.minting import Authority, Minted, cache_limits, is_name
from sidecar.net.tls_context import (
    SUITES_12,
    load_pair,
    load_root,
    set_groups,
    set_suites,
    set_versions,
)

_log: Final = logging.getLogger("sidecar.net.tls")
HTTP_ALPN: Final = ("h2", "http/1.1")


@final
@dataclass(frozen=True, slots=True)
class TlsDefaults:
    """`frontendPolicies.tls`: what listeners that say nothing use. `alpn` None: by protocol."""

    alpn: tuple[str, ...] | None = None
    min_version: str | None = None
    max_version: str | None = None
    cipher_suites: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    minted_seconds: float = 300.0
    """How long a certificate made on demand is used."""
    minted_count: int = 256
    """How many of a listener's are kept."""

    @classmethod
    def from_policy(
        cls, policy: Mapping[str, Any], env: Mapping[str, str] | None = None
    ) -> TlsDefaults:
        """From the payload, whose `alpn` is a list of lists of octets, and the environment.

        Raises: ConfigError.
        """
        alpn = policy.get("alpn")
        seconds, count = cache_limits(env or {})
        return cls(
            None if alpn is None else tuple(_protocol(item) for item in alpn),
            policy.get("minVersion"),
            policy.get("maxVersion"),
            _optional_tuple(policy.get("cipherSuites")),
            _optional_tuple(policy.get("keyExchangeGroups")),
            seconds,
            count,
        )

    def check(self) -> None:
        """Whether this Python and OpenSSL can do it. Raises: ConfigError below the policy."""
        set_groups(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.groups, "keyExchangeGroups")


@final
@dataclass(frozen=True, slots=True)
class TlsListener:
    """One HTTPS or TLS listener of a bind. `cert` None: TLS is passed through, not terminated.

    PEM texts. `hostname`: lower case, "" for any, `*.suffix` for a wildcard. Equal values make
    equal contexts, so a reload keeps the context (and its sessions) of a listener not changed.
    """

    key: str
    hostname: str
    protocol: str = "HTTPS"
    cert: str | None = None
    private_key: str | None = None
    root: str | None = None
    min_version: str | None = None
    max_version: str | None = None
    cipher_suites: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    is_authority: bool = False
    """`cert` signs a certificate for each server name."""

    def __repr__(self) -> str:
        """Without the key."""
        return f"TlsListener({self.key!r}, {self.hostname!r})"

    @classmethod
    def from_data(cls, key: str, data: Mapping[str, Any]) -> TlsListener:
        """From the `data` of a `listener` resource. Raises: ConfigError."""
        hostname, protocol = data.get("hostname") or "", data["protocol"]
        tls = data.get("tls")
        if tls is None:
            if protocol == "HTTPS":
                raise ConfigError(f"listeners[{key}].tls", "an HTTPS listener needs tls")
            return cls(key, hostname, protocol)
        for name in ("cert", "key"):
            if not tls.get(name):
                raise ConfigError(f"listeners[{key}].tls.{name}", "required")
        return cls(
            key,
            hostname,
            protocol,
            tls["cert"],
            tls["key"],
            tls.get("root"),
            tls.get("min_version"),
            tls.get("max_version"),
            _optional_tuple(tls.get("cipher_suites")),
            _optional_tuple(tls.get("key_exchange_groups")),
            tls.get("mode") == "dynamicCa",
        )


@final
class ListenerContext(ssl.SSLContext):
    """A server context that knows its listener: `ssl_object.context.listener` after a handshake."""

    listener: str = ""


Served: TypeAlias = ListenerContext | Minted[ListenerContext] | None
"""What a listener has for its connections; None: it passes TLS through."""


@final
class ServerTls:
    """The TLS listeners of one bind. A connection keeps what it began with; `replace` swaps."""

    __slots__ = ("_by_host", "_defaults", "_front")

    def __init__(
        self, listeners: Sequence[TlsListener], defaults: TlsDefaults = TlsDefaults()
    ) -> None:
        self._defaults = defaults
        self._by_host: dict[str, tuple[TlsListener, Served]] = {}
        self._front: tuple[ListenerContext, object] | None = None
        self.replace(listeners)

    def replace(
        self, listeners: Sequence[TlsListener], defaults: TlsDefaults | None = None
    ) -> None:
        """Serve these from now on. Raises: ConfigError, and then what was served stays."""
        wanted = self._defaults if defaults is None else defaults
        kept = {}
        if wanted == self._defaults:
            kept = dict(self._by_host.values())
        by_host: dict[str, tuple[TlsListener, Served]] = {}
        for listener in sorted(listeners, key=lambda item: item.key):
            host = "" if listener.hostname == "*" else listener.hostname
            if host in by_host:
                other = by_host[host][0].key
                message = f"listener {other} of this port has the hostname {host or '*'!r} already"
                raise ConfigError(f"listeners[{listener.key}].hostname", message)
            context = kept.get(listener)
            if context is None and listener.is_authority:
                context = _minted(listener, wanted)
            elif context is None and listener.cert is not None:
                context = _server_context(listener, wanted)
            by_host[host] = (listener, context)
        if self._front is not None:
            _check_profile(self._front[1], by_host, wanted)
        self._by_host, self._defaults = by_host, wanted

    def context_for(self, sni: str) -> ssl.SSLContext | None:
        """The context of the listener for a server name ("" for none); None when there is no
        listener, or it passes TLS through, or no certificate can be made."""
        found = self._find(sni)
        if found is None:
            return None
        listener, served = found
        if not isinstance(served, Minted):
            return served
        name = sni or listener.hostname
        if not is_name(name):
            return None
        try:
            return served.of(name)
        except (ConfigError, ValueError) as problem:
            _log.error("listener %s: no certificate can be made: %s", listener.key, problem)
            return None

    def listener_for(self, sni: str) -> str | None:
        """The key of that listener; None: close the connection."""
        found = self._find(sni)
        return None if found is None else found[0].key

    def front_context(self) -> ssl.SSLContext:
        """One context for all, which switches by server name during the handshake.

        Raises: ConfigError when a listener passes TLS through, or when listeners differ in what
        cannot be switched (module docstring). `replace` raises the same afterwards.
        """
        if self._front is None:
            listeners = [listener for listener, _ in self._by_host.values()]
            if not listeners:
                raise ConfigError("listeners", "no TLS listener")
            profile = _profile(listeners[0], self._defaults)
            _check_profile(profile, self._by_host, self._defaults)
            context = _server_context(listeners[0], self._defaults)
            context.sni_callback = self._switch
            self._front = (context, profile)
        return self._front[0]

    def _switch(self, connection: ssl.SSLObject, sni: str | None, _: ssl.SSLContext) -> int | None:
        context = self.context_for((sni or "").lower().removesuffix("."))
        if context is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = context
        return None

    def _find(self, sni: str) -> tuple[TlsListener, Served] | None:
        """Exact name, then the wildcard with the longest suffix, then the listener for any."""
        by_host = self._by_host
        if sni:
            found = by_host.get(sni)
            dot = -1 if found is not None else sni.find(".")
            while dot != -1 and found is None:
                found = by_host.get("*" + sni[dot:])
                dot = sni.find(".", dot + 1)
            if found is not None:
                return found
        return by_host.get("")


def chosen_listener(connection: ssl.SSLObject) -> str:
    """The key of the listener whose context a server connection uses."""
    context = connection.context
    assert isinstance(context, ListenerContext), "not a connection of ServerTls"
    return context.listener


def _profile(listener: TlsListener, defaults: TlsDefaults) -> object:
    """What OpenSSL does not switch when a connection gets another context."""
    suites = listener.cipher_suites or defaults.cipher_suites or ()
    return (
        listener.root,
        listener.min_version or defaults.min_version,
        listener.max_version or defaults.max_version,
        frozenset(name for name in suites if name not in SUITES_12),
        listener.groups or defaults.groups,
        bool(suites),
    )


def _check_profile(
    profile: object,
    by_host: Mapping[str, tuple[TlsListener, Served]],
    defaults: TlsDefaults,
) -> None:
    for listener, context in by_host.values():
        if not isinstance(context, ListenerContext) or _profile(listener, defaults) != profile:
            raise ConfigError(
                f"listeners[{listener.key}].tls",
                "listeners of this port differ in more than their certificates,"
                " which needs a front door that reads the client hello",
            )


def _minted(listener: TlsListener, defaults: TlsDefaults) -> Minted[ListenerContext]:
    """Raises: ConfigError."""
    assert listener.cert is not None
    try:
        authority = Authority(listener.cert, listener.private_key or "")
    except ConfigError as problem:
        place = f"listeners[{listener.key}].tls.{problem.path}"
        raise ConfigError(place, problem.message) from problem

    def make(name: str) -> ListenerContext:
        cert, key = authority.leaf(name)
        return _server_context(replace(listener, cert=cert, private_key=key), defaults)

    # Once now: what cannot be honoured is refused with the configuration.
    make("localhost")
    return Minted(make, defaults.minted_seconds, defaults.minted_count, time.monotonic)


def _server_context(listener: TlsListener, defaults: TlsDefaults) -> ListenerContext:
    place = f"listeners[{listener.key}].tls"
    assert listener.cert is not None, "a listener that passes through has no context"
    context = ListenerContext(ssl.PROTOCOL_TLS_SERVER)
    context.listener = listener.key
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    set_versions(
        context,
        listener.min_version or defaults.min_version,
        listener.max_version or defaults.max_version,
        place,
    )
    suites = listener.cipher_suites or defaults.cipher_suites
    set_suites(context, suites, f"{place}.cipherSuites")
    set_groups(context, listener.groups or defaults.groups, f"{place}.keyExchangeGroups")
    load_pair(context, listener.cert, listener.private_key, place)
    if listener.root is not None:
        load_root(context, listener.root, f"{place}.root")
        context.verify_mode = ssl.CERT_REQUIRED
    alpn = defaults.alpn
    if alpn is None:
        # Behind a TLS listener is a TCP route: its protocol is not ours to promise.
        alpn = HTTP_ALPN if listener.protocol == "HTTPS" else ()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@final
class ClientTls:
    """TLS towards the endpoints of one backend, from its `backendTLS` payload (PEM texts).

    `server_hostname` is sent as SNI and verified, unless the policy names another or says not to.
    """

    __slots__ = ("_context", "_context_http1", "_names", "_pinned", "server_hostname")

    def __init__(
        self,
        payload: Mapping[str, Any],
        hostname: str,
        place: str = "backendTLS",
        alpn: Sequence[str] = HTTP_ALPN,
    ) -> None:
        """`alpn` holds where the payload has none. Raises: ConfigError."""
        if payload.get("spiffe") is not None:
            raise ConfigError(f"{place}.spiffe", "not supported yet (SPIFFE)")
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
        self._context = _client_context(payload, offered, place)
        without = tuple(name for name in offered if name != "h2")
        self._context_http1 = (
            self._context if without == offered else _client_context(payload, without, place)
        )

    def named(self, hostname: str) -> ClientTls:
        """The same policy for another host (a dynamic backend); contexts are shared."""
        other = ClientTls.__new__(ClientTls)
        other._context, other._context_http1 = self._context, self._context_http1
        other._names, other._pinned = self._names, self._pinned
        other.server_hostname = self._pinned or hostname
        return other

    def context(self, *, http1_only: bool) -> ssl.SSLContext:
        """The context to connect with; `http1_only` offers no h2."""
        return self._context_http1 if http1_only else self._context

    def verify(self, ssl_object: ssl.SSLObject) -> None:
        """Check `subjectAltNames` after the handshake. Raises: ssl.SSLCertVerificationError."""
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


def _comparable(name: str) -> str:
    """DNS names compare without case; the path of a URI (a SPIFFE ID) does not."""
    return name if "://" in name else name.lower()


def _client_context(payload: Mapping[str, Any], alpn: Sequence[str], place: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
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


def _protocol(item: str | Sequence[int]) -> str:
    return item if isinstance(item, str) else bytes(item).decode("ascii")
