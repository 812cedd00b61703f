"""Patterns of model names, aliases, and what an API key may ask for."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from sidecar.llm.names import Aliases, AllowedModels, NamePattern


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("gpt-4", "gpt-4", True),
        ("gpt-4", "gpt-4o", False),
        ("gpt-*", "gpt-4", True),
        ("gpt-*", "gpt-", True),
        ("gpt-*", "GPT-4", False),
        ("*-preview", "x-preview", True),
        ("*-preview", "x-preview2", False),
        ("*", "", True),
    ],
)
def test_matching(pattern: str, name: str, matches: bool) -> None:
    assert NamePattern.parse(pattern).matches(name) is matches


@pytest.mark.parametrize(
    ("pattern", "reason"), [("a*b*", "only appear once"), ("a*b", "at the beginning or the end")]
)
def test_patterns_that_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        NamePattern.parse(pattern, "llm.models[0].name")
    assert caught.value.path == "llm.models[0].name"


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("*", "gpt-*", True),
        ("gpt-*", "gpt-4*", True),
        ("gpt-4*", "gpt-*", False),
        ("gpt-*", "gpt-4", True),
        ("gpt-4", "gpt-*", False),
        ("*-x", "*-y-x", True),
        ("gpt-*", "*-x", False),
    ],
)
def test_covering(wide: str, narrow: str, covers: bool) -> None:
    assert NamePattern.parse(wide).covers(NamePattern.parse(narrow)) is covers


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fast", "gpt-4o-mini"), ("gpt-4-x", "b"), ("gpt-5", "a"), ("other", "other"), ("a", "a")],
)
def test_aliases_apply_once_exact_first_then_the_longest(name: str, expected: str) -> None:
    aliases = Aliases({"gpt-*": "a", "gpt-4*": "b", "fast": "gpt-4o-mini"})
    assert aliases.apply(name) == expected


@pytest.mark.parametrize(
    ("allowed", "pattern", "shown"),
    [
        (["gpt-4"], "gpt-4", ["gpt-4"]),
        (["gpt-4"], "gpt-5", []),
        (["gpt-4", "gpt-3", "claude"], "gpt-*", ["gpt-3", "gpt-4"]),
        (["*"], "gpt-*", ["gpt-*"]),
        (["gpt-4*"], "gpt-*", ["gpt-4*"]),
        (["gpt-*"], "gpt-4*", ["gpt-4*"]),
        ([], "*", []),
    ],
)
def test_what_a_list_shows(allowed: list[str], pattern: str, shown: list[str]) -> None:
    assert AllowedModels(allowed).shown(NamePattern.parse(pattern)) == shown


def test_what_may_be_asked_for() -> None:
    allowed = AllowedModels(["gpt-4", "claude-*"])
    assert [allowed.allows(name) for name in ("gpt-4", "claude-x", "gpt-4o")] == [True, True, False]
