"""Rewriting of authority and path, as redirects and URL rewrites have in common.

Source: spec/config.md section 3.4; Gateway API HTTPPathModifier; RFC 3986 section 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request
from sidecar.policies import fields
from sidecar.policies.schema import OBJECT, PLAIN, PolicyConfig, exactly_one, form
from sidecar.routing import canonical

Mode = Literal["none", "auto", "full", "host", "port"]
Rewrite = Callable[[Request], str]
"""Gives the new target (path and query). Raises: RequestError 500 when the prefix is not there."""

_PATH = re.compile(r"(?:[!$&-;=@A-Z_a-z~]|%[0-9A-Fa-f]{2})*")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Host(PolicyConfig):
    """A change of the authority; exactly one key."""

    full: str | None = None
    """Host and optional port, in place of both."""
    host: str | None = None
    """Host without a port; the port stays."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Port; the host stays."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self)
        return self


class Path(PolicyConfig):
    """A change of the path; exactly one key. The query always stays."""

    full: str | None = None
    """The new path."""
    prefix: str | None = None
    """What stands in the place of the prefix that the route matched."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self)
        return self


HostRule = Annotated[
    Annotated[Host, Tag(OBJECT)] | Annotated[Literal["auto", "none"], Tag(PLAIN)],
    Discriminator(form),
]
"""The two spellings of an authority rule: a mapping, or `auto` / `none`."""


def mode_of(rule: Host | Literal["auto", "none"] | None) -> Mode | None:
    """Which of the five forms a rule has; None when there is none."""
    if rule is None or isinstance(rule, str):
        return rule
    return "full" if rule.full is not None else "host" if rule.host is not None else "port"


def split(authority: str) -> tuple[str, str]:
    """`(host, port)`; the port is "" when absent, brackets of an IPv6 literal stay."""
    if authority.endswith("]"):
        return authority, ""
    host, colon, port = authority.rpartition(":")
    return (host, port) if colon and port.isdigit() else (authority, "")


def new_authority(rule: Host, path: str) -> Callable[[str], tuple[str, str]]:
    """What turns an authority into the new `(host, port)`. Raises: ConfigError."""
    if rule.full is not None:
        whole = split(fields.authority(rule.full, f"{path}.full"))
        return lambda _: whole
    if rule.host is not None:
        host, port = split(fields.authority(rule.host, f"{path}.host"))
        if port:
            raise ConfigError(f"{path}.host", "must not have a port; use `full`")
        return lambda authority: (host, split(authority)[1])
    new_port = str(rule.port)
    return lambda authority: (split(authority)[0], new_port)


def join(host: str, port: str) -> str:
    """The authority of a host and a port ("" for none)."""
    return f"{host}:{port}" if port else host


def without_default(scheme: str, port: str) -> str:
    """The port, or "" where the scheme implies it."""
    return "" if _DEFAULT_PORTS.get(scheme) == port else port


def path_rewrite(rule: Path | None, path: str) -> Rewrite | None:
    """What makes the new target; None when the path stays. Raises: ConfigError."""
    if rule is None:
        return None
    if rule.full is not None:
        return _replace_full(_checked(rule.full, f"{path}.full"))
    prefix = rule.prefix or ""
    return _replace_prefix(_checked(prefix, f"{path}.prefix") if prefix else "")


def _checked(text: str, path: str) -> str:
    if not text.startswith("/"):
        raise ConfigError(path, "must begin with `/`")
    if not _PATH.fullmatch(text):
        raise ConfigError(
            path, "must be a path without query or fragment; percent-encode other characters"
        )
    try:
        _, _, forwarded = canonical.resolve(text)
    except RequestError as problem:
        raise ConfigError(path, problem.message) from problem
    if forwarded != text:
        raise ConfigError(path, "must not contain dot segments")
    return text


def _replace_full(full: str) -> Rewrite:
    def rewrite(request: Request) -> str:
        _, mark, query = request.target.partition("?")
        return full + mark + query

    return rewrite


def _replace_prefix(replacement: str) -> Rewrite:
    whole = replacement or "/"
    stem = replacement.rstrip("/")

    def rewrite(request: Request) -> str:
        match = request.state.get("route_match")
        if not isinstance(match, tuple) or match[0] != "prefix":
            raise _no_prefix("path.prefix needs a route matched by pathPrefix")
        path, mark, query = request.target.partition("?")
        rest = _after(path, match[1])
        if rest is None:
            # The route matched the canonical path and this spelling of it differs (`//a`, `%61`).
            rest = _after(canonical.path(request.target), match[1])
            if rest is None:
                raise _no_prefix("the path no longer begins with the prefix the route matched")
        if not rest:
            return whole + mark + query
        # A path that begins with `//` could be read as an authority by the next hop.
        return (stem + rest if stem else "/" + rest.lstrip("/")) + mark + query

    return rewrite


def _after(path: str, prefix: str) -> str | None:
    stem = prefix.rstrip("/")
    if path == stem:
        return ""
    return path[len(stem) :] if path.startswith(stem + "/") else None


def _no_prefix(why: str) -> RequestError:
    return RequestError(500, "Internal", f"failed to apply filters: {why}")
