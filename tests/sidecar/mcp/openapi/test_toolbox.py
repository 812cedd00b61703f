"""Tests of sidecar.mcp.openapi: what becomes of documents, of good ones and of broken ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.mcp.openapi import cycles
from sidecar.mcp.openapi import toolbox as module
from sidecar.mcp.openapi.toolbox import Tool, toolbox
from sidecar.mcp.openapi.toolnames import derived
from tests.support.openapi_documents import MODERN, PETS, Node, answer, modern, pets, schema


def tool(name: str, document: Node | None = None) -> Tool:
    return toolbox(document or pets()).tools[name]


def listed_of(document: Node) -> list[Node]:
    return [listed for page in toolbox(document).pages for listed in page]


def operation(node: Node, path: str = "/x", method: str = "get", **more: Any) -> Node:
    return {"openapi": "3.1.0", "paths": {path: {method: node}}, **more}


def test_names_are_ids_or_made_of_method_and_path() -> None:
    assert list(toolbox(pets()).tools) == [
        "listPets",
        "post_pets",
        "get_pets_by_id",
        "replace_pet",
        "delete_pets_by_id",
        "upload",
        "uploadRaw",
        "login",
        "note",
        "addAnimal",
    ]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/", "get"),
        ("GET", "/pets/{id}", "get_pets_by_id"),
        ("DELETE", "/a/{b}/c.{d}", "delete_a_by_b_c._d"),
        ("POST", "/ümlaut/x y", "post__mlaut_x_y"),
    ],
)
def test_derived_names(method: str, path: str, name: str) -> None:
    assert derived(method, path) == name


def test_derived_names_are_short_and_different() -> None:
    long = "/" + "a" * 80
    names = {derived("GET", long + one) for one in "bc"}
    assert len(names) == 2
    assert {len(name) for name in names} == {64}


def test_a_made_name_gives_way_to_a_given_one() -> None:
    paths = {
        "/a/b": {"get": {}},
        "/a_b": {"get": {}},
        "/c": {"get": {"operationId": "get_a_b"}},
    }
    names = list(toolbox({"openapi": "3.0.0", "paths": paths}).tools)
    assert names == ["get_a_b_2", "get_a_b_3", "get_a_b"]


def test_descriptions_and_titles() -> None:
    listed = tool("listPets").listed
    assert (listed["title"], listed["description"]) == ("List pets", "All pets, by pages.")
    listed = tool("post_pets").listed
    assert "title" not in listed
    assert listed["description"].startswith("Add a pet, whose")
    assert tool("get_pets_by_id").listed["description"] == "get_pets_by_id"
    assert tool("listPets").listed["annotations"]["readOnlyHint"] is True


def test_groups_of_arguments() -> None:
    made = tool("listPets").input_schema
    groups = {name: list(group["properties"]) for name, group in made["properties"].items()}
    # Keys of the API, `Authorization` and what the operation overrides are not asked for.
    assert groups == {
        "query": ["limit", "tags", "filter", "where"],
        "header": ["x-trace"],
        "cookie": ["theme"],
    }
    assert "required" not in made
    assert made["properties"]["header"]["properties"]["x-trace"] == {"type": "integer"}
    assert made["properties"]["query"]["properties"]["limit"]["description"] == "how many"
    assert tool("get_pets_by_id").input_schema["required"] == ["path"]
    assert tool("post_pets").input_schema["required"] == ["body"]


def test_headers_of_the_api_are_known() -> None:
    assert toolbox(pets()).hidden_headers == {b"x-api-key", b"x-trace"}


def test_prefix_is_the_path_of_the_first_server() -> None:
    assert tool("listPets").prefix == "/v1"
    assert toolbox(pets(), "/other/").tools["listPets"].prefix == "/other"
    document = pets()
    document["paths"]["/note"]["servers"] = [{"url": "v7"}]
    document["paths"]["/login"]["post"]["servers"] = [{"url": "http://x.example"}]
    made = toolbox(document).tools
    assert (made["note"].prefix, made["login"].prefix) == ("/v7", "")


def test_recursion_goes_to_defs_and_the_rest_is_inlined() -> None:
    made = tool("post_pets").input_schema
    assert set(made["$defs"]) == {"NewPet", "Owner", "Pet"}
    assert made["properties"]["body"] == {"$ref": "#/$defs/NewPet", "description": "the pet"}
    animal = tool("addAnimal").input_schema
    assert "$defs" not in animal
    assert [one["required"] for one in animal["properties"]["body"]["oneOf"]] == [
        ["meow"],
        ["bark"],
    ]


def test_dialect_of_3_0_becomes_json_schema() -> None:
    made = tool("post_pets").input_schema["$defs"]["NewPet"]
    assert made["properties"]["tag"] == {"type": ["string", "null"], "examples": ["dog"]}
    assert made["properties"]["age"] == {"type": "integer", "exclusiveMinimum": 0}
    assert not {"xml", "x-vendor"} & made.keys()


def test_each_side_sees_its_own() -> None:
    made = tool("post_pets")
    assert "secret" in made.input_schema["$defs"]["NewPet"]["properties"]
    assert "id" not in str(made.input_schema["$defs"]["Pet"])
    assert made.output_schema is not None
    assert "secret" not in made.output_schema["$defs"]["NewPet"]["properties"]
    assert made.output_schema["type"] == "object"
    assert made.output_schema["allOf"][1]["required"] == ["id"]


def test_what_is_not_checked_is_not_promised() -> None:
    one = {"type": "string", "format": "date", "pattern": "^2", "minLength": 3}
    of = {"type": "object", "properties": {"a": one}, "unevaluatedProperties": False}
    made = tool("get_x", operation({"responses": answer(of)})).output_schema
    properties = {"a": {"type": "string", "minLength": 3}}
    assert made == {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("responses", "has_one"),
    [
        (answer({"type": "object"}), True),
        (answer({"properties": {}}, "2XX"), True),
        ({**answer({"type": "object"}), "404": {"description": ""}, "default": {}}, True),
        (answer({"type": "array"}), False),
        (answer({"type": ["object", "null"]}), False),
        ({**answer({"type": "object"}), "204": {"description": ""}}, False),
        ({**answer({"type": "object"}), **answer({"type": "object"}, "201")}, False),
        ({**answer(schema("A")), **answer(schema("A"), "201")}, True),
        ({"200": {"content": {"text/csv": {}}}}, False),
        ({"200": {"content": {"application/json": {}}}}, False),
        (
            {
                "200": {
                    "content": {"application/xml": {}, "a/b+json": {"schema": {"type": "object"}}}
                }
            },
            True,
        ),
        ({"default": {"content": {"application/json": {"schema": {"type": "object"}}}}}, False),
        (answer({"type": "object", "properties": {f"p{n}": {} for n in range(3000)}}), False),
    ],
)
def test_output_schema_of_an_object_alone(responses: Node, has_one: bool) -> None:
    components = {"schemas": {"A": {"type": "object"}}}
    made = tool("get_x", operation({"responses": responses}, components=components))
    assert (made.output_schema is not None) == has_one
    document = operation({"responses": responses}, components=components)
    without = toolbox(document, has_outputs=False)
    assert "outputSchema" not in without.pages[0][0]


def test_accept_says_what_the_document_says() -> None:
    content: Node = {"application/xml": {}, "application/hal+json": {}, "text/csv": {}}
    made = tool("get_x", operation({"responses": {"200": {"content": content}}}))
    assert made.accept == b"application/hal+json"
    del content["application/hal+json"]
    made = tool("get_x", operation({"responses": {"200": {"content": content}}}))
    assert made.accept == b"application/xml, text/csv"
    assert tool("listPets").accept == b"application/json"
    assert tool("uploadRaw").accept == b"image/png"
    assert tool("replace_pet").accept == b"application/json"


def test_3_1_with_references_to_paths_and_words_beside_them() -> None:
    made = tool("addThing", modern())
    body = made.input_schema["properties"]["body"]
    assert body == {
        "description": "a thing",
        "minProperties": 1,
        "allOf": [{"$ref": "#/$defs/Thing"}],
    }
    pair = made.input_schema["$defs"]["Thing"]["properties"]["pair"]
    assert pair == {"prefixItems": [{"type": "string"}, {}], "items": False}
    assert made.body is not None
    assert made.body.media_type == "application/vnd.things+json"
    # The path parameter that the document forgot.
    assert made.input_schema["properties"]["path"]["required"] == ["kind"]


@pytest.mark.parametrize("document", [PETS, MODERN])
def test_schemas_are_json_schema_and_stand_alone(document: Node) -> None:
    for listed in listed_of(copy.deepcopy(document)):
        for key in ("inputSchema", "outputSchema"):
            if key in listed:
                jsonschema.Draft202012Validator.check_schema(listed[key])
                assert listed[key]["type"] == "object"
                assert b"components" not in orjson.dumps(listed[key])


def test_large_components_are_shared_and_deep_ones_stay_flat() -> None:
    wide = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(300)}}
    chain: Node = {
        f"C{n}": {"properties": {"next": schema(f"C{n + 1}")}, "type": "object"} for n in range(400)
    }
    schemas = {"Wide": wide, **chain, "C400": {"type": "string"}}
    body = {"properties": {"a": schema("Wide"), "b": schema("Wide"), "c": schema("C0")}}
    document = operation(
        {"requestBody": {"content": {"application/json": {"schema": body}}}},
        method="post",
        components={"schemas": schemas},
    )
    made = tool("post_x", document).input_schema
    assert made["properties"]["body"]["properties"]["a"] == {"$ref": "#/$defs/Wide"}
    assert len(made["$defs"]) > 10


def test_inlining_that_would_explode_does_not() -> None:
    schemas = {
        f"L{n}": {"type": "object", "properties": {k: schema(f"L{n + 1}") for k in "abcdefgh"}}
        for n in range(30)
    }
    schemas["L30"] = {"type": "string"}
    body = {"content": {"application/json": {"schema": schema("L0")}}}
    document = operation({"requestBody": body}, method="post", components={"schemas": schemas})
    assert len(orjson.dumps(tool("post_x", document).input_schema)) < 200_000


# --- documents that are refused -----------------------------------------------------------------


def _set(*keys: Any, to: Any) -> Callable[[Node], None]:
    def change(document: Node) -> None:
        node: Any = document
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = to

    return change


PARAMETER = ("paths", "/pets", "get", "parameters", 0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_set("swagger", to="2.0"), "#/swagger: Swagger 2.0 is not supported; convert it"),
        (_set("openapi", to="4.0"), "#/openapi: expected a version"),
        (_set("openapi", to=3.1), "#/openapi: expected a version"),
        (_set("paths", to=[]), "#/paths: expected a mapping"),
        (_set("paths", "/pets", to=1), "#/paths/~1pets: expected a mapping"),
        (_set("paths", "nope", to={}), "#/paths/nope: a path begins with `/`"),
        (_set("paths", "/a?b", to={}), "#/paths/~1a?b: a path begins with `/`"),
        (_set("paths", "/a/%2e%2E/b", to={}), "a path with `.` or `..` segments"),
        (_set("servers", 0, "url", to="https://x.example/../y"), "#/servers/0/url: a path with"),
        (_set("servers", 0, "url", to="/{nope}"), "#/servers/0/variables/nope: needs a default"),
        (
            _set("paths", "/note", "put", "operationId", to="login"),
            "is the tool of #/paths/~1login",
        ),
        (_set(*PARAMETER, "in", to="body"), "/get/parameters/0: a parameter needs `name`"),
        (_set(*PARAMETER, "name", to="X:Y"), "/parameters/0/name: this is no name of a header"),
        (_set(*PARAMETER, "style", to="deepObject"), "/style: style `deepObject` is not one of"),
        (_set(*PARAMETER, "content", to={}), "/content: expected one media type"),
        (_set(*PARAMETER, "schema", to={"$ref": "other.yaml#/X"}), "leads out of the document"),
        (_set(*PARAMETER, "schema", to={"$ref": "#Name"}), "anchors are not supported"),
        (_set(*PARAMETER, "schema", to={"$ref": "#/nope"}), "`#/nope` points at nothing"),
        (_set(*PARAMETER, "schema", to={"$dynamicRef": "#x"}), "dynamic references"),
        (_set(*PARAMETER, "schema", to={"type": "strnig"}), "/schema/type: expected a type"),
        (_set(*PARAMETER, "schema", to={"minLength": -1}), "/minLength: expected a number"),
        (_set(*PARAMETER, "schema", to={"properties": []}), "/properties: expected a mapping"),
        (_set(*PARAMETER, "schema", to={"anyOf": {}}), "/anyOf: expected a list of schemas"),
        (_set(*PARAMETER, "schema", to={"enum": 1}), "/enum: expected a list"),
        (_set(*PARAMETER, "schema", to={"pattern": 1}), "/pattern: expected text"),
        (_set(*PARAMETER, "schema", to={"multipleOf": 0}), "/multipleOf: expected a number above"),
        (
            _set("components", "schemas", "Tree", to=schema("Tree")),
            "a chain of more than 32 references",
        ),
        (
            _set("paths", "/note", "put", "requestBody", "content", to={"a/b\r\nx: y": {}}),
            "this is no media type",
        ),
        (_set("components", "securitySchemes", "key", "in", to="body"), "an apiKey needs `name`"),
    ],
)
def test_what_is_refused_is_named(change: Callable[[Node], None], text: str) -> None:
    document = pets()
    change(document)
    with pytest.raises(ConfigError) as caught:
        toolbox(document)
    assert caught.value.path == ""
    assert caught.value.message.startswith("OpenAPI document, ")
    assert text in caught.value.message


def test_too_deep_a_schema() -> None:
    node: Node = {"type": "string"}
    for _ in range(100):
        node = {"type": "array", "items": node}
    with pytest.raises(ConfigError, match="nested more than 64 levels deep"):
        toolbox(operation({"parameters": [{"name": "a", "in": "query", "schema": node}]}))


def test_too_many_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOOLS_MAX", 3)
    with pytest.raises(ConfigError, match=r"#/paths/~1pets~1\{id\}/put: more than 3 operations"):
        toolbox(pets())


def test_too_large_an_input() -> None:
    wide = {f"p{n}": {"type": "string"} for n in range(21_000)}
    one = {"name": "a", "in": "query", "schema": {"type": "object", "properties": wide}}
    with pytest.raises(ConfigError, match="#/paths/~1x/get: an input schema of more than 20000"):
        toolbox(operation({"parameters": [one]}))


def test_long_enumerations_count() -> None:
    one = {"name": "a", "in": "query", "schema": {"enum": list(range(90_000))}}
    with pytest.raises(ConfigError, match="an input schema of more than 20000"):
        toolbox(operation({"parameters": [one]}))


def test_inputs_have_a_bound_together_and_outputs_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_OUTPUTS_MAX", 20)
    made = toolbox(pets()).tools
    assert [name for name, tool in made.items() if tool.output_schema] == ["post_pets"]
    monkeypatch.setattr(module, "_INPUTS_MAX", 40)
    with pytest.raises(ConfigError, match="the input schemas up to here have more than 40 nodes"):
        toolbox(pets())


def test_pages_hold_what_a_message_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE_TOOLS", 3)
    assert [len(page) for page in toolbox(pets()).pages] == [3, 3, 3, 1]
    monkeypatch.setattr(module, "_PAGE_NODES", 1)
    assert [len(page) for page in toolbox(pets()).pages] == [1] * 10
    assert toolbox({"openapi": "3.1.0"}).pages == ((),)


def test_references_that_overlap_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycles, "_STEPS_MAX", 100)
    with pytest.raises(ConfigError, match="too many references that overlap"):
        toolbox(pets())


_JUNK = st.sampled_from(
    [
        *(None, True, 0, -1, 1.5, "", "x", "../..", "#/", [], {}, [None], {"$ref": "#/paths"}),
        *({"": 1}, {"$ref": "#/components/schemas/Pet"}),
        {"type": "object", "properties": {"a": True}},
    ]
)
_KEYS = st.sampled_from(["$ref", "type", "x", "get", "content"])


def _places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, one in steps:
        found.append((*at, key))
        if isinstance(one, dict | list):
            found += _places(one, (*at, key))
    return found


@pytest.mark.parametrize("document", [PETS, MODERN], ids=["3.0", "3.1"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_document_that_was_changed_anywhere_is_read_or_refused(
    document: Node, data: st.DataObject
) -> None:
    changed = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(_places(changed)))
        node: Any = changed
        for key in place[:-1]:
            node = node[key]
        if data.draw(st.booleans()) and isinstance(node, dict):
            node[data.draw(_KEYS)] = copy.deepcopy(data.draw(_JUNK))
        else:
            node[place[-1]] = copy.deepcopy(data.draw(_JUNK))
    try:
        listed_ones = listed_of(changed)
    except ConfigError:
        return
    for listed in listed_ones:
        assert 1 <= len(listed["name"]) <= 128
        assert orjson.loads(orjson.dumps(listed)) == listed
