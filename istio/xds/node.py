"""Who this gateway is to istiod, of the environment that its deployment gives it.

Source: spec istio 3.3 and 3.7.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any, Final

from istio.errors import XdsError
from istio.xds.delta import Node

_TYPE: Final = "agentgateway"
_POD_TYPE: Final = "ztunnel"
"""Of a pod's sidecar: istiod tells of policies to this type alone (spec istio 3.2)."""
_UNKNOWN_IP: Final = "1.1.1.1"
"""What Istio's own proxy says when it does not know its address."""
_JSON_PREFIX: Final = "ISTIO_METAJSON_"
_PLAIN: Final = {
    "CLUSTER_ID": "CLUSTER_ID",
    "NETWORK": "NETWORK",
    "SERVICE_ACCOUNT": "SERVICE_ACCOUNT",
}


def node_of(env: Mapping[str, str], *, is_pod: bool = False) -> Node:
    """The node; `is_pod`: the sidecar of a pod, which serves no Gateway.

    Raises: XdsError, naming the variable that is missing or wrong.
    """
    namespace = env.get("NAMESPACE") or env.get("POD_NAMESPACE") or ""
    gateway = "" if is_pod else env.get("GATEWAY") or ""
    if not namespace:
        raise XdsError("NAMESPACE must be set for discovery")
    if not gateway and not is_pod:
        raise XdsError("GATEWAY must be set for discovery: the name of the Gateway that is served")
    pod = env.get("POD_NAME") or gateway
    if not pod:
        raise XdsError("POD_NAME must be set for discovery")
    ip = _ip(env.get("INSTANCE_IP") or _UNKNOWN_IP)
    for name, value in (("NAMESPACE", namespace), ("POD_NAME", pod), ("GATEWAY", gateway)):
        if "~" in value or "/" in value:
            raise XdsError(f"{name}: `{value}` is no name")
    metadata: dict[str, Any] = {
        "NAME": pod,
        "NAMESPACE": namespace,
        "INSTANCE_IPS": ip,
        "NODE_NAME": env.get("NODE_NAME") or "",
    }
    if gateway:
        metadata |= {"role": f"{namespace}~{gateway}", "GATEWAY_NAME": gateway}
    metadata |= {key: env[name] for name, key in _PLAIN.items() if env.get(name)}
    metadata |= _json_metadata(env)
    domain = f"{namespace}.svc.{env.get('CLUSTER_DOMAIN') or 'cluster.local'}"
    kind = _POD_TYPE if is_pod else _TYPE
    return Node(f"{kind}~{ip}~{pod}.{namespace}~{domain}", metadata)


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise XdsError(f"INSTANCE_IP: `{text}` is no address") from error


def _json_metadata(env: Mapping[str, str]) -> dict[str, Any]:
    """`ISTIO_METAJSON_<K>`: a value of JSON under the key K."""
    result: dict[str, Any] = {}
    for name, value in env.items():
        if name.startswith(_JSON_PREFIX) and name != _JSON_PREFIX:
            try:
                result[name.removeprefix(_JSON_PREFIX)] = json.loads(value)
            except ValueError as error:
                raise XdsError(f"{name}: the value is no JSON") from error
    return result
