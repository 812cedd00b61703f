"""The fields that say what a tunnel is about."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.wire.baggage import (
    Baggage,
    Forwarded,
    encode_traceparent,
    parse_baggage,
    parse_forwarded,
    parse_traceparent,
)

FULL = Baggage("Kubernetes", "default", "deployment", "web", "web", "v1", "r1", "r1-a")


def test_both_ways() -> None:
    assert FULL.encode() == (
        b"k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=web,"
        b"service.name=web,service.version=v1,cloud.region=r1,cloud.availability_zone=r1-a"
    )
    assert parse_baggage([FULL.encode()]) == FULL
    assert Baggage().encode() == b""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], Baggage()),
        ([b""], Baggage()),
        ([b"service.name=a", b"service.version=b"], Baggage(service="a", version="b")),
        ([b" service.name = a ; p=1 , x=y"], Baggage(service="a")),
        ([b"service.name=", b"service.name", b"=a"], Baggage()),
        ([b"service.name=a,service.name=b"], Baggage(service="b")),
        ([b"k8s.cronjob.name=c"], Baggage(kind="cronjob", workload="c")),
        ([b"k8s.pod.name=p"], Baggage(kind="pod", workload="p")),
        ([b"service.name=a=b"], Baggage(service="a=b")),
        ([b"service.name=\xff"], Baggage(service="\ufffd")),
    ],
)
def test_baggage(lines: list[bytes], expected: Baggage) -> None:
    assert parse_baggage(lines) == expected


def test_what_cannot_stand_in_the_field_is_left_out() -> None:
    assert Baggage(service="a,b", version='"', region="a b", zone="ü").encode() == b""
    assert Baggage(kind="pirate", workload="x").encode() == b""


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.builds(Baggage, *[st.text(max_size=8)] * 8))
def test_never_fails(line: bytes, baggage: Baggage) -> None:
    parse_baggage([line])
    parse_forwarded([line])
    assert parse_baggage([baggage.encode()]).encode() == baggage.encode()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'for="10.0.0.1:80"', Forwarded("10.0.0.1:80")),
        (b'for="10.0.0.1:80";host=svc.ns', Forwarded("10.0.0.1:80", "svc.ns")),
        (b'For="[::1]:80"; Host="SVC"', Forwarded("[::1]:80", "svc")),
        (b"for=10.0.0.1", Forwarded("10.0.0.1")),
        (b"for=_hidden;host=a", Forwarded("", "a")),
        (b"for=1.1.1.1, for=2.2.2.2", Forwarded("1.1.1.1")),
        (b"host=\xc3\xbc", Forwarded()),
        (b"proto=http;;=;", Forwarded()),
        (b"", Forwarded()),
    ],
)
def test_forwarded(line: bytes, expected: Forwarded) -> None:
    assert parse_forwarded([line]) == expected


def test_forwarded_both_ways() -> None:
    for value in (Forwarded("10.0.0.1:80"), Forwarded("[::1]:80", "svc.ns")):
        assert parse_forwarded([value.encode()]) == value
    assert parse_forwarded([]) == Forwarded()


def test_traceparent() -> None:
    value = encode_traceparent(b"\1" * 16, b"\2" * 8)
    assert len(value) == 55
    assert parse_traceparent(value) == (b"\1" * 16, b"\2" * 8)
    for bad in (
        b"",
        value[:-1],
        value + b"0",
        value.upper().replace(b"0", b"A"),
        b"01" + value[2:],
    ):
        assert parse_traceparent(bad) is None
    assert parse_traceparent(encode_traceparent(bytes(16), b"\2" * 8)) is None
    assert parse_traceparent(encode_traceparent(b"\1" * 16, bytes(8))) is None
