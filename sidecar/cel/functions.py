"""The functions of the language: conversions, the gateway's own, and the tables of all of them.

Source: spec/config.md sections 7.3 to 7.5; cel-spec, section "List of Standard Definitions".
What does not evaluate its arguments first (`default`, `has`, `map`, ...) is in `macros`.
"""

from __future__ import annotations

import random
import re
import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from sidecar.cel import encoding, network, numeric, strings, times
from sidecar.cel.headers_view import HeaderView, QueryText
from sidecar.cel.ops import EPOCH, integer, mapping, unsigned
from sidecar.cel.table import Function, Table, text
from sidecar.cel.values import (
    NONE,
    CelError,
    Flattened,
    MapView,
    Optional,
    Secret,
    UInt,
    no_overload,
    type_of,
)

_INTEGER: Final = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_DOUBLE: Final = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE
)
_TRUE: Final = frozenset(("1", "t", "true", "TRUE", "True"))
_FALSE: Final = frozenset(("0", "f", "false", "FALSE", "False"))


def _size(value: object) -> int:
    if isinstance(value, str | bytes | list | dict):
        return len(value)
    if isinstance(value, MapView):
        return len(value.as_map())
    raise no_overload("size", value)


def _int(value: object) -> int:
    if isinstance(value, float):
        return integer(_truncated(value))
    if isinstance(value, int):
        return integer(int(value))
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(seconds=1)
    if isinstance(value, str):
        return integer(_digits(value))
    raise no_overload("int", value)


def _uint(value: object) -> UInt:
    if isinstance(value, float):
        return unsigned(_truncated(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return unsigned(int(value))
    if isinstance(value, str):
        return unsigned(_digits(value))
    raise no_overload("uint", value)


def _digits(value: str) -> int:
    if _INTEGER.fullmatch(value) is None:
        raise CelError("the string is no integer")
    return int(value)


def _truncated(value: float) -> int:
    # The bounds themselves round up when they become doubles, so the double next to one is out.
    if -9223372036854775808.0 < value < 18446744073709551615.0:
        return int(value)
    raise CelError("integer overflow")


def _double(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        if _DOUBLE.fullmatch(value) is None:
            raise CelError("the string is no number")
        return float(value)
    raise no_overload("double", value)


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise CelError("the string is neither true nor false")
    raise no_overload("bool", value)


def _string(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as exc:
            raise CelError("the bytes are not UTF-8") from exc
    if isinstance(value, datetime):
        return times.format_timestamp(value)
    if isinstance(value, timedelta):
        return times.format_duration(value)
    if isinstance(value, network.Ip | network.Cidr):
        return str(value.plain())
    raise no_overload("string", value)


def _decimal(value: float) -> str:
    """The shortest digits that read back the same, never with an exponent (agentgateway)."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    digits = format(Decimal(repr(value)), "f")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return text("bytes", value).encode()


def _merge(left: object, right: object) -> dict[object, object]:
    return {**mapping(left, "merge"), **mapping(right, "merge")}


def _flatten(recursive: bool) -> Function:
    def apply(value: object) -> Flattened:
        if isinstance(value, MapView):
            value = value.as_map()
        if not isinstance(value, dict | list):
            raise no_overload("flatten", value)
        return Flattened(value, recursive)

    return Function(apply, 1, 1)


def _fail(message: object) -> object:
    raise CelError(f"fail() called: {text('fail', message)}")


def _random() -> float:
    # Sampling and canary splits: nothing secret hangs on it.
    return random.random()  # noqa: S311


def _unredacted(value: object) -> str:
    if isinstance(value, Secret):
        return value.secret
    raise no_overload("unredacted", value)


def _headers(value: object) -> HeaderView:
    if isinstance(value, HeaderView):
        return value
    raise no_overload("header view", value)


def _query_text(value: object) -> QueryText:
    if isinstance(value, QueryText):
        return value
    raise no_overload("query", value)


def _join(value: object, *separator: object) -> object:
    if isinstance(value, HeaderView) and not separator:
        return value.with_mode("join")
    return strings.METHODS["join"].code(value, *separator)


def _split(value: object, *args: object) -> object:
    if isinstance(value, HeaderView) and not args:
        return value.with_mode("split")
    if not args:
        raise no_overload("split", value)
    return strings.METHODS["split"].code(value, *args)


def _optional(value: object) -> Optional:
    if isinstance(value, Optional):
        return value
    raise no_overload("optional", value)


def _value(value: object) -> object:
    held = _optional(value)
    if held is NONE:
        raise CelError("optional.none() has no value")
    return held.value


def _of_non_zero(value: object) -> Optional:
    zero = value is None or (isinstance(value, str | bytes | list | dict) and not value)
    number = isinstance(value, int | float | timedelta) and not value
    return NONE if zero or number else Optional(value)


_CONVERSIONS: Final[Table] = {
    "int": Function(_int, 1, 1),
    "uint": Function(_uint, 1, 1),
    "double": Function(_double, 1, 1),
    "bool": Function(_bool, 1, 1),
    "string": Function(_string, 1, 1),
    "bytes": Function(_bytes, 1, 1),
    "timestamp": Function(times.to_timestamp, 1, 1),
    "duration": Function(times.to_duration, 1, 1),
    "dyn": Function(lambda value: value, 1, 1),
    "type": Function(type_of, 1, 1),
}

METHODS: Final[Table] = {
    **strings.METHODS,
    **times.METHODS,
    **network.METHODS,
    "size": Function(_size, 0, 0),
    "merge": Function(_merge, 1, 1),
    "unredacted": Function(_unredacted, 0, 0),
    # Header views share `join` and `split` with lists and strings.
    "join": Function(_join, 0, 1),
    "split": Function(_split, 0, 2),
    "redacted": Function(lambda view: _headers(view).redacted(), 0, 0),
    "raw": Function(lambda view: _headers(view).with_mode("raw"), 0, 0),
    "cookie": Function(lambda view, name: _headers(view).cookie(text("cookie", name)), 1, 1),
    "query": Function(lambda q, name: _query_text(q).query(text("query", name)), 1, 1),
    "addQuery": Function(
        lambda q, name, value: _query_text(q).add_query(
            text("addQuery", name), text("addQuery", value)
        ),
        2,
        2,
    ),
    "setQuery": Function(
        lambda q, name, value: _query_text(q).set_query(
            text("setQuery", name), text("setQuery", value)
        ),
        2,
        2,
    ),
    "value": Function(_value, 0, 0),
    "hasValue": Function(lambda value: _optional(value) is not NONE, 0, 0),
}
"""Functions with a receiver. `or` and `orValue`, which may not evaluate theirs, are macros."""


def _as_functions(names: str) -> Table:
    """Methods that may also be called with their receiver as the first argument."""
    return {
        name: Function(METHODS[name].code, METHODS[name].least + 1, METHODS[name].most + 1)
        for name in names.split()
    }


FUNCTIONS: Final[Table] = {
    **_CONVERSIONS,
    **_as_functions("size contains startsWith endsWith matches"),
    **_as_functions(" ".join(times.METHODS)),
    **numeric.FUNCTIONS,
    **network.FUNCTIONS,
    **encoding.FUNCTIONS,
    "flatten": _flatten(recursive=False),
    "flattenRecursive": _flatten(recursive=True),
    "flatten_recursive": _flatten(recursive=True),
    "fail": Function(_fail, 1, 1, pure=False),
    "random": Function(_random, 0, 0, pure=False),
    "uuid": Function(lambda: str(uuid.uuid4()), 0, 0, pure=False),
    "optional.of": Function(Optional, 1, 1),
    "optional.none": Function(lambda: NONE, 0, 0),
    "optional.ofNonZeroValue": Function(_of_non_zero, 1, 1),
}
"""Functions without a receiver; a dot in a name stands for its namespace."""

NAMESPACES: Final = frozenset(name.partition(".")[0] for name in FUNCTIONS if "." in name)
