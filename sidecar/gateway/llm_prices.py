"""What calls cost: the operator's catalogue over the default prices, as expressions see it.

Source: spec/llm.md sections 4.7 and 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, final

from sidecar.llm.chat.base import Json
from sidecar.llm.cost import load
from sidecar.llm.default_prices import DefaultPrices
from sidecar.llm.usage import Usage
from sidecar.telemetry.clock import Clock


@lru_cache(maxsize=1)
def _defaults() -> DefaultPrices:
    """Loaded once a process, when the first configuration with models is compiled."""
    return DefaultPrices()


@final
class CatalogPrices:
    """See llm_facts.Prices."""

    __slots__ = ("_catalog", "_clock")

    def __init__(self, sources: Sequence[Mapping[str, Any]], clock: Clock) -> None:
        """`sources`: inline, files read already. Raises: ConfigError."""
        self._catalog = load(sources, _unread, _defaults())
        self._clock = clock

    def tags(self, provider: str, model: str) -> frozenset[str]:
        """What the operator's sources say that a model can do."""
        return self._catalog.tags(provider, model)

    def look_up(
        self, provider: str, asked: str, usage: Usage, *, excludes_cache: bool
    ) -> tuple[str, Json | None, Mapping[str, float] | None]:
        """See llm_facts.Prices."""
        now = self._clock.time_ns() // 1_000_000_000
        cost = self._catalog.cost(provider, asked, usage, now, excludes_cache=excludes_cache)
        status, rates = cost.status, cost.rates
        if rates is None:
            return status, None, None
        return status, cost.parts(), rates.usd


def _unread(path: str) -> bytes:
    raise FileNotFoundError(2, "was not read with the configuration", path)
