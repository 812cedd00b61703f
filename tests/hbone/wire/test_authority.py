"""Which authorities there are, and the one form of each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.wire.authority import (
    ILLEGAL_PORTS,
    Authority,
    BadAuthorityError,
    make_authority,
    parse_authority,
)


@pytest.mark.parametrize(
    ("raw", "text", "is_address"),
    [
        (b"10.0.0.1:80", "10.0.0.1:80", True),
        (b"[::1]:65535", "[::1]:65535", True),
        (b"[2001:DB8:0:0::1]:8080", "[2001:db8::1]:8080", True),
        (b"[::ffff:10.0.0.1]:80", "10.0.0.1:80", True),
        (b"svc.ns.svc.cluster.local:8080", "svc.ns.svc.cluster.local:8080", False),
        (b"Svc.NS.svc.Cluster.local.:1", "svc.ns.svc.cluster.local:1", False),
        (b"localhost:80", "localhost:80", False),
        (b"a_b-c.d:80", "a_b-c.d:80", False),
        (b"1a.b2:80", "1a.b2:80", False),
    ],
)
def test_forms(raw: bytes, text: str, is_address: bool) -> None:
    authority = parse_authority(raw)
    assert str(authority) == text
    assert authority.is_address is is_address
    assert make_authority(authority.host, authority.port) == authority


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b":80",
        b"host",
        b"10.0.0.1",
        b"host:",
        b"host:0",
        b"host:080",
        b"host:65536",
        b"host:99999999",
        b"host:+80",
        b"host:8 0",
        b"host:http",
        b"user@host:80",
        b"user:pass@host:80",
        b"http://host:80",
        b"host:80/path",
        b"host:80?x",
        b"host:80#x",
        b"::1:80",
        b"[::1]",
        b"[::1:80",
        b"[::1%25eth0]:80",
        b"[::1%eth0]:80",
        b"[1.2.3.4]:80",
        b"[v1.x]:80",
        b"1.2.3:80",
        b"127.1:80",
        b"2130706433:80",
        b"0x7f.0.0.1:80",
        b"127.0.0.0x1:80",
        b"010.0.0.1:80",
        b"256.0.0.1:80",
        b"1.2.3.4.5:80",
        b"-a.b:80",
        b"a-.b:80",
        b"a..b:80",
        b".a:80",
        b".:80",
        b"a%2eb:80",
        "ünï.de:80".encode(),
        b"a\x00b:80",
        b"a b:80",
        b"host:80\n",
        b"x" * 64 + b".de:80",
        b"a." * 127 + b"ab:80",
    ],
)
def test_refused(raw: bytes) -> None:
    with pytest.raises(BadAuthorityError):
        parse_authority(raw)


def test_ports_of_the_proxies_themselves() -> None:
    assert {15001, 15006, 15008, 15080} == ILLEGAL_PORTS
    assert Authority("h", 15008, False).is_illegal
    assert not Authority("h", 15009, False).is_illegal


def test_what_this_side_cannot_say() -> None:
    for host in ("", "a b", "ü", "fe80::1%eth0"):
        with pytest.raises(BadAuthorityError):
            make_authority(host, 80)
    with pytest.raises(BadAuthorityError):
        make_authority("a", 0)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.text("0123456789abcdefx.:[]-_%@", max_size=40).map(str.encode))
def test_one_form(raw: bytes) -> None:
    try:
        authority = parse_authority(raw)
    except BadAuthorityError:
        return
    assert parse_authority(str(authority).encode()) == authority
