"""Routing end to end: listeners, hostnames, matches, weights, groups, and what is not found.

Source: spec/config.md sections 2 and 11.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.upstream import Answer, Upstream


def says(name: str) -> dict[str, Any]:
    """A route that answers with its own name."""
    return {"policies": {"directResponse": {"status": 200, "body": name}}}


def named(name: str, *matches: dict[str, Any], hosts: list[str] | None = None) -> dict[str, Any]:
    route = {"name": name, **says(name)}
    if matches:
        route["matches"] = list(matches)
    if hosts:
        route["hostnames"] = hosts
    return route


EXACT, LISTENERS, WEIGHTS, GATEWAYS = free_ports(4)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(lambda seen: Answer(200, body=seen.target.encode())) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[GatewayProcess]:
    host = {"host": upstream.address}
    matching = [
        named("exact", {"path": {"exact": "/a"}}),
        named("prefix", {"path": {"pathPrefix": "/a"}}),
        named("longer", {"path": {"pathPrefix": "/a/b/"}}),
        named("regex", {"path": {"regex": "/r/[0-9]+"}}),
        named("method", {"path": {"pathPrefix": "/m"}, "method": "DELETE"}),
        named("no-method", {"path": {"pathPrefix": "/m"}}),
        named(
            "header",
            {"path": {"pathPrefix": "/h"}, "headers": [{"name": "x-v", "value": {"exact": "2"}}]},
        ),
        named(
            "header-regex",
            {"path": {"pathPrefix": "/h"}, "headers": [{"name": "x-v", "value": {"regex": "b+"}}]},
        ),
        named(
            "query",
            {"path": {"pathPrefix": "/q"}, "query": [{"name": "v", "value": {"exact": "a b"}}]},
        ),
        named("either", {"path": {"exact": "/one"}}, {"path": {"exact": "/two"}}),
        named(
            "pseudo",
            {
                "path": {"pathPrefix": "/pseudo"},
                "headers": [{"name": ":method", "value": {"exact": "PUT"}}],
            },
        ),
        named("tie2", {"path": {"exact": "/tie"}}),
        named("tie10", {"path": {"exact": "/tie"}}),
        named("h-exact", {"path": {"pathPrefix": "/x"}}, hosts=["a.b.example"]),
        named("h-near", {"path": {"pathPrefix": "/"}}, hosts=["*.b.example"]),
        named("h-far", {"path": {"pathPrefix": "/"}}, hosts=["*.example"]),
        {"name": "nothing", "matches": [{"path": {"exact": "/nothing"}}], "backends": []},
        {
            "name": "invalid",
            "matches": [{"path": {"exact": "/invalid"}}],
            "backends": [{"invalid": None}],
        },
        {
            "name": "zero",
            "matches": [{"path": {"exact": "/zero"}}],
            "backends": [{**host, "weight": 0}],
        },
        {
            "name": "group",
            "matches": [{"path": {"pathPrefix": "/team"}}],
            "policies": {"responseHeaderModifier": {"set": {"x-from": "parent"}}},
            "backends": [{"routeGroup": "team"}],
        },
        {
            "name": "mixed",
            "matches": [{"path": {"pathPrefix": "/mixed"}}],
            "backends": [{**host, "weight": 1}, {"routeGroup": "inner", "weight": 1}],
        },
        {
            "name": "circle",
            "matches": [{"path": {"pathPrefix": "/circle"}}],
            "backends": [{"routeGroup": "circle"}],
        },
        {
            "name": "lost",
            "matches": [{"path": {"pathPrefix": "/lost"}}],
            "backends": [{"routeGroup": "absent"}],
        },
    ]
    config = {
        "binds": [
            {"port": EXACT, "listeners": [{"routes": matching}]},
            {
                "port": LISTENERS,
                "listeners": [
                    {"name": "one", "hostname": "one.example", "routes": [named("one")]},
                    {"name": "wild", "hostname": "*.example", "routes": [named("wild")]},
                    {"name": "deep", "hostname": "*.deep.example", "routes": [named("deep")]},
                ],
            },
            {
                "port": WEIGHTS,
                "listeners": [
                    {
                        "routes": [
                            {
                                "backends": [
                                    {
                                        **host,
                                        "weight": weight,
                                        "policies": {
                                            "requestHeaderModifier": {"set": {"x-choice": name}}
                                        },
                                    }
                                    for name, weight in (("a", 3), ("b", 1), ("c", 0))
                                ]
                            }
                        ]
                    }
                ],
            },
        ],
        "routeGroups": [
            {
                "name": "team",
                "routes": [
                    named("child", {"path": {"pathPrefix": "/team/child"}}),
                    {
                        **named("own", {"path": {"pathPrefix": "/team/own"}}),
                        "policies": {
                            "responseHeaderModifier": {"set": {"x-from": "child"}},
                            "directResponse": {"status": 200, "body": "own"},
                        },
                    },
                    {
                        "name": "nested",
                        "matches": [{"path": {"pathPrefix": "/team/nested"}}],
                        "backends": [{"routeGroup": "inner"}],
                    },
                ],
            },
            {"name": "inner", "routes": [named("inner")]},
            {"name": "circle", "routes": [{"backends": [{"routeGroup": "circle"}]}]},
        ],
    }
    with GatewayProcess(config) as process:
        yield process


def get(port: int, target: str, host: str = "h.test", method: str = "GET", **headers: str) -> Got:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(port, target, method, host=host, headers=fields)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/a", "exact"),
        ("/a/", "prefix"),
        ("/a/x", "prefix"),
        ("/a/b", "longer"),
        ("/a/b/c?x=1", "longer"),
        ("/r/12", "regex"),
        ("/one", "either"),
        ("/two", "either"),
        ("/tie", "tie10"),
        ("/q?v=a%20b", "query"),
        ("/q?v=x&v=a+b", "query"),
        ("/team/child/1", "child"),
        ("/team/own", "own"),
        ("/team/nested/deep", "inner"),
    ],
)
@pytest.mark.usefixtures("gateway")
def test_path_and_query(target: str, name: str) -> None:
    answer = get(EXACT, target)
    assert (answer.status, answer.text) == (200, name)


@pytest.mark.parametrize(
    "target", ["/ab", "/r/12x", "/x/r/12", "/q?v=a", "/", "/team/none", "/lost", "/one/"]
)
@pytest.mark.usefixtures("gateway")
def test_route_not_found(target: str) -> None:
    answer = get(EXACT, target)
    assert (answer.status, answer.text) == (404, "route not found")
    assert answer.get("content-type") == "text/plain"


@pytest.mark.usefixtures("gateway")
def test_method_header_and_pseudo_header() -> None:
    assert get(EXACT, "/m", method="DELETE").text == "method"
    assert get(EXACT, "/m").text == "no-method"
    assert get(EXACT, "/h", x_v="2").text == "header"
    assert get(EXACT, "/h", x_v="bbb").text == "header-regex"
    assert get(EXACT, "/h", x_v="xbbb").status == 404
    assert get(EXACT, "/pseudo", method="PUT").text == "pseudo"
    assert get(EXACT, "/pseudo").status == 404


@pytest.mark.parametrize(
    ("host", "target", "name"),
    [
        ("a.b.example", "/x", "h-exact"),
        ("A.B.Example:81", "/x", "h-exact"),
        ("a.b.example", "/y", "h-near"),
        ("c.b.example", "/x", "h-near"),
        ("b.example", "/a", "h-far"),
        ("example", "/a", "exact"),
    ],
)
@pytest.mark.usefixtures("gateway")
def test_hostname_buckets(host: str, target: str, name: str) -> None:
    assert get(EXACT, target, host).text == name


@pytest.mark.parametrize(
    ("host", "name"),
    [("one.example", "one"), ("two.example", "wild"), ("x.deep.example", "deep")],
)
@pytest.mark.usefixtures("gateway")
def test_listener_by_hostname(host: str, name: str) -> None:
    assert get(LISTENERS, "/", host).text == name


@pytest.mark.usefixtures("gateway")
def test_listener_not_found() -> None:
    answer = get(LISTENERS, "/", "example")
    assert (answer.status, answer.text) == (404, "listener not found")


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("/nothing", 500, "no valid backends"),
        ("/zero", 500, "no valid backends"),
        ("/invalid", 500, "backend does not exist"),
        ("/circle", 500, "route delegation cycle detected"),
    ],
)
@pytest.mark.usefixtures("gateway")
def test_no_backend(target: str, status: int, text: str) -> None:
    answer = get(EXACT, target)
    assert (answer.status, answer.text) == (status, text)


@pytest.mark.usefixtures("gateway")
def test_parents_policies_hold_beneath_the_childs() -> None:
    assert get(EXACT, "/team/child").get("x-from") == "parent"
    assert get(EXACT, "/team/own").get("x-from") == "child"
    assert get(EXACT, "/team/nested").get("x-from") == "parent"


@pytest.mark.usefixtures("gateway")
def test_weights(upstream: Upstream) -> None:
    upstream.take()
    for _ in range(400):
        assert fetch(WEIGHTS, "/w").status == 200
    chosen: Counter[str | None] = Counter(seen.get("x-choice") for seen in upstream.take())
    assert set(chosen) == {"a", "b"}
    # 300 expected, standard deviation 8.7: six of them either way.
    assert 248 <= chosen["a"] <= 352


@pytest.mark.usefixtures("gateway")
def test_a_group_and_a_host_share_by_weight() -> None:
    got: Counter[tuple[int, str]] = Counter()
    for _ in range(200):
        answer = fetch(EXACT, "/mixed")
        got[answer.status, answer.text] += 1
    assert set(got) == {(200, "/mixed"), (200, "inner")}
    # 100 expected, standard deviation 7.1.
    assert 55 <= got[200, "inner"] <= 145


def test_a_path_is_forwarded_as_received(gateway: GatewayProcess, upstream: Upstream) -> None:
    upstream.take()
    target = "/w/%7Euser/a%2Fb;v=1?x=%20&y"
    assert get(WEIGHTS, target).text == target


def test_gateways_form_and_implicit_attachment(upstream: Upstream) -> None:
    """`gateways` + `routes`, attached to `default` when they say nothing (section 1.9)."""

    upstream_host = {"host": upstream.address}
    config = {
        "gateways": {"default": {"port": GATEWAYS}},
        "routes": [
            {"matches": [{"path": {"pathPrefix": "/in"}}], "backends": [upstream_host]},
            {"gateways": "default", "hostnames": ["x.test"], **says("second")},
        ],
    }
    with GatewayProcess(config):
        assert get(GATEWAYS, "/in/1").text == "/in/1"
        assert get(GATEWAYS, "/", "x.test").text == "second"
        assert get(GATEWAYS, "/", "y.test").status == 404
