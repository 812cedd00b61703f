"""Amounts of budgets: what people and expressions write, and the whole numbers that are counted.

USD are counted in nano-USD, tokens one by one. Never in floats: sums must not drift.

Source: spec/llm.md section 4.5.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final, Literal

from shm.budget_slots import MAX_AMOUNT

Unit = Literal["USD", "Tokens"]
UNITS: Final[tuple[Unit, ...]] = ("USD", "Tokens")
"""By the number that a slot of the table has."""
USD: Final = 0
_BETWEEN: Final = b" | "
_KEY_BYTES: Final = 40
_NANO: Final = 9
_LONGEST: Final = 64
_TEXT: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)
"""A number as JSON has it. Decimal takes more: underscores, blanks, other digits, 1e400."""
_NANO_USD: Final = 1e9
_USUAL_USD: Final = 1e4
"""Below it the product with 1e9 is off by less than 0.001."""
_NEAR: Final = 0.49


def whole(value: object, unit: int, *, is_exact: bool = False) -> int | None:
    """An amount as it is counted; None for what is none, or is negative, or not finite.

    USD are rounded to the nearest nano-USD, tokens up; `is_exact`: nothing is rounded, but None.
    """
    # Fast path: a usual amount with nothing to round, or nothing near the middle of two others.
    if type(value) is float and unit == USD and 0.0 <= value < _USUAL_USD and not is_exact:
        usual = value * _NANO_USD
        nearest = round(usual)
        if abs(usual - nearest) < _NEAR:
            return nearest
    elif type(value) is int and unit != USD and 0 <= value <= MAX_AMOUNT:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, str) and (len(value) > _LONGEST or not _TEXT.fullmatch(value)):
        return None
    try:
        # By its shortest text: 0.1 is meant to be a tenth.
        amount = Decimal(str(value)) if not isinstance(value, Decimal) else value
    except InvalidOperation:
        return None
    if not amount.is_finite() or amount < 0:
        return None
    if amount > MAX_AMOUNT:
        return None if is_exact else MAX_AMOUNT
    scaled = amount.scaleb(_NANO) if unit == USD else amount
    rounding = ROUND_HALF_EVEN if unit == USD else ROUND_CEILING
    counted = scaled.to_integral_value(rounding)
    if is_exact and counted != scaled:
        return None
    return int(counted) if is_exact else min(int(counted), MAX_AMOUNT)


def shown(amount: int, unit: int) -> str:
    """An amount for people, exact: `0.00301`."""
    if unit != USD:
        return str(amount)
    sign = "-" if amount < 0 else ""
    dollars, rest = divmod(abs(amount), 10**_NANO)
    decimals = f"{rest:0{_NANO}d}".rstrip("0")
    return f"{sign}{dollars}.{decimals}" if decimals else f"{sign}{dollars}"


def label_of(name: str, key: bytes, place: bytes) -> bytes:
    """What an operator sees of a budget: its name, the key's values (cut), and the policy's place.

    `name`: 40 octets at most, without a bar. What is too long for the table loses its end.
    """
    return _BETWEEN.join((name.encode(), key[:_KEY_BYTES], place))


def names_in(label: bytes) -> tuple[str, str]:
    """The name and the key's values of a label."""
    name, _, rest = label.partition(_BETWEEN)
    return name.decode("utf-8", "replace"), rest.rpartition(_BETWEEN)[0].decode("utf-8", "replace")
