"""Texts read by way of the last one give what they give when read in full."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.config.splice import LastDocument
from sidecar.config.yaml import MAX_DEPTH, YamlError

LISTED = "binds:\n- port: 1\n  routes:\n" + "".join(
    f"  - name: r{n}\n    matches:\n    - path: /{n}\n" for n in range(100)
)


def outcome(documents: LastDocument, text: str) -> tuple[Any, Any]:
    """What the text says, with types, or its faults."""
    try:
        return repr(documents.read(text)), None
    except YamlError as error:
        return None, error.faults


def checked(documents: LastDocument, text: str) -> None:
    """One more text: the data, faults and places are those of a first reading."""
    before = documents.spliced
    full = LastDocument(1)
    assert outcome(documents, text) == outcome(full, text)
    if documents.spliced > before:
        known = {items.path: items for items in full.sequences}
        assert all(known[items.path] == items for items in documents.sequences)


def both(old: str, new: str, min_items: int = 2) -> LastDocument:
    """The old text, then the new; the first result stays what it was."""
    documents = LastDocument(min_items)
    data = documents.read(old)
    seen = repr(data)
    checked(documents, new)
    assert repr(data) == seen
    return documents


SCALARS = st.sampled_from(
    [
        "a", "1", "", "~", "true", "'q'", '"d"', "'it''s", "x'", '"', "'", "{a: 1}", "[a, b]", "[a",
        "b]", "{", "}", "|", ">", "|-", "|+", ">2", "|1", "# c", "a # c", "a b", "*x", "&x 1", "&x",
        "!t v", "!!str 1", "!!int x", "- a", "- - a", "? a", ": b", "a: b", "<<: {z: 1}", "a:",
        "---", "--- a", "...", "-", "-a", "\t", "\ta", "a\tb", "a\r", "\r- b", "\x85", "\u2028- c",
        "\ufeff", "<<:", "- ", "-\t", "k: |", "k: >+", "k: 'a", "k: [", "?", ":", ",", "@", "`",
        "\x00", "\x07", "\ud800", ".inf", "\U0001f600", "k: &x", "k: *x",
        "a: b: c", "%Y",
    ]
)  # fmt: skip
INDENT = st.integers(0, 7).map(lambda width: " " * width)
LINE = st.one_of(
    st.tuples(INDENT, SCALARS).map("".join),
    st.tuples(INDENT, st.sampled_from(["- ", "k: ", "a: ", "b: ", "- k: ", "- - "]), SCALARS).map(
        "".join
    ),
)


@st.composite
def blocks(draw: st.DrawFn, column: int = 0, depth: int = 3) -> list[str]:
    """The lines of a block collection or scalar at a column; mostly well formed."""
    pad = " " * column
    kind = draw(st.sampled_from(["list", "list", "map", "scalar", "text"] if depth else ["scalar"]))
    if kind == "scalar":
        return [pad + draw(st.sampled_from(["a", "1", "'q'", "[a, b]", "{a: 1}", "a b # c"]))]
    if kind == "text":
        return [pad + "'one", pad, pad + "  two'"]
    lines: list[str] = []
    for number in range(draw(st.integers(2, 5))):
        inner = draw(blocks(column=column + 2, depth=depth - 1))
        if kind == "list":
            lines += [pad + "- " + inner[0][column + 2 :], *inner[1:]]
        elif draw(st.booleans()):
            style = draw(st.sampled_from(["|", ">", "|+", "|-"]))
            lines += [f"{pad}k{number}: {style}", pad + "  text", "", pad + "   more"]
        else:
            # A list may stand at its key's own column.
            same = inner[0].lstrip().startswith("- ") and draw(st.booleans())
            moved = [line[2:] if same else line for line in inner]
            key = draw(st.sampled_from([f"k{number}", f"k{number}", "<<"]))
            lines += [f"{pad}{key}:", *moved]
    return lines


@st.composite
def edited(draw: st.DrawFn, lines: list[str]) -> list[str]:
    """Some lines taken away, repeated, moved, shifted, or others put there."""
    start = draw(st.integers(0, len(lines)))
    end = min(len(lines), start + draw(st.integers(0, 3)))
    taken = lines[start:end]
    kind = draw(st.sampled_from(["new", "new", "double", "in", "out", "copy", "chars"]))
    if kind == "double":
        fresh = taken + taken
    elif kind == "in":
        fresh = [" " + line for line in taken]
    elif kind == "out":
        fresh = [line[1:] for line in taken]
    elif kind == "copy":
        source = draw(st.integers(0, len(lines)))
        fresh = lines[source : source + draw(st.integers(1, 4))]
    elif kind == "chars":
        joined = "\n".join(taken)
        at = draw(st.integers(0, len(joined)))
        cut = draw(st.integers(0, 2))
        put = draw(st.text("ab:-[]{}&*<\n '\"|>#~,1\t%!?.", max_size=3))
        fresh = (joined[:at] + put + joined[at + cut :]).split("\n")
    else:
        fresh = draw(st.lists(LINE, max_size=3))
    return lines[:start] + fresh + lines[end:]


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_spliced_text_says_what_it_says_in_full(data: st.DataObject) -> None:
    lines = data.draw(blocks())
    documents = LastDocument(2)
    end = data.draw(st.sampled_from(["\n", "\n", "", "\n\n", "\n...\n", "\n# end\n"]))
    start = data.draw(st.sampled_from(["", "", "---\n", "# c\n", "%YAML 1.1\n---\n", "\ufeff"]))
    texts = [start + "\n".join(lines) + end]
    for _ in range(data.draw(st.integers(1, 5))):
        changed = data.draw(edited(lines))
        texts.append(start + "\n".join(changed) + end)
        # Going on from a text that cannot be read would test nothing.
        lines = changed if data.draw(st.booleans()) else lines
    for text in texts:
        checked(documents, text)


@settings(max_examples=500, deadline=None)
@given(st.lists(LINE, min_size=1, max_size=4), st.integers(0, 12), st.integers(0, 3))
@example(["- 'a"], 1, 0)
@example(["...", "- x"], 1, 1)
@example(["  - |+", ""], 5, 2)
def test_lines_put_into_a_list(fresh: list[str], at: int, taken: int) -> None:
    for pad in ("", "  "):
        lines = [f"{pad}- k: {n}\n{pad}  a: 'x'".split("\n") for n in range(6)]
        flat = [line for pair in lines for line in pair]
        for head in (["top:"], [] if not pad else ["z: 1", "top:"]):
            for tail in ([], [f"{'' if head else pad}- z"], ["last: 1"]):
                old = [*head, *flat, *(tail if head else [])]
                put = at + len(head)
                new = old[:put] + fresh + old[put + taken :]
                try:
                    both("\n".join(old) + "\n", "\n".join(new) + "\n")
                except YamlError:
                    continue


def test_one_changed_item_is_parsed_alone_and_the_rest_shared() -> None:
    documents = LastDocument()
    old = documents.read(LISTED)
    new = documents.read(LISTED.replace("path: /50\n", "path: /other\n"))
    assert documents.spliced == 1
    was, now = old["binds"][0]["routes"], new["binds"][0]["routes"]
    assert [n for n in range(100) if was[n] is not now[n]] == [50]
    assert (was[50]["matches"][0], now[50]["matches"][0]) == ({"path": "/50"}, {"path": "/other"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  - name: r7\n", "  - name: new\n  - name: r7\n"),
        ("  - name: r7\n    matches:\n    - path: /7\n", ""),
        ("  - name: r0\n", "  - name: first\n"),
        ("    - path: /99\n", "    - path: /99\n  - name: more\n    k: |+\n      a\n\n"),
        ("    - path: /3\n", "    - path: '/3\n       b'\n    # comment\n"),
        ("port: 1\n", "port: 1\n"),
    ],
)
def test_edits_that_are_spliced(old: str, new: str) -> None:
    assert both(LISTED, LISTED.replace(old, new), 64).spliced == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("port: 1\n", "port: 2\n"),
        ("path: /3\n", "path: &a /3\n"),
        ("path: /3\n", "path: !!str 3\n"),
        ("path: /3\n", "path: *a\n"),
        ("path: /3\n", "path: '/3\n"),
        ("path: /3\n", "path: [/3\n"),
        ("path: /3\n", "path: /3\t\n"),
        ("path: /3\n", "path: /3\r\n"),
        ("path: /3\n", "path: /3\n      path: x\n"),
        ("path: /3\n", "path: /3\n# left of the list\n"),
        ("path: /3\n", "path: /3\n  routes: x\n"),
        ("path: /99\n", "path: /99\nlast: 1\n"),
        ("path: /99\n", "path: /99\n---\n"),
        ("path: /99\n", "path: /99\n...\n"),
    ],
)
def test_edits_that_are_read_in_full(old: str, new: str) -> None:
    assert both(LISTED, LISTED.replace(old, new), 64).spliced == 0


@pytest.mark.parametrize(
    "old",
    [
        LISTED + "a: &x 1\n",
        "%TAG !! tag:example.org,2000:\n---\n" + LISTED,
        "\ufeff" + LISTED,
        LISTED.replace("\n", "\r\n"),
        LISTED.replace("routes:", "<<:"),
        LISTED + "last: 'a\u2028- b'\n",
    ],
)
def test_texts_that_are_not_spliced(old: str) -> None:
    assert both(old, old.replace("path: /50", "path: /x"), 64).spliced == 0


def test_depth_counts_from_the_top() -> None:
    deep = "".join(f"{' ' * n}k:\n" for n in range(MAX_DEPTH - 2))
    pad = " " * (MAX_DEPTH - 2)
    old = deep + "".join(f"{pad}- {n}\n" for n in range(4))
    assert both(old, old.replace("- 2", "- [2]")).spliced == 1
    assert both(old, old.replace("- 2", "- [[2]]")).spliced == 0


def test_a_text_that_cannot_be_read_is_not_remembered() -> None:
    documents = LastDocument()
    documents.read(LISTED)
    with pytest.raises(YamlError):
        documents.read(LISTED.replace("path: /50", "path: [/50"))
    documents.read(LISTED.replace("path: /50", "path: /x"))
    assert documents.spliced == 1
