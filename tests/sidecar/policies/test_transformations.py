"""transformations: each step, their order, failures, pseudo headers, bodies, alternatives."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from tests.support.messages import policy, request, response, text_of


def changed(transform, made=None):
    made = made or request(headers={"x": "1", "y": "2"})
    policy("transformations", {"request": transform}).on_request(made)
    return made


HEADERS = {
    "add": ({"add": {"X": "'3'"}}, ["x: 1", "y: 2", "x: 3"]),
    "add fails": ({"add": {"x": "jwt.sub"}}, ["x: 1", "y: 2"]),
    "add null": ({"add": {"x": "null"}}, ["x: 1", "y: 2"]),
    "set": ({"set": {"X": "'3'"}}, ["y: 2", "x: 3"]),
    "set fails: removed": ({"set": {"x": "jwt.sub"}}, ["y: 2"]),
    "set null: removed": ({"set": {"x": "null"}}, ["y: 2"]),
    "set a line end: removed": ({"set": {"x": "'a\\r\\nevil: 1'"}}, ["y: 2"]),
    "remove": ({"remove": ["X"]}, ["y: 2"]),
    "remove is last": ({"add": {"z": "'1'"}, "set": {"x": "'2'"}, "remove": ["x", "z"]}, ["y: 2"]),
    "replace": ({"replace": "{'a': 'b'}"}, ["a: b"]),
    "replace with repeats": ({"replace": "{'A': ['b', 'c'], ':path': '/x'}"}, ["a: b", "a: c"]),
    "replace fails": ({"replace": "jwt.all"}, []),
    "replace is no map": ({"replace": "'a'"}, []),
    "replace, then the rest": (
        {"replace": "{'a': 'b', 'c': 'd'}", "add": {"a": "'e'"}, "remove": ["c"]},
        ["a: b", "a: e"],
    ),
    "17 replace cannot frame": (
        {"replace": "{'transfer-encoding': 'chunked', 'connection': 'x', 'host': 'h', 'a': 'b'}"},
        ["a: b"],
    ),
    "number": ({"set": {"x": "1 + 2"}}, ["y: 2", "x: 3"]),
    "boolean": ({"set": {"x": "true"}}, ["y: 2", "x: true"]),
    "list": ({"set": {"x": "[1, 'a']"}}, ["y: 2", 'x: [1,"a"]']),
    "bytes": ({"set": {"x": "b'raw'"}}, ["y: 2", "x: raw"]),
    "values as they came": (
        {"set": {"x": "request.headers['y']", "y": "request.headers['x']"}},
        ["x: 2", "y: 1"],
    ),
    "removed ones can still be read": (
        {"set": {"z": "request.headers['x']"}, "remove": ["x"]},
        ["y: 2", "z: 1"],
    ),
    "metadata first": (
        {"metadata": {"team": "'a' + request.headers['x']"}, "set": {"x": "metadata.team"}},
        ["y: 2", "x: a1"],
    ),
}


@pytest.mark.parametrize(("transform", "expected"), HEADERS.values(), ids=HEADERS.keys())
def test_headers(transform, expected):
    assert text_of(changed(transform).headers) == expected


def test_38_twins_go_with_what_is_set():
    made = request(headers={"x_user": "root"})
    changed({"set": {"x-user": "'ann'"}}, made)
    assert text_of(made.headers) == ["x-user: ann"]


def test_metadata_adds_up():
    made = request()
    made.state["metadata"] = {"a": 1}
    changed({"metadata": {"b": "2", "c": "jwt.sub", "d": "null"}}, made)
    assert made.state["metadata"] == {"a": 1, "b": 2}


PSEUDO = {
    "path": ({":path": "'/v2' + request.path"}, ("GET", "http", "shop.example", "/v2/a")),
    "path with query": ({":path": "'/b?c=d'"}, ("GET", "http", "shop.example", "/b?c=d")),
    "37 dot segments": ({":path": "'/v2/../admin'"}, ("GET", "http", "shop.example", "/admin")),
    "37 leaving the root": ({":path": "'/../admin'"}, ("GET", "http", "shop.example", "/a")),
    "path with a line end": ({":path": "'/a\\r\\nb'"}, ("GET", "http", "shop.example", "/a")),
    "path with a space": ({":path": "'/a b'"}, ("GET", "http", "shop.example", "/a")),
    "relative path": ({":path": "'b'"}, ("GET", "http", "shop.example", "/a")),
    "failing": ({":path": "jwt.sub"}, ("GET", "http", "shop.example", "/a")),
    "method": ({":method": "'PUT'"}, ("PUT", "http", "shop.example", "/a")),
    "method that is no token": ({":method": "'P T'"}, ("GET", "http", "shop.example", "/a")),
    "CONNECT": ({":method": "'CONNECT'"}, ("GET", "http", "shop.example", "/a")),
    "scheme": ({":scheme": "'HTTPS'"}, ("GET", "https", "shop.example", "/a")),
    "authority": ({":authority": "'B.example:81'"}, ("GET", "http", "b.example:81", "/a")),
    "36 authority": ({":authority": "'a/#@b'"}, ("GET", "http", "shop.example", "/a")),
    "host": ({"Host": "'b.example'"}, ("GET", "http", "b.example", "/a")),
}


@pytest.mark.parametrize(("setting", "expected"), PSEUDO.values(), ids=PSEUDO.keys())
@pytest.mark.parametrize("step", ["set", "add"])
def test_pseudo_headers(step, setting, expected):
    made = changed({step: setting}, request(target="/a"))
    assert (made.method, made.scheme, made.authority, made.target) == expected
    assert made.headers == []


BODIES = {
    "text": ("'a' + 'ü'", "aü".encode()),
    "bytes": ("b'\\x00\\xff'", b"\x00\xff"),
    "map": ("{'a': [1, true, null]}", b'{"a":[1,true,null]}'),
    "failing": ("jwt.sub", b""),
    "null": ("null", b""),
}


@pytest.mark.parametrize(("source", "expected"), BODIES.values(), ids=BODIES.keys())
async def test_body(source, expected):
    made = request("POST", headers={"content-length": "3", "x": "1"}, body=b"old")
    changed({"body": source}, made)
    assert text_of(made.headers) == ["x: 1"]
    assert made.body.length == len(expected)
    assert await made.body.read() == expected


def test_bodies_are_asked_for():
    both = {"request": {"body": "request.body"}, "response": {"body": "response.body"}}
    needs = policy("transformations", both)
    assert (needs.needs_request_body, needs.needs_response_body) == (True, True)
    needs = policy("transformations", {"response": {"set": {"x": "response.body == b''"}}})
    assert (needs.needs_request_body, needs.needs_response_body) == (False, True)
    needs = policy("transformations", {"request": {"body": "'x'"}})
    assert (needs.needs_request_body, needs.needs_response_body) == (False, False)


RESPONSES = {
    "set": ({"set": {"x": "response.headers['y'] + request.method"}}, 200, ["y: 2", "x: 2GET"]),
    "status": ({"set": {":status": "404"}}, 404, ["x: 1", "y: 2"]),
    "status as text": ({"set": {":status": "'404'"}}, 404, ["x: 1", "y: 2"]),
    "interim status": ({"set": {":status": "101"}}, 200, ["x: 1", "y: 2"]),
    "no status": ({"set": {":status": "true"}}, 200, ["x: 1", "y: 2"]),
    "by status": ({"set": {"x": "response.code >= 200 ? 'ok' : 'no'"}}, 200, ["y: 2", "x: ok"]),
}


@pytest.mark.parametrize(
    ("transform", "status", "expected"), RESPONSES.values(), ids=RESPONSES.keys()
)
def test_response(transform, status, expected):
    made = response(headers={"x": "1", "y": "2"})
    policy("transformations", {"response": transform}).on_response(request(), made)
    assert made.status == status
    assert text_of(made.headers) == expected


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_response_without_a_body_gets_none(method, status):
    made = response(status)
    policy("transformations", {"response": {"body": "'x'"}}).on_response(request(method), made)
    assert await made.body.read() == b""


def test_absent_directions_have_no_hook():
    only = policy("transformations", {"request": {"add": {"x": "'1'"}}})
    assert only.on_response is None
    only = policy("transformations", {"response": {"add": {"x": "'1'"}}})
    assert only.on_request is None


def entry(name: str, condition: str | None = None) -> dict[str, object]:
    both = {"set": {"x": f"'{name}'"}}
    condition_key = {} if condition is None else {"condition": condition}
    return {**condition_key, "request": both, "response": both}


def test_the_alternative_of_the_request_shapes_the_response():
    config = {"conditional": [entry("a", "request.path == '/a'"), entry("b")]}
    alternatives = policy("transformations", config)
    for target, name in (("/a", b"a"), ("/c", b"b")):
        made, answer = request(target=target), response()
        alternatives.on_request(made)
        made.target = "/elsewhere"
        alternatives.on_response(made, answer)
        assert made.headers.get(b"x") == answer.headers.get(b"x") == name


def test_a_response_whose_request_never_came_here():
    config = {"conditional": [entry("a", "request.path == '/a'")]}
    answer = response(403)
    policy("transformations", config).on_response(request(target="/a"), answer)
    assert answer.headers.get(b"x") == b"a"


def test_a_condition_on_the_response_is_asked_again():
    config = {"conditional": [entry("bad", "response.code >= 500"), entry("good")]}
    alternatives, made, answer = policy("transformations", config), request(), response(503)
    alternatives.on_request(made)
    alternatives.on_response(made, answer)
    assert made.headers.get(b"x") == b"good"
    assert answer.headers.get(b"x") == b"bad"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"request": {"set": {"x": "1 +"}}}, "transformations.request.set.x"),
        ({"request": {"set": {":status": "200"}}}, "transformations.request.set.:status"),
        ({"response": {"set": {":path": "'/'"}}}, "transformations.response.set.:path"),
        ({"request": {"set": {"x": "response.code"}}}, "transformations.request.set.x"),
        ({"request": {"set": {"x\n": "'1'"}}}, "transformations.request.set['x\\n']"),
        ({"request": {"remove": [":path"]}}, "transformations.request.remove[0]"),
        ({"request": {"remove": ["host"]}}, "transformations.request.remove[0]"),
        ({"request": {"add": {"te": "'trailers'"}}}, "transformations.request.add.te"),
        ({"request": {"header": {}}}, "transformations.request.header"),
        ({"conditional": []}, "transformations.conditional"),
        (
            {"conditional": [{"response": {"body": "("}}]},
            "transformations.conditional[0].response.body",
        ),
    ],
)
def test_refused(config, path):
    with pytest.raises(ConfigError) as caught:
        policy("transformations", config)
    assert caught.value.path == path
