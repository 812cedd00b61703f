"""JSON-RPC messages: what is one, of which kind, and what is refused."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import jsonrpc
from sidecar.jsonrpc import JsonRpcError

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "1.0"]) | _JSON,
        "id": _JSON,
        "method": st.just("ping") | _JSON,
        "params": _JSON,
        "result": _JSON,
        "error": _JSON,
    },
)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', "request"),
        (b'{"jsonrpc":"2.0","id":"a","method":"ping","params":{}}', "request"),
        (b'{"jsonrpc":"2.0","method":"notifications/initialized"}', "notification"),
        (b'{"jsonrpc":"2.0","id":0,"result":{}}', "result"),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":""}}', "error"),
        (b'{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":""}}', "error"),
    ],
)
def test_kinds(raw: bytes, kind: str) -> None:
    assert jsonrpc.kind_of(jsonrpc.parse(raw)) == kind


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", jsonrpc.PARSE_ERROR),
        (b"{", jsonrpc.PARSE_ERROR),
        (b'{"a":\xff}', jsonrpc.PARSE_ERROR),
        (b"\xef\xbb\xbf{}", jsonrpc.PARSE_ERROR),
        (b'{"id":NaN}', jsonrpc.PARSE_ERROR),
        (b"[" * 200 + b"]" * 200, jsonrpc.PARSE_ERROR),
        (b"[]", jsonrpc.INVALID_REQUEST),
        (b"1", jsonrpc.INVALID_REQUEST),
        (b"null", jsonrpc.INVALID_REQUEST),
    ],
)
def test_documents_that_hold_no_message(raw: bytes, code: int) -> None:
    with pytest.raises(JsonRpcError) as caught:
        jsonrpc.parse(raw)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "2.0"}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": True, "method": "ping"}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": 7}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, jsonrpc.INVALID_PARAMS),
        ({"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "error": "no"}, jsonrpc.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "result": {}}, jsonrpc.INVALID_REQUEST),
    ],
)
def test_what_is_no_message(message: object, code: int) -> None:
    with pytest.raises(JsonRpcError) as caught:
        jsonrpc.kind_of(message)
    assert caught.value.code == code


def test_bad_params_are_told_to_the_request_that_had_them() -> None:
    with pytest.raises(JsonRpcError) as caught:
        jsonrpc.kind_of({"jsonrpc": "2.0", "id": 9, "method": "ping", "params": 1})
    assert caught.value.identity == 9


def test_many_brackets_are_not_depth() -> None:
    raw = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": {"s": "[" * 500, "l": [[]] * 500}})
    assert jsonrpc.kind_of(jsonrpc.parse(raw)) == "result"


def test_escaped_quotes_hide_no_depth() -> None:
    raw = b'{"a\\"":' + b"[" * 128 + b"]" * 128 + b"}"
    with pytest.raises(JsonRpcError, match="deep"):
        jsonrpc.parse(raw)


@given(_FIELDS)
def test_any_object_is_of_a_kind_or_refused(message: dict[str, object]) -> None:
    try:
        kind = jsonrpc.kind_of(message)
    except JsonRpcError:
        return
    assert kind in ("request", "notification", "result", "error")
    assert (kind in ("request", "notification")) == (message.get("method") is not None)
