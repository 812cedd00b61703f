"""Prices for when the operator names none: the table of the `genai-prices` package, offline.

Source: https://github.com/pydantic/genai-prices (its data is part of the package).

The package knows each maker's spellings of a name, dated ones among them. Its table takes about
30 MB, so that it is loaded when the first catalogue that uses it is made, not on import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, final

from sidecar.llm.pieces import of_package
from sidecar.llm.prices import ModelPrices, Rates, rounded

_PROVIDERS: Final = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "aws.bedrock": "aws",
    "azure": "azure",
    "copilot": "github-copilot",
    "togetherai": "together",
    "xai": "x-ai",
}
"""Telemetry names that differ from the package's."""
_PREFIXES: Final = (
    "publishers/google/models/",
    "publishers/anthropic/models/",
    "models/",
    "google/",
    "anthropic/",
)
_UNITS: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
    "input_audio": "input_audio_mtok",
    "output_audio": "output_audio_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "input_image": "input_image_mtok",
    "output_image": "output_image_mtok",
}
_REMEMBERED: Final = 4096
_MAX_NAME: Final = 512
_MINUTE: Final = 60
"""Prices change on the minute at most."""


@final
class DefaultPrices:
    """The package's table, looked up by the gateway's names. Nothing is downloaded."""

    def __init__(self) -> None:
        from genai_prices.data import providers

        self._all: Any = providers
        self._by_id = {provider.id: provider for provider in providers}
        # Names come from clients and providers: the memory of them is bounded.
        self._model = lru_cache(_REMEMBERED)(self._found)
        self._timed = lru_cache(_REMEMBERED)(_at_minute)

    def find(self, provider: str, model: str, now_seconds: int) -> ModelPrices | None:
        """The prices that hold at this time (seconds since 1970); None when there are none."""
        found = self._model(provider, model)
        if found is None or type(found) is ModelPrices:
            return found
        return self._timed(_Key(found), now_seconds // _MINUTE)

    def _found(self, provider: str, model: str) -> Any:
        """The prices of a model; the package's entry where they are those of a time."""
        found = self._find(provider, model)
        if found is None or _is_timed(found):
            return found
        return self._timed(_Key(found), 0)

    def _find(self, provider: str, model: str) -> Any:
        entry = self._by_id.get(_PROVIDERS.get(provider, provider))
        if entry is None or len(model) > _MAX_NAME:
            return None
        if entry.id == "google":
            for prefix in _PREFIXES:
                model = model.removeprefix(prefix)
        return entry.find_model(model, all_providers=self._all)


@final
class _Key:
    """A model of the package as a key: by identity, since it has no hash."""

    __slots__ = ("model",)

    def __init__(self, model: Any) -> None:
        self.model = model

    def __hash__(self) -> int:
        return id(self.model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.model is self.model


def _is_timed(model: Any) -> bool:
    """Whether its prices depend on when a call is made."""
    variants = model.price_variants or ()
    return isinstance(model.prices, list) or any(one.constraint is not None for one in variants)


def _at_minute(key: _Key, minute: int) -> ModelPrices:
    """The prices that hold then; those of service tiers are whole."""
    model, at = key.model, datetime.fromtimestamp(minute * _MINUTE, UTC)
    usual = vars(model.get_prices(at))
    services: dict[str, ModelPrices] = {}
    for variant in model.price_variants or ():
        tier = variant.when.get("service_tier")
        is_active = variant.constraint is None or variant.constraint.active(at)
        if tier is None or len(variant.when) > 1 or tier in services or not is_active:
            continue
        own = {name: value for name, value in vars(variant.prices).items() if value is not None}
        if own:
            services[tier] = _converted({**usual, **own})
    made = _converted(usual)
    return replace(made, services=services) if services else made


def _converted(prices: Mapping[str, Any]) -> ModelPrices:
    values = {ours: prices.get(theirs) for ours, theirs in _UNITS.items()}
    known = {ours: value for ours, value in values.items() if value is not None}
    starts = sorted(
        {
            tier.start
            for value in known.values()
            if not isinstance(value, Decimal)
            for tier in value.tiers
        }
    )
    tiers = tuple((start, _rates(known, start)) for start in starts)
    return ModelPrices(_rates(known, -1), tiers, pieces=of_package(prices))


def _rates(known: dict[str, Any], start: int) -> Rates:
    return Rates(**{name: rounded(_at(value, start)) for name, value in known.items()})


def _at(value: Any, start: int) -> Decimal:
    """A price of calls with more than `start` tokens of input."""
    if isinstance(value, Decimal):
        return value
    price: Decimal = value.base
    for tier in value.tiers:
        if tier.start <= start:
            price = tier.price
    return price
