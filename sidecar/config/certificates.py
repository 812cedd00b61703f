"""TLS settings: files become PEM texts, checked as far as they can be without a peer.

Source: spec/config.md sections 1.4 and 3.11 (backendTLS).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from sidecar.config.run import Node, Run
from sidecar.config.snapshot import Json
from sidecar.config.svid import require_endpoint
from sidecar.errors import ConfigError

_SUITES_13 = ("AES_256_GCM_SHA384", "AES_128_GCM_SHA256", "CHACHA20_POLY1305_SHA256")

CIPHER_SUITES = {
    **{f"TLS_{suite}": f"TLS_{suite}" for suite in _SUITES_13},
    **{f"TLS13_{suite}": f"TLS_{suite}" for suite in _SUITES_13},
    **{
        (name := f"TLS_ECDHE_{kind}_WITH_{suite}"): name
        for kind in ("ECDSA", "RSA")
        for suite in _SUITES_13
    },
}
"""Every name a configuration may use, to the IANA name."""

_VERSIONS = {"TLS_V1_2": 2, "TLS_V1_3": 3}


def certificates(pem: str) -> list[x509.Certificate]:
    """The certificates of a PEM text, at least one. Raises ConfigError."""
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        # What was read is not repeated: the wrong file may be the key.
        raise ConfigError("", "does not hold a valid PEM certificate") from error


@lru_cache(maxsize=256)
def pair_problem(cert_pem: str, key_pem: str) -> tuple[str, str] | None:
    """What is wrong with a certificate and its key: the key of the document at fault, and why."""
    try:
        leaf = certificates(cert_pem)[0]
    except ConfigError as error:
        return "cert", error.message
    try:
        private = load_pem_private_key(key_pem.encode(), None)
    except TypeError:
        return "key", "the private key is encrypted; only an unencrypted key can be used"
    except (ValueError, UnsupportedAlgorithm):
        return "key", "does not hold a valid PEM private key"
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        return "key", "the private key does not belong to the certificate"
    return None


def _root_text(node: Node, path: str, run: Run) -> str | None:
    if node.get("root") is None:
        return None
    text = run.file_text(node["root"], f"{path}.root")
    if text is None:
        return None
    try:
        certificates(text)
    except ConfigError as error:
        run.problem(f"{path}.root", f"{node['root']}: {error.message}")
    return text


def _pair_texts(node: Node, path: str, run: Run) -> tuple[str | None, str | None]:
    """PEM texts of `cert` and `key`, checked against each other."""
    cert, key = (
        None if node.get(name) is None else run.file_text(node[name], f"{path}.{name}")
        for name in ("cert", "key")
    )
    if cert is not None and key is not None:
        found = pair_problem(cert, key)
        if found is not None:
            name, message = found
            run.problem(f"{path}.{name}", f"{node[name]}: {message}")
    return cert, key


def _either(node: Node, *names: str) -> Any:
    return next((node[name] for name in names if node.get(name) is not None), None)


def check_versions(low: str | None, high: str | None, path: str, run: Run) -> None:
    """TLS versions of one setting: only 1.2 and 1.3 exist here, and low is not above high."""
    known = True
    for version in (low, high):
        if version is not None and version not in _VERSIONS:
            run.problem(path, f"{version} is not supported: only TLS 1.2 and 1.3 are")
            known = False
    if known and low is not None and high is not None and _VERSIONS[low] > _VERSIONS[high]:
        run.problem(path, f"the lowest TLS version {low} is above the highest, {high}")


def cipher_suites(names: list[str] | None, path: str, run: Run) -> list[str] | None:
    """IANA names of an allow-list, in its order."""
    if names is None:
        return None
    if not names:
        run.problem(path, "no cipher suite is allowed, so no handshake could succeed")
    for index, name in enumerate(names):
        if name not in CIPHER_SUITES:
            run.problem(f"{path}[{index}]", f"unknown cipher suite `{name}`")
    return [CIPHER_SUITES.get(name, name) for name in names]


def _check_spiffe(tls: Node, path: str, run: Run) -> None:
    if any(tls.get(key) is not None for key in ("cert", "key", "root")):
        run.problem(path, "'spiffe' is mutually exclusive with 'cert'/'key'/'root'")
    if tls.get("mode", "static") != "static":
        run.problem(path, "'spiffe' cannot be combined with tls.mode (it has its own identity)")
    names = ("minTLSVersion", "minTlsVersion", "maxTLSVersion", "maxTlsVersion")
    if _either(tls, "cipherSuites", "keyExchangeGroups", *names) is not None:
        run.problem(
            path,
            "'spiffe' cannot be combined with tls"
            " cipherSuites/minTLSVersion/maxTLSVersion/keyExchangeGroups",
        )
    require_endpoint(f"{path}.spiffe", run)


def server_tls(tls: Node, path: str, run: Run) -> Json:
    """A listener's TLS settings with PEM texts in place of paths."""
    if tls.get("spiffe") is not None:
        _check_spiffe(tls, path, run)
        return {"spiffe": {}}
    for key in ("cert", "key"):
        if tls.get(key) is None:
            run.problem(path, f"tls requires '{key}' (or 'spiffe')")
    mode = tls.get("mode") or "static"
    if mode == "dynamicCa" and tls.get("root") is not None:
        run.problem(path, "tls.root is not supported with tls.mode=dynamicCa")
    low = _either(tls, "minTLSVersion", "minTlsVersion")
    high = _either(tls, "maxTLSVersion", "maxTlsVersion")
    check_versions(low, high, path, run)
    cert, key_text = _pair_texts(tls, path, run)
    return {
        "mode": mode,
        "cert": cert,
        "key": key_text,
        "root": _root_text(tls, path, run),
        "min_version": low,
        "max_version": high,
        "key_exchange_groups": tls.get("keyExchangeGroups"),
        "cipher_suites": cipher_suites(tls.get("cipherSuites"), f"{path}.cipherSuites", run),
    }


def backend_tls(tls: Node, path: str, run: Run) -> Json:
    """A `backendTLS` payload with PEM texts in place of paths; its other keys stay as they are."""
    result = dict(tls)
    if tls.get("spiffe") is not None:
        if _either(tls, "cert", "key", "root") is not None or (
            tls.get("insecure") or tls.get("insecureHost")
        ):
            run.problem(
                path,
                "'spiffe' is mutually exclusive with 'cert'/'key'/'root'/insecure/insecureHost",
            )
        require_endpoint(f"{path}.spiffe", run)
        return result
    if (tls.get("cert") is None) != (tls.get("key") is None):
        run.problem(path, "a client certificate needs both 'cert' and 'key'")
    cert, key = _pair_texts(tls, path, run)
    texts = {"cert": cert, "key": key, "root": _root_text(tls, path, run)}
    result.update({name: text for name, text in texts.items() if text is not None})
    return result
