"""Envoy's rate limit messages: made from plain values, read into plain values.

Source: envoy.service.ratelimit.v3.RateLimitService; the numbers are in `_pb/ratelimit.proto`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from google.protobuf.message import DecodeError

from sidecar.errors import UpstreamError
from sidecar.http.headers import Field
from sidecar.policies import fields
from sidecar.policies._pb import ratelimit_pb2 as pb

PATH: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
HITS_MAX: Final = 1_000_000_000
"""The protocol's own bound of `hits_addend`."""
_UINT32_MAX: Final = 0xFFFF_FFFF
_FIELDS_MAX: Final = 64
"""Header fields taken from one answer."""
_UNITS: Final[Mapping[str, pb.Unit]] = {
    "SECOND": pb.SECOND,
    "MINUTE": pb.MINUTE,
    "HOUR": pb.HOUR,
    "DAY": pb.DAY,
    "MONTH": pb.MONTH,
    "YEAR": pb.YEAR,
}


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """One descriptor of a question. `hits`: None for the protocol's default, which is 1."""

    entries: tuple[tuple[str, str], ...]
    hits: int | None = None
    override: tuple[str, int] | None = None
    """`(unit, requests per unit)` in the place of the service's own limit."""


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """How the most constrained limit stands. `reset_ns`: until it has more to give."""

    limit: int
    remaining: int
    reset_ns: int


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer. Its fields are fit for the wire and frame no message."""

    is_over: bool
    standing: Standing | None
    response_fields: tuple[Field, ...]
    request_fields: tuple[Field, ...]
    body: bytes


def question(domain: str, asked: Iterable[Asked]) -> bytes:
    """A RateLimitRequest."""
    made = pb.RateLimitRequest(domain=domain, descriptors=[_descriptor(one) for one in asked])
    return bytes(made.SerializeToString())


def _descriptor(asked: Asked) -> pb.Descriptor:
    made = pb.Descriptor(
        entries=[pb.Descriptor.Entry(key=key, value=value) for key, value in asked.entries]
    )
    if asked.override is not None:
        unit, count = asked.override
        made.limit.unit = _UNITS[unit]
        made.limit.requests_per_unit = count
    if asked.hits is not None:
        # A wrapper: 0 is said, not left out.
        made.hits_addend.value = asked.hits
        made.hits_addend.SetInParent()
    return made


def verdict(data: bytes) -> Verdict:
    """Read a RateLimitResponse. Raises: UpstreamError for one that decides nothing."""
    try:
        answer = pb.RateLimitResponse.FromString(data)
    except DecodeError as error:
        raise _unreadable("is not a RateLimitResponse") from error
    code = answer.overall_code
    if code not in (pb.RateLimitResponse.OK, pb.RateLimitResponse.OVER_LIMIT):
        raise _unreadable("says neither OK nor OVER_LIMIT")
    return Verdict(
        code == pb.RateLimitResponse.OVER_LIMIT,
        _standing(answer.statuses),
        _fields(answer.response_headers_to_add),
        _fields(answer.request_headers_to_add),
        answer.raw_body,
    )


def _unreadable(why: str) -> UpstreamError:
    return UpstreamError(502, "UpstreamFailure", f"the rate limit service's answer {why}")


def _standing(statuses: Sequence[pb.RateLimitResponse.DescriptorStatus]) -> Standing | None:
    known = [
        Standing(
            one.current_limit.requests_per_unit,
            one.limit_remaining,
            max(0, one.duration_until_reset.ToNanoseconds()),
        )
        for one in statuses
        if one.HasField("current_limit")
    ]
    return min(known, key=lambda one: (one.remaining, -one.reset_ns), default=None)


def _fields(items: Sequence[pb.HeaderValue]) -> tuple[Field, ...]:
    """What of them may go on the wire: a service must not be able to frame our messages."""
    found: list[Field] = []
    for item in items[:_FIELDS_MAX]:
        found.extend(fields.computed(item.key, [item.raw_value or item.value]))
    return tuple(found)


def hits(value: object) -> int | None:
    """What a `cost` expression gave as whole hits, rounded up; None for what is no amount."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return min(math.ceil(value), HITS_MAX) if value >= 0 else None


def override(value: object) -> tuple[str, int] | None:
    """What a `limitOverride` expression gave; None for what is no limit."""
    if not isinstance(value, Mapping):
        return None
    unit, count = value.get("unit"), value.get("requestsPerUnit")
    if isinstance(count, float) and count.is_integer():
        count = int(count)
    if not isinstance(unit, str) or isinstance(count, bool) or not isinstance(count, int):
        return None
    if unit.upper() not in _UNITS or not 0 <= count <= _UINT32_MAX:
        return None
    return unit.upper(), count
