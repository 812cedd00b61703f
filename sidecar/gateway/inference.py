"""Calls of a service go where an endpoint picker says.

Source: spec/config.md sections 3.11 and 10.5; spec/k8s.md sections 4.2 and 4.3.

Of several choices the first that can be called is: an endpoint that is ejected waits until nothing
else is left. So a retry goes on to the next, once `health` has ejected what failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from shm.errors import ShmError
from sidecar.errors import UpstreamError
from sidecar.gateway.upstream import DynamicUpstream, Picked, Upstream
from sidecar.http.message import Request
from sidecar.net.dialer import Address
from sidecar.net.forbidden import is_forbidden
from sidecar.policies.inference_routing import Destination, choice, destination, note_served
from sidecar.routing.balance import Endpoint
from sidecar.telemetry.clock import Clock

Known = Mapping[Destination, tuple[Endpoint, Picked]]
"""Endpoints of the service, by their addresses."""

_OUTSIDE: Final = "endpoint that is picked"


def literal(address: Address) -> Destination:
    """An endpoint's address as a picker's choice has it."""
    return destination(str(address)) or (address.host, address.port)


def chosen_destination(request: Request) -> Destination:
    """What a PickedUpstream found to be no endpoint of the service (see DynamicUpstream)."""
    found = request.state[_OUTSIDE]
    assert isinstance(found, tuple)
    return found[0], found[1]


@final
class PickedUpstream:
    """The endpoints of a service, and others if `anywhere` is given."""

    __slots__ = ("_anywhere", "_balanced", "_clock", "_falls_back", "_known")

    def __init__(
        self,
        balanced: Upstream,
        known: Known,
        anywhere: DynamicUpstream | None,
        clock: Clock,
        *,
        falls_back: bool,
    ) -> None:
        """`balanced`: chooses where the picker did not, if `falls_back`."""
        self._balanced = balanced
        self._known = known
        self._anywhere = anywhere
        self._clock = clock
        self._falls_back = falls_back

    def pick_nowait(self, request: Request) -> Picked | None:
        """See Upstream."""
        destinations = choice(request)
        if not destinations:
            if not self._falls_back:
                raise _nowhere("the endpoint picker has chosen none")
            picked = self._balanced.pick_nowait(request)
        else:
            picked = self._chosen(destinations, request)
        if picked is not None:
            note_served(request, picked.label)
        return picked

    async def pick(self, request: Request) -> Picked:
        """See Upstream."""
        picked = self.pick_nowait(request)
        if picked is None:
            assert self._anywhere is not None, "an endpoint is found at once"
            picked = await self._anywhere.pick(request)
            note_served(request, picked.label)
        return picked

    async def pinned(self, label: str) -> Picked | None:
        """See Upstream."""
        return await self._balanced.pinned(label)

    def _chosen(self, destinations: tuple[Destination, ...], request: Request) -> Picked | None:
        """The first that can be called; None when it is no endpoint of the service."""
        ejected: Picked | None = None
        now = self._clock.monotonic_ns()
        for one in destinations:
            found = self._known.get(one)
            if found is None:
                if self._anywhere is not None and not is_forbidden(one[0]):
                    request.state[_OUTSIDE] = one
                    return None
            elif not _is_ejected(found[0], now):
                return found[1]
            else:
                ejected = ejected or found[1]
        if ejected is None:
            raise _nowhere("the endpoint picker's choice is none of the service")
        return ejected


def _is_ejected(endpoint: Endpoint, now_ns: int) -> bool:
    try:
        return endpoint.is_ejected(now_ns)
    except ShmError:
        # Nobody knows; the balancer learns of the table when it asks itself.
        return False


def _nowhere(why: str) -> UpstreamError:
    return UpstreamError(503, "NoHealthyBackend", f"no healthy backends: {why}", sent=False)
