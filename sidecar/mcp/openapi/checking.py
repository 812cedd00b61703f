"""Whether a value is what a schema says: JSON Schema 2020-12, as far as it asserts something.

Source: JSON Schema Core and Validation 2020-12.

Formats, content and `unevaluated*` are told to the model and judged by the API alone, as are
patterns that cannot be matched in linear time. What a check may cost is bounded: schemas that refer
to themselves from several branches would make it exponential.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, final

import re2

from sidecar.jsonrpc import Json

STEPS_MAX: Final = 100_000
_DEPTH_MAX: Final = 160
_SHOWN: Final = 64
_PREFIX: Final = "#/$defs/"
_NOTHING: Final[Mapping[str, Any]] = {}


def problem(schema: Json, value: object, steps: int = STEPS_MAX) -> str | None:
    """What is wrong with the value, with its place; None when nothing is.

    `schema`: with its definitions under `$defs`, to which alone references lead. `steps`: how many
    schemas may be applied. Raises: TooMuchError beyond that.
    """
    return Check(schema.get("$defs") or _NOTHING, steps).test(schema, value, "", 0)


class TooMuchError(Exception):
    """A bound is reached, whatever other branches may say."""


@final
class Check:
    """One value against one schema."""

    __slots__ = ("_defs", "_left")

    def __init__(self, defs: Mapping[str, Any], steps: int) -> None:
        self._defs = defs
        self._left = steps

    def test(self, schema: Any, value: object, at: str, depth: int) -> str | None:
        """See `problem`. `at`: the value's place, a JSON pointer."""
        self._left -= 1
        if self._left < 0 or depth > _DEPTH_MAX:
            raise TooMuchError
        if isinstance(schema, bool):
            return None if schema else f"{_place(at)} is not allowed"
        reference = schema.get("$ref")
        if reference is not None:
            target = self._defs[reference.removeprefix(_PREFIX)]
            found = self.test(target, value, at, depth + 1)
            if found is not None:
                return found
        found = _of_value(schema, value, at)
        if found is not None:
            return found
        if isinstance(value, dict):
            found = self._object(schema, value, at, depth)
        elif isinstance(value, list):
            found = self._array(schema, value, at, depth)
        return found if found is not None else self._combined(schema, value, at, depth)

    def _object(self, schema: Json, value: Json, at: str, depth: int) -> str | None:
        for name in schema.get("required", ()):
            if name not in value:
                return f"{_place(at)} lacks `{name}`"
        found = _size(schema, len(value), at, "Properties", "properties")
        if found is not None:
            return found
        properties = schema.get("properties", _NOTHING)
        given = schema.get("patternProperties", _NOTHING)
        patterns = {one: below for one, below in given.items() if _compiled(one) is not None}
        # Which properties a pattern means that cannot be matched is the API's to say.
        others = schema.get("additionalProperties") if len(patterns) == len(given) else None
        names = schema.get("propertyNames")
        for name, one in value.items():
            where = f"{at}/{name[:_SHOWN]}"
            applied = [properties[name]] if name in properties else []
            applied += [below for pattern, below in patterns.items() if _matches(pattern, name)]
            if not applied and others is not None:
                if others is False:
                    return f"{_place(at)} has an unknown property `{name[:_SHOWN]}`"
                applied = [others]
            for below in applied:
                if (found := self.test(below, one, where, depth + 1)) is not None:
                    return found
            if names is not None:
                found = self.test(names, name, where, depth + 1)
                if found is not None:
                    return found
        return self._dependent(schema, value, at, depth)

    def _dependent(self, schema: Json, value: Json, at: str, depth: int) -> str | None:
        for name, others in schema.get("dependentRequired", _NOTHING).items():
            for other in others if name in value else ():
                if other not in value:
                    return f"{_place(at)} lacks `{other}`, which `{name}` needs"
        for name, below in schema.get("dependentSchemas", _NOTHING).items():
            if name in value:
                found = self.test(below, value, at, depth + 1)
                if found is not None:
                    return found
        return None

    def _array(self, schema: Json, value: list[Any], at: str, depth: int) -> str | None:
        found = _size(schema, len(value), at, "Items", "items")
        if found is not None:
            return found
        if schema.get("uniqueItems") is True and self._has_twins(value):
            return f"{_place(at)} holds an item twice"
        first = schema.get("prefixItems", ())
        items = schema.get("items")
        for index, one in enumerate(value):
            below = first[index] if index < len(first) else items
            if below is not None:
                found = self.test(below, one, f"{at}/{index}", depth + 1)
                if found is not None:
                    return found
        return self._contains(schema, value, at, depth)

    def _contains(self, schema: Json, value: list[Any], at: str, depth: int) -> str | None:
        below = schema.get("contains")
        if below is None:
            return None
        count = sum(self.test(below, one, at, depth + 1) is None for one in value)
        if not schema.get("minContains", 1) <= count <= schema.get("maxContains", count):
            return f"{_place(at)} holds {count} items of the kind it has to contain"
        return None

    def _has_twins(self, value: list[Any]) -> bool:
        self._left -= len(value) * len(value) // 2
        if self._left < 0:
            raise TooMuchError
        return any(_equal(one, other) for index, one in enumerate(value) for other in value[:index])

    def _combined(self, schema: Json, value: object, at: str, depth: int) -> str | None:
        for below in schema.get("allOf", ()):
            found = self.test(below, value, at, depth + 1)
            if found is not None:
                return found
        found = self._any_of(schema, value, at, depth)
        if found is not None:
            return found
        if "oneOf" in schema:
            fitting = sum(
                self.test(below, value, at, depth + 1) is None for below in schema["oneOf"]
            )
            if fitting != 1:
                many = "none" if not fitting else "more than one"
                return f"{_place(at)} fits {many} of the alternatives"
        if "not" in schema and self.test(schema["not"], value, at, depth + 1) is None:
            return f"{_place(at)} is what it must not be"
        if "if" in schema:
            fits = self.test(schema["if"], value, at, depth + 1) is None
            below = schema.get("then" if fits else "else")
            if below is not None:
                return self.test(below, value, at, depth + 1)
        return None

    def _any_of(self, schema: Json, value: object, at: str, depth: int) -> str | None:
        given = schema.get("anyOf")
        if given is None:
            return None
        found = None
        for below in given:
            found = self.test(below, value, at, depth + 1)
            if found is None:
                return None
        return found if len(given) == 1 else f"{_place(at)} fits none of the alternatives"


def _of_value(schema: Json, value: object, at: str) -> str | None:
    """What does not look into objects and lists."""
    kind = schema.get("type")
    if kind is not None and not _is_of(kind, value):
        expected = kind if isinstance(kind, str) else " or ".join(kind)
        return f"{_place(at)} is not of type {expected}"
    if "enum" in schema and not any(_equal(one, value) for one in schema["enum"]):
        return f"{_place(at)} is none of the values allowed"
    if "const" in schema and not _equal(schema["const"], value):
        return f"{_place(at)} is not the value allowed"
    if isinstance(value, str):
        pattern = schema.get("pattern")
        if pattern is not None and not _matches(pattern, value):
            return f"{_place(at)} does not match the pattern {pattern[:_SHOWN]}"
        return _size(schema, len(value), at, "Length", "characters")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _bounds(schema, value, at)
    return None


def _bounds(schema: Json, value: float, at: str) -> str | None:
    if "minimum" in schema and value < schema["minimum"]:
        return f"{_place(at)} is below {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        return f"{_place(at)} is above {schema['maximum']}"
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        return f"{_place(at)} is not above {schema['exclusiveMinimum']}"
    if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
        return f"{_place(at)} is not below {schema['exclusiveMaximum']}"
    step = schema.get("multipleOf")
    if step is not None and not _is_multiple(value, step):
        return f"{_place(at)} is no multiple of {step}"
    return None


def _is_multiple(value: float, step: float) -> bool:
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    try:
        quotient = value / step
    except OverflowError:
        return False
    # Beyond what a float counts exactly every one is whole.
    return abs(quotient) == float("inf") or abs(quotient - round(quotient)) < 1e-9


def _size(schema: Json, size: int, at: str, key: str, what: str) -> str | None:
    least, most = schema.get(f"min{key}"), schema.get(f"max{key}")
    if least is not None and size < least:
        return f"{_place(at)} has fewer than {least} {what}"
    if most is not None and size > most:
        return f"{_place(at)} has more than {most} {what}"
    return None


def _is_of(kind: str | list[str], value: object) -> bool:
    if isinstance(kind, str):
        return _KINDS[kind](value)
    return any(_KINDS[one](value) for one in kind)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: Final[Mapping[str, Callable[[object], bool]]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": _is_integer,
}


def _equal(one: object, other: object) -> bool:
    """As JSON sees it: true is no 1, and 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Callable[[str], object] | None:
    options = re2.Options()
    options.log_errors = False
    try:
        test: Callable[[str], object] = re2.compile(pattern, options).search
    except re2.error:
        return None
    return test


def _matches(pattern: str, text: str) -> bool:
    test = _compiled(pattern)
    if test is None:
        return True
    try:
        return bool(test(text))
    except UnicodeEncodeError:
        return True


def _place(at: str) -> str:
    return f"`{at[1:]}`" if at else "the value"
