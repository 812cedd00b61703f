"""Numeric functions: `math.*`, `min`, `max`.

Source: spec/config.md section 7.4; cel-go, extension "Math".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from sidecar.cel.ops import greater, integer, less
from sidecar.cel.table import Function, Table
from sidecar.cel.values import INT_MAX, UINT_MAX, CelError, UInt, no_overload

_MANY: Final = 64
"""The most arguments a variadic function takes."""


def _operands(what: str, args: tuple[object, ...]) -> list[object]:
    if len(args) == 1 and isinstance(args[0], list):
        args = tuple(args[0])
    if not args:
        raise CelError(f"{what}: nothing to choose from")
    return list(args)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pick(better: Callable[[object, object], bool]) -> Callable[[list[object]], object]:
    def pick(values: list[object]) -> object:
        best = values[0]
        for value in values[1:]:
            if better(value, best):
                best = value
        return best

    return pick


_least, _greatest = _pick(less), _pick(greater)


def _numbers(what: str, pick: Callable[[list[object]], object]) -> Callable[..., object]:
    def choose(*args: object) -> object:
        values = _operands(what, args)
        if not all(map(_is_number, values)):
            raise no_overload(what, *values)
        return pick(values)

    return choose


def _any(what: str, pick: Callable[[list[object]], object]) -> Callable[..., object]:
    return lambda *args: pick(_operands(what, args))


def _on_float(what: str, compute: Callable[[float], object]) -> Function:
    def apply(value: object) -> object:
        if type(value) is not float:
            raise no_overload(what, value)
        return compute(value)

    return Function(apply, 1, 1)


def _rounded(compute: Callable[[float], float]) -> Callable[[float], float]:
    """Infinities and NaN stay as they are, and so does the sign of a zero."""
    return lambda value: math.copysign(compute(value), value) if math.isfinite(value) else value


def _half_away(value: float) -> float:
    whole = float(math.floor(abs(value)))
    return whole + 1.0 if abs(value) - whole >= 0.5 else whole


def _absolute(value: object) -> object:
    if type(value) is UInt:
        return value
    if type(value) is int:
        return integer(abs(value))
    if type(value) is float:
        return abs(value)
    raise no_overload("math.abs", value)


def _sign(value: object) -> object:
    if type(value) is UInt:
        return UInt(value > 0)
    if type(value) is int:
        return (value > 0) - (value < 0)
    if type(value) is float:
        return value if math.isnan(value) or value == 0 else math.copysign(1.0, value)
    raise no_overload("math.sign", value)


def _root(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise no_overload("math.sqrt", value)
    return math.sqrt(value) if value >= 0 else math.nan


def _bits(what: str, compute: Callable[[int, int], int]) -> Function:
    def apply(left: object, right: object) -> object:
        kind = type(left)
        if kind is not type(right) or (kind is not int and kind is not UInt):
            raise no_overload(what, left, right)
        result = compute(int(left), int(right))  # type: ignore[call-overload]
        return UInt(result) if kind is UInt else result

    return Function(apply, 2, 2)


def _signed(value: int) -> int:
    """The low 64 bits read as two's complement."""
    value &= UINT_MAX
    return value - (1 << 64) if value > INT_MAX else value


def _bit_not(value: object) -> object:
    if type(value) is UInt:
        return UInt(~int(value) & UINT_MAX)
    if type(value) is int:
        return ~value
    raise no_overload("math.bitNot", value)


def _shift(what: str, left: bool) -> Function:
    def apply(value: object, by: object) -> object:
        kind = type(value)
        if (kind is not int and kind is not UInt) or type(by) is not int:
            raise no_overload(what, value, by)
        if by < 0:
            raise CelError(f"{what}: the shift is negative")
        bits = int(value) & UINT_MAX  # type: ignore[call-overload]
        moved = 0 if by > 63 else bits << by if left else bits >> by
        return UInt(moved & UINT_MAX) if kind is UInt else _signed(moved)

    return Function(apply, 2, 2)


FUNCTIONS: Final[Table] = {
    "math.least": Function(_numbers("math.least", _least), 1, _MANY),
    "math.greatest": Function(_numbers("math.greatest", _greatest), 1, _MANY),
    "min": Function(_any("min", _least), 1, _MANY),
    "max": Function(_any("max", _greatest), 1, _MANY),
    "math.ceil": _on_float("math.ceil", _rounded(lambda v: abs(float(math.ceil(v))))),
    "math.floor": _on_float("math.floor", _rounded(lambda v: abs(float(math.floor(v))))),
    "math.round": _on_float("math.round", _rounded(_half_away)),
    "math.trunc": _on_float("math.trunc", _rounded(lambda v: abs(float(math.trunc(v))))),
    "math.isInf": _on_float("math.isInf", math.isinf),
    "math.isNaN": _on_float("math.isNaN", math.isnan),
    "math.isFinite": _on_float("math.isFinite", math.isfinite),
    "math.abs": Function(_absolute, 1, 1),
    "math.sign": Function(_sign, 1, 1),
    "math.sqrt": Function(_root, 1, 1),
    "math.bitAnd": _bits("math.bitAnd", lambda a, b: a & b),
    "math.bitOr": _bits("math.bitOr", lambda a, b: a | b),
    "math.bitXor": _bits("math.bitXor", lambda a, b: a ^ b),
    "math.bitNot": Function(_bit_not, 1, 1),
    "math.bitShiftLeft": _shift("math.bitShiftLeft", left=True),
    "math.bitShiftRight": _shift("math.bitShiftRight", left=False),
}
