"""Which endpoint of a service gets a connection.

Source: spec istio section 2.1 (3 and 7), section 6 rows 12, 33, 45 and 61.

Randomness is an argument: a function that gives numbers from 0 up to, not with, 1.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, cast

from istio.workload.records import Endpoint, Place, Service, Workload
from istio.workload.store import Store

Random = Callable[[], float]

NOWHERE: Final = Place()


class Bucket(NamedTuple):
    """Endpoints that are equally near. `sums`: of their capacities, up to and with each."""

    endpoints: list[Endpoint]
    sums: list[int]


def target_port(workload: Workload, service: Service, port: int) -> int | None:
    """The workload's own port behind a service's; None when there is none."""
    found = workload.services.get(service.key, {}).get(port)
    if found:
        return found
    default = service.ports.get(port)
    if default:
        return default
    # What takes everything on a port of its own need not name the ports it is called on.
    tunnel = workload.application_tunnel
    return port if tunnel is not None and tunnel.port else None


def buckets(store: Store, service: Service, port: int, place: Place = NOWHERE) -> list[Bucket]:
    """The usable endpoints, nearest first: one list unless the service prefers near ones.

    A list whose capacities are all 0 takes no new connections and is left out.
    """
    members = store.members_of(service)
    if members is None:
        return []
    scopes = service.balancer.scopes if service.balancer.mode in _RANKED else ()
    # What a caller's whereabouts do not decide is worked out once for all callers.
    key = port, place if scopes else place.network
    found = members.choices.get(key)
    if found is None:
        found = _buckets(store, service, port, place, scopes)
        members.remember(key, found)
    return cast("list[Bucket]", found)  # nothing else is remembered


_RANKED: Final = ("Strict", "Failover")


def _buckets(
    store: Store, service: Service, port: int, place: Place, scopes: Sequence[str]
) -> list[Bucket]:
    members = store.members_of(service)
    assert members is not None
    ranked: dict[int, list[Endpoint]] = {}
    least = len(scopes) if service.balancer.mode == "Strict" else 0
    for uid in members.ports:
        workload = store.workload(uid)
        assert workload is not None  # the store's invariant 1
        if not _is_usable(workload, service, place):
            continue
        target = target_port(workload, service, port)
        rank = _rank(workload.place, place, scopes) if scopes else 0
        if target is not None and rank >= least:
            ranked.setdefault(rank, []).append(Endpoint(workload, target, service))
    made = [_bucket(ranked[rank]) for rank in sorted(ranked, reverse=True)]
    return [bucket for bucket in made if bucket.endpoints]


def _is_usable(workload: Workload, service: Service, place: Place) -> bool:
    if not workload.is_healthy and not service.balancer.allows_unhealthy:
        return False
    if not workload.ips and not workload.hostname and workload.network == place.network:
        return False
    # Another network's addresses mean nothing here.
    return workload.network == place.network or workload.network_gateway is not None


def _rank(theirs: Place, ours: Place, scopes: Sequence[str]) -> int:
    """How many scopes agree before the first that does not."""
    for rank, scope in enumerate(scopes):
        if getattr(theirs, scope) != getattr(ours, scope):
            return rank
    return len(scopes)


def _bucket(endpoints: list[Endpoint]) -> Bucket:
    open_ones = [endpoint for endpoint in endpoints if endpoint.workload.capacity > 0]
    return Bucket(open_ones, list(accumulate(one.workload.capacity for one in open_ones)))


def choose(
    store: Store, service: Service, port: int, place: Place, random: Random
) -> Endpoint | None:
    """One of the nearest, by capacity; None when no endpoint can be used."""
    found = buckets(store, service, port, place)
    if not found:
        return None
    endpoints, sums = found[0]
    if len(endpoints) == 1:
        return endpoints[0]
    return endpoints[bisect_right(sums, int(random() * sums[-1]))]
