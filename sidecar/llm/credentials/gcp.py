"""Google tokens, by google-auth: a credential document, or application default credentials.

Source: Google Cloud authentication documentation; spec config section 3.12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import google.auth
import orjson
from google.auth import exceptions, transport
from google.oauth2 import id_token, service_account

from sidecar.errors import ConfigError
from sidecar.llm.credentials import http
from sidecar.llm.credentials.base import CredentialError, Fetched

_SCOPES: Final = ("https://www.googleapis.com/auth/cloud-platform",)
_library: Any = google.auth
_accounts: Any = service_account
_identities: Any = id_token
_errors: Any = exceptions
# google-auth annotates none of the functions that are called here.
_METADATA: Final = ("http://metadata.google.internal", "http://169.254.169.254")


class _Answer(transport.Response):
    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self._status, self._headers, self._data = status, headers, data

    @property
    def status(self) -> int:
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    @property
    def data(self) -> bytes:
        return self._data


class _Transport(transport.Request):
    """google-auth's calls, with our deadlines."""

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> _Answer:
        seconds = http.SECONDS if timeout is None else min(timeout, http.SECONDS)
        direct = url.startswith(_METADATA)
        try:
            return _Answer(*http.send(method, url, headers, body, direct=direct, seconds=seconds))
        except CredentialError as exc:
            raise _errors.TransportError(str(exc)) from exc


def document(text: str, path: str) -> Mapping[str, Any]:
    """A credential document. Raises: ConfigError, without its content."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise ConfigError(path, "a Google credential document (JSON) expected")
    return value


def access_token(info: Mapping[str, Any] | None = None) -> Callable[[], Fetched[str]]:
    """Fetches access tokens; None: application default credentials."""
    return _fetching(lambda: _access(info))


def identity_token(
    audience: str, info: Mapping[str, Any] | None = None
) -> Callable[[], Fetched[str]]:
    """Fetches tokens that say who the gateway is, for one audience."""
    return _fetching(lambda: _identity(audience, info))


def _access(info: Mapping[str, Any] | None) -> Any:
    if info is None:
        found, _ = _library.default(scopes=_SCOPES, request=_Transport())
        return found
    if info["type"] == "service_account":
        return _accounts.Credentials.from_service_account_info(info, scopes=_SCOPES)
    found, _ = _library.load_credentials_from_dict(info, scopes=_SCOPES)
    return found


def _identity(audience: str, info: Mapping[str, Any] | None) -> Any:
    if info is None:
        return _identities.fetch_id_token_credentials(audience, request=_Transport())
    if info["type"] != "service_account":
        raise CredentialError("only a service account can give identity tokens")
    return _accounts.IDTokenCredentials.from_service_account_info(info, target_audience=audience)


def _fetching(make: Callable[[], Any]) -> Callable[[], Fetched[str]]:
    made: list[Any] = []

    def fetch() -> Fetched[str]:
        try:
            if not made:
                made.append(make())
            credentials = made[0]
            credentials.refresh(_Transport())
        except (exceptions.GoogleAuthError, ValueError, OSError) as exc:
            raise CredentialError(f"Google credentials: {type(exc).__name__}") from exc
        if not isinstance(credentials.token, str):
            raise CredentialError("Google gave no token")
        return Fetched.lasting(credentials.token, _seconds(credentials.expiry))

    return fetch


def _seconds(expiry: datetime | None) -> float:
    # google-auth keeps a naive date in UTC.
    if expiry is None:
        return 300.0
    return (expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
