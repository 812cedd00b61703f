"""String functions, among them the regular expressions (RE2: linear time, no look-around).

Source: spec/config.md section 7.4; cel-go, extension "Strings". Offsets count characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

import re2

from sidecar.cel.meter import check_size
from sidecar.cel.ops import contains
from sidecar.cel.table import Function, Table, count, text
from sidecar.cel.values import CelError, CostExceededError, no_overload


class Match(Protocol):
    """What is used of an RE2 match."""

    def start(self) -> int:
        """Offset of the match, in characters."""

    def end(self) -> int:
        """Offset behind the match."""

    def group(self, which: int | str = 0) -> str | None:
        """A group; None when it took no part. Raises IndexError."""


class Pattern(Protocol):
    """What is used of an RE2 pattern."""

    def search(self, text: str) -> Match | None:
        """The first match anywhere."""


def _options() -> object:
    options = re2.Options()
    # RE2 would write the pattern, which may hold a secret, to standard error.
    options.log_errors = False
    return options


_OPTIONS: Final = _options()
_SHORT_PATTERN: Final = 256
_MATCH_WORK: Final = 1 << 24
"""Characters of a text times those of a pattern that is not short: RE2 is linear in each of them,
and a pattern may come from requests as well. About a tenth of a second."""


@lru_cache(maxsize=256)
def pattern(source: str) -> Pattern:
    """The compiled pattern; raises CelError. Patterns may come from requests, so few are kept."""
    try:
        compiled: Pattern = re2.compile(source, options=_OPTIONS)
    except re2.error as exc:
        raise CelError("not a valid RE2 regular expression") from exc
    return compiled


def matches(value: object, source: object) -> bool:
    """Whether the pattern is found anywhere in the string."""
    if not isinstance(value, str) or not isinstance(source, str):
        raise no_overload("matches", value, source)
    return _found(str(value), str(source)) is not None


def _found(value: str, source: str) -> Match | None:
    """The first match. Raises: CelError."""
    if len(source) > _SHORT_PATTERN and len(source) * len(value) > _MATCH_WORK:
        raise CostExceededError("a pattern and its text are too long for each other")
    return pattern(source).search(value)


_GROUP: Final = re.compile(r"\$(?:(\$)|\{([0-9A-Za-z_]+)\}|([0-9A-Za-z_]+))", re.ASCII)


def regex_replace(value: object, source: object, replacement: object) -> str:
    """The FIRST match replaced; `$1`, `$name`, `${name}` are groups, `$$` a dollar sign."""
    name = "regexReplace"
    subject, into = str(text(name, value)), str(text(name, replacement))
    found = _found(subject, str(text(name, source)))
    if found is None:
        return subject

    def group(reference: re.Match[str]) -> str:
        if reference[1]:
            return "$"
        wanted = reference[2] or reference[3]
        try:
            return found.group(int(wanted) if wanted.isdigit() else wanted) or ""
        except (IndexError, re2.error):
            return ""  # a group that the pattern lacks is empty, as in agentgateway

    return subject[: found.start()] + _GROUP.sub(group, into) + subject[found.end() :]


def _contains(value: object, item: object) -> bool:
    if isinstance(value, bytes):
        return isinstance(item, bytes) and item in value
    if isinstance(value, str):
        return isinstance(item, str) and item in value
    return contains(value, item)


def starts_with(value: object, prefix: object) -> bool:
    """CEL `startsWith`."""
    if isinstance(value, str) and isinstance(prefix, str):
        return value.startswith(prefix)
    raise no_overload("startsWith", value, prefix)


def ends_with(value: object, suffix: object) -> bool:
    """CEL `endsWith`."""
    if isinstance(value, str) and isinstance(suffix, str):
        return value.endswith(suffix)
    raise no_overload("endsWith", value, suffix)


def _char_at(value: object, at: object) -> str:
    subject, place = text("charAt", value), count("charAt", at)
    if place >= len(subject):
        raise CelError("charAt: the index is out of range")
    return subject[place]


def _index_of(value: object, part: object, start: object = 0) -> int:
    subject, sought = text("indexOf", value), text("indexOf", part)
    first = count("indexOf", start)
    return -1 if first >= len(subject) else subject.find(sought, first)


def _last_index_of(value: object, part: object, last: object = None) -> int:
    subject, sought = text("lastIndexOf", value), text("lastIndexOf", part)
    if last is None:
        return subject.rfind(sought)
    end = count("lastIndexOf", last)
    return -1 if end >= len(subject) else subject.rfind(sought, 0, end + len(sought))


def _join(value: object, separator: object = "") -> str:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CelError("join: the receiver is no list of strings")
    between = str(text("join", separator))
    check_size(sum(map(len, value)) + len(between) * len(value))
    return between.join(str(item) for item in value)


def _replace(value: object, old: object, new: object, limit: object = -1) -> str:
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise no_overload("replace", value, old, new, limit)
    subject, sought, given = (str(text("replace", each)) for each in (value, old, new))
    if len(given) > len(sought):
        check_size(len(subject) + subject.count(sought) * (len(given) - len(sought)))
    return subject.replace(sought, given, int(limit))


def _split(value: object, separator: object, limit: object = -1) -> list[object]:
    subject, mark = str(text("split", value)), text("split", separator)
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise no_overload("split", value, separator, limit)
    if limit == 0:
        return []
    if mark:
        return list(subject.split(mark, limit - 1 if limit > 0 else -1))
    if limit < 0 or limit >= len(subject):
        return list(subject)
    return [*subject[: limit - 1], subject[limit - 1 :]]


def _substring(value: object, start: object, end: object = None) -> str:
    subject, first = str(text("substring", value)), count("substring", start)
    last = len(subject) if end is None else count("substring", end)
    if last < first:
        raise CelError("substring: the end is before the start")
    return subject[first:last]


def _ascii(change: Callable[[str], str]) -> Callable[[object], str]:
    def apply(value: object) -> str:
        subject = str(text("ASCII case", value))
        if subject.isascii():
            return change(subject)
        return "".join(change(c) if c.isascii() else c for c in subject)

    return apply


METHODS: Final[Table] = {
    "contains": Function(_contains, 1, 1),
    "startsWith": Function(starts_with, 1, 1),
    "endsWith": Function(ends_with, 1, 1),
    "matches": Function(matches, 1, 1),
    "regexReplace": Function(regex_replace, 2, 2),
    "charAt": Function(_char_at, 1, 1),
    "indexOf": Function(_index_of, 1, 2),
    "lastIndexOf": Function(_last_index_of, 1, 2),
    "join": Function(_join, 0, 1),
    "lowerAscii": Function(_ascii(str.lower), 0, 0),
    "upperAscii": Function(_ascii(str.upper), 0, 0),
    "trim": Function(lambda value: str(text("trim", value)).strip(), 0, 0),
    "replace": Function(_replace, 2, 3),
    "split": Function(_split, 1, 2),
    "substring": Function(_substring, 1, 2),
    "stripPrefix": Function(
        lambda value, part: str(text("stripPrefix", value)).removeprefix(text("stripPrefix", part)),
        1,
        1,
    ),
    "stripSuffix": Function(
        lambda value, part: str(text("stripSuffix", value)).removesuffix(text("stripSuffix", part)),
        1,
        1,
    ),
}
