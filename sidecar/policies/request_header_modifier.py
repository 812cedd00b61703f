"""Adds, sets and removes request headers with static values.

Source: spec/config.md section 3.4 (order: add, set, remove); hardening cases 17, 38 and 39.
"""

from __future__ import annotations

from typing import final

from pydantic import Field

from sidecar.http.message import Request
from sidecar.policies import fields
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig


class Config(PolicyConfig):
    """Static changes of the request's headers. Setting or adding `host` changes the authority."""

    add: dict[str, str] = Field(default_factory=dict)
    """Name → value appended beside values already there. Default: none."""
    set: dict[str, str] = Field(default_factory=dict)
    """Name → value put in the place of values already there. Default: none."""
    remove: list[str] = Field(default_factory=list)
    """Names dropped after the other two. Default: none."""


@final
class RequestHeaderModifier:
    """One pass that drops, one extension that appends."""

    __slots__ = ("_appended", "_authority", "_drop")

    def __init__(self, config: Config, services: Services) -> None:
        add, put = fields.valued(config.add, "add"), fields.valued(config.set, "set")
        added_host, set_host = add.pop(b"host", None), put.pop(b"host", None)
        host = added_host if set_host is None else set_host
        path = "add.host" if set_host is None else "set.host"
        self._authority = "" if host is None else fields.authority(host.decode("latin-1"), path)
        removed = {
            fields.removable_name(name, f"remove[{index}]")
            for index, name in enumerate(config.remove)
        }
        # The three steps folded into two: what a later step would drop is never appended.
        self._drop = fields.remover(put.keys() | removed, twins=True)
        self._appended = fields.kept(add, put.keys() | removed) + fields.kept(put, removed)

    def on_request(self, request: Request) -> None:
        """Change the headers in place."""
        if self._drop is not None:
            self._drop(request.headers)
        if self._appended:
            request.headers.extend(self._appended)
        if self._authority:
            request.authority = self._authority


KIND = PolicyKind("requestHeaderModifier", Config, RequestHeaderModifier)
