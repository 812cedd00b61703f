"""Whether what a targeted policy names exists: a policy that acts on nothing is worth a warning.

It is no problem, because the reference accepts it; but a mistyped target of an authorization
policy leaves open what the operator believes closed.

Source: spec/config.md sections 0.7 and 1.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.config.attach import GATEWAY
from sidecar.config.run import Node, Run, items
from sidecar.config.snapshot import Json

_ADDED_UP: Final = frozenset(("authorization", "mcpAuthorization", "ai"))
"""Kinds of which several hold for one target (`policies.merge`)."""


def check_targets(data: Node, run: Run) -> None:
    """Warn of each entry of `policies` whose target is not there. Runs after all else was made."""
    for path, entry in items(data, "policies"):
        for kind, (exists, sections) in _EXISTS.items():
            if run.known.has_lost(*sections):
                continue
            target = entry["target"].get(kind)
            if isinstance(target, dict) and not exists(target, run):
                run.warn(f"{path}.target.{kind}", "names nothing here, so the policy has no effect")
    _check_rivals(run)


def _check_rivals(run: Run) -> None:
    """Warn where a policy of the same kind, phase and target stands before."""
    holding: dict[str, str] = {}
    for key, resource in run.resources.items():
        kind = resource.data.get("kind")
        if resource.kind != "policy" or kind in _ADDED_UP:
            continue
        where = repr((kind, resource.data.get("phase"), resource.data["target"]))
        winner = path = run.places[key]
        if where in holding:
            # The last one holds, but of `buffer` the first.
            loser, winner = holding[where], path
            if kind == "buffer":
                loser, winner = winner, loser
            run.warn(loser, f"has no effect: {winner} is a {kind} for the same target")
        holding[where] = winner


def _resources(run: Run, *kinds: str) -> list[Json]:
    return [resource.data for resource in run.resources.values() if resource.kind in kinds]


def _has_gateway(target: Node, run: Run) -> bool:
    if (target["gatewayName"], target["gatewayNamespace"]) != (GATEWAY, GATEWAY):
        return False
    if target.get("listenerName") is not None:
        return any(one["name"] == target["listenerName"] for one in _resources(run, "listener"))
    if target.get("port") is not None:
        return any(bind["port"] == target["port"] for bind in _resources(run, "bind"))
    return True


def _has_route(target: Node, run: Run) -> bool:
    rule = target.get("ruleName")
    return any(
        (route["name"], route["namespace"]) == (target["name"], target["namespace"])
        and rule in (None, route["rule_name"])
        for route in _resources(run, "route", "tcproute")
    )


def _has_backend(target: Node, run: Run) -> bool:
    service = target.get("service")
    if service is not None:
        return run.known.has("service", f"{service['namespace']}/{service['hostname']}")
    name: str = target["backend"]["name"]
    if name.startswith("/") and "/backend" in name:
        routes: list[Any] = _resources(run, "route", "tcproute")
        if any(backend["name"] == name for route in routes for backend in route["backends"]):
            return True
    return run.known.has("backend", name.removeprefix("/"))


_LISTENERS = ("binds", "gateways")
_ROUTES = (*_LISTENERS, "routes", "tcpRoutes", "routeGroups")
_EXISTS: dict[str, tuple[Callable[[Node, Run], bool], tuple[str, ...]]] = {
    "gateway": (_has_gateway, _LISTENERS),
    "route": (_has_route, _ROUTES),
    "backend": (_has_backend, (*_ROUTES, "backends", "services")),
}
"""Kind of target → whether it exists, and the sections it may be defined in."""
