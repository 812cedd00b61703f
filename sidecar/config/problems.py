"""What is wrong with a configuration: one `Problem` a fault, with its place and a suggestion.

Source: spec conventions section 5 (file:line:column, did-you-mean, all errors at once).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from sidecar.errors import ConfigError

Key = str | int
"""One step of a path: a mapping's key or a sequence's index."""

_PLAIN_KEY = re.compile(r"[^.\[\]\"\s]+")


def render_path(parts: Iterable[Key]) -> str:
    """Write a path as `binds[0].listeners[1].tls`; a key with a dot is put in `["…"]`."""
    out = ""
    for part in parts:
        if isinstance(part, int):
            out += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            out += f".{part}" if out else part
        else:
            out += f"[{json.dumps(part, ensure_ascii=False)}]"
    return out


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """One fault. `line` and `column` count from 1; 0 means that the place is not known."""

    path: str
    """As `render_path` writes it; empty when the whole document is meant."""
    message: str
    line: int = 0
    column: int = 0
    hint: str = ""
    """The name that was probably meant, or empty."""

    def render(self, file: str) -> str:
        """Write the fault as `file:line:column: path: message; did you mean 'x'?`."""
        place = f"{file}:{self.line}:{self.column}: " if self.line else f"{file}: "
        path = f"{self.path}: " if self.path else ""
        hint = f"; did you mean '{self.hint}'?" if self.hint else ""
        return f"{place}{path}{self.message}{hint}"

    def to_json(self, file: str) -> dict[str, str | int | None]:
        """Plain data for `--output json`; what is not known is null."""
        return {
            "file": file,
            "line": self.line or None,
            "column": self.column or None,
            "path": self.path,
            "message": self.message,
            "hint": self.hint or None,
        }


class InvalidConfigError(ConfigError):
    """A configuration was refused; `problems` holds every reason, in the order of the file.

    `warnings`: what would have been said of it had it been accepted, as far as that is known.
    """

    def __init__(
        self, file: str, problems: Sequence[Problem], warnings: Sequence[Problem] = ()
    ) -> None:
        super().__init__("", "\n".join(problem.render(file) for problem in problems))
        self.file = file
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


def closest(word: str, candidates: Iterable[str]) -> str:
    """The candidate that `word` was probably meant to be, letter case aside, or an empty string."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    longer = [folded for folded in by_folded if folded.startswith(word.casefold())]
    if len(longer) == 1 and len(word) > 2:
        return by_folded[longer[0]]
    found = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.7)
    return by_folded[found[0]] if found else ""


def is_slip(word: str, candidates: Iterable[str]) -> bool:
    """Whether `word` is hardly anything but a misspelling of a candidate.

    Stricter than `closest`: Istio's `networkMode` is no slip of `network`.
    """
    folded = [candidate.casefold() for candidate in candidates]
    return bool(difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.8))


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort by place, those without one last, each distinct fault once."""
    distinct = dict.fromkeys(problems)
    return sorted(distinct, key=lambda one: (one.line == 0, one.line, one.column, one.path))
