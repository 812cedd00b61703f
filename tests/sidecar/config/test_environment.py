"""Expansion of variables, and the way back to the source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.environment import Missing, expand

ENV = {"A": "one", "EMPTY": "", "HOME": "/home/me", "É": "accent", "1": "digit"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A-${A}", "one-one"),
        ("${B:-two}", "two"),
        ("${A:-two}", "one"),
        ("${EMPTY:-two}", ""),
        ("${B:-}", ""),
        ("${B:-a b: {c", "${B:-a b: {c"),
        ("$$A", "$A"),
        ("$$$A", "$one"),
        ("$${A}", "${A}"),
        ('regex: "^x$"', 'regex: "^x$"'),
        ("cost: $ 5", "cost: $ 5"),
        ("end$", "end$"),
        ("${unclosed", "${unclosed"),
        ("$1", "digit"),
        ("$É", "accent"),
        ("~/x", "/home/me/x"),
        ("~", "/home/me"),
        ("~other/x", "~other/x"),
        ("a ~/x", "a ~/x"),
        ("# yaml-language-server: $schema=x\n$A", "# yaml-language-server: $schema=x\none"),
        ("#yaml-language-server: v $schema=x", "#yaml-language-server: v $schema=x"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    found = expand(text, ENV)
    assert (found.text, found.missing) == (expected, ())


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("a: $NOPE", [Missing("NOPE", 3)]),
        ("# $NOPE\n${X}", [Missing("NOPE", 2), Missing("X", 8)]),
        ("${}", [Missing("", 0)]),
        ("${:-x}", [Missing(":-x", 0)]),
        ("# language: $schema", [Missing("schema", 12)]),
    ],
)
def test_every_missing_variable_is_listed(text: str, missing: list[Missing]) -> None:
    assert list(expand(text, ENV).missing) == missing


def test_values_are_not_expanded_again() -> None:
    assert expand("$X", {"X": "$A$$"}).text == "$A$$"


def test_home_may_be_unknown() -> None:
    assert expand("~/x", {}).text == "~/x"


@given(st.lists(st.sampled_from(["$A", "$$", "ab", "\n", "é", "${B:-zz}", "$", " "]), max_size=20))
def test_copied_characters_map_back(pieces: list[str]) -> None:
    source = "".join(pieces)
    found = expand(source, ENV)
    starts = [*found.starts, len(found.text)]
    for index, (_, is_copy) in enumerate(found.sources):
        for offset in range(starts[index], starts[index + 1]):
            back = found.source_offset(offset)
            assert source[back] == (found.text[offset] if is_copy else "$")
