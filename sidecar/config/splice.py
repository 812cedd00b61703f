"""Parses a changed YAML text by parsing the changed list items alone, when that is the same thing.

A parser that stands at a dash of a block sequence, at the start of a line, is in a state that the
text before it decides. The next dash of that sequence brings it back to the same state, or to an
error. So the items between two dashes, parsed as a document of their own, give what they give in
the whole. What this reasoning does not cover is parsed in full, and so is every text whose part has
a fault, for the faults must be those of the whole:

1. both borders are dashes of the sequence, first on their lines; the second may be the text's end;
2. no line of the part begins left of its items, which keeps it from ending the sequence, or a
   document, or a comment's or a scalar's being read as something else;
3. no anchors, directives or byte order marks in the text, nor tags or tabs in the part;
4. lines end with a line feed only, for YAML 1.1 knows others.

Source: YAML 1.2.2 sections 6.1, 8.2.1 and 9.1.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any, final

from sidecar.config.problems import Key
from sidecar.config.yaml import MAX_DEPTH, Builder, YamlError, parse

MIN_ITEMS = 64
"""Shorter lists are not worth remembering."""
_OTHER_BREAKS = "\r\x85\u2028\u2029\ufeff"
"""What libyaml takes for the end of a line besides the line feed, and for the start of a text."""


@final
@dataclass(frozen=True, slots=True)
class Items:
    """A block sequence. `column`: of its dashes. `starts`: offset of each item's value."""

    path: tuple[Key, ...]
    column: int
    starts: list[int]


@final
@dataclass(frozen=True, slots=True)
class _Read:
    """A text, what it says, and its long sequences."""

    text: str
    data: Any
    sequences: list[Items]


@final
@dataclass(frozen=True, slots=True)
class _Cut:
    """Items `first` to `last`, not included, and where they stand: `start` to `end` of the text."""

    items: Items
    first: int
    last: int
    start: int
    end: int


@final
class LastDocument:
    """Remembers what was read last. Results share the parts that did not change: read-only."""

    __slots__ = ("_last", "_min_items", "spliced")

    def __init__(self, min_items: int = MIN_ITEMS) -> None:
        self._min_items = min_items
        self._last: _Read | None = None
        self.spliced = 0
        """How many texts needed no parsing in full."""

    def read(self, text: str) -> Any:
        """The data of a text. Raises YamlError."""
        last = self._last
        read = _splice(last, text) if last is not None and last.sequences else None
        if read is None:
            read = _read(text, self._min_items)
        else:
            self.spliced += 1
        self._last = read
        return read.data

    @property
    def sequences(self) -> list[Items]:
        """The long sequences of what was read last."""
        return self._last.sequences if self._last else []


def _read(text: str, min_items: int) -> _Read:
    builder = _Recorder(min_items)
    data = parse(text, builder)
    is_safe = builder.is_local and not any(mark in text for mark in _OTHER_BREAKS)
    return _Read(text, data, builder.sequences if is_safe else [])


@final
class _Recorder(Builder):
    """Builds, noting where the items of each block sequence are."""

    def __init__(self, min_items: int, max_depth: int = MAX_DEPTH) -> None:
        super().__init__()
        self.max_depth = max_depth
        self._min_items = min_items
        self._open_items: list[Items | None] = []
        self._has_directives = False
        self.has_tags = False
        self.sequences: list[Items] = []

    @property
    def is_local(self) -> bool:
        """Whether no place of the text decides what another one means."""
        return not self._anchors and not self._has_directives

    def _put(self, value: Any, event: Any) -> None:
        super()._put(value, event)
        if self._open_items:
            items = self._open_items[-1]
            if items is not None:
                items.starts.append(event.start_mark.index)

    def _open(self, container: Any, event: Any) -> None:
        super()._open(container, event)
        if event.tag is not None:
            self.has_tags = True
        is_block = type(container) is list and event.flow_style is False
        self._open_items.append(Items((), event.start_mark.column, []) if is_block else None)

    def _close(self) -> None:
        items = self._open_items.pop()
        if items is not None and len(items.starts) >= self._min_items:
            path = self._path()
            if path is not None:
                self.sequences.append(Items(path, items.column, items.starts))
        super()._close()

    def _path(self) -> tuple[Key, ...] | None:
        """Of the innermost collection; none when a merge key takes it apart."""
        parts: list[Key] = []
        for frame in self._stack[:-1]:
            if frame.is_merging:
                return None
            container = frame.container
            is_list = type(container) is list
            parts.append(len(container) - 1 if is_list else next(reversed(container)))
        return tuple(parts)

    def _resolve(self, text: str, event: Any) -> Any:
        if event.tag is not None:
            self.has_tags = True
        return super()._resolve(text, event)

    def _document(self, event: Any) -> None:
        super()._document(event)
        self._has_directives = bool(event.version or event.tags)


def _splice(old: _Read, text: str) -> _Read | None:
    """Read by way of the last text; None when it must be read in full."""
    head = _common_start(old.text, text)
    if head == len(old.text) == len(text):
        return old
    tail = _common_end(old.text, text, min(len(old.text), len(text)) - head)
    cuts = [_cut(old.text, items, head, len(old.text) - tail) for items in old.sequences]
    fitting = [cut for cut in cuts if cut is not None]
    if not fitting:
        return None
    cut = min(fitting, key=lambda one: one.end - one.start)
    part = text[cut.start : cut.end + len(text) - len(old.text)]
    old_part = old.text[cut.start : cut.end]
    if not (_stays_inside(part, cut.items.column) and _stays_inside(old_part, cut.items.column)):
        return None
    fresh = _read_part(part, cut.items)
    if fresh is None:
        return None
    values, starts = fresh
    data = _replaced(old.data, cut.items.path, cut, values)
    moved = _moved(old.sequences, cut, [cut.start + start for start in starts], len(part))
    return _Read(text, data, moved)


def _common_start(one: str, other: str) -> int:
    """How many characters agree from the start. Halving, as comparing slices is a `memcmp`."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_end(one: str, other: str, limit: int) -> int:
    """How many characters agree from the end, at most `limit`."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if one[len(one) - middle : len(one) - low] == other[len(other) - middle : len(other) - low]:
            low = middle
        else:
            high = middle - 1
    return low


def _cut(text: str, items: Items, start: int, end: int) -> _Cut | None:
    """The fewest whole items around what changed, by their dashes; None when it is not inside."""
    starts = items.starts
    first = bisect_right(starts, start) - 1
    # Up to the blank after the dash nothing may have changed: the new part begins with it too.
    while first >= 0 and (
        (dash := _dash(text, items, first)) is None or dash + items.column + 2 > start
    ):
        first -= 1
    if first < 0:
        return None
    begin = _dash(text, items, first)
    assert begin is not None
    # The line feed before the second border must be an old one, too.
    last = max(bisect_left(starts, end), first + 1)
    while last < len(starts):
        dash = _dash(text, items, last)
        if dash is not None and dash > end:
            return _Cut(items, first, last, begin, dash)
        last += 1
    return _Cut(items, first, last, begin, len(text))


def _dash(text: str, items: Items, index: int) -> int | None:
    """Offset of the line that begins with an item's dash, if there is such a line."""
    line = text.rfind("\n", 0, items.starts[index]) + 1
    return line if text.startswith(" " * items.column + "- ", line) else None


def _stays_inside(part: str, column: int) -> bool:
    """Whether every line is a dash of the sequence, right of it, or blank; and none has traps."""
    if "\t" in part or any(mark in part for mark in _OTHER_BREAKS):
        return False
    dash, inside = " " * column + "- ", " " * (column + 1)
    return all(line.startswith((dash, inside)) or not line.strip(" ") for line in part.split("\n"))


def _read_part(part: str, items: Items) -> tuple[list[Any], list[int]] | None:
    """The items of a part and their places in it; None when it is not such a sequence."""
    builder = _Recorder(1, MAX_DEPTH - len(items.path))
    try:
        values = parse(part, builder)
    except YamlError:
        return None
    if builder.has_tags or not builder.is_local:
        return None
    for found in builder.sequences:
        if not found.path and found.column == items.column:
            return values, found.starts
    return None


def _replaced(node: Any, path: tuple[Key, ...], cut: _Cut, values: list[Any]) -> Any:
    """A copy with other items, sharing what does not lead to them."""
    copy: Any = node.copy()
    if path:
        copy[path[0]] = _replaced(node[path[0]], path[1:], cut, values)
    else:
        copy[cut.first : cut.last] = values
    return copy


def _moved(sequences: list[Items], cut: _Cut, starts: list[int], length: int) -> list[Items]:
    """The sequences of the new text: what stood in the part is forgotten, the rest shifts."""
    depth = len(cut.items.path)
    by = length - (cut.end - cut.start)
    more = len(starts) - (cut.last - cut.first)
    moved = []
    for items in sequences:
        path, places = items.path, [at if at < cut.end else at + by for at in items.starts]
        if items is cut.items:
            places[cut.first : cut.last] = starts
        elif len(path) > depth and path[:depth] == cut.items.path:
            index = int(path[depth])
            if cut.first <= index < cut.last:
                continue
            if index >= cut.last:
                path = (*path[:depth], index + more, *path[depth + 1 :])
        moved.append(Items(path, items.column, places))
    return moved
