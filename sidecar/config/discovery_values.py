"""Values in services and workloads: what is right, and the form that the snapshot has.

Source: spec/config.md section 1.7; spec/istio.md sections 3.8 and 5.1.

Each reader takes a value of the document and its path, notes what is wrong, and gives what is left.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final, Protocol

from sidecar.config.run import Node, child
from sidecar.config.snapshot import Json

HBONE_PORT: Final = 15008
"""Where tunnels are accepted unless something else is said."""
AGENT_PROTOCOLS = frozenset(("agentgateway.dev/a2a", "kgateway.dev/a2a"))
"""What a service's port says where an A2A agent listens."""
MESH_PROTOCOLS = frozenset(("HTTP11", "HTTP2", "GRPC", "TCP", "TLS"))
"""What a mesh says of a service's port."""
_SCOPES = frozenset(("Region", "Zone", "Subzone", "Node", "Cluster", "Network"))
_MODES = ("Standard", "Strict", "Failover", "Passthrough")
_HEALTH = ("OnlyHealthy", "AllowAll")


class Notes(Protocol):
    """Who hears what is wrong."""

    def problem(self, path: str, message: str) -> None:
        """Note what cannot be honoured."""

    def warn(self, path: str, message: str) -> None:
        """Note what is ignored."""


def place_of(path: str, key: str) -> str:
    """The path of a field: `path` is empty for a resource that comes alone."""
    return f"{path}.{key}" if path else key


def renamed(node: Node, names: Mapping[str, str], path: str, notes: Notes) -> dict[str, Any]:
    """The node with the snapshot's keys. The schema leaves it open, so its keys are checked."""
    for key in node:
        if key not in names:
            notes.problem(child(path, str(key)), f"unknown field `{key}`")
    return {names[key]: value for key, value in node.items() if key in names and value is not None}


def require(data: Json, keys: tuple[str, ...], path: str, notes: Notes) -> bool:
    """Whether these fields are texts that are not empty."""
    missing = [key for key in keys if not isinstance(data.get(key), str) or not data[key]]
    for key in missing:
        notes.problem(path, f"missing field `{key}`")
    return not missing


def port_number(value: object) -> int:
    """Ports are numbers, or text when they were the keys of a JSON object. -1: neither."""
    if type(value) is int:
        return value if 0 <= value < 65536 else -1
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and int(text[:6]) < 65536 else -1


def read_ports(value: Any, path: str, notes: Notes, *, is_service: bool = False) -> Json:
    """Service port (as text: JSON keys are) to target port; 0 is for a service to say only."""
    if not isinstance(value, dict):
        notes.problem(path, "invalid ports: a map of port to target port")
        return {}
    result: Json = {}
    for port, target in value.items():
        number, at = port_number(port), port_number(target)
        if number > 0 and (at > 0 or (at == 0 and is_service)):
            result[str(number)] = at
        else:
            notes.problem(path, f"invalid ports: {port} to {target}")
    return result


def read_protocols(value: Any, path: str, notes: Notes) -> Json:
    """Service port to what is spoken there, of those that change what the gateway does."""
    result: Json = {}
    for port, protocol in value.items():
        where = child(place_of(path, "appProtocols"), str(port))
        if port_number(port) <= 0:
            notes.problem(where, "invalid port")
        elif protocol in AGENT_PROTOCOLS or protocol in MESH_PROTOCOLS:
            result[str(port_number(port))] = protocol
        else:
            notes.warn(where, f"`{protocol}` is ignored; backends say what they speak")
    return result


def canonical_address(text: Any) -> str | None:
    """An IP address in its canonical form."""
    try:
        return str(ipaddress.ip_address(str(text)))
    except ValueError:
        return None


def canonical_network(text: str) -> str | None:
    """`ip/length` in its canonical form, host bits cleared."""
    try:
        return str(ipaddress.ip_network(text, strict=False)) if "/" in text else None
    except ValueError:
        return None


def entries(value: Any) -> list[Any]:
    """A list, or one value as a list of it."""
    return value if isinstance(value, list) else [value] if value else []


def read_vips(value: Any, path: str, notes: Notes) -> list[str]:
    """`network/ip` each, as given but with the address in its canonical form."""
    result = []
    for index, vip in enumerate(entries(value)):
        network, slash, text = str(vip).partition("/")
        address = canonical_address(text)
        if not slash or address is None:
            where = place_of(path, f"vips[{index}]")
            notes.problem(where, f"invalid vip `{vip}`: network/ip")
        else:
            result.append(f"{network}/{address}")
    return result


def read_cidr_vips(value: Any, path: str, notes: Notes) -> list[str]:
    """`network/ip/length` each."""
    result = []
    for index, vip in enumerate(entries(value)):
        network, slash, text = str(vip).partition("/")
        cidr = canonical_network(text)
        if not slash or cidr is None:
            where = place_of(path, f"cidrVips[{index}]")
            notes.problem(where, f"invalid vip `{vip}`: network/ip/length")
        else:
            result.append(f"{network}/{cidr}")
    return result


def read_gateway(value: Any, path: str, notes: Notes) -> Json | None:
    """`{destination, hbone_port}`: the destination is `network/ip` or `namespace/hostname`."""
    if not isinstance(value, dict) or not value.keys() <= {"destination", "hboneMtlsPort"}:
        notes.problem(path, "invalid gateway: destination and hboneMtlsPort")
        return None
    place, slash, host = str(value.get("destination") or "").partition("/")
    if not slash or not host or "/" in host:
        where = place_of(path, "destination")
        notes.problem(where, "invalid destination: network/ip or namespace/hostname")
        return None
    port = port_number(value.get("hboneMtlsPort") or HBONE_PORT)
    if port <= 0:
        notes.problem(place_of(path, "hboneMtlsPort"), "invalid port")
        return None
    return {"destination": f"{place}/{canonical_address(host) or host.lower()}", "hbone_port": port}


def read_weighted(value: Any, path: str, notes: Notes) -> list[Json]:
    """`[{gateway, weight}]`."""
    result: list[Json] = []
    for index, one in enumerate(entries(value)):
        where = place_of(path, f"weightedWaypoints[{index}]")
        weight = one.get("weight", 0) if isinstance(one, dict) else None
        if not isinstance(one, dict) or type(weight) is not int or weight < 0:
            notes.problem(where, "invalid weighted waypoint: destination and weight")
            continue
        gateway = read_gateway(one.get("destination"), place_of(where, "destination"), notes)
        if gateway is not None:
            result.append({"gateway": gateway, "weight": weight})
    return result


def read_balancer(value: Any, path: str, notes: Notes) -> Json | None:
    """`{scopes, mode, health}`."""
    if not isinstance(value, dict):
        notes.problem(path, "invalid loadBalancer: a map")
        return None
    scopes = entries(value.get("routingPreferences"))
    mode, health = value.get("mode", _MODES[0]), value.get("healthPolicy", _HEALTH[0])
    for key, is_right in (
        ("routingPreferences", all(scope in _SCOPES for scope in scopes)),
        ("mode", mode in _MODES),
        ("healthPolicy", health in _HEALTH),
    ):
        if not is_right:
            notes.problem(place_of(path, key), f"invalid {key} `{value.get(key)}`")
    return {"scopes": scopes, "mode": mode, "health": health}


def check_texts(value: Any, path: str, notes: Notes) -> None:
    """A list of texts, or nothing."""
    if value is not None and not (
        isinstance(value, list) and all(isinstance(one, str) for one in value)
    ):
        notes.problem(path, "invalid value: a list of texts")


def read_tunnel(value: Any, path: str, notes: Notes) -> Json | None:
    """`{protocol, port}`; port 0: the one that was called."""
    port = port_number(value.get("port") or 0) if isinstance(value, dict) else -1
    if port < 0 or value.get("protocol", "NONE") not in ("NONE", "PROXY"):
        notes.problem(path, "invalid applicationTunnel: protocol NONE or PROXY, and a port")
        return None
    return {"protocol": value.get("protocol", "NONE"), "port": port}
