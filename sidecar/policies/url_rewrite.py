"""Rewrites path and authority of the request that goes upstream.

Source: spec/config.md section 3.4; Gateway API HTTPURLRewriteFilter.
"""

from __future__ import annotations

from typing import final

from sidecar.http.message import Request
from sidecar.policies import rewriting
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig


class Config(PolicyConfig):
    """What to change. What is not set stays, but for the automatic hostname rewrite."""

    authority: rewriting.HostRule | None = None
    """New authority; `none` switches the automatic hostname rewrite off, `auto` forces it.
    Default: automatic for `host:` backends with a hostname, else unchanged."""
    path: rewriting.Path | None = None
    """New path; `prefix` needs a route matched by pathPrefix, else 500. Default: unchanged."""


@final
class UrlRewrite:
    """Changes `target` and `authority` in place, and tells the pipeline what is left to it."""

    __slots__ = ("_authority", "_path", "authority_mode", "rewrites_authority")

    def __init__(self, config: Config, services: Services) -> None:
        rule = config.authority
        self.authority_mode: rewriting.Mode | None = rewriting.mode_of(rule)
        """None: the automatic rule decides. `none`: the authority stays. `auto`: the pipeline puts
        the backend's hostname. `full`, `host`, `port`: done here, and it stays so."""
        self._authority = (
            rewriting.new_authority(rule, "authority") if isinstance(rule, rewriting.Host) else None
        )
        self.rewrites_authority = self._authority is not None
        """Whether the authority is set here, so that the automatic rewrite must not touch it."""
        self._path = rewriting.path_rewrite(config.path, "path")

    def on_request(self, request: Request) -> None:
        """Rewrite in place. Raises: RequestError 500 when the matched prefix is not there."""
        if self._authority is not None:
            request.authority = rewriting.join(*self._authority(request.authority))
        # `*` of OPTIONS and the authority of CONNECT are no paths.
        if self._path is not None and request.target.startswith("/"):
            request.target = self._path(request)
            # The canonical path that expressions see belongs to the old target.
            request.state.pop("path", None)


KIND = PolicyKind("urlRewrite", Config, UrlRewrite)
