"""Policies attached by target as the file's entries.

Source: as plain.py; spec config 1.5.
"""

from __future__ import annotations

from typing import Any

from istio.errors import ResourceError
from istio.xds._pb import resource_pb2 as pb
from istio.xds.documents.backend import backend_policy
from istio.xds.documents.converter import CONVERTER
from istio.xds.documents.frontend import frontend_policy
from istio.xds.documents.plain import Json, given
from istio.xds.documents.traffic import conditional, traffic_policy


def policy(one: pb.Policy) -> Json:
    """An entry of `policies`, or `{frontend: {kind: payload}}`. Raises: ResourceError."""
    if one.inheritance != pb.Policy.DEFAULT:
        raise ResourceError("inheritance OVERRIDE is not supported")
    kind = one.WhichOneof("kind")
    if kind == "frontend":
        return {"frontend": _frontend(one)}
    phase = "route"
    if kind == "traffic":
        phase = _phase(one.traffic)
        made: tuple[str, Any] = traffic_policy(CONVERTER, one.traffic)
    elif kind == "conditional":
        phases = {_phase(entry.traffic) for entry in one.conditional.policies}
        if len(phases) > 1:
            raise ResourceError("the alternatives of a conditional policy run in different phases")
        phase = phases.pop() if phases else phase
        made = conditional(CONVERTER, one.conditional.policies)
    elif kind == "backend":
        made = backend_policy(CONVERTER, one.backend)
    else:
        raise ResourceError("a policy of no known kind")
    name = {"name": one.name.name or one.key, "namespace": one.name.namespace}
    return {
        "name": name,
        "target": _target(one.target),
        "phase": phase,
        "policy": {made[0]: made[1]},
    }


def _phase(spec: pb.TrafficPolicySpec) -> str:
    try:
        return str(pb.TrafficPolicySpec.PolicyPhase.Name(spec.phase)).lower()
    except ValueError as error:
        raise ResourceError(f"phase: {spec.phase} is not known here") from error


def _frontend(one: pb.Policy) -> Json:
    target = one.target
    of_gateway = target.gateway
    if target.WhichOneof("kind") != "gateway" or (
        of_gateway.HasField("listener") or of_gateway.HasField("port")
    ):
        raise ResourceError("a frontend policy is supported for a whole gateway only")
    kind, payload = frontend_policy(CONVERTER, one.frontend)
    return {kind: payload}


def _target(one: pb.PolicyTarget) -> Json:
    kind = one.WhichOneof("kind")
    if kind == "gateway":
        return {"gateway": _gateway(one.gateway)}
    if kind == "route":
        data = {"name": one.route.name, "namespace": one.route.namespace}
        return {"route": data | given(ruleName=one.route.route_rule, kind=one.route.kind)}
    if kind == "service":
        service = {"hostname": one.service.hostname, "namespace": one.service.namespace}
        return {"backend": {"service": service | given(port=one.service.port)}}
    if kind == "backend":
        if one.backend.HasField("section"):
            raise ResourceError("a policy for a section of a backend is not supported")
        # References and keys of backends are `namespace/name`.
        name = one.backend.name
        key = f"{one.backend.namespace}/{name}" if one.backend.namespace else name
        return {"backend": {"backend": {"name": key, "namespace": one.backend.namespace}}}
    raise ResourceError(f"a policy for a {kind} is not supported")


def _gateway(one: pb.PolicyTarget.GatewayTarget) -> Json:
    data: Json = {"gatewayName": one.name, "gatewayNamespace": one.namespace}
    if one.HasField("listener"):
        data["listenerName"] = one.listener
    if one.HasField("port"):
        data["port"] = one.port
    return data
