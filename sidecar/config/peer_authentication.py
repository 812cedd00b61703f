"""Istio's PeerAuthentication becomes `authorization` resources that deny who proved no identity.

Source: Istio's reference of PeerAuthentication; spec istio section 4.4.

The most specific one alone counts: of the workload, else of its name space, else of the mesh. So
each becomes a policy of the group `peerAuthentication`, of which a decision uses one; PERMISSIVE
becomes one that denies nothing and stands in the way of those less specific.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from sidecar.config.authorization_policy import Problem, labels_of
from sidecar.config.run import child
from sidecar.config.snapshot import Json

GROUP: Final = "peerAuthentication"
_MODES: Final = ("UNSET", "PERMISSIVE", "STRICT")
_NOBODY: Final[Json] = {"notPrincipals": [{"presence": {}}]}


@final
@dataclass(frozen=True, slots=True)
class PeerAuthentication:
    """One as it was read. `mode`: UNSET takes that of the less specific."""

    name: str
    namespace: str
    mode: str
    ports: Mapping[int, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def peer_authentication(
    meta: Mapping[str, Any], spec: Mapping[str, Any], problem: Problem
) -> PeerAuthentication:
    """Read one."""
    for key in spec.keys() - {"selector", "mtls", "portLevelMtls"}:
        problem(f"spec.{key}", f"unknown field `{key}`")
    labels = labels_of(spec, problem)
    given = spec.get("portLevelMtls") or {}
    ports: dict[int, str] = {}
    if given and not labels:
        problem("spec.portLevelMtls", "needs a selector")
    for port, mtls in given.items() if isinstance(given, dict) else ():
        where = child("spec.portLevelMtls", str(port))
        if not str(port).isdigit() or not 0 < int(str(port)[:6]) < 65536:
            problem(where, "is no port")
            continue
        ports[int(port)] = _mode(mtls, where, problem)
    if not isinstance(given, dict):
        problem("spec.portLevelMtls", "expected a map of ports")
    mode = _mode(spec.get("mtls"), "spec.mtls", problem)
    return PeerAuthentication(meta["name"], meta["namespace"], mode, ports, labels)


def _mode(mtls: Any, path: str, problem: Problem) -> str:
    if mtls is None:
        return "UNSET"
    mode = (mtls.get("mode") or "UNSET") if isinstance(mtls, dict) else None
    if not isinstance(mtls, dict) or not mtls.keys() <= {"mode"} or mode not in _MODES:
        reason = "DISABLE cannot be kept: PERMISSIVE lets plaintext in" if mode == "DISABLE" else ""
        problem(path, reason or f"expected mode: {', '.join(_MODES)}")
        return "STRICT"
    return str(mode)


def converted(all_of: Sequence[PeerAuthentication], root_namespace: str) -> list[Json]:
    """The resources' data. UNSET is filled in from what is less specific."""
    wide = {one.namespace: one.mode for one in all_of if not one.labels}
    made = []
    for one in all_of:
        parents = [wide.get(root_namespace, "UNSET")]
        if one.labels:
            parents.insert(0, wide.get(one.namespace, "UNSET"))
        if one.mode == "UNSET" and not one.ports:
            continue
        mode = next((mode for mode in (one.mode, *parents) if mode != "UNSET"), "PERMISSIVE")
        made.append(_resource(one, mode, root_namespace))
    return made


def _resource(one: PeerAuthentication, mode: str, root_namespace: str) -> Json:
    is_root = one.namespace == root_namespace
    made: Json = {
        "name": f"converted_peer_authentication_{one.name}",
        "namespace": one.namespace,
        "scope": "GLOBAL" if is_root else "NAMESPACE",
        "action": "DENY",
        "dryRun": False,
        "group": GROUP,
        "rules": _rules(mode, one.ports),
    }
    if one.labels:
        made |= {"scope": "WORKLOAD_SELECTOR", "selector": dict(one.labels)}
        if is_root:
            made["anyNamespace"] = True
    return made


def _rules(mode: str, ports: Mapping[int, str]) -> list[list[list[Json]]]:
    is_strict = mode == "STRICT"
    others = sorted(port for port, of in ports.items() if of not in ("UNSET", mode))
    if is_strict:
        # Plaintext is denied, but not on the ports that permit it.
        return [[[_NOBODY], [{"notDestinationPorts": others}]]] if others else [[[_NOBODY]]]
    return [[[{"destinationPorts": others, **_NOBODY}]]] if others else []
