"""Whether the backends of models could be made: the check before publication, without any pool.

A worker makes them anew from the snapshot; what it would refuse is refused here, with its place.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, final

from sidecar.errors import ConfigError
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.health import outliers_of
from sidecar.gateway.llm_attempts import Shared
from sidecar.gateway.llm_backends import LlmBackends, guards_of
from sidecar.gateway.llm_edits import Edits
from sidecar.gateway.plan import Backend
from sidecar.gateway.upstream import BrokenUpstream
from sidecar.net.tls_client import ClientTls
from sidecar.policies.base import Services
from sidecar.routing.outlier import Outliers
from sidecar.telemetry.genai import GenAiMetrics
from sidecar.telemetry.metrics import MetricWriter, Registry

Data = Mapping[str, Any]
_LIMIT_BYTES = 1


@final
class _NoConnect:
    """Stands for gateway.backends.Backends: checks what that would check, and connects nothing."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def make(self, reference: Data, policies: Data) -> Backend:
        """See llm_backends.Connect."""
        tls = policies.get("backendTLS")
        if tls is not None:
            ClientTls(tls, "backend.invalid")
        nowhere = BrokenUpstream(503, "NoHealthyBackend", "only checked")
        return Backend(str(reference["name"]), "static", nowhere)

    def outliers(self, health: Data | None) -> Outliers:
        """See llm_backends.Connect."""
        return outliers_of(health, self._services)


def check_target(target: Data, policies: Data, services: Services, writer: MetricWriter) -> None:
    """A target of kind `ai` or `llm`. Raises: ConfigError, its path below the backend or `llm`."""
    metrics = GenAiMetrics(Registry(writer))
    shared = Shared(services.clock, metrics, None, _LIMIT_BYTES, services.cel)
    maker = LlmBackends(_NoConnect(services), services, random.random, Endpoints(), shared)
    nowhere = BrokenUpstream(503, "NoHealthyBackend", "only checked")
    base = Backend("check", "llm", nowhere)
    if "ai" in target:
        maker.routed(base, target["ai"], policies)
        return
    try:
        maker.router(base, target["llm"], policies)
    except ConfigError as problem:
        raise ConfigError(problem.path.removeprefix("llm."), problem.message) from problem


def check_policy(policy: Data, services: Services) -> None:
    """An `ai` policy. Raises: ConfigError, its path below the key."""
    Edits(policy, services)
    guards_of(policy, services, _uncounted)


def _uncounted(phase: str, action: str) -> None:
    """Nothing is judged here."""
