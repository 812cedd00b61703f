"""Checks what neither the schema nor normalisation can: that every policy can be made.

Expressions compile, headers are well formed, pools of settings make sense. A worker compiles the
same things; doing it before publication is what makes a bad reload refusable as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, final

from sidecar.cel.engine import Engine
from sidecar.config.scalars import duration_seconds
from sidecar.config.snapshot import Resource, Snapshot
from sidecar.errors import ConfigError
from sidecar.gateway.compile import http_settings
from sidecar.gateway.expressions import expression_context
from sidecar.gateway.frontdoor import refusals
from sidecar.gateway.levels import BACKEND_TYPE, on_route
from sidecar.net.tls import ClientTls, ServerTls, TlsDefaults, TlsListener
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression
from sidecar.policies.order import KINDS, build, make
from sidecar.routing.outlier import Eviction
from sidecar.routing.table import RouteEntry
from sidecar.telemetry.access import AccessLog
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.export import OtlpTarget
from sidecar.telemetry.expressions import Compiler
from sidecar.telemetry.logs import parse_levels
from sidecar.telemetry.metrics import RequestMetrics
from sidecar.telemetry.sink import LogSink
from sidecar.telemetry.trace import Sampler

Data = Mapping[str, Any]
_CONNECTION_PHASE: Final = "networkAuthorization"


@final
class Checker:
    """Keeps what it found of each resource, by digest: a reload checks what is new."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bytes, tuple[ConfigError, ...]]] = {}
        self._static = b""

    def check(self, snapshot: Snapshot) -> list[ConfigError]:
        """Every problem; paths begin with the place in the document the resource came from."""
        static = snapshot.resources["static/config"]
        config: Data = static.data["config"]  # type: ignore[assignment]
        try:
            engine = Engine(
                config.get("customFunctions") or "",
                frozenset(name.lower() for name in config.get("sensitiveHeaders") or ()),
                context=expression_context(),
            )
        except ConfigError as error:
            return [ConfigError("config.customFunctions", error.message)]
        if static.digest != self._static:
            # Custom functions may have changed what every expression means.
            self._known.clear()
            self._static = static.digest
        services = Services(SystemClock(), engine)
        known, self._known = self._known, {}
        found: list[ConfigError] = []
        for key, resource in snapshot.resources.items():
            kept = known.get(key)
            if kept is None or kept[0] != resource.digest:
                place = snapshot.places.get(key, key)
                problems = tuple(_problems(resource, place, services))
                kept = (resource.digest, problems)
            self._known[key] = kept
            found.extend(kept[1])
        found.extend(refusals(snapshot, config))
        return found


def _problems(resource: Resource, place: str, services: Services) -> Iterator[ConfigError]:
    check = _CHECKS.get(resource.kind)
    if check is not None:
        for path, test in check(resource.name, resource.data, services):
            try:
                test()
            except ConfigError as error:
                inner = f"{path}.{error.path}".strip(".")
                yield ConfigError(f"{place}.{inner}".strip("."), error.message)


Test = tuple[str, Callable[[], object]]


def _route(name: str, data: Data, services: Services) -> Iterator[Test]:
    policies = on_route(data["policies"])
    if policies:
        yield "policies", lambda: build("route", policies, services)
    yield "", lambda: RouteEntry.compiled(name, data, None)
    yield from _backend_policies({k: v for k, v in data["policies"].items() if k in BACKEND_TYPE})
    for index, backend in enumerate(data["backends"]):
        yield from _backend(f"backends[{index}]", backend, services)


def _tcp_route(name: str, data: Data, services: Services) -> Iterator[Test]:
    yield from _backend_policies(data["policies"])
    for index, backend in enumerate(data["backends"]):
        yield from _backend(f"backends[{index}]", backend, services)


def _backend(path: str, data: Data, services: Services) -> Iterator[Test]:
    policies = data["policies"]
    below = f"{path}.policies".strip(".")
    if policies:
        yield below, lambda: build("backend", policies, services)
    for inner, test in _backend_policies(policies):
        yield f"{below}.{inner}", test
    health = policies.get("health") or {}
    if health.get("eviction") is not None:
        yield f"{below}.health", lambda: Eviction.from_policy(health["eviction"], "eviction")
    source = health.get("unhealthyExpression")
    if source is not None:
        yield (
            f"{below}.health",
            lambda: Expression(source, services, "unhealthyExpression", with_response=True),
        )
    target = (data["target"].get("dynamic") or {}).get("target")
    if target is not None:
        yield f"{path}.dynamic", lambda: Expression(target, services, "target")


def _backend_policies(policies: Data) -> Iterator[Test]:
    tls = policies.get("backendTLS")
    if tls is not None:
        yield "", lambda: ClientTls(tls, "backend.invalid")


def _named_backend(name: str, data: Data, services: Services) -> Iterator[Test]:
    return _backend("", data, services)


def _listener(name: str, data: Data, services: Services) -> Iterator[Test]:
    if data["policies"]:
        yield "policies", lambda: build("gateway", data["policies"], services)
    if data["tls"] is not None:
        yield "", lambda: ServerTls((TlsListener.from_data(name, data),), TlsDefaults())


def _policy(name: str, data: Data, services: Services) -> Iterator[Test]:
    kind, payload = data["kind"], data["policy"]
    if kind in KINDS:
        yield "policy", lambda: make(kind, payload, services)
    elif kind == "backendTLS":
        yield "policy", lambda: ClientTls(payload, "backend.invalid")


def _frontend(name: str, data: Data, services: Services) -> Iterator[Test]:
    policy = data["policy"]
    compiler = Compiler(services.cel)
    if name == _CONNECTION_PHASE:
        yield "", lambda: make(name, policy, services)
    elif name == "accessLog":
        yield (
            "",
            lambda: AccessLog(
                policy, "text", compiler, sink=LogSink(1), clock=services.clock, path=""
            ),
        )
    elif name == "tracing":
        yield "", lambda: OtlpTarget.of_policy(policy, "")
        for key in ("clientSampling", "randomSampling"):
            yield "", partial(Sampler, policy.get(key), False, compiler, key)
        for key in ("attributes", "resources"):
            yield "", partial(compiler.expressions, policy.get(key), key)
        if policy.get("filter") is not None:
            yield "", lambda: compiler.expression(policy["filter"], "filter")
    elif name == "http":
        yield "", lambda: http_settings(policy)
    elif name == "tls":
        yield "", lambda: TlsDefaults.from_policy(policy)


def _static(name: str, data: Data, services: Services) -> Iterator[Test]:
    config = data["config"]
    metrics = config.get("metrics") or {}
    compiler = Compiler(services.cel)

    def fields() -> object:
        added = compiler.expressions((metrics.get("fields") or {}).get("add"), "metrics.fields.add")
        return RequestMetrics(_NoWriter(), metrics.get("remove") or (), added)

    yield "", fields
    yield "logging.level", lambda: parse_levels((config.get("logging") or {}).get("level", "info"))
    for key in ("connectionMinTerminationDeadline", "connectionTerminationDeadline"):
        if config.get(key):
            yield key, partial(duration_seconds, config[key])


@final
class _NoWriter:
    """A column nobody reads: labels are checked, nothing is counted."""

    def _cell(self, *_: object) -> _NoWriter:
        return self

    counter = gauge = histogram = _cell

    def add(self, n: float, /) -> None:
        """Nothing."""

    def set(self, x: float, /) -> None:
        """Nothing."""

    def observe(self, x: float, /) -> None:
        """Nothing."""


_CHECKS: Final[Mapping[str, Callable[[str, Data, Services], Iterator[Test]]]] = {
    "route": _route,
    "tcproute": _tcp_route,
    "backend": _named_backend,
    "listener": _listener,
    "policy": _policy,
    "frontend": _frontend,
    "static": _static,
}
