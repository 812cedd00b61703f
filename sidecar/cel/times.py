"""Timestamps and durations: reading, printing, and their parts.

Source: cel-spec, sections "Timestamps" and "Duration"; RFC 3339. Both have microseconds here;
text that is finer is refused rather than rounded, so that an equality never lies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from sidecar.cel.ops import EPOCH, MAX_DURATION
from sidecar.cel.table import Function, Table
from sidecar.cel.values import CelError, no_overload

_TIMESTAMP: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_UNIT_MICROSECONDS: Final = {
    "ns": Decimal("0.001"),
    "us": Decimal(1),
    "µs": Decimal(1),
    "ms": Decimal(1000),
    "s": Decimal(1_000_000),
    "m": Decimal(60_000_000),
    "h": Decimal(3_600_000_000),
}

_MICROSECOND: Final = timedelta(microseconds=1)


def parse_timestamp(source: str) -> datetime:
    """RFC 3339 text as UTC. Raises CelError."""
    match = _TIMESTAMP.fullmatch(source)
    if match is None:
        raise CelError("timestamp: not RFC 3339")
    fraction = (match[7] or "").ljust(9, "0")
    if not fraction.endswith("000"):
        raise CelError("timestamp: finer than a microsecond")
    try:
        zone = UTC if match[8] in "Zz" else _offset(match[8])
        parts = [int(match[i]) for i in range(1, 7)]
        local = datetime(*parts, int(fraction[:6]), tzinfo=zone)  # type: ignore[arg-type, misc]
        return local.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise CelError("timestamp: out of range") from exc


def _offset(source: str) -> timezone:
    minutes = int(source[-5:-3]) * 60 + int(source[-2:])
    return timezone(timedelta(minutes=-minutes if source[0] == "-" else minutes))


def parse_duration(source: str) -> timedelta:
    """Text as `1h30m`, `1.5s`, `-2ms`. Raises CelError."""
    body = source[1:] if source[:1] in ("+", "-") else source
    if body == "0":
        return timedelta()
    total, position = Decimal(0), 0
    while position < len(body):
        match = _PART.match(body, position)
        if match is None or len(match[1]) > 32:
            raise CelError("duration: not a duration")
        total += Decimal(match[1]) * _UNIT_MICROSECONDS[match[2]]
        position = match.end()
    if not body:
        raise CelError("duration: not a duration")
    if total != int(total):
        raise CelError("duration: finer than a microsecond")
    try:
        found = timedelta(microseconds=int(total))
    except OverflowError as exc:
        raise CelError("duration: out of range") from exc
    if found > MAX_DURATION:
        raise CelError("duration: out of range")
    return -found if source[0] == "-" else found


def _fraction(microseconds: int) -> str:
    """Nothing, milliseconds or microseconds, as protobuf prints."""
    if not microseconds:
        return ""
    return f".{microseconds // 1000:03d}" if microseconds % 1000 == 0 else f".{microseconds:06d}"


def format_timestamp(value: datetime) -> str:
    """RFC 3339 in UTC."""
    moment = value.astimezone(UTC)
    date = f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"
    clock = f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d}"
    return f"{date}T{clock}{_fraction(moment.microsecond)}Z"


def format_duration(value: timedelta) -> str:
    """Seconds, as `90s` or `0.012s`."""
    total = value // _MICROSECOND
    seconds, rest = divmod(abs(total), 1_000_000)
    return f"{'-' if total < 0 else ''}{seconds}{_fraction(rest)}s"


def to_timestamp(value: object) -> datetime:
    """CEL `timestamp(x)`: of text, of seconds since 1970, of a timestamp."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, str):
        return parse_timestamp(value)
    if type(value) is int:
        try:
            return EPOCH + timedelta(seconds=value)
        except OverflowError as exc:
            raise CelError("timestamp: out of range") from exc
    raise no_overload("timestamp", value)


def to_duration(value: object) -> timedelta:
    """CEL `duration(x)`: of text, of a duration."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return parse_duration(value)
    raise no_overload("duration", value)


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    try:
        if re.fullmatch(r"[+-]?\d\d:\d\d", name, re.ASCII):
            return _offset(name)
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as exc:  # ZoneInfoNotFoundError is a KeyError
        raise CelError("unknown time zone") from exc


def _part(what: str, of: Callable[[datetime], int]) -> Function:
    def apply(value: object, zone: object = None) -> int:
        if not isinstance(value, datetime) or not isinstance(zone, str | None):
            raise no_overload(what, value)
        return of(value.astimezone(UTC if zone is None else _zone(zone)))

    return Function(apply, 0, 1)


def _clock(what: str, of: Callable[[datetime], int], span: Callable[[int], int]) -> Function:
    """A part of a moment, or of a duration the whole of it in that unit (in microseconds)."""
    moment = _part(what, of).code

    def apply(value: object, zone: object = None) -> object:
        if isinstance(value, timedelta) and zone is None:
            total = value // _MICROSECOND
            return span(total) if total >= 0 else -span(-total)
        return moment(value, zone)

    return Function(apply, 0, 1)


METHODS: Final[Table] = {
    "getFullYear": _part("getFullYear", lambda t: t.year),
    "getMonth": _part("getMonth", lambda t: t.month - 1),
    "getDayOfYear": _part("getDayOfYear", lambda t: t.timetuple().tm_yday - 1),
    "getDayOfMonth": _part("getDayOfMonth", lambda t: t.day - 1),
    "getDate": _part("getDate", lambda t: t.day),
    "getDayOfWeek": _part("getDayOfWeek", lambda t: t.isoweekday() % 7),
    "getHours": _clock("getHours", lambda t: t.hour, lambda us: us // 3_600_000_000),
    "getMinutes": _clock("getMinutes", lambda t: t.minute, lambda us: us // 60_000_000),
    "getSeconds": _clock("getSeconds", lambda t: t.second, lambda us: us // 1_000_000),
    "getMilliseconds": _clock(
        "getMilliseconds", lambda t: t.microsecond // 1000, lambda us: us // 1000 % 1000
    ),
}
