"""What models cost by the piece, beside their tokens: searches, seconds of sound, pictures, pages.

Source: price lists of OpenAI, Anthropic, Google, Groq, Mistral, Perplexity and Cohere.

Amounts are exact: prices are whole pico-USD for a number of pieces, and pieces are counted in
thousandths, since a second of sound can be cut. A sum is rounded once, to the nearest pico-USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple, final

MILLI: Final = 1000
REQUEST: Final = "request"
"""Each call is one, whatever it answers."""
WEB_SEARCH: Final = "webSearch"
FILE_SEARCH: Final = "fileSearch"
AUDIO_SECOND: Final = "inputAudioSecond"
CHARACTER: Final = "inputCharacter"
IMAGE: Final = "outputImage"
PAGE: Final = "inputPage"
RERANK_SEARCH: Final = "rerankSearch"
PIECES: Final = (
    *(REQUEST, WEB_SEARCH, FILE_SEARCH, AUDIO_SECOND, CHARACTER, IMAGE, PAGE, RERANK_SEARCH),
)
"""Names in catalogues."""
_MAX: Final = 10**9
_EMPTY: Final[Mapping[str, int]] = {}

Pieces = dict[str, int]
"""Name to thousandths of pieces, none of them 0."""


@final
class PiecePrice(NamedTuple):
    """What `per` pieces cost."""

    pico_usd: int
    per: int = 1


def milli(value: object) -> int | None:
    """A number, or a number as text, in thousandths; None for what is no amount of anything."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX:
        return None
    return round(value * MILLI)


def with_piece(pieces: Pieces | None, name: str, count: object) -> Pieces | None:
    """Pieces with `count` of one name, when that is an amount; nothing is changed in place."""
    amount = milli(count)
    if not amount:
        return pieces
    return {name: amount} if pieces is None else {**pieces, name: amount}


def cost_of(prices: Mapping[str, PiecePrice], used: Mapping[str, int] | None) -> int | None:
    """Pico-USD for what a call used; None when nothing of it has a price."""
    total: int | None = None
    own = prices.get(REQUEST)
    if own is not None:
        total = _due(own, MILLI)
    for name, amount in (used or _EMPTY).items():
        price = prices.get(name)
        if price is not None and name != REQUEST:
            total = (total or 0) + _due(price, amount)
    return total


def _due(price: PiecePrice, amount: int) -> int:
    whole = price.per * MILLI
    return (2 * price.pico_usd * amount + whole) // (2 * whole)


_UNITS: Final[Mapping[str, tuple[tuple[str, ...], int]]] = {
    REQUEST: (("requests_kcount",), 1000),
    WEB_SEARCH: (("web_searches_kcount",), 1000),
    FILE_SEARCH: (("storage_searches_kcount",), 1000),
    AUDIO_SECOND: (("input_audio_hours", "audio_hours"), 3600),
    CHARACTER: (("input_mchars",), 10**6),
    PAGE: (("input_document_kpages",), 1000),
    RERANK_SEARCH: (("rerank_searches_kcount",), 1000),
}
"""Keys of the genai-prices package, the first that is there, and how many pieces they are of."""


def of_package(prices: Mapping[str, Any]) -> dict[str, PiecePrice]:
    """The pieces that the package's entry of a model has prices for."""
    found: dict[str, PiecePrice] = {}
    for name, (keys, per) in _UNITS.items():
        values = (prices.get(key) for key in keys)
        value = next((one for one in values if one is not None), None)
        # One with tiers by tokens says what it costs below them.
        amount = getattr(value, "base", value)
        if isinstance(amount, Decimal):
            found[name] = PiecePrice(int(amount.scaleb(12).to_integral_value()), per)
    return found


__all__ = [
    "AUDIO_SECOND",
    "CHARACTER",
    "FILE_SEARCH",
    "IMAGE",
    "MILLI",
    "PAGE",
    "PIECES",
    "RERANK_SEARCH",
    "WEB_SEARCH",
    "PiecePrice",
    "Pieces",
    "cost_of",
    "milli",
    "of_package",
    "with_piece",
]
