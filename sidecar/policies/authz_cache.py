"""Decisions of an authorization service, kept for as long as an expression says.

Source: spec/config.md section 3.8 (cache); hardening case 35.

Each worker keeps its own. A decision that will soon end is asked for again by one request, while
the others still use it; when that fails, it holds until its end.
"""

from __future__ import annotations

import datetime
from collections import OrderedDict
from typing import Final, final

from sidecar.cel.engine import CelError
from sidecar.errors import RequestError
from sidecar.http.message import Request, Response
from sidecar.policies import fields
from sidecar.policies.authz import CacheConfig, Decision, Denied
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression, shared_plan

Key = tuple[tuple[str, bytes], ...]
_EARLY_SHARE: Final = 10
_EARLY_MAX_NS: Final = 5_000_000_000
_FAR: Final = 1 << 62
_TTL_MAX_NS: Final = 24 * 3600 * 1_000_000_000
"""A decision is asked for again once a day, whatever the expression says."""
_KEPT_BYTES: Final = 16 * 1024 * 1024
"""Of all keys and decisions: clients choose what is in a key, and services how much they answer."""
_ENTRY_BYTES: Final = 500
_METADATA_BYTES: Final = 64 * 1024
"""Counted for metadata whose size nobody can tell."""


@final
class _Entry:
    """A decision, when it ends and from when on it is asked for again. Monotonic nanoseconds.

    `size`: octets, roughly, with those of its key.
    """

    __slots__ = ("decision", "early_ns", "ends_ns", "size")

    def __init__(self, decision: Decision, size: int, now_ns: int, ttl_ns: int) -> None:
        self.decision = decision
        self.size = size
        self.ends_ns = now_ns + ttl_ns
        self.early_ns = self.ends_ns - min(ttl_ns // _EARLY_SHARE, _EARLY_MAX_NS)


@final
class DecisionCache:
    """See the module. Raises: ConfigError with a path below `cache`."""

    __slots__ = (
        "_clock",
        "_entries",
        "_keys",
        "_max_entries",
        "_plan",
        "_size",
        "_ttl",
        "needs_body",
    )

    def __init__(self, config: CacheConfig, services: Services, *, with_response: bool) -> None:
        """`with_response`: whether `ttl` may name the answer."""
        self._clock = services.clock
        self._keys = [
            Expression(source, services, f"key[{index}]") for index, source in enumerate(config.key)
        ]
        self._plan = shared_plan(self._keys)
        self._ttl = Expression(config.ttl, services, "ttl", with_response=with_response)
        self._max_entries = config.max_entries
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._size = 0
        self.needs_body = self._ttl.needs_request_body or any(
            one.needs_request_body for one in self._keys
        )

    def key(self, request: Request) -> Key | None:
        """What a decision is kept by; None when a part has no value. Raises: RequestError."""
        variables = self._plan.activation(request)
        parts: list[tuple[str, bytes]] = []
        for expression in self._keys:
            value = expression.value_in(variables)
            raw = fields.encoded(value)
            if raw is None:
                return None
            # With its kind: the number 1 and the text "1" may be two people.
            parts.append((type(value).__name__, raw))
        return tuple(parts)

    def get(self, key: Key) -> Decision | None:
        """The decision of a key; None when there is none, and for the one who is to renew it."""
        entry = self._entries.get(key)
        now = self._clock.monotonic_ns()
        if entry is None or now >= entry.ends_ns:
            return None
        if now >= entry.early_ns:
            entry.early_ns = entry.ends_ns
            return None
        self._entries.move_to_end(key)
        return entry.decision

    def last(self, key: Key) -> Decision | None:
        """What still holds when the renewal failed."""
        entry = self._entries.get(key)
        is_over = entry is None or self._clock.monotonic_ns() >= entry.ends_ns
        return None if entry is None or is_over else entry.decision

    def put(self, key: Key, decision: Decision, request: Request, answer: Response | None) -> None:
        """Keep a decision, if there is a time for which. `request.state` has its metadata."""
        try:
            ttl_ns = self._ttl_ns(self._ttl.value(request, answer))
        except (CelError, RequestError):
            ttl_ns = 0
        before = self._entries.pop(key, None)
        self._size -= 0 if before is None else before.size
        if ttl_ns <= 0:
            # What was decided before is not to come back.
            return
        size = _ENTRY_BYTES + sum(len(raw) for _, raw in key) + _size_of(decision)
        self._entries[key] = _Entry(decision, size, self._clock.monotonic_ns(), ttl_ns)
        self._size += size
        while len(self._entries) > self._max_entries or self._size > _KEPT_BYTES:
            self._size -= self._entries.popitem(last=False)[1].size

    def _ttl_ns(self, value: object) -> int:
        if isinstance(value, datetime.timedelta):
            seconds = value.total_seconds()
        elif isinstance(value, datetime.datetime):
            seconds = value.timestamp() - self._clock.time_ns() / 1e9
        elif isinstance(value, int | float) and not isinstance(value, bool):
            # An integer may be larger than any float.
            seconds = max(min(value, _FAR), 0) - self._clock.time_ns() / 1e9
        else:
            return 0
        # What is no number is not above 0 either.
        return int(min(seconds * 1e9, _TTL_MAX_NS)) if seconds > 0 else 0


def _size_of(decision: Decision) -> int:
    """Octets, roughly."""
    if isinstance(decision, Denied):
        size = len(decision.body or b"")
        pairs = [*decision.headers]
    else:
        size = sum(len(name) + len(value) for name, value in decision.query_set)
        pairs = [one[1:] for one in (*decision.mutation.options, *decision.told)]
    size += sum(len(name) + len(value) for name, value in pairs)
    if not decision.metadata:
        return size
    told = fields.encoded(decision.metadata)
    return size + (_METADATA_BYTES if told is None else len(told))
