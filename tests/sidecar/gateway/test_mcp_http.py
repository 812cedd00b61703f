"""Who asks, as MCP sessions are bound to it (gateway.mcp_http)."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.gateway.mcp_http import proofs, shown
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request


def request(*headers: tuple[bytes, bytes], **state: Any) -> Request:
    connection = Connection("", 0, "", 0)
    made = Request("POST", "http", "", "/", "", Headers(headers), FixedBody(), connection, 0)
    made.state = {name.replace("_", "."): value for name, value in state.items()}
    return made


def whose(claims: dict[str, Any], token: str) -> dict[str, str]:
    return proofs(request(jwt={"iss": "i", **claims}, jwt_rawToken=token))


@pytest.mark.parametrize("claim", ["sub", "client_id", "azp", "appid", "cid"])
def test_a_token_is_of_whom_it_names(claim: str) -> None:
    assert whose({claim: "a"}, "1") == whose({claim: "a"}, "2")
    assert whose({claim: "a"}, "1") != whose({claim: "b"}, "1")
    # A program is no person of the same name.
    assert (whose({claim: "a"}, "1") == whose({"sub": "a"}, "1")) == (claim == "sub")


@pytest.mark.parametrize("claims", [{}, {"sub": None}, {"sub": ""}, {"sub": ["a"]}])
def test_45_tokens_that_name_nobody_are_each_their_own(claims: dict[str, Any]) -> None:
    assert whose(claims, "1") == whose(claims, "1")
    assert whose(claims, "1") != whose(claims, "2")


def test_what_servers_are_shown() -> None:
    made = request((b"authorization", b"a"), (b"x-api-key", b"k"), (b"user-agent", b"u"))
    assert shown(made, is_trusted=True) == {"authorization": "a", "x-api-key": "k"}
    assert shown(made, is_trusted=False) == {"x-api-key": "k"}
    assert shown(request(), is_trusted=True) == {}
