"""Workloads, services and authorization of the control plane as the file would say them.

Plain data in the spelling of `sidecar.config.model.discovery`; what is absent has its default.
A resource that cannot be honoured raises ResourceError, whose text is the reason of the refusal.

Source: spec istio 3.4 and 3.8.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from istio.errors import ResourceError
from istio.xds._pb import authorization_pb2 as security
from istio.xds._pb import workload_pb2 as wds

_PREFIX: Final = "type.googleapis.com/"
ADDRESS: Final = f"{_PREFIX}istio.workload.Address"
AUTHORIZATION: Final = f"{_PREFIX}istio.security.Authorization"
RESOURCE: Final = f"{_PREFIX}agentgateway.dev.resource.Resource"

Json = dict[str, Any]

HBONE_PORT: Final = 15008
_MAX_PORT: Final = 65535
_TRUST_DOMAIN: Final = "cluster.local"
_ACCOUNT: Final = "default"
_CLUSTER: Final = "Kubernetes"

_PROTOCOLS: Final = ("TCP", "HBONE", "LEGACY_ISTIO_MTLS")
_STATUSES: Final = ("Healthy", "Unhealthy")
_WORKLOAD_TYPES: Final = ("deployment", "cronjob", "pod", "job")
_NETWORK_MODES: Final = ("Standard", "HostNetwork")
_FAMILIES: Final = ("", "IPv4", "IPv6", "Dual")
_VISIBILITIES: Final = ("Public", "Namespace")
_SCOPES: Final = ("", "Region", "Zone", "Subzone", "Node", "Cluster", "Network")
_MODES: Final = ("Standard", "Strict", "Failover", "Passthrough")
_HEALTH: Final = ("OnlyHealthy", "AllowAll")


def address(payload: bytes) -> Json:
    """An `istio.workload.Address`: `{"workload": …}` or `{"service": …}`. Raises: ResourceError."""
    message = parsed(wds.Address, payload)
    kind = message.WhichOneof("type")
    if kind == "workload":
        return {"workload": workload(message.workload)}
    if kind == "service":
        return {"service": service(message.service)}
    raise ResourceError("it is neither a workload nor a service")


def parsed(kind: Any, payload: bytes) -> Any:
    """The message, or ResourceError."""
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise ResourceError(f"its octets are no {kind.DESCRIPTOR.full_name}") from error


def service(one: wds.Service) -> Json:
    """A service. Raises: ResourceError."""
    _needs(one, "name", "namespace", "hostname")
    vips, ranges = _vips(one.addresses)
    data: Json = {
        "name": one.name,
        "namespace": one.namespace,
        "hostname": one.hostname,
        "vips": vips,
        "ports": _ports(one.ports, "ports"),
    }
    protocols = {
        str(port.service_port): _named(wds.AppProtocol, port.app_protocol, "app_protocol")
        for port in one.ports
        if port.app_protocol
    }
    weighted = [
        {
            "destination": _gateway(entry.destination, f"weighted_waypoints[{index}]"),
            "weight": entry.weight,
        }
        for index, entry in enumerate(one.weighted_waypoints)
    ]
    optional: Json = {
        "cidrVips": ranges,
        "appProtocols": protocols,
        "subjectAltNames": list(one.subject_alt_names),
        "waypoint": _gateway(one.waypoint, "waypoint") if one.HasField("waypoint") else None,
        "weightedWaypoints": weighted,
        "loadBalancer": _balancing(one.load_balancing) if one.HasField("load_balancing") else None,
        "ipFamilies": _entry(_FAMILIES, one.ip_families, "ip_families"),
        "canonical": one.canonical,
        "ingressUseWaypoint": one.ingress_use_waypoint,
        "visibility": one.visibility and _entry(_VISIBILITIES, one.visibility, "visibility"),
    }
    return data | {key: value for key, value in optional.items() if value}


def workload(one: wds.Workload) -> Json:
    """A workload, defaults of the control plane filled in. Raises: ResourceError."""
    _needs(one, "uid", "namespace")
    data: Json = {
        "uid": one.uid,
        "name": one.name or one.uid,
        "namespace": one.namespace,
        "workloadIps": [
            str(_ip(octets, f"addresses[{index}]")) for index, octets in enumerate(one.addresses)
        ],
        "network": one.network,
        "protocol": _entry(_PROTOCOLS, one.tunnel_protocol, "tunnel_protocol"),
        "trustDomain": one.trust_domain or _TRUST_DOMAIN,
        "serviceAccount": one.service_account or _ACCOUNT,
        "clusterId": one.cluster_id or _CLUSTER,
        "status": _entry(_STATUSES, one.status, "status"),
        "capacity": one.capacity.value if one.HasField("capacity") else 1,
        "services": {
            _service_name(name): _ports(ports.ports, f"services[{name}]")
            for name, ports in one.services.items()
        },
    }
    optional: Json = {
        "hostname": one.hostname,
        "node": one.node,
        "canonicalName": one.canonical_name,
        "canonicalRevision": one.canonical_revision,
        "workloadType": _entry(_WORKLOAD_TYPES, one.workload_type, "workload_type"),
        "workloadName": one.workload_name,
        "nativeTunnel": one.native_tunnel,
        "authorizationPolicies": list(one.authorization_policies),
        "networkMode": one.network_mode
        and _entry(_NETWORK_MODES, one.network_mode, "network_mode"),
    }
    _add_places(one, optional)
    return data | {key: value for key, value in optional.items() if value}


def _add_places(one: wds.Workload, data: Json) -> None:
    """The fields that are messages, of those that are there."""
    if one.HasField("waypoint"):
        data["waypoint"] = _gateway(one.waypoint, "waypoint")
    if one.HasField("network_gateway"):
        data["networkGateway"] = _gateway(one.network_gateway, "network_gateway")
    if one.HasField("locality"):
        place = one.locality
        data["locality"] = {
            "region": place.region,
            "zone": place.zone,
            "subzone": place.subzone,
        }
    if one.HasField("application_tunnel"):
        tunnel = one.application_tunnel
        protocol = _named(
            wds.ApplicationTunnel.Protocol, tunnel.protocol, "application_tunnel.protocol"
        )
        port = _port(tunnel.port, "application_tunnel.port", is_zero_allowed=True)
        data["applicationTunnel"] = {"protocol": protocol, "port": port}


def _needs(message: Message, *names: str) -> None:
    for name in names:
        if not getattr(message, name):
            raise ResourceError(f"{name} is missing")


def _named(kind: EnumTypeWrapper[Any], number: int, path: str) -> str:
    try:
        return str(kind.Name(number))
    except ValueError as error:
        raise ResourceError(f"{path}: {number} is not known here") from error


def _entry(names: tuple[str, ...], number: int, path: str) -> str:
    if 0 <= number < len(names):
        return names[number]
    raise ResourceError(f"{path}: {number} is not known here")


def _ip(octets: bytes, path: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if len(octets) == 4:
        return ipaddress.IPv4Address(octets)
    if len(octets) == 16:
        return ipaddress.IPv6Address(octets)
    raise ResourceError(f"{path}: an address has 4 or 16 octets, not {len(octets)}")


def _cidr(octets: bytes, length: int, path: str) -> str:
    """CIDR text, host bits cleared: they do not count (spec istio 4.3)."""
    ip = _ip(octets, path)
    if length > ip.max_prefixlen:
        raise ResourceError(f"{path}: {length} bits are more than the address has")
    return str(ipaddress.ip_network((ip, length), strict=False))


def _vips(given: Iterable[wds.NetworkAddress]) -> tuple[list[str], list[str]]:
    """`network/ip` of single addresses, and `network/ip/bits` of ranges."""
    vips: list[str] = []
    ranges: list[str] = []
    for index, vip in enumerate(given):
        path = f"addresses[{index}]"
        if vip.HasField("length") and vip.length != len(vip.address) * 8:
            ranges.append(f"{vip.network}/{_cidr(vip.address, vip.length, path)}")
        else:
            vips.append(f"{vip.network}/{_ip(vip.address, path)}")
    return vips, ranges


def _port(number: int, path: str, *, is_zero_allowed: bool = False) -> int:
    if number > _MAX_PORT or (number == 0 and not is_zero_allowed):
        raise ResourceError(f"{path}: {number} is no port")
    return number


def _ports(ports: Iterable[wds.Port], path: str) -> dict[str, int]:
    """Port of the service → of the workload; 0 where the workload says it."""
    return {
        str(_port(port.service_port, path)): _port(port.target_port, path, is_zero_allowed=True)
        for port in ports
    }


def _service_name(name: str) -> str:
    namespace, slash, hostname = name.partition("/")
    if not namespace or not slash or not hostname or "/" in hostname:
        raise ResourceError(f"services: `{name}` is not namespace/hostname")
    return name


def _gateway(one: wds.GatewayAddress, path: str) -> Json:
    """`destination`: `network/ip` or `namespace/hostname`; a port of 0 is the usual one."""
    kind = one.WhichOneof("destination")
    if kind == "address":
        destination = f"{one.address.network}/{_ip(one.address.address, f'{path}.address')}"
    elif kind == "hostname" and one.hostname.hostname:
        destination = f"{one.hostname.namespace}/{one.hostname.hostname}"
    else:
        raise ResourceError(f"{path}: it has no destination")
    port = _port(one.hbone_mtls_port or HBONE_PORT, f"{path}.hbone_mtls_port")
    return {"destination": destination, "hboneMtlsPort": port}


def _balancing(one: wds.LoadBalancing) -> Json:
    """Scopes that say nothing are left out."""
    scopes = [_entry(_SCOPES, scope, "routing_preference") for scope in one.routing_preference]
    return {
        "routingPreferences": [scope for scope in scopes if scope],
        "mode": _entry(_MODES, one.mode, "load_balancing.mode"),
        "healthPolicy": _entry(_HEALTH, one.health_policy, "health_policy"),
    }


def authorization(payload: bytes) -> Json:
    """An `istio.security.Authorization`: name, namespace, scope, action, dryRun, and rules.

    `rules` is a list of rules, each a list of clauses, each a list of matches. What this program
    does not know may widen what a policy allows, so a policy with it is refused.
    Raises: ResourceError.
    """
    one = parsed(security.Authorization, payload)
    _needs(one, "name")
    if one.scope != security.GLOBAL:
        _needs(one, "namespace")
    refuse_unknown(one, "")
    return {
        "name": one.name,
        "namespace": one.namespace,
        "scope": _named(security.Scope, one.scope, "scope"),
        "action": _named(security.Action, one.action, "action"),
        "dryRun": one.dry_run,
        "rules": [
            [[_match(match) for match in clause.matches] for clause in rule.clauses]
            for rule in one.rules
        ],
    }


def authorization_or_denial(payload: bytes) -> Json:
    """As `authorization`; of one that cannot be honoured, `denial` and its reason under `fault`.

    Not to know a policy is to let in whom it would keep out. Raises: ResourceError when not even
    what it is for can be read.
    """
    try:
        return authorization(payload)
    except ResourceError as error:
        one = parsed(security.Authorization, payload)
        _needs(one, "name")
        known = {
            "name": one.name,
            "namespace": one.namespace,
            "scope": _named(security.Scope, one.scope, "scope"),
            "dryRun": one.dry_run,
        }
        return {**denial(known), "fault": str(error)}


def denial(data: Json) -> Json:
    """What stands in for a policy: it denies everything that the policy is for."""
    kept = {key: data[key] for key in ("name", "namespace", "scope", "dryRun")}
    return {**kept, "action": "DENY", "rules": [[]]}


def refuse_unknown(message: Message, path: str) -> None:
    """Raises ResourceError when the message, or one inside it, has fields of a later version."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        where = f"{path}: " if path else ""
        raise ResourceError(f"{where}field {unknown[0].field_number} is not known here")
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        where = f"{path}.{descriptor.name}" if path else descriptor.name
        for inner in _messages(descriptor, value):
            refuse_unknown(inner, where)


def _messages(descriptor: Any, value: Any) -> Iterable[Message]:
    if descriptor.message_type.GetOptions().map_entry:
        return [one for one in value.values() if isinstance(one, Message)]
    return value if descriptor.is_repeated else [value]


_STRINGS: Final[Mapping[str, str]] = {
    "namespaces": "namespaces",
    "not_namespaces": "notNamespaces",
    "principals": "principals",
    "not_principals": "notPrincipals",
}
_RANGES: Final[Mapping[str, str]] = {
    "source_ips": "sourceIps",
    "not_source_ips": "notSourceIps",
    "destination_ips": "destinationIps",
    "not_destination_ips": "notDestinationIps",
}
_PORT_LISTS: Final[Mapping[str, str]] = {
    "destination_ports": "destinationPorts",
    "not_destination_ports": "notDestinationPorts",
}
_ACCOUNTS: Final[Mapping[str, str]] = {
    "service_accounts": "serviceAccounts",
    "not_service_accounts": "notServiceAccounts",
}


def _match(match: security.Match) -> Json:
    if match.extensions:
        raise ResourceError(f"extension {match.extensions[0].name} of a match is not known here")
    data: Json = {}
    for name, key in _STRINGS.items():
        data[key] = [_string(one, name) for one in getattr(match, name)]
    for name, key in _RANGES.items():
        data[key] = [_cidr(one.address, one.length, name) for one in getattr(match, name)]
    for name, key in _PORT_LISTS.items():
        data[key] = [_port(one, name, is_zero_allowed=True) for one in getattr(match, name)]
    for name, key in _ACCOUNTS.items():
        data[key] = [
            {"namespace": one.namespace, "serviceAccount": one.serviceAccount}
            for one in getattr(match, name)
        ]
    return {key: value for key, value in data.items() if value}


def _string(match: security.StringMatch, path: str) -> Json:
    kind = match.WhichOneof("match_type")
    if kind is None:
        raise ResourceError(f"{path}: a match that says nothing")
    return {kind: {} if kind == "presence" else getattr(match, kind)}
