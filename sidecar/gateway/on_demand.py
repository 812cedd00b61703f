"""Backends of models, MCP servers and agents: their code is loaded for the first of each.

See gateway.parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, final

from sidecar.errors import ConfigError
from sidecar.gateway.backends import AgentBackends, Backends, ModelBackends, ServerBackends
from sidecar.gateway.levels import Levels
from sidecar.gateway.surroundings import Surroundings, Telemetry
from sidecar.http.message import Request
from sidecar.policies.base import Services
from sidecar.telemetry.genai import GenAiMetrics
from sidecar.telemetry.metrics import Registry

Data = Mapping[str, Any]


@final
class OnDemand:
    """Makes what makes them, in one compilation."""

    def __init__(
        self,
        around: Surroundings,
        backends: Backends,
        levels: Levels,
        services: Services,
        telemetry: Telemetry,
        config: Data,
        prices: Data,
        limit: int,
    ) -> None:
        """`prices`: the catalogue's. `limit`: of bodies, in bytes."""
        self._around = around
        self._backends = backends
        self._levels = levels
        self._services = services
        self._telemetry = telemetry
        self._config = config
        self._prices = prices
        self._limit = limit

    def attach(self) -> None:
        """Have the backends ask here."""
        self._backends.make_models = self.models
        self._backends.make_servers = self.servers
        self._backends.make_agents = self.agents

    def models(self) -> ModelBackends:
        """What makes backends of models."""
        from sidecar.gateway.llm_attempts import Shared
        from sidecar.gateway.llm_backends import LlmBackends
        from sidecar.gateway.llm_prices import CatalogPrices

        around, services = self._around, self._services
        sources = self._prices.get("sources", ())
        prices = CatalogPrices(sources, services.clock)
        return LlmBackends(
            self._backends,
            services,
            around.random,
            around.endpoints,
            Shared(
                services.clock,
                GenAiMetrics(self._telemetry.requests.registry),
                prices,
                self._limit,
                services.cel,
                prices.tags,
            ),
            around.credentials,
        )

    def servers(self) -> ServerBackends:
        """What makes `mcp` backends."""
        from sidecar.gateway.mcp_backends import McpBackends
        from sidecar.gateway.mcp_facts import McpMetrics

        worker = self._around.mcp
        if worker is None:
            raise ConfigError("mcp", "there are no sessions where this is compiled")
        telemetry = self._telemetry
        return McpBackends(
            self._backends,
            self._levels,
            self._services,
            worker.serving(self._config),
            McpMetrics(telemetry.requests.registry),
            telemetry.upstreams.call("Primary", "Mcp"),
            telemetry.tracer,
        )

    def agents(self) -> AgentBackends:
        """What makes backends with the policy `a2a`."""
        from sidecar.gateway.a2a_backends import A2aBackends

        return A2aBackends(self._limit)


def agent_counter(registry: Registry) -> Callable[[], Callable[[Request], None]]:
    """Makes what counts A2A requests at their end, one for all who ask."""

    @cache
    def made() -> Callable[[Request], None]:
        from sidecar.gateway.a2a_facts import A2aMetrics

        return A2aMetrics(registry).count

    return made
