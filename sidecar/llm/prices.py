"""Prices of models: the catalogue's format, and the arithmetic of one model's rates.

Source: spec llm section 4.7.

Amounts are exact: a rate is USD for 1,000,000 tokens with at most six decimals, so that one token
costs a whole number of pico-USD, and sums are sums of integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from typing import Any, Final, final

import orjson

from sidecar.errors import ConfigError
from sidecar.llm.pieces import PIECES, REQUEST, PiecePrice

Data = Mapping[str, Any]
PICO: Final = 10**12
_PICO_OF_A_MILLION: Final = 10**6
"""Pico-USD for one token in 1 USD for 1,000,000 of them."""
_MAX_RATE: Final = Decimal(10) ** 9
_PIECE_DECIMALS: Final = 12
_DECIMALS: Final = {6: "six", _PIECE_DECIMALS: "twelve"}


@final
@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-USD for one token; None: the catalogue says nothing."""

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    input_audio: int | None = None
    output_audio: int | None = None
    cache_write_1h: int | None = None
    input_image: int | None = None
    output_image: int | None = None
    applied: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """What a token of each of `CLASSES` costs, with the fallbacks; 0 where there is no rate."""
    missing: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Which of `applied` there is no rate for."""
    usd: Mapping[str, float] = field(init=False, repr=False, compare=False)
    """Camel-case name to USD for 1,000,000 tokens, those that are known; shared, never changed."""

    def __post_init__(self) -> None:
        # Once a model: each of its calls is priced by them.
        own = [getattr(self, name) for name in CLASSES]
        bases = (self.input, self.output, self.input, self.input, self.output, self.input)
        due = [_first(one, base) for one, base in zip(own, (*bases, self.output), strict=True)]
        all_ = ((name, getattr(self, name)) for name in RATES)
        known = {CAMEL[name]: one for name, one in all_ if one is not None}
        object.__setattr__(self, "applied", tuple(one or 0 for one in due))
        missing = tuple(index for index, one in enumerate(due) if one is None)
        object.__setattr__(self, "missing", missing)
        # The shortest text of such a float is the decimal again.
        usd = {name: one / _PICO_OF_A_MILLION for name, one in known.items()}
        object.__setattr__(self, "usd", usd)

    def over(self, base: Rates) -> Rates:
        """These, and `base` where they say nothing."""
        return Rates(*(_first(getattr(self, name), getattr(base, name)) for name in RATES))


RATES: Final = tuple(item.name for item in fields(Rates) if item.init)
SPECIAL: Final = {"cache_write_1h": "cache_write", "input_image": "input", "output_image": "output"}
"""Classes that not every catalogue has, and what they count as otherwise."""
CLASSES: Final = tuple(name for name in RATES if name not in SPECIAL)
"""The classes that costs are told by."""
CAMEL: Final = {
    name: name.split("_")[0] + "".join(part[:1].upper() + part[1:] for part in name.split("_")[1:])
    for name in RATES
}
_NAMES: Final = {camel: name for name, camel in CAMEL.items()}


def _first(value: int | None, other: int | None) -> int | None:
    return other if value is None else value


@final
@dataclass(frozen=True, slots=True)
class ModelPrices:
    """One model's rates. `tiers`: `(context_over, rates)`, rising; a tier's rates are whole.

    `services`: service tier to its prices, which say only what differs from the usual rates.
    """

    rates: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()
    tags: frozenset[str] = frozenset()
    services: Mapping[str, ModelPrices] = field(default_factory=dict)
    pieces: Mapping[str, PiecePrice] = field(default_factory=dict)
    """What is paid for beside tokens, by its name in llm.pieces."""
    is_per_call: bool = field(init=False, repr=False, compare=False)
    """Whether a call costs something by itself."""
    is_bare: bool = field(init=False, repr=False, compare=False)
    """Nothing is said of prices: an entry for its tags."""
    served: Mapping[str, ModelPrices] = field(init=False, repr=False, compare=False)
    """The same, whole."""

    def __post_init__(self) -> None:
        whole = {
            name: ModelPrices(
                one.rates.over(self.rates), one.tiers, pieces={**self.pieces, **one.pieces}
            )
            for name, one in self.services.items()
        }
        object.__setattr__(self, "is_per_call", REQUEST in self.pieces)
        is_priced = self.tiers or self.services or self.pieces or self.rates.usd
        object.__setattr__(self, "is_bare", not is_priced)
        object.__setattr__(self, "served", whole)

    def at(self, context_tokens: int) -> Rates:
        """The rates of a call with this much input, caches and audio included."""
        found = self.rates
        for over, rates in self.tiers:
            if context_tokens <= over:
                break
            found = rates
        return found

    def over(self, base: ModelPrices) -> ModelPrices:
        """These on top of `base`: rates by field, tiers if there are any, tags added."""
        rates = self.rates.over(base.rates)
        services = dict(base.services)
        for name, one in self.services.items():
            known = services.get(name)
            services[name] = one if known is None else one.over(known)
        tiers, tags = self.tiers or base.tiers, self.tags | base.tags
        return ModelPrices(rates, tiers, tags, services, {**base.pieces, **self.pieces})


Prices = dict[tuple[str, str], ModelPrices]
"""(provider, model) to its prices."""


def parse_text(text: bytes | str, path: str) -> Prices:
    """A catalogue as JSON text. Raises: ConfigError."""
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise ConfigError(path, f"not JSON: {exc.msg} at line {exc.lineno}") from exc
    return parse(data, path)


def parse(data: object, path: str) -> Prices:
    """A catalogue `{providers: {<provider>: {models: {<model>: {rates, tiers, tags}}}}}`.

    Raises: ConfigError.
    """
    found: Prices = {}
    root = _mapping(data, path, ("providers",))
    for provider, entry in _mapping(root.get("providers"), f"{path}.providers").items():
        place = f"{path}.providers.{provider}"
        models = _mapping(entry, place, ("models",)).get("models")
        for model, value in _mapping(models, f"{place}.models").items():
            found[(provider, model)] = _model(value, f"{place}.models.{model}")
    return found


def _model(value: object, path: str) -> ModelPrices:
    data = _mapping(value, path, ("rates", "tiers", "tags", "serviceTiers", "pieces"))
    tags = _list(data.get("tags"), f"{path}.tags")
    if not all(isinstance(tag, str) for tag in tags):
        raise ConfigError(f"{path}.tags", "a list of strings expected")
    services: dict[str, ModelPrices] = {}
    for name, item in _mapping(data.get("serviceTiers"), f"{path}.serviceTiers").items():
        place = f"{path}.serviceTiers.{name}"
        services[name] = _priced(_mapping(item, place, ("rates", "tiers", "pieces")), place)
    usual = _priced(data, path)
    return ModelPrices(usual.rates, usual.tiers, frozenset(tags), services, usual.pieces)


def _priced(data: Data, path: str) -> ModelPrices:
    tiers: list[tuple[int, Rates]] = []
    for index, item in enumerate(_list(data.get("tiers"), f"{path}.tiers")):
        place = f"{path}.tiers[{index}]"
        tier = _mapping(item, place, ("contextOver", "rates"))
        over = tier.get("contextOver")
        if not isinstance(over, int) or isinstance(over, bool) or over < 0:
            raise ConfigError(f"{place}.contextOver", "a whole number, not negative, expected")
        if tiers and over <= tiers[-1][0]:
            raise ConfigError(f"{place}.contextOver", "must be more than that of the tier before")
        tiers.append((over, _rates(tier.get("rates"), f"{place}.rates")))
    return ModelPrices(
        _rates(data.get("rates"), f"{path}.rates"),
        tuple(tiers),
        pieces=_pieces(data.get("pieces"), f"{path}.pieces"),
    )


def _pieces(value: object, path: str) -> dict[str, PiecePrice]:
    data = _mapping(value, path, PIECES)
    given = {name: item for name, item in data.items() if item is not None}
    return {
        name: PiecePrice(_money(item, f"{path}.{name}", _PIECE_DECIMALS))
        for name, item in given.items()
    }


def _rates(value: object, path: str) -> Rates:
    data = _mapping(value, path, tuple(_NAMES))
    given = {name: item for name, item in data.items() if item is not None}
    return Rates(**{_NAMES[name]: _money(item, f"{path}.{name}") for name, item in given.items()})


def _money(value: object, path: str, decimals: int = 6) -> int:
    """Decimal text in USD, as a whole number of its last decimals: of rates, which are for
    1,000,000 tokens, that is pico-USD for one."""
    if not isinstance(value, str):
        raise ConfigError(path, "a decimal number as text expected")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or amount > _MAX_RATE or not value.isascii():
        raise ConfigError(path, "a decimal number, not negative, expected")
    scaled = amount.scaleb(decimals)
    if scaled != int(scaled):
        raise ConfigError(path, f"at most {_DECIMALS[decimals]} decimals")
    return int(scaled)


def rounded(amount: Decimal) -> int:
    """USD for 1,000,000 tokens as pico-USD for one, rounded: for prices with more decimals."""
    return int(amount.scaleb(6).to_integral_value())


def _mapping(value: object, path: str, known: tuple[str, ...] | None = None) -> Data:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(path, "a mapping expected")
    for key in value:
        if known is not None and key not in known:
            raise ConfigError(path, f"unknown field `{key}`")
    return value


def _list(value: object, path: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(path, "a list expected")
    return value
