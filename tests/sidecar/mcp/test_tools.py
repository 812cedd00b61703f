"""Control of the tools of one target: lists, calls, and what configuration is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sidecar.config.model.mcp_tools import ToolControl
from sidecar.jsonrpc import JsonRpcError
from sidecar.mcp.tools import Control


def control(**config: object) -> Control:
    return Control(ToolControl.model_validate(config))


def tool(name: str = "read", **more: object) -> dict:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


OFFERS = {
    "all": ({}, "read", True),
    "allowed": ({"allow": ["read"]}, "read", True),
    "not allowed": ({"allow": ["read"]}, "write", False),
    "none": ({"allow": []}, "read", False),
    "star": ({"allow": ["get_*"]}, "get_all", True),
    "star is anchored": ({"allow": ["get_*"]}, "forget_all", False),
    "question mark": ({"allow": ["v?"]}, "v1", True),
    "question mark is one": ({"allow": ["v?"]}, "v10", False),
    "a dot is a dot": ({"allow": ["a.b"]}, "axb", False),
    "brackets are brackets": ({"allow": ["[ab]"]}, "a", False),
    "a line break": ({"deny": ["a*"]}, "a\nb", False),
    "deny": ({"deny": ["*_admin"]}, "do_admin", False),
    "deny beats allow": ({"allow": ["*"], "deny": ["a*"]}, "ab", False),
    "several": ({"allow": ["a", "b*"]}, "bc", True),
    "many stars": ({"deny": ["*a*a*a*a*a*a*a*a*"]}, "b" * 2000, True),
}


@pytest.mark.parametrize(("config", "name", "verdict"), OFFERS.values(), ids=OFFERS.keys())
def test_offers(config, name, verdict):
    made = control(**config)
    assert (made.listed(tool(name)) is not None) is verdict
    assert (made.own_name(name) == name) is verdict


def test_untouched_tools_are_the_same_object():
    given = tool()
    assert control().listed(given) is given
    assert control(override={"other": {"title": "x"}}).listed(given) is given


def test_rename():
    made = control(rename={"read": "open"})
    assert made.listed(tool("read")) == tool("open")
    assert made.own_name("open") == "read"
    assert made.own_name("read") is None, "it has its new name only"


def test_a_rename_wins_over_the_servers_own_tool():
    made = control(rename={"read": "open"})
    assert made.listed(tool("open")) is None
    assert made.own_name("open") == "read"


def test_two_names_changed_about():
    made = control(rename={"a": "b", "b": "a"})
    assert [made.listed(tool(name))["name"] for name in "ab"] == ["b", "a"]
    assert [made.own_name(name) for name in "ab"] == ["b", "a"]


def test_a_renamed_tool_that_is_denied():
    made = control(rename={"read": "open"}, deny=["read"])
    assert made.listed(tool("read")) is None
    assert made.own_name("open") is None


def test_texts():
    made = control(override={"read": {"title": "T", "description": "D"}}, rename={"read": "open"})
    given = tool("read", description="old", annotations={"readOnlyHint": True})
    assert made.listed(given) == {**given, "name": "open", "title": "T", "description": "D"}
    assert given["description"] == "old", "what is cached stays"


SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "root": {"type": "string"}, "raw": {}},
    "required": ["path", "root"],
    "dependentRequired": {"root": ["path"], "path": []},
    "allOf": [{"required": ["root"]}, {"properties": {"raw": {}, "path": {}}}, True],
}


def test_fixed_and_hidden_arguments_leave_the_schema():
    made = control(override={"read": {"arguments": {"root": "/srv"}, "hide": ["raw"]}})
    told = made.listed(tool(inputSchema=SCHEMA))["inputSchema"]
    assert told == {
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "required": ["path"],
        "dependentRequired": {"path": []},
        "allOf": [{}, {"properties": {"path": {}}}, True],
    }
    assert SCHEMA["required"] == ["path", "root"]


def test_nothing_required_is_left():
    made = control(override={"read": {"hide": ["a"]}})
    schema = {"properties": {"a": {}}, "required": ["a"]}
    assert made.listed(tool(inputSchema=schema))["inputSchema"] == {"properties": {}}


def test_a_tool_without_a_schema():
    made = control(override={"read": {"hide": ["a"]}})
    assert made.listed({"name": "read"}) == {"name": "read"}


FIXED = {"read": {"arguments": {"root": "/srv"}, "hide": ["raw"]}}


def test_fixed_arguments_are_put_in():
    made = control(override=FIXED)
    assert made.arguments("read", {"path": "x"}) == {"path": "x", "root": "/srv"}
    assert made.arguments("read", None) == {"root": "/srv"}
    given = {"path": "x"}
    assert made.arguments("other", given) is given
    assert control(override={"read": {"hide": ["raw"]}}).arguments("read", given) is given


@pytest.mark.parametrize("given", [{"root": "/etc"}, {"raw": 1}, [], "x"])
def test_clients_may_not_set_them(given):
    with pytest.raises(JsonRpcError) as caught:
        control(override=FIXED).arguments("read", given)
    assert (caught.value.code, caught.value.status) == (-32602, 400)


REFUSED = {
    "two of one name": {"rename": {"a": "x", "b": "x"}},
    "no name of a tool": {"rename": {"a": "x y"}},
    "too long": {"rename": {"a": "x" * 129}},
    "fixed and hidden": {"override": {"a": {"arguments": {"x": 1}, "hide": ["x"]}}},
    "unknown key": {"override": {"a": {"text": "x"}}},
}


@pytest.mark.parametrize("config", REFUSED.values(), ids=REFUSED.keys())
def test_refused_configuration(config):
    with pytest.raises(ValidationError):
        ToolControl.model_validate(config)
