"""Tests of sidecar.mcp.openapi.checking, whose oracle is jsonschema."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.mcp.openapi.checking import TooMuchError, problem

_TEXTS = st.sampled_from(["", "a", "ab", "1", "ä€"])
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 4), st.sampled_from([0.5, 1.0, 2.5]), _TEXTS
)
VALUES = st.recursive(
    _LEAVES,
    lambda one: st.one_of(
        st.lists(one, max_size=3), st.dictionaries(st.sampled_from("abc"), one, max_size=3)
    ),
    max_leaves=8,
)
_KIND = st.sampled_from(["null", "boolean", "object", "array", "number", "string", "integer"])
_SMALL = st.integers(0, 3)
_NUMBER = st.sampled_from([-1, 0, 1, 1.5, 2])
_NAME = st.sampled_from("abc")
_NAMES = st.lists(_NAME, max_size=2)
_PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "type": st.one_of(_KIND, st.lists(_KIND, min_size=1, max_size=3)),
    "enum": st.lists(VALUES, max_size=3),
    "const": VALUES,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _SMALL),
    **dict.fromkeys(("minContains", "maxContains", "minProperties", "maxProperties"), _SMALL),
    "multipleOf": st.sampled_from([1, 2, 0.5]),
    "pattern": st.sampled_from(["a", "^a$", "[0-9]+", "b|1"]),
    "uniqueItems": st.booleans(),
    "required": _NAMES,
    "dependentRequired": st.dictionaries(_NAME, _NAMES, max_size=2),
}
_ONE = ("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else")
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "dependentSchemas", "patternProperties")
_KEYS = st.sampled_from([*_PLAIN, *_ONE, *_MANY, *_NAMED])


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> Any:
    if not depth or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from([True, False, {}, {"$ref": "#/$defs/A"}, {"type": "string"}]))
    made: dict[str, Any] = {}
    for key in draw(st.lists(_KEYS, max_size=4, unique=True)):
        count = draw(st.integers(1, 2))
        if key in _PLAIN:
            made[key] = draw(_PLAIN[key])
        elif key in _ONE:
            made[key] = draw(schemas(depth - 1))
        elif key in _MANY:
            made[key] = [draw(schemas(depth - 1)) for _ in range(count)]
        else:
            made[key] = {name: draw(schemas(depth - 1)) for name in "ab"[:count]}
    return made


@settings(max_examples=200, deadline=None)
@given(schema=schemas(), other=schemas(0), value=VALUES)
def test_says_what_jsonschema_says(schema: Any, other: Any, value: Any) -> None:
    if other == {"$ref": "#/$defs/A"}:
        other = {}
    whole = {"allOf": [schema], "$defs": {"A": other}}
    expected = jsonschema.Draft202012Validator(whole).is_valid(value)
    assert (problem(whole, value) is None) == expected


TREE: Any = {
    "$ref": "#/$defs/Tree",
    "$defs": {
        "Tree": {
            "type": "object",
            "required": ["value"],
            "properties": {"below": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        (TREE, {"value": 1, "below": [{"value": 2}]}, None),
        (TREE, {"value": 1, "below": [{"value": 2}, {}]}, "`below/1` lacks `value`"),
        ({"type": ["string", "null"]}, 1, "the value is not of type string or null"),
        ({"properties": {"a": {"maximum": 3}}}, {"a": 4}, "`a` is above 3"),
        ({"additionalProperties": False}, {"x": 1}, "the value has an unknown property `x`"),
        ({"enum": [1]}, True, "the value is none of the values allowed"),
        ({"oneOf": [{}, {}]}, 1, "the value fits more than one of the alternatives"),
        ({"pattern": "(?=a)b"}, "c", None),
        ({"patternProperties": {"(?=a)": False}, "additionalProperties": False}, {"a": 1}, None),
        ({"pattern": "(a*)*b"}, "a" * 5000, "the value does not match the pattern (a*)*b"),
        ({"multipleOf": 0.01}, 19.99, None),
    ],
)
def test_what_it_says(schema: Any, value: Any, text: str | None) -> None:
    assert problem(schema, value) == text


def deep(levels: int) -> Any:
    value: Any = {"value": 0}
    for _ in range(levels):
        value = {"value": 0, "below": [value]}
    return value


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, 1),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}, {}]}}}, 1),
        ({"uniqueItems": True}, list(range(5000))),
        (TREE, deep(400)),
    ],
    ids=["circle", "anyOf", "unique", "deep"],
)
def test_what_costs_too_much_is_given_up(schema: Any, value: Any) -> None:
    with pytest.raises(TooMuchError):
        problem(schema, value)


def test_branches_that_multiply_are_bounded() -> None:
    branch = {"properties": {"b": {"$ref": "#/$defs/A"}}, "not": {}}
    schema = {"$ref": "#/$defs/A", "$defs": {"A": {"anyOf": [branch, branch, branch]}}}
    value: Any = {"c": 1}
    for _ in range(60):
        value = {"b": value}
    with pytest.raises(TooMuchError):
        problem(schema, value)
