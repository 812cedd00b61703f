"""Cross-origin resource sharing: answers preflights and marks the responses to allowed origins.

Source: Fetch standard, section "CORS protocol"; spec/config.md section 3.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, final

import re2
from pydantic import Field

from sidecar.errors import ConfigError
from sidecar.http.headers import Field as HeaderField
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.policies import fields
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig, Seconds

_KNOWN_ORIGINS: Final = 256
_ORIGIN_BYTES: Final = 512
"""A scheme, a host of 253 octets and a port have room; a client must not fill the cache."""


class Config(PolicyConfig):
    """Which origins may read responses, and what a preflight is told."""

    allow_origins: list[str] = Field(default_factory=list)
    """`*`, exact origins, or patterns as `https://*.example.com` and `http://localhost:*`.
    Default: none."""
    allow_methods: list[str] = Field(default_factory=list)
    """Methods told to a preflight; `*` echoes the one it asks for. Default: none."""
    allow_headers: list[str] = Field(default_factory=list)
    """Header names told to a preflight; `*` echoes those it asks for. Default: none."""
    expose_headers: list[str] = Field(default_factory=list)
    """Response headers that scripts may read. Default: none."""
    allow_credentials: bool = False
    """Whether cookies and credentials may be sent along. Default: false."""
    max_age_seconds: Seconds | None = Field(default=None, alias="maxAge")
    """How long a preflight's answer may be kept; sent in whole seconds. Default: not said."""


@final
class Cors:
    """Header sets made ready; a request costs one scan for Origin when it has none."""

    __slots__ = ("_actual", "_headers", "_is_allowed", "_methods", "_preflight")

    def __init__(self, config: Config, services: Services) -> None:
        self._is_allowed = _origins(config.allow_origins)
        self._methods = _listed(config.allow_methods, "allowMethods")
        self._headers = _listed(config.allow_headers, "allowHeaders")
        exposed = _listed(config.expose_headers, "exposeHeaders")
        shared: list[HeaderField] = []
        if config.allow_credentials:
            shared.append((b"access-control-allow-credentials", b"true"))
        if exposed:
            shared.append((b"access-control-expose-headers", exposed))
        self._actual = tuple(shared)
        if config.max_age_seconds is not None:
            shared.append((b"access-control-max-age", b"%d" % int(config.max_age_seconds)))
        self._preflight = tuple(shared)

    def on_request(self, request: Request) -> Response | None:
        """Answer OPTIONS from an allowed origin and every preflight; else mark and go on."""
        headers = request.headers
        origins = [value for name, value in headers if name == b"origin"]
        if not origins:
            return None
        origin = origins[0]
        # Two Origin fields name no origin, so that they are never allowed.
        allowed = len(origins) == 1 and self._is_allowed(origin)
        if request.method == "OPTIONS":
            if allowed:
                return self._answer(headers, origin)
            if headers.get(b"access-control-request-method"):
                return Response(200, reason="DirectResponse")
        elif allowed:
            request.response_headers.append((b"access-control-allow-origin", origin))
            request.response_headers.extend(self._actual)
        return None

    def on_response(self, request: Request, response: Response) -> None:
        """Tell caches that the response differs by origin, since the origin is echoed."""
        if request.headers.has(b"origin"):
            _vary_by_origin(response.headers)

    def _answer(self, asked: Headers, origin: bytes) -> Response:
        told = Headers([(b"access-control-allow-origin", origin)])
        for name, configured, requested in (
            (b"access-control-allow-methods", self._methods, b"access-control-request-method"),
            (b"access-control-allow-headers", self._headers, b"access-control-request-headers"),
        ):
            value = asked.get(requested) if configured == b"*" else configured
            if value:
                told.append((name, value))
        told.extend(self._preflight)
        return Response(200, told, reason="DirectResponse")


def _vary_by_origin(headers: Headers) -> None:
    for value in headers.get_all(b"vary"):
        if any(item.strip().lower() in (b"origin", b"*") for item in value.split(b",")):
            return
    headers.append((b"vary", b"origin"))


def _listed(items: Sequence[str], path: str) -> bytes:
    if "*" in items:
        return b"*"
    for index, item in enumerate(items):
        # Methods and header names are both tokens.
        fields.header_name(item, f"{path}[{index}]")
    return ", ".join(items).encode("ascii")


def _origins(texts: Sequence[str]) -> Callable[[bytes], bool]:
    if "*" in texts:
        return lambda _: True
    values = [
        fields.header_value(text, f"allowOrigins[{index}]") for index, text in enumerate(texts)
    ]
    if b"" in values:
        raise ConfigError(f"allowOrigins[{values.index(b'')}]", "an origin cannot be empty")
    exact = frozenset(value for value in values if b"*" not in value)
    patterns = [_pattern(value) for value in values if b"*" in value]
    if not patterns:
        return exact.__contains__
    matches = re2.compile(b"|".join(patterns)).fullmatch

    # Pages of one site call again and again, and matching is half of what this policy costs.
    @lru_cache(maxsize=_KNOWN_ORIGINS)
    def is_allowed(origin: bytes) -> bool:
        return origin in exact or matches(origin) is not None

    return lambda origin: len(origin) <= _ORIGIN_BYTES and is_allowed(origin)


def _pattern(value: bytes) -> bytes:
    """A wildcard stands for one or more labels of a host, and after the colon for a port.

    It never spans a scheme, a port or user information: `https://*.example.com` must not allow
    `https://evil.example:1/.example.com`.
    """
    port = rb":[0-9]+" if value.endswith(b":*") else b""
    host = value.removesuffix(b":*") if port else value
    return rb"[A-Za-z0-9_.-]+".join(re.escape(part) for part in host.split(b"*")) + port


KIND = PolicyKind("cors", Config, Cors)
