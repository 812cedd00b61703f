"""The gateway's own X.509-SVID: the one in force, and whom it lets the gateway trust.

Source: SPIFFE: X509-SVID.md, SPIFFE_Trust_Domain_and_Bundle.md; spec config sections 1.4, 3.11
(backendTLS) and 8.1.

Design note: one `Svids` a worker, written by compilation when `svid/own` changed, read whenever a
connection begins. A connection keeps what it began with, so a rotation ends none.

1. Until the first SVID came, and from the end of the last one on, there is none: no handshake is
   begun on either side.
2. A trust domain is vouched for by its own bundle alone. Where a context holds the bundles of
   several, `svid_peers` looks which of them has vouched.
3. Trust domains other than our own count where the configuration names them: clients' in
   `config.additionalTrustDomains`, backends' in `subjectAltNames`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from sidecar.errors import ConfigError
from sidecar.http.spiffe_id import trust_domain_of
from sidecar.net.tls_context import load_pair, load_root
from sidecar.telemetry.clock import Clock, SystemClock

_SECOND_NS: Final = 1_000_000_000


@final
@dataclass(frozen=True, slots=True, eq=False)
class Svid:
    """PEM texts. `bundles`: by trust domain, its own first."""

    spiffe_id: str
    trust_domain: str
    chain: str = field(repr=False)
    key: str = field(repr=False)
    bundles: Mapping[str, str] = field(repr=False)
    not_after_ns: int
    """Since 1970."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Svid:
        """From the `svid` resource, known to be usable. Raises: ConfigError."""
        domain = trust_domain_of(data["spiffe_id"])
        if domain is None:
            raise ConfigError("svid/own", f"{data['spiffe_id']} is no SPIFFE ID")
        others = {name: text for name, text in data["federated"].items() if name != domain}
        bundles = {domain: data["roots"], **others}
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        load_pair(trial, data["chain"], data["key"], "svid/own")
        for name, text in bundles.items():
            load_root(trial, text, f"svid/own: the bundle of {name}")
        return cls(
            data["spiffe_id"],
            domain,
            data["chain"],
            data["key"],
            bundles,
            data["not_after"] * _SECOND_NS,
        )

    def bundles_of(self, domains: Iterable[str] | None) -> dict[str, str]:
        """Those of these trust domains that there are; None: of all."""
        if domains is None:
            return dict(self.bundles)
        wanted = frozenset(domains)
        return {name: text for name, text in self.bundles.items() if name in wanted}


@final
class Svids:
    """The SVID in force."""

    __slots__ = ("_clock", "_svid", "further")

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._svid: Svid | None = None
        self.further: frozenset[str] | None = frozenset()
        """Trust domains beside our own whose clients are let in; None: all there are bundles of."""

    def put(self, svid: Svid | None) -> None:
        """It holds for connections that begin from now on; None: there is none any more."""
        self._svid = svid

    def current(self) -> Svid | None:
        """None before the first came, and when the last has ended (invariant 1)."""
        svid = self._svid
        if svid is None or self._clock.time_ns() >= svid.not_after_ns:
            return None
        return svid

    def now_ns(self) -> int:
        """Since 1970."""
        return self._clock.time_ns()

    def clients_of(self, svid: Svid) -> dict[str, str]:
        """The bundles that clients of ours may be vouched for by (invariant 3)."""
        if self.further is None:
            return svid.bundles_of(None)
        return svid.bundles_of(self.further | {svid.trust_domain})


def further_domains(config: Mapping[str, Any]) -> frozenset[str] | None:
    """`Svids.further` by the `config` section: as for the clients of tunnels."""
    if config.get("skipValidateTrustDomain"):
        return None
    names = (config.get("additionalTrustDomains") or "").split(",")
    return frozenset(name.strip() for name in names if name.strip())
