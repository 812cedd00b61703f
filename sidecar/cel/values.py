"""The values an expression handles, and the errors of handling them.

Source: cel-spec, section "Values"; spec/config.md sections 7.2 and 7.3.

Plain Python stands for CEL: None, bool, int, float, str, bytes, list, dict, datetime (aware) and
timedelta. What Python lacks is here: unsigned integers, types, optionals, and the few opaque
values of the gateway. `plain` turns all of them back when an evaluation ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, final

from sidecar.errors import SidecarError

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
UINT_MAX: Final = 2**64 - 1
MAX_DEPTH: Final = 128
"""How deep a value may nest (design section 8)."""


class CelError(SidecarError):
    """An evaluation failed. The message names keys and functions, never values, often secrets."""

    missing = False
    """Whether a key or variable was simply absent: the one failure that `default` forgives."""


@final
class CostExceededError(CelError):
    """The evaluation was given up; see `meter`. Nothing forgives it: a client could choose it."""


@final
class NoSuchKey(CelError):
    """A map, header list or query without this key; or a variable that is not there."""

    missing = True

    def __str__(self) -> str:
        return f"no such key: {self.args[0]}"


@final
class UInt(int):
    """A CEL `uint`; equal and ordered like any number, but it adds only to its own kind."""

    __slots__ = ()


@final
class CelType:
    """A type as a value: what `type(x)` gives and what the identifier `int` means."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@final
class Optional:
    """`optional.of(value)`, or `NONE`."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class _Missing:
    __slots__ = ()


MISSING: Final = _Missing()
"""What a lookup gives instead of an exception."""

NONE: Final = Optional(MISSING)


@final
class Unavailable:
    """A variable that exists but cannot be read, as a body past the buffer limit.

    Selecting it fails, and `default` does not forgive that: a policy must never take "too large to
    look at" for "not there" (hardening case 47).
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


REDACTED: Final = "<redacted>"


@final
class Secret(str):
    """A string that reads `<redacted>` until `unredacted()` is asked of it."""

    __slots__ = ("secret",)
    secret: str

    def __new__(cls, secret: str) -> Secret:
        """From the content to hide."""
        self = super().__new__(cls, REDACTED)
        self.secret = secret
        return self


class Opaque:
    """A value with its own type name; subclasses say how it prints and which maps it resembles."""

    __slots__ = ()
    type_name = "dyn"

    def plain(self) -> object:
        """The plain value it becomes outside of an expression."""
        raise NotImplementedError


class MapView(Opaque):
    """An opaque value that reads as a map with string keys."""

    __slots__ = ()
    type_name = "map"

    def find(self, name: str) -> object:
        """The value under a key, or MISSING."""
        raise NotImplementedError

    def as_map(self) -> dict[object, object]:
        """The whole as a new dict."""
        raise NotImplementedError


@final
class Flattened(Opaque):
    """What `flatten(x)` gives: a map or list that a log spreads over many fields.

    An evaluation hands it out as it is, its `value` plain; anywhere else it reads as the value.
    """

    __slots__ = ("recursive", "value")

    def __init__(self, value: object, recursive: bool) -> None:
        self.value = value
        self.recursive = recursive

    def plain(self) -> object:
        """See Opaque."""
        return self.value


Code = Callable[[Mapping[str, object], list[object]], object]
"""Compiled code: called with the activation and the frame of local variables. Raises CelError."""

TYPES: Final[dict[type, CelType]] = {
    type(None): CelType("null_type"),
    bool: CelType("bool"),
    int: CelType("int"),
    UInt: CelType("uint"),
    float: CelType("double"),
    str: CelType("string"),
    bytes: CelType("bytes"),
    list: CelType("list"),
    dict: CelType("map"),
    datetime: CelType("google.protobuf.Timestamp"),
    timedelta: CelType("google.protobuf.Duration"),
    CelType: CelType("type"),
    Optional: CelType("optional_type"),
}
TYPES_BY_NAME: Final = {kind.name: kind for kind in TYPES.values()}


def type_of(value: object) -> CelType:
    """The CEL type of a value."""
    found = TYPES.get(type(value))
    if found is not None:
        return found
    if isinstance(value, Opaque):
        return TYPES_BY_NAME.get(value.type_name) or CelType(value.type_name)
    return TYPES[str] if isinstance(value, str) else CelType("dyn")


def no_overload(what: str, *values: object) -> CelError:
    """The error of an operator or function that these types do not have."""
    return CelError(f"no such overload: {what}({', '.join(type_of(v).name for v in values)})")


def kept(error: CelError) -> CelError:
    """An error to hold on to while something else is tried.

    Without its traceback and those of its causes: their frames lead back to the holding one, a
    cycle for the collector at each request.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


_SIMPLE: Final = frozenset((type(None), bool, int, float, str, bytes, datetime, timedelta))


def plain(value: object, depth: int = 0) -> object:
    """A plain Python value that shares no list or dict with the activation. Raises CelError."""
    kind = type(value)
    if kind in _SIMPLE:
        return value
    if depth > MAX_DEPTH:
        raise CelError(f"the value nests deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        return {plain(k, depth + 1): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    return _plain_special(value, depth)


def _plain_special(value: object, depth: int) -> object:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Opaque):
        return plain(value.plain(), depth + 1)
    if isinstance(value, CelType):
        return value.name
    if isinstance(value, Optional):
        return None if value is NONE else plain(value.value, depth + 1)
    if isinstance(value, Unavailable):
        raise CelError(value.reason)
    raise CelError(f"a value of Python type {type(value).__name__} has no meaning in CEL")
