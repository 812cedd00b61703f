"""Keys in headers, query parameters and cookies."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.llm.credentials.base import Outgoing
from sidecar.llm.credentials.static import placing


def outgoing(target: str = "/x", headers: list[tuple[bytes, bytes]] | None = None) -> Outgoing:
    return Outgoing("POST", "https", "h", target, Headers(headers or []))


def test_the_default_place_is_a_bearer_token_in_the_clients_stead() -> None:
    request = outgoing(headers=[(b"authorization", b"Bearer client")])
    placing(None, "key", "")(request)
    assert request.headers == [(b"authorization", b"Bearer key")]


def test_a_header_of_another_name_has_no_prefix() -> None:
    request = outgoing()
    placing({"header": {"name": "X-Api-Key"}}, "key", "")(request)
    assert request.headers == [(b"x-api-key", b"key")]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/x", "/x?key=a%26b"),
        ("/x?a=1&key=old&%6bey=old", "/x?a=1&key=a%26b"),
        ("/x?", "/x?key=a%26b"),
    ],
)
def test_a_query_parameter_replaces_its_like(target: str, expected: str) -> None:
    request = outgoing(target)
    placing({"queryParameter": {"name": "key"}}, "a&b", "")(request)
    assert request.target == expected


def test_a_cookie_replaces_its_like() -> None:
    request = outgoing(headers=[(b"cookie", b"a=1; s=old"), (b"cookie", b"s=older")])
    placing({"cookie": {"name": "s"}}, "n;w", "")(request)
    assert request.headers == [(b"cookie", b"a=1; s=n%3Bw")]


@pytest.mark.parametrize(
    ("location", "value"),
    [(None, ""), (None, "a\r\nb"), (None, "käse"), ({"expression": "x"}, "key")],
)
def test_what_cannot_be_written_is_refused(location: Any, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        placing(location, value, "key")
    assert caught.value.path == "key"
    assert not value or value not in caught.value.message.replace("key", "")
