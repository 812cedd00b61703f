"""Lets a request pass or refuses it, by the rules of all levels together.

Source: spec/config.md section 3.7; section 11 (403 `authorization failed`); hardening case 47.
"""

from __future__ import annotations

from typing import final

from sidecar.errors import RequestError
from sidecar.http.message import Request
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.rules import AnyRule, RuleSet
from sidecar.policies.schema import PolicyConfig


class Config(PolicyConfig):
    """Rules over the request, its connection and what authentication found."""

    rules: list[AnyRule]
    """Any order: denials come first, then requirements, then allowances. None: all pass."""


@final
class Authorization:
    """Refuses with 403. Rules that read the body make the pipeline refuse bodies past its bound."""

    __slots__ = ("_permits", "needs_request_body", "variables")

    def __init__(self, config: Config, services: Services) -> None:
        rules = RuleSet(config.rules, services)
        self._permits = rules.permits
        self.needs_request_body = rules.needs_request_body
        self.variables = rules.variables

    def on_request(self, request: Request) -> None:
        """Raises: RequestError 403."""
        if not self._permits(request):
            raise RequestError(403, "Authorization", "authorization failed")


KIND = PolicyKind("authorization", Config, Authorization)
