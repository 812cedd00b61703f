"""What regex guards find: ready recognisers, and patterns of the operator's own.

Source: spec/llm.md section 4.2; ISO/IEC 7812-1 annex B (Luhn); RE2's syntax. RE2 takes time that is
linear in the text, whatever the pattern; what Python does on top of it looks at each digit a fixed
number of times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, final

import re2

from sidecar.errors import ConfigError
from sidecar.llm.guard.masked import Span

Finder = Callable[[str], list[tuple[int, int]]]
"""Start and end of each match in a text, in order."""

MASK: Final = "<masked>"
_DIGITS: Final = re.compile(r"[0-9]+")
_SEPARATORS: Final = " -."
_CARD_GROUPS: Final = 5
_CARD: Final = re.compile(r"(?:4|5[0-5]|6|3|1|2[2-7])")
"""Visa, Mastercard, Discover and UnionPay, American Express and JCB, the old Diners."""
_CARD_DIGITS: Final = range(13, 20)
_SSN: Final = (
    r"\b(?:[0-9]{5}[-. ][0-9]{4}|[0-9]{3}[-. ][0-9]{6}"
    r"|[0-9]{3}[-. ][0-9]{2}[-. ][0-9]{4}|[0-9]{9})\b"
)
_EMAIL: Final = (
    r"\b[A-Za-z0-9][A-Za-z0-9._%+'\-]{0,63}"
    r"@(?:[A-Za-z0-9][A-Za-z0-9\-]{0,62}\.){1,8}[A-Za-z]{2,24}\b"
)
_PHONES: Final = "|".join(
    (
        # International: a plus and 7 to 15 digits.
        r"\+[1-9][0-9]{0,2}[ .\-]?(?:\([0-9]{1,4}\)[ .\-]?)?[0-9](?:[ .\-]?[0-9]){5,12}\b",
        # North America.
        r"(?:\b1[ .\-])?(?:\([2-9][0-9]{2}\)|\b[2-9][0-9]{2})[ .\-]?[2-9][0-9]{2}[ .\-]?[0-9]{4}\b",
        # A trunk zero: Britain, Germany, Israel, India.
        r"\b0[0-9]{1,4}[ .\-/]?[0-9]{3,4}[ .\-]?[0-9]{3,4}\b",
        # Indian mobiles, and Brazilian numbers with their area in brackets.
        r"\b[6-9][0-9]{4}[ \-]?[0-9]{5}\b",
        r"\([1-9][0-9]\) ?9?[0-9]{4}-?[0-9]{4}\b",
    )
)


def _is_luhn(digits: str) -> bool:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = ord(digit) - 48
        if index % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def _groups(text: str) -> list[tuple[int, int]]:
    return [found.span() for found in _DIGITS.finditer(text)]


def _is_joined(text: str, left: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether one separator, and nothing else, stands between two groups of digits."""
    return right[0] == left[1] + 1 and text[left[1]] in _SEPARATORS


def _cards(text: str) -> list[tuple[int, int]]:
    """Numbers of payment cards, in one piece or in groups, by their Luhn digit."""
    groups = _groups(text)
    found: list[tuple[int, int]] = []
    index = 0
    while index < len(groups):
        end = _card_end(text, groups, index)
        if end is not None:
            found.append((groups[index][0], groups[end][1]))
            index = end
        index += 1
    return found


def _card_end(text: str, groups: list[tuple[int, int]], index: int) -> int | None:
    """The last group of a card that begins with this one."""
    digits = ""
    if groups[index][1] - groups[index][0] < 4:
        return None
    longest = None
    for at in range(index, min(index + _CARD_GROUPS, len(groups))):
        start, end = groups[at]
        if len(digits) + end - start > _CARD_DIGITS.stop - 1:
            break
        if at > index and not _is_joined(text, groups[at - 1], groups[at]):
            break
        digits += text[start:end]
        if len(digits) in _CARD_DIGITS and _CARD.match(digits) and _is_luhn(digits):
            longest = at
    return longest


def _sins(text: str) -> list[tuple[int, int]]:
    """Canadian insurance numbers: nine digits, or three times three, by their Luhn digit."""
    groups = _groups(text)
    found: list[tuple[int, int]] = []
    for index, (start, end) in enumerate(groups):
        last = index
        if end - start == 3 and index + 2 < len(groups):
            last = index + 2
        parts = groups[index : last + 1]
        sizes = [high - low for low, high in parts]
        joined = all(_is_joined(text, *pair) for pair in pairwise(parts))
        if sizes not in ([9], [3, 3, 3]) or not joined:
            continue
        digits = "".join(text[low:high] for low, high in parts)
        if digits.strip("0") and _is_luhn(digits) and (not found or found[-1][1] <= start):
            found.append((start, groups[last][1]))
    return found


def _finder(pattern: str) -> Finder:
    """Raises: ConfigError without a path for what is no RE2 pattern."""
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options=options)
    except re2.error as problem:
        raise ConfigError("", f"not a regular expression (RE2): {_reason(problem)}") from problem

    def find(text: str) -> list[tuple[int, int]]:
        # What matches nothing would put a mask between any two characters.
        spans = (found.span() for found in compiled.finditer(text))
        return [(start, end) for start, end in spans if end > start]

    return find


def _reason(problem: Exception) -> str:
    reason = problem.args[0] if problem.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


BUILTINS: Final[Mapping[str, tuple[str, Finder]]] = {
    "ssn": ("<SSN>", _finder(_SSN)),
    "creditCard": ("<CREDIT_CARD>", _cards),
    "phoneNumber": ("<PHONE_NUMBER>", _finder(_PHONES)),
    "email": ("<EMAIL_ADDRESS>", _finder(_EMAIL)),
    "caSin": ("<CA_SIN>", _sins),
}
"""Key of the configuration → what stands in the place of a match, and who finds it."""


@final
class Patterns:
    """The rules of one guard. Raises: ConfigError, its path below the guard's `regex`."""

    __slots__ = ("_rules", "rejects")

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.rejects = config.get("action", "mask") == "reject"
        """Whether a match refuses; else it is masked."""
        self._rules = [_rule(data, index) for index, data in enumerate(config["rules"])]

    def find(self, text: str) -> list[Span]:
        """What to mask. Matches that overlap are one, under the mask of the rule named first."""
        found = [
            (start, end, number, mask)
            for number, (mask, finder) in enumerate(self._rules)
            for start, end in finder(text)
        ]
        return _joined(sorted(found)) if found else []


def _rule(data: Mapping[str, Any], index: int) -> tuple[str, Finder]:
    builtin = data.get("builtin")
    if builtin is not None:
        return BUILTINS[builtin]
    try:
        return MASK, _finder(data["pattern"])
    except ConfigError as problem:
        raise ConfigError(f"rules[{index}].pattern", problem.message) from problem


def _joined(found: Sequence[tuple[int, int, int, str]]) -> list[Span]:
    joined = [found[0]]
    for start, end, number, mask in found[1:]:
        low, high, first, label = joined[-1]
        if start >= high:
            joined.append((start, end, number, mask))
            continue
        if number < first:
            first, label = number, mask
        joined[-1] = (low, max(high, end), first, label)
    return [(start, end, mask) for start, end, _, mask in joined]


__all__ = ["BUILTINS", "MASK", "Patterns"]
