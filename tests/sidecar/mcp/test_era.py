from __future__ import annotations

from typing import Any

import pytest

from sidecar.http.headers import Headers
from sidecar.jsonrpc import Json, JsonRpcError, kind_of
from sidecar.mcp.era import (
    LEGACY,
    MODERN,
    Legacy,
    Modern,
    era_of,
    greeting_version,
    negotiated,
    version_of,
)

V = "io.modelcontextprotocol/protocolVersion"
C = "io.modelcontextprotocol/clientCapabilities"
META = {V: MODERN, C: {}}


def headers(**given: str) -> Headers:
    pairs = ((name.replace("_", "-").encode(), value.encode()) for name, value in given.items())
    return Headers(pairs)


def request(method: str, meta: Any = None, **params: Any) -> Json:
    if meta is not None:
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


def modern_headers(method: str, **more: str) -> Headers:
    return headers(**{"mcp_protocol_version": MODERN, "mcp_method": method, **more})


@pytest.mark.parametrize(
    ("given", "message", "version"),
    [
        (headers(), request("tools/list"), ""),
        (headers(mcp_protocol_version="2025-11-25"), request("tools/list"), "2025-11-25"),
        (headers(mcp_protocol_version=" 2025-06-18 "), request("ping"), "2025-06-18"),
        (headers(), request("initialize"), ""),
        (headers(mcp_protocol_version="2099-01-01"), request("initialize"), ""),
        (headers(mcp_protocol_version=MODERN), request("initialize"), ""),
        (headers(), {"jsonrpc": "2.0", "id": 1, "result": {}}, ""),
        (headers(), request("tools/call", {"progressToken": 1}), ""),
    ],
    ids=["bare", "header", "spaces", "init", "init-future", "init-modern", "answer", "other-meta"],
)
def test_legacy(given: Headers, message: Json, version: str) -> None:
    assert era_of(given, message, kind_of(message)) == Legacy(version)


def test_modern() -> None:
    message = request("tools/call", META, name="echo")
    found = era_of(modern_headers("tools/call", mcp_name="echo"), message, "request")
    assert found == Modern(MODERN, META)


def test_modern_notification_needs_no_meta() -> None:
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
    assert isinstance(era_of(modern_headers("x"), message, "notification"), Modern)


_LIST = modern_headers("tools/list")


@pytest.mark.parametrize(
    ("given", "message", "status", "code"),
    [
        (headers(mcp_protocol_version="2099-01-01"), request("ping"), 400, -32022),
        (_LIST, request("tools/list"), 400, -32602),
        (_LIST, request("tools/list", {V: MODERN}), 400, -32602),
        (_LIST, request("tools/list", {V: 7, C: {}}), 400, -32602),
        (_LIST, request("tools/list", {V: MODERN, C: []}), 400, -32602),
        (_LIST, request("tools/list", []), 400, -32602),
        (headers(mcp_method="tools/list"), request("tools/list", META), 400, -32020),
        (
            headers(mcp_protocol_version="2025-11-25", mcp_method="tools/list"),
            request("tools/list", META),
            400,
            -32020,
        ),
        (headers(mcp_protocol_version=MODERN), request("tools/list", META), 400, -32020),
        (modern_headers("tools/call"), request("tools/list", META), 400, -32020),
        (modern_headers("tools/call"), request("tools/call", META, name="a"), 400, -32020),
        (
            modern_headers("tools/call", mcp_name="echo"),
            request("tools/call", META, name="printEnv"),
            400,
            -32020,
        ),
        (
            modern_headers("tools/list", mcp_param_x="=?base64?!?="),
            request("tools/list", META),
            400,
            -32020,
        ),
        (modern_headers("ping"), request("ping", META), 404, -32601),
        (modern_headers("initialize"), request("initialize", META), 404, -32601),
        (
            headers(mcp_protocol_version="2030-01-01", mcp_method="tools/list"),
            request("tools/list", {V: "2030-01-01", C: {}}),
            400,
            -32022,
        ),
    ],
    ids=[
        *("future", "no-meta", "no-capabilities", "version-type", "capabilities-type"),
        *("meta-type", "no-version-header", "other-version", "no-method", "other-method"),
        *("no-name", "41-other-name", "param", "removed", "initialize", "unknown-version"),
    ],
)
def test_refused(given: Headers, message: Json, status: int, code: int) -> None:
    with pytest.raises(JsonRpcError) as caught:
        era_of(given, message, "request")
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.identity == 7


def test_answers_are_not_modern() -> None:
    with pytest.raises(JsonRpcError):
        era_of(modern_headers("x"), {"jsonrpc": "2.0", "id": 1, "result": {}}, "result")


def test_unsupported_version_says_what_is() -> None:
    with pytest.raises(JsonRpcError) as caught:
        era_of(headers(mcp_protocol_version="1"), request("ping"), "request")
    assert caught.value.data == {"supported": [MODERN, *LEGACY], "requested": "1"}


def test_lenient_does_not_look_at_what_is_mirrored() -> None:
    message = request("tools/call", META, name="echo")
    given = modern_headers("tools/list", mcp_name="other")
    assert isinstance(era_of(given, message, "request", is_strict=False), Modern)
    assert isinstance(era_of(headers(), message, "request", is_strict=False), Modern)


def test_two_versions() -> None:
    two = Headers([(b"mcp-protocol-version", b"1"), (b"mcp-protocol-version", b"2")])
    with pytest.raises(JsonRpcError):
        version_of(two)
    same = Headers([(b"mcp-protocol-version", b"1"), (b"mcp-protocol-version", b"1 ")])
    assert version_of(same) == "1"


def test_negotiated() -> None:
    assert negotiated("2025-03-26") == "2025-03-26"
    assert negotiated("2099-01-01") == negotiated(None) == "2025-11-25"


def test_what_servers_are_asked_for() -> None:
    assert greeting_version(MODERN) == greeting_version("2099-01-01") == LEGACY[0]
    # Servers judge what is none of the future.
    for version in (*LEGACY, "2024-01-01", "odd", "2099-1-1", "9", ""):
        assert greeting_version(version) == version
