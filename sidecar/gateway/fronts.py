"""Binds that no port has: what a waypoint serves for one service or workload, made when it is first
called.

Source: spec istio section 2.4, steps 5 to 8.

A tunnel is for a service's port. What its requests meet is, in this order:
1. the routes that are attached to the service, if there are any: what meets none of them is 404;
2. the routes of the listener that took the tunnel, by the service's hostname: the request's own
   Host chooses nothing, else a client could leave the service it was let into;
3. the service itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, final

from sidecar.gateway.discovered import Discovery
from sidecar.gateway.mesh import Front
from sidecar.gateway.plan import Bind, Listener, ListenerFront, Route, TcpRoute
from sidecar.routing.match import host_key
from sidecar.routing.table import (
    ListenerEntry,
    ListenerTable,
    RouteEntry,
    RouteTable,
    TcpRouteTable,
)

Data = Mapping[str, Any]


class Maker(Protocol):
    """What makes routes (gateway.compile)."""

    def front_route(
        self, key: str, data: Data | None, listener: str, front: Front
    ) -> RouteEntry[Route]:
        """An HTTP route; `data`: None for that of the snapshot. Raises: ConfigError."""

    def front_tcp_route(self, key: str, data: Data, listener: str) -> TcpRoute:
        """A TCP route. Raises: ConfigError."""


Attached = Mapping[tuple[bool, str], list[tuple[str, Data]]]
"""(whether it is TCP, name of a service) to routes that are attached to it, by key."""


def attached(routes: Mapping[str, Data], tcp_routes: Mapping[str, Data]) -> Attached:
    """Those among the routes of a snapshot."""
    found: dict[tuple[bool, str], list[tuple[str, Data]]] = {}
    for is_tcp, every in ((False, routes), (True, tcp_routes)):
        for key, data in every.items():
            service = data.get("service")
            if service is not None:
                found.setdefault((is_tcp, service["name"]), []).append((key, data))
    return found


@final
class Fronts:
    """Makes the fronts of one compilation."""

    def __init__(
        self, discovery: Discovery, routes: Attached, maker: Maker, is_judged: bool
    ) -> None:
        """`is_judged`: whether a policy of the mesh may refuse requests."""
        self._services = discovery.services
        self._workloads = discovery.workloads
        self._attached = routes
        self._maker = maker
        self._is_judged = is_judged

    def make(self, front: Front, binds: Mapping[str, Bind]) -> Bind | None:
        """None when there is no such thing. Raises: ConfigError."""
        outer = binds.get(front.bind)
        known = self._services if front.kind == "service" else self._workloads
        data = known.get(front.name)
        if outer is None or data is None or not outer.listeners:
            return None
        listener = next(iter(outer.listeners.values()))
        host = data.get("hostname") or front.name.rpartition("/")[2]
        is_tcp = front.is_tcp or listener.protocol == "TCP"
        made = (
            self._tcp(front, data, host, listener)
            if is_tcp
            else self._http(front, data, host, listener)
        )
        table = ListenerTable([ListenerEntry(made.key, "", made)])
        plan = replace(
            outer.plan,
            key=str(front),
            port=0,
            tcp_listener=made.key if is_tcp else "",
            tunnel="direct",
            takes_connect=False,  # it would lead out of the service that the client was let into
            opens_socket=False,
            proxy_versions=(),
        )
        return Bind(str(front), plan, False, table, {made.key: made}, outer.admit, outer.examine)

    def _http(self, front: Front, data: Data, host: str, listener: Listener) -> Listener:
        make = self._maker.front_route
        own = self._of_service(front, is_tcp=False)
        if own:
            # Who comes here has called the service, by whatever name.
            routes = RouteTable(
                make(key, {**item, "hostnames": []}, listener.key, front) for key, item in own
            )
            fallback = None
        else:
            # The listener's own routes are made anew where the mesh judges: their chains differ.
            routes = listener.routes
            if self._is_judged:
                routes = RouteTable(
                    make(key, None, listener.key, front) for key in listener.routes.route_keys
                )
            key, item = self._default(front, data, listener)
            fallback = RouteTable([make(key, item, listener.key, front)])
        return replace(
            listener,
            routes=routes,
            front=ListenerFront("" if own else host_key(host), fallback),
        )

    def _tcp(self, front: Front, data: Data, host: str, listener: Listener) -> Listener:
        own = self._of_service(front, is_tcp=True)
        route = None if own else listener.tcp_routes.match(host_key(host))
        if route is None:
            key, item = own[0] if own else self._default(front, data, listener)
            route = self._maker.front_tcp_route(key, item, listener.key)
        return replace(listener, tcp_routes=TcpRouteTable([(str(front), [], route)]))

    def _of_service(self, front: Front, *, is_tcp: bool) -> list[tuple[str, Data]]:
        if front.kind != "service":
            return []
        found = self._attached.get((is_tcp, front.name), ())
        return [one for one in found if one[1]["service"].get("port") in (None, 0, front.port)]

    def _default(self, front: Front, data: Data, listener: Listener) -> tuple[str, Data]:
        if front.kind == "service":
            target: Data = {"service": {"name": front.name, "port": front.port}}
        else:
            target = {"workload": {"uid": front.name, "port": front.port}}
        route = {
            "listener": listener.key,
            "name": "_waypoint-default",
            "namespace": data["namespace"],
            "rule_name": None,
            "hostnames": [],
            "policies": {},
            "backends": [{"name": front.name, "weight": 1, "policies": {}, "target": target}],
            "group": None,
        }
        return f"{listener.key}/_waypoint-default/{front.kind}:{front.port}:{front.name}", route
