"""Where credentials stand: found once or not at all, and taken out without touching the rest."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from sidecar.policies.location import AMBIGUOUS, Location, Source, source_of
from sidecar.policies.schema import parse
from tests.support.messages import request, services, text_of

BEARER = {"header": {"name": "Authorization", "prefix": "Bearer "}}
QUERY = {"queryParameter": {"name": "api key"}}
COOKIE = {"cookie": {"name": "sid"}}


def source(location: object) -> Source:
    return source_of(parse(Location, location), services())


@pytest.mark.parametrize(
    ("values", "found"),
    [
        pytest.param(["Bearer k"], b"k", id="one"),
        pytest.param(["bEARER k"], b"k", id="letter case of the prefix"),
        pytest.param(["Bearer  k"], b" k", id="one blank belongs to the prefix"),
        pytest.param(["Bearer"], None, id="nothing behind it"),
        pytest.param(["Bearer "], None, id="empty"),
        pytest.param([""], None, id="empty field"),
        pytest.param(["Basic k"], None, id="another scheme"),
        pytest.param([], None, id="absent"),
        pytest.param(["Bearer k", "Bearer k"], AMBIGUOUS, id="twice the same"),
        pytest.param(["Basic x", "Bearer k"], AMBIGUOUS, id="two schemes"),
        pytest.param(["Bearer \xff\xfe"], b"\xff\xfe", id="octets"),
    ],
)
def test_header(values: list[str], found: bytes | None) -> None:
    asked = request(headers=[("x", "1"), *(("authorization", one) for one in values)])
    assert source(BEARER).read(asked) == found


def test_a_header_is_taken_out_of_another_list() -> None:
    asked = request(headers=[("x", "1"), ("authorization", "Bearer k"), ("y", "2")])
    received = asked.headers
    source(BEARER).remove(asked)
    assert text_of(asked.headers) == ["x: 1", "y: 2"]
    assert len(received) == 3


@pytest.mark.parametrize(
    ("target", "found", "left"),
    [
        ("/a?api+key=k", b"k", "/a"),
        ("/a?x=%41&api%20key=a%2Bb+c%26&y", b"a+b c&", "/a?x=%41&y"),
        ("/a?%61pi%20key=k", b"k", "/a"),
        ("/a?api+key=", None, "/a"),
        ("/a?api+key", None, "/a"),
        ("/a?Api+key=k", None, "/a?Api+key=k"),
        ("/a?x=api+key=k", None, "/a?x=api+key=k"),
        ("/a?api+key=k&api%20key=l", AMBIGUOUS, "/a"),
        ("/a?api+key=%zz", b"%zz", "/a"),
        ("/a?api+key=%c3%a4", "ä".encode(), "/a"),
        ("/a", None, "/a"),
    ],
)
def test_query(target: str, found: bytes | None, left: str) -> None:
    asked = request(target=target)
    reader = source(QUERY)
    assert not reader.keeps_target
    assert reader.read(asked) == found
    reader.remove(asked)
    assert asked.target == left


@pytest.mark.parametrize(
    ("cookies", "found", "left"),
    [
        (["sid=k"], b"k", []),
        (["a=1; sid=k=; b=2"], b"k=", ["a=1; b=2"]),
        (["a=1", "sid=k"], b"k", ["a=1"]),
        (["sid=k; sid=l"], AMBIGUOUS, []),
        (["sid=k", "sid=k"], AMBIGUOUS, []),
        (["sid="], None, []),
        (["Sid=k"], None, ["Sid=k"]),
        (["xsid=k"], None, ["xsid=k"]),
        ([], None, []),
    ],
)
def test_cookie(cookies: list[str], found: bytes | None, left: list[str]) -> None:
    asked = request(headers=[("cookie", one) for one in cookies])
    reader = source(COOKIE)
    assert reader.read(asked) == found
    reader.remove(asked)
    assert text_of(asked.headers) == [f"cookie: {one}" for one in left]


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ('request.headers["x-token"]', b"k"),
        ('request.headers["absent"]', None),
        ("1", None),
        ('""', None),
        ('b"k"', b"k"),
    ],
)
def test_expression(expression: str, found: bytes | None) -> None:
    asked = request(headers={"x-token": "k"})
    reader = source({"expression": expression})
    assert reader.read(asked) == found
    reader.remove(asked)
    assert text_of(asked.headers) == ["x-token: k"]


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ({}, ""),
        ({**COOKIE, **QUERY}, ""),
        ({"header": {"name": "a b"}}, "header.name"),
        ({"cookie": {"name": ""}}, "cookie.name"),
        ({"queryParameter": {"name": ""}}, "queryParameter.name"),
        ({"expression": "("}, "expression"),
    ],
)
def test_refused(location: object, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        source(location)
    assert caught.value.path == path
