"""Single matches: what each kind of path, header and query match accepts."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.routing.match import (
    MatchInfo,
    compile_match,
    host_key,
    hosts_for,
    literal_prefix,
)
from sidecar.routing.table import RouteEntry, RouteTable


def takes(match: dict[str, Any], target: str, **facts: Any) -> bool:
    """Whether a table with this one match takes a request (canonical path and query in target)."""
    path, _, query = target.partition("?")
    table = RouteTable([RouteEntry.compiled("r", {"matches": [match]}, None)])
    method = facts.pop("method", "GET")
    headers = Headers(facts.pop("headers", ()))
    return table.match("h", path, method, headers, query, **facts) is not None


def path_match(kind: str, value: str) -> dict[str, Any]:
    return {"path": {"kind": kind, "value": value}}


@pytest.mark.parametrize(
    ("kind", "value", "path", "expected"),
    [
        ("exact", "/a", "/a", True),
        ("exact", "/a", "/a/", False),
        ("exact", "/a/", "/a/", True),
        ("exact", "/a", "/A", False),
        ("exact", "/", "/", True),
        ("exact", "/", "/a", False),
        ("exact", "/%7ea", "/~a", True),
        ("exact", "/é", "/%C3%A9", True),
        ("prefix", "/a", "/a", True),
        ("prefix", "/a", "/a/", True),
        ("prefix", "/a", "/a/b", True),
        ("prefix", "/a", "/ab", False),
        ("prefix", "/a/", "/a", True),
        ("prefix", "/a/", "/a/b", True),
        ("prefix", "/a/b", "/a", False),
        ("prefix", "/", "/", True),
        ("prefix", "/", "/x/y", True),
        ("prefix", "", "/x", True),
        ("prefix", "/", "*", False),
        ("regex", "/a/.*", "/a/b", True),
        ("regex", "^/a/.*$", "/a/b", True),
        ("regex", "/a", "/a/b", False),
        ("regex", "/b", "/a/b", False),
        ("regex", "/(a|b)/[0-9]+", "/b/12", True),
        ("regex", "/a|/b", "/b", True),
        ("regex", "(?i)/ABC", "/abc", True),
        ("regex", "/ab?c*", "/a", True),
        ("regex", "/ab{0,1}", "/a", True),
        ("regex", r"/a\d+", "/a1", True),
    ],
)
def test_path(kind: str, value: str, path: str, expected: bool) -> None:
    assert takes(path_match(kind, value), path) is expected


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [
        ("/a/b.*", "/a/b"),
        ("^/a", "/a"),
        ("/a|/b", ""),
        ("(?i)/a", ""),
        ("/ab?", "/a"),
        ("/ab*", "/a"),
        ("/ab{2}", "/a"),
        ("/ab+", "/a"),
        (r"/a\.b", "/a"),
        ("/a(b)?", "/a"),
        ("", ""),
        ("?", ""),
    ],
)
def test_literal_prefix(pattern: str, literal: str) -> None:
    assert literal_prefix(pattern) == literal


def test_connect_is_matched_as_the_root() -> None:
    assert takes(path_match("exact", "/"), "h:443", method="CONNECT")


def test_method_is_exact_and_case_sensitive() -> None:
    match = {**path_match("prefix", "/"), "method": "GET"}
    assert takes(match, "/", method="GET")
    assert not takes(match, "/", method="get")
    assert not takes(match, "/", method="POST")


@pytest.mark.parametrize(
    ("name", "kind", "value", "headers", "expected"),
    [
        ("x", "exact", "v", [(b"x", b"v")], True),
        ("X", "exact", "v", [(b"x", b"v")], True),
        ("x", "exact", "v", [(b"x", b"V")], False),
        ("x", "exact", "v", [], False),
        ("x", "exact", "v", [(b"x", b"u"), (b"x", b"v")], True),
        ("x", "exact", "v", [(b"x", b"u,v")], False),
        ("x", "exact", "é", [(b"x", "é".encode())], True),
        ("x", "exact", "", [(b"x", b"")], True),
        ("x", "regex", "v[0-9]", [(b"x", b"v1")], True),
        ("x", "regex", "v[0-9]", [(b"x", b"v12")], False),
        ("x", "regex", "v[0-9]", [(b"x", b"u"), (b"x", b"v1")], True),
        ("x", "regex", ".", [(b"x", "é".encode())], True),
        ("x", "regex", ".*", [(b"x", b"\xff")], False),
        ("x", "regex", ".*", [(b"y", b"")], False),
    ],
)
def test_header(
    name: str, kind: str, value: str, headers: list[tuple[bytes, bytes]], expected: bool
) -> None:
    match = {"headers": [{"name": name, "kind": kind, "value": value}]}
    assert takes(match, "/", headers=headers) is expected


@pytest.mark.parametrize(
    ("name", "kind", "value", "expected"),
    [
        (":method", "exact", "PUT", True),
        (":method", "exact", "put", False),
        (":scheme", "exact", "HTTPS", True),
        (":authority", "exact", "Example.com:8080", True),
        ("host", "exact", "example.com:8080", True),
        ("Host", "regex", r"example\.com(:\d+)?", True),
        (":authority", "exact", "example.com", False),
        (":path", "exact", "/a/b?x=1", True),
        (":path", "regex", "/a/.*", True),
        (":path", "exact", "/a/b", False),
    ],
)
def test_pseudo_header(name: str, kind: str, value: str, expected: bool) -> None:
    match = {"headers": [{"name": name, "kind": kind, "value": value}]}
    found = takes(match, "/a/b?x=1", method="PUT", scheme="https", authority="example.com:8080")
    assert found is expected


@pytest.mark.parametrize(
    ("name", "kind", "value", "query", "expected"),
    [
        ("q", "exact", "1", "q=1", True),
        ("q", "exact", "1", "q=1&q=2", False),
        ("q", "exact", "2", "q=1&q=2", True),
        ("q", "exact", "a b", "q=a%20b", True),
        ("q", "exact", "a b", "q=a+b", True),
        ("q", "exact", "a&b", "q=a%26b", True),
        ("q", "exact", "", "q", True),
        ("q", "exact", "", "q=", True),
        ("q", "exact", "", "", False),
        ("Q", "exact", "1", "q=1", False),
        ("q", "exact", "é", "q=%C3%A9", True),
        ("q", "exact", "é", "q=\xc3\xa9", True),
        ("q", "regex", "[0-9]+", "q=12", True),
        ("q", "regex", "[0-9]+", "q=12a", False),
        ("q", "regex", ".*", "r=1", False),
        ("a b", "exact", "1", "a%20b=1", True),
    ],
)
def test_query(name: str, kind: str, value: str, query: str, expected: bool) -> None:
    match = {"query": [{"name": name, "kind": kind, "value": value}]}
    assert takes(match, f"/?{query}") is expected


def test_fields_of_one_match_are_anded_and_matches_are_ored() -> None:
    both = {
        **path_match("prefix", "/a"),
        "method": "POST",
        "headers": [{"name": "x", "kind": "exact", "value": "1"}],
        "query": [{"name": "q", "kind": "exact", "value": "2"}],
    }
    full = {"method": "POST", "headers": [(b"x", b"1")]}
    assert takes(both, "/a/b?q=2", **full)
    assert not takes(both, "/b?q=2", **full)
    assert not takes(both, "/a?q=3", **full)
    assert not takes(both, "/a?q=2", method="POST")
    table = RouteTable(
        [RouteEntry.compiled("r", {"matches": [both, path_match("exact", "/z")]}, None)]
    )
    found = table.match("h", "/z", "GET", Headers())
    assert found is not None
    assert found[1] == MatchInfo("exact", "/z")


@pytest.mark.parametrize(
    ("match", "place"),
    [
        (path_match("regex", "(["), "p.path"),
        (path_match("regex", r"(a)\1"), "p.path"),
        (path_match("regex", "(?=a)"), "p.path"),
        (path_match("exact", "/a?b"), "p.path"),
        (path_match("prefix", "/../a"), "p.path"),
        (path_match("suffix", "/a"), "p.path"),
        ({"headers": [{"name": "x", "kind": "regex", "value": "["}]}, "p.headers[0]"),
        ({"headers": [{"name": "x", "kind": "glob", "value": "a"}]}, "p.headers[0]"),
        ({"headers": [{"name": ":status", "kind": "exact", "value": "a"}]}, "p.headers[0]"),
        ({"query": [{"name": "x", "kind": "regex", "value": "["}]}, "p.query[0]"),
    ],
)
def test_refused(match: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_match(match, "p")
    assert caught.value.path == place


def test_a_hostile_expression_is_linear() -> None:
    match = path_match("regex", "/(a+)+b")
    assert not takes(match, "/" + "a" * 5000)


def test_host_keys() -> None:
    assert list(hosts_for("a.b.c")) == ["a.b.c", "*.b.c", "*.c", ""]
    assert list(hosts_for("a")) == ["a", ""]
    assert list(hosts_for("")) == [""]
    assert host_key("*") == host_key("") == ""
    assert host_key("*.Example.COM") == "*.example.com"
    assert host_key("a.b.") == "a.b"
