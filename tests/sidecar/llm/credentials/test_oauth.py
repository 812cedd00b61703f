"""Answers of token endpoints, and tokens that they judge: right ones, and hostile ones."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import RequestError, UpstreamError
from sidecar.llm.credentials import oauth
from sidecar.llm.credentials.oauth import ID_JAG, JWT, claims_of, issued, may_act, seconds_left

GOOD = {"access_token": "t", "token_type": "bearer", "expires_in": 60}


def answer(**changes: Any) -> bytes:
    return orjson.dumps({**GOOD, **changes})


def token(payload: Any) -> str:
    text = base64.urlsafe_b64encode(orjson.dumps(payload)).rstrip(b"=").decode()
    return f"e30.{text}.c2ln"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (60, 60.0),
        ("60", 60.0),
        (None, None),
        (0, 0.0),
        (-5, 0.0),
        (1e300, 86400.0),
        ("soon", 0.0),
        ("nan", 0.0),
        ([60], 0.0),
        (True, 1.0),
    ],
)
def test_how_long_a_token_lives(given: object, seconds: float | None) -> None:
    assert issued(200, answer(expires_in=given), None) == ("t", seconds)
    assert "s3cret" not in repr(issued(200, answer(access_token="s3cret"), None))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"", None),
        (200, b"[]", None),
        (200, b"{", None),
        (200, answer(token_type=None), None),
        (200, answer(token_type="DPoP"), None),
        (200, answer(token_type="N_A"), None),
        (200, answer(access_token=""), None),
        (200, answer(access_token=5), None),
        (200, answer(access_token="a b"), None),
        (200, answer(access_token="a\r\nb: c"), None),
        (200, answer(access_token="\u00e9"), None),
        (200, answer(access_token="x" * 8193), None),
        (200, answer(issued_token_type="urn:x"), None),
        (200, answer(issued_token_type=ID_JAG), None),
        (200, answer(issued_token_type=oauth.ACCESS_TOKEN), JWT),
        (200, answer(issued_token_type=[JWT]), JWT),
        (302, b"", None),
        (401, b"{}", None),
        (403, b"{}", None),
        (408, b"{}", None),
        (429, b"{}", None),
        (400, orjson.dumps({"error": "invalid_client"}), None),
        (400, orjson.dumps({"error": "unauthorized_client"}), None),
        (500, b"", None),
        (503, answer(), None),
        (199, answer(), None),
    ],
)
def test_answers_that_are_the_endpoints_fault(
    status: int, body: bytes, expected: str | None
) -> None:
    with pytest.raises(UpstreamError) as caught:
        issued(status, body, expected)
    assert (caught.value.status, caught.value.code) == (500, "UpstreamFailure")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error":"invalid_grant","error_description":"S"}', " (invalid_grant)"),
        (b'{"error":"<script>"}', ""),
        (b'{"error":["invalid_grant"]}', ""),
        (b"S", ""),
    ],
)
def test_a_token_that_was_not_accepted(body: bytes, told: str) -> None:
    with pytest.raises(RequestError) as caught:
        issued(400, body, None)
    assert caught.value.status == 400
    assert caught.value.message == (
        f"backend authentication failed: the token was not accepted{told}"
    )


def test_an_assertion_says_what_it_is() -> None:
    good = answer(token_type="N_A", issued_token_type=ID_JAG)
    assert issued(200, good, ID_JAG, is_assertion=True).token == "t"
    for bad in (answer(token_type="N_A"), answer(issued_token_type=JWT), answer(token_type="x")):
        with pytest.raises(UpstreamError):
            issued(200, bad, ID_JAG, is_assertion=True)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(100, 599),
    st.binary(max_size=64)
    | st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda more: st.dictionaries(
            st.sampled_from(["access_token", "token_type", "expires_in", "error"]), more
        ),
        max_leaves=5,
    ).map(lambda value: orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)),
)
def test_whatever_comes_is_a_token_or_a_problem(status: int, body: bytes) -> None:
    try:
        found = issued(status, body, None)
    except (RequestError, UpstreamError):
        return
    assert found.token.isascii()
    assert found.token.isprintable()


def test_what_is_asked_for() -> None:
    assert oauth.common_fields(["a", "b"], ["r", "w"], ["u", "v"]) == [
        ("audience", "a"),
        ("audience", "b"),
        ("scope", "r w"),
        ("resource", "u"),
        ("resource", "v"),
    ]
    assert oauth.common_fields((), (), ()) == []


@pytest.mark.parametrize(
    "text", ["", "a", "a.b", "a.b.c.d", "e30.é.x", "e30.W10.x", "e30.e3.x", f"e30.{'e' * 20000}.x"]
)
def test_tokens_that_claim_nothing(text: str) -> None:
    assert claims_of(text) is None
    assert seconds_left(text, 0) is None


@pytest.mark.parametrize(
    ("until", "left"),
    [(100, 90.0), (5.5, -4.5), (None, None), ("100", None), (True, None), (1e400, None)],
)
def test_the_end_of_a_token(until: Any, left: float | None) -> None:
    payload = token({"exp": until}) if until != 1e400 else f"e30.{'eyJleHAiOjFlNDAwfQ'}.x"
    assert seconds_left(payload, 10 * 10**9) == left


@pytest.mark.parametrize(
    ("wanted", "actor", "is_allowed"),
    [
        ({"sub": "a"}, {"sub": "a", "iss": "i"}, True),
        ({"sub": "a", "iss": "i"}, {"sub": "a", "iss": "i"}, True),
        ({"sub": ["a", "b"]}, {"sub": "b"}, True),
        ({"sub": "a", "iss": "i"}, {"sub": "a"}, False),
        ({"sub": "a"}, {"sub": "A"}, False),
        ({"sub": ["a"]}, {"sub": ["a"]}, False),
        ({"sub": None}, {}, False),
        ({"sub": None}, {"sub": None}, False),
        ({"n": 1}, {"n": True}, False),
        ({}, {"sub": "a"}, False),
        ([], {"sub": "a"}, False),
        (None, {"sub": "a"}, False),
        ("a", {"sub": "a"}, False),
    ],
)
def test_who_may_act(wanted: Any, actor: Any, is_allowed: bool) -> None:
    assert may_act(token({"may_act": wanted}), token(actor)) is is_allowed
    assert not may_act(token({"may_act": wanted}), "opaque")
    assert not may_act("opaque", token(actor))
