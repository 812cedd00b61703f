"""Which provider of a backend is asked, and which one after it has failed.

Source: spec/llm.md sections 3.1 to 3.3.

Groups are priorities: the first one with a healthy provider serves, by power of two choices. A
request that moves on asks nobody twice, and prefers whoever is left of the same group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, final

from shm.errors import ShmError
from sidecar.errors import SidecarError, UpstreamError
from sidecar.gateway.llm_call import Member
from sidecar.http.message import Response
from sidecar.routing import balance
from sidecar.routing.outlier import Outcome
from sidecar.telemetry.clock import Clock

_TOO_MANY: Final = 429
_CLIENTS_OWN: Final = 500
"""Statuses below are the client's own fault, but for 429."""


class Lost(Protocol):
    """Who goes on without the shared state of an endpoint (gateway.endpoints.Endpoints)."""

    def lose(self, endpoint: balance.Endpoint, error: ShmError) -> None:
        """It failed."""


def is_worth_moving(status: int) -> bool:
    """Whether another provider might do better."""
    return status == _TOO_MANY or status >= _CLIENTS_OWN


@final
class Ranks:
    """Providers by priority."""

    __slots__ = ("_clock", "_groups", "_lost", "_members", "_only", "_random", "count")

    def __init__(
        self,
        groups: Sequence[Sequence[Member]],
        clock: Clock,
        random: Callable[[], float],
        lost: Lost,
    ) -> None:
        self._groups = tuple(balance.Group([one.endpoint for one in group]) for group in groups)
        self._members = {one.endpoint.key: one for group in groups for one in group}
        self._clock = clock
        self._random = random
        self._lost = lost
        self.count = len(self._members)
        usable = [one for group in self._groups for one in group.endpoints]
        self._only = self._members[usable[0].key] if len(usable) == 1 else None

    def first(self) -> Member:
        """The one to ask first. Raises: UpstreamError 503 when there is none."""
        # Fast path: there is no choice, and nothing to come back from.
        only = self._only
        if only is not None and not only.endpoint.state.ejected_until_ns:
            return only
        found = self._picked(self._groups)
        if found is None:
            raise UpstreamError(503, "NoHealthyBackend", "no healthy backends", sent=False)
        return found

    def next(self, tried: Sequence[Member]) -> Member | None:
        """The one to ask after these have failed; None when nobody is left."""
        asked = {member.endpoint.key for member in tried}
        return self._picked(
            [
                balance.Group([one for one in group.endpoints if one.key not in asked])
                for group in self._groups
            ]
        )

    def _picked(self, groups: Sequence[balance.Group]) -> Member | None:
        now = self._clock.monotonic_ns()
        try:
            found = balance.pick(groups, now, self._random)
        except ShmError as error:
            # From here on by what this worker knows: the shared table cannot be used.
            for member in self._members.values():
                self._lost.lose(member.endpoint, error)
            found = balance.pick(groups, now, self._random)
        return None if found is None else self._members[found.key]

    def record(
        self,
        member: Member,
        seconds: float,
        response: Response | None,
        error: SidecarError | None,
    ) -> None:
        """Let a call's outcome count for the next choice. Neither of the two: it was cancelled."""
        if response is None and not isinstance(error, UpstreamError):
            return
        outliers, clock = member.outliers, self._clock
        try:
            # Fast path: most calls succeed.
            if response is not None and response.status < _CLIENTS_OWN and outliers.judges_status:
                outliers.record_success(member.endpoint, seconds)
                return
            outcome = Outcome(
                response.status if response is not None else None,
                response.headers if response is not None else None,
                None,
                seconds,
            )
            outliers.record(member.endpoint, outcome, clock.monotonic_ns(), clock.time_ns())
        except ShmError as exc:
            self._lost.lose(member.endpoint, exc)
