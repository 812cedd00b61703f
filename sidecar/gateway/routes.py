"""Routes of a snapshot, with the policies that hold on each and the backends it leads to.

Source: spec/config.md sections 2, 3.3 and 3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from sidecar.errors import ConfigError
from sidecar.gateway.backends import Backends
from sidecar.gateway.callouts import WorkerCallouts
from sidecar.gateway.levels import Levels, on_route, placed_route
from sidecar.gateway.mesh import Front, Judged, WorkerMesh
from sidecar.gateway.plan import (
    NOTHING_AFTER,
    After,
    Backend,
    Mirror,
    Route,
    TcpRoute,
    cumulated,
)
from sidecar.policies.base import Services
from sidecar.policies.chain import EMPTY, Chain
from sidecar.policies.merge import merge
from sidecar.policies.order import build, response_hooks
from sidecar.routing.table import RouteEntry
from sidecar.telemetry.metrics import RequestMetrics

Data = Mapping[str, Any]


@final
class Routes:
    """Makes those of one compilation. See fronts.Maker."""

    def __init__(
        self,
        data: Mapping[str, Data],
        listeners: Mapping[str, Data],
        ports: Mapping[str, int | None],
        levels: Levels,
        backends: Backends,
        callouts: WorkerCallouts,
        services: Services,
        requests: RequestMetrics,
        mesh: Callable[[], WorkerMesh | None],
    ) -> None:
        """`listeners`: by key. `ports`: of binds."""
        self.data = data
        """All resources; set anew with each patch."""
        self._listeners = listeners
        self._ports = ports
        self._levels = levels
        self._backends = backends
        self._callouts = callouts
        self._services = services
        self._requests = requests
        self._mesh = mesh

    def entry(self, key: str, data: Data) -> RouteEntry[Route]:
        """An HTTP route for its table. Raises: ConfigError."""
        listener = self._listeners.get(data["listener"] or "")
        try:
            return RouteEntry.compiled(key, data, self._route(key, data, listener))
        except ConfigError as error:
            raise ConfigError(f"route/{key}.{error.path}".rstrip("."), error.message) from error

    def _route(
        self, key: str, data: Data, listener: Data | None, front: Front | None = None
    ) -> Route:
        port = self._ports.get(listener["bind"]) if listener is not None else None
        data = placed_route(key, data)
        if listener is not None:
            merged = merge(self._levels.route_phase(listener, port, data))
        else:
            merged = merge([on_route(data["policies"])]) if data["policies"] else {}
        return self._made_route(key, data, listener, port, merged, front)

    def _made_route(
        self,
        key: str,
        data: Data,
        listener: Data | None,
        port: int | None,
        merged: dict[str, Any],
        front: Front | None = None,
    ) -> Route:
        made: list[Backend] = []
        weights: list[int] = []
        for reference in data["backends"]:
            _, own = self._backends.target_of(reference["target"])
            levels = self._levels.backend_phase(listener, port, data, reference, own)
            made.append(self._backends.make(reference, merge(levels) if levels else {}))
            weights.append(reference["weight"])
        if any(backend.protocol == "a2a" for backend in made):
            # Wherever the policy is set: what is called must be known before rules ask for it.
            merged = {**merged, "a2a": {}}
        mesh = None if front is None else self._mesh()
        judged = None
        if front is not None and mesh is not None and mesh.judges_requests:
            judged = Judged(front, mesh.judge)
        chain = build("route", merged, self._services, judged)
        backends = [_with_after(one, after_of(EMPTY, chain, one.chain)) for one in made]
        bind, gateway, name = names_of(listener)
        return Route(
            key=key,
            bind=bind,
            gateway=gateway,
            listener=name,
            route=f"{data['namespace']}/{data['name']}",
            route_rule=data["rule_name"] or "",
            backend="",  # is that of the backend chosen: a request refused before has none
            protocol=_protocol(backends),
            chain=chain,
            after=after_of(EMPTY, chain, EMPTY),
            backends=tuple(backends),
            weights=cumulated(weights),
            mirrors=self._mirrors(chain, data),
            make_metrics=self._requests.route,
            front=front,
        )

    def _mirrors(self, chain: Chain, data: Data) -> tuple[Mirror, ...]:
        if chain.mirror is None:
            return ()
        reference = chain.mirror.backend.model_dump(exclude_none=True)
        return (Mirror(chain.mirror, self._callouts.shadow(reference)),)

    def delegated(self, parent: Route, child: Route) -> Route:
        """A group's route beneath the route that led to it: child policies over the parent's."""
        data = self.data[f"route/{child.key}"]
        above = self.data[f"route/{parent.key.rpartition('|')[2]}"]
        listener = self._listeners.get(above["listener"] or "")
        port = self._ports.get(listener["bind"]) if listener is not None else None
        levels = self._delegation_levels(parent, listener, port)
        levels.append(on_route(placed_route(child.key, data)["policies"]))
        key = f"{parent.key}|{child.key}"
        made = self._made_route(key, data, listener, port, merge(levels), parent.front)
        made.bind, made.gateway, made.listener = parent.bind, parent.gateway, parent.listener
        return made

    def _delegation_levels(
        self, parent: Route, listener: Data | None, port: int | None
    ) -> list[dict[str, Any]]:
        levels: list[dict[str, Any]] = []
        for key in parent.key.split("|"):
            data = placed_route(key, self.data[f"route/{key}"])
            own = self._listeners.get(data["listener"] or "")
            if own is not None:
                levels += self._levels.route_phase(own, self._ports.get(own["bind"]), data)
            else:
                levels.append(on_route(data["policies"]))
        return levels

    def tcp(self, key: str, data: Data) -> TcpRoute:
        """A TCP route. Raises: ConfigError."""
        listener = self._listeners.get(data["listener"] or "")
        backends: list[Backend] = []
        for reference in data["backends"]:
            _, own = self._backends.target_of(reference["target"])
            levels = self._levels.backend_phase(listener, None, data, reference, own)
            backends.append(self._backends.make(reference, merge(levels) if levels else {}))
        bind, gateway, name = names_of(listener)
        return TcpRoute(
            bind,
            gateway,
            name,
            f"{data['namespace']}/{data['name']}",
            data["rule_name"] or "",
            backends[0].label if len(backends) == 1 else "",
            tuple(backends),
            cumulated([item["weight"] for item in data["backends"]]),
        )

    def front_route(
        self, key: str, data: Data | None, listener: str, front: Front
    ) -> RouteEntry[Route]:
        """See fronts.Maker."""
        data = self.data[f"route/{key}"] if data is None else data
        route = self._route(key, data, self._listeners[listener], front)
        return RouteEntry.compiled(key, data, route)

    def front_tcp_route(self, key: str, data: Data, listener: str) -> TcpRoute:
        """See fronts.Maker."""
        return self.tcp(key, {**data, "listener": listener})


def after_of(gateway: Chain, route: Chain, backend: Chain) -> After:
    """What these chains do to responses."""
    hooks = response_hooks(gateway, route, backend)
    if not hooks:
        return NOTHING_AFTER
    needs = any(chain.needs_response_body for chain in (gateway, route, backend))
    return After(hooks, needs)


def names_of(listener: Data | None) -> tuple[str, str, str]:
    """`(bind, gateway, listener)` labels."""
    if listener is None:
        return "", "", ""
    gateway = f"{listener['gateway_namespace']}/{listener['gateway_name']}"
    return listener["bind"], gateway, listener["name"]


def _protocol(backends: Sequence[Backend]) -> str:
    """What the requests of a route are to telemetry, which a plain backend is no part of."""
    kinds = (one.protocol or one.kind for one in backends if one.serve is not None)
    return next(kinds, "http")


def _with_after(backend: Backend, after: After) -> Backend:
    if after is NOTHING_AFTER:
        return backend
    return replace(backend, after=after)
