"""Backends that discovery knows: services, balanced over or left to a picker, and workloads.

Source: spec/config.md sections 3.11 and 10.5; gateway.discovered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

from sidecar.gateway.balanced import BalancedUpstream, EndpointPick, affinity_of
from sidecar.gateway.connecting import Connecting, NamedTls
from sidecar.gateway.discovered import Discovery
from sidecar.gateway.endpoints import Endpoints, Place
from sidecar.gateway.health import outliers_of
from sidecar.gateway.plan import Backend
from sidecar.gateway.upstream import (
    BrokenUpstream,
    DynamicUpstream,
    FixedUpstream,
    PoolKey,
    Pools,
    Upstream,
)
from sidecar.net.dialer import Address
from sidecar.net.pool import PoolSettings
from sidecar.net.tls_client import ClientTls
from sidecar.policies.base import Services
from sidecar.routing import balance

if TYPE_CHECKING:
    from sidecar.gateway.inference import Known

Data = Mapping[str, Any]


@final
class ServiceBackends:
    """Makes those of one snapshot."""

    def __init__(
        self,
        pools: Pools,
        connecting: Connecting,
        services: Services,
        random: Callable[[], float],
        discovery: Discovery,
        endpoints: Endpoints,
        admin_port: int,
    ) -> None:
        """`admin_port`: where no picker may send requests; 0 if there is none."""
        self._pools = pools
        self._connecting = connecting
        self._services = services
        self._random = random
        self._discovery = discovery
        self._endpoints = endpoints
        self._admin_port = admin_port

    def make(
        self,
        base: Backend,
        target: Data,
        tls: Data | None,
        settings: PoolSettings,
        policies: Data,
    ) -> Backend:
        """`target`: `{workload: …}` or `{service: …}`. Raises: ConfigError."""
        if "workload" in target:
            return self._workload(base, target["workload"], tls, settings)
        return self._service(base, target["service"], tls, settings, policies)

    def _service(
        self,
        base: Backend,
        service: Data,
        tls: Data | None,
        settings: PoolSettings,
        policies: Data,
    ) -> Backend:
        label = f"service/{service['name']}:{service['port']}"
        found = self._discovery.groups(service["name"], service["port"])
        if found is None:
            broken = BrokenUpstream(500, "NotFound", "service not found")
            return replace(base, label=label, kind="service", upstream=broken)
        hostname = service["name"].partition("/")[2]
        made = self._connecting.tls(tls, hostname)
        outliers = outliers_of(policies.get("health"), self._services)
        affinity = affinity_of(policies.get("sessionAffinity"), self._services)
        groups: list[list[balance.Endpoint]] = []
        picks: dict[str, EndpointPick] = {}
        for near in found:
            groups.append([])
            for address, capacity in near:
                place = Place(service["name"], service["port"], address)
                endpoint = self._endpoints.get(place, capacity)
                groups[-1].append(endpoint)
                pool = self._connecting.pool(address, made, settings)
                picks[endpoint.key] = EndpointPick(
                    endpoint, pool, outliers, self._services, self._endpoints
                )
        upstream: Upstream = BalancedUpstream(
            [balance.Group(group) for group in groups or [[]]],
            picks,
            self._services,
            self._random,
            self._endpoints,
            affinity,
        )
        routing = policies.get("inferenceRouting")
        if routing is not None:
            from sidecar.gateway.inference import literal

            known = {
                literal(address): (endpoint, picks[endpoint.key])
                for near, group in zip(found, groups, strict=True)
                for (address, _), endpoint in zip(near, group, strict=True)
            }
            upstream = self._picked(upstream, known, routing, made, settings)
        return replace(
            base,
            label=label,
            kind="service",
            upstream=upstream,
            has_tls=made[1] is not None,
            default_authority=hostname,
        )

    def _picked(
        self,
        balanced: Upstream,
        known: Known,
        routing: Data,
        tls: NamedTls,
        settings: PoolSettings,
    ) -> Upstream:
        """What goes by the choice of an endpoint picker."""
        from sidecar.gateway.inference import PickedUpstream, chosen_destination

        def key_of(address: Address, _: str) -> tuple[PoolKey, ClientTls | None]:
            return PoolKey(address, tls[0], settings), tls[1]

        anywhere = None
        if routing.get("destinationMode") == "passthrough":
            resolver = None if settings.proxy else self._pools.resolver
            port = self._admin_port
            anywhere = DynamicUpstream(
                chosen_destination, resolver, key_of, self._pools, admin_port=port
            )
        is_open = routing.get("failureMode") == "failOpen"
        clock = self._services.clock
        return PickedUpstream(balanced, known, anywhere, clock, falls_back=is_open)

    def _workload(
        self, base: Backend, workload: Data, tls: Data | None, settings: PoolSettings
    ) -> Backend:
        """One workload by its own address, as a waypoint is asked for it."""
        address = self._discovery.workload(workload["uid"], workload["port"])
        if address is None:
            broken = BrokenUpstream(503, "NoHealthyBackend", "the workload cannot be reached")
            return replace(base, kind="service", upstream=broken)
        made = self._connecting.tls(tls, address.host)
        return replace(
            base,
            label=str(address),
            kind="service",
            upstream=FixedUpstream(self._connecting.pool(address, made, settings)),
            has_tls=made[1] is not None,
            default_authority=str(address),
        )
