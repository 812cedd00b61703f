"""Expansion of environment variables over the raw text of a configuration file.

It runs before YAML is parsed, so it reaches comments and CEL strings too. `$VAR`, `${VAR}`,
`${VAR:-default}`, `$$` for a dollar, and a `~` at the very start. A variable that is set but
empty expands to nothing; the default is for one that is not set. A dollar that no name follows
stays, as does `${` without its brace.

Source: spec config section 0.1, steps 2 and 3.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

UNSET = "\ue000"
"""Stands for a variable that is not set: a private character, which no text needs."""
_REFERENCE = re.compile(r"\$(?:\$|\{([^}]*)\}|(\w+))")
_SCHEMA_COMMENT = re.compile(r"^([ \t]*#[ \t]*yaml-language-server:[^\n]*?)\$(schema)", re.M)


@final
@dataclass(frozen=True, slots=True)
class Missing:
    """A variable that is not set and has no default. `offset` counts characters of the source."""

    name: str
    offset: int


@final
@dataclass(frozen=True, slots=True)
class Expanded:
    """The text after expansion, and the way back to places in the source."""

    text: str
    missing: tuple[Missing, ...]
    starts: tuple[int, ...]
    """Offsets in `text` at which a replacement begins or the source goes on, ascending."""
    sources: tuple[tuple[int, bool], ...]
    """For each of `starts`: the offset in the source, and whether the text there is its copy."""

    def source_offset(self, offset: int) -> int:
        """The place in the source of a character of the text; a replacement maps to its `$`."""
        index = bisect_right(self.starts, offset) - 1
        if index < 0:
            return offset
        source, is_copy = self.sources[index]
        return source + offset - self.starts[index] if is_copy else source


def expand(text: str, env: Mapping[str, str]) -> Expanded:
    """Replace every reference. Never fails: variables that are not set are listed in `missing`."""
    writer = _Writer(text)
    if text.startswith("~") and text[1:2] in ("", "/") and env.get("HOME"):
        writer.replace(0, 1, env["HOME"])
    # The `$schema` of an editor's comment line is no variable (spec 0.1, step 2).
    comments = {match.start(2) - 1 for match in _SCHEMA_COMMENT.finditer(text)}
    for match in _REFERENCE.finditer(text):
        if match.start() not in comments:
            writer.replace(match.start(), match.end(), _value(match, env, writer.missing))
    return writer.finish()


def _value(match: re.Match[str], env: Mapping[str, str], missing: list[Missing]) -> str:
    braced, bare = match.groups()
    if braced is None and bare is None:
        return "$"
    name, default = (bare, None) if braced is None else _split_default(braced)
    value = env.get(name)
    if value is not None:
        return value
    if default is not None:
        return default
    missing.append(Missing(name, match.start()))
    # Where it ends up nothing is looked at, and the load fails.
    return UNSET


def _split_default(braced: str) -> tuple[str, str | None]:
    at = braced.find(":-")
    return (braced[:at], braced[at + 2 :]) if at > 0 else (braced, None)


class _Writer:
    """Collects the pieces of the result with their places in the source."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pieces: list[str] = []
        self._at = 0
        self._length = 0
        self._starts: list[int] = []
        self._sources: list[tuple[int, bool]] = []
        self.missing: list[Missing] = []

    def replace(self, start: int, end: int, value: str) -> None:
        self._put(self._text[self._at : start], self._at, is_copy=True)
        self._put(value, start, is_copy=False)
        self._at = end

    def finish(self) -> Expanded:
        self._put(self._text[self._at :], self._at, is_copy=True)
        return Expanded(
            "".join(self._pieces), tuple(self.missing), tuple(self._starts), tuple(self._sources)
        )

    def _put(self, piece: str, source: int, *, is_copy: bool) -> None:
        if piece:
            self._pieces.append(piece)
            self._starts.append(self._length)
            self._sources.append((source, is_copy))
            self._length += len(piece)
