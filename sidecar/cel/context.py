"""What expressions see of the process rather than of a request.

Source: spec/config.md section 7.2, `env`, `request.path` and `request.startTime`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, final

from sidecar.errors import RequestError

_UNAMBIGUOUS: Final = re.compile(r"(?:/(?!\.{0,2}(?:[/;]|$))[\w\-.~!$&'()*+,=:@]*)+/?", re.ASCII)


def plain_path(target: str) -> str:
    """The path of a target that has only one reading; raises RequestError for any other.

    This stands in until the gateway hands over the router's canonical form: guessing here could
    let a rule and the router disagree about a path.
    """
    path = target.partition("?")[0]
    if path != "/" and _UNAMBIGUOUS.fullmatch(path) is None:
        raise RequestError(400, "ambiguous_path", "the path has more than one reading")
    return path


@final
@dataclass(frozen=True, slots=True)
class Context:
    """Given to an `Engine` once; programs and plans take it from there."""

    env: Mapping[str, str] = field(default_factory=dict)
    """`podName`, `namespace`, `gateway`, those that are known."""

    canonical_path: Callable[[str], str] = plain_path
    """From a request target to the path that the router matches. Raises RequestError."""

    wall_minus_monotonic_ns: int | None = None
    """Wall clock minus monotonic clock, nanoseconds; without it there is no `request.startTime`."""
