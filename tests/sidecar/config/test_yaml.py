"""YAML 1.2 values, limits, and places."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.yaml import MAX_DEPTH, Document, YamlError


def faults(text: str) -> list[str]:
    with pytest.raises(YamlError) as caught:
        Document(text)
    return [fault.message for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, True) for word in ("true", "True", "TRUE")],
        *[(word, False) for word in ("false", "False", "FALSE")],
        *[(word, None) for word in ("", "~", "null", "Null", "NULL")],
        *[(word, word) for word in ("on", "off", "yes", "No", "y", "tRUE", "nil")],
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("012", 12),
        ("0o17", 15),
        ("0x1f", 31),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("1e3", 1000.0),
        ("1.", 1.0),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", float(2**64)),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2001-12-14", "2001-12-14"),
        ("1m30s", "1m30s"),
        (".", "."),
        ("-x", "-x"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("! 1", "1"),
        ("!!int 1", 1),
        ("|\n a\n b", "a\nb\n"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found = Document(f"k: {text}\n").data["k"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text() -> None:
    assert Document("8000: 1\ntrue: 2\n~: 3").data == {"8000": 1, "true": 2, "~": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
        ("b: {q: 3, <<: {p: 1, q: 2}}", {"b": {"q": 3, "p": 1}}),
        ("b: {<<: [{p: 1}, {p: 2, q: 2}]}", {"b": {"p": 1, "q": 2}}),
        ("'<<': 1", {"<<": 1}),
        ("a: &x 1\nb: &x 2\nc: *x", {"a": 1, "b": 2, "c": 2}),
        ("&k a: 1\nb: *k", {"a": 1, "b": "a"}),
    ],
)
def test_anchors_and_merges(text: str, value: Any) -> None:
    assert Document(text).data == value
    # The pass that records places must build the same.
    document = Document(text)
    document.place(())
    assert document._located is not None
    assert document._located[0] == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\na: 2", "duplicate key `a`, first given at 1:1"),
        ("? [a]\n: b", "a mapping key must be a scalar"),
        ("a: &x b\n*x : c", "a mapping key must be a scalar, not an alias"),
        ("--- 1\n--- 2", "a configuration is one YAML document, here a second begins"),
        ("&a [*a]", "alias *a names no anchor that is complete here"),
        ("a: *b", "alias *b names no anchor that is complete here"),
        ("a: !thing 1", "unknown tag !thing"),
        ("a: !!set {b}", "unknown tag tag:yaml.org,2002:set"),
        ("a: {<<: 1}", "a merge key takes a mapping or a list of mappings"),
        ("a: .nan", "infinity and not-a-number have no meaning here; quote it for text"),
        ("a: 1e999", "number out of range"),
        ("a: \x07", "invalid YAML: control characters are not allowed"),
        ("a: \ud800", "the text holds characters that are not Unicode"),
    ],
)
def test_refused(text: str, fault: str) -> None:
    assert faults(text) == [fault]


def test_all_duplicates_are_listed() -> None:
    found = faults("a: 1\nb: {c: 1, c: 2}\na: 3")
    assert found == [
        "duplicate key `c`, first given at 2:5",
        "duplicate key `a`, first given at 1:1",
    ]


def test_depth_is_bounded() -> None:
    Document("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    deep = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
    assert faults(deep) == ["nested more than 128 levels deep"]


def test_depth_counts_what_aliases_add() -> None:
    lines = ["a0: &a0 [1]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, MAX_DEPTH + 1)]
    assert faults("\n".join(lines)) == ["nested more than 128 levels deep"]


@pytest.mark.parametrize("leaf", ["[x, x, x, x, x, x, x, x, x, x]", '"' + "x" * 10_000 + '"'])
def test_expansion_is_bounded(leaf: str) -> None:
    lines = [f"a0: &a0 {leaf}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert faults("\n".join(lines)) == ["aliases expand to more than 1000000 nodes"]


TEXT = """\
# é
gateways:
  default: {port: 1, "tls": {cert: a}}
list:
- x
- y: &n
    z: 1
- *n
- <<: *n
  own: 2
"""


@pytest.mark.parametrize(
    ("parts", "is_key", "place"),
    [
        (("gateways", "default", "port"), False, (2, 18)),
        (("gateways", "default", "port"), True, (2, 12)),
        (("gateways", "default", "tls", "cert"), False, (2, 35)),
        (("list", 0), False, (4, 2)),
        (("list", 1, "y", "z"), False, (6, 7)),
        (("list", 2, "z"), False, (6, 7)),
        (("list", 3, "z"), False, (6, 7)),
        (("list", 3, "own"), True, (9, 2)),
        (("list", 9), False, (4, 0)),
        (("gateways", "default", "nope"), False, (2, 11)),
    ],
)
def test_places(parts: tuple[str | int, ...], is_key: bool, place: tuple[int, int]) -> None:
    found = Document(TEXT).place(parts, key=is_key)
    assert found is not None
    assert (found.line, found.column) == place
    lines = TEXT.splitlines(keepends=True)
    assert found.offset == sum(map(len, lines[: found.line])) + found.column


def test_place_of_nothing() -> None:
    assert Document("a: 1").place(("b",)) is None
    assert Document("").place(()) is None


def test_collection_is_on_again_after_a_fault() -> None:
    was_enabled = gc.isenabled()
    gc.enable()
    try:
        faults("a: [")
        assert gc.isenabled()
    finally:
        if not was_enabled:
            gc.disable()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc<>~01", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON)
def test_reads_what_another_writer_writes(value: Any) -> None:
    # Quoted, since the other writer knows YAML 1.1's words only.
    text = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=10_000)
    assert Document(text).data == value


@given(JSON)
def test_reads_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert Document(text).data == value


@given(st.text("abn:-[]{}&*<\n '\"|>#~,1"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        document = Document(text)
    except YamlError:
        return
    document.place(("a", 0, "b"))
