"""How problems read."""

from __future__ import annotations

import pytest

from sidecar.config.problems import (
    InvalidConfigError,
    Key,
    Problem,
    closest,
    in_file_order,
    is_slip,
    render_path,
)
from sidecar.errors import ConfigError


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        ((), ""),
        (("binds", 0, "listeners", 1, "tls"), "binds[0].listeners[1].tls"),
        (("a", "x.y"), 'a["x.y"]'),
        (("a", ""), 'a[""]'),
        (("a", 'say "hi"'), 'a["say \\"hi\\""]'),
        (("set", ":path"), "set.:path"),
    ],
)
def test_paths(parts: tuple[Key, ...], path: str) -> None:
    assert render_path(parts) == path


def test_rendering() -> None:
    problem = Problem("a.b", "unknown field `b`", 3, 7, "c")
    assert problem.render("f.yaml") == "f.yaml:3:7: a.b: unknown field `b`; did you mean 'c'?"
    assert Problem("", "broken").render("f") == "f: broken"
    assert problem.to_json("f") == {
        "file": "f",
        "line": 3,
        "column": 7,
        "path": "a.b",
        "message": "unknown field `b`",
        "hint": "c",
    }
    assert Problem("", "x").to_json("f")["line"] is None


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("rout", "routes"),
        ("rotues", "routes"),
        ("Routes", "routes"),
        ("frontend", "frontendPolicies"),
        ("zzz", ""),
        ("r", ""),
    ],
)
def test_closest(word: str, found: str) -> None:
    assert closest(word, ["routes", "frontendPolicies", "binds"]) == found


def test_slips() -> None:
    known = ["policies", "network", "weight"]
    assert is_slip("polices", known)
    assert is_slip("wieght", known)
    assert not is_slip("networkMode", known)
    assert not is_slip("comment", known)


def test_order_and_distinctness() -> None:
    late, early, nowhere = Problem("b", "x", 2, 1), Problem("a", "x", 1, 9), Problem("", "x")
    assert in_file_order([nowhere, late, early, late]) == [early, late, nowhere]


def test_error_holds_all() -> None:
    error = InvalidConfigError("f", [Problem("a", "one", 1, 1), Problem("b", "two")])
    assert isinstance(error, ConfigError)
    assert str(error) == "f:1:1: a: one\nf: b: two"
    assert len(error.problems) == 2
