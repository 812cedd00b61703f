"""The catalogue that a worker prices calls by, which a reload replaces.

Source: spec llm sections 4.7 and 5.2; spec config section 5.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, final

from sidecar.llm.cost import Catalog, load
from sidecar.llm.default_prices import DefaultPrices
from sidecar.llm.prices import CAMEL, PICO, RATES, Rates
from sidecar.llm.shape import Json
from sidecar.llm.usage import Usage
from sidecar.telemetry.clock import Clock


@final
class PriceBook:
    """Prices calls. `defaults` None: only what the operator's sources say."""

    __slots__ = ("_clock", "_defaults", "catalog")

    def __init__(self, clock: Clock, defaults: DefaultPrices | None) -> None:
        self._clock = clock
        self._defaults = defaults
        self.catalog = Catalog({}, defaults)

    def reload(self, sources: Sequence[Mapping[str, Any]], read: Callable[[str], bytes]) -> None:
        """Take new sources (see `cost.load`). Raises: ConfigError; then the old ones stay."""
        self.catalog = load(sources, read, self._defaults)

    def tags(self, provider: str, model: str) -> frozenset[str]:
        """See Catalog; always of the catalogue in use."""
        return self.catalog.tags(provider, model)

    def __call__(
        self, provider: str, asked: str, usage: Usage, *, excludes_cache: bool
    ) -> tuple[str, Json | None, Json | None]:
        """`(status, cost, rates)` of a call: the status of the look-up; USD by class, `total` among
        them; USD for 1,000,000 tokens by class. None: not known."""
        found = self.catalog.cost(
            provider,
            asked,
            usage,
            self._clock.time_ns() // 1_000_000_000,
            excludes_cache=excludes_cache,
        )
        if found.status != "Exact":
            return found.status, None, None
        # CEL has no decimals. A quotient of integers is the float next to the exact value, and its
        # shortest text gives the nano-USD back. 8 µs for a call, 13 by way of decimals.
        amounts = found.pico_usd
        cost = {"total": sum(amounts) / PICO}
        for name, amount in zip(_CLASSES, amounts, strict=True):
            cost[name] = amount / PICO
        return found.status, cost, dict(_shown(found.rates))


_CLASSES: Final = tuple(CAMEL[name] for name in RATES)


@lru_cache(1024)
def _shown(rates: Rates | None) -> dict[str, float]:
    return {} if rates is None else {key: float(one) for key, one in rates.as_usd().items()}
