"""Refuses requests that another site's page made a browser send.

Source: spec/config.md sections 3.4 and 11; Fetch Metadata Request Headers, section 2.3; RFC 6454.
"""

from __future__ import annotations

from typing import Final, final
from urllib.parse import urlsplit

from pydantic import Field

from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig

_HARMLESS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_OWN_SITE: Final = frozenset((b"same-origin", b"none"))
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_NULL: Final = "null"


class Config(PolicyConfig):
    """Which other origins may send requests that change something."""

    additional_origins: list[str] = Field(default_factory=list)
    """Origins such as `https://app.example.com`, and `null`. Default: only the own."""


@final
class Csrf:
    """Refuses with 403. What is no browser sends neither header, and passes."""

    __slots__ = ("_origins",)
    is_guard = True

    def __init__(self, config: Config, services: Services) -> None:
        self._origins = frozenset(
            _configured(text, f"additionalOrigins[{number}]")
            for number, text in enumerate(config.additional_origins)
        )

    def on_request(self, request: Request) -> None:
        """Raises: RequestError 403."""
        if request.method in _HARMLESS:
            return
        headers = request.headers
        sites = headers.get_all(b"sec-fetch-site")
        origins = headers.get_all(b"origin")
        # Fast path: no browser, or one that says it is the own page.
        if not sites and not origins:
            return
        if len(sites) == 1 and sites[0] in _OWN_SITE:
            return
        if len(sites) < 2 and len(origins) == 1:
            origin = _normal(origins[0].decode("latin-1"))
            if origin in self._origins:
                return
            if not sites and origin == _normal(f"{request.scheme}://{request.received_authority}"):
                return
        raise RequestError(403, "Authorization", "CSRF validation failed")


def _normal(origin: str) -> str:
    """Lower case, without the port that goes without saying."""
    text = origin.lower()
    scheme, mark, _ = text.partition("://")
    return text.removesuffix(_DEFAULT_PORTS.get(scheme, "\0")) if mark else text


def _configured(text: str, path: str) -> str:
    """Raises: ConfigError for what no browser would send."""
    if text == _NULL:
        return text
    try:
        parts = urlsplit(text)
        is_origin = bool(parts.scheme and parts.hostname) and text.isascii()
    except ValueError:
        is_origin = False
    if not is_origin or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(path, "expected an origin such as `https://app.example.com`, or `null`")
    return _normal(text)


KIND = PolicyKind("csrf", Config, Csrf)
