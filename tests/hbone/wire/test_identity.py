"""What is a SPIFFE identity of a workload."""

from __future__ import annotations

import pytest

from hbone.wire.identity import Identity, first_identity, parse_identity

GOOD = "spiffe://td.example/ns/a/sa/b"


def test_form() -> None:
    identity = parse_identity(GOOD)
    assert identity == Identity("td.example", "a", "b")
    assert str(identity) == GOOD


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://td",
        "spiffe://td/ns/a",
        "spiffe://td/ns/a/sa/",
        "spiffe://td/ns//sa/b",
        "spiffe:///ns/a/sa/b",
        "spiffe://td/ns/a/sa/b/",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/sa/a/ns/b",
        "https://td/ns/a/sa/b",
        "spiffe://td/ns/a/sa/b\n",
        "spiffe://t d/ns/a/sa/b",
        "spiffe://user@td/ns/a/sa/b",
        "spiffe://td:1/ns/a/sa/b",
        "spiffe://td/ns/a b/sa/c",
        "spiffe://td/ns/a/sa/" + "b" * 3000,
    ],
)
def test_not(uri: str) -> None:
    assert parse_identity(uri) is None


def test_first_that_is_one() -> None:
    assert first_identity(["https://x", GOOD, "spiffe://td/ns/c/sa/d"]) == parse_identity(GOOD)
    assert first_identity([]) is None
