"""Lets a downstream connection in or closes it, before anything is read from it.

Source: spec/config.md sections 3.7 and 1.10.
"""

from __future__ import annotations

from typing import final

from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.rules import AnyRule, RuleSet
from sidecar.policies.schema import PolicyConfig

_ROOTS = frozenset(("source", "destination"))


class Config(PolicyConfig):
    """Rules over `source` and `destination`, all that is known of a connection."""

    rules: list[AnyRule]
    """Any order: denials come first, then requirements, then allowances. None: all pass."""


@final
class NetworkAuthorization:
    """Asked once a connection, by whoever accepts it; it has no hooks on requests."""

    __slots__ = ("_permits",)

    def __init__(self, config: Config, services: Services) -> None:
        self._permits = RuleSet(config.rules, services, _ROOTS).permits

    def permits(self, connection: Connection) -> bool:
        """Whether the connection may go on; when not it is closed without a word."""
        # The rules can only see the connection, so an empty request may carry it to them.
        request = Request("", "", "", "", "", Headers(), FixedBody(), connection, started_ns=0)
        return self._permits(request)


KIND = PolicyKind("networkAuthorization", Config, NetworkAuthorization)
