"""Takes the secrets out of what the admin API shows.

Better one value too many than one too few: a value goes by the name it stands under, by the header
it is for, or by its own looks (a PEM private key, credentials in a URL, a bearer token, a private
JWK). Structure and names stay.

Source: hardening case 40; spec/config.md sections 3.6, 4 and 8.1 for the keys that carry secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import final

import orjson

REDACTED = "<redacted>"

_SECRET_NAMES = frozenset(
    (
        *("authorization", "proxyauthorization", "cookie", "setcookie", "htpasswd", "key", "keys"),
        *("keyhash", "pass", "passwd", "passwords", "secrets", "tokens", "apikeys", "credentials"),
        *("signature", "pin", "otp", "psk", "dsn", "clientassertion", "assertion"),
    )
)
_SECRET_ENDINGS = (
    *("secret", "password", "passphrase", "token", "apikey", "privatekey", "signingkey"),
    *("secretkey", "accesskey", "accesskeyid", "authkey", "sharedkey", "sessionkey", "credential"),
    *("encryptionkey", "authtoken", "bearer", "pepper", "salt"),
)
_SECRET_HEADERS = frozenset(
    (
        *("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key"),
        *("x-goog-api-key", "x-auth-token", "x-amz-security-token", "x-access-token"),
    )
)
_JWK_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "k", "oth"))
_SEPARATORS = re.compile(r"[-_. ]")
_PEM_PRIVATE = re.compile(
    r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL
)
_USER_INFO = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s?#]*@")
_BEARER = re.compile(r"\b(bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_KNOWN_SHAPES = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|AKIA[A-Z0-9]{12,}"
    r"|AIza[\w-]{20,}|xox[abprs]-[\w-]{8,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*)"
)
_QUERY_SECRET = re.compile(
    r"([?&](?:access_token|api[-_]?key|key|token|secret|password|sig|signature)=)[^&\s#]+",
    re.IGNORECASE,
)
_MAX_DEPTH = 128


@final
class Redactor:
    """Redacts plain data. `sensitive_headers`: `config.sensitiveHeaders`."""

    __slots__ = ("_headers",)

    def __init__(self, sensitive_headers: Iterable[str] = ()) -> None:
        self._headers = _SECRET_HEADERS | {name.lower() for name in sensitive_headers}

    def redact(self, value: object, depth: int = 0) -> object:
        """A copy without secrets. Deeper than 128 levels nothing is shown."""
        if depth > _MAX_DEPTH:
            return REDACTED
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self.text(bytes(value).decode("utf-8", "backslashreplace"))
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple)):
            return self._sequence(value, depth)
        return value

    def text(self, value: str) -> str:
        """A text with the secrets it plainly contains replaced."""
        if value.lstrip()[:1] in ("{", "[") and '"kty"' in value:
            return self._embedded_json(value)
        value = _PEM_PRIVATE.sub(REDACTED, value)
        value = _USER_INFO.sub(rf"\1{REDACTED}@", value)
        value = _QUERY_SECRET.sub(rf"\1{REDACTED}", value)
        value = _BEARER.sub(rf"\1 {REDACTED}", value)
        return _KNOWN_SHAPES.sub(REDACTED, value)

    def _embedded_json(self, value: str) -> str:
        """A JWKS that is configured as text. Text that is no JSON after all is not shown."""
        try:
            return orjson.dumps(self.redact(orjson.loads(value))).decode()
        except orjson.JSONDecodeError:
            return REDACTED

    def _mapping(self, value: Mapping[object, object], depth: int) -> dict[str, object]:
        shown: dict[str, object] = {}
        is_jwk = "kty" in value
        is_command = "cmd" in value
        names_header = self._is_header(value.get("name")) or self._is_header(value.get("header"))
        for key, item in value.items():
            name = str(key)
            if (is_jwk and name in _JWK_PRIVATE) or (names_header and name == "value"):
                shown[name] = REDACTED
            elif is_command and name == "env":
                shown[name] = _all_redacted(item)
            elif name.lower() in self._headers or _is_secret(name):
                shown[name] = self._secret(item, depth)
            else:
                shown[name] = self.redact(item, depth + 1)
        return shown

    def _secret(self, item: object, depth: int) -> object:
        """What stands under a secret's name: a policy may be called `apiKey` and hold much else."""
        if item is None or isinstance(item, bool):
            return item
        if isinstance(item, Mapping):
            return self._mapping_of_secret(item, depth)
        if isinstance(item, (list, tuple)):
            return [self._secret(entry, depth + 1) for entry in item]
        return REDACTED

    def _mapping_of_secret(self, item: Mapping[object, object], depth: int) -> dict[str, object]:
        shown = self._mapping(item, depth + 1)
        for name in ("value", "inline", "text", "data"):
            if name in shown and not isinstance(shown[name], (dict, list)):
                shown[name] = REDACTED
        return shown

    def _sequence(self, value: list[object] | tuple[object, ...], depth: int) -> list[object]:
        if len(value) == 2 and self._is_header(value[0]) and isinstance(value[1], (str, bytes)):
            return [self.redact(value[0], depth + 1), REDACTED]
        return [self.redact(item, depth + 1) for item in value]

    def _is_header(self, name: object) -> bool:
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        return isinstance(name, str) and (name.lower() in self._headers or _is_secret(name))


def _is_secret(name: str) -> bool:
    plain = _SEPARATORS.sub("", name).lower()
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)


def _all_redacted(item: object) -> object:
    if isinstance(item, Mapping):
        return {str(name): REDACTED for name in item}
    return REDACTED
