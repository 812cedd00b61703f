"""initialize and server/discover of several servers as one."""

from __future__ import annotations

import pytest

from sidecar.errors import UpstreamError
from sidecar.jsonrpc import JsonRpcError
from sidecar.mcp import merge

INFO = {"name": "agentgateway", "version": "1"}


def of(*given: dict) -> list[tuple[str, dict]]:
    return [(f"t{index}", {"capabilities": one}) for index, one in enumerate(given)]


CAPABILITIES = {
    "nothing": (of({}, {}), {}),
    "what one has": (of({"tools": {}}, {"prompts": {}}), {"tools": {}, "prompts": {}}),
    "list changes of one": (
        of({"tools": {"listChanged": True}}, {"tools": {"listChanged": False}}),
        {"tools": {"listChanged": True}},
    ),
    "logging and completions are relayed": (
        of({"logging": {}}, {"completions": {}}),
        {"logging": {}, "completions": {}},
    ),
    "subscriptions": (
        of({"resources": {"subscribe": True}}, {"resources": {"listChanged": True}}),
        {"resources": {"subscribe": True, "listChanged": True}},
    ),
    "extensions that agree": (
        of({"extensions": {"x/y": {"a": 1}}}, {"extensions": {"x/y": {"a": 1}}}),
        {"extensions": {"x/y": {"a": 1}}},
    ),
    "extensions that do not": (
        of({"extensions": {"x/y": {"a": 1}, "x/z": {"b": 1}}}, {"extensions": {"x/y": {"a": 2}}}),
        {"extensions": {"x/y": {}, "x/z": {"b": 1}}},
    ),
    "three that do not": (
        of(*({"experimental": {"e": {"a": n}}} for n in (1, 2, 1))),
        {"experimental": {"e": {}}},
    ),
    "tasks": (
        of(
            {"tasks": {"list": {}, "requests": {"tools": {"call": {}}}}},
            {"tasks": {"cancel": {}, "requests": {"tools": {}}}},
        ),
        {"tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}},
    ),
    "junk": (of({"tools": True, "logging": 1, "tasks": [], "extensions": "x"}, {}), {}),
    "junk instead of capabilities": ([("a", {"capabilities": []}), ("b", {})], {}),
}


@pytest.mark.parametrize(("answers", "expected"), CAPABILITIES.values(), ids=CAPABILITIES.keys())
def test_capabilities(answers, expected):
    assert merge.capabilities(answers, can_subscribe=True) == expected


def test_no_subscriptions_without_a_session():
    answers = of({"resources": {"subscribe": True}})
    assert merge.capabilities(answers, can_subscribe=False) == {"resources": {}}


def test_initialize():
    answers = [
        ("a", {"protocolVersion": "2025-11-25", "capabilities": {}, "instructions": "Be kind."}),
        ("b", {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}),
        ("c", {"protocolVersion": "2025-11-25", "instructions": "Be brief."}),
    ]
    result = merge.initialize(answers, INFO, is_stateful=True, has_prefixes=True)
    assert result["protocolVersion"] == "2025-06-18"
    assert result["serverInfo"] == INFO
    assert result["capabilities"] == {"tools": {}}
    preamble, *blocks = result["instructions"].split("\n\n")
    assert "begins with the name of its server" in preamble
    assert blocks == ["[a]\nBe kind.", "[c]\nBe brief."]


def test_instructions_without_prefixes():
    answers = [("a", {"protocolVersion": "x"}), ("b", {"protocolVersion": "x"})]
    result = merge.initialize(answers, INFO, is_stateful=False, has_prefixes=False)
    assert result["instructions"] == "This server gathers several MCP servers."


def test_initialize_without_a_version():
    with pytest.raises(UpstreamError, match=r"^b: "):
        merge.initialize(
            [("a", {"protocolVersion": "x"}), ("b", {})], INFO, is_stateful=True, has_prefixes=True
        )


def found(versions: object, **more: object) -> dict:
    return {"supportedVersions": versions, "capabilities": {}, **more}


def test_discover():
    answers = [
        ("a", found(["2026-07-28", "2025-11-25"], ttlMs=5000, cacheScope="public")),
        ("b", found(["2025-06-18", "2026-07-28"], ttlMs=100, cacheScope="public")),
    ]
    result = merge.discover(answers, INFO, has_prefixes=True)
    assert result["supportedVersions"] == ["2026-07-28"]
    assert (result["ttlMs"], result["cacheScope"]) == (100, "public")
    assert result["resultType"] == "complete"
    assert result["_meta"] == {"io.modelcontextprotocol/serverInfo": INFO}


def test_discover_without_a_common_version_lets_clients_fall_back():
    answers = [("a", found(["2026-07-28"])), ("b", found(["2027-01-01"]))]
    with pytest.raises(JsonRpcError) as caught:
        merge.discover(answers, INFO, has_prefixes=True)
    assert (caught.value.code, caught.value.status) == (-32601, 404)


def test_discover_without_versions():
    with pytest.raises(UpstreamError, match=r"^a: discover"):
        merge.discover([("a", {})], INFO, has_prefixes=True)


HINTS = {
    "public": ([{"ttlMs": 9, "cacheScope": "public"}] * 2, False, 9, "public"),
    "shortest": ([{"ttlMs": 9, "cacheScope": "public"}, {"ttlMs": 3}], False, 3, "private"),
    "one private": (
        [{"ttlMs": 9, "cacheScope": "public"}, {"ttlMs": 9, "cacheScope": "private"}],
        False,
        9,
        "private",
    ),
    "filtered": ([{"ttlMs": 9, "cacheScope": "public"}], True, 9, "private"),
    "no hint": ([{"ttlMs": 9, "cacheScope": "public"}, {}], False, 0, "private"),
    "junk": ([{"ttlMs": True, "cacheScope": 1}], False, 0, "private"),
    "negative": ([{"ttlMs": -1, "cacheScope": "public"}], False, 0, "public"),
    "nobody": ([], False, 0, "private"),
}


@pytest.mark.parametrize(("results", "filtered", "ttl", "scope"), HINTS.values(), ids=HINTS.keys())
def test_cache_hints(results, filtered, ttl, scope):
    hints = merge.cache_hints(results, is_filtered=filtered)
    assert hints == {"ttlMs": ttl, "cacheScope": scope}
