"""Trace context on the wire: `traceparent` and `tracestate`, parsed strictly.

A context that does not follow the grammar is as good as none, and then its `tracestate` does not
count either.

Source: W3C Trace Context, sections 3.2 and 3.3.
"""

from __future__ import annotations

import random
import re
from typing import final

from sidecar.http.headers import Headers

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch
_MEMBER = re.compile(
    rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
).fullmatch
_MAX_MEMBERS = 32
_SAMPLED = 1


@final
class TraceContext:
    """Who this request is in a trace: identifiers as integers, 128 and 64 bits.

    `parent_id` is the caller's span, 0 without one. `sampled`: spans are recorded here. `state` is
    the caller's `tracestate`, b"" without a valid one.
    """

    __slots__ = ("parent_id", "sampled", "span_id", "spans", "state", "trace_id")

    def __init__(
        self, trace_id: int, span_id: int, parent_id: int, sampled: bool, state: bytes = b""
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.sampled = sampled
        self.state = state
        self.spans: list[object] | None = None
        """Finished child spans, until the root's end decides about them all; None unsampled."""

    @property
    def trace_id_hex(self) -> str:
        """32 lower-case digits."""
        return f"{self.trace_id:032x}"

    @property
    def span_id_hex(self) -> str:
        """16 lower-case digits."""
        return f"{self.span_id:016x}"


def new_span_id() -> int:
    """64 random bits, not zero. The generator is seeded anew in a forked child."""
    return random.getrandbits(64) or 1


def root_context() -> TraceContext:
    """A trace that begins here, unsampled."""
    bits = random.getrandbits(192)
    return TraceContext(bits >> 64 or 1, bits & 0xFFFF_FFFF_FFFF_FFFF or 1, 0, False)


def context_of(headers: Headers) -> TraceContext:
    """The caller's trace continued by a span of our own, else a new trace. Unsampled; see Sampler.

    `parent_id` tells which it was. The headers stay as they are.
    """
    parent = b""
    has_state = False
    for name, value in headers:
        if name == b"traceparent":
            if parent:
                return root_context()
            parent = value or b"-"
        elif name == b"tracestate":
            has_state = True
    if not parent:
        return root_context()
    ids = parse_traceparent(parent)
    if ids is None:
        return root_context()
    state = parse_tracestate(headers.get_all(b"tracestate")) if has_state else b""
    return TraceContext(ids[0], new_span_id(), ids[1], False, state)


def parse_traceparent(value: bytes) -> tuple[int, int, bool] | None:
    """`(trace id, parent span id, sampled)`, or None when the value breaks the grammar.

    A later version than 00 may carry more after the flags; 00 may not, and ff does not exist.
    """
    match = _PARENT(value.strip(b" \t"))
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not trace_id or not span_id:
        return None
    return trace_id, span_id, bool(int(flags, 16) & _SAMPLED)


def parse_tracestate(values: list[bytes]) -> bytes:
    """The fields joined into one list; b"" when any member is malformed or named twice."""
    members = [m for m in (part.strip(b" \t") for part in b",".join(values).split(b",")) if m]
    if len(members) > _MAX_MEMBERS or not all(map(_MEMBER, members)):
        return b""
    if len({member.partition(b"=")[0] for member in members}) != len(members):
        return b""
    return b",".join(members)


def traceparent(trace_id: int, span_id: int, sampled: bool) -> bytes:
    """The field's value, version 00."""
    return b"00-%032x-%016x-%02x" % (trace_id, span_id, _SAMPLED if sampled else 0)


def inject(headers: Headers, context: TraceContext, span_id: int) -> None:
    """Name `span_id` as the caller of whoever receives `headers`."""
    headers.set(b"traceparent", traceparent(context.trace_id, span_id, context.sampled))
    if context.state:
        headers.set(b"tracestate", context.state)
    else:
        headers.remove_all(b"tracestate")
