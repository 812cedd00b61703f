"""PROXY headers of both versions: accepted, broken, absent, and cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.net.proxyproto import (
    ABSENT,
    MAX_V1_BYTES,
    MAX_V2_BYTES,
    Address,
    ProxyHeader,
    ProxyHeaderError,
    encode_v1,
    encode_v2,
    parse,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
CLIENT, SERVER = ("192.0.2.7", 51000), ("198.51.100.1", 443)
CLIENT6, SERVER6 = ("2001:db8::7", 51000), ("2001:db8::1", 443)
V4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + (51000).to_bytes(2, "big") + b"\x01\xbb"
V6 = (
    bytes.fromhex("20010db800000000000000000000000720010db8000000000000000000000001")
    + (51000).to_bytes(2, "big")
    + b"\x01\xbb"
)


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


ACCEPTED: list[tuple[str, bytes, int, Address | None, Address | None]] = [
    ("v1-tcp4", b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n", 1, CLIENT, SERVER),
    ("v1-tcp6", b"PROXY TCP6 2001:db8::7 2001:DB8:0::1 51000 443\r\n", 1, CLIENT6, SERVER6),
    ("v1-unknown", b"PROXY UNKNOWN\r\n", 1, None, None),
    ("v1-unknown-more", b"PROXY UNKNOWN ff:: whatever 1 2\r\n", 1, None, None),
    ("v1-port-zero", b"PROXY TCP4 192.0.2.7 198.51.100.1 0 443\r\n", 1, ("192.0.2.7", 0), SERVER),
    ("v2-tcp4", v2(0x21, 0x11, V4), 2, CLIENT, SERVER),
    ("v2-udp4", v2(0x21, 0x12, V4), 2, CLIENT, SERVER),
    ("v2-tcp6", v2(0x21, 0x21, V6), 2, CLIENT6, SERVER6),
    ("v2-local", v2(0x20, 0x00, b""), 2, None, None),
    ("v2-local-with-addresses", v2(0x20, 0x11, V4), 2, None, None),
    ("v2-unspecified", v2(0x21, 0x00, b"anything"), 2, None, None),
    ("v2-unix", v2(0x21, 0x31, b"/run/x".ljust(216, b"\0")), 2, None, None),
    ("v2-tlvs", v2(0x21, 0x11, V4 + b"\x01\x00\x02h2" + b"\x04\x00\x00"), 2, CLIENT, SERVER),
    ("v2-unix-tlv", v2(0x21, 0x32, bytes(216) + b"\x04\x00\x01x"), 2, None, None),
]


@pytest.mark.parametrize(
    ("data", "version", "source", "destination"),
    [pytest.param(*row[1:], id=row[0]) for row in ACCEPTED],
)
def test_accepted(
    data: bytes, version: int, source: Address | None, destination: Address | None
) -> None:
    expected = ProxyHeader(len(data), version, source, destination)
    for size in range(len(data)):
        assert parse(data[:size]) is None
    assert parse(data) == expected
    assert parse(data + b"GET / HTTP/1.1\r\n\r\n") == expected
    assert parse(memoryview(data)) == expected
    with pytest.raises(ProxyHeaderError):
        parse(data, (3 - version,))


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PROXX", b"PO", b"\r\n\r\nGET", b"proxy TCP4 "],
)
def test_absent(data: bytes) -> None:
    assert parse(data) is ABSENT
    assert ABSENT.is_absent


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(data, id=name)
        for name, data in [
            ("v1-two-spaces", b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n"),
            ("v1-family", b"PROXY TCP5 192.0.2.7 198.51.100.1 1 2\r\n"),
            ("v1-lower-case", b"PROXY tcp4 192.0.2.7 198.51.100.1 1 2\r\n"),
            ("v1-wrong-family", b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n"),
            ("v1-wrong-family-6", b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n"),
            ("v1-octet", b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n"),
            ("v1-leading-zero", b"PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n"),
            ("v1-port", b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n"),
            ("v1-port-zeros", b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n"),
            ("v1-port-sign", b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n"),
            ("v1-missing", b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n"),
            ("v1-extra", b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n"),
            ("v1-bare-lf", b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n"),
            ("v1-unknown-glued", b"PROXY UNKNOWNX\r\n"),
            ("v1-zone", b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n"),
            ("v1-endless", b"PROXY UNKNOWN " + b"x" * MAX_V1_BYTES),
            ("v1-too-long", b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n"),
            ("v2-version", v2(0x11, 0x11, V4)),
            ("v2-version-early", SIGNATURE + b"\x31"),
            ("v2-command", v2(0x22, 0x11, V4)),
            ("v2-family", v2(0x21, 0x41, V4)),
            ("v2-transport", v2(0x21, 0x13, V4)),
            ("v2-short-addresses", v2(0x21, 0x11, V4[:-1])),
            ("v2-short-addresses-6", v2(0x21, 0x21, V4)),
            ("v2-short-unix", v2(0x21, 0x31, bytes(215))),
            ("v2-tlv-head-cut", v2(0x21, 0x11, V4 + b"\x01\x00")),
            ("v2-tlv-cut", v2(0x21, 0x11, V4 + b"\x01\x00\x03h2")),
            ("v2-too-big", SIGNATURE + b"\x21\x11" + (MAX_V2_BYTES - 15).to_bytes(2, "big")),
        ]
    ],
)
def test_broken(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse(data)


def test_longest_line_of_version_1() -> None:
    line = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert len(line) == MAX_V1_BYTES
    assert parse(line) == ProxyHeader(MAX_V1_BYTES, 1)


addresses = st.tuples(
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)), st.integers(0, 65535)
)


@given(st.none() | addresses, st.none() | addresses)
def test_what_is_encoded_is_parsed(source: Address | None, destination: Address | None) -> None:
    same = source and destination and (":" in source[0]) == (":" in destination[0])
    for version, data in ((1, encode_v1(source, destination)), (2, encode_v2(source, destination))):
        found = parse(data)
        assert found is not None
        assert (found.size, found.version) == (len(data), version)
        if same:
            assert (found.source, found.destination) == (source, destination)
        elif version == 1 or source is None or destination is None:
            assert (found.source, found.destination) == (None, None)
        else:
            assert found.source is not None
            assert found.source[1] == source[1]


@given(st.binary(max_size=60))
def test_any_octets_end_in_a_verdict(data: bytes) -> None:
    for octets in (data, b"PROXY " + data, SIGNATURE + data, SIGNATURE + b"\x21\x11" + data):
        try:
            found = parse(octets)
        except ProxyHeaderError:
            continue
        assert found is None or found.size <= len(octets)
