"""What a response does to the standing of its endpoint: health, latency and ejection.

Source: spec config section 10.6; spec llm section 3.2.

States of an endpoint: active (`ejected_until_ns` 0) and ejected. `Outliers.record` ejects;
`Endpoint.is_ejected` brings back when the time is over. Both change the standing in one step for
all who share it, so a number of failures in a row is counted over all workers.
Invariants:
1. One success zeroes the failures in a row and the count of ejections.
2. Failures of requests that end while their endpoint is ejected change its health alone: they
   neither extend the time nor raise a count.
3. An endpoint is out for `base x (earlier ejections + 1)`.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, final

from shm.standing import Standing
from sidecar.config.scalars import duration_ns
from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.routing.balance import ALPHA, Endpoint, returned, smoothed

DEFAULT_EJECTION_NS = 3_000_000_000
_WHOLE = 1.0 - 1e-6
"""Health above this is 1."""
_EPOCH_FROM_SECONDS = 30 * 24 * 3600
"""`x-ratelimit-reset` above 30 days cannot be a wait: it is a date."""
_MAX_HINT_SECONDS = 366 * 24 * 3600
"""A hint above a year is taken for one year, so that no arithmetic overflows."""
_RESETS = (
    b"x-ratelimit-reset-requests",
    b"x-ratelimit-reset-tokens",
    b"x-ratelimit-reset-requests-day",
    b"x-ratelimit-reset-tokens-minute",
)
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|h|m|s)")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended. `status` None: no response came. `grpc_status` None: not gRPC."""

    status: int | None
    headers: Headers | None = None
    grpc_status: int | None = None
    latency_seconds: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class Eviction:
    """`health.eviction`. A `consecutive_failures` of 0 counts as not set, as a None does."""

    duration_ns: int | None = None
    restore_health: float | None = None
    consecutive_failures: int | None = None
    health_threshold: float | None = None

    @classmethod
    def from_policy(cls, policy: Mapping[str, Any], place: str) -> Eviction:
        """From the payload. Raises: ConfigError."""
        for name in ("restoreHealth", "healthThreshold"):
            value = policy.get(name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"{place}.{name}", "must be from 0.0 to 1.0")
        failures = policy.get("consecutiveFailures")
        if failures is not None and failures < 0:
            raise ConfigError(f"{place}.consecutiveFailures", "must not be negative")
        duration = policy.get("duration")
        try:
            nanoseconds = None if duration is None else duration_ns(duration)
        except ValueError as exc:
            raise ConfigError(f"{place}.duration", str(exc)) from exc
        return cls(
            nanoseconds,
            policy.get("restoreHealth"),
            failures or None,
            policy.get("healthThreshold"),
        )


def is_unhealthy(outcome: Outcome) -> bool:
    """The default: no response, a 5xx, or a gRPC status other than OK. A 429 is healthy."""
    if outcome.status is None or outcome.status >= 500:
        return True
    return outcome.grpc_status is not None and outcome.grpc_status != 0


@final
class Outliers:
    """The health policy of a backend. Without `eviction` only scores change.

    `unhealthy` is the compiled `unhealthyExpression`; an error in it counts as false, which is the
    caller's to see to.
    """

    __slots__ = ("_eviction", "_unhealthy", "judges_status")

    def __init__(
        self,
        eviction: Eviction | None = None,
        unhealthy: Callable[[Outcome], bool] = is_unhealthy,
    ) -> None:
        self._eviction = eviction
        self._unhealthy = unhealthy
        self.judges_status = unhealthy is is_unhealthy
        """Whether it is the status alone that tells, of what is not gRPC."""

    def record_success(self, endpoint: Endpoint, latency_seconds: float) -> None:
        """As `record` of an outcome that is healthy for certain."""
        state = endpoint.state
        # Fast path: there is nothing to forgive.
        if state.observe(latency_seconds, ALPHA):
            state.update(_forgiven)

    def record(
        self,
        endpoint: Endpoint,
        outcome: Outcome,
        now_ns: int,
        wall_ns: int,
        backoff_ns: int | None = None,
    ) -> bool:
        """Take one outcome into account; tells whether it ejected the endpoint.

        `wall_ns`: nanoseconds since 1970, which HTTP dates are compared with. `backoff_ns`: that of
        the route's retry policy, when it has one.
        """
        state = endpoint.state
        if not self._unhealthy(outcome):
            self.record_success(endpoint, outcome.latency_seconds)
            return False
        # Latency is left alone: failures tend to be quick and would make it attractive.
        eviction = self._eviction
        if eviction is None:
            state.update(_worsened)
            return False
        base = _base_ns(eviction, outcome, wall_ns, backoff_ns)
        before, after = state.update(lambda old: _failed(old, eviction, base, now_ns))
        return after.ejected_until_ns not in (before.ejected_until_ns, 0)


def _forgiven(standing: Standing) -> Standing:
    """After a success (1)."""
    health, _, _, until, restore = standing
    health = smoothed(health, 1.0)
    # It would take a hundred successes to be whole by rounding alone, each of them under a lock.
    return Standing(1.0 if health > _WHOLE else health, 0, 0, until, restore)


def _worsened(standing: Standing) -> Standing:
    """After a failure, as to its health."""
    health, failures, times, until, restore = standing
    return Standing(smoothed(health, 0.0), failures, times, until, restore)


def _failed(standing: Standing, eviction: Eviction, base_ns: int, now_ns: int) -> Standing:
    """After a failure at `now_ns`, as to everything."""
    worse = returned(_worsened(standing), now_ns)
    health, failures, times, until, restore = worse
    if until:
        return worse  # (2)
    failures += 1
    if not _is_due(eviction, standing.health, failures):
        return Standing(health, failures, times, 0, restore)
    until = now_ns + base_ns * (times + 1)  # (3)
    return Standing(health, failures, times + 1, until, eviction.restore_health)


def _is_due(eviction: Eviction, health_before: float, failures: int) -> bool:
    if eviction.consecutive_failures is None and eviction.health_threshold is None:
        return True
    if eviction.health_threshold is not None and health_before < eviction.health_threshold:
        return True
    return eviction.consecutive_failures is not None and failures >= eviction.consecutive_failures


def _base_ns(eviction: Eviction, outcome: Outcome, wall_ns: int, backoff_ns: int | None) -> int:
    if eviction.duration_ns is not None:
        return eviction.duration_ns
    if outcome.status == 429 and outcome.headers is not None:
        hint = retry_hint_seconds(outcome.headers, wall_ns)
        if hint is not None:
            return int(hint * 1e9)
    return DEFAULT_EJECTION_NS if backoff_ns is None else backoff_ns


def retry_hint_seconds(headers: Headers, wall_ns: int) -> float | None:
    """How long the peer asks us to wait; None when it does not say so intelligibly.

    The first found of `retry-after` (seconds or a date), `retry-after-ms`, `x-ratelimit-reset`
    (seconds or a date in seconds since 1970), else the least of the resets per kind.
    """
    for name, read in (
        (b"retry-after", _retry_after),
        (b"retry-after-ms", _milliseconds),
        (b"x-ratelimit-reset", _reset),
    ):
        value = headers.get(name)
        hint = None if value is None else read(value.decode("latin-1").strip(), wall_ns)
        if hint is not None:
            return hint
    resets = [
        hint
        for name in _RESETS
        if (value := headers.get(name)) is not None
        and (hint := _wait(value.decode("utf-8", "replace").strip())) is not None
    ]
    return min(resets, default=None)


def _number(text: str) -> float | None:
    """A plain, finite number not below zero."""
    # float() would take `1_0`, `nan`, `inf` and `1e9` too.
    if not re.fullmatch(r"[0-9]{1,18}(?:\.[0-9]{1,18})?", text):
        return None
    return float(text)


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), float(_MAX_HINT_SECONDS))


def _retry_after(text: str, wall_ns: int) -> float | None:
    number = _number(text)
    if number is not None:
        return _bounded(number)
    try:
        # A date without a zone is GMT, wherever this runs. The last days of 9999 may overflow.
        moment = timegm(parsedate_to_datetime(text).utctimetuple())
    except (ValueError, OverflowError):
        return None
    return _bounded(moment - wall_ns / 1e9)


def _milliseconds(text: str, wall_ns: int) -> float | None:
    number = _number(text)
    return None if number is None else _bounded(number / 1000)


def _reset(text: str, wall_ns: int) -> float | None:
    number = _number(text)
    if number is None:
        return None
    return _bounded(number if number < _EPOCH_FROM_SECONDS else number - wall_ns / 1e9)


def _wait(text: str) -> float | None:
    """Bare seconds, or a duration as `1m30.5s`."""
    number = _number(text)
    if number is not None:
        return _bounded(number)
    total, at = 0.0, 0
    while len(text) <= 64 and (part := _PART.match(text, at)):
        total += float(part[1]) * _UNIT_SECONDS[part[2]]
        at = part.end()
    return _bounded(total) if at and at == len(text) else None
