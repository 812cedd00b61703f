"""What a call costs: the catalogue of prices, and the sums.

Source: spec llm section 4.7.

An operator's sources are merged, the later over the earlier; a model that they price is priced by
them alone. What they do not name is looked up in the default table. Either is asked for the model
that answered, then for the one that was asked for, exactly; then without the date of its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import add, mul
from typing import Any, Final, Literal, NamedTuple, final

from sidecar.errors import ConfigError
from sidecar.llm.default_prices import DefaultPrices
from sidecar.llm.pieces import Pieces, cost_of
from sidecar.llm.prices import (
    CAMEL,
    CLASSES,
    PICO,
    SPECIAL,
    ModelPrices,
    Prices,
    Rates,
    parse,
    parse_text,
)
from sidecar.llm.usage import Usage

_new: Final = tuple.__new__
_REMEMBERED: Final = 1024
_REMEMBERED_CHARS: Final = 512
Status = Literal["Exact", "Unpriced", "Missing", "NoCatalog"]
_DATE: Final = re.compile(r"(?:[-@](?:20\d{2}-\d{2}-\d{2}|20\d{6})|-latest)$")


@final
class Tokens(NamedTuple):
    """Tokens of a call, each counted in one place only; in the order of `CLASSES`."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    input_audio: int = 0
    output_audio: int = 0

    @property
    def context(self) -> int:
        """All that went in: what limits, budgets and telemetry call input tokens."""
        return self.input + self.cache_read + self.cache_write + self.input_audio

    @property
    def generated(self) -> int:
        """All that came out."""
        return self.output + self.reasoning + self.output_audio


def tokens_of(usage: Usage, *, excludes_cache: bool) -> Tokens:
    """Sort out what a provider reported. `excludes_cache`: its input leaves out cached tokens."""
    return Tokens(*_counts(usage, excludes_cache))


def _counts(usage: Usage, excludes_cache: bool) -> tuple[int, ...]:
    """The same without names, which take longer to make than all the rest."""
    read = usage.cached_input_tokens or 0
    write = usage.cache_creation_input_tokens or 0
    audio = usage.input_audio_tokens or 0
    plain = (usage.input_tokens or 0) - audio - (0 if excludes_cache else read + write)
    thought = usage.reasoning_tokens or 0
    spoken = usage.output_audio_tokens or 0
    said = (usage.output_tokens or 0) - thought - spoken
    # Fast path: nothing special, nothing odd.
    if plain >= 0 and said >= 0:
        return plain, said, read, write, thought, audio, spoken
    # Providers that count otherwise than they say must not make a class negative.
    return max(0, plain), max(0, said), read, write, thought, audio, spoken


def special_of(usage: Usage) -> tuple[int, ...]:
    """Tokens of the classes of `SPECIAL`, which `tokens_of` counts as usual ones; () for none."""
    long = usage.long_cache_creation_input_tokens
    seen, drawn = usage.input_image_tokens, usage.output_image_tokens
    return (long or 0, seen or 0, drawn or 0) if long or seen or drawn else ()


@final
class Cost(NamedTuple):
    """The cost of one call. `pico_usd`: by class of tokens, in the order of `CLASSES`; empty unless
    `status` is Exact. Unpriced: the catalogue knows the model, but not a rate that the call needs.
    """

    status: Status
    pico_usd: tuple[int, ...] = ()
    rates: Rates | None = None
    pieces_pico_usd: int = 0
    """What is not for tokens."""

    @property
    def nano_usd(self) -> int | None:
        """The total, rounded to the nearest; None when it is not known."""
        if self.status != "Exact":
            return None
        return (sum(self.pico_usd) + self.pieces_pico_usd + 500) // 1000

    def parts(self) -> dict[str, float]:
        """`total` and each class in USD, by camel-case name, and `pieces` where there were any;
        empty when not known.

        For expressions, which have no decimals: the floats nearest to the exact amounts.
        """
        amounts = self.pico_usd
        if not amounts:
            return {}
        found = _FREE.copy()
        by_piece = self.pieces_pico_usd
        if by_piece:
            found["pieces"] = by_piece / PICO
        found["total"] = (sum(amounts) + by_piece) / PICO
        for index, amount in enumerate(amounts):
            if amount:
                found[_CAMEL[index]] = amount / PICO
        return found


_CAMEL: Final = tuple(CAMEL[name] for name in CLASSES)
_FREE: Final = dict.fromkeys(("total", *_CAMEL), 0.0)


def price(
    tokens: tuple[int, ...],
    prices: ModelPrices,
    special: tuple[int, ...] = (),
    pieces: Pieces | None = None,
) -> Cost:
    """The cost under one model's prices, with their tiers and fallbacks. `special`: see
    `special_of`; what they cost is a part of the class that they count as otherwise."""
    rates = prices.at(Tokens(*tokens).context) if prices.tiers else prices.rates
    by_piece: int | None = None
    if pieces is not None or prices.is_per_call:
        by_piece = cost_of(prices.pieces, pieces)
    if rates.input is None and rates.output is None and by_piece is None:
        return Cost("Unpriced")
    extra: list[int] = []
    if special:
        tokens, extra = _apart(tokens, rates, special)
    if rates.missing and any([tokens[index] for index in rates.missing]):  # noqa: C419 - quicker
        return Cost("Unpriced")
    amounts = tuple(map(mul, tokens, rates.applied))
    if extra:
        amounts = tuple(map(add, amounts, extra))
    # What Cost(...) does, without its own function.
    return _new(Cost, ("Exact", amounts, rates, by_piece or 0))


def _apart(
    tokens: tuple[int, ...], rates: Rates, special: tuple[int, ...]
) -> tuple[tuple[int, ...], list[int]]:
    """The tokens without those that have a rate of their own, and what these cost, by class."""
    usual = list(tokens)
    extra = [0] * len(usual)
    for many, (name, base) in zip(special, SPECIAL.items(), strict=True):
        rate = getattr(rates, name)
        if many and rate is not None:
            index = CLASSES.index(base)
            apart = min(many, usual[index])
            usual[index] -= apart
            extra[index] += apart * rate
    return tuple(usual), extra


@final
class Catalog:
    """Prices by provider (telemetry name) and model. Immutable but for its default table's memory.

    `defaults` None: only what the operator's sources say.
    """

    def __init__(self, prices: Prices, defaults: DefaultPrices | None = None) -> None:
        self._prices = prices
        self._defaults = defaults
        self._known: dict[tuple[str, str, str], tuple[int, ModelPrices | None]] = {}
        """What `find` gave in a minute: prices change on the minute at most."""

    def cost(
        self,
        provider: str,
        requested: str,
        usage: Usage,
        now_seconds: int,
        *,
        excludes_cache: bool,
    ) -> Cost:
        """The cost of a call to the model `requested`; `usage.provider_model` answered."""
        if not self._prices and self._defaults is None:
            return Cost("NoCatalog")
        names, minute = (provider, usage.provider_model or requested, requested), now_seconds // 60
        # Fast path: a model that has been called in this minute.
        known = self._known.get(names)
        found = known[1] if known is not None and known[0] == minute else self._found(names, minute)
        if found is None:
            return Cost("Missing")
        if found.served:
            found = found.served.get(usage.service_tier or "", found)
        return price(_counts(usage, excludes_cache), found, special_of(usage), usage.pieces)

    def _found(self, names: tuple[str, str, str], minute: int) -> ModelPrices | None:
        found = self.find(*names, minute * 60)
        # Names come from clients and providers: the memory of them is bounded.
        if sum(map(len, names)) <= _REMEMBERED_CHARS:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[names] = minute, found
        return found

    def find(
        self, provider: str, answered: str, requested: str, now_seconds: int
    ) -> ModelPrices | None:
        """The prices of the model that answered, else of the one requested."""
        bare: ModelPrices | None = None
        if self._prices:
            for name in _candidates(answered, requested):
                found = self._prices.get((provider, name))
                if found is not None and not found.is_bare:
                    return found
                bare = bare or found
        if self._defaults is None:
            return bare
        # An entry that only has tags must not take the price away that is known without it.
        found = self._defaults.find(provider, answered, now_seconds)
        if found is None and requested != answered:
            found = self._defaults.find(provider, requested, now_seconds)
        return found or bare

    def tags(self, provider: str, model: str) -> frozenset[str]:
        """What the operator's sources say that a model can do."""
        found = self._prices.get((provider, model))
        return frozenset() if found is None else found.tags

    def entries(self) -> Mapping[tuple[str, str], ModelPrices]:
        """The operator's prices, merged."""
        return self._prices


def _candidates(answered: str, requested: str) -> Iterator[str]:
    yield answered
    yield requested
    for name in (answered, requested):
        undated = _DATE.sub("", name)
        if undated != name:
            yield undated


def load(
    sources: Sequence[Mapping[str, Any]],
    read: Callable[[str], bytes],
    defaults: DefaultPrices | None = None,
    path: str = "config.modelCatalog",
) -> Catalog:
    """A catalogue of `{file}` and `{inline}` sources, the later over the earlier.

    `read` gives a file's content or raises OSError. Raises: ConfigError with the source's place;
    who reloads keeps the catalogue he has.
    """
    merged: Prices = {}
    for index, source in enumerate(sources):
        for key, found in _source(source, read, f"{path}[{index}]").items():
            known = merged.get(key)
            merged[key] = found if known is None else found.over(known)
    return Catalog(merged, defaults)


def _source(source: Mapping[str, Any], read: Callable[[str], bytes], path: str) -> Prices:
    name = source.get("file")
    if name is not None:
        try:
            return parse_text(read(name), f"{path}.file")
        except OSError as exc:
            raise ConfigError(f"{path}.file", f"cannot be read: {exc.strerror}") from exc
    inline = source.get("inline")
    if isinstance(inline, str):
        return parse_text(inline, f"{path}.inline")
    return parse(inline, f"{path}.inline")
