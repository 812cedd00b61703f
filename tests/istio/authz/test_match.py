"""Fields of requests: methods, paths, hosts, headers, tokens and the client's own address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.wire.identity import Identity
from istio.authz import Connection, Request, check
from istio.authz.compiled import rules_of
from istio.authz.match import network_of
from istio.authz.text import path_matcher, template
from sidecar.config.authorization_policy import authorization
from sidecar.errors import ConfigError

CALLER = Connection(Identity("td", "web", "front"), "10.0.0.1", "10.0.0.2", 80)


def holds(match: dict[str, Any], *, is_deny: bool = False, **facts: Any) -> bool:
    headers: Mapping[str, tuple[str, ...]] = facts.pop("headers", {})
    request = Request(
        facts.pop("method", "GET"),
        facts.pop("path", "/"),
        facts.pop("host", "a.example"),
        lambda name: headers.get(name, ()),
        **facts,
    )
    ((rule, _),) = rules_of("p", [[[match]]], is_deny=is_deny)
    return rule.holds("request", CALLER, request)


PATHS: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {
    "exact": ({"exact": "/a"}, {"/a": True, "/a/": False, "/ab": False, "/A": False}),
    "written otherwise": ({"exact": "//%61/"}, {"/a/": True, "/a": False}),
    "encoded": ({"exact": "/a b"}, {"/a%20b": True}),
    "prefix": ({"prefix": "/a/"}, {"/a/b": True, "/a/": True, "/a": False, "/b/a/": False}),
    "suffix": ({"suffix": "/info"}, {"/a/info": True, "/info": True, "/ainfo": False}),
    "suffix of a segment": ({"suffix": ".html"}, {"/a.html": True, "/html": False}),
    "any": ({"presence": {}}, {"/": True, "*": True}),
    "one segment": (
        {"template": "/a/{*}/c"},
        {"/a/b/c": True, "/a/c": False, "/a//c": False, "/a/b/b/c": False, "/a/%2F/c": True},
    ),
    "many segments": (
        {"template": "/a/{**}/c"},
        {"/a/c": True, "/a/b/c": True, "/a/b/b/c": True, "/ac": False, "/a/bc": False},
    ),
    "the rest": (
        {"template": "/a/{*}/{**}"},
        {"/a/b": True, "/a/b/": True, "/a/b/c/d": True, "/a": False, "/a/": False},
    ),
    "plain characters": ({"template": "/a.b/{*}"}, {"/a.b/c": True, "/axb/c": False}),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths(name: str) -> None:
    match, cases = PATHS[name]
    for path, expected in cases.items():
        assert holds({"paths": [match]}, path=path) is expected, path
        assert holds({"notPaths": [match]}, path=path) is not expected, path


@pytest.mark.parametrize("path", ["/a/../b", "/.", "/%2e%2E/a", "/a?b", "/a\\b", "/%zz"])
def test_paths_that_no_request_has(path: str) -> None:
    with pytest.raises(ValueError):
        path_matcher([{"exact": path}])


@pytest.mark.parametrize("text", ["a/{*}", "/{**}/{*}", "/{**}/{**}", "/a{*}", "/{x}", "/*/a"])
def test_templates_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        template(text)


HOSTS: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {
    "exact": (
        {"exact": "A.example"},
        {"a.example": True, "a.example:80": True, "b.a.example": False},
    ),
    "with a port": ({"exact": "a.example:80"}, {"a.example:80": True, "a.example": False}),
    "with any port": ({"prefix": "a.example:"}, {"a.example:80": True, "a.example": False}),
    "suffix": ({"suffix": ".example"}, {"a.example:80": True, "example": False}),
    "suffix with a port": ({"suffix": ".example:80"}, {"a.example:80": True, "a.example": False}),
    "IPv6": ({"exact": "[::1]"}, {"[::1]": True, "[::1]:80": True, "[::2]": False}),
    "IPv6 with a port": ({"exact": "[::1]:80"}, {"[::1]:80": True, "[::1]": False}),
    "any": ({"presence": {}}, {"a": True, "": False}),
}


@pytest.mark.parametrize("name", HOSTS)
def test_hosts(name: str) -> None:
    match, cases = HOSTS[name]
    for host, expected in cases.items():
        assert holds({"hosts": [match]}, host=host) is expected, host


def header(key: str, *values: dict[str, Any]) -> dict[str, Any]:
    return {"headers": [{"name": "X-A", key: list(values)}]}


def test_headers() -> None:
    exact = header("values", {"exact": "1"})
    assert holds(exact, headers={"x-a": ("1",)})
    assert not holds(exact, headers={"x-a": ("2",)})
    assert not holds(exact)
    assert holds(header("values", {"presence": {}}), headers={"x-a": ("",)})
    assert not holds(header("values", {"presence": {}}))
    other = header("notValues", {"exact": "1"})
    assert holds(other)
    assert not holds(other, headers={"x-a": ("1",)})


def test_a_header_twice_is_read_in_the_way_that_refuses_more() -> None:
    twice = {"x-a": ("1", "2")}
    exact = header("values", {"exact": "1"})
    assert not holds(exact, headers=twice)
    assert holds(exact, headers=twice, is_deny=True)
    assert holds(header("values", {"exact": "1,2"}), headers=twice)
    other = header("notValues", {"exact": "1"})
    assert not holds(other, headers=twice)
    assert holds(other, headers=twice, is_deny=True)


CLAIMS = {
    "iss": "https://issuer",
    "sub": "me",
    "aud": ["one", "two"],
    "azp": "app",
    "scope": "read write",
    "text": "read write",
    "realm": {"roles": ["admin", 7], "deep": {"name": "x"}},
    "number": 7,
}


def claim(*path: str, **values: Any) -> dict[str, Any]:
    return {"claims": [{"path": list(path), **values}]}


CLAIM_CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "text": (claim("azp", values=[{"exact": "app"}]), True),
    "one of a list": (claim("aud", values=[{"exact": "two"}]), True),
    "none of a list": (claim("aud", values=[{"exact": "three"}]), False),
    "nested": (claim("realm", "roles", values=[{"exact": "admin"}]), True),
    "deeper": (claim("realm", "deep", "name", values=[{"prefix": "x"}]), True),
    "below a text": (claim("azp", "x", values=[{"presence": {}}]), False),
    "a scope": (claim("scope", values=[{"exact": "write"}]), True),
    "no scope": (claim("text", values=[{"exact": "write"}]), False),
    "a number": (claim("number", values=[{"exact": "7"}]), False),
    "absent": (claim("none", values=[{"presence": {}}]), False),
    "not": (claim("azp", notValues=[{"exact": "app"}]), False),
    "not absent": (claim("none", notValues=[{"presence": {}}]), True),
    "principal": ({"requestPrincipals": [{"exact": "https://issuer/me"}]}, True),
    "another principal": ({"requestPrincipals": [{"exact": "https://issuer/you"}]}, False),
    "any principal": ({"requestPrincipals": [{"presence": {}}]}, True),
    "no principal": ({"notRequestPrincipals": [{"presence": {}}]}, False),
}


@pytest.mark.parametrize("name", CLAIM_CASES)
def test_tokens(name: str) -> None:
    match, expected = CLAIM_CASES[name]
    assert holds(match, claims=CLAIMS) is expected


def test_no_token() -> None:
    assert not holds({"requestPrincipals": [{"presence": {}}]})
    assert holds({"notRequestPrincipals": [{"presence": {}}]})
    assert not holds({"requestPrincipals": [{"presence": {}}]}, claims={"sub": "me"})
    assert holds(claim("azp", notValues=[{"exact": "app"}]))


def test_the_clients_own_address() -> None:
    match = {"remoteIps": ["192.0.2.0/24"]}
    assert holds(match, remote_ip="192.0.2.7")
    assert not holds(match, remote_ip="10.0.0.1")
    assert not holds(match, remote_ip="unknown")
    assert not holds(match)
    assert holds({"remoteIps": ["10.0.0.1"]})  # the connection's, when no proxy told of another


def test_methods() -> None:
    assert holds({"methods": [{"exact": "GET"}, {"prefix": "P"}]}, method="POST")
    assert not holds({"methods": [{"exact": "GET"}]}, method="get")


@pytest.mark.parametrize("text", ["", "a", "10.0.0.0/33", "10.0.0.0/x", "::ffff:1.2.3.4/95"])
def test_networks_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        network_of(text)


def test_networks() -> None:
    assert network_of("10.1.2.3/8") == (4, 8, 10)
    assert network_of("::ffff:10.1.2.3/104") == (4, 8, 10)
    assert network_of("fd00::1") == (6, 128, 0xFD00_0000_0000_0000_0000_0000_0000_0001)


_WORDS = r"/ // a A . .. %2e %2F ; %5c %00 %ff %c3%a9 é % ? # * {*} {**} %7F ..; \ - ~"
_PIECES = st.sampled_from((*_WORDS.split(), " "))


@settings(max_examples=150, deadline=None)
@given(st.lists(_PIECES, min_size=1, max_size=6).map("".join))
def test_every_path_that_is_loaded_can_be_compared(text: str) -> None:
    problems: list[str] = []
    rule = {"to": [{"operation": {"paths": [text]}}]}
    data = authorization(
        {"name": "p", "namespace": "ns"},
        {"rules": [rule]},
        "istio-system",
        lambda path, message: problems.append(message),
    )
    try:
        check("ns/p", data)
    except ConfigError:
        assert problems
