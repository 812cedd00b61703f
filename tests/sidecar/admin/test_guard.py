from __future__ import annotations

import pytest

from sidecar.admin.guard import host_name, is_loopback


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("localhost", "localhost"),
        ("localhost:15000", "localhost"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]:15000", "::1"),
        ("[::1]", "::1"),
        ("[::1", ""),
        ("[::1]x", ""),
        ("localhost:evil.example", ""),
        ("::1", ""),
        ("", ""),
    ],
)
def test_host_name(authority, host):
    assert host_name(authority) == host


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("localhost.evil.example", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_is_loopback(host, loopback):
    assert is_loopback(host) is loopback
