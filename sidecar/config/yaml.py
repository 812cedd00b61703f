"""YAML 1.2 text to plain data, and the place of every node for when there is a problem to report.

Built on libyaml's events, because constructing node by node is ten times slower. Scalars follow
the core schema (`on` and `yes` are strings). Mapping keys are their text. Anchors, aliases and
merge keys work under a cap on what they expand to. Aliased nodes are shared, so treat the result
as read-only.

Places are not kept while loading: `Document` parses a second time, recording them, when it is
first asked for one.

Source: YAML 1.2.2 sections 6.9, 7.1 and 10.3; the merge key type of YAML 1.1.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from sidecar.config.problems import Key

MAX_DEPTH = 128
MAX_EXPANSION = 1_000_000
"""Bound on the nodes that aliases add; every 64 characters of a scalar count as one more."""

_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBER_START = frozenset("+-.0123456789")
_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_STR_TAG = "tag:yaml.org,2002:str"
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_COLLECTION_TAGS = frozenset((None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"))


@final
@dataclass(frozen=True, slots=True)
class Place:
    """A position in the text, each part counted from 0; `offset` in characters."""

    line: int
    column: int
    offset: int


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """Text that is not the YAML wanted here."""

    message: str
    place: Place | None


class YamlError(Exception):
    """The text could not be read; `faults` says why.

    `rest`: what it says all the same, and where; None when the reading had to stop.
    """

    def __init__(self, faults: list[Fault], rest: tuple[Any, Marks] | None = None) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults
        self.rest = rest


Marks = dict[int, dict[Key, tuple[Place, Place]]]
"""id(container) → key or index → (place of the key, place of the value)."""


@final
class Document:
    """A parsed text. `data` is plain: dict, list, str, int, float, bool or None."""

    def __init__(self, text: str, read: Callable[[str], Any] | None = None) -> None:
        """Parse, or have it done by `read`. Raises YamlError."""
        self._text = text
        self._located: tuple[Any, Marks] | None = None
        self.data: Any = parse(text, Builder()) if read is None else read(text)

    @classmethod
    def of(cls, text: str, rest: tuple[Any, Marks]) -> Document:
        """What a YamlError left of a text."""
        document = cls(text, lambda _: rest[0])
        document._located = rest
        return document

    def place(self, parts: tuple[Key, ...], *, key: bool = False) -> Place | None:
        """Where the value of a path stands, or its key; of the nearest parent when it is absent."""
        if self._located is None:
            marks: Marks = {}
            self._located = (parse(self._text, Builder(marks)), marks)
        node, marks = self._located
        found: tuple[Place, Place] | None = None
        for part in parts:
            pair = marks.get(id(node), {}).get(part)
            if pair is None:
                return found[1 - key] if found else None
            found = pair
            node = node[part]
        return found[0 if key else 1] if found else None


@final
class _Frame:
    """A collection that is being read."""

    __slots__ = ("anchor", "container", "height", "key", "key_place", "merges", "started")

    def __init__(self, container: Any, anchor: str | None, started: int) -> None:
        self.container = container
        self.anchor = anchor
        self.started = started
        self.key: Any = _NO_KEY
        self.key_place: Place | None = None
        self.merges: list[dict[str, Any]] = []
        self.height = 1

    @property
    def is_merging(self) -> bool:
        """Whether the value being read is one of a merge key."""
        return self.key is _MERGE


@final
@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Any
    weight: int
    height: int


_NO_KEY = object()
_MERGE = object()


def parse(text: str, builder: Builder) -> Any:
    """The data of a text, by a builder that is used once. Raises YamlError."""
    try:
        loader = yaml.CSafeLoader(text)
    except UnicodeEncodeError:
        raise YamlError([Fault("the text holds characters that are not Unicode", None)]) from None
    # Nothing built here is garbage, yet each collection would walk all of it: 15 % of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        data = builder.run(loader.get_event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line, mark.column, mark.index) if mark else None
        # Only `problem` is repeated: the marks' snippets would show the text, secrets included.
        raise YamlError([Fault(f"invalid YAML: {error.problem}", place)]) from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", "unreadable text")
        raise YamlError([Fault(f"invalid YAML: {reason}", None)]) from None
    finally:
        loader.dispose()
        if collecting:
            gc.enable()
    if builder.has_duplicates:
        # Read again with places, to name both of each pair; raises.
        parse(text, Builder({}))
    return data


class Builder:
    """One pass over the events. With `marks` it also records places, at twice the cost."""

    max_depth = MAX_DEPTH

    def __init__(self, marks: Marks | None = None) -> None:
        self._marks = marks
        self._anchors: dict[str, _Anchored] = {}
        self._stack: list[_Frame] = []
        self._root: Any = None
        self._weight = 0
        self._expanded = 0
        self._faults: list[Fault] = []
        self._documents = 0
        self.has_duplicates = False

    def run(self, next_event: Callable[[], Any]) -> Any:
        """Read to the end of the stream. Raises YamlError."""
        while True:
            event = next_event()
            kind = type(event)
            if kind is ScalarEvent:
                self._scalar(event)
            elif kind is MappingStartEvent:
                self._open({}, event)
            elif kind is SequenceStartEvent:
                self._open([], event)
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close()
            elif kind is AliasEvent:
                self._alias(event)
            elif kind is DocumentStartEvent:
                self._document(event)
            elif kind is StreamEndEvent:
                break
        if self._faults:
            raise YamlError(self._faults, (self._root, self._marks or {}))
        return self._root

    def _scalar(self, event: Any) -> None:
        stack = self._stack
        text: str = event.value
        if stack:
            frame = stack[-1]
            if frame.key is _NO_KEY and type(frame.container) is dict:
                self._key(frame, text, event)
                return
        plain = event.implicit[0]
        if plain and text not in _CONSTANTS and text[0] not in _NUMBER_START:
            value: Any = text
        elif plain or event.tag is not None:
            value = self._resolve(text, event)
        else:
            value = text
        weight = 1 + (len(text) >> 6)
        self._weight += weight
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, weight, 0)
        # Fast path: `_put` without its call, for most nodes are scalars of a mapping.
        if stack and self._marks is None and type(frame.container) is dict:
            key = frame.key
            if key is not _MERGE:
                frame.container[key] = value
                frame.key = _NO_KEY
                return
        self._put(value, event)

    def _key(self, frame: _Frame, text: str, event: Any) -> None:
        if text == "<<" and event.implicit[0]:
            frame.key = _MERGE
        else:
            if text in frame.container:
                self._duplicate(frame, text, event)
            frame.key = text
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchored(text, 1 + (len(text) >> 6), 0)
        if self._marks is not None:
            frame.key_place = _place(event)

    def _put(self, value: Any, event: Any) -> None:
        """Hand a finished node to the collection it stands in."""
        if not self._stack:
            self._root = value
            return
        frame = self._stack[-1]
        container = frame.container
        key: Any
        if type(container) is list:
            key = len(container)
            container.append(value)
        else:
            key = frame.key
            frame.key = _NO_KEY
            if key is _MERGE:
                self._merge(frame, value, event)
                return
            container[key] = value
        if self._marks is not None:
            here = _place(event)
            self._marks[id(container)][key] = (frame.key_place or here, here)

    def _open(self, container: Any, event: Any) -> None:
        stack = self._stack
        if stack and stack[-1].key is _NO_KEY and type(stack[-1].container) is dict:
            self._stop("a mapping key must be a scalar", event)
        if event.tag not in _COLLECTION_TAGS:
            self._stop(f"unknown tag {event.tag}", event)
        if len(stack) >= self.max_depth:
            self._stop(f"nested more than {MAX_DEPTH} levels deep", event)
        self._weight += 1
        frame = _Frame(container, event.anchor, self._weight)
        if self._marks is not None:
            self._marks[id(container)] = {}
        # The container goes to its parent at once: it is filled in place.
        if frame.anchor is not None:
            self._anchors.pop(frame.anchor, None)
        self._put_open(container, event)
        stack.append(frame)

    def _put_open(self, container: Any, event: Any) -> None:
        # A merge value is needed whole, so it is put when it closes.
        if self._stack and self._stack[-1].key is _MERGE:
            return
        self._put(container, event)

    def _close(self) -> None:
        frame = self._stack.pop()
        container = frame.container
        for merged in frame.merges:
            self._take_over(container, merged)
        if frame.anchor is not None:
            weight = self._weight - frame.started + 1
            self._anchors[frame.anchor] = _Anchored(container, weight, frame.height)
        if self._stack:
            parent = self._stack[-1]
            parent.height = max(parent.height, frame.height + 1)
            if parent.key is _MERGE:
                parent.key = _NO_KEY
                self._merge(parent, container, None)

    def _alias(self, event: Any) -> None:
        known = self._anchors.get(event.anchor)
        if known is None:
            self._stop(f"alias *{event.anchor} names no anchor that is complete here", event)
        assert known is not None
        self._weight += known.weight
        self._expanded += known.weight
        if self._expanded > MAX_EXPANSION:
            self._stop(f"aliases expand to more than {MAX_EXPANSION} nodes", event)
        if len(self._stack) + known.height > MAX_DEPTH:
            self._stop(f"nested more than {MAX_DEPTH} levels deep", event)
        if self._stack:
            frame = self._stack[-1]
            if frame.key is _NO_KEY and type(frame.container) is dict:
                self._stop("a mapping key must be a scalar, not an alias", event)
            frame.height = max(frame.height, known.height + 1)
        self._put(known.value, event)

    def _merge(self, frame: _Frame, value: Any, event: Any) -> None:
        sources = value if type(value) is list else [value]
        if not all(type(source) is dict for source in sources):
            self._stop("a merge key takes a mapping or a list of mappings", event)
        frame.merges.extend(sources)

    def _take_over(self, container: dict[str, Any], merged: dict[str, Any]) -> None:
        for key, value in merged.items():
            if key not in container:
                container[key] = value
                if self._marks is not None:
                    self._marks[id(container)][key] = self._marks[id(merged)][key]

    def _resolve(self, text: str, event: Any) -> Any:
        tag = event.tag
        if tag is None or tag in _CORE_TAGS:
            return self._core(text, event)
        if tag not in ("!", _STR_TAG):
            self._stop(f"unknown tag {tag}", event)
        return text

    def _core(self, text: str, event: Any) -> Any:
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text) and len(text) <= 20:
            whole = int(text, 0 if text[:2] in ("0o", "0x") else 10)
            # JSON's writers stop at 64 bits; beyond them a number is a float.
            return whole if _MIN_INTEGER <= whole <= _MAX_INTEGER else float(whole)
        if _NOT_FINITE.fullmatch(text):
            self._stop("infinity and not-a-number have no meaning here; quote it for text", event)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                self._stop("number out of range", event)
            return number
        return text

    def _duplicate(self, frame: _Frame, key: str, event: Any) -> None:
        self.has_duplicates = True
        if self._marks is not None:
            first = self._marks[id(frame.container)][key][0]
            message = f"duplicate key `{key}`, first given at {first.line + 1}:{first.column + 1}"
            self._faults.append(Fault(message, _place(event)))

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            self._stop("a configuration is one YAML document, here a second begins", event)

    def _stop(self, message: str, event: Any) -> None:
        """Give up. What follows could not be told from the consequences."""
        raise YamlError([*self._faults, Fault(message, _place(event) if event else None)])


def _place(event: Any) -> Place:
    mark = event.start_mark
    return Place(mark.line, mark.column, mark.index)
