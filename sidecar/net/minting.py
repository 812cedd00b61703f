"""Certificates made on demand: one for each server name, signed by the operator's own authority.

Source: spec/config.md section 1.4 (`mode: dynamicCa`); RFC 5280; RFC 6066 section 3.

For gateways that look into the TLS of their own clients, which trust the authority. All leaves of a
process have one key: a key is no secret from those who share a process, and making one costs more
than signing. A name is only minted for when it is one (letters, digits, hyphens, dots).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final, Generic, TypeVar, final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError

T = TypeVar("T")

_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*{_LABEL}")
_VALID: Final = datetime.timedelta(days=1)
"""Longer than any certificate is used; clients' clocks may be wrong by as much."""


def is_name(sni: str) -> bool:
    """Whether a certificate may be made for it."""
    return _NAME.fullmatch(sni) is not None


@cache
def _leaf_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@final
class Authority:
    """Signs leaves. PEM texts; paths of problems are `cert` and `key`. Raises: ConfigError."""

    __slots__ = ("_cert", "_chain", "_hash", "_key")

    def __init__(self, cert: str, key: str) -> None:
        try:
            self._cert = x509.load_pem_x509_certificates(cert.encode())[0]
        except ValueError as problem:
            raise ConfigError("cert", "does not hold a valid PEM certificate") from problem
        try:
            found = load_pem_private_key(key.encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
            raise ConfigError("key", "does not hold a valid PEM private key") from problem
        if not isinstance(
            found, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
        ):
            raise ConfigError("key", "an authority's key is RSA, EC or Ed25519")
        self._key = found
        is_edwards = isinstance(found, ed25519.Ed25519PrivateKey)
        self._hash = None if is_edwards else hashes.SHA256()
        self._chain = cert
        if not _may_sign(self._cert):
            raise ConfigError("cert", "not the certificate of an authority (CA:TRUE)")

    def leaf(self, name: str) -> tuple[str, str]:
        """Chain and key for a server name, as PEM. Raises: ValueError past the authority's time."""
        now = datetime.datetime.now(datetime.UTC)
        key = _leaf_key()
        public = key.public_key()
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        made = (
            x509.CertificateBuilder()
            # The name stands where it is looked for; a common name may not be so long.
            .subject_name(x509.Name([]))
            .issuer_name(self._cert.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - _VALID, self._cert.not_valid_before_utc))
            .not_valid_after(min(now + _VALID, self._cert.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(server, critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, self._hash)
        )
        chain = made.public_bytes(Encoding.PEM).decode() + self._chain
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return chain, text.decode()


def _may_sign(certificate: x509.Certificate) -> bool:
    found = certificate.extensions
    try:
        if not found.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    try:
        return found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


@final
class Minted(Generic[T]):
    """What was made for names, for a while; the oldest goes first.

    `seconds`: how long one is used; `count`: how many are kept. `time`: a clock in seconds.
    """

    __slots__ = ("_count", "_kept", "_make", "_seconds", "_time")

    def __init__(
        self, make: Callable[[str], T], seconds: float, count: int, time: Callable[[], float]
    ) -> None:
        self._make = make
        self._seconds = seconds
        self._count = count
        self._time = time
        self._kept: dict[str, tuple[float, T]] = {}

    def of(self, name: str) -> T:
        """What there is for a name, made anew when it is too old. Raises what making raises."""
        now = self._time()
        kept = self._kept.get(name)
        if kept is not None and now - kept[0] < self._seconds:
            return kept[1]
        made = self._make(name)
        self._kept.pop(name, None)
        self._kept[name] = (now, made)
        while len(self._kept) > self._count:
            del self._kept[next(iter(self._kept))]
        return made


def cache_limits(env: Mapping[str, str]) -> tuple[float, int]:
    """`(seconds, count)` of DYNAMIC_CA_CERT_CACHE_*. Raises: ConfigError."""
    seconds, count = 300.0, 256
    text = env.get("DYNAMIC_CA_CERT_CACHE_TTL")
    if text:
        try:
            seconds = duration_seconds(text)
        except ValueError as problem:
            raise ConfigError("", f"DYNAMIC_CA_CERT_CACHE_TTL: {problem}") from problem
    text = env.get("DYNAMIC_CA_CERT_CACHE_CAPACITY")
    if text:
        if not text.isascii() or not text.isdigit() or not 0 < int(text[:7]) <= 100_000:
            raise ConfigError("", "DYNAMIC_CA_CERT_CACHE_CAPACITY: expected 1 to 100000")
        count = int(text)
    return seconds, count
