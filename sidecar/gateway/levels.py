"""Which policies hold where: inline ones and those of `policies[]`, from least to most specific.

Source: spec/config.md section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar, final

from sidecar.policies.merge import KEPT, merge, placed
from sidecar.policies.order import CONNECTION, HOOKLESS, REQUEST_ORDER

Payloads = dict[str, Any]
Data = Mapping[str, Any]
Key = TypeVar("Key", bound=tuple[object, ...])

BACKEND_TYPE: Final = frozenset(
    (
        *("backendTLS", "backendTunnel", "backendAuth", "a2a", "ai"),
        *("mcpAuthorization", "mcpGuardrails"),
    )
)
"""Kinds that may stand on a route and mean its backends (section 3.3)."""
_BACKEND_ONLY: Final = CONNECTION | BACKEND_TYPE
_BACKEND_KINDS: Final = frozenset(REQUEST_ORDER["backend"]) | HOOKLESS["backend"] | _BACKEND_ONLY


def on_route(payloads: Data) -> Payloads:
    """The part of a route's policies that acts on the route itself."""
    return {key: value for key, value in payloads.items() if key not in BACKEND_TYPE}


def on_backends(payloads: Data) -> Payloads:
    """The part of a route's policies that acts on its backends."""
    return {key: value for key, value in payloads.items() if key in BACKEND_TYPE}


def placed_route(key: str, route: Data) -> Data:
    """The route's data, its policies of `merge.KEPT` with the place they have their state under.

    A route that hangs on several listeners is one route to its author: `same` names the first.
    """
    policies = route["policies"]
    if not policies or KEPT.isdisjoint(policies):
        return route
    return {**route, "policies": placed(policies, f"route/{route.get('same') or key}")}


@final
class Levels:
    """The targeted policies of a snapshot, by what they target."""

    def __init__(self, policies: Iterable[Data]) -> None:
        self._gateway: dict[tuple[str, str, str, str, int], Payloads] = {}
        self._route: dict[tuple[str, str, str, str], Payloads] = {}
        self._backend: dict[tuple[str, str], Payloads] = {}
        self._service: dict[tuple[str, str, int], Payloads] = {}
        self._empty = True
        for policy in policies:
            self._empty = False
            self._add(policy)

    def _add(self, policy: Data) -> None:
        target, kind, payload = policy["target"], policy["kind"], policy["policy"]
        if "gateway" in target:
            of = target["gateway"]
            key = (
                policy.get("phase") or "route",
                of["gatewayNamespace"],
                of["gatewayName"],
                of.get("listenerName") or "",
                of.get("port") or 0,
            )
            place = "/".join(("gateway", *map(str, key)))
            _join(self._gateway, key, placed({kind: payload}, place))
        elif "route" in target:
            of = target["route"]
            name = (of["namespace"], of["name"], of.get("ruleName") or "", of.get("kind") or "")
            place = "/".join(("targeted", *name[:3], *filter(None, name[3:])))
            _join(self._route, name, placed({kind: payload}, place))
        elif target.get("backend", {}).get("service") is not None:
            of = target["backend"]["service"]
            where = (of["namespace"], of["hostname"], of.get("port") or 0)
            _join(self._service, where, {kind: payload})
        elif "backend" in target:
            of = target["backend"]["backend"]
            _join(self._backend, (of.get("namespace") or "", of["name"]), {kind: payload})

    def _of_listener(self, listener: Data, port: int | None, phase: str) -> list[Payloads]:
        namespace, name = listener["gateway_namespace"], listener["gateway_name"]
        keys = (
            (phase, namespace, name, "", 0),
            (phase, namespace, name, "", port or 0),
            (phase, namespace, name, listener["name"], 0),
        )
        # Port 0 is the gateway itself: do not count it twice.
        found = dict.fromkeys(keys)
        return [self._gateway[key] for key in found if key in self._gateway]

    def gateway_phase(self, listener: Data, port: int | None) -> list[Payloads]:
        """Of a listener before a route is chosen."""
        levels = [] if self._empty else self._of_listener(listener, port, "gateway")
        if not listener["policies"]:
            return levels
        names = (listener["gateway_namespace"], listener["gateway_name"], listener["name"])
        return [*levels, placed(listener["policies"], "/".join(("listener", *names)))]

    def route_phase(self, listener: Data, port: int | None, route: Data) -> list[Payloads]:
        """Of a route; `BACKEND_TYPE` kinds are left out."""
        if self._empty:
            return [on_route(route["policies"])] if route["policies"] else []
        levels = self._of_listener(listener, port, "route")
        levels += self._of_route(route)
        levels.append(route["policies"])
        return [
            {k: v for k, v in level.items() if k not in _BACKEND_ONLY} for level in levels if level
        ]

    def _of_route(self, route: Data) -> list[Payloads]:
        kind = route.get("kind") or ("TCPRoute" if route.get("tcp") else "HTTPRoute")
        rules = ("", route["rule_name"]) if route["rule_name"] else ("",)
        names = [
            (route["namespace"], route["name"], rule, one) for rule in rules for one in ("", kind)
        ]
        return [self._route[name] for name in names if name in self._route]

    def backend_phase(
        self, listener: Data | None, port: int | None, route: Data, backend: Data, own: Data
    ) -> list[Payloads]:
        """Of one backend of a route. `own`: the policies of the named backend it refers to."""
        levels: list[Payloads] = []
        if not self._empty:
            outer = self._of_listener(listener, port, "route") if listener is not None else []
            levels += [{k: v for k, v in level.items() if k in _BACKEND_ONLY} for level in outer]
            levels += self._of_target(backend)
            levels += [
                {k: v for k, v in level.items() if k in _BACKEND_ONLY}
                for level in self._of_route(route)
            ]
        levels.append(dict(own))
        if route["policies"]:
            levels.append(on_backends(route["policies"]))
        levels.append(backend["policies"])
        return [level for level in levels if level]

    def _of_target(self, backend: Data) -> list[Payloads]:
        target = backend["target"]
        if "service" in target:
            namespace, _, host = target["service"]["name"].partition("/")
            keys = ((namespace, host, 0), (namespace, host, target["service"]["port"]))
            found: list[Payloads] = [self._service[key] for key in keys if key in self._service]
        else:
            names = {backend["name"], target.get("ref", backend["name"])}
            found = [level for (_, name), level in self._backend.items() if name in names]
        return [{k: v for k, v in level.items() if k in _BACKEND_KINDS} for level in found]


def _join(levels: dict[Key, Payloads], key: Key, payloads: Payloads) -> None:
    """Beside what was given for the same target before: rules add up there as over levels."""
    levels[key] = merge((levels.get(key, {}), payloads))
