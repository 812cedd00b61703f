"""What a login gets from the provider: the exchange of codes, and whether a token is what it says.

Source: RFC 6749 sections 2.3.1, 4.1.3, 5 and 6; RFC 7636; OpenID Connect Core 1.0 sections 3.1.3
and 12; spec/config.md section 3.6 (oidc).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import quote_plus, urlencode

import orjson

from sidecar.errors import SidecarError
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.policies.callouts import outgoing
from sidecar.policies.oidc_provider import Provider
from sidecar.policies.remote_keys import RemoteKeys
from sidecar.policies.tokens import (
    Issuer,
    KeySource,
    TokenError,
    UnknownKeyError,
    Verifier,
)

TIMEOUT_SECONDS: Final = 10.0
ANSWER_BYTES: Final = 64 * 1024
_REQUIRED: Final = ("exp", "sub")
_MAX_TOKEN: Final = 16 * 1024


class ExchangeError(Exception):
    """No token came. `is_final`: the provider refused, and will not say otherwise later."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


@final
class Tokens:
    """What the token endpoint gave. Empty: it gave none."""

    __slots__ = ("id_token", "refresh_token")

    def __init__(self, id_token: str, refresh_token: str) -> None:
        self.id_token = id_token
        self.refresh_token = refresh_token


@final
class Client:
    """The gateway as a provider knows it."""

    __slots__ = ("_basic", "_secret", "client_id")

    def __init__(self, client_id: str, secret: str) -> None:
        self.client_id = client_id
        self._secret = secret
        pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
        self._basic = b"Basic " + base64.b64encode(pair.encode())

    async def exchange(
        self, provider: Provider, form: Sequence[tuple[str, str]], of: Request
    ) -> Tokens:
        """Ask the token endpoint, in the trace of `of`. Raises: ExchangeError."""
        headers = Headers(
            (
                (b"content-type", b"application/x-www-form-urlencoded"),
                (b"accept", b"application/json"),
                (b"accept-encoding", b"identity"),
            )
        )
        fields = list(form)
        if provider.token_auth == "clientSecretBasic":  # noqa: S105 - a method
            headers.append((b"authorization", self._basic))
        else:
            fields += [("client_id", self.client_id), ("client_secret", self._secret)]
        body = urlencode(fields).encode()
        request = outgoing("POST", provider.token_target, headers, body, of=of)
        try:
            response = await provider.token.send(request, TIMEOUT_SECONDS, ANSWER_BYTES)
        except SidecarError as problem:
            raise ExchangeError(str(problem)) from problem
        return _tokens(response)


def _tokens(response: Response) -> Tokens:
    if response.status != 200:
        raise ExchangeError(f"status {response.status}", is_final=400 <= response.status < 429)
    if response.headers.get(b"content-encoding") not in (None, b"identity"):
        raise ExchangeError("compressed, which was not asked for")
    try:
        found = orjson.loads(response.body.read_nowait() or b"")
    except orjson.JSONDecodeError:
        raise ExchangeError("not JSON") from None
    if not isinstance(found, dict):
        raise ExchangeError("not an object")
    return Tokens(_text(found, "id_token"), _text(found, "refresh_token"))


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isascii() or len(value) > _MAX_TOKEN:
        raise ExchangeError(f"its {name} cannot be used")
    return value


@final
class IdTokens:
    """Whether ID tokens are the provider's, and for this client."""

    __slots__ = ("_client_id", "_issuer", "_keys", "_verifier")

    def __init__(self, issuer: str, client_id: str) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._keys: KeySource | None = None
        self._verifier = Verifier(())

    def claims(self, token: str, keys: KeySource, now_ns: int) -> dict[str, Any]:
        """What the token claims. Raises: TokenError."""
        # Discovery may name other keys one day.
        if keys is not self._keys:
            issuer = Issuer(self._issuer, (self._client_id,), _REQUIRED, keys)
            self._keys, self._verifier = keys, Verifier((issuer,))
        claims = self._verifier.verify(token.encode(), now_ns).claims
        if claims.get("azp", self._client_id) != self._client_id:
            raise TokenError("the token is invalid or malformed: InvalidAudience")
        return claims

    async def fresh_claims(self, token: str, keys: KeySource, now_ns: int) -> dict[str, Any]:
        """As `claims`, of a token that came just now: a key that is not known may be a new one.

        Raises: TokenError.
        """
        try:
            return self.claims(token, keys, now_ns)
        except UnknownKeyError:
            if not isinstance(keys, RemoteKeys) or not keys.is_worth_waiting():
                raise
        await keys.wait()
        return self.claims(token, keys, now_ns)


def is_same(one: object, other: str) -> bool:
    """Whether a claim is this text, in the same time whatever it is."""
    return isinstance(one, str) and hmac.compare_digest(one.encode(), other.encode())


def kept_claims(token: str) -> dict[str, Any]:
    """What a token claims that was verified before it was sealed into a cookie; {} for no token."""
    part = token.split(".")[1:2]
    try:
        found = orjson.loads(base64.urlsafe_b64decode(part[0] + "=" * (-len(part[0]) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
