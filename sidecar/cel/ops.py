"""Operators on values: equality, order, arithmetic, selection, membership.

Source: cel-spec, section "Standard Definitions". Numbers compare across their kinds by mathematical
value; arithmetic stays within one kind and fails on overflow. Where CEL has no answer and
agentgateway has one, agentgateway's stands: `in` looks into strings, and a field of what is no map
is a missing key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from sidecar.cel.meter import check_size
from sidecar.cel.values import (
    INT_MAX,
    INT_MIN,
    MISSING,
    NONE,
    UINT_MAX,
    CelError,
    CelType,
    MapView,
    NoSuchKey,
    Opaque,
    Optional,
    UInt,
    Unavailable,
    no_overload,
)

MAX_DURATION: Final = timedelta(seconds=315_576_000_000)
"""Ten thousand years, as protobuf allows."""
_NUMBERS: Final = frozenset((int, UInt, float))
_PLAIN: Final = frozenset((str, bool, int, UInt, float, bytes, datetime, timedelta))


def equal(left: object, right: object) -> bool:
    """CEL `==`: false, never an error, between different types."""
    kind, other = type(left), type(right)
    if kind is other and kind in _PLAIN:
        return left == right
    if kind in _NUMBERS or other in _NUMBERS:
        return kind in _NUMBERS and other in _NUMBERS and left == right
    return _equal_other(left, right)


def _equal_other(left: object, right: object) -> bool:
    if isinstance(left, MapView):
        left = left.as_map()
    if isinstance(right, MapView):
        right = right.as_map()
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return len(left) == len(right) and all(
            (found := find(right, key)) is not MISSING and equal(value, found)
            for key, value in left.items()
        )
    if isinstance(left, str) and isinstance(right, str):
        return str(left) == str(right)
    if isinstance(left, CelType) and isinstance(right, CelType):
        return left.name == right.name
    if isinstance(left, Optional) and isinstance(right, Optional):
        if left is NONE or right is NONE:
            return left is right
        return equal(left.value, right.value)
    if isinstance(left, Unavailable | Opaque) or isinstance(right, Unavailable | Opaque):
        return _equal_opaque(left, right)
    return left is None and right is None


def _equal_opaque(left: object, right: object) -> bool:
    for value in (left, right):
        if isinstance(value, Unavailable):
            raise CelError(value.reason)
    return type(left) is type(right) and left == right


_ORDERED: Final = frozenset((str, bool, bytes, datetime, timedelta))


def comparable(sign: str, left: object, right: object) -> tuple[object, object]:
    """Both sides as Python values that `<` understands. Raises CelError."""
    kind, other = type(left), type(right)
    if (kind in _NUMBERS and other in _NUMBERS) or (kind is other and kind in _ORDERED):
        return left, right
    if isinstance(left, str) and isinstance(right, str):
        return str(left), str(right)
    raise no_overload(f"_{sign}_", left, right)


def less(left: object, right: object) -> bool:
    """CEL `<`."""
    a, b = comparable("<", left, right)
    return a < b  # type: ignore[operator, no-any-return]


def less_equal(left: object, right: object) -> bool:
    """CEL `<=`."""
    a, b = comparable("<=", left, right)
    return a <= b  # type: ignore[operator, no-any-return]


def greater(left: object, right: object) -> bool:
    """CEL `>`."""
    a, b = comparable(">", left, right)
    return a > b  # type: ignore[operator, no-any-return]


def greater_equal(left: object, right: object) -> bool:
    """CEL `>=`."""
    a, b = comparable(">=", left, right)
    return a >= b  # type: ignore[operator, no-any-return]


def not_equal(left: object, right: object) -> bool:
    """CEL `!=`."""
    return not equal(left, right)


def integer(value: int) -> int:
    """The value, if an `int` can hold it."""
    if INT_MIN <= value <= INT_MAX:
        return value
    raise CelError("integer overflow")


def unsigned(value: int) -> UInt:
    """The value as a `uint`, if one can hold it."""
    if 0 <= value <= UINT_MAX:
        return UInt(value)
    raise CelError("unsigned integer overflow")


def _moment(compute: Callable[[], object]) -> object:
    try:
        made = compute()
    except OverflowError as exc:
        raise CelError("timestamp or duration out of range") from exc
    if isinstance(made, timedelta) and abs(made) > MAX_DURATION:
        raise CelError("timestamp or duration out of range")
    return made


def add(left: object, right: object) -> object:
    """CEL `+`: numbers of one kind, strings, bytes, lists, durations, a moment and a duration."""
    kind, other = type(left), type(right)
    if kind is other:
        if kind is float:
            return left + right  # type: ignore[operator]
        if kind is str or kind is bytes or kind is list:
            check_size(len(left) + len(right))  # type: ignore[arg-type]
            return left + right  # type: ignore[operator]
        if kind is int:
            return integer(left + right)  # type: ignore[operator]
        if kind is UInt:
            return unsigned(int(left) + int(right))  # type: ignore[call-overload]
        if kind is timedelta:
            return _moment(lambda: left + right)  # type: ignore[operator]
    elif isinstance(left, str) and isinstance(right, str):
        return str(left) + str(right)
    elif {kind, other} == {datetime, timedelta}:
        return _moment(lambda: left + right)  # type: ignore[operator]
    raise no_overload("_+_", left, right)


def subtract(left: object, right: object) -> object:
    """CEL binary `-`."""
    kind, other = type(left), type(right)
    if kind is other:
        if kind is int:
            return integer(left - right)  # type: ignore[operator]
        if kind is float:
            return left - right  # type: ignore[operator]
        if kind is UInt:
            return unsigned(int(left) - int(right))  # type: ignore[call-overload]
        if kind is timedelta or kind is datetime:
            return _moment(lambda: left - right)  # type: ignore[operator]
    elif kind is datetime and other is timedelta:
        return _moment(lambda: left - right)  # type: ignore[operator]
    raise no_overload("_-_", left, right)


def multiply(left: object, right: object) -> object:
    """CEL `*`."""
    kind = type(left)
    if kind is type(right):
        if kind is int:
            return integer(left * right)  # type: ignore[operator]
        if kind is float:
            return left * right  # type: ignore[operator]
        if kind is UInt:
            return unsigned(int(left) * int(right))  # type: ignore[call-overload]
    raise no_overload("_*_", left, right)


def divide(left: object, right: object) -> object:
    """CEL `/`: integers truncate towards zero; doubles follow IEEE 754."""
    kind = type(left)
    if kind is type(right):
        if isinstance(left, float) and isinstance(right, float):
            return _divide_floats(left, right)
        if kind is int or kind is UInt:
            a, b = int(left), int(right)  # type: ignore[call-overload]
            if b == 0:
                raise CelError("division by zero")
            quotient = abs(a) // abs(b)
            signed = -quotient if (a < 0) != (b < 0) else quotient
            return integer(signed) if kind is int else UInt(signed)
    raise no_overload("_/_", left, right)


def _divide_floats(left: float, right: float) -> float:
    if right:
        return left / right
    if math.isnan(left) or left == 0:
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def modulo(left: object, right: object) -> object:
    """CEL `%`: the remainder has the sign of the left side."""
    kind = type(left)
    if kind is type(right) and (kind is int or kind is UInt):
        a, b = int(left), int(right)  # type: ignore[call-overload]
        if b == 0:
            raise CelError("modulus by zero")
        if b == -1 and a == INT_MIN:
            raise CelError("integer overflow")
        rest = abs(a) % abs(b)
        return (-rest if a < 0 else rest) if kind is int else UInt(rest)
    raise no_overload("_%_", left, right)


def negate(value: object) -> object:
    """CEL unary `-`."""
    if type(value) is int:
        return integer(-value)
    if type(value) is float:
        return -value
    raise no_overload("-_", value)


def find(container: dict[object, object], key: object) -> object:
    """The value under a key, or MISSING; `1`, `1u` and `1.0` are one key, `true` is another."""
    if type(key) is str:
        return container.get(key, MISSING)
    if not isinstance(key, int | float | str):
        return MISSING
    found = container.get(key, MISSING)
    if found is not MISSING and (key == 0 or key == 1):
        # Python holds True and 1 for one key, and CEL does not.
        flag = type(key) is bool
        if not any(type(k) is bool if flag else type(k) is not bool for k in container if k == key):
            return MISSING
    return found


def select(operand: object, field: str) -> object:
    """`operand.field`. Raises NoSuchKey, also when the operand is no map."""
    if type(operand) is dict:
        found: object = operand.get(field, MISSING)
    elif isinstance(operand, MapView):
        found = operand.find(field)
    elif isinstance(operand, Optional):
        return select_optional(operand, field)
    else:
        found = MISSING
    if found is MISSING:
        raise NoSuchKey(field)
    if type(found) is Unavailable:
        raise CelError(found.reason)
    return found


def has(operand: object, field: str) -> bool:
    """`has(operand.field)`; false when the operand is no map (agentgateway)."""
    if isinstance(operand, Optional):
        if operand is NONE:
            return False
        operand = operand.value
    if isinstance(operand, dict):
        found = operand.get(field, MISSING)
    elif isinstance(operand, MapView):
        found = operand.find(field)
    else:
        return False
    if type(found) is Unavailable:
        raise CelError(found.reason)
    return found is not MISSING


def index(operand: object, key: object) -> object:
    """`operand[key]`. Raises NoSuchKey for a map without it, CelError for a list without it."""
    if isinstance(operand, dict):
        if type(key) is str:
            return select(operand, key)
        if not isinstance(key, int | float | str):
            raise no_overload("_[_]", operand, key)
        found = find(operand, key)
    elif isinstance(operand, MapView):
        if not isinstance(key, str):
            raise no_overload("_[_]", operand, key)
        found = operand.find(key)
    elif isinstance(operand, list):
        return _item(operand, key)
    elif isinstance(operand, Optional):
        return index_optional(operand, key)
    else:
        raise no_overload("_[_]", operand, key)
    if found is MISSING:
        raise NoSuchKey(key)
    return found


def _item(operand: Sequence[object], key: object) -> object:
    if type(key) is float and key.is_integer():
        key = int(key)
    if type(key) is not int and type(key) is not UInt:
        raise no_overload("_[_]", operand, key)
    if 0 <= key < len(operand):
        return operand[key]
    raise CelError("list index out of range")


def select_optional(operand: object, field: str) -> Optional:
    """`operand.?field`: an optional, empty when the key is missing or the operand is empty."""
    return index_optional(operand, field)


def index_optional(operand: object, key: object) -> Optional:
    """`operand[?key]`."""
    if isinstance(operand, Optional):
        if operand is NONE:
            return NONE
        operand = operand.value
    if isinstance(operand, list):
        if type(key) is not int and type(key) is not UInt:
            raise no_overload("_[?_]", operand, key)
        return Optional(operand[key]) if 0 <= key < len(operand) else NONE
    if not isinstance(operand, dict | MapView):
        raise no_overload("_[?_]", operand, key)
    try:
        return Optional(index(operand, key))
    except NoSuchKey:
        return NONE


def contains(container: object, item: object) -> bool:
    """`item in container`, for lists, maps (keys) and strings."""
    if isinstance(container, list):
        return any(equal(item, each) for each in container)
    if isinstance(container, dict):
        return find(container, item) is not MISSING
    if isinstance(container, MapView):
        return isinstance(item, str) and container.find(item) is not MISSING
    if isinstance(container, str) and isinstance(item, str):
        return item in container
    raise no_overload("_in_", item, container)


def within(item: object, container: object) -> bool:
    """`item in container` in the order it is written."""
    return contains(container, item)


def elements(value: object) -> Sequence[object]:
    """What a comprehension runs over: a list's items or a map's keys."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return list(value)
    if isinstance(value, MapView):
        return list(value.as_map())
    raise no_overload("comprehension", value)


def mapping(value: object, what: str) -> dict[object, object]:
    """The value as a dict. Raises CelError when it is no map."""
    if isinstance(value, dict):
        return value
    if isinstance(value, MapView):
        return value.as_map()
    raise no_overload(what, value)


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

BINARY: Final[dict[str, Callable[[object, object], object]]] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": modulo,
    "==": equal,
    "!=": not_equal,
    "<": less,
    "<=": less_equal,
    ">": greater,
    ">=": greater_equal,
    "in": within,
}
