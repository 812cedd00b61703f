"""Masks over masks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.llm.guard.masked import Masked, Span, changed


def applied(text: str, spans: list[Span]) -> str:
    for start, end, mask in reversed(spans):
        text = text[:start] + mask + text[end:]
    return text


def test_edits_add_up_in_positions_of_the_original() -> None:
    text = Masked("my ssn 123 and mail b")
    text.edit([(7, 10, "<SSN>")])
    assert text.text == "my ssn <SSN> and mail b"
    text.edit([(8, 11, "X"), (22, 23, "<M>")])
    assert text.text == "my ssn <X> and mail <M>"
    assert text.spans() == [(7, 10, "<X>"), (20, 21, "<M>")]


@given(st.text("abc", max_size=12), st.data())
def test_spans_always_make_the_text(original: str, data: st.DataObject) -> None:
    text = Masked(original)
    for _ in range(3):
        size = len(text.text)
        borders = sorted(data.draw(st.lists(st.integers(0, size), max_size=6, unique=True)))
        pairs = zip(borders[::2], borders[1::2], strict=False)
        text.edit([(low, high, "<m>") for low, high in pairs])
        assert applied(original, text.spans()) == text.text


def test_many_masks_take_linear_time() -> None:
    # Thirty thousand spans, twice: quadratic work would not end within the test's time.
    text = Masked("ab" * 30_000)
    for _ in range(2):
        text.edit([(at, at + 1, "x") for at in range(0, 60_000, 2)])
    assert text.text == "xb" * 30_000


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
def test_changed(before: str, after: str) -> None:
    assert applied(before, changed(before, after)) == after
