"""CONNECT and its answer: rules and their statuses."""

from __future__ import annotations

import pytest

from hbone.wire.authority import make_authority
from hbone.wire.connect import (
    BadConnectError,
    Field,
    MalformedError,
    answer_fields,
    read_answer,
    read_request,
    request_fields,
)

OPENING = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.1:80")]


def test_both_ways() -> None:
    authority = make_authority("10.0.0.1", 80)
    headers = ((b"baggage", b"a=b"), (b"baggage", b"c=d"), (b"forwarded", b"for=x"))
    fields = request_fields(authority, headers)
    assert fields == [*OPENING, *headers]
    request = read_request(fields)
    assert (request.authority, request.headers) == (authority, headers)
    assert request.values(b"baggage") == [b"a=b", b"c=d"]
    assert read_answer(answer_fields(200, headers)).headers == headers


def test_host_is_dropped_when_it_says_the_same() -> None:
    assert read_request([*OPENING, (b"host", b"10.0.0.1:80")]).headers == ()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), OPENING[1]], 400),
        ([(b":method", b"connect"), OPENING[1]], 400),
        ([OPENING[0]], 400),
        ([OPENING[0], (b":authority", b"10.0.0.1")], 400),
        ([OPENING[0], (b":authority", b"")], 400),
        ([*OPENING, (b":scheme", b"https")], 400),
        ([*OPENING, (b":path", b"/")], 400),
        ([*OPENING, (b":protocol", b"websocket")], 400),
        ([*OPENING, (b"content-length", b"0")], 400),
        ([*OPENING, (b"host", b"10.0.0.2:80")], 400),
        ([*OPENING, *[(b"x", b"y")] * 101], 431),
    ],
)
def test_answered(fields: list[Field], status: int) -> None:
    with pytest.raises(BadConnectError) as caught:
        read_request(fields)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [OPENING[1]],
        [*OPENING, OPENING[0]],
        [*OPENING, OPENING[1]],
        [*OPENING, (b":status", b"200")],
        [*OPENING, (b"x", b"y"), (b":path", b"/")],
        [*OPENING, (b"", b"y")],
        [*OPENING, (b"X", b"y")],
        [*OPENING, (b"x y", b"y")],
        [*OPENING, (b"x", b" y")],
        [*OPENING, (b"x", b"y\r\nz")],
        [*OPENING, (b"x", b"\x00")],
        [*OPENING, (b"connection", b"close")],
        [*OPENING, (b"transfer-encoding", b"chunked")],
        [*OPENING, (b"te", b"gzip")],
        [(b":method", b"CONN\nECT"), OPENING[1]],
    ],
)
def test_malformed(fields: list[Field]) -> None:
    with pytest.raises(MalformedError):
        read_request(fields)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"x", b"y")],
        [(b":status", b"20")],
        [(b":status", b"099")],
        [(b":status", b"101")],
        [(b":status", b"abc")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b"X", b"y")],
    ],
)
def test_malformed_answer(fields: list[Field]) -> None:
    with pytest.raises(MalformedError):
        read_answer(fields)


@pytest.mark.parametrize(
    "field", [(b"a\n", b"b"), (b"a", b"b\n"), (b"content-length", b"0"), (b"upgrade", b"x")]
)
def test_what_is_not_sent(field: Field) -> None:
    with pytest.raises(MalformedError):
        request_fields(make_authority("a", 80), [field])
    with pytest.raises(MalformedError):
        answer_fields(200, [field])
