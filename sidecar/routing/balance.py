"""Which backend of a route, and which endpoint of a backend, a request goes to.

Source: spec config sections 2.4, 4.2, 4.3 and 10.5; Mitzenmacher, "The Power of Two Choices in
Randomized Load Balancing", 2001; Thaler and Ravishankar, "Using name-based mappings", 1998.

Time and chance are arguments: `now_ns` is the monotonic clock; `random()` gives [0, 1).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Generic, Protocol, TypeVar, final

from shm.standing import FRESH, Standing

T = TypeVar("T")

Random = Callable[[], float]

ALPHA = 0.3
"""Weight of the newest observation in health and latency."""
PENDING_WEIGHT = 0.1
"""How much one request in flight raises the latency that an endpoint is scored with."""


class EndpointState(Protocol):
    """What is known of an endpoint: to this process alone, or to all workers (`shm.endpoints`)."""

    @property
    def in_flight(self) -> int:
        """Calls under way."""

    @property
    def ejected_until_ns(self) -> int:
        """0 when it is not ejected."""

    @property
    def is_troubled(self) -> bool:
        """Whether its standing is worse than a new endpoint's."""

    latency_seconds: float
    """A moving average, 0 before the first success."""

    def begin(self) -> None:
        """One call more is under way."""

    def end(self) -> None:
        """One call less."""

    def load(self) -> tuple[float, float, int]:
        """Health from 0 to 1, latency in seconds, calls under way."""

    def observe(self, latency_seconds: float, weight: float) -> bool:
        """Let one more latency count by this weight (see `smoothed`), and tell `is_troubled`."""

    def update(self, change: Callable[[Standing], Standing]) -> tuple[Standing, Standing]:
        """Replace the standing by `change` of it, in one step: before and after."""


@final
class LocalState:
    """An EndpointState of this process alone. See there."""

    __slots__ = ("in_flight", "latency_seconds", "standing")

    def __init__(
        self, standing: Standing = FRESH, latency_seconds: float = 0.0, in_flight: int = 0
    ) -> None:
        self.standing = standing
        self.latency_seconds = latency_seconds
        self.in_flight = in_flight

    @property
    def ejected_until_ns(self) -> int:
        """See EndpointState."""
        return self.standing.ejected_until_ns

    @property
    def is_troubled(self) -> bool:
        """See EndpointState."""
        return self.standing.is_troubled

    def begin(self) -> None:
        """See EndpointState."""
        self.in_flight += 1

    def end(self) -> None:
        """See EndpointState."""
        self.in_flight -= 1

    def load(self) -> tuple[float, float, int]:
        """See EndpointState."""
        return self.standing.health, self.latency_seconds, self.in_flight

    def observe(self, latency_seconds: float, weight: float) -> bool:
        """See EndpointState."""
        self.latency_seconds = smoothed(self.latency_seconds, latency_seconds, weight)
        return self.standing.is_troubled

    def update(self, change: Callable[[Standing], Standing]) -> tuple[Standing, Standing]:
        """See EndpointState."""
        before = self.standing
        self.standing = change(before)
        return before, self.standing


@final
class Endpoint:
    """One endpoint and what is known of it.

    `key` names it for affinity and logs. `capacity` is its share of picks when shares differ.
    `state` may be replaced while calls are under way.
    """

    __slots__ = ("capacity", "key", "seed", "state", "target")

    def __init__(
        self,
        key: str,
        capacity: int = 1,
        target: object = None,
        state: EndpointState | None = None,
    ) -> None:
        self.key = key
        self.capacity = capacity
        self.target = target
        """What the caller dials; opaque here."""
        self.seed = blake2b(key.encode(), digest_size=16).digest()
        self.state: EndpointState = LocalState() if state is None else state

    def score(self) -> float:
        """Higher is better."""
        health, latency, in_flight = self.state.load()
        return health / (1.0 + latency * (1.0 + PENDING_WEIGHT * in_flight))

    def is_ejected(self, now_ns: int) -> bool:
        """Whether it is out for now. One whose time is over comes back with its restored health."""
        until = self.state.ejected_until_ns
        # Fast path: almost always.
        if not until:
            return False
        if now_ns < until:
            return True
        # Another worker may have brought it back, or ejected it again, just now.
        _, after = self.state.update(lambda standing: returned(standing, now_ns))
        return now_ns < after.ejected_until_ns


def returned(standing: Standing, now_ns: int) -> Standing:
    """The standing once the time of an ejection is over; the same while it is not, or without."""
    until = standing.ejected_until_ns
    if not until or now_ns < until:
        return standing
    restored = standing.restore_health
    health = standing.health if restored is None else restored
    return standing._replace(health=health, ejected_until_ns=0)


def smoothed(old: float, new: float, weight: float = ALPHA) -> float:
    """The moving average after one more observation; an old value of 0 counts as none."""
    return new if old == 0.0 else weight * new + (1.0 - weight) * old


@final
class Group:
    """Endpoints of one priority, picked by power of two choices."""

    __slots__ = ("_shares", "endpoints")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = tuple(item for item in endpoints if item.capacity > 0)
        """Those that can be picked: a capacity of 0 is a drained endpoint."""
        self._shares = _shares(self.endpoints)

    def pick(self, now_ns: int, random: Random) -> Endpoint | None:
        """The better of two draws among endpoints that are not ejected; None when all are."""
        endpoints = self.endpoints
        if not endpoints:
            return None
        if len(endpoints) == 1:
            only = endpoints[0]
            return None if only.is_ejected(now_ns) else only
        first = _draw(endpoints, self._shares, random)
        second = _draw(endpoints, self._shares, random)
        # Fast path: nobody drawn is ejected. Given that, both draws are fair among the active.
        if first.is_ejected(now_ns) or second.is_ejected(now_ns):
            active = [item for item in endpoints if not item.is_ejected(now_ns)]
            return _better_of_two(active, random) if active else None
        return second if second.score() > first.score() else first

    def pick_ejected(self, random: Random) -> Endpoint | None:
        """As `pick`, with no regard to ejection: for when nobody is left."""
        return _better_of_two(self.endpoints, random) if self.endpoints else None


def _shares(endpoints: Sequence[Endpoint]) -> list[int] | None:
    """Cumulated capacities; None when they are all equal."""
    if len({item.capacity for item in endpoints}) <= 1:
        return None
    return list(accumulate(item.capacity for item in endpoints))


def _draw(endpoints: Sequence[Endpoint], shares: list[int] | None, random: Random) -> Endpoint:
    if shares is None:
        return endpoints[int(random() * len(endpoints))]
    return endpoints[bisect_right(shares, random() * shares[-1])]


def _better_of_two(endpoints: Sequence[Endpoint], random: Random) -> Endpoint:
    shares = _shares(endpoints)
    first = _draw(endpoints, shares, random)
    second = _draw(endpoints, shares, random)
    return second if second.score() > first.score() else first


def pick(groups: Sequence[Group], now_ns: int, random: Random) -> Endpoint | None:
    """An endpoint of the first group that has one active.

    When everybody everywhere is ejected, one of the first group that has endpoints at all serves
    nevertheless. None: no endpoint exists (503 `no healthy backends`).
    """
    for group in groups:
        found = group.pick(now_ns, random)
        if found is not None:
            return found
    for group in groups:
        found = group.pick_ejected(random)
        if found is not None:
            return found
    return None


def rendezvous(groups: Sequence[Group], value: bytes, now_ns: int) -> Endpoint | None:
    """The endpoint that a session affinity value always goes to while it is active.

    Groups and the fallback are as in `pick`. When an endpoint comes or goes, only the values that
    were its own move.
    """
    for group in groups:
        active = [item for item in group.endpoints if not item.is_ejected(now_ns)]
        if active:
            return _highest(active, value)
    for group in groups:
        if group.endpoints:
            return _highest(group.endpoints, value)
    return None


def _highest(endpoints: Sequence[Endpoint], value: bytes) -> Endpoint:
    def weight(item: Endpoint) -> tuple[bytes, str]:
        return blake2b(value, digest_size=8, key=item.seed).digest(), item.key

    return max(endpoints, key=weight)


@final
class RoundRobin:
    """One endpoint after the other: the addresses of a DNS name."""

    __slots__ = ("_next", "endpoints")

    def __init__(self, endpoints: Sequence[Endpoint], start: int = 0) -> None:
        self.endpoints = tuple(endpoints)
        self._next = start

    def pick(self, now_ns: int) -> Endpoint | None:
        """The next that is not ejected, or the next at all when everybody is; None without any."""
        count = len(self.endpoints)
        if count == 0:
            return None
        start = self._next % count
        for step in range(count):
            found = self.endpoints[(start + step) % count]
            if not found.is_ejected(now_ns):
                self._next = start + step + 1
                return found
        self._next = start + 1
        return self.endpoints[start]


@final
class WeightedChoice(Generic[T]):
    """The backends of a route, each with its integer weight; 0 is never chosen."""

    __slots__ = ("_items", "_shares")

    def __init__(self, items: Sequence[tuple[T, int]]) -> None:
        chosen = [(item, weight) for item, weight in items if weight > 0]
        self._items = [item for item, _ in chosen]
        self._shares = list(accumulate(weight for _, weight in chosen))

    def pick(self, random: Random) -> T | None:
        """One of them; None when there is none (500 `no valid backends`)."""
        items = self._items
        # Fast path: a route with one backend.
        if len(items) == 1:
            return items[0]
        if not items:
            return None
        return items[bisect_right(self._shares, random() * self._shares[-1])]
