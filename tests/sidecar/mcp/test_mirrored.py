from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.headers import Headers
from sidecar.jsonrpc import JsonRpcError
from sidecar.mcp import mirrored


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        ("echo", b"echo"),
        ("two words", b"two words"),
        (" padded", b"=?base64?IHBhZGRlZA==?="),
        ("ä", b"=?base64?w6Q=?="),
        ("=?base64?eA==?=", b"=?base64?PT9iYXNlNjQ/ZUE9PT89?="),
        ("a\r\nb", b"=?base64?YQ0KYg==?="),
        ("", b"=?base64??="),
        (7, b"7"),
        (True, b"true"),
    ],
)
def test_encode(value: Any, raw: bytes) -> None:
    assert mirrored.encode(value) == raw


@given(st.text(max_size=60).filter(lambda text: text.isprintable() or "\n" in text))
def test_round_trip(text: str) -> None:
    raw = mirrored.encode(text)
    assert not {13, 10, 0} & set(raw)
    assert mirrored.decode(b"\t" + raw + b" ") == text


@pytest.mark.parametrize("raw", [b"=?base64?!!?=", b"=?base64?/w==?=", b"=?base64?YQ=?="])
def test_undecodable(raw: bytes) -> None:
    with pytest.raises(ValueError, match="base64"):
        mirrored.decode(raw)


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "a"}, "a"),
        ("resources/read", {"uri": "memo:x"}, "memo:x"),
        ("tasks/get", {"taskId": "t"}, "t"),
        ("tools/list", {"name": "a"}, None),
        ("tools/call", {"name": 7}, None),
        ("tools/call", {}, None),
    ],
)
def test_name_of(method: str, params: dict[str, Any], name: str | None) -> None:
    assert mirrored.name_of(method, params) == name


def test_two_values_that_differ() -> None:
    headers = Headers([(b"mcp-method", b"tools/list"), (b"mcp-method", b"tools/call")])
    with pytest.raises(JsonRpcError):
        mirrored.check(headers, "tools/list", {})


def test_regenerated_keeps_params() -> None:
    headers = Headers([(b"mcp-name", b"one_echo"), (b"mcp-param-x", b"1"), (b"x", b"y")])
    made = mirrored.regenerated(headers, "tools/call", {"name": "echo"})
    assert made == [
        (b"mcp-param-x", b"1"),
        (b"x", b"y"),
        (b"mcp-method", b"tools/call"),
        (b"mcp-name", b"echo"),
    ]


def test_arguments_that_have_headers() -> None:
    schema = {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
        },
    }
    wanted = mirrored.header_arguments(schema)
    assert wanted == {"region": ("region",), "n": ("deep", "n")}
    old = Headers([(b"mcp-param-region", b"stale"), (b"mcp-param-other", b"kept")])
    made = mirrored.mirrored_params(old, {"region": "ü", "deep": {"n": 5}}, wanted)
    assert made == [
        (b"mcp-param-other", b"kept"),
        (b"mcp-param-region", b"=?base64?w7w=?="),
        (b"mcp-param-n", b"5"),
    ]


@pytest.mark.parametrize(
    "properties",
    [
        {"a": {"type": "object", "x-mcp-header": "A"}},
        {"a": {"type": "string", "x-mcp-header": "A b"}},
        {"a": {"type": "string", "x-mcp-header": 1}},
        {
            "a": {"type": "string", "x-mcp-header": "A"},
            "b": {"type": "string", "x-mcp-header": "a"},
        },
    ],
    ids=["type", "no-token", "no-text", "twice"],
)
def test_invalid_annotations(properties: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"header"):
        mirrored.header_arguments({"properties": properties})
