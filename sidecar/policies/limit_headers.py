"""The `x-ratelimit-*` headers: what the most constrained of all limits leaves to the client.

Source: spec/config.md section 3.10; spec/llm.md section 4.6.
"""

from __future__ import annotations

from typing import Final

from sidecar.http.message import Request

LIMIT: Final = b"x-ratelimit-limit"
REMAINING: Final = b"x-ratelimit-remaining"
RESET: Final = b"x-ratelimit-reset"
_NAMES: Final = frozenset((LIMIT, REMAINING, RESET))
_NS: Final = 1_000_000_000


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
    queued += (
        (LIMIT, b"%d" % limit),
        (REMAINING, b"%d" % remaining),
        (RESET, b"%d" % whole_seconds(reset_ns)),
    )
