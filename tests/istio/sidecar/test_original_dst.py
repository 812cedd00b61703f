"""Addresses as the kernel gives them; real redirections are in the tests of namespaces."""

from __future__ import annotations

import socket
import struct

import pytest

from istio.sidecar.original_dst import original_destination, parse_sockaddr, plain_address


def sockaddr(address: str, port: int) -> bytes:
    if ":" in address:
        octets = socket.inet_pton(socket.AF_INET6, address)
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 7, octets, 3)
    octets = socket.inet_pton(socket.AF_INET, address)
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, octets)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("255.255.255.255", "255.255.255.255"),
        ("fd00::7", "fd00::7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
    ],
)
@pytest.mark.parametrize("port", [1, 443, 65535])
def test_addresses_of_both_families(address: str, expected: str, port: int) -> None:
    assert parse_sockaddr(sockaddr(address, port)) == (expected, port)


@pytest.mark.parametrize("raw", [b"", b"\2\0\0\x50\12\0\0\7", bytes(29)])
def test_what_is_no_address(raw: bytes) -> None:
    with pytest.raises(OSError, match="unknown form"):
        parse_sockaddr(raw)


def test_zones_and_mapped_addresses_are_taken_off() -> None:
    assert plain_address("fe80::1%eth0") == "fe80::1"
    assert plain_address("::ffff:1.2.3.4") == "1.2.3.4"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_that_nobody_redirected_has_none(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener, socket.socket(family) as client:
        try:
            listener.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {host} here: {error.strerror}")
        listener.listen()
        client.connect(listener.getsockname()[:2])
        accepted, _ = listener.accept()
        with accepted:
            assert original_destination(accepted) is None
