"""How a function of the language is described: its code, and how many arguments it takes.

Source: spec/config.md sections 7.3 and 7.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from sidecar.cel.values import CelError, no_overload

Implementation = Callable[..., object]


@final
@dataclass(frozen=True, slots=True)
class Function:
    """`code` takes evaluated arguments, of a method the receiver first. Raises CelError.

    `least` and `most` count what stands between the parentheses. `pure`: the same arguments
    give the same value, so that a call with constants is computed when it is compiled.
    """

    code: Implementation
    least: int
    most: int
    pure: bool = True


Table = dict[str, Function]


def text(what: str, value: object) -> str:
    """The argument as a string. Raises CelError."""
    if isinstance(value, str):
        return value
    raise no_overload(what, value)


def octets(what: str, value: object) -> bytes:
    """The argument as bytes; a string stands for its UTF-8. Raises CelError."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise no_overload(what, value)


def count(what: str, value: object) -> int:
    """The argument as a non-negative integer. Raises CelError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise CelError(f"{what}: the argument is no index")
