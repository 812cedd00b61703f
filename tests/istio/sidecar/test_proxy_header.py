"""The PROXY header is one that its reader understands."""

from __future__ import annotations

import pytest

from istio.sidecar.proxy_header import proxy_header
from sidecar.net import proxyproto

WHO = "spiffe://cluster.local/ns/shop/sa/cart"


@pytest.mark.parametrize(
    ("source", "destination", "seen"),
    [
        ("10.0.0.7", "10.50.0.1", "10.0.0.7"),
        ("fd00::7", "fd00::1", "fd00::7"),
        ("10.0.0.7", "fd00::1", "::ffff:a00:7"),  # mapped: both are of one family
    ],
)
@pytest.mark.parametrize("identity", ["", WHO])
def test_addresses_and_identity(source: str, destination: str, seen: str, identity: str) -> None:
    header = proxy_header((source, 4711), (destination, 80), identity)
    found = proxyproto.parse(header + b"GET", (2,))
    assert found is not None
    assert found.size == len(header)
    assert found.source == (seen, 4711)
    assert found.destination == (destination, 80)
    assert (WHO.encode() in header) is bool(identity)
