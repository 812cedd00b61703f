"""Where agents may be told to call: hardening case 43."""

from __future__ import annotations

import ipaddress

import pytest

from sidecar.a2a.webhook import Policy, Refused

POLICY = Policy()

INSIDE = (
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://0/",
    "http://0.0.0.0:8080/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data",
    "http://168.63.129.16/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::127.0.0.1]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[ff02::1]/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://a.localhost/",
    "http://metadata.google.internal/",
    "http://printer.local/",
    "http://kubernetes/",
    "http://127.0.0.1./",
)
UNREADABLE = (
    "",
    "hook",
    "//hook.test/",
    "ftp://hook.test/",
    "file:///etc/passwd",
    "gopher://hook.test/",
    "http:///path",
    "http://",
    "http://user@hook.test/",
    "http://hook.test@127.0.0.1/",
    "http://hook.test\\@127.0.0.1/",
    "http://hook.test:99999/",
    "http://hook.test:x/",
    "http://[::1/",
    "http://hook%2etest/",
    "http://hook .test/",
    "http://hook.test/\n",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://hoöok.test/",
    "http://-.hook!.test/",
    "http://hook.test/" + "a" * 3000,
    7,
    None,
    {"url": "http://hook.test/"},
)


@pytest.mark.parametrize("url", INSIDE)
def test_inside(url: str) -> None:
    with pytest.raises(Refused):
        POLICY.needs_lookup(url)


@pytest.mark.parametrize("url", UNREADABLE)
def test_unreadable(url: object) -> None:
    with pytest.raises(Refused):
        POLICY.needs_lookup(url)


def test_outside() -> None:
    assert POLICY.needs_lookup("https://93.184.216.34/hook?a=1") is None
    assert POLICY.needs_lookup("https://[2606:2800:220:1::1]:8443/") is None
    assert POLICY.needs_lookup("HTTPS://Hook.Test./a") == "hook.test"


def test_addresses_of_a_name() -> None:
    POLICY.check(ipaddress.ip_address("93.184.216.34"))
    for text in ("10.0.0.1", "::ffff:10.0.0.1", "2001:0:a00:1::"):
        with pytest.raises(Refused):
            POLICY.check(ipaddress.ip_address(text))


def test_what_is_allowed() -> None:
    policy = Policy(
        ["hooks.internal", "*.trusted.internal"],
        [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")],
        ["https"],
    )
    assert policy.needs_lookup("https://hooks.internal/") is None
    assert policy.needs_lookup("https://a.trusted.internal/") is None
    assert policy.needs_lookup("https://10.1.2.3/") is None
    assert policy.needs_lookup("https://[fd00::1]/") is None
    for url in (
        "http://hooks.internal/",
        "https://trusted.internal/",
        "https://nottrusted.internal/",
        "https://a.hooks.internal/",
        "https://10.2.0.1/",
    ):
        with pytest.raises(Refused):
            policy.needs_lookup(url)
