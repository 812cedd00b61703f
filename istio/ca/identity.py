"""A workload's certificate as sources give it: checked, so that what is published can be used.

Source: spec istio 1.2 and 3.6.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from hbone.wire.identity import first_identity
from istio.errors import CaError
from sidecar.http.spiffe_id import svid_id


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """PEM texts, leaf first, and when the leaf is valid (UTC). Made by `checked`.

    `hbone.aio.Credentials(chain_pem, key_pem, roots_pem)` is what connections use of it.
    """

    spiffe_id: str
    chain_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    roots_pem: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    federated: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """By trust domain, the roots of others than its own."""

    @property
    def half_life(self) -> datetime:
        """When half of its life is over, which is when it is to be renewed."""
        return self.not_before + (self.not_after - self.not_before) / 2


Publish = Callable[[Identity], Awaitable[None] | None]
"""Takes each new identity; an error of it is an error of the source's task."""


class Source(Protocol):
    """Where identities come from. `status` is for the dump and metrics."""

    @property
    def status(self) -> Status:
        """How it goes."""

    async def run(self, publish: Publish) -> None:
        """Give identities to `publish`, for ever. What was published last stays good until then."""


@final
@dataclass(slots=True)
class Status:
    """How a source goes: counts since the start."""

    kind: str
    successes: int = 0
    failures: int = 0
    last_error: str | None = None
    identity: Identity | None = None
    """Published last."""

    def dump(self, now: datetime) -> dict[str, Any]:
        """Plain data, without key and certificates."""
        one = self.identity
        return {
            "source": self.kind,
            "successes": self.successes,
            "failures": self.failures,
            "lastError": self.last_error,
            "spiffeId": None if one is None else one.spiffe_id,
            "notBefore": None if one is None else one.not_before.isoformat(),
            "notAfter": None if one is None else one.not_after.isoformat(),
            "isExpired": one is not None and now >= one.not_after,
            "federated": [] if one is None else sorted(one.federated),
        }


def checked(
    chain_pem: bytes,
    key_pem: bytes,
    roots_pem: bytes,
    *,
    now: datetime,
    expected: str | None = None,
    is_svid: bool = False,
) -> Identity:
    """The identity, if it can be used now. `expected`: whose it must be. `is_svid`: any SPIFFE ID
    will do, and there is exactly one.

    Raises: CaError; nothing of the key is in its text.
    """
    leaf = certificates(chain_pem, "the certificate chain")[0]
    certificates(roots_pem, "the roots")
    _check_key(leaf, key_pem)
    found = _svid_id(leaf) if is_svid else _workload_id(leaf)
    if expected is not None and found != expected:
        raise CaError(f"the certificate is for {found}, and {expected} is expected")
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < begin:
        raise CaError(f"the certificate is valid from {begin} on: do the clocks differ?")
    if now >= end:
        raise CaError(f"the certificate expired at {end}")
    return Identity(found, chain_pem, key_pem, roots_pem, begin, end)


def _svid_id(leaf: x509.Certificate) -> str:
    try:
        return svid_id(leaf)
    except ValueError as error:
        raise CaError(f"the certificate is no SVID: {error}") from error


def _workload_id(leaf: x509.Certificate) -> str:
    uris = _uris(leaf)
    found = first_identity(uris)
    if found is None:
        shown = ", ".join(uris)[:256] or "no URI"
        raise CaError(f"the certificate has no identity spiffe://…/ns/…/sa/…, but {shown}")
    return str(found)


def certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    """At least one. Raises: CaError."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        # What was read is not repeated: it may be the key.
        what = what if pem.strip() else f"{what}, empty,"
        raise CaError(f"{what} cannot be read as PEM certificates") from error


def _check_key(leaf: x509.Certificate, key_pem: bytes) -> None:
    try:
        key = load_pem_private_key(key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CaError("the private key is no unencrypted PEM key") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        public = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CaError("the certificate's public key is of an unknown kind") from error
    if key.public_key().public_bytes(*form) != public.public_bytes(*form):
        raise CaError("the certificate is not for the private key")


def _uris(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        return []
