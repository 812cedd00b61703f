"""Checks on names and values, and the bytes of computed values."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.headers import Headers
from sidecar.policies import fields
from tests.support.messages import policy, request

ENCODED = {
    "text": ("aü", "aü".encode()),
    "octets that came in": ("a\udcff", b"a\xff"),
    "46 lone surrogate": ("\ud800", None),
    "46 lone surrogate inside": (["\ud800"], None),
    "null": (None, None),
    "bytes": (b"\xff", b"\xff"),
    "bytes inside": ([b"a"], b'["a"]'),
    "number": (3, b"3"),
    "double": (0.5, b"0.5"),
    "boolean": (False, b"false"),
    "map": ({"a": None, 1: 2}, b'{"a":null,"1":2}'),
    "time": (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), b"2026-01-02T03:04:05Z"),
    "duration": (datetime.timedelta(milliseconds=1500), b"1.5s"),
    "duration inside": ([datetime.timedelta(seconds=2)], b'["2s"]'),
    "no JSON form": (object(), None),
}


@pytest.mark.parametrize(("value", "expected"), ENCODED.values(), ids=ENCODED.keys())
def test_encoded(value, expected):
    assert fields.encoded(value) == expected


COMPUTED = {
    "one": ("X-A", "1", [(b"x-a", b"1")]),
    "many": ("x", ["1", 2, None], [(b"x", b"1"), (b"x", b"2")]),
    "pseudo": (":path", "/", []),
    "host": ("Host", "a", []),
    "framing": ("Content-Length", "3", []),
    "no token": ("a b", "1", []),
    "no text": (1, "1", []),
    "control": ("x", ["a\rb", "ok"], [(b"x", b"ok")]),
}


@pytest.mark.parametrize(("name", "values", "expected"), COMPUTED.values(), ids=COMPUTED.keys())
def test_computed(name, values, expected):
    assert fields.computed(name, values) == expected


@given(st.binary())
def test_checked_values_are_fit_for_the_wire(value):
    good = fields.checked(value)
    assert good is None or not any((octet < 32 and octet != 9) or octet == 127 for octet in good)


def test_remover_keeps_order():
    headers = Headers([(b"a", b"1"), (b"x-b", b"2"), (b"x_b", b"3"), (b"c", b"4")])
    drop = fields.remover([b"x-b"], twins=True)
    assert drop is not None
    drop(headers)
    assert headers == [(b"a", b"1"), (b"c", b"4")]
    assert fields.remover([], twins=True) is None


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_a_location_is_visible_ascii_whatever_the_target(tail):
    redirect = policy("requestRedirect", {"scheme": "https"})
    answer = redirect.on_request(request(target="/" + tail))
    location = answer.headers.get(b"location")
    assert location.startswith(b"https://shop.example/")
    assert all(0x21 <= octet <= 0x7E for octet in location)
