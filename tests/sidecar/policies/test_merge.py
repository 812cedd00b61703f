"""Merging levels: replace, accumulate, outermost, and `ai` by field."""

from __future__ import annotations

import pytest

from sidecar.policies.merge import merge

MERGED = {
    "nothing": ([], {}),
    "empty levels": ([{}, {}], {}),
    "one level": ([{}, {"cors": {"a": 1}, "retry": None}], {"cors": {"a": 1}}),
    "the most specific replaces whole": (
        [{"cors": {"a": 1, "b": 2}}, {"cors": {"a": 3}}],
        {"cors": {"a": 3}},
    ),
    "kinds do not touch": ([{"cors": {}}, {"retry": {}}], {"cors": {}, "retry": {}}),
    "null does not replace": ([{"cors": {"a": 1}}, {"cors": None}], {"cors": {"a": 1}}),
    "rules accumulate": (
        [
            {"authorization": {"rules": ["a"]}},
            {"authorization": {"rules": []}},
            {"authorization": {"rules": ["b", "c"]}},
        ],
        {"authorization": {"rules": ["a", "b", "c"]}},
    ),
    "the outermost buffer wins": (
        [{"buffer": {"request": {"maxBytes": 1}}}, {"buffer": {"request": {"maxBytes": 9}}}],
        {"buffer": {"request": {"maxBytes": 1}}},
    ),
    "ai by field": (
        [
            {"ai": {"prompts": {"a": 1}, "modelAliases": {"x": "y"}, "routes": {"/": "a"}}},
            {"ai": {"prompts": {"b": 2}, "modelAliases": {}, "routes": {"/b": "c"}}},
        ],
        {"ai": {"prompts": {"b": 2}, "modelAliases": {"x": "y"}, "routes": {"/b": "c"}}},
    ),
}


@pytest.mark.parametrize(("levels", "expected"), MERGED.values(), ids=MERGED.keys())
def test_merge(levels, expected):
    assert merge(levels) == expected


def test_levels_are_not_changed():
    outer = {"authorization": {"rules": ["a"]}}
    merge([outer, {"authorization": {"rules": ["b"]}}])
    assert outer == {"authorization": {"rules": ["a"]}}
