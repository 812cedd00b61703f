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
@pytest.mark.parametrize("identity", [None, 0, -7, 2**60, "", "c-1", "\u00e9\n", "x" * 62])
def test_logged_round_trip(listens: bool, identity: int | str | None) -> None:
    place = Logged(3, "0123456789abcdef", 17, listens=listens, identity=identity)
    assert not {10, 13, 0} & set(logged(place))
    assert parse(logged(place)) == place


def test_ids_of_requests_that_are_long_are_left_out() -> None:
    place = Logged(3, "0123456789abcdef", 17, identity="x" * 63)
    assert parse(logged(place)) == Logged(3, "0123456789abcdef", 17)


@pytest.mark.parametrize("named", ["abc", "ff", "6e756c6c", "74727565", "5b5d", "312e35"])
def test_what_is_no_id_of_a_request(named: str) -> None:
    """Odd, no JSON, null, true, a list, a fraction."""
    found = parse(f"agw-l3-0123456789abcdef-{named}-17".encode())
    assert found == Logged(3, "0123456789abcdef", 17)


@pytest.mark.parametrize("raw", [b"17", b"stream_1/5", b"agw-l", b"agw-l1-x-2", b"\xff"])
def test_a_servers_own(raw: bytes) -> None:
    assert parse(raw) == raw


@pytest.mark.parametrize(
    "raw", [b"agw-u!", b"agw-uW10", b"agw-ueyJhIjoxfQ", b"agw-u\xff", b"x" * (MAX_CHARS + 1)]
)
def test_malformed(raw: bytes) -> None:
    assert parse(raw) is None
