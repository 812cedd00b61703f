"""The `x-ratelimit-*` headers: what the most constrained of all limits leaves to the client.

Source: spec/config.md section 3.10; spec/llm.md section 4.6.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sidecar.http.message import Request

LIMIT: Final = b"x-ratelimit-limit"
REMAINING: Final = b"x-ratelimit-remaining"
RESET: Final = b"x-ratelimit-reset"
_NAMES: Final = frozenset((LIMIT, REMAINING, RESET))
_NS: Final = 1_000_000_000
_SMALL_COUNT: Final = 3601
_SMALL: Final = tuple(b"%d" % number for number in range(_SMALL_COUNT))
"""The seconds of most limits: looking a text up takes a third of making it."""


@lru_cache(maxsize=256)
def _limit_text(limit: int) -> bytes:
    return b"%d" % limit


def whole_seconds(ns: int) -> int:
    """Rounded up: who waits that long has waited long enough."""
    return -(-ns // _NS)


def tell(request: Request, limit: int, remaining: int, reset_ns: int) -> None:
    """Queue the three headers, unless another policy has told of a tighter limit already.

    `reset_ns`: until the limit has more to give.
    """
    queued = request.response_headers
    for name, value in queued:
        if name == REMAINING:
            if int(value) <= remaining:
                return
            queued[:] = [field for field in queued if field[0] not in _NAMES]
            break
    seconds = -(-reset_ns // _NS)
    queued += (
        (LIMIT, _limit_text(limit)),
        (REMAINING, b"%d" % remaining),
        (RESET, _SMALL[seconds] if 0 <= seconds < _SMALL_COUNT else b"%d" % seconds),
    )
