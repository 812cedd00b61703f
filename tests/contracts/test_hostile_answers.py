"""Answers of external services that would break a message, a header or a trust: none is obeyed.

Source: hardening cases 9, 14, 17, 36 to 39 and 46, of which each name tells one.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from sidecar.errors import UpstreamError
from sidecar.policies import processing
from sidecar.policies._pb import envoy_pb2 as envoy
from sidecar.policies._pb import ext_authz_pb2 as authz
from sidecar.policies._pb import ext_proc_pb2 as proc
from sidecar.policies.authz import Allowed, Denied
from sidecar.policies.authz_grpc import decision
from sidecar.policies.mutation import FIELDS_MAX, BadAnswerError, plain
from tests.support.ext_authz import Answer
from tests.support.messages import request, response

BAD_VALUES = {
    "CR": "a\rb",
    "LF": "a\nb",
    "CRLF and a header": "a\r\nset-cookie: b=1",
    "NUL": "a\0b",
    "ESC": "a\x1b[2Jb",
    "DEL": "a\x7fb",
}
BAD_NAMES = {
    "empty": "",
    "blank": "a b",
    "colon": "a:b",
    "CRLF": "a\r\nb",
    "NUL": "a\0",
    "not ASCII": "caf\u00e9",
    "pseudo": ":path",
    "unknown pseudo": ":evil",
    "host": "Host",
    "transfer-encoding": "Transfer-Encoding",
    "connection": "connection",
    "upgrade": "upgrade",
    "te": "te",
    "trailer": "trailer",
    "keep-alive": "keep-alive",
}
OF_HOPS = {name: name for name in ("X-Forwarded-For", "forwarded", "x-real-ip", "X-Forwarded-Host")}


def options(name: str, value: str | bytes = "v", count: int = 1) -> list[Any]:
    made = []
    for _ in range(count):
        one = envoy.HeaderValueOption()
        one.header.key = name
        if isinstance(value, bytes):
            one.header.raw_value = value
        else:
            one.header.value = value
        made.append(one)
    return made


def mutation(name: str, value: str | bytes = "v", count: int = 1) -> Any:
    return proc.HeaderMutation(set_headers=options(name, value, count))


REFUSED: dict[str, tuple[str, str | bytes, int]] = {
    **{f"value: {name}": ("x-a", value, 1) for name, value in BAD_VALUES.items()},
    **{f"raw value: {name}": ("x-a", value.encode(), 1) for name, value in BAD_VALUES.items()},
    **{f"name: {name}": (value, "v", 1) for name, value in BAD_NAMES.items()},
    **{f"of hops: {name}": (value, "v", 1) for name, value in OF_HOPS.items()},
    "too many": ("x-a", "v", FIELDS_MAX + 1),
    "too large": ("x-a", "v" * 40_000, 2),
}


@pytest.mark.parametrize(("name", "value", "count"), REFUSED.values(), ids=REFUSED)
def test_an_authorization_that_sets_this_is_none(name: str, value: str | bytes, count: int) -> None:
    made = authz.CheckResponse(ok_response=authz.Ok(headers=options(name, value, count)))
    with pytest.raises(BadAnswerError):
        decision(made.SerializeToString())


@pytest.mark.parametrize("name", [*BAD_VALUES])
def test_an_authorization_tells_no_client_this(name: str) -> None:
    told = options("x-told", BAD_VALUES[name])
    made = authz.CheckResponse(ok_response=authz.Ok(response_headers_to_add=told))
    with pytest.raises(BadAnswerError):
        decision(made.SerializeToString())
    denied = authz.Denied(status=envoy.HttpStatus(code=401), headers=told)
    made = authz.CheckResponse(status=authz.Status(code=7), denied_response=denied)
    found = decision(made.SerializeToString())
    assert isinstance(found, Denied)
    assert found.headers == ()


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [case for name, case in REFUSED.items() if name != "name: pseudo"],
    ids=[name for name in REFUSED if name != "name: pseudo"],
)
def test_a_processor_sets_no_request_this(name: str, value: str | bytes, count: int) -> None:
    with pytest.raises(BadAnswerError):
        processing.request_edit(mutation(name, value, count))


OF_RESPONSES = {
    name: case
    for name, case in REFUSED.items()
    if not name.startswith("of hops") and name != "name: host"
}


@pytest.mark.parametrize(("name", "value", "count"), OF_RESPONSES.values(), ids=OF_RESPONSES)
def test_a_processor_sets_no_response_this(name: str, value: str | bytes, count: int) -> None:
    with pytest.raises(BadAnswerError):
        processing.response_edit(mutation(name, value, count))
    answer = proc.Immediate(headers=mutation(name, value, count))
    with pytest.raises(BadAnswerError):
        processing.immediate(answer, request())


PSEUDO = {
    "another method": (":method", b"GET /x"),
    "a tunnel": (":method", b"CONNECT"),
    "an empty method": (":method", b""),
    "a relative path": (":path", b"a"),
    "a path with a line end": (":path", b"/a\r\nx: y"),
    "a hidden separator": (":path", b"/a/..%2f..%2fadmin"),
    "a backslash": (":path", b"/a\\..\\b"),
    "a null": (":path", b"/a%00"),
    "another authority in the path": (":path", b"http://evil.example/"),
    "a confusing authority": (":authority", b"a/#@b"),
    "an authority with a user": (":authority", b"a@b"),
    "an empty authority": (":authority", b""),
    "another scheme": (":scheme", b"file"),
    "a status": (":status", b"200"),
}


@pytest.mark.parametrize(("name", "value"), PSEUDO.values(), ids=PSEUDO)
def test_a_processor_makes_no_request_this(name: str, value: bytes) -> None:
    with pytest.raises(BadAnswerError):
        processing.request_edit(mutation(name, value))


@pytest.mark.parametrize("value", [b"", b"99", b"101", b"199", b"600", b"2000", b"-20", b"+20"])
def test_a_processor_makes_no_response_this(value: bytes) -> None:
    with pytest.raises(BadAnswerError):
        processing.response_edit(mutation(":status", value))


@pytest.mark.parametrize("status", [1, 100, 101, 199, 600, -1, 2**31 - 1])
def test_no_answer_of_its_own_has_this_status(status: int) -> None:
    with pytest.raises(BadAnswerError):
        processing.immediate(proc.Immediate(status=envoy.HttpStatus(code=status)), request())


@pytest.mark.parametrize(
    "name", ["host", "content-length", "transfer-encoding", "authorization", "set-cookie"]
)
def test_a_processor_adds_no_trailer_this(name: str) -> None:
    given = envoy.HeaderMap(headers=[envoy.HeaderValue(key=name, value="v")])
    with pytest.raises(BadAnswerError):
        processing.trailers_of(given)
    if name != "content-length":
        with pytest.raises(BadAnswerError):
            processing.trailers_edit(mutation(name))


def test_a_length_is_the_gateways_to_count() -> None:
    made = request("POST", "/", {"content-length": "3"}, body=b"abc")
    processing.request_edit(mutation("Content-Length", "999")).apply_to_request(made)
    assert made.headers.get_all(b"content-length") == [b"3"]


def test_a_clients_twin_of_a_header_that_is_set_goes() -> None:
    made = request(headers={"x_user": "evil", "x-user": "evil", "x-users": "1"})
    found = decision(Answer(set=[("X-User", "ann")]).encoded())
    assert isinstance(found, Allowed)
    found.apply(made)
    assert list(made.headers) == [(b"x-users", b"1"), (b"x-user", b"ann")]
    made = request(headers={"x_user": "evil", "x-user": "evil"})
    processing.request_edit(mutation("X-User", "ann")).apply_to_request(made)
    assert list(made.headers) == [(b"x-user", b"ann")]


def test_a_header_that_is_removed_goes_with_its_twin() -> None:
    made = request(headers={"x_user": "evil", "x-user": "evil"})
    edit = processing.request_edit(proc.HeaderMutation(remove_headers=["X-User", ":path", "Host"]))
    edit.apply_to_request(made)
    assert (list(made.headers), made.target, made.authority) == ([], "/", "shop.example")


def test_a_response_keeps_its_status_where_nobody_changes_it() -> None:
    client, made = request(), response(404, {"x-a": "1"})
    edit = processing.response_edit(proc.HeaderMutation(remove_headers=["x-a", ":status"]))
    edit.apply_to_response(client, made)
    assert (made.status, list(made.headers)) == (404, [])


UNREADABLE = {
    "no message": b"\xff\xff\xff",
    "nothing": b"",
    "half a message": b"\x1a\x05\x0a",
    "endless nesting": b"\x22\xff\xff\xff\xff\x0f",
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_what_decides_nothing_allows_nothing(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        decision(data)


def test_who_allows_and_denies_denies() -> None:
    denied = authz.Denied(status=envoy.HttpStatus(code=401))
    made = authz.CheckResponse(status=authz.Status(code=0), denied_response=denied)
    with pytest.raises(BadAnswerError):
        decision(made.SerializeToString())
    made = authz.CheckResponse(status=authz.Status(code=7), ok_response=authz.Ok())
    assert isinstance(decision(made.SerializeToString()), Denied)


def test_what_is_told_is_bounded() -> None:
    told = Struct()
    told.update({"a": "x" * 70_000})
    made = authz.CheckResponse(status=authz.Status(), dynamic_metadata=told)
    with pytest.raises(BadAnswerError):
        decision(made.SerializeToString())


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    size, length = len(data), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((number << 3 | 2, *length, size)) + data


def test_what_is_told_nests_no_deeper_than_can_be_read() -> None:
    # A list in a list, as the messages of such a depth cannot be made by their own library.
    deep = field(3, b"x")
    for _ in range(200):
        deep = field(6, field(1, deep))
    told = field(4, field(1, field(1, b"a") + field(2, deep)))
    with pytest.raises(UpstreamError):
        decision(field(1, b"") + told)
    shallow = Struct()
    shallow.update({"a": [[{"b": [1]}]]})
    assert plain(shallow) == {"a": [[{"b": [1.0]}]]}


def test_a_query_that_is_changed_stays_one() -> None:
    made = request("GET", "/a?x=1&%78=2&y=3")
    answer = Answer(query_set=[("x", "4&admin=1#/?")], query_remove=["y&"])
    found = decision(answer.encoded())
    assert isinstance(found, Allowed)
    found.apply(made)
    assert made.target == "/a?y=3&x=4%26admin%3D1%23%2F%3F"
