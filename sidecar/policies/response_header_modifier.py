"""Adds, sets and removes response headers with static values.

Source: spec/config.md section 3.4 (order: add, set, remove).
"""

from __future__ import annotations

from typing import final

from pydantic import Field

from sidecar.http.message import Request, Response
from sidecar.policies import fields
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig


class Config(PolicyConfig):
    """Static changes of the response's headers."""

    add: dict[str, str] = Field(default_factory=dict)
    """Name → value appended beside values already there. Default: none."""
    set: dict[str, str] = Field(default_factory=dict)
    """Name → value put in the place of values already there. Default: none."""
    remove: list[str] = Field(default_factory=list)
    """Names dropped after the other two. Default: none."""


@final
class ResponseHeaderModifier:
    """One pass that drops, one extension that appends."""

    __slots__ = ("_appended", "_drop")

    def __init__(self, config: Config, services: Services) -> None:
        add = fields.valued(config.add, "add")
        put = fields.valued(config.set, "set")
        removed = {
            fields.header_name(name, f"remove[{index}]") for index, name in enumerate(config.remove)
        }
        # Folded as in the request's modifier: what a later step would drop is never appended.
        self._drop = fields.remover(put.keys() | removed, twins=False)
        self._appended = fields.kept(add, put.keys() | removed) + fields.kept(put, removed)

    def on_response(self, request: Request, response: Response) -> None:
        """Change the headers in place."""
        if self._drop is not None:
            self._drop(response.headers)
        if self._appended:
            response.headers.extend(self._appended)


KIND = PolicyKind("responseHeaderModifier", Config, ResponseHeaderModifier)
