"""SOCKS 5: octets in, octets out, however they were split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio.sidecar.socks5 import Reply, Socks5, SocksError, reply

GREETING = b"\5\1\0"
REQUESTS = {
    b"\5\1\0\1\12\0\0\7\0\x50": ("10.0.0.7", 80),
    b"\5\1\0\4" + bytes(15) + b"\1\x1f\x90": ("::1", 8080),
    b"\5\1\0\3\x0fcart.Shop.Local\1\xbb": ("cart.shop.local", 443),
}


@given(
    request=st.sampled_from(sorted(REQUESTS)),
    methods=st.binary(min_size=0, max_size=20),
    rest=st.binary(max_size=40),
    cuts=st.lists(st.integers(0, 120), max_size=6),
)
def test_a_request_split_anywhere(
    request: bytes, methods: bytes, rest: bytes, cuts: list[int]
) -> None:
    offered = methods + b"\0"
    octets = bytes((5, len(offered))) + offered + request
    whole = octets + rest
    socks, said = Socks5(), b""
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    for start, end in itertools.pairwise(edges):
        said += socks.feed(whole[start:end])
    assert said == b"\5\0"
    assert socks.target == REQUESTS[request]
    assert socks.rest == rest


@pytest.mark.parametrize(
    ("octets", "last"),
    [
        (b"\4\1\0\x50\12\0\0\7\0", b""),  # version 4
        (b"GET / HTTP/1.1\r\n", b""),
        (b"\5\1\2", b"\5\xff"),  # only with a password
        (b"\5\0", b"\5\xff"),
        (GREETING + b"\4\1\0\1\12\0\0\7\0\x50", b""),
        (GREETING + b"\5\2\0\1\12\0\0\7\0\x50", reply(Reply.COMMAND_UNKNOWN)),  # BIND
        (GREETING + b"\5\3\0\1\12\0\0\7\0\x50", reply(Reply.COMMAND_UNKNOWN)),  # UDP
        (GREETING + b"\5\1\0\2\12\0\0\7\0\x50", reply(Reply.ADDRESS_UNKNOWN)),
        (GREETING + b"\5\1\0\3\0\0\x50", reply(Reply.ADDRESS_UNKNOWN)),  # a name of no octets
        (GREETING + b"\5\1\0\1\12\0\0\7\0\0", reply(Reply.FAILED)),  # port 0
        (GREETING + b"\5\1\0\3\2\xc3\xa4\0\x50", reply(Reply.FAILED)),
    ],
)
def test_what_is_refused(octets: bytes, last: bytes) -> None:
    socks = Socks5()
    with pytest.raises(SocksError) as refusal:
        socks.feed(octets)
    assert refusal.value.last == last
    assert socks.target is None


def test_octets_without_end_are_not_kept() -> None:
    socks = Socks5()
    socks.feed(b"\5\xff")  # a greeting of 255 methods
    with pytest.raises(SocksError):
        socks.feed(b"\1" * 2000)
