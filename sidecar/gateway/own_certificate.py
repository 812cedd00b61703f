"""A certificate of the gateway's own, wherever it comes from: until when it is good.

Source: spec istio section 3.6 ("still-valid old cert is kept until expiry").

What tunnels and TLS make of its end is theirs to know (`hbone`, `sidecar.net.svid`); here it is
said: a line in the log, the metric of its end, and a gateway that is not ready.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, final

from sidecar.config.certificates import certificates
from sidecar.telemetry.clock import Clock

_log = logging.getLogger("sidecar.gateway.control")
_NS: Final = 1_000_000_000


@final
class OwnCertificate:
    """To be shown the certificate now and then."""

    __slots__ = ("_chain", "_clock", "_ends_seconds", "_expires", "_has_told", "_lost", "_name")

    def __init__(
        self,
        clock: Clock,
        expires: Callable[[float], None],
        name: str = "mesh certificate",
        lost: str = "there are no tunnels",
    ) -> None:
        """`expires`: told when it does, in seconds since 1970. `name`, `lost`: for the log."""
        self._clock = clock
        self._expires = expires
        self._name = name
        self._lost = lost
        self._chain = ""
        self._ends_seconds = 0.0
        self._has_told = False
        """Whether the log knows that it has expired."""

    def look(self, chain: str) -> None:
        """`chain`: PEM text, leaf first; empty where there is none."""
        if chain != self._chain:
            self._chain = chain
            if chain:
                leaf = certificates(chain)[0]
                self._ends_seconds = leaf.not_valid_after_utc.timestamp()
                self._expires(self._ends_seconds)
        has_expired = self.has_expired
        if has_expired and not self._has_told:
            _log.error("the %s has expired: %s until it is renewed", self._name, self._lost)
        elif self._has_told and not has_expired:
            _log.info("the %s is valid again", self._name)
        self._has_told = has_expired

    @property
    def has_expired(self) -> bool:
        """Whether it was good once and is not any more."""
        return bool(self._chain) and self._clock.time_ns() >= self._ends_seconds * _NS
