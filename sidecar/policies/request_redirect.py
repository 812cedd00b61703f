"""Answers with a redirect whose location is built from the request.

Source: spec/config.md section 3.4; RFC 9110 section 10.2.2; hardening case 36.
"""

from __future__ import annotations

import re
from typing import final

from pydantic import Field

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.policies import rewriting
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_UNSAFE = re.compile(r"[^\x21-\x7e]|[\"<>\\^`{|}]")


class Config(PolicyConfig):
    """Where to send the client. What is not set comes from the request."""

    scheme: str | None = None
    """Scheme, as `https`. Default: the request's. A new scheme drops the request's port."""
    authority: rewriting.HostRule | None = None
    """Host and port. Default, `none` and `auto` (no backend is chosen yet): the request's."""
    path: rewriting.Path | None = None
    """Path; `prefix` needs a route matched by pathPrefix, else 500. Default: the request's."""
    status: int | None = Field(default=None, ge=300, le=399)
    """Status code, 300 to 399. Default: 302."""


@final
class RequestRedirect:
    """The location's parts, each a constant or taken from the request."""

    __slots__ = ("_authority", "_keeps_port", "_path", "_scheme", "_status")

    def __init__(self, config: Config, services: Services) -> None:
        self._scheme = (config.scheme or "").lower()
        if config.scheme is not None and not _SCHEME.fullmatch(self._scheme):
            raise ConfigError("scheme", "invalid scheme")
        rule = config.authority
        self._authority = (
            rewriting.new_authority(rule, "authority")
            if isinstance(rule, rewriting.Host)
            else rewriting.split
        )
        # A port that was configured holds for the new scheme; the request's belongs to its own.
        self._keeps_port = rewriting.mode_of(rule) in ("full", "port")
        self._path = rewriting.path_rewrite(config.path, "path")
        self._status = config.status or 302

    def on_request(self, request: Request) -> Response:
        """Always answers. Raises: RequestError 500 when the matched prefix is not there."""
        location = self._location(request).encode("ascii")
        return Response(self._status, Headers([(b"location", location)]), reason="DirectResponse")

    def _location(self, request: Request) -> str:
        scheme = self._scheme or request.scheme
        host, port = self._authority(request.authority)
        if scheme != request.scheme and not self._keeps_port:
            port = ""
        target = request.target if self._path is None else self._path(request)
        if not target.startswith("/"):
            # `*` of OPTIONS and the authority of CONNECT are no paths.
            target = "/"
        target = _UNSAFE.sub(_percent, target)
        if not host:
            # Without an authority before it `//evil.example` would be read as one.
            return "/" + target.lstrip("/")
        port = rewriting.without_default(scheme, port)
        return f"{scheme}://{rewriting.join(host, port)}{target}"


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in match[0].encode("latin-1", "replace"))


KIND = PolicyKind("requestRedirect", Config, RequestRedirect)
