"""When a certificate is fetched and fetched again, whoever gives it.

Design note: one task, so never two fetches at a time.

    fetching ──ok──► published ──half of its life──► fetching
       │  ▲
       ▼  └──backoff──┐
    failed ───────────┘   what was published before stays so, and is valid until it expires

Source: spec istio 3.6, the table of timing.
"""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, final

from istio.backoff import Backoff
from istio.ca.identity import Identity, Publish, Status
from istio.clock import Clock
from istio.errors import IstioError

MIN_BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 150.0
BACKOFF_JITTER: Final = 0.2
RENEWAL_JITTER: Final = 0.01
"""Of the life: not every workload that started together renews together."""
_MAX_SLEEP_SECONDS: Final = 60.0
"""A machine that was asleep, or whose clock was set, notices this soon."""

_log = logging.getLogger(__name__)


@final
class Renewal:
    """Runs `fetch`, which raises IstioError, for one source."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Identity]],
        status: Status,
        clock: Clock,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`uniform(a, b)`: a number between the two."""
        self._fetch = fetch
        self._status = status
        self._clock = clock
        self._random = uniform
        self._backoff = Backoff(
            MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, jitter=BACKOFF_JITTER, uniform=uniform
        )

    async def run(self, publish: Publish) -> None:
        """For ever."""
        while True:
            try:
                identity = await self._fetch()
            except IstioError as error:
                note_failure(self._status, error, self._clock)
                await self._clock.sleep(self._backoff.wait_seconds())
                continue
            self._backoff.reset()
            await give(identity, self._status, publish)
            await self._wait_renewal(identity)

    async def _wait_renewal(self, identity: Identity) -> None:
        life = identity.not_after - identity.not_before
        jitter = life * self._random(-RENEWAL_JITTER, RENEWAL_JITTER)
        due = identity.half_life + jitter
        # A certificate that is past half of its life already must not be asked for in a loop.
        soonest = self._clock.now() + timedelta(seconds=MIN_BACKOFF_SECONDS)
        due = max(due, soonest)
        while (left := (due - self._clock.now()).total_seconds()) > 0:
            await self._clock.sleep(min(left, _MAX_SLEEP_SECONDS))


async def give(identity: Identity, status: Status, publish: Publish) -> None:
    """Publish and count."""
    result = publish(identity)
    if inspect.isawaitable(result):
        await result
    status.identity = identity
    status.successes += 1
    status.last_error = None
    _log.info("certificate of %s, valid until %s", identity.spiffe_id, identity.not_after)


def note_failure(status: Status, error: IstioError, clock: Clock) -> None:
    """Count, and say once what is wrong."""
    status.failures += 1
    if status.last_error != str(error):
        status.last_error = str(error)
        held = status.identity
        if held is None:
            _log.warning("no certificate: %s", error)
        elif clock.now() < held.not_after:
            _log.warning("the certificate stays until %s: %s", held.not_after, error)
        else:
            _log.error("the certificate expired at %s: %s", held.not_after, error)
