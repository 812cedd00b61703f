"""Choosing among listeners, routes and TCP routes; checked against a plain sort of all pairs."""

from __future__ import annotations

import random
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import Headers
from sidecar.routing.table import (
    ListenerEntry,
    ListenerTable,
    RouteEntry,
    RouteTable,
    TcpRouteTable,
)

# --- the naive reference: every (route, match) pair of a bucket is sorted and tried ---------------


def naive_path(kind: str, value: str, path: str) -> bool:
    if kind == "exact":
        return path == value
    if kind == "regex":
        return re2.fullmatch(value, path) is not None
    wanted = [part for part in value.split("/") if part]
    have = [part for part in path.split("/") if part]
    return have[: len(wanted)] == wanted


def naive_holds(match: dict[str, Any], request: dict[str, Any]) -> bool:
    kind, value = match["path"]["kind"], match["path"]["value"]
    return (
        naive_path(kind, value, request["path"])
        and match["method"] in (None, request["method"])
        and all(
            (h["name"].encode(), h["value"].encode()) in request["headers"]
            for h in match["headers"]
        )
        and all(request["query"].get(q["name"]) == q["value"] for q in match["query"])
    )


def naive_rank(key: str, match: dict[str, Any]) -> tuple[Any, ...]:
    value = match["path"]["value"]
    if match["path"]["kind"] == "prefix":
        value = value.rstrip("/") or "/"
    return (
        match["path"]["kind"] != "exact",
        -len(value),
        match["method"] is None,
        -len(match["headers"]),
        -len(match["query"]),
        key,
    )


def naive_bucket(hostnames: list[str], host: str) -> list[int]:
    """For each hostname of a route, how good it covers the host: 0 exact, then by suffix."""
    out = []
    for name in hostnames or ["*"]:
        if name == host:
            out.append(0)
        elif name == "*":
            out.append(1000)
        elif name.startswith("*.") and host.endswith(name[1:]):
            out.append(500 - len(name))
    return out


def naive_match(routes: dict[str, dict[str, Any]], request: dict[str, Any]) -> Any:
    pairs = []
    for key, data in routes.items():
        for level in naive_bucket(data["hostnames"], request["host"]):
            for index, match in enumerate(data["matches"]):
                pairs.append(((level, *naive_rank(key, match), index), key, match))
    for _, key, match in sorted(pairs, key=lambda pair: pair[0]):
        if naive_holds(match, request):
            return key, match["path"]["kind"]
    return None


names = st.sampled_from(["a", "b", "ab"])
paths = st.lists(names, max_size=3).map(lambda parts: "/" + "/".join(parts))
path_matches = st.one_of(
    st.builds(lambda v: {"kind": "exact", "value": v}, paths),
    st.builds(
        lambda v, s: {"kind": "prefix", "value": v + s}, paths, st.sampled_from(["", "/"])
    ).filter(lambda p: "//" not in p["value"]),
    st.builds(
        lambda v: {"kind": "regex", "value": v},
        st.sampled_from(["/.*", "/a", "/a/.*", "/[ab]", "/a/b", "/(a|b)/.*", "/a?b", ".*", "/.*b"]),
    ),
)
values = st.sampled_from(["1", "2"])
pairs = st.lists(
    st.builds(lambda n, v: {"name": n, "kind": "exact", "value": v}, names, values), max_size=2
)
matches = st.fixed_dictionaries(
    {
        "path": path_matches,
        "method": st.sampled_from([None, None, "GET", "POST"]),
        "headers": pairs,
        "query": pairs,
    }
)
hostnames = st.lists(
    st.sampled_from(["*", "a.b.c", "b.c", "*.b.c", "*.c", "*.a.b.c", "c"]), max_size=2, unique=True
)
route_data = st.fixed_dictionaries(
    {"hostnames": hostnames, "matches": st.lists(matches, min_size=1, max_size=3)}
)
route_maps = st.dictionaries(st.sampled_from([f"r{n}" for n in range(12)]), route_data, max_size=8)
requests = st.fixed_dictionaries(
    {
        "host": st.sampled_from(["a.b.c", "b.c", "x.b.c", "x.a.b.c", "c", "z", ""]),
        "path": st.builds(
            lambda p, s: p if p == "/" else p + s, paths, st.sampled_from(["", "", "/"])
        ),
        "method": st.sampled_from(["GET", "POST"]),
        "headers": st.lists(st.tuples(names.map(str.encode), values.map(str.encode)), max_size=3),
        "query": st.dictionaries(names, values, max_size=2),
    }
)


def entries(routes: dict[str, dict[str, Any]]) -> list[RouteEntry[str]]:
    return [RouteEntry.compiled(key, data, key) for key, data in routes.items()]


def ask(table: RouteTable[str], request: dict[str, Any]) -> Any:
    query = "&".join(f"{name}={value}" for name, value in request["query"].items())
    found = table.match(
        request["host"], request["path"], request["method"], Headers(request["headers"]), query
    )
    if found is None:
        return None
    entry, info = found
    assert entry.payload == entry.key
    return entry.key, info.kind


@given(route_maps, st.lists(requests, min_size=1, max_size=6))
def test_table_agrees_with_a_plain_sort(
    routes: dict[str, dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    table = RouteTable(entries(routes))
    for request in asked:
        assert ask(table, request) == naive_match(routes, request)


@given(
    route_maps,
    st.lists(
        st.tuples(route_maps, st.sets(st.sampled_from([f"r{n}" for n in range(12)]), max_size=3)),
        max_size=4,
    ),
    st.lists(requests, max_size=4),
)
def test_replaced_is_as_built_anew_and_leaves_the_old_alone(
    routes: dict[str, dict[str, Any]],
    steps: list[tuple[dict[str, dict[str, Any]], set[str]]],
    asked: list[dict[str, Any]],
) -> None:
    table = RouteTable(entries(routes))
    history = [(table, routes)]
    for changed, removed in steps:
        routes = {key: data for key, data in routes.items() if key not in removed} | changed
        table = table.replaced(entries(changed), removed)
        history.append((table, routes))
    for built, expected in history:
        assert len(built) == len(expected)
        for request in asked:
            assert ask(built, request) == naive_match(expected, request)


def test_removing_everything_leaves_an_empty_table() -> None:
    table = RouteTable(entries({"r": {"hostnames": ["a", "*.b"]}}))
    empty = table.replaced([], ["r", "unknown"])
    assert len(empty) == 0
    assert empty.match("a", "/", "GET", Headers()) is None
    assert table.match("x.b", "/", "GET", Headers()) is not None


def test_untouched_buckets_and_lists_are_shared() -> None:
    routes = {
        f"r{n}": {
            "hostnames": [f"h{n % 2}"],
            "matches": [{"path": {"kind": "exact", "value": f"/{n}"}}],
        }
        for n in range(100)
    }
    table = RouteTable(entries(routes))
    other = table.replaced(entries({"r0": routes["r0"]}))
    assert other._buckets["h1"] is table._buckets["h1"]
    assert other._buckets["h0"].exact["/2"] is table._buckets["h0"].exact["/2"]
    assert other._buckets["h0"].exact["/0"] is not table._buckets["h0"].exact["/0"]


def first(routes: dict[str, dict[str, Any]], host: str, path: str, **more: Any) -> str | None:
    found = RouteTable(entries(routes)).match(
        host,
        path,
        more.get("method", "GET"),
        Headers(more.get("headers", ())),
        more.get("query", ""),
    )
    return None if found is None else found[0].key


def route(kind: str, value: str, *hosts: str, **more: Any) -> dict[str, Any]:
    return {"hostnames": list(hosts), "matches": [{"path": {"kind": kind, "value": value}, **more}]}


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        pytest.param(
            {"a": route("prefix", "/x/y"), "b": route("exact", "/x/y/z")}, "b", id="exact-first"
        ),
        pytest.param(
            {"a": route("prefix", "/x/y"), "b": route("prefix", "/x/y/z")}, "b", id="longer-prefix"
        ),
        pytest.param(
            {"a": route("regex", "/x/.*"), "b": route("prefix", "/x/y")}, "a", id="regex-by-length"
        ),
        pytest.param(
            {"a": route("prefix", "/x"), "b": route("prefix", "/x", method="GET")},
            "b",
            id="with-method",
        ),
        pytest.param(
            {
                "a": route("prefix", "/x", headers=[{"name": "h", "kind": "exact", "value": "1"}]),
                "b": route("prefix", "/x", method="GET"),
            },
            "b",
            id="method-before-headers",
        ),
        pytest.param(
            {
                "a": route("prefix", "/x", query=[{"name": "q", "kind": "exact", "value": "1"}]),
                "b": route("prefix", "/x", headers=[{"name": "h", "kind": "exact", "value": "1"}]),
            },
            "b",
            id="headers-before-query",
        ),
        pytest.param(
            {"route2": route("prefix", "/x"), "route10": route("prefix", "/x")},
            "route10",
            id="lexicographic-key",
        ),
        pytest.param(
            {"b": route("regex", "/x/y/z"), "a": route("prefix", "/x/y/z")},
            "a",
            id="regex-ties-with-prefix",
        ),
        pytest.param(
            {"a": route("exact", "/x/y/z", "*.b.c"), "b": route("prefix", "/", "a.b.c")},
            "b",
            id="exact-host-before-better-path",
        ),
        pytest.param(
            {"a": route("exact", "/other", "a.b.c"), "b": route("prefix", "/", "*.c")},
            "b",
            id="falls-to-wider-host",
        ),
        pytest.param(
            {"a": route("prefix", "/", "*.c"), "b": route("prefix", "/", "*.b.c")},
            "b",
            id="longer-wildcard",
        ),
        pytest.param(
            {"a": route("prefix", "/"), "b": route("exact", "/no", "a.b.c")}, "a", id="any-host"
        ),
        pytest.param({"a": route("prefix", "/", "*.a.b.c")}, None, id="wildcard-not-bare"),
        pytest.param({"a": {"hostnames": []}}, "a", id="default-match"),
        pytest.param({"a": {"hostnames": [], "matches": []}}, None, id="explicitly-no-match"),
        pytest.param({}, None, id="empty"),
    ],
)
def test_precedence(routes: dict[str, dict[str, Any]], expected: str | None) -> None:
    found = first(routes, "a.b.c", "/x/y/z", headers=[(b"h", b"1")], query="q=1")
    assert found == expected


def test_route_that_cannot_be_compiled() -> None:
    with pytest.raises(ConfigError) as caught:
        RouteEntry.compiled(
            "r",
            {
                "matches": [
                    *route("exact", "/")["matches"],
                    {"path": {"kind": "regex", "value": "("}},
                ]
            },
            None,
        )
    assert caught.value.path == "matches[1].path"


def test_equal_keys_replace_each_other() -> None:
    one = RouteEntry.compiled("r", route("exact", "/a"), "one")
    two = RouteEntry.compiled("r", route("exact", "/b"), "two")
    table = RouteTable([one, two])
    assert len(table) == 1
    assert table.match("h", "/a", "GET", Headers()) is None
    found = table.match("h", "/b", "GET", Headers())
    assert found is not None
    assert found[0].payload == "two"


def test_ten_thousand_routes_in_any_order() -> None:
    routes = {
        f"k{n}": route(("exact", "prefix")[n % 2], f"/api/v{n % 7}/res{n}") for n in range(10_000)
    }
    shuffled = list(routes.items())
    random.Random(7).shuffle(shuffled)
    table = RouteTable(entries(dict(shuffled)))
    for n in range(0, 10_000, 101):
        suffix = "" if n % 2 == 0 else "/more"
        found = table.match("h", f"/api/v{n % 7}/res{n}{suffix}", "GET", Headers())
        assert found is not None
        assert found[0].key == f"k{n}"


# --- TCP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server_name", "expected"),
    [
        ("a.b.c", "exact"),
        ("x.b.c", "wide"),
        ("x.y.b.c", "wide"),
        ("b.c", "any1"),
        ("z", "any1"),
        ("", "any1"),
    ],
)
def test_tcp_routes(server_name: str, expected: str) -> None:
    table = TcpRouteTable(
        [
            ("t2", [], "any2"),
            ("t1", ["*"], "any1"),
            ("t3", ["*.b.c"], "wide"),
            ("t4", ["A.b.c"], "exact"),
            ("t5", ["a.b.c"], "never"),
            ("t0", [], "replaced"),
            ("t0", ["x"], "last stands"),
        ]
    )
    assert table.match(server_name) == expected
    assert TcpRouteTable([("t", ["a.b.c"], 1)]).match("z") is None
    assert TcpRouteTable([("t", ["a.b.c"], 1)]).match("") is None


# --- listeners ------------------------------------------------------------------------------------


def listeners(*hosts: str) -> ListenerTable[int]:
    return ListenerTable(ListenerEntry(host or "any", host, 0) for host in hosts)


@pytest.mark.parametrize(
    ("hosts", "host", "expected"),
    [
        (("a.b", "*.b", ""), "a.b", "a.b"),
        (("a.b", "*.b", ""), "x.b", "*.b"),
        (("a.b", "*.b", ""), "x.y.b", "*.b"),
        (("*.a.b", "*.b"), "x.a.b", "*.a.b"),
        (("*.a.b", "*.b"), "a.b", "*.b"),
        (("*.b", ""), "b", "any"),
        (("",), "whatever", "any"),
        (("",), "", "any"),
        (("a.b",), "", None),
        (("a.b",), "c", None),
        ((), "c", None),
    ],
)
def test_listener(hosts: tuple[str, ...], host: str, expected: str | None) -> None:
    found = listeners(*hosts).choose(host)
    assert (None if found is None else found.key) == expected


def test_two_listeners_of_one_hostname_are_refused() -> None:
    with pytest.raises(ConfigError):
        ListenerTable([ListenerEntry("x", "*", 0), ListenerEntry("y", "", 0)])


@pytest.mark.parametrize(
    ("hosts", "chosen", "host", "status"),
    [
        (("a.b", "c.d"), "a.b", "a.b", None),
        (("a.b", "c.d"), "a.b", "c.d", 421),
        (("*.b", "a.b"), "*.b", "x.b", None),
        (("*.b", "a.b"), "*.b", "a.b", 421),
        (("", "a.b"), "any", "z", None),
        (("", "a.b"), "any", "a.b", 421),
        (("", "a.b"), "a.b", "z", 421),
        (("a.b", "c.d"), "a.b", "z", 404),
    ],
)
def test_reused_connection(
    hosts: tuple[str, ...], chosen: str, host: str, status: int | None
) -> None:
    table = listeners(*hosts)
    entry = ListenerEntry(chosen, "" if chosen == "any" else chosen, 0)
    if status is None:
        table.check_reuse(entry, host)
        return
    with pytest.raises(RequestError) as caught:
        table.check_reuse(entry, host)
    assert (caught.value.status, caught.value.code) == (status, "NotFound")
    assert caught.value.message == {421: "misdirected request", 404: "listener not found"}[status]
