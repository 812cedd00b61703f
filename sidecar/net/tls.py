"""TLS contexts of a bind's listeners, chosen by server name.

Source: spec config sections 1.4, 1.10 (tls) and 2.1; RFC 8446; SPIFFE: X509-SVID.md section 5.

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
from sidecar.net.minting import Authority, Minted, cache_limits, is_name
from sidecar.net.svid import Svid, Svids
from sidecar.net.svid_peers import PeerCheck
from sidecar.net.tls_context import (
    HTTP_ALPN,
    SUITES_12,
    ListenerContext,
    load_pair,
    load_root,
    set_groups,
    set_suites,
    set_versions,
)

_log: Final = logging.getLogger("sidecar.net.tls")


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
    has_svid: bool = False
    """Certificate, key and root are those of the SVID in force."""

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
        if tls.get("spiffe") is not None:
            return cls(key, hostname, protocol, has_svid=True)
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
class _OfSvid:
    """Makes the context of a listener of the SVID in force; anew after a rotation."""

    __slots__ = ("_context", "_defaults", "_listener", "_made_of", "_svids")

    def __init__(self, listener: TlsListener, defaults: TlsDefaults, svids: Svids) -> None:
        """Raises: ConfigError, for what no certificate could be served with."""
        _limit(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), listener, defaults)
        self._listener = listener
        self._defaults = defaults
        self._svids = svids
        self._made_of: Svid | None = None
        self._context: ListenerContext

    def context(self) -> ListenerContext | None:
        """None while there is no SVID. Raises: ConfigError."""
        svid = self._svids.current()
        if svid is None:
            return None
        if svid is not self._made_of:
            self._context = self._made(svid)
            self._made_of = svid
        return self._context

    def _made(self, svid: Svid) -> ListenerContext:
        bundles = self._svids.clients_of(svid)
        filled = replace(
            self._listener, cert=svid.chain, private_key=svid.key, root="\n".join(bundles.values())
        )
        context = _server_context(filled, self._defaults)
        # A resumed session would outlast the certificate and the bundle that it was verified by.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.check_peer = PeerCheck(bundles, self._svids.now_ns).peer
        return context


Served: TypeAlias = ListenerContext | Minted[ListenerContext] | _OfSvid | None
"""What a listener has for its connections; None: it passes TLS through."""


@final
class ServerTls:
    """The TLS listeners of one bind. A connection keeps what it began with; `replace` swaps."""

    __slots__ = ("_by_host", "_defaults", "_front", "_svids")

    def __init__(
        self,
        listeners: Sequence[TlsListener],
        defaults: TlsDefaults = TlsDefaults(),
        svids: Svids | None = None,
    ) -> None:
        """`svids`: where listeners with `spiffe` find theirs; None: nowhere, so they serve none."""
        self._defaults = defaults
        self._svids = svids or Svids()
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
            elif context is None and listener.has_svid:
                context = _OfSvid(listener, wanted, self._svids)
            elif context is None and listener.cert is not None:
                context = _server_context(listener, wanted)
            by_host[host] = (listener, context)
        if self._front is not None:
            _check_profile(self._front[1], by_host, wanted)
        self._by_host, self._defaults = by_host, wanted

    def context_for(self, sni: str) -> ssl.SSLContext | None:
        """The context of the listener for a server name ("" for none); None when there is no
        listener, or it passes TLS through, or no certificate can be made, or no SVID is there."""
        found = self._find(sni)
        if found is None:
            return None
        listener, served = found
        # Fast path: it is there.
        if served is None or isinstance(served, ListenerContext):
            return served
        try:
            if isinstance(served, _OfSvid):
                return served.context()
            name = sni or listener.hostname
            return served.of(name) if is_name(name) else None
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


def _limit(context: ssl.SSLContext, listener: TlsListener, defaults: TlsDefaults) -> None:
    """Versions, suites and groups. Raises: ConfigError."""
    place = f"listeners[{listener.key}].tls"
    set_versions(
        context,
        listener.min_version or defaults.min_version,
        listener.max_version or defaults.max_version,
        place,
    )
    suites = listener.cipher_suites or defaults.cipher_suites
    set_suites(context, suites, f"{place}.cipherSuites")
    set_groups(context, listener.groups or defaults.groups, f"{place}.keyExchangeGroups")


def _server_context(listener: TlsListener, defaults: TlsDefaults) -> ListenerContext:
    place = f"listeners[{listener.key}].tls"
    assert listener.cert is not None, "a listener that passes through has no context"
    context = ListenerContext(ssl.PROTOCOL_TLS_SERVER)
    context.listener = listener.key
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _limit(context, listener, defaults)
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


def _optional_tuple(value: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def _protocol(item: str | Sequence[int]) -> str:
    return item if isinstance(item, str) else bytes(item).decode("ascii")
