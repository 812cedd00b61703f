"""What regex guards find: ready recognisers, and patterns of the operator's own.

Source: spec/llm.md section 4.2; ISO/IEC 7812-1 annex B (Luhn); RE2's syntax. RE2 takes time that is
linear in the text, whatever the pattern. Check digits are Python's, and only of what RE2 found to
have enough digits in a row; that a text may consist of such rows is why finders come in steps.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Final, final

import re2

from sidecar.errors import ConfigError
from sidecar.llm.guard.masked import Span

Place = tuple[int, int]
"""Start and end of a match."""
Finder = Callable[[str], Iterator[Place | None]]
"""The matches in a text, in order; None where about a millisecond of work was done."""

MASK: Final = "<masked>"
_DIGITS: Final = re.compile(r"[0-9]+")
_STEP: Final = 512
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


def _compiled(pattern: str) -> Any:
    """Raises: ConfigError without a path for what is no RE2 pattern."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as problem:
        raise ConfigError("", f"not a regular expression (RE2): {_reason(problem)}") from problem


_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")
_ROW: Final = r"[0-9](?:[ .\-]?[0-9]){%d,}"
"""Digits in groups, between which one separator stands."""
_CARD_ROWS: Final = _compiled(_ROW % (_CARD_DIGITS.start - 1))
_SIN_ROWS: Final = _compiled(_ROW % 8)


def _is_luhn(digits: str) -> bool:
    backwards = digits[::-1].encode()
    # The octet of a digit is 48 more than its value.
    total = sum(backwards[::2]) + sum(backwards[1::2].translate(_DOUBLED))
    return (total - 48 * len(digits)) % 10 == 0


def _groups(
    text: str, rows: Any, ahead: int, take: Callable[[str, list[Place]], int]
) -> Iterator[Place | None]:
    """What begins with a group: `take` sees it and those behind it, `ahead` in all, and says how
    many of them belong together, 0 for none."""
    steps = 0
    for row in rows.finditer(text):
        coming = _DIGITS.finditer(text, *row.span())
        seen: deque[Place] = deque()
        while True:
            while len(seen) < ahead and (found := next(coming, None)) is not None:
                seen.append(found.span())
            if not seen:
                break
            taken = take(text, list(seen))
            if taken:
                yield seen[0][0], seen[taken - 1][1]
            for _ in range(taken or 1):
                seen.popleft()
            steps += 1
            if steps % _STEP == 0:
                yield None


def _cards(text: str) -> Iterator[Place | None]:
    """Numbers of payment cards, in one piece or in groups, by their Luhn digit."""
    return _groups(text, _CARD_ROWS, _CARD_GROUPS, _card_groups)


def _card_groups(text: str, groups: list[Place]) -> int:
    if groups[0][1] - groups[0][0] < 4 or not _CARD.match(text, groups[0][0]):
        return 0
    digits = ""
    longest = 0
    for count, (start, end) in enumerate(groups, 1):
        if len(digits) + end - start > _CARD_DIGITS.stop - 1:
            break
        digits += text[start:end]
        if len(digits) in _CARD_DIGITS and _is_luhn(digits):
            longest = count
    return longest


def _sins(text: str) -> Iterator[Place | None]:
    """Canadian insurance numbers: nine digits, or three times three, by their Luhn digit."""
    return _groups(text, _SIN_ROWS, 3, _sin_groups)


def _sin_groups(text: str, groups: list[Place]) -> int:
    sizes = [end - start for start, end in groups]
    count = 1 if sizes[0] == 9 else 3
    if sizes[:count] not in ([9], [3, 3, 3]):
        return 0
    digits = "".join(text[start:end] for start, end in groups[:count])
    return count if digits.strip("0") and _is_luhn(digits) else 0


def _finder(pattern: str) -> Finder:
    """Raises: ConfigError without a path for what is no RE2 pattern."""
    compiled = _compiled(pattern)

    def find(text: str) -> Iterator[Place | None]:
        for number, found in enumerate(compiled.finditer(text), 1):
            start, end = found.span()
            # What matches nothing would put a mask between any two characters.
            if end > start:
                yield start, end
            if number % _STEP == 0:
                yield None

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
        steps = self.steps(text)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                found: list[Span] = done.value
                return found

    def steps(self, text: str) -> Generator[None, None, list[Span]]:
        """The same for who has others waiting: it stops after each millisecond or so of work."""
        found: list[tuple[int, int, int, str]] = []
        for number, (mask, finder) in enumerate(self._rules):
            for place in finder(text):
                if place is None:
                    yield
                else:
                    found.append((*place, number, mask))
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
