"""Gateways, binds and their listeners; and the routes that attach to them.

Source: spec/config.md sections 0.7, 1.1 to 1.4, 1.6 and 1.9.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, final

from sidecar.config.certificates import server_tls
from sidecar.config.payloads import policies
from sidecar.config.routes import Place, RouteMaker, hostname
from sidecar.config.run import Node, Run, child, items
from sidecar.config.snapshot import Json
from sidecar.config.validate import (
    GATEWAY_KINDS,
    HBONE_TUNNELS,
    check_mix,
    check_tls_presence,
    check_tunnel,
    effective_protocol,
    is_wildcard,
)
from sidecar.errors import ConfigError

GATEWAY = "default"
"""Name and namespace of the one gateway a file describes, for targets and metrics."""

_OWN_GATEWAY_KEYS = ("protocol", "tls", *sorted(GATEWAY_KINDS))


_NOWHERE = (Place("nowhere", "", None, "HTTP"), Place("nowhere", "", None, "TLS"))
"""Where routes are made that cannot be attached, HTTP and TCP: only to be checked."""


@final
@dataclass(slots=True)
class _Counted:
    """A place and the number of routes there, which names the next one."""

    place: Place
    routes: int = 0


@final
@dataclass(slots=True)
class Places:
    """What `gateways:` of a route may refer to: `gateway` or `gateway/listener`."""

    by_reference: dict[str, list[_Counted]] = field(default_factory=dict)


def _host(listener: Node, path: str, run: Run) -> str:
    """The listener's hostname in lower case; "" for any."""
    text = listener.get("hostname") or "*"
    try:
        name = hostname(text)
    except ConfigError as error:
        run.problem(f"{path}.hostname", error.message)
        return ""
    return "" if name == "*" else name


def _listener(
    key: str, name: str, protocol: str, bind: str, node: Node, early: Json, path: str, run: Run
) -> None:
    """Keep one listener. `early`: kind to payload of its gateway-phase policies."""
    tls: Node | None = node.get("tls")
    data: Json = {
        "name": name,
        "namespace": node.get("namespace") or "default",
        "gateway_name": GATEWAY,
        "gateway_namespace": GATEWAY,
        "hostname": _host(node, path, run),
        "protocol": protocol,
        "tls": None if tls is None else server_tls(tls, f"{path}.tls", run),
        "policies": early,
        "bind": bind,
    }
    run.make("listener", key, data, path)


def _check_hosts(listeners: list[tuple[str, str, Node]], run: Run) -> None:
    """Listeners of one port, as (key, path, node), differ in their hostname."""
    owners: dict[str, str] = {}
    for key, path, node in listeners:
        host = (node.get("hostname") or "*").lower()
        other = owners.setdefault(host, key)
        if other != key:
            run.problem(
                f"{path}.hostname", f"listener {other} of this port has the hostname {host} already"
            )


def _bind(name: str, node: Node, listeners: dict[str, str], path: str, run: Run) -> None:
    """Keep one bind. `listeners`: key to protocol."""
    protocols = set(listeners.values())
    if (node.get("tunnelProtocol") or "direct") in HBONE_TUNNELS:
        protocol = "hbone"
    else:
        protocol = _bind_protocol(protocols)
    data: Json = {
        "port": node.get("port") or None,
        "protocol": protocol,
        "tunnel": node.get("tunnelProtocol") or "direct",
        "mode": node.get("mode") or "standard",
        "listeners": list(listeners),
    }
    run.make("bind", name, data, path)


def _bind_protocol(protocols: set[str]) -> str:
    return "tls" if protocols & {"HTTPS", "TLS"} else "tcp" if "TCP" in protocols else "http"


def binds(data: Node, maker: RouteMaker, run: Run) -> None:
    """Every bind with its listeners and the routes written inside them."""
    for path, bind in items(data, "binds"):
        name = "bind/wildcard" if is_wildcard(bind) else f"bind/{bind.get('port') or 0}"
        listeners: dict[str, str] = {}
        hosts: list[tuple[str, str, Node]] = []
        for index, (where, listener) in enumerate(items(bind, "listeners", path)):
            listener_name = listener.get("name") or f"listener{index}"
            key = f"{GATEWAY}/{GATEWAY}/{name}/{listener_name}"
            protocol = listener.get("protocol") or "HTTP"
            listeners[key] = protocol
            hosts.append((key, where, listener))
            _bind_listener(key, listener_name, protocol, name, listener, where, run)
            _inline_routes(Place(key, key, None, protocol), listener, where, maker, run)
        check_mix(list(listeners.values()), bind.get("port"), path, run, name="bind")
        check_tunnel(bind, list(listeners.values()), path, run)
        _check_hosts(hosts, run)
        _bind(name, bind, listeners, path, run)


def _bind_listener(
    key: str, name: str, protocol: str, bind: str, node: Node, path: str, run: Run
) -> None:
    wanted, other = ("routes", "tcpRoutes")
    if protocol in ("TCP", "TLS"):
        wanted, other = other, wanted
    if protocol == "HBONE":
        # Which of them a tunnel takes is told by the port of the service that it is for.
        check_tls_presence(protocol, node, path, run, name="listener")
        early = policies(node.get("policies"), f"{path}.policies", run)
        _listener(key, name, protocol, bind, node, early, path, run)
        return
    if node.get(wanted) is not None and node.get(other) is not None:
        run.problem(path, "only 'routes' or 'tcpRoutes' may be set")
    if node.get(wanted) is None:
        run.problem(path, f"protocol {protocol} requires '{wanted}'")
    check_tls_presence(protocol, node, path, run, name="listener")
    early = policies(node.get("policies"), f"{path}.policies", run)
    _listener(key, name, protocol, bind, node, early, path, run)


def _inline_routes(place: Place, node: Node, path: str, maker: RouteMaker, run: Run) -> None:
    wanted = "tcpRoutes" if place.has_tcp else "routes"
    for index, (where, route) in enumerate(items(node, wanted, path)):
        maker.make(route, index, place, where, run)
    if place.protocol == "HBONE":
        # As those of TLS listeners they may have hostnames: the service's stands for a name in TLS.
        for index, (where, route) in enumerate(items(node, "tcpRoutes", path)):
            maker.make(route, index, replace(place, protocol="TLS"), where, run)


def gateways(data: Node, run: Run) -> Places:
    """Every gateway with its bind and listeners. What its routes may attach to."""
    places = Places()
    for name, gateway in (data.get("gateways") or {}).items():
        path = child("gateways", name)
        bind = f"bind/{gateway.get('port') or 0}"
        nodes = _gateway_listeners(name, gateway, path, run)
        listeners: dict[str, str] = {}
        attached = places.by_reference.setdefault(name, [])
        for reference, where, node in nodes:
            protocol = effective_protocol(node)
            key = f"gateway/{reference}"
            listeners[key] = protocol
            check_tls_presence(protocol, node, where, run, name="gateway listener")
            own = {kind: node[kind] for kind in node if kind in GATEWAY_KINDS}
            early = policies(own, where, run)
            _listener(key, reference, protocol, bind, node, early, where, run)
            counted = _Counted(Place(key, key, None, protocol))
            attached.append(counted)
            if reference != name:
                places.by_reference[reference] = [counted]
        check_mix(list(listeners.values()), gateway.get("port"), path, run, name="gateway")
        _check_hosts(
            [(f"gateway/{reference}", where, node) for reference, where, node in nodes], run
        )
        _bind(bind, {"port": gateway.get("port")}, listeners, path, run)
    return places


def _gateway_listeners(
    name: str, gateway: Node, path: str, run: Run
) -> list[tuple[str, str, Node]]:
    """(reference, path, node) of each listener; a gateway without listeners is its own."""
    if not gateway.get("listeners"):
        return [(name, path, gateway)]
    if any(gateway.get(key) is not None for key in _OWN_GATEWAY_KEYS):
        run.problem(
            path,
            f"gateways.{name} cannot set protocol, tls, or policy fields"
            " when listeners are configured",
        )
    return [
        (f"{name}/{node.get('name') or f'listener{index}'}", where, node)
        for index, (where, node) in enumerate(items(gateway, "listeners", path))
    ]


def attached_routes(data: Node, places: Places, maker: RouteMaker, run: Run) -> None:
    """Top-level `routes` and `tcpRoutes`: one route a listener they attach to."""
    for section, is_tcp in (("routes", False), ("tcpRoutes", True)):
        for path, route in items(data, section):
            references = _references(route, places, is_tcp=is_tcp)
            if not references and not run.known.has_lost_gateway(GATEWAY):
                shown = route.get("name") or "<unnamed>"
                run.problem(f"{path}.gateways", f"{section}.{shown} must set gateways")
            bare = {key: value for key, value in route.items() if key != "gateways"}
            found = _resolve(references, places, f"{path}.gateways", run, is_tcp=is_tcp)
            # A route that is attached to nothing, which is a fault, may have others of its own.
            first = ""
            for counted in found or [_Counted(_NOWHERE[is_tcp])]:
                made = maker.make(bare, counted.routes, counted.place, path, run, first)
                first = first or made
                counted.routes += 1


def places_of(given: str | list[str], places: Places, path: str, run: Run) -> list[Place]:
    """The HTTP listeners that a section of the document attaches to."""
    references = [given] if isinstance(given, str) else list(given)
    return [one.place for one in _resolve(references, places, path, run, is_tcp=False)]


def own_port(port: int, name: str, node: Node, path: str, run: Run) -> Place:
    """A port with one listener, for a section of the document that names no gateway.

    `node`: may hold `tls`.
    """
    bind = f"bind/{port}"
    key = f"{GATEWAY}/{GATEWAY}/{bind}/{name}"
    protocol = "HTTPS" if node.get("tls") is not None else "HTTP"
    _listener(key, name, protocol, bind, {"tls": node.get("tls")}, {}, path, run)
    _bind(bind, {"port": port}, {key: protocol}, path, run)
    return Place(key, key, None, protocol)


def _references(route: Node, places: Places, *, is_tcp: bool) -> list[str]:
    """`gateways` as a list; a gateway called `default` takes the routes that name none."""
    given: Any = route.get("gateways") or []
    references = [given] if isinstance(given, str) else list(given)
    if references:
        return references
    fits = any(counted.place.has_tcp == is_tcp for counted in places.by_reference.get(GATEWAY, ()))
    return [GATEWAY] if fits else []


def _resolve(
    references: list[str], places: Places, path: str, run: Run, *, is_tcp: bool
) -> list[_Counted]:
    """The listeners of the right kind behind the references, each once, in order."""
    found: dict[str, _Counted] = {}
    for reference in references:
        if reference not in places.by_reference:
            if not run.known.has_lost_gateway(reference):
                run.problem(path, f"unknown gateway reference {reference}")
            continue
        fitting = [
            counted for counted in places.by_reference[reference] if counted.place.has_tcp == is_tcp
        ]
        if not fitting and not run.known.has_lost_gateway(reference):
            kind = "TCP" if is_tcp else "HTTP"
            run.problem(path, f"gateway reference {reference} has no {kind} listeners")
        found.update({counted.place.prefix: counted for counted in fitting})
    return list(found.values())


def route_groups(data: Node, maker: RouteMaker, run: Run) -> None:
    """Named sets of routes that other routes delegate to."""
    names: set[str] = set()
    for path, group in items(data, "routeGroups"):
        name = group["name"]
        if name in names:
            run.problem(f"{path}.name", f"route group {name} is defined twice")
        names.add(name)
        place = Place(f"routegroup/{name}", None, name, "HTTP")
        for index, (where, route) in enumerate(items(group, "routes", path)):
            maker.make(route, index, place, where, run)
