"""Where a provider is and what its paths become: host overrides, prefixes and the client's query.

Source: spec llm section 1.4.

1. `pathOverride` is path and query, whatever is called.
2. What nobody converts (`base.UNTOUCHED`) keeps the client's path; a prefix takes the place of
   its base, or stands before it where the provider's prefixes do so.
3. `hostOverride` alone keeps the client's path, but where that path cannot name the call.
4. Else: base or prefix, then the provider's own path for the call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, final
from urllib.parse import quote, unquote_plus, urlsplit

from sidecar.config.scalars import HostPort, parse_target
from sidecar.errors import ConfigError, RequestError
from sidecar.llm.providers.base import UNTOUCHED, Authority, Call

_PATH: Final = re.compile(r"/[!-~]*")
_SAFE: Final = ":@=+,"


@final
@dataclass(frozen=True, slots=True)
class Site:
    """What the configuration says of a provider's place. `prefix` "" is a prefix, too."""

    authority: Authority | None = None
    """In the place of the provider's own hosts."""
    override: str | None = None
    """The whole path and query."""
    prefix: str | None = None
    """Without a final slash."""
    keeps_path: bool = False
    """The client's path goes upstream as it is."""

    def at(self, host: str, port: int = 443, *, tls: bool = True) -> Authority:
        """The provider's own authority, unless another is configured."""
        return self.authority or Authority(host, port, tls)

    def replaced(
        self,
        call: Call,
        base: str,
        suffix: str,
        query: str = "",
        drop: frozenset[str] = frozenset(),
    ) -> bytes:
        """A path whose `base` gives way to a configured prefix. `query` is the provider's own;
        `drop` names parameters of the client that are left out."""
        if self.override is not None:
            return self.override.encode()
        if call.format in UNTOUCHED:
            path = call.path
            if self.prefix is not None:
                path = self.prefix + _below(path, base)
            return _joined(path, "", call.query, drop)
        if self.keeps_path:
            return _joined(call.path, "", call.query, drop)
        prefix = base if self.prefix is None else self.prefix
        return _joined(prefix + suffix, query, call.query, drop)

    def prepended(
        self, call: Call, path: str, query: str = "", drop: frozenset[str] = frozenset()
    ) -> bytes:
        """A path that a configured prefix stands before. It names the model, as a client's path
        of another format cannot, so that only an unconverted call keeps the client's."""
        if self.override is not None:
            return self.override.encode()
        prefix = self.prefix or ""
        if call.format in UNTOUCHED:
            return _joined(prefix + call.path, "", call.query, drop)
        if self.keeps_path and call.format == call.client_format:
            return _joined(call.path, "", call.query, drop)
        return _joined(prefix + path, query, call.query, drop)

    def foreign(self, call: Call, path: str, query: str = "") -> bytes:
        """As `prepended`, for providers that refuse parameters they do not know: the client's
        query (`beta=true` of Anthropic's SDK) is for the API that the client speaks."""
        keeps = self.keeps_path and call.format == call.client_format
        return self.prepended(call if keeps else replace(call, query=""), path, query)

    def verbatim(self, call: Call, path: str) -> bytes:
        """A path from the configuration, which no prefix stands before."""
        if self.override is not None:
            return self.override.encode()
        return _joined(path, "", call.query, frozenset())


def _below(path: str, base: str) -> str:
    return path[len(base) :] if path == base or path.startswith(f"{base}/") else path


def _joined(path: str, own: str, query: str, drop: frozenset[str]) -> bytes:
    if query and drop:
        kept = (item for item in query.split("&") if _name(item) not in drop)
        query = "&".join(item for item in kept if item)
    # Raw octets of a client that does not percent-encode stand in a latin-1 str.
    both = f"{own}&{query}" if own and query else own or query
    return (f"{path}?{both}" if both else path).encode("latin-1", "replace")


def _name(item: str) -> str:
    return unquote_plus(item.partition("=")[0])


def segment(model: str) -> str:
    """A model's name as one segment of a path. Raises: RequestError 400."""
    if model in ("", ".", ".."):
        raise RequestError(400, "InvalidRequest", "the model's name cannot be part of a path")
    return quote(model, safe=_SAFE)


def unsupported(provider: str, format: str) -> RequestError:
    """The refusal of a format that a provider does not have."""
    return RequestError(400, "InvalidRequest", f"{provider} does not serve {format} for this model")


def site(
    host_override: str | None = None,
    path_override: str | None = None,
    path_prefix: str | None = None,
    *,
    place: str = "",
) -> Site:
    """The keys of an `ai` backend. A host given so is spoken to in plain text, unless backendTLS
    is configured. Raises: ConfigError."""
    made = Site(
        override=_checked(path_override, f"{place}.pathOverride"),
        prefix=_prefix(path_prefix, f"{place}.pathPrefix"),
    )
    if host_override is None:
        return made
    try:
        target = parse_target(host_override)
    except ValueError as exc:
        raise ConfigError(f"{place}.hostOverride", str(exc)) from exc
    if not isinstance(target, HostPort):
        raise ConfigError(f"{place}.hostOverride", "`host:port` expected")
    keeps = made.prefix is None and made.override is None
    authority = Authority(target.host, target.port, tls=False)
    return replace(made, authority=authority, keeps_path=keeps)


def base_url_site(url: str, path_override: str | None = None, *, place: str = "") -> Site:
    """`params.baseUrl`: host, TLS and prefix. Without a path, paths stay the provider's own.

    Raises: ConfigError.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ConfigError(place, "invalid URL") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(place, "`http://` or `https://` and a host expected")
    if parts.username is not None or parts.password is not None or "?" in url or "#" in url:
        raise ConfigError(place, "cannot include user info, query parameters, or a fragment")
    tls = parts.scheme == "https"
    authority = Authority(parts.hostname, port or (443 if tls else 80), tls)
    prefix = _prefix(parts.path, place) or None
    return Site(authority, _checked(path_override, f"{place}.pathOverride"), prefix)


def _prefix(text: str | None, place: str) -> str | None:
    if text is None:
        return None
    text = text.rstrip("/")
    return _checked(text, place) if text else ""


def _checked(text: str | None, place: str) -> str | None:
    if text is not None and not _PATH.fullmatch(text):
        raise ConfigError(place, "a path that starts with `/`, without spaces, expected")
    return text
