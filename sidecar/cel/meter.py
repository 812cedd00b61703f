"""What one evaluation may cost: steps of its loops, and octets of what it makes.

Source: hardening case 40 (expressions against hostile input); cel-spec leaves cost to the host.

An expression without a loop costs what its text says. In a loop, whose length a client may choose,
each turn is a step, and each call of a function is as many more as its arguments are long. The
steps are those of the whole evaluation, so that loops within loops share them. They are counted,
not timed: the same input always ends in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from sidecar.cel.values import Code, CostExceededError

MAX_STEPS: Final = 100_000
"""Of one evaluation; about a twentieth of a second."""
MAX_RESULT_BYTES: Final = 16 * 1024 * 1024
"""Of a text or list that a function makes out of others."""
_SIZED: Final = frozenset((str, bytes, list, dict))
_SIZE_A_STEP: Final = 64


def spend(frame: list[object], slot: int, steps: int) -> None:
    """Take steps from what is left in the frame. Raises CostExceededError."""
    left = frame[slot] - steps  # type: ignore[operator]
    frame[slot] = left
    if left < 0:
        raise CostExceededError(f"the evaluation takes more than {MAX_STEPS} steps")


def metered(slot: int, function: Callable[..., object], codes: Sequence[Code]) -> Code:
    """A call within a loop: its arguments' sizes count."""

    def call(c: Mapping[str, object], f: list[object]) -> object:
        values = [code(c, f) for code in codes]
        spend(f, slot, _weight(values))
        return function(*values)

    return call


def _weight(values: Iterable[object]) -> int:
    size = 0
    for value in values:
        if type(value) in _SIZED:
            size += len(value)  # type: ignore[arg-type]
    return 1 + size // _SIZE_A_STEP


def check_size(size: int) -> None:
    """Of a result that is still to be made, or was. Raises CostExceededError."""
    if size > MAX_RESULT_BYTES:
        raise CostExceededError(f"a result is larger than {MAX_RESULT_BYTES} octets")
