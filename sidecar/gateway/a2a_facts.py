"""The series of A2A requests. An extension: the reference counts them as HTTP alone.

Source: spec/mcp_a2a.md section 3.1; spec/config.md section 9.1 (labels R).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from sidecar.a2a.methods import CARD, METHODS
from sidecar.gateway.plan import Route
from sidecar.http.message import Request
from sidecar.policies.a2a import STATE
from sidecar.telemetry.metrics import OTHER, UNKNOWN, Counter, Registry, route_labels

_VERSIONS: Final = frozenset(("0.3", "1.0"))
_KEPT: Final = 4096
_LABELS: Final = METHODS | {CARD}

Labels = tuple[str, str, str, str]
"""Method, binding, version, outcome: each one of a few, whatever clients send."""


@final
class A2aMetrics:
    """Counts requests at their end; made once a compilation."""

    __slots__ = ("_known", "_registry")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[tuple[Route, Labels], Counter] = {}

    def count(self, request: Request) -> None:
        """One request, whoever answered it."""
        state, route = request.state.get(STATE), request.route
        if not isinstance(state, Mapping) or not isinstance(route, Route):
            return
        method, version = state.get("method"), state.get("version")
        labels = (
            method if method in _LABELS else UNKNOWN,
            str(state.get("binding")),
            version if version in _VERSIONS else OTHER,
            str(state.get("outcome", UNKNOWN)),
        )
        found = self._known.get((route, labels))
        if found is None:
            if len(self._known) >= _KEPT:
                # Routes come and go in reloads that compile only them; the series stay.
                self._known.clear()
            found = self._known[route, labels] = self._made(route, labels)
        found.add(1)

    def _made(self, route: Route, labels: Labels) -> Counter:
        names = ("method", "binding", "version", "outcome")
        return self._registry.counter(
            "a2a_requests_total", [*zip(names, labels, strict=True), *route_labels(route)]
        )
