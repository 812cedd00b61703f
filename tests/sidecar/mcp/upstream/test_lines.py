"""Tests of sidecar.mcp.upstream.lines: bytes in, lines out, however they were split."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.mcp.upstream.lines import LineReader


def read(pieces: list[bytes], limit: int = 1000) -> tuple[list[bytes], int]:
    lines: list[bytes] = []
    counts = {"long": 0, "ends": 0}

    def count(what: str) -> None:
        counts[what] += 1

    reader = LineReader(limit, lines.append, lambda: count("long"), lambda: count("ends"))
    for piece in pieces:
        reader.data_received(piece)
    reader.connection_lost(None)
    assert counts["ends"] == 1
    return lines, counts["long"]


def test_lines() -> None:
    assert read([b"a\nb", b"c\n\n", b"d"]) == ([b"a", b"bc", b"d"], 0)


def test_a_long_line_is_left_out_and_the_next_one_is_not() -> None:
    assert read([b"a\n", b"x" * 6, b"x" * 6, b"x\nb\n" + b"y" * 20 + b"\nc"], 10) == (
        [b"a", b"b", b"c"],
        2,
    )


@given(st.lists(st.binary(max_size=20)), st.data())
def test_split_anywhere(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(line.replace(b"\n", b"") for line in lines) + b"\n"
    at = data.draw(st.integers(0, len(whole)))
    assert read([whole[:at], whole[at:]]) == read([whole])
