from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.mcp.event_ids import MAX_CHARS, Composite, Logged, composite, logged, parse


@given(
    st.dictionaries(st.text("abc-.", min_size=1, max_size=9), st.binary(max_size=40), max_size=5)
)
def test_composite_round_trip(last: dict[str, bytes]) -> None:
    raw = composite(last)
    assert not {10, 13, 0} & set(raw)
    assert parse(raw) == Composite(last)


@pytest.mark.parametrize("listens", [False, True])
def test_logged_round_trip(listens: bool) -> None:
    place = Logged(3, "0123456789abcdef", 17, listens=listens)
    assert parse(logged(place)) == place


@pytest.mark.parametrize("raw", [b"17", b"stream_1/5", b"agw-l", b"agw-l1-x-2", b"\xff"])
def test_a_servers_own(raw: bytes) -> None:
    assert parse(raw) == raw


@pytest.mark.parametrize(
    "raw", [b"agw-u!", b"agw-uW10", b"agw-ueyJhIjoxfQ", b"agw-u\xff", b"x" * (MAX_CHARS + 1)]
)
def test_malformed(raw: bytes) -> None:
    assert parse(raw) is None
