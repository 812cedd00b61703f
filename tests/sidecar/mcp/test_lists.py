"""Merged lists: order, names, filters, clashes, cursors, hints, and one server's list as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.model.mcp_tools import ToolControl, ToolPins
from sidecar.errors import UpstreamError
from sidecar.mcp import cursors
from sidecar.mcp.lists import LISTS, merged, prepare
from sidecar.mcp.names import Names
from sidecar.mcp.pins import Pins, digest
from sidecar.mcp.rules import Rules
from sidecar.mcp.tools import Control
from tests.support.messages import ENGINE, request

INFO = {"name": "agentgateway", "version": "1"}
TWO = Names(("a", "b"), "conditional")
ONE = Names(("a",), "conditional")
NEVER = Names(("a", "b"), "never")


def tools(*names: str, **more: object) -> dict:
    return {"tools": [{"name": name, "inputSchema": {}} for name in names], **more}


def allowed(*rules: object):
    return Rules(rules, ENGINE).evaluation(request())


def joined(method, results, names=TWO, evaluation=None, **how):
    pages = [prepare(method, target, result, names) for target, result in results.items()]
    how = {"is_modern": False, "server_info": INFO, **how}
    return merged(method, pages, names, evaluation, **how)


def listed(result: dict) -> list[str]:
    return [item["name"] for item in result["tools"]]


ITEMS = {
    "tools/list": ({"name": "x"}, {"name": "a_x"}),
    "prompts/list": ({"name": "x", "title": "X"}, {"name": "a_x", "title": "X"}),
    "resources/list": ({"uri": "f:///x", "name": "x"}, {"uri": "a+f:///x", "name": "x"}),
    "resources/templates/list": ({"uriTemplate": "f:///{x}"}, {"uriTemplate": "a+f:///{x}"}),
    "tasks/list": ({"taskId": "1", "status": "working"}, {"taskId": "a+1", "status": "working"}),
}


@pytest.mark.parametrize("method", LISTS)
def test_names_of_each_list(method):
    own, client = ITEMS[method]
    key = LISTS[method].key
    before = {**own}
    assert joined(method, {"a": {key: [own]}, "b": {key: []}}) == {key: [client]}
    assert own == before, "what is cached stays"


def test_order():
    assert listed(joined("tools/list", {"a": tools("z", "y"), "b": tools("x")})) == [
        "a_z",
        "a_y",
        "b_x",
    ]


def test_nothing_else_of_a_server_comes_through():
    result = joined("tools/list", {"a": tools("x", _meta={"k": 1}, ttlMs=1), "b": tools()})
    assert result == {"tools": [{"name": "a_x", "inputSchema": {}}]}


def test_filter():
    result = joined(
        "tools/list",
        {"a": tools("x", "y"), "b": tools("x", "y")},
        evaluation=allowed(
            'mcp.tool.target == "a" && mcp.tool.name == "y"', 'mcp.tool.name == "x"'
        ),
    )
    assert listed(result) == ["a_x", "a_y", "b_x"]


def test_rules_of_resources_see_templates_and_uris():
    evaluation = allowed('mcp.resource.name.startsWith("f:")')
    result = joined(
        "resources/templates/list",
        {"a": {"resourceTemplates": [{"uriTemplate": "f:{x}"}, {"uriTemplate": "g:{x}"}]}},
        evaluation=evaluation,
    )
    assert result == {"resourceTemplates": [{"uriTemplate": "a+f:{x}"}]}


JUNK = {
    "no list": {},
    "an object": {"tools": {}},
    "null": {"tools": None},
}


@pytest.mark.parametrize("result", JUNK.values(), ids=JUNK.keys())
def test_no_list(result):
    with pytest.raises(UpstreamError, match=r"^a: tools/list without `tools`$"):
        prepare("tools/list", "a", result, TWO)


def test_items_without_a_name_are_left_out():
    result = {"tools": [{"name": "x"}, {}, 7, {"name": 1}, {"name": "x"}]}
    assert listed(joined("tools/list", {"a": result, "b": tools()})) == ["a_x"]


def test_clashes_vanish_without_prefixes():
    results = {"a": tools("x", "y"), "b": tools("y", "z")}
    assert listed(joined("tools/list", results, NEVER)) == ["x", "z"]


def test_what_is_hidden_clashes_too():
    evaluation = allowed('mcp.tool.target == "a"')
    results = {"a": tools("x", "y"), "b": tools("y")}
    assert listed(joined("tools/list", results, NEVER, evaluation)) == ["x"]


def test_clashes_of_other_pages():
    lists = {"a": (["x", "y"], ["v"]), "b": (["z"], ["x"])}
    pages = [
        prepare("tools/list", target, tools(*names), NEVER)
        for target, pages in lists.items()
        for names in pages
    ]
    result = merged("tools/list", pages, NEVER, None, is_modern=False, server_info={})
    assert listed(result) == ["y", "v", "z"]


def test_uris_without_a_scheme_may_clash():
    results = {
        "a": {"resources": [{"uri": "x"}, {"uri": "f:x"}]},
        "b": {"resources": [{"uri": "x"}]},
    }
    assert joined("resources/list", results) == {"resources": [{"uri": "a+f:x"}]}


def test_cursors():
    results = {"a": tools("x", nextCursor="2"), "b": tools("y")}
    result = joined("tools/list", results)
    assert cursors.decode("tools/list", result["nextCursor"], TWO.targets) == {"a": "2"}
    rest = joined("tools/list", {"a": tools("z")})
    assert rest == {"tools": [{"name": "a_z", "inputSchema": {}}]}


def test_a_page_may_be_empty_and_not_the_last():
    result = joined(
        "tools/list", {"a": tools("x", nextCursor="2"), "b": tools()}, evaluation=allowed("false")
    )
    assert result["tools"] == []
    assert "nextCursor" in result


def test_modern():
    results = {
        "a": tools("x", ttlMs=500, cacheScope="public"),
        "b": tools(ttlMs=900, cacheScope="public"),
    }
    result = joined("tools/list", results, is_modern=True)
    assert {key: value for key, value in result.items() if key != "tools"} == {
        "resultType": "complete",
        "ttlMs": 500,
        "cacheScope": "public",
        "_meta": {"io.modelcontextprotocol/serverInfo": INFO},
    }


@pytest.mark.parametrize("evaluation", [None, allowed('mcp.tool.name == "x"')])
def test_modern_scopes(evaluation):
    results = {"a": tools("x", ttlMs=5, cacheScope="public"), "b": tools(ttlMs=5)}
    assert joined("tools/list", results, evaluation=evaluation, is_modern=True)["cacheScope"] == (
        "private"
    )


def test_a_list_that_depends_on_the_client_is_private():
    results = {"a": tools("x", ttlMs=5, cacheScope="public")}
    evaluation = allowed('mcp.tool.name == "x"')
    for names in (TWO, ONE):
        result = joined("tools/list", results, names, evaluation, is_modern=True)
        assert (result["ttlMs"], result["cacheScope"]) == (5, "private")


def test_a_list_with_a_server_missing_is_not_kept():
    results = {"a": tools("x", ttlMs=5, cacheScope="public")}
    result = joined("tools/list", results, is_modern=True, is_partial=True)
    assert (result["ttlMs"], result["cacheScope"]) == (0, "private")


VERBATIM = tools("x", "x", nextCursor="2", other=1)
MODERN = {**VERBATIM, "resultType": "complete", "ttlMs": 5, "cacheScope": "public"}


def test_one_target_verbatim():
    assert joined("tools/list", {"a": VERBATIM}, ONE) is VERBATIM
    assert joined("tools/list", {"a": MODERN}, ONE, is_modern=True) is MODERN


def test_one_target_filtered():
    evaluation = allowed('mcp.tool.name == "y"')
    result = joined("tools/list", {"a": tools("x", "y", nextCursor="2", o=1)}, ONE, evaluation)
    assert result == tools("y", nextCursor="2", o=1)


def test_one_target_of_the_other_era():
    assert joined("tools/list", {"a": MODERN}, ONE) == VERBATIM
    hints = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    assert joined("tools/list", {"a": VERBATIM}, ONE, is_modern=True) == {**VERBATIM, **hints}


def test_one_target_always_prefixed_keeps_its_cursor():
    names = Names(("a",), "always")
    result = joined("tools/list", {"a": VERBATIM}, names)
    assert result["nextCursor"] == "2"
    assert result["other"] == 1
    assert listed(result) == ["a_x"]


APP = {
    "name": "x",
    "_meta": {"ui": {"resourceUri": "ui://v", "o": 1}, "ui/resourceUri": "ui://v", "k": 2},
}


def test_views_of_apps():
    (item,) = joined("tools/list", {"a": {"tools": [APP]}, "b": tools()})["tools"]
    assert item["_meta"] == {
        "ui": {"resourceUri": "ui://a+v", "o": 1},
        "ui/resourceUri": "ui://a+v",
        "k": 2,
    }
    assert APP["_meta"]["ui/resourceUri"] == "ui://v"


@pytest.mark.parametrize("names", [TWO, ONE])
def test_views_that_may_not_be_read(names):
    evaluation = allowed('mcp.tool.name == "x"')
    (item,) = joined("tools/list", {"a": {"tools": [APP]}}, names, evaluation)["tools"]
    assert item["_meta"] == {"ui": {"o": 1}, "k": 2}


def test_views_that_may_be_read():
    evaluation = allowed('mcp.tool.name == "x"', 'mcp.resource.name == "ui://v"')
    (item,) = joined("tools/list", {"a": {"tools": [APP]}}, TWO, evaluation)["tools"]
    assert item["_meta"]["ui"]["resourceUri"] == "ui://a+v"


@pytest.mark.parametrize("meta", [None, 7, {"ui": 7}, {"ui": {"resourceUri": 7}}, {}])
def test_meta_that_is_none(meta):
    item = {"name": "x", "_meta": meta}
    result = joined("tools/list", {"a": {"tools": [item]}}, ONE)
    assert result["tools"][0] is item


def test_pins_then_rules_then_control_then_names():
    given = {"tools": [{"name": "read", "description": "d"}, {"name": "new"}]}
    pins = Pins(ToolPins(definitions={"read": digest(given["tools"][0])}))
    control = Control(
        ToolControl.model_validate(
            {"rename": {"read": "open"}, "override": {"read": {"description": "D"}}}
        )
    )
    page = prepare("tools/list", "a", given, TWO, control=control, pins=pins)
    evaluation = allowed('mcp.tool.name == "read"')
    result = merged("tools/list", [page], TWO, evaluation, is_modern=False, server_info=INFO)
    assert result == {"tools": [{"name": "a_open", "description": "D"}]}


NAMES = st.lists(st.sampled_from(["x", "y", "z", "a_x", "b_x"]), max_size=4)


@given(NAMES, NAMES, st.sampled_from(["conditional", "never"]), st.booleans())
def test_every_listed_name_has_one_meaning(first, second, mode, is_filtered):
    names = Names(("a", "b"), mode)
    evaluation = allowed('mcp.tool.name != "z"') if is_filtered else None
    shown = listed(
        joined("tools/list", {"a": tools(*first), "b": tools(*second)}, names, evaluation)
    )
    assert len(set(shown)) == len(shown)
    for client in shown:
        found = names.to_target("tool", client)
        owners = [
            (target, own)
            for target, every in (("a", first), ("b", second))
            for own in set(every)
            if names.to_client("tool", target, own) == client
        ]
        assert len(owners) == 1
        assert found in (None, owners[0])
