"""csrf: requests of other sites' pages."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError, RequestError
from tests.support.messages import policy, request

PAYLOAD = {"additionalOrigins": ["https://App.example:443", "http://old.example:8080"]}
APP = ("origin", "https://app.example")
OWN = ("origin", "http://shop.example")
EVIL = ("origin", "https://evil.example")


def site(value: str) -> tuple[str, str]:
    return ("sec-fetch-site", value)


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([], True),
        ([site("same-origin")], True),
        ([site("none")], True),
        ([site("same-origin"), EVIL], True),
        ([site("cross-site")], False),
        ([site("cross-site"), EVIL], False),
        ([site("same-site"), EVIL], False),
        # The browser knows better than a comparison of names.
        ([site("cross-site"), OWN], False),
        ([site("cross-site"), APP], True),
        ([site("same-site"), ("origin", "http://old.example:8080")], True),
        ([site("same-site"), ("origin", "http://old.example")], False),
        ([site("Same-Origin"), EVIL], False),
        ([site("")], False),
        ([site("none"), site("cross-site")], False),
        ([OWN], True),
        ([("origin", "HTTP://SHOP.example:80")], True),
        ([("origin", "https://shop.example")], False),
        ([("origin", "http://shop.example:8080")], False),
        ([("origin", "http://shop.example.evil.example")], False),
        ([("origin", "http://evil.example/http://shop.example")], False),
        ([EVIL], False),
        ([APP], True),
        ([("origin", "null")], False),
        ([("origin", "")], False),
        ([OWN, EVIL], False),
        ([("origin", "\xff\xfe")], False),
    ],
)
def test_origins(headers: list[tuple[str, str]], passes: bool) -> None:
    made = policy("csrf", PAYLOAD)
    for method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND"):
        asked = request(method, "/", headers)
        if passes:
            made.on_request(asked)
        else:
            with pytest.raises(RequestError) as caught:
                made.on_request(asked)
            found = caught.value
            assert (found.status, found.message) == (403, "CSRF validation failed")
    for method in ("GET", "HEAD", "OPTIONS"):
        made.on_request(request(method, "/", headers))


def test_null_when_it_is_listed() -> None:
    asked = request("POST", "/", [("origin", "null")])
    policy("csrf", {"additionalOrigins": ["null"]}).on_request(asked)
    with pytest.raises(RequestError):
        policy("csrf", {}).on_request(asked)


@pytest.mark.parametrize(
    "origin",
    ["", "*", "app.example", "https://", "https://a/", "https://a?b", "https://u@a", "https://é", "https://[::1"],
)  # fmt: skip
def test_refused_configurations(origin: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy("csrf", {"additionalOrigins": [origin]})
    assert caught.value.path == "csrf.additionalOrigins[0]"
