from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.mcp.token import MAX_CHARS, Claims, Sealer, Upstream, base64, unbase64

KEY = bytes(range(32))
CLAIMS = Claims(
    b"u" * 16,
    b"b" * 16,
    b"p" * 16,
    "2025-11-25",
    1_800_000_000,
    (Upstream("one", "abc", "2025-11-25", "10.0.0.1:80", 7), Upstream("two")),
    {"protocolVersion": "2025-11-25", "capabilities": {"roots": {}}},
)


def test_round_trip_in_another_process() -> None:
    text = Sealer(KEY).seal(CLAIMS)
    assert Sealer(KEY).open(text) == CLAIMS
    assert all(0x21 <= ord(char) <= 0x7E for char in text)


def test_two_ids_of_one_session_differ() -> None:
    sealer = Sealer(KEY)
    assert sealer.seal(CLAIMS) != sealer.seal(CLAIMS)


def test_another_key_knows_nothing() -> None:
    assert Sealer(bytes(32)).open(Sealer(KEY).seal(CLAIMS)) is None


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_every_changed_octet_shows(at: int, change: int) -> None:
    raw = unbase64(Sealer(KEY).seal(CLAIMS))
    assert raw is not None
    changed = bytearray(raw)
    changed[at % len(raw)] ^= change
    assert Sealer(KEY).open(base64(bytes(changed))) is None


@pytest.mark.parametrize(
    "text",
    ["", "A", "=", "é", "a b", "A" * 16, "A" * (MAX_CHARS + 1), "AAAA\n"],
    ids=["empty", "one", "padding", "latin", "space", "nonce", "long", "newline"],
)
def test_junk(text: str) -> None:
    assert Sealer(KEY).open(text) is None


def test_one_text_a_session() -> None:
    """The last character of base64 may hold bits that mean nothing: they must be zero."""
    text = Sealer(KEY).seal(dataclasses.replace(CLAIMS, client=None))
    raw = unbase64(text)
    others = [text[:-1] + char for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefgh0123456789-_"]
    assert [one for one in others if unbase64(one) == raw] in ([], [text])
    assert unbase64(text + "=") is None


def test_long_greeting_is_left_out() -> None:
    noise = {str(n): f"{n * 7919:x}{n * 104729:x}" for n in range(500)}
    opened = Sealer(KEY).open(Sealer(KEY).seal(dataclasses.replace(CLAIMS, client=noise)))
    assert opened == dataclasses.replace(CLAIMS, client=None)


def test_sealed_for_another_purpose() -> None:
    sealer = Sealer(KEY)
    text = sealer.seal_bytes(b"state", b"one")
    assert sealer.open_bytes(text, b"one") == b"state"
    assert sealer.open_bytes(text, b"two") is None
    assert sealer.open(text) is None
