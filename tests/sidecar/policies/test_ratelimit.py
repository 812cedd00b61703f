"""Envoy's rate limit messages: numbers on the wire, and what may come back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import UpstreamError
from sidecar.policies import ratelimit
from sidecar.policies.ratelimit import Asked, Standing, question, verdict


def field(number: int, value: int | bytes) -> bytes:
    """A field written by hand, so that the numbers are not those of our own .proto file."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def test_a_question_has_envoys_numbers():
    asked = (
        Asked((("user", "ann"), ("path", "/a")), 0, ("HOUR", 300)),
        Asked((("m", "GET"),)),
        Asked((("t", "x"),), 23017),
    )
    expected = (
        field(1, b"shop")
        + field(
            2,
            field(1, field(1, b"user") + field(2, b"ann"))
            + field(1, field(1, b"path") + field(2, b"/a"))
            # RateLimitOverride: requests_per_unit = 1, unit = 2 (HOUR is 3).
            + field(2, field(1, 300) + field(2, 3))
            # UInt64Value of 0: there, and empty.
            + field(3, b""),
        )
        + field(2, field(1, field(1, b"m") + field(2, b"GET")))
        + field(2, field(1, field(1, b"t") + field(2, b"x")) + field(3, field(1, 23017)))
    )
    assert question("shop", asked) == expected


def status(limit: int, remaining: int, seconds: int, nanos: int = 0) -> bytes:
    duration = field(1, seconds) + field(2, nanos)
    body = field(2, field(1, limit) + field(2, 2)) + field(3, remaining) + field(4, duration)
    return field(2, field(1, 1) + body)


def test_an_answer_has_envoys_numbers():
    data = (
        field(1, 2)
        + status(100, 9, 60)
        + status(10, 3, 1, 500_000_000)
        + field(2, field(1, 1))  # a descriptor without a limit
        + field(3, field(1, b"X-Told") + field(2, b"v"))
        + field(3, field(1, b"x-raw") + field(3, b"\xff"))
        + field(4, field(1, b"x-up") + field(2, b"w"))
        + field(5, b"slow down")
        + field(6, b"")  # dynamic_metadata
        + field(7, b"")  # quota
    )
    found = verdict(data)
    assert found.is_over
    assert found.standing == Standing(10, 3, 1_500_000_000)
    assert found.response_fields == ((b"x-told", b"v"), (b"x-raw", b"\xff"))
    assert found.request_fields == ((b"x-up", b"w"),)
    assert found.body == b"slow down"


def test_equal_limits_are_told_with_the_longer_wait():
    found = verdict(field(1, 1) + status(5, 0, 1) + status(6, 0, 9))
    assert found.standing == Standing(6, 0, 9_000_000_000)
    assert verdict(field(1, 1)).standing is None


@pytest.mark.parametrize(
    "data", [b"", field(1, 0), field(1, 3), b"\xff\xff", b"<html>no</html>", field(1, 1)[:1]]
)
def test_what_decides_nothing_is_a_failure(data):
    with pytest.raises(UpstreamError):
        verdict(data)


@given(st.binary(max_size=200))
def test_any_octets_are_an_answer_or_a_failure(data):
    try:
        found = verdict(data)
    except UpstreamError:
        return
    for name, value in (*found.response_fields, *found.request_fields):
        assert b"\n" not in name + value
        assert b"\r" not in name + value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-split", b"a\r\nset-cookie: b"),
        (b"x-nul", b"a\0"),
        (b"x y", b"a"),
        (b"", b"a"),
        (b":status", b"200"),
        (b"content-length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"host", b"other"),
    ],
)
def test_a_service_cannot_frame_our_messages(name, value):
    pair = field(1, name) + field(3, value)
    found = verdict(field(1, 1) + field(3, pair) + field(4, pair))
    assert found.response_fields == found.request_fields == ()


def test_an_answer_has_a_bound_of_fields():
    many = b"".join(field(3, field(1, b"x-%d" % n) + field(2, b"v")) for n in range(1000))
    assert len(verdict(field(1, 1) + many).response_fields) == 64


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (0, 0),
        (2.1, 3),
        (23017.0, 23017),
        (10**30, ratelimit.HITS_MAX),
        (1e300, ratelimit.HITS_MAX),
        (-1, None),
        (-0.5, None),
        (math.nan, None),
        (math.inf, None),
        (True, None),
        ("3", None),
        (None, None),
        ([], None),
    ],
)
def test_hits_are_whole_and_never_negative(value, expected):
    assert ratelimit.hits(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"unit": "second", "requestsPerUnit": 5}, ("SECOND", 5)),
        ({"unit": "Minute", "requestsPerUnit": 5.0}, ("MINUTE", 5)),
        ({"unit": "YEAR", "requestsPerUnit": 0, "more": 1}, ("YEAR", 0)),
        ({"unit": "week", "requestsPerUnit": 5}, None),
        ({"unit": "unknown", "requestsPerUnit": 5}, None),
        ({"unit": "hour", "requestsPerUnit": 2**32}, None),
        ({"unit": "hour", "requestsPerUnit": -1}, None),
        ({"unit": "hour", "requestsPerUnit": 1.5}, None),
        ({"unit": "hour", "requestsPerUnit": True}, None),
        ({"unit": 3, "requestsPerUnit": 5}, None),
        ({"unit": "hour"}, None),
        ("hour", None),
        (None, None),
    ],
)
def test_an_override_is_a_unit_and_a_count(value, expected):
    assert ratelimit.override(value) == expected
