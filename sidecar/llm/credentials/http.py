"""The blocking HTTP calls of token endpoints and metadata services, with deadlines and caps."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from sidecar.llm.credentials.base import CredentialError, Fetched

SECONDS: Final = 4.0
"""Less than a caller waits, so that its thread ends before."""
_LIMIT_BYTES: Final = 1024 * 1024


def send(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    *,
    direct: bool = False,
    seconds: float = SECONDS,
) -> tuple[int, dict[str, str], bytes]:
    """`(status, headers, body)`. `direct`: by no proxy, as the metadata services want it.

    Redirects are not followed: a credential goes where it was sent, or nowhere; and without TLS to
    this machine and to metadata services only. Raises: CredentialError.
    """
    if not (url.startswith("https://") or _is_near(url)):
        raise CredentialError(f"{_where(url)}: not https")
    try:
        with (
            httpx.Client(timeout=seconds, trust_env=not direct, follow_redirects=False) as client,
            client.stream(method, url, headers=dict(headers or {}), content=body) as answer,
        ):
            parts: list[bytes] = []
            size = 0
            for part in answer.iter_bytes():
                size += len(part)
                if size > _LIMIT_BYTES:
                    raise CredentialError(f"{_where(url)} answered with too much")
                parts.append(part)
            return answer.status_code, dict(answer.headers), b"".join(parts)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise CredentialError(f"{_where(url)}: {type(exc).__name__}") from exc


_METADATA: Final = frozenset(("metadata.google.internal", "169.254.169.254", "fd00:ec2::254"))


def _is_near(url: str) -> bool:
    """Whether it is plain HTTP that stays on this machine, or with what it runs on."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme != "http":
        return False
    if host in _METADATA or host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local


def token_of(url: str, status: int, body: bytes) -> Fetched[str]:
    """The token of an OAuth 2.0 answer (RFC 6749 section 5.1). Raises: CredentialError."""
    if status != 200:
        raise CredentialError(f"{_where(url)} answered {status}")
    try:
        answer: Any = orjson.loads(body)
        token, life = answer["access_token"], float(answer.get("expires_in", 300))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CredentialError(f"{_where(url)} gave no token") from exc
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise CredentialError(f"{_where(url)} gave no token")
    return Fetched.lasting(token, life)


def _where(url: str) -> str:
    # Without the query, which may name identities.
    return url.partition("?")[0]
