"""What a snapshot becomes in a worker: objects a request walks through without looking anything up.

Design section 2. All of it is made by sidecar.gateway.compile and never changed afterwards, but for
the caches of `Gateway.delegated` and `Bind.known`, and the metric cells.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol, final

from sidecar.errors import RequestError
from sidecar.gateway.mesh import Front
from sidecar.gateway.upstream import Upstream
from sidecar.http.message import Body, Connection, Request, Response
from sidecar.net.bind import BindPlan
from sidecar.net.pool import Version
from sidecar.policies.chain import EMPTY, Chain, Hook
from sidecar.routing.match import MatchInfo
from sidecar.routing.table import ListenerTable, RouteTable, TcpRouteTable
from sidecar.telemetry.access import AccessLog
from sidecar.telemetry.bodies import Recorder
from sidecar.telemetry.metrics import Histogram, ListenerMetrics, RequestMetrics, RouteMetrics
from sidecar.telemetry.trace import ClientSpan, Tracer

if TYPE_CHECKING:
    from sidecar.gateway.direct import Handover
    from sidecar.gateway.exchange import Exchange, MakeExchange
    from sidecar.net.host import Cancellable
    from sidecar.policies.request_mirror import RequestMirror

_DELEGATED_MAX: Final = 4096
_FRONTS_MAX: Final = 16_384


@final
@dataclass(frozen=True, slots=True)
class After:
    """Response hooks of several phases, in the order of spec/config.md section 3.2."""

    hooks: tuple[Hook, ...] = ()
    needs_body: bool = False


NOTHING_AFTER: Final = After()


Attempt = Callable[["Request", "Exchange", "Route", "Backend", Body], Awaitable[Response]]
"""One call of one endpoint of a backend, with its span and its part in balancing."""


class Serve(Protocol):
    """Serves the requests of a backend that is more than a place to send them to."""

    async def serve(
        self, request: Request, exchange: Exchange, route: Route, attempt: Attempt
    ) -> Response:
        """In the place of one attempt. Raises: SidecarError."""


class Start(Protocol):
    """Serves them in callbacks (see direct.Handover), those whose body is at hand."""

    def __call__(self, request: Request, route: Route, handover: Handover) -> Cancellable | None:
        """Begin. None, or a SidecarError: it has to go the long way, which begins anew."""


class ErrorShape(Protocol):
    """How the gateway's own errors look to the clients of a route."""

    def __call__(self, request: Request, status: int, message: str, code: str) -> bytes | None:
        """A JSON body; None: plain text will do."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """One weighted choice of a route."""

    label: str
    """`127.0.0.1:8080`, `service/ns/host:port`, … as metrics name it."""
    kind: str
    """`backend.type` of CEL: static, service, dynamic, unknown."""
    upstream: Upstream
    chain: Chain = EMPTY
    after: After = NOTHING_AFTER
    """Response hooks of the route and of this backend together."""
    version: Version | None = None
    """What `http.version` says; None: see pipeline.version_for."""
    has_tls: bool = False
    auto_host: str = ""
    """Authority put in the place of the client's; "" keeps that."""
    default_authority: str = ""
    """Used when the client sent none (HTTP/1.0)."""
    request_seconds: float | None = None
    group: str = ""
    """Name of the routeGroup this choice leads to, instead of an upstream."""
    serve: Serve | None = None
    """What answers in the place of `upstream` (LLM)."""
    start: Start | None = None
    """The same on the direct way; None: there it is not served."""
    error_shape: ErrorShape | None = None
    protocol: str = ""
    """What its requests are where that is not their `kind` (a2a)."""

    def cel(self, wanted: frozenset[str] | None) -> Mapping[str, object]:
        """The variable `backend` (see sidecar.cel.variables.Fields)."""
        return {"name": self.label, "type": self.kind, "protocol": self.protocol or "http"}

    @property
    def scheme(self) -> str:
        """`:scheme` of the call."""
        return "https" if self.has_tls else "http"

    @property
    def is_plain(self) -> bool:
        """Whether nothing of its own stands between a request and its call."""
        is_reached = self.serve is None or self.start is not None
        return self.chain is EMPTY and self.request_seconds is None and is_reached


class Shadow(Protocol):
    """Where copies of requests go."""

    label: str
    """Names it in logs."""

    async def discard(self, request: Request, timeout_seconds: float) -> None:
        """Send one and read the answer to its end, keeping nothing. Raises: UpstreamError."""


@final
@dataclass(frozen=True, slots=True)
class Mirror:
    """Which requests are copied, and where the copies go."""

    policy: RequestMirror
    shadow: Shadow


@final
@dataclass(slots=True, eq=False)
class Route:
    """A route with its policies and backends. The first fields are `telemetry.RouteFacts`."""

    key: str
    bind: str
    gateway: str
    listener: str
    route: str
    route_rule: str
    backend: str
    protocol: str
    chain: Chain
    after: After
    backends: tuple[Backend, ...]
    weights: tuple[float, ...]
    """Cumulated; empty when nothing can be chosen."""
    mirrors: tuple[Mirror, ...] = ()
    make_metrics: Callable[[Route], RouteMetrics] | None = None
    only: Backend | None = None
    delegates: bool = False
    is_plain: bool = False
    is_direct: bool = False
    """Plain but for guards: gateway.direct may serve it."""
    rewrites_host: bool = True
    """Whether the automatic hostname rewrite applies."""
    forces_host: bool = False
    """Whether `urlRewrite.authority: auto` asks for it also where a backend would not."""
    error_shape: ErrorShape | None = None
    """That of its backends, if they have one."""
    front: Front | None = None
    """What the mesh judges its requests for; None: it does not."""
    _metrics: RouteMetrics | None = None

    def __post_init__(self) -> None:
        rewrite = self.chain.rewrite
        if rewrite is not None:
            self.rewrites_host = rewrite.authority_mode in (None, "auto")
            self.forces_host = rewrite.authority_mode == "auto"
        self.delegates = any(backend.group for backend in self.backends)
        shapes = (backend.error_shape for backend in self.backends)
        self.error_shape = next((shape for shape in shapes if shape is not None), None)
        live = [b for b, w in zip(self.backends, _steps(self.weights), strict=False) if w > 0]
        if len(live) == 1 and not self.delegates:
            self.only = live[0]
        self.is_direct = (
            (self.chain is EMPTY or self.chain.is_guard)
            and not self.mirrors
            and all(
                backend.is_plain and backend.after is NOTHING_AFTER for backend in self.backends
            )
        )
        self.is_plain = (
            self.is_direct
            and self.chain is EMPTY
            and all(backend.serve is None for backend in self.backends)
        )

    def cel(self, wanted: frozenset[str] | None) -> Mapping[str, object]:
        """The variable `proxy` (see sidecar.cel.variables.Fields)."""
        gateway_namespace, _, gateway = self.gateway.partition("/")
        namespace, _, name = self.route.partition("/")
        return {
            "bind": self.bind,
            "gateway": {"namespace": gateway_namespace, "name": gateway},
            "listener": {"name": self.listener},
            "route": {
                "namespace": namespace,
                "name": name,
                "kind": "HTTPRoute",
                "rule": self.route_rule,
            },
        }

    @property
    def metrics(self) -> RouteMetrics:
        """Its series; made when the first request ends, for most routes of many are never asked."""
        found = self._metrics
        if found is None:
            assert self.make_metrics is not None
            found = self._metrics = self.make_metrics(self)
        return found

    def choose(self, draw: float) -> Backend:
        """By weight; `draw` is from [0, 1). Raises RequestError 500 `no valid backends`."""
        weights = self.weights
        if not weights:
            raise RequestError(500, "NoHealthyBackend", "no valid backends")
        return self.backends[bisect(weights, draw * weights[-1])]


def cumulated(weights: list[int]) -> tuple[float, ...]:
    """Weights summed up from the left; empty when their sum is 0."""
    return tuple(accumulate(map(float, weights))) if sum(weights) else ()


def _steps(sums: tuple[float, ...]) -> list[float]:
    return [b - a for a, b in zip((0.0, *sums), sums, strict=False)]


@final
@dataclass(slots=True, eq=False)
class Unrouted:
    """The facts of requests that met no route: of a listener, or of nothing at all."""

    bind: str
    gateway: str
    listener: str
    make_metrics: Callable[[Unrouted], RouteMetrics]
    route: str = ""
    route_rule: str = ""
    backend: str = ""
    protocol: str = "http"
    _metrics: RouteMetrics | None = None

    @property
    def metrics(self) -> RouteMetrics:
        """Its series."""
        found = self._metrics
        if found is None:
            found = self._metrics = self.make_metrics(self)
        return found


@final
@dataclass(frozen=True, slots=True, eq=False)
class TcpRoute:
    """A TCP or passthrough route. The first fields are `telemetry.RouteFacts`."""

    bind: str
    gateway: str
    listener: str
    route: str
    route_rule: str
    backend: str
    backends: tuple[Backend, ...]
    weights: tuple[float, ...]
    protocol: str = "tcp"

    def choose(self, draw: float) -> Backend | None:
        """By weight; None when there is nothing to choose."""
        if not self.weights:
            return None
        return self.backends[bisect(self.weights, draw * self.weights[-1])]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ListenerFront:
    """How a listener chooses routes for a service that it stands for (gateway.fronts).

    `host`: a host key in the place of the request's. `fallback`: asked when no route of its own is
    met.
    """

    host: str
    fallback: RouteTable[Route] | None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """A listener with the policies of the gateway phase."""

    key: str
    name: str
    gateway: str
    protocol: str
    chain: Chain
    after: After
    routes: RouteTable[Route]
    tcp_routes: TcpRouteTable[TcpRoute]
    labels: Unrouted
    metrics: ListenerMetrics
    front: ListenerFront | None = None


EXAMINED: Final = "examined"
"""Where a connection's `extra` says that another service has let it in."""


class Admit(Protocol):
    """Whether a connection may come in."""

    def __call__(self, connection: Connection) -> bool:
        """True lets it in."""


class Examine(Protocol):
    """The same, where another service has to be asked."""

    async def __call__(self, connection: Connection) -> bool:
        """True lets it in."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What a request without anything to wait for met: a plain route with one backend, which is
    called by HTTP/1.1 or serves by itself."""

    listener: Listener
    route: Route
    backend: Backend
    match: MatchInfo
    path: str
    """Canonical."""
    target: str
    """As it is forwarded."""
    authority: str
    """The client's, or what stands in its place."""
    line: bytes
    """The request line of the call, and its Host; of a backend that serves by itself, nothing."""


_CHOICES_MAX: Final = 1024
_CHOICE_TARGET_MAX: Final = 256


@final
@dataclass(frozen=True, slots=True, eq=False)
class Bind:
    """A port as compiled."""

    key: str
    plan: BindPlan
    tls: bool
    table: ListenerTable[Listener]
    listeners: Mapping[str, Listener]
    admit: Admit | None = None
    examine: Examine | None = None
    _choices: dict[tuple[str, str, str], Choice] = field(default_factory=dict)

    def known(self, request: Request) -> Choice | None:
        """What `remember` was told of a request of this authority, method and target."""
        return self._choices.get((request.authority, request.method, request.target))

    def remember(self, request: Request, choice: Choice) -> None:
        """Keep a choice, if the same words lead to it each time: nothing else was looked at.

        Most traffic has few targets; one with a query hardly comes again.
        """
        target = request.target
        if (
            self.tls
            or len(target) > _CHOICE_TARGET_MAX
            or "?" in target
            or not choice.listener.routes.is_by_line
        ):
            return
        if len(self._choices) >= _CHOICES_MAX:
            self._choices.clear()
        self._choices[request.authority, request.method, target] = choice

    def listener_of(self, request: Request) -> Listener:
        """The listener that serves a request. Raises RequestError 404 or 421."""
        if not self.tls:
            entry = self.table.choose(request.host)
            if entry is None:
                raise RequestError(404, "NotFound", "listener not found")
            return entry.payload
        # The handshake chose; the request's host may not point elsewhere.
        key = request.connection.extra.get("listener")
        chosen = self.listeners.get(key) if isinstance(key, str) else None
        best = self.table.choose(request.host)
        if best is None or chosen is None:
            raise RequestError(404, "NotFound", "listener not found")
        if best.key != chosen.key:
            raise RequestError(421, "NotFound", "misdirected request")
        return chosen


class Observer(Protocol):
    """Sees each request begin and each call go out (tracing)."""

    def begin(self, request: Request) -> None:
        """Set `request.trace`."""

    def before_call(self, request: Request, subtype: str) -> ClientSpan | None:
        """The call is about to be made with `request.headers`: name its span there, if it has
        one, which the caller then finishes. `subtype`: see Tracer.call."""


@final
@dataclass(slots=True, eq=False)
class Gateway:
    """One compiled snapshot."""

    generation: int
    binds: Mapping[str, Bind]
    groups: Mapping[str, RouteTable[Route]]
    unrouted: Unrouted
    requests: RequestMetrics
    call_seconds: Histogram
    model_call_seconds: Histogram
    """The same of calls of models."""
    max_buffer_bytes: int
    observer: Observer | None
    access_log: AccessLog | None
    tracer: Tracer | None
    make_delegated: Callable[[Route, Route], Route]
    make_front: Callable[[Front], Bind | None]
    exchange: MakeExchange
    """Begins each request's: with or without its bodies on record, or told of (gateway.traced)."""
    recorder: Recorder | None
    """What is put on record; None: nothing."""
    _fronts: dict[str, Bind | None] = field(default_factory=dict)
    _delegated: dict[tuple[str, str, Front | None], Route] = field(default_factory=dict)

    def bind(self, key: str) -> Bind | None:
        """A bind of the configuration, or a front (see gateway.fronts). Raises: ConfigError."""
        found = self.binds.get(key)
        if found is not None or key in self._fronts:
            return found or self._fronts[key]
        front = Front.parse(key)
        if front is None:
            return None
        if len(self._fronts) >= _FRONTS_MAX:
            self._fronts.clear()
        made = self._fronts[key] = self.make_front(front)
        return made

    def keep_fronts(
        self, before: Gateway, services: Collection[str], workloads: Collection[str]
    ) -> None:
        """Those of the gateway before, but for what has changed."""
        for key, bind in before._fronts.items():
            front = Front.parse(key)
            assert front is not None
            touched = services if front.kind == "service" else workloads
            if front.name not in touched:
                self._fronts[key] = bind

    def delegated(self, parent: Route, child: Route) -> Route:
        """The child route with its parent's policies beneath its own."""
        # One route may stand in many fronts, each of which the mesh judges by its own policies.
        key = (parent.key, child.key, parent.front)
        route = self._delegated.get(key)
        if route is None:
            if len(self._delegated) >= _DELEGATED_MAX:
                self._delegated.clear()
            route = self._delegated[key] = self.make_delegated(parent, child)
        return route
