"""Turns the resources of a snapshot into a Gateway, in slices between which the event loop runs.

Source: design section 2; spec/config.md sections 2 and 3.3.

When nothing but routes changed, only those are compiled and put into copies of the tables that
hold them; everything else is shared with the Gateway that runs. Any other change compiles all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError
from sidecar.gateway.a2a_facts import A2aMetrics
from sidecar.gateway.backends import (
    AgentBackends,
    Backends,
    ModelBackends,
    ServerBackends,
)
from sidecar.gateway.callouts import Backlog, WorkerCallouts
from sidecar.gateway.discovered import KEYS as DISCOVERED
from sidecar.gateway.discovered import Discovery, Touched, Users, place_of
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.frontdoor import uses_granian
from sidecar.gateway.fronts import Attached, Fronts, attached
from sidecar.gateway.levels import Levels, on_route, placed_route
from sidecar.gateway.mcp_worker import McpWorker
from sidecar.gateway.mesh import Front, Judged, WorkerMesh
from sidecar.gateway.plan import (
    NOTHING_AFTER,
    After,
    Backend,
    Bind,
    Examine,
    Gateway,
    Listener,
    Mirror,
    Observer,
    Route,
    TcpRoute,
    Unrouted,
    cumulated,
)
from sidecar.gateway.upstream import Pools
from sidecar.llm.credentials.kept import KeptCredentials
from sidecar.net.dialer import Address
from sidecar.net.h2_endpoint import limits_of
from sidecar.net.listener import CARRYING, BindPlan
from sidecar.net.settings import HttpSettings
from sidecar.net.tls import ServerTls, TlsDefaults, TlsListener
from sidecar.policies.base import Services
from sidecar.policies.chain import EMPTY, Chain
from sidecar.policies.merge import merge
from sidecar.policies.network_authorization import NetworkAuthorization
from sidecar.policies.network_ext_authz import NetworkExtAuthz
from sidecar.policies.order import build, make, response_hooks
from sidecar.policies.remote_keys import KeptKeys
from sidecar.routing.table import (
    ListenerEntry,
    ListenerTable,
    RouteEntry,
    RouteTable,
    TcpRouteTable,
)
from sidecar.telemetry.access import AccessLog
from sidecar.telemetry.genai import GenAiMetrics
from sidecar.telemetry.metrics import ListenerMetrics, RequestMetrics, UpstreamMetrics
from sidecar.telemetry.trace import Tracer

_log = logging.getLogger("sidecar.gateway.compile")
Data = Mapping[str, Any]
_ROUTES_PER_SLICE: Final = 16
_ENTRIES_PER_SLICE: Final = 512
_PATCHED: Final = ("route/", *DISCOVERED)
"""Beginnings of keys a change of which leaves most as it is."""
_UNCOMPILED: Final = ("runtime/", "identity/")
_PROXY_VERSIONS: Final = {"v1": (1,), "v2": (2,), "all": (1, 2)}


@final
@dataclass(frozen=True, slots=True)
class Telemetry:
    """What compiled objects write to; made once per configuration of it."""

    requests: RequestMetrics
    upstreams: UpstreamMetrics
    access_log: AccessLog | None
    tracer: Tracer | None
    observer: Observer | None


@final
@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the worker lends to compilation."""

    pools: Pools
    random: Callable[[], float]
    services: Callable[[Data, int], Services]
    """Makes the policies' services from `config` and the buffer bound, per full compilation."""
    telemetry: Callable[[Data, Data, Services], Telemetry]
    """Makes telemetry from `config`, the frontend policies and the services."""
    admin: Callable[[Data], Address | None]
    backlog: Backlog = field(default_factory=Backlog)
    """The worker's calls in the background, over all compilations."""
    endpoints: Endpoints = field(default_factory=Endpoints)
    """Those it balances over, over all compilations."""
    credentials: KeptCredentials = field(default_factory=KeptCredentials)
    """Those of model providers, over all compilations."""
    mcp: McpWorker | None = None
    """What MCP keeps over all compilations; None where there is no MCP."""
    mesh: Callable[[], WorkerMesh | None] = lambda: None
    """That of the worker, once it has one."""


@final
class Compiler:
    """Keeps the decoded resources of the running snapshot and compiles what changed."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._keys = KeptKeys(surroundings.backlog.add)
        self._data: dict[str, Data] = {}
        self._tls: dict[str, tuple[object, ServerTls]] = {}
        self._build: _Build | None = None
        self._gateway: Gateway | None = None

    @property
    def resources(self) -> Mapping[str, Data]:
        """Those of the running snapshot."""
        return self._data

    def compile(
        self, generation: int, changed: Mapping[str, Data], removed: Iterable[str]
    ) -> Generator[None, None, Gateway]:
        """A generator that returns the Gateway. Raises ConfigError; then nothing changed."""
        gone = tuple(removed)
        data = self._data.copy()
        for key in gone:
            data.pop(key, None)
        data.update(changed)
        yield
        # Nothing is compiled of these: the certificate is the mesh's own.
        gone = tuple(key for key in gone if not key.startswith(_UNCOMPILED))
        changed = {key: one for key, one in changed.items() if not key.startswith(_UNCOMPILED)}
        is_small = all(key.startswith(_PATCHED) for key in (*changed, *gone))
        patched: Gateway | None = None
        build = self._build
        if (
            self._gateway is not None
            and build is not None
            and is_small
            and (build.strips_cookies or not _keeps_cookies(changed.values()))
        ):
            # If this fails, what was changed already is made anew with the next configuration.
            self._build = None
            patched = yield from build.changed(self._gateway, generation, changed, gone, data)
            self._build = build
        if patched is not None:
            gateway = patched
        else:
            made = _Build(self._around, data, self._tls, self._keys)
            gateway = yield from made.gateway(generation)
            self._build = made
        self._data = data
        self._gateway = gateway
        return gateway

    def close(self) -> None:
        """Fetch nothing more for what was compiled."""
        self._keys.close()


@final
class _Build:
    """One full compilation, and the patches of it that follow."""

    def __init__(
        self,
        around: Surroundings,
        data: Mapping[str, Data],
        tls: dict[str, tuple[object, ServerTls]],
        keys: KeptKeys,
    ) -> None:
        self._around = around
        self._keys = keys
        self._data = data
        self._tls = tls
        frontend = self._kind("frontend")
        self._frontend = {kind: item["policy"] for kind, item in frontend.items()}
        config = self._kind("static").get("config", {}).get("config", {})
        self._config: Data = config
        http = self._frontend.get("http") or {}
        limit = http.get("maxBufferSize") or 2 * 1024 * 1024
        self._callouts = WorkerCallouts(around.backlog)
        self._services = replace(around.services(config, limit), callouts=self._callouts, keys=keys)
        self._limit = limit
        self._telemetry = around.telemetry(config, self._frontend, self._services)
        counts = A2aMetrics(self._telemetry.requests.registry)
        self.strips_cookies = _keeps_cookies(data.values())
        self._services = replace(
            self._services, a2a_ended=counts.count, strips_cookies=self.strips_cookies
        )
        self._asked: NetworkExtAuthz | None = None
        self._levels = Levels(self._kind("policy").values())
        self._listeners = self._kind("listener")
        self._ports = {key: bind["port"] for key, bind in self._kind("bind").items()}
        self._users: Users | None = None
        self._attached: Attached | None = None
        around.pools.begin_round()
        around.endpoints.begin_round()
        around.credentials.begin_round()
        keys.begin_round()
        self._discovery = Discovery(
            self._kind("service"), self._kind("workload"), place_of(os.environ, config)
        )
        self._backends = Backends(
            around.pools,
            self._services,
            around.random,
            config,
            self._kind("backend"),
            self._discovery,
            around.endpoints,
            around.admin(config),
            around.credentials,
        )
        self._backends.make_models = lambda: self._models(limit)
        self._backends.make_servers = self._servers
        self._backends.make_agents = lambda: self._agents(limit)
        if around.mcp is not None:
            around.mcp.begin_round()
        self._callouts.attach(
            self._backends,
            self._levels,
            self._telemetry.upstreams,
            self._telemetry.tracer,
            self._services.clock,
        )

    def _models(self, limit: int) -> ModelBackends:
        """What makes backends of models. `limit`: of bodies, in bytes."""
        # Here, since a gateway without models need not load a tenth of a second of them.
        from sidecar.gateway.llm_attempts import Shared
        from sidecar.gateway.llm_backends import LlmBackends
        from sidecar.gateway.llm_prices import CatalogPrices

        around, services = self._around, self._services
        sources = self._kind("catalog").get("prices", {}).get("sources", ())
        return LlmBackends(
            self._backends,
            services,
            around.random,
            around.endpoints,
            Shared(
                services.clock,
                GenAiMetrics(self._telemetry.requests.registry),
                CatalogPrices(sources, services.clock),
                limit,
                services.cel,
            ),
            around.credentials,
        )

    def _servers(self) -> ServerBackends:
        """What makes `mcp` backends."""
        # Here, for the same reason as models.
        from sidecar.gateway.mcp_backends import McpBackends
        from sidecar.gateway.mcp_facts import McpMetrics

        worker = self._around.mcp
        if worker is None:
            raise ConfigError("mcp", "there are no sessions where this is compiled")
        telemetry = self._telemetry
        return McpBackends(
            self._backends,
            self._levels,
            self._services,
            worker.serving(self._config),
            McpMetrics(telemetry.requests.registry),
            telemetry.upstreams.call("Primary", "Mcp"),
            telemetry.tracer,
        )

    def _agents(self, limit: int) -> AgentBackends:
        """What makes backends with the policy `a2a`. `limit`: of bodies, in bytes."""
        from sidecar.gateway.a2a_backends import A2aBackends

        return A2aBackends(limit)

    def _kind(self, kind: str) -> dict[str, Data]:
        prefix = kind + "/"
        return {k[len(prefix) :]: v for k, v in self._data.items() if k.startswith(prefix)}

    # --- whole and patched ----------------------------------------------------------------

    def gateway(self, generation: int) -> Generator[None, None, Gateway]:
        """Everything."""
        tables: dict[str, list[RouteEntry[Route]]] = {}
        groups: dict[str, list[RouteEntry[Route]]] = {}
        for count, (key, data) in enumerate(self._kind("route").items()):
            entry = self._route_entry(key, data)
            where = groups if data["group"] is not None else tables
            where.setdefault(data["group"] or data["listener"], []).append(entry)
            if count % _ROUTES_PER_SLICE == 0:
                yield
        tcp: dict[str, list[tuple[str, list[str], TcpRoute]]] = {}
        for key, data in self._kind("tcproute").items():
            route = self._tcp_route(key, data)
            tcp.setdefault(data["listener"], []).append((key, data["hostnames"], route))
        yield
        made: dict[str, Listener] = {}
        for key, data in self._listeners.items():
            table = yield from _filled(tables.get(key, []))
            made[key] = self._listener(key, data, table, TcpRouteTable(tcp.get(key, [])))
            yield
        binds = {key: self._bind(key, data, made) for key, data in self._kind("bind").items()}
        yield
        self._around.pools.end_round()
        self._around.endpoints.end_round(self._discovery.endpoints)
        self._around.credentials.end_round()
        self._keys.end_round()
        return self._assembled(generation, binds, {k: RouteTable(v) for k, v in groups.items()})

    def _assembled(
        self, generation: int, binds: Mapping[str, Bind], groups: Mapping[str, RouteTable[Route]]
    ) -> Gateway:
        telemetry = self._telemetry
        return Gateway(
            generation,
            binds,
            groups,
            self._unrouted("", "", ""),
            telemetry.requests,
            telemetry.upstreams.call("Primary", "Http"),
            telemetry.upstreams.call("Primary", "Llm"),
            self._limit,
            telemetry.observer,
            telemetry.access_log,
            telemetry.tracer,
            self._delegated,
            self._front(binds),
        )

    # --- fronts ---------------------------------------------------------------------------

    def _front(self, binds: Mapping[str, Bind]) -> Callable[[Front], Bind | None]:
        made: list[Fronts] = []

        def make(front: Front) -> Bind | None:
            # Most gateways have none, and looking through all routes takes its time.
            if not made:
                mesh = self._around.mesh()
                is_judged = mesh is not None and mesh.judges_requests
                if self._attached is None:
                    self._attached = attached(self._kind("route"), self._kind("tcproute"))
                made.append(Fronts(self._discovery, self._attached, self, is_judged))
            try:
                return made[0].make(front, binds)
            except ConfigError as error:
                _log.error("%s cannot be served: %s", front, error)
                return None

        return make

    def front_route(
        self, key: str, data: Data | None, listener: str, front: Front
    ) -> RouteEntry[Route]:
        """See fronts.Maker."""
        data = self._data[f"route/{key}"] if data is None else data
        route = self._route(key, data, self._listeners[listener], front)
        return RouteEntry.compiled(key, data, route)

    def front_tcp_route(self, key: str, data: Data, listener: str) -> TcpRoute:
        """See fronts.Maker."""
        return self._tcp_route(key, {**data, "listener": listener})

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
        puts: dict[str, list[RouteEntry[Route]]] = {}
        group_puts: dict[str, list[RouteEntry[Route]]] = {}
        for count, (key, item) in enumerate(changed.items()):
            entry = self._route_entry(key.removeprefix("route/"), item)
            where = group_puts if item["group"] is not None else puts
            where.setdefault(item["group"] or item["listener"], []).append(entry)
            if count % _ROUTES_PER_SLICE == 0:
                yield
        gone = [key.removeprefix("route/") for key in removed]
        old = self._data
        self._data = data
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
            key: self._patched_bind(bind, puts, leaving) for key, bind in gateway.binds.items()
        }
        yield
        groups = dict(gateway.groups)
        for name in {*group_puts, *leaving} & {*groups, *group_puts}:
            table = groups.get(name) or RouteTable()
            groups[name] = table.replaced(group_puts.get(name, ()), leaving.get(name, ()))
        return self._assembled(generation, binds, groups)

    def _patched_bind(
        self,
        bind: Bind,
        puts: Mapping[str, list[RouteEntry[Route]]],
        leaving: Mapping[str, list[str]],
    ) -> Bind:
        touched = {key for key in bind.listeners if key in puts or key in leaving}
        if not touched:
            return bind
        listeners = {
            key: _with_routes(one, one.routes.replaced(puts.get(key, ()), leaving.get(key, ())))
            if key in touched
            else one
            for key, one in bind.listeners.items()
        }
        table = ListenerTable(
            ListenerEntry(key, self._listeners[key]["hostname"], one)
            for key, one in listeners.items()
        )
        return Bind(bind.key, bind.plan, bind.tls, table, listeners, bind.admit, bind.examine)

    # --- routes ---------------------------------------------------------------------------

    def _route_entry(self, key: str, data: Data) -> RouteEntry[Route]:
        listener = self._listeners.get(data["listener"] or "")
        try:
            return RouteEntry.compiled(key, data, self._route(key, data, listener))
        except ConfigError as error:
            raise ConfigError(f"route/{key}.{error.path}".rstrip("."), error.message) from error

    def _route(
        self, key: str, data: Data, listener: Data | None, front: Front | None = None
    ) -> Route:
        port = self._ports.get(listener["bind"]) if listener is not None else None
        data = placed_route(key, data)
        if listener is not None:
            merged = merge(self._levels.route_phase(listener, port, data))
        else:
            merged = merge([on_route(data["policies"])]) if data["policies"] else {}
        return self._made_route(key, data, listener, port, merged, front)

    def _made_route(
        self,
        key: str,
        data: Data,
        listener: Data | None,
        port: int | None,
        merged: dict[str, Any],
        front: Front | None = None,
    ) -> Route:
        made: list[Backend] = []
        weights: list[int] = []
        for reference in data["backends"]:
            _, own = self._backends.target_of(reference["target"])
            levels = self._levels.backend_phase(listener, port, data, reference, own)
            made.append(self._backends.make(reference, merge(levels) if levels else {}))
            weights.append(reference["weight"])
        if any(backend.protocol == "a2a" for backend in made):
            # Wherever the policy is set: what is called must be known before rules ask for it.
            merged = {**merged, "a2a": {}}
        mesh = None if front is None else self._around.mesh()
        judged = None
        if front is not None and mesh is not None and mesh.judges_requests:
            judged = Judged(front, mesh.judge)
        chain = build("route", merged, self._services, judged)
        backends = [_with_after(one, self._after(EMPTY, chain, one.chain)) for one in made]
        bind, gateway, name = _names(listener)
        return Route(
            key=key,
            bind=bind,
            gateway=gateway,
            listener=name,
            route=f"{data['namespace']}/{data['name']}",
            route_rule=data["rule_name"] or "",
            backend="",  # is that of the backend chosen: a request refused before has none
            protocol=_protocol(backends),
            chain=chain,
            after=self._after(EMPTY, chain, EMPTY),
            backends=tuple(backends),
            weights=cumulated(weights),
            mirrors=self._mirrors(chain, data),
            make_metrics=self._telemetry.requests.route,
            front=front,
        )

    def _after(self, gateway: Chain, route: Chain, backend: Chain) -> After:
        hooks = response_hooks(gateway, route, backend)
        if not hooks:
            return NOTHING_AFTER
        needs = any(chain.needs_response_body for chain in (gateway, route, backend))
        return After(hooks, needs)

    def _mirrors(self, chain: Chain, data: Data) -> tuple[Mirror, ...]:
        if chain.mirror is None:
            return ()
        reference = chain.mirror.backend.model_dump(exclude_none=True)
        return (Mirror(chain.mirror, self._callouts.shadow(reference)),)

    def _delegated(self, parent: Route, child: Route) -> Route:
        """A group's route beneath the route that led to it: child policies over the parent's."""
        data = self._data[f"route/{child.key}"]
        above = self._data[f"route/{parent.key.rpartition('|')[2]}"]
        listener = self._listeners.get(above["listener"] or "")
        port = self._ports.get(listener["bind"]) if listener is not None else None
        levels = self._delegation_levels(parent, listener, port)
        levels.append(on_route(placed_route(child.key, data)["policies"]))
        key = f"{parent.key}|{child.key}"
        made = self._made_route(key, data, listener, port, merge(levels), parent.front)
        made.bind, made.gateway, made.listener = parent.bind, parent.gateway, parent.listener
        return made

    def _delegation_levels(
        self, parent: Route, listener: Data | None, port: int | None
    ) -> list[dict[str, Any]]:
        levels: list[dict[str, Any]] = []
        for key in parent.key.split("|"):
            data = placed_route(key, self._data[f"route/{key}"])
            own = self._listeners.get(data["listener"] or "")
            if own is not None:
                levels += self._levels.route_phase(own, self._ports.get(own["bind"]), data)
            else:
                levels.append(on_route(data["policies"]))
        return levels

    def _tcp_route(self, key: str, data: Data) -> TcpRoute:
        listener = self._listeners.get(data["listener"] or "")
        backends: list[Backend] = []
        for reference in data["backends"]:
            _, own = self._backends.target_of(reference["target"])
            levels = self._levels.backend_phase(listener, None, data, reference, own)
            backends.append(self._backends.make(reference, merge(levels) if levels else {}))
        bind, gateway, name = _names(listener)
        return TcpRoute(
            bind,
            gateway,
            name,
            f"{data['namespace']}/{data['name']}",
            data["rule_name"] or "",
            backends[0].label if len(backends) == 1 else "",
            tuple(backends),
            cumulated([item["weight"] for item in data["backends"]]),
        )

    # --- listeners and binds --------------------------------------------------------------

    def _unrouted(self, bind: str, gateway: str, listener: str) -> Unrouted:
        return Unrouted(bind, gateway, listener, self._telemetry.requests.route)

    def _listener(
        self, key: str, data: Data, routes: RouteTable[Route], tcp: TcpRouteTable[TcpRoute]
    ) -> Listener:
        port = self._ports.get(data["bind"])
        merged = merge(self._levels.gateway_phase(data, port))
        try:
            chain = build("gateway", merged, self._services)
        except ConfigError as error:
            raise ConfigError(f"listener/{key}.{error.path}", error.message) from error
        bind, gateway, name = _names(data)
        protocol = data["protocol"].lower()
        return Listener(
            key,
            name,
            gateway,
            data["protocol"],
            chain,
            self._after(chain, EMPTY, EMPTY),
            routes,
            tcp,
            self._unrouted(bind, gateway, name),
            ListenerMetrics(self._telemetry.requests.registry, bind, gateway, name, protocol),
        )

    def _bind(self, key: str, data: Data, listeners: Mapping[str, Listener]) -> Bind:
        own = {name: listeners[name] for name in data["listeners"]}
        table = ListenerTable(
            ListenerEntry(name, self._listeners[name]["hostname"], one) for name, one in own.items()
        )
        plan = self._plan(key, data)
        policy = self._frontend.get("networkAuthorization")
        admit = None
        if policy is not None:
            gate = make("networkAuthorization", policy, self._services)
            assert isinstance(gate, NetworkAuthorization)
            admit = gate.permits
        return Bind(key, plan, data["protocol"] == "tls", table, own, admit, self._examine())

    def _examine(self) -> Examine | None:
        """Who is asked about connections; one for all binds, so that they share what is kept."""
        policy = self._frontend.get("networkExtAuthz")
        if policy is None:
            return None
        if self._asked is None:
            asked = make("networkExtAuthz", policy, self._services)
            assert isinstance(asked, NetworkExtAuthz)
            self._asked = asked
        return self._asked.permits

    def _plan(self, key: str, data: Data) -> BindPlan:
        own = {name: self._listeners[name] for name in data["listeners"]}
        tls_policy = self._frontend.get("tls") or {}
        proxy = self._frontend.get("proxyProtocol")
        if data["tunnel"] == "proxy" and proxy is None:
            proxy = {}
        if data["tunnel"] in CARRYING:
            # Whoever made the tunnel is proved by TLS; a proxy before it could only repeat that.
            proxy = None
        connect = self._frontend.get("connect") or {}
        tcp = [name for name, one in own.items() if one["protocol"] == "TCP"]
        relayed = {name for name, one in own.items() if one["protocol"] == "TLS"}
        handshake = tls_policy.get("handshakeTimeout")
        versions: tuple[int, ...] = ()
        if proxy is not None:
            versions = _PROXY_VERSIONS[proxy.get("version") or "v2"]
        return BindPlan(
            key=key,
            port=data["port"] or 0,
            settings=http_settings(self._frontend.get("http") or {}),
            tls=self._server_tls(key, own, tls_policy) if data["protocol"] == "tls" else None,
            tcp_listener=tcp[0] if tcp else "",
            relayed=frozenset(relayed),
            passed_through=frozenset(n for n in relayed if own[n]["tls"] is None),
            handshake_seconds=15.0 if handshake is None else duration_seconds(handshake),
            proxy_versions=versions,
            proxy_optional=proxy is not None and proxy.get("mode") == "optional",
            keepalive=_keepalive(self._frontend.get("tcp")),
            uses_granian=uses_granian(self._config),
            tunnel=data["tunnel"],
            routes_connect=data["tunnel"] != "connect" and connect.get("mode") == "route",
            takes_connect=data["tunnel"] == "connect" or connect.get("mode") == "tunnel",
            opens_socket=data["mode"] != "internal",
        )

    def _server_tls(self, key: str, own: Mapping[str, Data], policy: Data) -> ServerTls:
        """Kept over compilations while nothing of it changed, so that TLS sessions stay valid."""
        listeners = tuple(TlsListener.from_data(name, data) for name, data in own.items())
        defaults = TlsDefaults.from_policy(policy, os.environ)
        kept = self._tls.get(key)
        if kept is not None and kept[0] == (listeners, defaults):
            return kept[1]
        made = ServerTls(listeners, defaults)
        self._tls[key] = ((listeners, defaults), made)
        return made


def http_settings(policy: Data) -> HttpSettings:
    """Of `frontendPolicies.http`. Raises ConfigError for values HTTP/2 cannot express."""
    seconds = {
        name: duration_seconds(policy[key])
        for name, key in (
            ("idle_seconds", "http1IdleTimeout"),
            ("max_connection_seconds", "maxConnectionDuration"),
            ("h2_keepalive_interval_seconds", "http2KeepaliveInterval"),
            ("h2_keepalive_timeout_seconds", "http2KeepaliveTimeout"),
        )
        if policy.get(key) is not None
    }
    numbers = {
        name: policy[key]
        for name, key in (
            ("header_count", "http1MaxHeaders"),
            ("h2_stream_window_bytes", "http2WindowSize"),
            ("h2_connection_window_bytes", "http2ConnectionWindowSize"),
            ("h2_frame_bytes", "http2FrameSize"),
            ("h2_header_list_bytes", "http2MaxHeaderSize"),
        )
        if policy.get(key) is not None
    }
    values: dict[str, Any] = {**seconds, **numbers}
    values["preserves_case"] = policy.get("http1HeaderCase") == "preserve"
    settings = HttpSettings(**values)
    limits_of(settings)
    return settings


def _filled(entries: list[RouteEntry[Route]]) -> Generator[None, None, RouteTable[Route]]:
    """A table made in slices: the first in one go, for most have few; then copies that grow."""
    table: RouteTable[Route] = RouteTable(entries[:_ENTRIES_PER_SLICE])
    for start in range(_ENTRIES_PER_SLICE, len(entries), _ENTRIES_PER_SLICE):
        yield
        table = table.replaced(entries[start : start + _ENTRIES_PER_SLICE])
    return table


def _keeps_cookies(resources: Iterable[Data]) -> bool:
    """Whether a policy keeps sessions in cookies."""
    return any(
        "oidc" in (one.get("policies") or ()) or one.get("kind") == "oidc" for one in resources
    )


def _names(listener: Data | None) -> tuple[str, str, str]:
    """`(bind, gateway, listener)` labels."""
    if listener is None:
        return "", "", ""
    gateway = f"{listener['gateway_namespace']}/{listener['gateway_name']}"
    return listener["bind"], gateway, listener["name"]


def _protocol(backends: Sequence[Backend]) -> str:
    """What the requests of a route are to telemetry, which a plain backend is no part of."""
    kinds = (one.protocol or one.kind for one in backends if one.serve is not None)
    return next(kinds, "http")


def _with_routes(listener: Listener, routes: RouteTable[Route]) -> Listener:
    return Listener(
        listener.key,
        listener.name,
        listener.gateway,
        listener.protocol,
        listener.chain,
        listener.after,
        routes,
        listener.tcp_routes,
        listener.labels,
        listener.metrics,
    )


def _with_after(backend: Backend, after: After) -> Backend:
    if after is NOTHING_AFTER:
        return backend
    return replace(backend, after=after)


def _keepalive(tcp: Data | None) -> tuple[int, int, int] | None:
    keep = (tcp or {}).get("keepalives")
    if keep is None or not keep.get("enabled", True):
        return None
    time = keep.get("time")
    interval = keep.get("interval")
    return (
        180 if time is None else max(1, round(duration_seconds(time))),
        180 if interval is None else max(1, round(duration_seconds(interval))),
        keep.get("retries") or 9,
    )
