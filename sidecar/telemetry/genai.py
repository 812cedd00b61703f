"""The series of model calls: tokens, cost, and how long it took.

Source: spec/config.md section 9.1; spec/llm.md section 5.3; OpenTelemetry semantic conventions for
generative AI metrics.

A model's name is the client's to choose, so a route has only so many combinations of names; what
comes beyond them is counted under `_OTHER`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from sidecar.telemetry.fields import RouteFacts
from sidecar.telemetry.metrics import OTHER, UNKNOWN, Counter, Registry, route_labels

TOKENS: Final = tuple(float(4**power) for power in range(14))
SECONDS: Final = tuple(0.01 * 2**power for power in range(14))
FIRST_TOKEN_SECONDS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
PER_TOKEN_SECONDS: Final = (
    *(0.001, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15),
    *(0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
_TOKEN_TYPES: Final = (
    ("inputTokens", "input"),
    ("outputTokens", "output"),
    ("cachedInputTokens", "input_cache_read"),
    ("cacheCreationInputTokens", "input_cache_write"),
)
_MAX_COMBINATIONS: Final = 256

Labels = tuple[str, str, str]
"""Provider, model asked for, model that answered."""
Names = tuple[object, object, object]
"""The same as they stand among the facts: None where one is not known."""


@final
class _Cells:
    """All cells of one combination of names on one route."""

    __slots__ = (
        "_labels",
        "_registry",
        "cost",
        "duration",
        "each",
        "first",
        "lookups",
        "tokens",
    )

    def __init__(self, registry: Registry, names: Labels, facts: RouteFacts) -> None:
        provider, asked, answered = names
        labels = [
            ("gen_ai_operation_name", "chat"),
            ("gen_ai_system", provider),
            ("gen_ai_request_model", asked),
            ("gen_ai_response_model", answered),
            *route_labels(facts),
        ]
        self._registry = registry
        self._labels = labels
        self.lookups: dict[str, Counter] = {}
        self.tokens = [
            (
                key,
                registry.histogram(
                    "gen_ai_client_token_usage", TOKENS, [("gen_ai_token_type", kind), *labels]
                ).observe,
            )
            for key, kind in _TOKEN_TYPES
        ]
        self.duration = registry.histogram(
            "gen_ai_server_request_duration", SECONDS, labels
        ).observe
        self.first = registry.histogram(
            "gen_ai_server_time_to_first_token", FIRST_TOKEN_SECONDS, labels
        ).observe
        self.each = registry.histogram(
            "gen_ai_server_time_per_output_token", PER_TOKEN_SECONDS, labels
        ).observe
        self.cost = registry.money("gen_ai_client_cost_usd_total", labels)

    def lookup(self, status: str) -> Counter:
        """What counts looks into the price catalogue that ended so; kept in `lookups`."""
        labels = [("status", status), *self._labels]
        found = self._registry.counter("cost_catalog_lookups_total", labels)
        self.lookups[status] = found
        return found


@final
class GenAiMetrics:
    """Made once a compilation."""

    __slots__ = ("_guards", "_known", "_registry")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._guards: dict[tuple[str, str], Counter] = {}
        self._known: dict[tuple[RouteFacts, Names], _Cells] = {}

    def guarded(self, phase: str, action: str) -> None:
        """Count a prompt guard's judgement: Request, Response; Allow, Mask, Reject, FailOpen."""
        found = self._guards.get((phase, action))
        if found is None:
            labels = [("phase", phase), ("action", action)]
            found = self._registry.counter("guardrail_checks_total", labels)
            self._guards[phase, action] = found
        found.add(1)

    def finish(
        self,
        facts: RouteFacts,
        llm: Mapping[str, object],
        duration_seconds: float,
        catalog_status: str,
    ) -> None:
        """Count a call that is over. `llm`: the variable of that name (spec/llm.md section 5.2).

        `catalog_status`: Exact, Unpriced, Missing or NoCatalog; "" when nobody looked.
        """
        said = llm.get
        names = (said("provider"), said("requestModel"), said("responseModel"))
        cells = self._known.get((facts, names)) or self._found(facts, names)
        for key, observe in cells.tokens:
            count = said(key)
            if type(count) is int:
                observe(count)
        cells.duration(duration_seconds)
        first, each = said("timeToFirstToken"), said("timePerOutputToken")
        if type(first) is float:
            cells.first(first)
        if type(each) is float:
            cells.each(each)
        cost = said("cost")
        total = cost.get("total") if type(cost) is dict else None
        if type(total) is float and total > 0:
            cells.cost.add(total)
        if catalog_status:
            found = cells.lookups.get(catalog_status) or cells.lookup(catalog_status)
            found.add(1)

    def _found(self, facts: RouteFacts, names: Names) -> _Cells:
        if len(self._known) >= _MAX_COMBINATIONS:
            names = (names[0], OTHER, OTHER)
        key = (facts, names)
        cells = self._known.get(key)
        if cells is None:
            provider, asked, answered = (str(name or UNKNOWN) for name in names)
            labels = (provider, asked, answered)
            cells = self._known[key] = _Cells(self._registry, labels, facts)
        return cells
