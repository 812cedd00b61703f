"""The endpoints a worker balances over, kept over reloads, their state shared with all workers.

Source: design section 5 (`endpoints`); spec/config.md sections 10.5 and 10.6.

An endpoint's state is a slot of the shared table while the configuration has the endpoint and the
table can be used. Otherwise it is this worker's own, with what was last known: an endpoint that has
gone is still called by requests that began before, and a table that is full or out of reach must
not fail a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final, NamedTuple, final

from shm.endpoints import Column, Slot
from shm.errors import ShmError
from shm.standing import Standing
from sidecar.net.dialer import Address
from sidecar.routing.balance import Endpoint, LocalState

_log: Final = logging.getLogger("sidecar.gateway.endpoints")

Members = Callable[[str, int], list[tuple[Address, int]] | None]
"""`[(address, capacity)]` of a service's port; None when there is no such service."""


class Place(NamedTuple):
    """Where an endpoint belongs: a service's name and port, and its own address."""

    service: str
    port: int
    address: Address

    @property
    def label(self) -> str:
        """`service/ns/name:80|10.0.0.1:8080`; a model provider's has no port: `ai/name|openai`."""
        if not self.port and self.service.startswith("ai/"):
            return f"{self.service}|{self.address.host}"
        return f"service/{self.service}:{self.port}|{self.address}"


@final
class Endpoints:
    """Made once a worker. `column`: its part of the shared table; None shares nothing."""

    def __init__(self, column: Column | None = None) -> None:
        self._column = column
        self._known: dict[Place, Endpoint] = {}
        self._asked: set[Place] = set()
        self._is_full = False

    def get(self, place: Place, capacity: int) -> Endpoint:
        """The endpoint there. A changed capacity counts at once, also for earlier compilations."""
        self._asked.add(place)
        found = self._known.get(place)
        if found is None:
            slot = self._open(place)
            found = self._known[place] = Endpoint(place.label, capacity, state=slot)
        found.capacity = capacity
        return found

    def _open(self, place: Place) -> Slot | None:
        if self._column is None:
            return None
        key = self._column.key(place.label.encode())
        try:
            slot = self._column.open(key, place.label.encode())
        except ShmError as error:
            _log.warning("%s: health and load are not shared: %s", place.label, error)
            return None
        if slot is None and not self._is_full:
            self._is_full = True
            _log.warning(
                "the table of endpoints is full: health and load of some are not shared;"
                " config.state.endpoints makes it larger"
            )
        return slot

    def begin_round(self) -> None:
        """A full compilation begins: what it does not ask for may be dropped by `end_round`."""
        self._asked = set()
        self._is_full = False

    def end_round(self, members: Members) -> None:
        """Let go of endpoints that nobody asked for since `begin_round` and no service has."""
        listed: dict[tuple[str, int], set[Address]] = {}
        for place in self._known.keys() - self._asked:
            service = place.service, place.port
            if service not in listed:
                listed[service] = {address for address, _ in members(*service) or ()}
            if place.address not in listed[service]:
                self.detach(self._known.pop(place))
        self._retain()

    def _retain(self) -> None:
        """Give the slots back of endpoints that are not known any more."""
        if self._column is None:
            return
        states = (endpoint.state for endpoint in self._known.values())
        try:
            self._column.retain([state for state in states if isinstance(state, Slot)])
        except ShmError as error:
            _log.warning("endpoints that have gone keep their slots: %s", error)

    def end_some(self, services: Collection[str], members: Members) -> None:
        """Let go of endpoints that these services do not have any more."""
        listed: dict[tuple[str, int], set[Address]] = {}
        gone: list[Place] = []
        for place in self._known:
            if place.service not in services:
                continue
            service = place.service, place.port
            if service not in listed:
                listed[service] = {address for address, _ in members(*service) or ()}
            if place.address not in listed[service]:
                gone.append(place)
        for place in gone:
            self.detach(self._known.pop(place))
        if gone:
            self._retain()

    def detach(self, endpoint: Endpoint) -> None:
        """Count for this endpoint in this worker alone, from what is known of it."""
        slot = endpoint.state
        if isinstance(slot, Slot):
            standing = Standing(slot.health, ejected_until_ns=slot.ejected_until_ns)
            endpoint.state = LocalState(standing, slot.latency_seconds, slot.leave())

    def lose(self, endpoint: Endpoint, error: ShmError) -> None:
        """Go on without the shared state, which failed; the next full compilation tries again."""
        _log.warning("%s: health and load are not shared any more: %s", endpoint.key, error)
        self.detach(endpoint)
        for place, known in tuple(self._known.items()):
            if known is endpoint:
                del self._known[place]
