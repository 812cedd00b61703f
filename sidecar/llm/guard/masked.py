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
    is_joined: bool = False
    """It belongs to the one before it, of whose original it is a part."""

    def split(self, at: int) -> tuple[_Segment, _Segment]:
        """The two sides of a position in `text`."""
        if self.is_edited:
            # Nobody knows which characters of the original an edited text's piece stood for.
            left = _Segment(self.length, self.text[:at], True, self.is_joined)
            return left, _Segment(0, self.text[at:], True, is_joined=True)
        left = _Segment(at, self.text[:at], is_edited=False)
        return left, _Segment(self.length - at, self.text[at:], is_edited=False)


@final
class _Edit:
    """One pass over the segments of a text, from its start to its end."""

    __slots__ = ("_at", "_current", "_rest", "made")

    def __init__(self, segments: list[_Segment]) -> None:
        self.made: list[_Segment] = []
        self._rest = iter(segments)
        self._current = next(self._rest, None)
        self._at = 0

    def replace(self, start: int, end: int, replacement: str) -> None:
        """The next span."""
        while self._current is not None and self._at + len(self._current.text) <= start:
            self._emit(self._taken())
        if self._current is not None and self._at < start:
            self._emit(self._taken(start))
        is_joined = self._current is not None and self._current.is_joined
        length = 0
        while self._current is not None and self._at < end:
            length += self._taken(end).length
        self._emit(_Segment(length, replacement, True, is_joined))

    def finish(self) -> list[_Segment]:
        """All segments, with those behind the last span."""
        while self._current is not None:
            self._emit(self._taken())
        return self.made

    def _taken(self, end: int | None = None) -> _Segment:
        """The segment under the cursor, up to `end`."""
        taken = self._current
        assert taken is not None
        following: _Segment | None
        if end is not None and self._at + len(taken.text) > end:
            taken, following = taken.split(end - self._at)
        else:
            following = next(self._rest, None)
        self._at += len(taken.text)
        self._current = following
        return taken

    def _emit(self, segment: _Segment) -> None:
        if not segment.is_joined:
            self.made.append(segment)
            return
        self.made[-1].text += segment.text
        self.made[-1].length += segment.length


@final
class Masked:
    """One text. Its segments cover the original without gaps, in order."""

    __slots__ = ("_segments", "text")

    def __init__(self, original: str) -> None:
        self._segments = [_Segment(len(original), original, is_edited=False)]
        self.text = original
        """What the next guard sees."""

    def edit(self, spans: Iterable[Span]) -> None:
        """Replace spans of `text`. One that cuts into an earlier replacement takes that over.

        Its time is linear: a text may have tens of thousands of spans.
        """
        given = list(spans)
        if not given:
            return
        edit = _Edit(self._segments)
        for start, end, replacement in given:
            edit.replace(start, end, replacement)
        self._segments = edit.finish()
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
