"""Listeners and binds of a snapshot: who is let in, by which TLS and limits, to which routes.

Source: spec/config.md sections 1.3, 1.10 and 2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError
from sidecar.gateway.front_settings import http_settings, keepalive_of
from sidecar.gateway.frontdoor import uses_granian
from sidecar.gateway.levels import Levels
from sidecar.gateway.plan import Bind, Examine, Listener, Route, TcpRoute, Unrouted
from sidecar.gateway.routes import after_of, names_of
from sidecar.net.bind import CARRYING, BindPlan
from sidecar.net.svid import Svids
from sidecar.net.tls import ServerTls, TlsDefaults, TlsListener
from sidecar.policies.base import Services
from sidecar.policies.chain import EMPTY
from sidecar.policies.merge import merge
from sidecar.policies.order import build, make
from sidecar.routing.table import (
    ListenerEntry,
    ListenerTable,
    RouteEntry,
    RouteTable,
    TcpRouteTable,
)
from sidecar.telemetry.metrics import ListenerMetrics, RequestMetrics

if TYPE_CHECKING:
    from sidecar.policies.network_ext_authz import NetworkExtAuthz

Data = Mapping[str, Any]
KeptTls = dict[str, tuple[object, ServerTls]]
"""TLS by bind, with what it was made of: kept over compilations."""
_PROXY_VERSIONS: Final = {"v1": (1,), "v2": (2,), "all": (1, 2)}


@final
class Binds:
    """Makes those of one compilation."""

    def __init__(
        self,
        listeners: Mapping[str, Data],
        ports: Mapping[str, int | None],
        config: Data,
        frontend: Data,
        levels: Levels,
        services: Services,
        requests: RequestMetrics,
        tls: KeptTls,
        svids: Svids,
    ) -> None:
        """`listeners`: by key. `ports`: of binds. `config`, `frontend`: the sections."""
        self._listeners = listeners
        self._ports = ports
        self._config = config
        self._frontend = frontend
        self._levels = levels
        self._services = services
        self._requests = requests
        self._tls = tls
        self._svids = svids
        self._asked: NetworkExtAuthz | None = None

    def unrouted(self, bind: str, gateway: str, listener: str) -> Unrouted:
        """The labels of requests that meet no route."""
        return Unrouted(bind, gateway, listener, self._requests.route)

    def listener(
        self, key: str, data: Data, routes: RouteTable[Route], tcp: TcpRouteTable[TcpRoute]
    ) -> Listener:
        """One listener over its routes. Raises: ConfigError."""
        port = self._ports.get(data["bind"])
        merged = merge(self._levels.gateway_phase(data, port))
        try:
            chain = build("gateway", merged, self._services)
        except ConfigError as error:
            raise ConfigError(f"listener/{key}.{error.path}", error.message) from error
        bind, gateway, name = names_of(data)
        protocol = data["protocol"].lower()
        return Listener(
            key,
            name,
            gateway,
            data["protocol"],
            chain,
            after_of(chain, EMPTY, EMPTY),
            routes,
            tcp,
            self.unrouted(bind, gateway, name),
            ListenerMetrics(self._requests.registry, bind, gateway, name, protocol),
        )

    def bind(self, key: str, data: Data, listeners: Mapping[str, Listener]) -> Bind:
        """One bind; `listeners`: all there are. Raises: ConfigError."""
        own = {name: listeners[name] for name in data["listeners"]}
        table = ListenerTable(
            ListenerEntry(name, self._listeners[name]["hostname"], one) for name, one in own.items()
        )
        plan = self._plan(key, data)
        policy = self._frontend.get("networkAuthorization")
        admit = None
        if policy is not None:
            from sidecar.policies.network_authorization import NetworkAuthorization

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
            from sidecar.policies.network_ext_authz import NetworkExtAuthz

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
            keepalive=keepalive_of(self._frontend.get("tcp")),
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
        made = ServerTls(listeners, defaults, self._svids)
        self._tls[key] = ((listeners, defaults), made)
        return made

    def patched(
        self,
        bind: Bind,
        puts: Mapping[str, list[RouteEntry[Route]]],
        leaving: Mapping[str, list[str]],
    ) -> Bind:
        """The same with entries put into and keys taken out of its listeners' tables."""
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
