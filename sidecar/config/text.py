"""The text of a configuration: where it comes from, its stages, and the way back to a line of it.

Source: spec config section 0.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import orjson

from sidecar.config.environment import UNSET, Expanded, expand
from sidecar.config.explain import Finding
from sidecar.config.problems import InvalidConfigError, Key, Problem, in_file_order, render_path
from sidecar.config.yaml import Document, YamlError

Note = Callable[[str], object]
"""Is told of a file that is about to be read."""
MAX_BYTES = 32 * 1024 * 1024
"""Largest configuration, and largest file that one refers to."""


def noted_nowhere(_: str) -> None:
    """A Note."""


@final
@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration comes from: a file, which can be read again, or a text."""

    name: str
    """How problems call it: the path, `<stdin>` or `<config>`."""
    path: Path | None = None
    content: str | None = field(default=None, repr=False)
    """The text, when there is no file."""

    def read(self) -> str:
        """The text. Raises InvalidConfigError when the file cannot be read."""
        if self.path is None:
            return self.content or ""
        try:
            return read_text(self.path)
        except (OSError, UnicodeDecodeError) as error:
            reason = _reason(error)
            raise InvalidConfigError(
                self.name, [Problem("", f"cannot be read: {reason}")]
            ) from error


@final
class Text:
    """The text in its stages, and the way from a path back to a line of the source."""

    def __init__(
        self,
        source: Source,
        env: Mapping[str, str],
        read: Callable[[str], Any] | None = None,
    ) -> None:
        self._name = source.name
        self._source = source.read()
        self._expanded: Expanded = expand(self._source, env)
        self.faults: list[Problem] = [
            Problem("", f"environment variable `{one.name[:60]}` is not set", *self._at(one.offset))
            for one in self._expanded.missing
        ]
        """Variables that are not set, or else keys given twice, the last of which counts."""
        try:
            self.document = Document(self._expanded.text, read)
        except YamlError as error:
            # With a variable's text it might be other YAML.
            self.faults = self.faults or [
                Problem("", fault.message, *self._line(fault.place.offset if fault.place else None))
                for fault in error.faults
            ]
            if error.rest is None:
                raise InvalidConfigError(self._name, self.faults) from None
            self.document = Document.of(self._expanded.text, error.rest)

    def problems(self, found: Iterable[Finding]) -> list[Problem]:
        """Findings with their lines, in the order of the file."""
        return in_file_order(
            Problem(render_path(one.parts), one.message, *self._place(one), one.hint)
            for one in found
        )

    def places_of_unset(self) -> Iterator[tuple[Key, ...]]:
        """Where text or a key depends on a variable that is not set."""
        return _unset_in(self.document.data, ())

    def _place(self, one: Finding) -> tuple[int, int]:
        place = self.document.place(one.parts, key=one.at_key)
        return self._line(place.offset if place else None)

    def _line(self, offset: int | None) -> tuple[int, int]:
        return (0, 0) if offset is None else self._at(self._expanded.source_offset(offset))

    def _at(self, offset: int) -> tuple[int, int]:
        start = self._source.rfind("\n", 0, offset) + 1
        return self._source.count("\n", 0, offset) + 1, offset - start + 1


def _unset_in(node: Any, at: tuple[Key, ...]) -> Iterator[tuple[Key, ...]]:
    if isinstance(node, str) and UNSET in node:
        yield at
    elif isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(key, str) and UNSET in key:
                yield (*at, key)
            else:
                yield from _unset_in(value, (*at, key))


def resolve(path: str, data: Any) -> tuple[Key, ...]:
    """Read a path as `render_path` writes it; a key may hold dots when the data has it."""
    parts: list[Key] = []
    node = data
    rest = path
    while rest:
        part, rest = _next_part(rest, node)
        parts.append(part)
        node = _child(node, part)
    return tuple(parts)


_INDEX = re.compile(r"\[(\d+)\]")
_QUOTED = re.compile(r'\[("(?:[^"\\]|\\.)*")\]')
_NAME = re.compile(r"[^.\[]+|.")


def _next_part(rest: str, node: Any) -> tuple[Key, str]:
    if match := _INDEX.match(rest):
        return int(match[1]), rest[match.end() :]
    if match := _QUOTED.match(rest):
        return str(orjson.loads(match[1])), rest[match.end() :]
    rest = rest.removeprefix(".")
    keys = node if isinstance(node, dict) else ()
    fitting = [
        key for key in keys if rest.startswith(key) and rest[len(key) :][:1] in ("", ".", "[")
    ]
    key = max(fitting, key=len, default="")
    if not key:
        match = _NAME.match(rest)
        key = match[0] if match else rest
    return key, rest[len(key) :]


def _child(node: Any, part: Key) -> Any:
    if isinstance(part, int):
        return node[part] if isinstance(node, list) and part < len(node) else None
    return node.get(part) if isinstance(node, dict) else None


def read_text(path: Path) -> str:
    """A file's text. Raises OSError, also when it is too large, and UnicodeDecodeError."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(0, f"larger than {MAX_BYTES} bytes")
    return content.decode("utf-8-sig")


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start})"
    return error.strerror or "unreadable"
