"""SPIFFE identities as Istio writes them.

Source: spec istio 1.2; SPIFFE-ID section 2; https://istio.io/latest/docs/concepts/security/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

_FORM = re.compile(r"spiffe://([a-z0-9._-]{1,255})/ns/([^/\s]{1,253})/sa/([^/\s]{1,253})").fullmatch
_MAX_CHARS = 2048


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """Who a workload is. `str()` gives the URI."""

    trust_domain: str
    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def parse_identity(uri: str) -> Identity | None:
    """`spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, None for anything else."""
    found = _FORM(uri) if len(uri) <= _MAX_CHARS else None
    return None if found is None else Identity(found[1], found[2], found[3])


def first_identity(uris: Iterable[str]) -> Identity | None:
    """The first of a certificate's URIs that is an identity: the one its holder acts as."""
    for uri in uris:
        identity = parse_identity(uri)
        if identity is not None:
            return identity
    return None
