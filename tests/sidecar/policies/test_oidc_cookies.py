"""Cookies that only the gateway can read: sealing, parts, and what other values come to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.policies.oidc_cookies import (
    CookieBox,
    CookieTooLargeError,
    ReservedCookies,
    jar_of,
    secret_key,
    without_foreign,
)
from tests.support.messages import request

KEY = bytes(range(32))
BOX = CookieBox(KEY, "route/a", ("https://idp.example", "web"), is_secure=True)
NAME = BOX.names["s"]


def jar(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """What a browser sends back."""
    pairs = [value.split(b";")[0].partition(b"=") for _, value in fields]
    return {name: value for name, _, value in pairs}


def opened(fields: list[tuple[bytes, bytes]], box: CookieBox = BOX) -> dict[str, Any] | None:
    return box.opened("s", NAME, box.value(NAME, jar(fields)))


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=3000), max_size=3))
def test_what_is_sealed_opens(value: dict[str, str]) -> None:
    fields = BOX.cookies("s", NAME, value, 60)
    assert opened(fields) == value
    for name, text in fields:
        assert name == b"set-cookie"
        assert len(text) < 4096
        assert b"; Max-Age=60; Path=/; HttpOnly; SameSite=Lax; Secure" in text


def test_a_long_value_stands_in_parts() -> None:
    value = {"t": "x" * 9000}
    fields = BOX.cookies("s", NAME, value, 60)
    assert [one.partition("=")[0] for one in (text.decode() for _, text in fields)] == [
        NAME,
        f"{NAME}.1",
        f"{NAME}.2",
        f"{NAME}.3",
    ]
    assert opened(fields) == value
    assert opened(fields[:-1]) is None
    assert opened([fields[0], fields[2], fields[1], fields[3]]) == value
    with pytest.raises(CookieTooLargeError):
        BOX.cookies("s", NAME, {"t": "x" * 20_000}, 60)
    assert [text.split(b"=")[0].decode() for _, text in BOX.cleared(NAME, jar(fields))] == [
        NAME,
        f"{NAME}.1",
        f"{NAME}.2",
        f"{NAME}.3",
    ]
    assert len(BOX.cleared(NAME)) == 1


@pytest.mark.parametrize(
    "other",
    [
        CookieBox(bytes(32), "route/a", ("https://idp.example", "web"), is_secure=True),
        CookieBox(KEY, "route/b", ("https://idp.example", "web"), is_secure=True),
        CookieBox(KEY, "route/a", ("https://evil.example", "web"), is_secure=True),
        CookieBox(KEY, "route/a", ("https://idp.example", "other"), is_secure=True),
    ],
    ids=["another key", "another place", "another issuer", "another client"],
)
def test_what_another_sealed_does_not_open(other: CookieBox) -> None:
    value = other.sealed("s", NAME, {"t": "x"}).encode()
    assert other.opened("s", NAME, value) == {"t": "x"}
    assert BOX.opened("s", NAME, value) is None


def test_one_purpose_is_not_another() -> None:
    value = BOX.sealed("s", NAME, {"t": "x"}).encode()
    assert BOX.opened("r", NAME, value) is None
    assert BOX.opened("s", NAME + "x", value) is None


def test_no_octet_can_be_changed() -> None:
    value = BOX.sealed("s", NAME, {"t": "x"}).encode()
    for at in range(len(value) - 1):
        changed = value[:at] + (b"A" if value[at : at + 1] != b"A" else b"B") + value[at + 1 :]
        assert BOX.opened("s", NAME, changed) is None
    for bad in (b"", b"AAAA", b"=", b"9.AAAA", b"2.AAAA", b"\xff" * 40, b"A" * 5001, value[:-4]):
        assert BOX.opened("s", NAME, bad) is None


def test_two_values_of_one_name_are_none() -> None:
    one = request(headers=[("cookie", f"{NAME}=a; x=1"), ("cookie", f"{NAME}=b; agw_oidc_t_1=c")])
    assert jar_of(one) == {b"agw_oidc_t_1": b"c"}
    assert jar_of(request(headers=[("cookie", f"{NAME}=a; {NAME}=a")])) == {NAME.encode(): b"a"}


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        ("a=1; agw_oidc_s_0=x; b=2", "a=1; b=2"),
        ("agw_oidc_s_0=x", None),
        ("agw_oidc_s_0=x;agw_oidc_t_0.1=y;  a=1", "a=1"),
        ("a=agw_oidc_s_0", "a=agw_oidc_s_0"),
        ("AGW_OIDC_S=1", "AGW_OIDC_S=1"),
        ("a=1", "a=1"),
    ],
)
def test_reserved_cookies_go_no_further(sent: str, left: str | None) -> None:
    one = request(headers=[("cookie", sent), ("x-a", "1")])
    before = one.headers
    copy = list(before)
    ReservedCookies().on_request(one)
    assert one.headers.get(b"cookie") == (None if left is None else left.encode())
    assert one.headers.get(b"x-a") == b"1"
    assert list(before) == copy


def test_an_upstream_sets_none_of_ours() -> None:
    headers = Headers(
        (
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b" agw_oidc_s_0=x"),
            (b"x", b"agw_oidc_s_0=x"),
            # Without a name: browsers send what stands behind the sign.
            (b"set-cookie", b"=agw_oidc_s_0=x"),
            (b"set-cookie", b" =\tagw_oidc_s_0=x; Path=/"),
        )
    )
    without_foreign(headers)
    assert headers == [(b"set-cookie", b"a=1"), (b"x", b"agw_oidc_s_0=x")]


@pytest.mark.parametrize("text", ["", "00", "g" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_a_bad_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        secret_key(text)
    assert "OIDC_COOKIE_SECRET" in str(caught.value)
    assert not text or text not in str(caught.value)
    assert secret_key("0f" * 32) == bytes([15]) * 32
