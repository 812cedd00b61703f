"""A text under the masks of several guards, each of which sees what those before it left.

Positions are those of `str`. Spans are `(start, end, replacement)`, ascending, not overlapping.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

Span = tuple[int, int, str]


@final
@dataclass(slots=True)
class _Segment:
    """`length` characters of the original, shown as `text`."""

    length: int
    text: str
    is_edited: bool


@final
class Masked:
    """One text. Its segments cover the original without gaps, in order."""

    __slots__ = ("_segments", "text")

    def __init__(self, original: str) -> None:
        self._segments = [_Segment(len(original), original, is_edited=False)]
        self.text = original
        """What the next guard sees."""

    def edit(self, spans: Iterable[Span]) -> None:
        """Replace spans of `text`. One that cuts into an earlier replacement takes that over."""
        given = list(spans)
        for start, end, replacement in reversed(given):
            self._replace(start, end, replacement)
        if given:
            self.text = "".join(segment.text for segment in self._segments)

    def spans(self) -> list[Span]:
        """All replacements, in positions of the original."""
        found: list[Span] = []
        at = 0
        for segment in self._segments:
            if segment.is_edited:
                found.append((at, at + segment.length, segment.text))
            at += segment.length
        return found

    def _replace(self, start: int, end: int, replacement: str) -> None:
        kept: list[_Segment] = []
        tail: list[_Segment] = []
        length = 0
        head_text = tail_text = ""
        at = 0
        for segment in self._segments:
            low, high = at, at + len(segment.text)
            at = high
            if high <= start:
                kept.append(segment)
                continue
            if low >= end:
                tail.append(segment)
                continue
            before = segment.text[: max(start - low, 0)]
            after = segment.text[min(end - low, len(segment.text)) :]
            if segment.is_edited:
                # Nobody knows which octets of the original an edited text's piece stood for.
                head_text += before
                tail_text = after
                length += segment.length
                continue
            if before:
                kept.append(_Segment(len(before), before, is_edited=False))
            if after:
                tail.append(_Segment(len(after), after, is_edited=False))
            length += segment.length - len(before) - len(after)
        middle = _Segment(length, head_text + replacement + tail_text, is_edited=True)
        self._segments = [*kept, middle, *tail]


def changed(before: str, after: str) -> list[Span]:
    """What turns one text into the other, as one span at most."""
    if before == after:
        return []
    limit = min(len(before), len(after))
    start = 0
    while start < limit and before[start] == after[start]:
        start += 1
    end = 0
    while end < limit - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return [(start, len(before) - end, after[start : len(after) - end])]


__all__ = ["Masked", "Span", "changed"]
