"""Composite cursors: round trips, order, and what is not one."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import UpstreamError
from sidecar.jsonrpc import JsonRpcError
from sidecar.mcp import cursors

METHOD = "tools/list"
TARGETS = ("a", "b", "c")


def made(document: object) -> str:
    return urlsafe_b64encode(orjson.dumps(document)).rstrip(b"=").decode()


def test_nothing_left():
    assert cursors.encode(METHOD, {}) is None


def test_the_exhausted_are_not_asked_again():
    text = cursors.encode(METHOD, {"a": "2", "c": "page=3"})
    assert cursors.decode(METHOD, text, TARGETS) == {"a": "2", "c": "page=3"}


def test_order_is_that_of_the_configuration():
    text = cursors.encode(METHOD, {"c": "1", "a": "2"})
    assert list(cursors.decode(METHOD, text, TARGETS)) == ["a", "c"]


def test_same_pages_same_cursor():
    assert cursors.encode(METHOD, {"a": "1"}) == cursors.encode(METHOD, {"a": "1"})


MALFORMED = {
    "not text": 7,
    "null": None,
    "empty": "",
    "not base64": "%%%",
    "one character": "a",
    "not ASCII": "é",
    "not JSON": "abcd",
    "an object": made({"a": "1"}),
    "a number": made(1),
    "empty list": made([]),
    "another version": made([2, METHOD, "a", "1"]),
    "another method": made([1, "prompts/list", "a", "1"]),
    "no targets": made([1, METHOD]),
    "half a pair": made([1, METHOD, "a"]),
    "a cursor that is no text": made([1, METHOD, "a", 1]),
    "unknown target": made([1, METHOD, "z", "1"]),
    "a target twice": made([1, METHOD, "a", "1", "a", "2"]),
    "too long": "a" * (cursors.MAX_CURSOR + 1),
    "nested deep": made("x") + made("[" * 1000),
}


@pytest.mark.parametrize("cursor", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(cursor):
    with pytest.raises(JsonRpcError) as caught:
        cursors.decode(METHOD, cursor, TARGETS)
    assert (caught.value.code, caught.value.status) == (-32602, 400)


def test_a_server_with_an_absurd_cursor():
    with pytest.raises(UpstreamError, match=r"^b: a cursor of more than 4096 bytes$"):
        cursors.encode(METHOD, {"a": "1", "b": "x" * 4097})


def test_all_together_too_long():
    with pytest.raises(UpstreamError, match="together"):
        cursors.encode(METHOD, {f"t{number}": "x" * 4096 for number in range(12)})


NAMES = st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(st.dictionaries(NAMES, TEXT, min_size=1, max_size=6))
def test_round_trip(given_cursors):
    text = cursors.encode(METHOD, given_cursors)
    assert text.isascii()
    assert cursors.decode(METHOD, text, tuple(given_cursors)) == given_cursors


@given(st.text(max_size=60))
def test_nothing_else_is_raised(text):
    with pytest.raises(JsonRpcError):
        cursors.decode(METHOD, text, TARGETS)
