"""How the gateway authenticates at a token endpoint: a secret in the head or the form, or a
signed statement.

Source: RFC 6749 section 2.3.1; RFC 7521 section 4.2; RFC 7523 section 2.2; RFC 7515 sections 4.1.6
and 4.1.8 (certificates); spec config section 3.12.
"""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final, final
from urllib.parse import quote_plus

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from sidecar.errors import ConfigError
from sidecar.llm.credentials.signing import SigningKey, public_bytes
from sidecar.telemetry.clock import Clock

Form = list[tuple[str, str]]
"""Names and values, in wire order; a name may come several times."""
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_LIFE_SECONDS: Final = 300
_NS: Final = 1_000_000_000
_log = logging.getLogger("sidecar.llm.credentials")


@final
class ClientAuth:
    """One client at one authorization server. Raises: ConfigError below `path`."""

    __slots__ = ("_audience", "_client", "_clock", "_fields", "_key", "header")

    def __init__(self, payload: Mapping[str, Any], clock: Clock, path: str) -> None:
        self._clock = clock
        self._client = _text(payload, "clientId", path)
        self._fields: Form = []
        self._key: SigningKey | None = None
        self._audience = ""
        self.header: bytes | None = None
        """Value of the Authorization field."""
        method = payload.get("method") or "clientSecretBasic"
        _refuse_strangers(payload, method, path)
        if method == "privateKeyJwt":
            self._audience = _text(payload, "assertionAudience", path)
            self._key = _signing_key(payload, path)
            return
        if method == "clientSecretPost":
            self._fields = [("client_id", self._client)]
            if payload.get("clientSecret") is not None:
                self._fields.append(("client_secret", _text(payload, "clientSecret", path)))
            return
        # Both are form-encoded before they are put together (RFC 6749 section 2.3.1).
        pair = f"{quote_plus(self._client)}:{quote_plus(_text(payload, 'clientSecret', path))}"
        self.header = b"Basic " + base64.b64encode(pair.encode())

    def fields(self) -> Form:
        """What goes into the form: for each request anew, for a statement serves once."""
        if self._key is None:
            return self._fields
        now = self._clock.time_ns() // _NS
        statement = self._key.sign(
            {
                "iss": self._client,
                "sub": self._client,
                "aud": self._audience,
                "jti": secrets.token_urlsafe(16),
                "iat": now,
                "exp": now + _LIFE_SECONDS,
            }
        )
        return [
            ("client_id", self._client),
            ("client_assertion_type", _ASSERTION),
            ("client_assertion", statement),
        ]


_OWN: Final = {
    "clientSecretBasic": frozenset(("clientSecret",)),
    "clientSecretPost": frozenset(("clientSecret",)),
    "privateKeyJwt": frozenset(
        ("signingKey", "certificate", "certificateHeader", "alg", "kid", "assertionAudience")
    ),
}


def _refuse_strangers(payload: Mapping[str, Any], method: str, path: str) -> None:
    """What would have no effect with the method is a mistake."""
    given = {name for name, value in payload.items() if value is not None}
    for name in sorted(given - _OWN[method] - {"clientId", "method"}):
        raise ConfigError(f"{path}.{name}", f"not with the method {method}")


def _text(payload: Mapping[str, Any], name: str, path: str) -> str:
    value = payload.get(name)
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise ConfigError(f"{path}.{name}", "required, and not empty")
    return text


def _signing_key(payload: Mapping[str, Any], path: str) -> SigningKey:
    pem, form = payload.get("certificate"), payload.get("certificateHeader")
    if (pem is None) != (form is None):
        raise ConfigError(f"{path}.certificate", "goes together with `certificateHeader`")
    header: dict[str, Any] = {"kid": payload.get("kid")}
    leaf = None
    if pem is not None and form is not None:
        chain = _chain(pem, f"{path}.certificate")
        leaf = chain[0]
        header[form] = _shown(chain, form)
    algorithm = payload.get("alg") or "RS256"
    key = SigningKey(payload.get("signingKey"), algorithm, header, f"{path}.signingKey")
    if leaf is not None and public_bytes(leaf.public_key()) != key.public_bytes:
        # As the reference: the server is the judge, and may know another certificate of the key.
        _log.warning("%s.certificate is of another key than signingKey", path)
    return key


def _chain(pem: object, path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode() if isinstance(pem, str) else b"")
    except ValueError:
        raise ConfigError(path, "certificates (PEM), the leaf first, expected") from None


def _shown(chain: list[x509.Certificate], form: str) -> str | list[str]:
    if form == "x5c":
        der = serialization.Encoding.DER
        return [base64.b64encode(one.public_bytes(der)).decode() for one in chain]
    return base64.urlsafe_b64encode(chain[0].fingerprint(hashes.SHA256())).rstrip(b"=").decode()
