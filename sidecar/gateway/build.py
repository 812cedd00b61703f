"""One compilation of a snapshot into a Gateway, and the patches of it that follow.

Source: design section 2; spec/config.md sections 2 and 3.3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, final

from sidecar.errors import ConfigError
from sidecar.gateway.backends import Backends
from sidecar.gateway.binds import Binds, KeptTls
from sidecar.gateway.callouts import WorkerCallouts
from sidecar.gateway.discovered import Discovery, Touched, Users, place_of
from sidecar.gateway.fronts import Attached, Fronts, attached
from sidecar.gateway.levels import Levels
from sidecar.gateway.mesh import Front
from sidecar.gateway.on_demand import OnDemand, agent_counter
from sidecar.gateway.plan import Bind, Gateway, Listener, Route, TcpRoute
from sidecar.gateway.recorded import exchanges
from sidecar.gateway.routes import Routes
from sidecar.gateway.surroundings import Surroundings
from sidecar.net.dialer import Address
from sidecar.net.svid import further_domains
from sidecar.policies.base import Services
from sidecar.policies.kept import KeptKeys
from sidecar.routing.table import RouteEntry, RouteTable, TcpRouteTable

_log = logging.getLogger("sidecar.gateway.build")
Data = Mapping[str, Any]
_Sorted = dict[str, list[RouteEntry[Route]]]
"""Routes by the table they go to."""
_ROUTES_PER_SLICE: Final = 16
_ENTRIES_PER_SLICE: Final = 512
_BUFFER_BYTES: Final = 2 * 1024 * 1024
"""`maxBufferSize` unless configured."""


@final
class Build:
    """What is made of one snapshot, and what its patches need of that."""

    def __init__(
        self, around: Surroundings, data: Mapping[str, Data], tls: KeptTls, keys: KeptKeys
    ) -> None:
        """`tls`, `keys`: kept over compilations."""
        self._around = around
        self._keys = keys
        self._data = data
        self._users: Users | None = None
        self._attached: Attached | None = None
        frontend = {kind: item["policy"] for kind, item in self._kind("frontend").items()}
        config: Data = data.get("static/config", {}).get("config", {})
        self._limit = (frontend.get("http") or {}).get("maxBufferSize") or _BUFFER_BYTES
        callouts = WorkerCallouts(around.backlog)
        services = replace(around.services(config, self._limit), callouts=callouts, keys=keys)
        self._telemetry = telemetry = around.telemetry(config, frontend, services)
        self.strips_cookies = keeps_cookies(data.values())
        """Whether requests lose the cookies of sessions."""
        services = replace(
            services,
            a2a_counter=agent_counter(telemetry.requests.registry),
            strips_cookies=self.strips_cookies,
        )
        levels = Levels(self._kind("policy").values())
        self._begin_round()
        self._discovery = Discovery(
            self._kind("service"), self._kind("workload"), place_of(os.environ, config)
        )
        backends = self._make_backends(config, levels, services)
        callouts.attach(backends, levels, telemetry.upstreams, telemetry.tracer, services.clock)
        self._listeners = listeners = self._kind("listener")
        ports = {key: bind["port"] for key, bind in self._kind("bind").items()}
        requests = telemetry.requests
        self._routes = Routes(
            data, listeners, ports, levels, backends, callouts, services, requests, around.mesh
        )
        around.svids.further = further_domains(config)
        self._binds = Binds(
            listeners, ports, config, frontend, levels, services, requests, tls, around.svids
        )

    def _make_backends(self, config: Data, levels: Levels, services: Services) -> Backends:
        around = self._around
        made = Backends(
            around.pools,
            services,
            around.random,
            config,
            self._kind("backend"),
            self._discovery,
            around.endpoints,
            around.admin(config),
            around.credentials,
            around.svids,
        )
        prices = self._data.get("catalog/prices", {})
        OnDemand(
            around, made, levels, services, self._telemetry, config, prices, self._limit
        ).attach()
        return made

    def _begin_round(self) -> None:
        around = self._around
        around.pools.begin_round()
        around.endpoints.begin_round()
        around.credentials.begin_round()
        self._keys.begin_round()
        if around.mcp is not None:
            around.mcp.begin_round()

    def _end_round(self) -> None:
        self._around.pools.end_round()
        self._around.endpoints.end_round(self._discovery.endpoints)
        self._around.credentials.end_round()
        self._keys.end_round()

    def _kind(self, kind: str) -> dict[str, Data]:
        prefix = kind + "/"
        return {k[len(prefix) :]: v for k, v in self._data.items() if k.startswith(prefix)}

    # --- whole ----------------------------------------------------------------------------

    def gateway(self, generation: int) -> Generator[None, None, Gateway]:
        """Everything."""
        tables, groups = yield from self._entries(self._kind("route"))
        tcp: dict[str, list[tuple[str, list[str], TcpRoute]]] = {}
        for key, data in self._kind("tcproute").items():
            route = self._routes.tcp(key, data)
            tcp.setdefault(data["listener"], []).append((key, data["hostnames"], route))
        yield
        made: dict[str, Listener] = {}
        for key, data in self._listeners.items():
            table = yield from _filled(tables.get(key, []))
            made[key] = self._binds.listener(key, data, table, TcpRouteTable(tcp.get(key, [])))
            yield
        binds = {key: self._binds.bind(key, data, made) for key, data in self._kind("bind").items()}
        yield
        self._end_round()
        return self._assembled(generation, binds, {k: RouteTable(v) for k, v in groups.items()})

    def _entries(
        self, routes: Mapping[str, Data]
    ) -> Generator[None, None, tuple[_Sorted, _Sorted]]:
        """Routes for the tables of listeners, and for those of groups."""
        tables: _Sorted = {}
        groups: _Sorted = {}
        for count, (key, data) in enumerate(routes.items()):
            where = groups if data["group"] is not None else tables
            place = data["group"] or data["listener"]
            where.setdefault(place, []).append(self._routes.entry(key, data))
            if count % _ROUTES_PER_SLICE == 0:
                yield
        return tables, groups

    def _assembled(
        self, generation: int, binds: Mapping[str, Bind], groups: Mapping[str, RouteTable[Route]]
    ) -> Gateway:
        telemetry = self._telemetry
        return Gateway(
            generation,
            binds,
            groups,
            self._binds.unrouted("", "", ""),
            telemetry.requests,
            telemetry.upstreams.call("Primary", "Http"),
            telemetry.upstreams.call("Primary", "Llm"),
            self._limit,
            telemetry.observer,
            telemetry.access_log,
            telemetry.tracer,
            self._routes.delegated,
            self._front(binds),
            exchanges(telemetry.recorder),
            telemetry.recorder,
        )

    def _front(self, binds: Mapping[str, Bind]) -> Callable[[Front], Bind | None]:
        made: list[Fronts] = []

        def make(front: Front) -> Bind | None:
            # Most gateways have none, and looking through all routes takes its time.
            if not made:
                mesh = self._around.mesh()
                is_judged = mesh is not None and mesh.judges_requests
                if self._attached is None:
                    self._attached = attached(self._kind("route"), self._kind("tcproute"))
                made.append(Fronts(self._discovery, self._attached, self._routes, is_judged))
            try:
                return made[0].make(front, binds)
            except ConfigError as error:
                _log.error("%s cannot be served: %s", front, error)
                return None

        return make

    # --- patched --------------------------------------------------------------------------

    def changed(
        self,
        gateway: Gateway,
        generation: int,
        changed: Mapping[str, Data],
        removed: tuple[str, ...],
        data: Mapping[str, Data],
    ) -> Generator[None, None, Gateway | None]:
        """The gateway after some routes, services, workloads or rules changed; None when all has to
        be made anew. Raises ConfigError; then this must not be used any more."""
        routes = {key: one for key, one in changed.items() if key.startswith("route/")}
        gone = tuple(key for key in removed if key.startswith("route/"))
        found = {key: one for key, one in changed.items() if key not in routes}
        lost = [key for key in removed if key not in gone]
        touched = Touched()
        before: set[Address] = set()
        if found or lost:
            if self._users is None:
                self._users = Users(self._data)
                yield
            before = self._discovery.addresses((*found, *lost))
            touched = self._discovery.change(found, lost)
            users = self._users.of(touched.services) - routes.keys() - set(gone)
            if any(not key.startswith("route/") for key in users):
                return None
            routes |= {key: data[key] for key in users}
        made = yield from self.patched(gateway, generation, routes, gone, data)
        if found or lost:
            around = self._around
            around.endpoints.end_some(touched.services, self._discovery.endpoints)
            around.pools.end_some(before - self._discovery.addresses(found))
        if not (routes or gone or touched.has_rules):
            made.keep_fronts(gateway, touched.services, touched.workloads)
        return made

    def patched(
        self,
        gateway: Gateway,
        generation: int,
        changed: Mapping[str, Data],
        removed: tuple[str, ...],
        data: Mapping[str, Data],
    ) -> Generator[None, None, Gateway]:
        """The gateway with some routes added, replaced or gone. Raises ConfigError."""
        named = {key.removeprefix("route/"): item for key, item in changed.items()}
        puts, group_puts = yield from self._entries(named)
        gone = [key.removeprefix("route/") for key in removed]
        old = self._data
        self._data = self._routes.data = data
        if changed or gone:
            self._attached = None
        if self._users is not None:
            for key in removed:
                self._users.drop(key)
            for key, item in changed.items():
                self._users.put(key, item)
        leaving: dict[str, list[str]] = {}
        for key in gone:
            was = old[f"route/{key}"]
            leaving.setdefault(was["group"] or was["listener"], []).append(key)
        # A route may also have moved between listeners: its key names the listener, so it did not.
        binds = {
            key: self._binds.patched(bind, puts, leaving) for key, bind in gateway.binds.items()
        }
        yield
        groups = dict(gateway.groups)
        for name in {*group_puts, *leaving} & {*groups, *group_puts}:
            table = groups.get(name) or RouteTable()
            groups[name] = table.replaced(group_puts.get(name, ()), leaving.get(name, ()))
        return self._assembled(generation, binds, groups)


def _filled(entries: list[RouteEntry[Route]]) -> Generator[None, None, RouteTable[Route]]:
    """A table made in slices: the first in one go, for most have few; then copies that grow."""
    table: RouteTable[Route] = RouteTable(entries[:_ENTRIES_PER_SLICE])
    for start in range(_ENTRIES_PER_SLICE, len(entries), _ENTRIES_PER_SLICE):
        yield
        table = table.replaced(entries[start : start + _ENTRIES_PER_SLICE])
    return table


def keeps_cookies(resources: Iterable[Data]) -> bool:
    """Whether a policy keeps sessions in cookies."""
    return any(
        "oidc" in (one.get("policies") or ()) or one.get("kind") == "oidc" for one in resources
    )
