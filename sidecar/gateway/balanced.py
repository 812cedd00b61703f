"""Chooses among the endpoints of a service, and tells the next choice how the call went.

Source: spec/config.md sections 10.5 and 10.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from shm.errors import ShmError
from sidecar.cel.engine import CelError
from sidecar.errors import ConfigError, RequestError, SidecarError, UpstreamError
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.upstream import Picked
from sidecar.http.message import Request, Response
from sidecar.net.pool import Pool
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression
from sidecar.routing import balance
from sidecar.routing.outlier import Outcome, Outliers


@final
class EndpointPick:
    """An endpoint chosen among several; its outcome counts for the next choice."""

    __slots__ = ("_endpoint", "_endpoints", "_outliers", "_services", "label", "pool")

    def __init__(
        self,
        endpoint: balance.Endpoint,
        pool: Pool,
        outliers: Outliers,
        services: Services,
        endpoints: Endpoints,
    ) -> None:
        self._endpoint = endpoint
        self._endpoints = endpoints
        self._outliers = outliers
        self._services = services
        self.pool = pool
        self.label = str(pool.address)

    def begin(self) -> None:
        """See Picked."""
        self._endpoint.state.begin()

    def end(self, duration_ns: int, response: Response | None, error: SidecarError | None) -> None:
        """See Picked."""
        endpoint = self._endpoint
        endpoint.state.end()
        if response is None and not isinstance(error, UpstreamError):
            return
        outcome = Outcome(
            response.status if response is not None else None,
            response.headers if response is not None else None,
            _grpc_status(response),
            duration_ns / 1e9,
        )
        clock = self._services.clock
        try:
            self._outliers.record(endpoint, outcome, clock.monotonic_ns(), clock.time_ns())
        except ShmError as exc:
            self._endpoints.lose(endpoint, exc)


def _grpc_status(response: Response | None) -> int | None:
    """A status in the head (trailers-only answers); one in trailers comes too late to count."""
    value = response.headers.get(b"grpc-status") if response is not None else None
    # More digits are no status, and thousands of them no number to Python.
    return int(value) if value is not None and value.isdigit() and len(value) <= 10 else None


def affinity_of(policy: Mapping[str, Any] | None, services: Services) -> Expression | None:
    """What `sessionAffinity` goes by. Raises: ConfigError, `source` its path."""
    if policy is None:
        return None
    made = Expression(policy["source"], services, "source")
    if made.needs_request_body:
        text = "the body is not read when an endpoint is chosen"
        raise ConfigError("source", text)
    return made


def shared_by(affinity: Expression, request: Request) -> bytes | None:
    """What requests of one endpoint share; None, also for what is no text: any will do."""
    try:
        value = affinity.value(request)
    except (CelError, RequestError):
        return None
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    return value if isinstance(value, bytes) and value else None


@final
class BalancedUpstream:
    """Several endpoints: power of two choices, health and ejection.

    `affinity`: requests of which it gives equal text go to one endpoint.
    """

    __slots__ = ("_affinity", "_endpoints", "_groups", "_picks", "_random", "_services")

    def __init__(
        self,
        groups: list[balance.Group],
        picks: Mapping[str, EndpointPick],
        services: Services,
        random: Callable[[], float],
        endpoints: Endpoints,
        affinity: Expression | None = None,
    ) -> None:
        self._affinity = affinity
        self._endpoints = endpoints
        self._groups = groups
        self._picks = picks
        self._services = services
        self._random = random

    def pick_nowait(self, request: Request) -> Picked | None:
        """See Upstream."""
        now = self._services.clock.monotonic_ns()
        value = None if self._affinity is None else shared_by(self._affinity, request)
        try:
            endpoint = self._chosen(value, now)
        except ShmError as error:
            endpoint = self._pick_alone(value, now, error)
        if endpoint is None:
            raise UpstreamError(503, "NoHealthyBackend", "no healthy backends", sent=False)
        return self._picks[endpoint.key]

    def _chosen(self, value: bytes | None, now_ns: int) -> balance.Endpoint | None:
        if value is not None:
            return balance.rendezvous(self._groups, value, now_ns)
        return balance.pick(self._groups, now_ns, self._random)

    def _pick_alone(
        self, value: bytes | None, now_ns: int, error: ShmError
    ) -> balance.Endpoint | None:
        """The choice, by what this worker knows: the shared table cannot be used."""
        for group in self._groups:
            for endpoint in group.endpoints:
                self._endpoints.lose(endpoint, error)
        return self._chosen(value, now_ns)

    async def pick(self, request: Request) -> Picked:
        """See Upstream."""
        picked = self.pick_nowait(request)
        assert picked is not None
        return picked

    async def pinned(self, label: str) -> Picked | None:
        """See Upstream. An ejected one too: only it knows what is pinned to it."""
        return next((one for one in self._picks.values() if one.label == label), None)
