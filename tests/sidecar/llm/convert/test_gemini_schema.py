"""JSON Schema as Gemini takes it."""

from __future__ import annotations

import copy
from typing import Any, Final

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import RequestError
from sidecar.llm.convert.completions_to_gemini import CONVERSION
from sidecar.llm.convert.gemini_schema import clean_schema, settled_schema
from sidecar.llm.shape import ShapeError
from tests.sidecar.llm.convert.calls import context
from tests.sidecar.llm.convert.test_robust import JSON_VALUES, spoil

Json = dict[str, Any]
STRING: Final[Json] = {"type": "string"}
TREE: Final[Json] = {
    "type": "object",
    "properties": {"child": {"$ref": "#/$defs/Node"}},
    "$defs": {
        "Node": {
            "type": "object",
            "description": "n",
            "properties": {"next": {"$ref": "#/$defs/Node"}, "name": STRING},
        }
    },
}

CASES: Final[dict[str, tuple[Json, Json]]] = {
    "plain": ({"type": "object", "properties": {"a": STRING}}, {}),
    "unknown keys": (
        {"type": "string", "$schema": "x", "additionalProperties": False, "x-y": 1},
        {"type": "string"},
    ),
    "nullable type": ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
    "several types": (
        {"type": ["string", "integer", "null"]},
        {"nullable": True, "anyOf": [{"type": "string"}, {"type": "integer"}]},
    ),
    "nullable by anyOf": (
        {"anyOf": [STRING, {"type": "null"}], "description": "d"},
        {"type": "string", "nullable": True, "description": "d"},
    ),
    "oneOf": (
        {"oneOf": [STRING, {"type": "integer"}]},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    ),
    "const": ({"const": "a"}, {"type": "string", "enum": ["a"]}),
    "const number": ({"type": "integer", "const": 3}, {"type": "integer"}),
    "enum of strings": (
        {"enum": ["a", "b", None]},
        {"type": "string", "enum": ["a", "b"], "nullable": True},
    ),
    "enum of numbers": ({"type": "integer", "enum": [1, 2]}, {"type": "integer"}),
    "kept format": (
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "date-time"},
    ),
    "other format": ({"type": "string", "format": "uuid"}, {"type": "string"}),
    "array without items": ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
    "array of anything": (
        {"type": "array", "items": {}},
        {"type": "array", "items": {"type": "string"}},
    ),
    "required of no property": (
        {"type": "object", "properties": {"a": STRING}, "required": ["a", "b"]},
        {"type": "object", "properties": {"a": STRING}, "required": ["a"]},
    ),
    "any property": (
        {"type": "object", "properties": {"a": True, "b": False}},
        {"type": "object", "properties": {"a": {}}},
    ),
    "allOf": (
        {
            "allOf": [
                {"properties": {"a": STRING}, "required": ["a"]},
                {"properties": {"b": STRING}, "required": ["b"]},
            ]
        },
        {
            "type": "object",
            "properties": {"a": STRING, "b": STRING},
            "required": ["a", "b"],
        },
    ),
    "reference with a word beside it": (
        {"properties": {"a": {"$ref": "#/definitions/A", "description": "d"}}}
        | {"definitions": {"A": {"type": "string", "description": "a"}}},
        {"type": "object", "properties": {"a": {"type": "string", "description": "d"}}},
    ),
    "reference with escapes": (
        {"properties": {"a": {"$ref": "#/$defs/x~1y~0"}}, "$defs": {"x/y~": STRING}},
        {"type": "object", "properties": {"a": STRING}},
    ),
    "reference to nothing": (
        {"properties": {"a": {"$ref": "https://a.test/b"}, "b": {"$ref": "#/$defs/no"}}},
        {"type": "object", "properties": {"a": {}, "b": {}}},
    ),
    "reference to itself": (
        TREE,
        {
            "type": "object",
            "properties": {
                "child": {
                    "type": "object",
                    "description": "n",
                    "properties": {"next": {"type": "object"}, "name": STRING},
                }
            },
        },
    ),
    "a property named as a keyword": (
        {"type": "object", "properties": {"$ref": STRING, "format": STRING}},
        {"type": "object", "properties": {"$ref": STRING, "format": STRING}},
    ),
}


@pytest.mark.parametrize(("schema", "wanted"), CASES.values(), ids=CASES)
def test_clean(schema: Json, wanted: Json) -> None:
    before = copy.deepcopy(schema)
    assert clean_schema(schema, "s") == (wanted or schema)
    assert schema == before


def doubling(levels: int) -> Json:
    """A schema of 2^levels nodes once its references are inlined."""
    defs: Json = {"D0": STRING}
    for level in range(1, levels + 1):
        below = {"$ref": f"#/$defs/D{level - 1}"}
        defs[f"D{level}"] = {"type": "object", "properties": {"a": below, "b": below}}
    return {"$ref": f"#/$defs/D{levels}", "$defs": defs}


def test_growth_is_bounded() -> None:
    clean_schema(doubling(8), "s")
    with pytest.raises(RequestError) as caught:
        clean_schema(doubling(30), "tools[0].function.parameters")
    assert caught.value.status == 400
    assert "tools[0]" in caught.value.message


@pytest.mark.parametrize("key", ["items", "allOf"])
def test_depth_is_bounded(key: str) -> None:
    schema: Json = {"type": "string"}
    for _ in range(300):
        schema = {key: schema if key == "items" else [schema]}
    with pytest.raises(RequestError):
        clean_schema(schema, "s")


def test_long_chains_of_references_are_bounded() -> None:
    defs = {f"D{i}": {"$ref": f"#/$defs/D{i + 1}"} for i in range(500)}
    with pytest.raises(RequestError):
        clean_schema({"$ref": "#/$defs/D0", "$defs": defs}, "s")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_spoilt_schemas(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([schema for schema, _ in CASES.values()]))
    schema = spoil(base, data.draw) if data.draw(st.booleans()) else data.draw(JSON_VALUES)
    try:
        out = clean_schema(schema, "s")
    except (ShapeError, RequestError):
        return
    orjson.dumps(out)


SETTLED: Final[dict[str, tuple[Json, Json]]] = {
    "nothing stands beside anyOf": (
        {
            "anyOf": [{"type": "string"}, {"type": "integer", "description": "i"}],
            "description": "d",
            "title": "T",
            "nullable": True,
        },
        {
            "anyOf": [
                {"type": "string", "description": "d", "nullable": True},
                {"type": "integer", "description": "i", "nullable": True},
            ]
        },
    ),
    "all have a type": (
        {"properties": {"a": {"description": "any"}, "b": {"type": "array", "items": {}}}},
        {
            "type": "object",
            "properties": {
                "a": {"type": "string", "description": "any"},
                "b": {"type": "array", "items": {"type": "string"}},
            },
        },
    ),
}


SETTLED["a choice of required names"] = (
    {
        "type": "object",
        "properties": {"a": STRING, "b": STRING},
        "anyOf": [{}, {}],
    },
    {"type": "object", "properties": {"a": STRING, "b": STRING}},
)
SETTLED["options have the type that stands beside them"] = (
    {"type": "integer", "anyOf": [{"minimum": 1}, {"maximum": -1}]},
    {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "integer", "maximum": -1}]},
)
SETTLED["a choice of types, and what one of them holds"] = (
    {"anyOf": [{"type": "array"}, STRING], "items": {"type": "integer"}},
    {"anyOf": [{"type": "array", "items": {"type": "integer"}}, STRING]},
)


def test_texts_are_not_multiplied() -> None:
    """Else a request of 25 kB would grow to 50 MB."""
    long: Json = {"description": "d" * 10_000}
    choice = {"anyOf": [{"anyOf": [STRING, STRING]}, *[STRING] * 1000], **long, "nullable": True}
    out = settled_schema(choice)
    assert len(orjson.dumps(out)) < 100_000
    assert out["anyOf"][0]["anyOf"][0] == {**STRING, **long, "nullable": True}
    assert out["anyOf"][1] == {**STRING, "nullable": True}
    many = {str(number): {"$ref": "#/$defs/D"} for number in range(1000)}
    schema = {"type": "object", "properties": many, "$defs": {"D": long}}
    with pytest.raises(RequestError, match="tools: the schema is too large"):
        clean_schema(schema, "tools")
    # Of all schemas together.
    few = {**schema, "properties": {"0": {"$ref": "#/$defs/D"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": few}}
    body: Json = {"messages": [], "tools": [tool] * 500}
    with pytest.raises(RequestError, match="the schema is too large"):
        CONVERSION.request(body, context("gemini-2.5-pro"))
    assert CONVERSION.request({**body, "tools": [tool] * 50}, context("gemini-2.5-pro"))


@pytest.mark.parametrize(("schema", "wanted"), SETTLED.values(), ids=SETTLED)
def test_vertex_refuses_more(schema: Json, wanted: Json) -> None:
    assert settled_schema(schema) == wanted


def test_a_choice_of_several_types() -> None:
    schema = {"type": ["string", "integer", "null"], "enum": ["a", 1, None]}
    wanted = {"nullable": True, "anyOf": [{"type": "string"}, {"type": "integer"}]}
    assert clean_schema(schema, "s") == wanted
    assert clean_schema({"const": 3}, "s") == {"type": "integer"}


def test_only_vertex_gets_settled_schemas() -> None:
    parameters = {"type": "object", "properties": {"a": {"description": "any"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}
    for made, is_typed in (({}, False), ({"strictSchemas": True}, True)):
        out = CONVERSION.request(body, context("gemini-2.5-pro", settings=made))
        sent = out["tools"][0]["functionDeclarations"][0]["parameters"]
        assert ("type" in sent["properties"]["a"]) is is_typed
