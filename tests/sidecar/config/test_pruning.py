"""Cutting faulty parts out of a document, and the way back to where the rest was."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.pruning import Parts, Pruning

DOCUMENT: dict[str, Any] = {"a": [{"x": 1, "y": 2}, 5, 6, {"z": [7, 8]}], "b": {"c": None}}


@pytest.mark.parametrize(
    ("places", "left"),
    [
        ([("a", 1)], {"a": [{"x": 1, "y": 2}, 6, {"z": [7, 8]}], "b": {"c": None}}),
        ([("a", 0, "x"), ("b", "c")], {"a": [{"y": 2}, 5, 6, {"z": [7, 8]}], "b": {}}),
        ([("a", 3, "z", 0), ("a", 3)], {"a": [{"x": 1, "y": 2}, 5, 6], "b": {"c": None}}),
        ([("a", 3), ("a", 3, "z", 0)], {"a": [{"x": 1, "y": 2}, 5, 6], "b": {"c": None}}),
        ([("b", "missing"), ("b", "c")], {"a": DOCUMENT["a"]}),
        ([("nothing",)], {}),
        ([()], {}),
    ],
)
def test_cut(places: list[Parts], left: object) -> None:
    before = repr(DOCUMENT)
    pruning = Pruning(DOCUMENT)
    assert pruning.cut(places)
    assert pruning.data == left
    assert repr(DOCUMENT) == before


def test_a_place_that_is_gone_takes_along_what_holds_it() -> None:
    pruning = Pruning(DOCUMENT)
    assert pruning.cut([("b", "c")])
    assert pruning.cut([("b", "c")])
    assert "b" not in pruning.data
    assert pruning.cut([("b", "c")])
    assert pruning.data == {}
    assert not pruning.cut([("b", "c")])


def test_what_is_left_is_shared() -> None:
    pruning = Pruning(DOCUMENT)
    pruning.cut([("a", 1)])
    assert pruning.data["b"] is DOCUMENT["b"]
    assert pruning.data["a"][2] is DOCUMENT["a"][3]


def test_original_places() -> None:
    pruning = Pruning(DOCUMENT)
    pruning.cut([("a", 2), ("a", 0), ("a", 3, "z", 0)])
    assert pruning.data["a"] == [5, {"z": [8]}]
    assert pruning.original(("a", 0)) == ("a", 1)
    assert pruning.original(("a", 1, "z", 0)) == ("a", 3, "z", 1)
    assert pruning.original(("b", "c")) == ("b", "c")


@pytest.mark.parametrize(
    ("fault", "complaint", "follows"),
    [
        (("g", "a", "tls"), ("g", "a"), True),
        (("g", "a", "tls"), ("g", "a", "tls"), True),
        (("g", "a", "tls"), ("g", "b"), False),
        (("g", "a", "tls"), ("g", "a", "port"), False),
        (("g", "a", "tls"), ("g", "a", "tls", "cert"), False),
        (("g", "a", "protocol"), ("g", "a", "tls"), True),
        (("l", 0, "hostname"), ("l", 1, "hostname"), True),
        (("l", 0, "port"), ("l", 1, "hostname"), False),
        (("a",), (), False),
    ],
)
def test_consequences(fault: Parts, complaint: Parts, follows: bool) -> None:
    pruning = Pruning({})
    pruning.hurt(fault)
    assert pruning.is_consequence(complaint) is follows


def test_names_of_faulty_entries_are_known_or_not() -> None:
    pruning = Pruning({"backends": [{"name": "a"}, {"name": 5}, 7], "routes": {}})
    pruning.cut([("backends", 0)])
    assert [entry["name"] for entry in pruning.entries("backends")] == ["a", 5]
    assert not pruning.is_unknown("backends")
    pruning.cut([("backends", 1)])
    assert pruning.is_unknown("backends")
    assert not pruning.is_unknown("gateways")
    pruning.hurt(("gateways",))
    assert pruning.is_unknown("gateways")
