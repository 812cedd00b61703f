"""What goes into a TLS context: versions, suites, groups, certificates and keys.

Source: spec config section 1.4; RFC 8446 section B.4; RFC 5289; RFC 7905.

Keys are never left on a disk: OpenSSL's loader wants a file and gets an anonymous one in memory.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, final

from sidecar.errors import ConfigError

HTTP_ALPN: Final = ("h2", "http/1.1")
_VERSIONS: Final = {"TLS_V1_2": ssl.TLSVersion.TLSv1_2, "TLS_V1_3": ssl.TLSVersion.TLSv1_3}
_GROUPS: Final = {"X25519": "X25519", "P-256": "prime256v1", "P-384": "secp384r1"}
SUITES_12: Final = {
    f"TLS_ECDHE_{kind}_WITH_{iana}": f"ECDHE-{kind}-{openssl}"
    for iana, openssl in (
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
    )
    for kind in ("ECDSA", "RSA")
}
_SUITES_13: Final = (
    "TLS_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256",
)
_DEFAULT_SUITES_12: Final = [name for name in SUITES_12 if "CHACHA20" not in name]


@final
class ListenerContext(ssl.SSLContext):
    """A server context that knows its listener: `ssl_object.context.listener` after a handshake."""

    listener: str = ""
    check_peer: Callable[[ssl.SSLObject], object] | None = None
    """What a handshake must pass beyond OpenSSL's checks. Raises: ssl.SSLCertVerificationError."""


def set_versions(context: ssl.SSLContext, low: str | None, high: str | None, place: str) -> None:
    """Bounds as `TLS_V1_2` or `TLS_V1_3`; None for the widest. Raises: ConfigError."""
    for name in (low, high):
        if name is not None and name not in _VERSIONS:
            raise ConfigError(place, f"{name} is not supported: only TLS 1.2 and 1.3 are")
    context.minimum_version = _VERSIONS[low or "TLS_V1_2"]
    context.maximum_version = _VERSIONS[high or "TLS_V1_3"]
    if context.minimum_version > context.maximum_version:
        raise ConfigError(place, f"the lowest TLS version {low} is above the highest, {high}")


def set_suites(context: ssl.SSLContext, names: Sequence[str] | None, place: str) -> None:
    """Allow these suites alone; None: the default, which is without ChaCha20 in TLS 1.2.

    A version that is left without a suite is not spoken. The order counts in TLS 1.2; in TLS 1.3
    it is OpenSSL's own. Raises: ConfigError.
    """
    if names is None:
        context.set_ciphers(":".join(SUITES_12[name] for name in _DEFAULT_SUITES_12))
        return
    plain = [name.replace("TLS13_", "TLS_", 1) for name in names]
    for name in plain:
        if name not in SUITES_12 and name not in _SUITES_13:
            raise ConfigError(place, f"unknown cipher suite `{name}`")
    old = [SUITES_12[name] for name in plain if name in SUITES_12]
    new = [name for name in plain if name in _SUITES_13]
    if old:
        context.set_ciphers(":".join(old))
    elif context.maximum_version == ssl.TLSVersion.TLSv1_2:
        raise ConfigError(place, "no suite for TLS 1.2, the highest version allowed")
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if not new:
        if context.minimum_version == ssl.TLSVersion.TLSv1_3:
            raise ConfigError(place, "no suite for TLS 1.3, the lowest version allowed")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    elif context.maximum_version != ssl.TLSVersion.TLSv1_2:
        _set_suites_13(context, new, place)


def _set_suites_13(context: ssl.SSLContext, names: Sequence[str], place: str) -> None:
    # Python has this from 3.15 on. Before, OpenSSL's own three are all that can be had.
    setter = getattr(context, "set_ciphersuites", None)
    if setter is not None:
        setter(":".join(names))
    elif set(names) != set(_SUITES_13):
        raise ConfigError(
            place,
            "this Python cannot choose among the suites of TLS 1.3: allow all three or none"
            " of them (none ends at TLS 1.2)",
        )


def set_groups(context: ssl.SSLContext, names: Sequence[str] | None, place: str) -> None:
    """Allow these key exchange groups alone; None: OpenSSL's choice. Raises: ConfigError."""
    if names is None:
        return
    setter = getattr(context, "set_groups", None)
    if setter is not None:
        chosen, argument = setter, ":".join(_GROUPS.get(name, name) for name in names)
    elif len(names) == 1 and names[0] in _GROUPS:
        chosen, argument = context.set_ecdh_curve, _GROUPS[names[0]]
    else:
        known = ", ".join(_GROUPS)
        raise ConfigError(place, f"this Python can take exactly one group, out of {known}")
    try:
        chosen(argument)
    except (ValueError, ssl.SSLError) as exc:
        raise ConfigError(place, f"this OpenSSL does not have {', '.join(names)}") from exc


def load_root(context: ssl.SSLContext, pem: str, place: str) -> None:
    """Trust the certificates of a PEM text. Raises: ConfigError."""
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as exc:
        # What was read is not repeated: the wrong text may be the key.
        raise ConfigError(place, "does not hold a valid PEM certificate") from exc
    # Whatever the file holds is trusted, an intermediate authority without its root too.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _refuse_password() -> str:
    raise ValueError("encrypted")


def load_pair(context: ssl.SSLContext, cert: str, key: str | None, place: str) -> None:
    """Present a certificate chain with its key, PEM texts. Raises: ConfigError."""
    try:
        with _as_file(f"{key or ''}\n{cert}") as name:
            # Without the callback OpenSSL would ask for a password on the terminal.
            context.load_cert_chain(name, password=_refuse_password)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            message = "the private key does not belong to the certificate"
        else:
            message = f"certificate and key cannot be used ({exc.reason or 'invalid PEM'})"
        raise ConfigError(f"{place}.key", message) from exc
    except ValueError as exc:
        raise ConfigError(f"{place}.key", "the private key is encrypted") from exc


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """A name under which the text can be opened, within the block alone."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        fd = os.memfd_create("tls", os.MFD_CLOEXEC)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            yield f"/proc/self/fd/{fd}"
        return
    with tempfile.NamedTemporaryFile("w", encoding="ascii") as file:
        # Mode 0600 from its creation, and removed as the block ends, however it does.
        file.write(text)
        file.flush()
        yield file.name
