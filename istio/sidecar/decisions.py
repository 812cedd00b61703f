"""The pod's decisions: what is known of the mesh, as ways and entries.

Source: spec istio 2.1, 2.1b and 4.

The workload that a connection belongs to is found by the pod's own address, which the connection
has; while it is unknown nothing is let in.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final, final

from hbone.wire.authority import BadAuthorityError, make_authority
from hbone.wire.connect import Field
from istio.authz import Policies
from istio.inbound import OK, Inbound, Incoming, admitted, server
from istio.outbound import Route, Source, decide
from istio.sidecar.proxy_header import proxy_header
from istio.sidecar.ways import UNKNOWN, Arrival, Entry, Refused, Transport, Tunnelled, Way
from istio.workload import Store
from istio.workload.records import Place, Workload

_BAD_REQUEST: Final = 400
_UNAVAILABLE: Final = 503
_DENIED: Final = 401
_KIND: Final = "sidecar"
_ADDRESSES_MAX: Final = 64
"""More than a pod has."""


@final
class Decisions:
    """See ways.Judge. `store` and `policies` are changed by others.

    `place`, `namespace`: of this pod, as far as its own workload does not say. `is_told`: whether a
    control plane tells who is in the mesh; until it has, nobody can be told from a stranger, who is
    called in plaintext, so nothing goes out. `draw`: random numbers from 0 to 1.
    """

    def __init__(
        self,
        store: Store,
        policies: Policies,
        place: Place,
        namespace: str,
        draw: Callable[[], float] = random.random,
        *,
        is_told: bool = False,
    ) -> None:
        self._store = store
        self._policies = policies
        self._place = place
        self._namespace = namespace
        self._draw = draw
        self._is_waiting = is_told
        self._pod: dict[str, Workload | None] = {}
        """What was found at the pod's addresses, as of the last `has_moved`."""

    def outbound(self, host: str, port: int, source_ip: str) -> Way | Refused:
        """See Judge."""
        try:
            called = make_authority(host, port)
        except BadAuthorityError as error:
            return Refused(_BAD_REQUEST, "BAD_AUTHORITY", str(error))
        if self._is_waiting and not self._store.generation:
            return Refused(_UNAVAILABLE, UNKNOWN, "the mesh is not known yet")
        route = decide(self._store, called, self._source(source_ip), self._draw)
        if route.transport == "refused":
            return Refused(_UNAVAILABLE, route.flag, route.reason)
        if route.transport == "legacy_mtls":
            return Refused(_UNAVAILABLE, "LEGACY_MTLS", "Istio's older TLS is not spoken here")
        return _way(route)

    def _source(self, ip: str) -> Source:
        workload = self._own(ip)
        if workload is None:
            return Source(None, ip, 0, self._place, self._namespace, _KIND)
        # The pod's own interface says better than discovery which network it is in.
        place = replace(workload.place, network=self._place.network)
        return replace(Source.of(workload, ip, 0, _KIND), place=place)

    def _own(self, ip: str) -> Workload | None:
        return self._store.workload_at(self._place.network, ip)

    def inbound(self, arrival: Arrival) -> Entry | Refused:
        """See Judge."""
        own = self._own(arrival.local[0])
        if len(self._pod) < _ADDRESSES_MAX:
            self._pod.setdefault(arrival.local[0], own)
        if own is None:
            return Refused(_UNAVAILABLE, UNKNOWN, "the workload here is not known yet")
        incoming = Incoming(arrival.authority, arrival.identity, *arrival.local, *arrival.remote)
        found = admitted(server(self._store, own, incoming), self._policies)
        if found.status != OK:
            return Refused(found.status, found.flag, found.reason)
        assert found.connection is not None
        return Entry(
            found.host,
            found.port,
            (found.connection.destination_ip, found.connection.destination_port),
            _preface(arrival, found),
            _answer(own),
        )

    def has_moved(self) -> bool:
        """Whether the pod's own workload is another than when this was asked last, or the mesh is
        known now."""
        was_waiting = self._is_waiting
        self._is_waiting = was_waiting and not self._store.generation
        before, self._pod = self._pod, {ip: self._own(ip) for ip in self._pod}
        has_moved = any(self._pod[ip] is not workload for ip, workload in before.items())
        return has_moved or was_waiting != self._is_waiting

    def allows(self, arrival: Arrival) -> bool:
        """See Judge. What is not known for the moment is not denied."""
        found = self.inbound(arrival)
        return not (isinstance(found, Refused) and found.status == _DENIED)


def _way(route: Route) -> Way:
    service = "" if route.service is None else route.service.key
    if route.authority is None:
        return Way(Transport.PLAIN, route.host, route.port, service=service)
    ids = os.urandom(16), os.urandom(8)
    if route.inner_authority is None:
        outer = Tunnelled(route.authority, route.expected_sans, route.headers(*ids))
        return Way(
            Transport.HBONE,
            route.host,
            route.port,
            outer,
            service=service,
            is_waypoint=route.is_waypoint,
        )
    return Way(
        Transport.DOUBLE_HBONE,
        route.host,
        route.port,
        Tunnelled(route.authority, route.expected_sans, route.outer_headers(*ids)),
        Tunnelled(route.inner_authority, route.inner_sans, route.headers(*ids)),
        service,
    )


def _preface(arrival: Arrival, found: Inbound) -> bytes:
    if found.proxy_destination is None:
        return b""
    identity = "" if arrival.identity is None else str(arrival.identity)
    return proxy_header(arrival.remote, found.proxy_destination, identity)


def _answer(own: Workload) -> tuple[Field, ...]:
    baggage = own.baggage.encode()
    return ((b"baggage", baggage),) if baggage else ()
