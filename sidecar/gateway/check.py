"""Checks what neither the schema nor normalisation can: that every policy can be made.

Expressions compile, headers are well formed, pools of settings make sense. A worker compiles the
same things; doing it before publication is what makes a bad reload refusable as a whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, Final, final

from sidecar.cel.engine import Engine
from sidecar.config.problems import render_path
from sidecar.config.pruning import Parts, Pruning
from sidecar.config.scalars import duration_seconds
from sidecar.config.servers import BACKEND as SERVERS
from sidecar.config.snapshot import Resource, Snapshot
from sidecar.config.svid import NO_ENDPOINT, endpoint_of, uses_svid
from sidecar.config.text import resolve
from sidecar.errors import ConfigError
from sidecar.gateway.balanced import affinity_of
from sidecar.gateway.callouts import CheckedCallouts
from sidecar.gateway.expressions import expression_engine
from sidecar.gateway.front_settings import http_settings
from sidecar.gateway.frontdoor import refusals
from sidecar.gateway.levels import BACKEND_TYPE, on_route
from sidecar.net.edns import edns0_problem
from sidecar.net.tls import ServerTls, TlsDefaults, TlsListener
from sidecar.net.tls_client import ClientTls
from sidecar.policies.base import SECRET_VARIABLE, Services
from sidecar.policies.expressions import Expression
from sidecar.policies.order import KINDS, build, make
from sidecar.routing.outlier import Eviction
from sidecar.routing.table import RouteEntry
from sidecar.telemetry.access import AccessLog, OtlpLog
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.expressions import Compiler
from sidecar.telemetry.logs import parse_levels
from sidecar.telemetry.metrics import RequestMetrics
from sidecar.telemetry.otlp_target import OtlpTarget
from sidecar.telemetry.request_log import RequestRows, standard_attributes
from sidecar.telemetry.sink import LogSink
from sidecar.telemetry.trace import Sampler

Data = Mapping[str, Any]
_MODELS: Final = frozenset(("ai", "llm"))
_NO_AGENT: Final = _MODELS | {"mcp"}
_CONNECTION_PHASE: Final = frozenset(("networkAuthorization", "networkExtAuthz"))
_FUNCTIONS: Final = "config.customFunctions"
_UNKNOWN_FUNCTION: Final = re.compile(r"CEL .*: unknown (?:function|method) ")


@final
class Checker:
    """Keeps what it found of each resource, by digest: a reload checks what is new.

    `env`: the environment that workers will have.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = os.environ if env is None else env
        self._known: dict[str, tuple[bytes, tuple[ConfigError, ...]]] = {}
        self._static = b""

    def check(self, snapshot: Snapshot, pruning: Pruning | None = None) -> list[ConfigError]:
        """Every problem; paths begin with the place in the document the resource came from.

        `pruning`: what is not in the snapshot, because earlier stages refused it.
        """
        static = snapshot.resources["static/config"]
        config: Data = static.data["config"]  # type: ignore[assignment]
        found: list[ConfigError] = []
        engine = _engine(config, found)
        if static.digest != self._static:
            # Custom functions may have changed what every expression means.
            self._known.clear()
            self._static = static.digest
        problem = edns0_problem((config.get("dns") or {}).get("edns0"))
        if problem:
            found.append(ConfigError("config.dns.edns0", problem))
        services = _services(config, engine, self._env)
        known, self._known = self._known, {}
        for key, resource in snapshot.resources.items():
            kept = known.get(key)
            # What is at fault is looked at again: its place may be another.
            if kept is None or kept[0] != resource.digest or kept[1]:
                place = snapshot.places.get(key, key)
                problems = tuple(_problems(resource, place, services))
                kept = (resource.digest, problems)
            self._known[key] = kept
            found.extend(kept[1])
        found.extend(refusals(snapshot, config))
        if _lacks_functions(found, pruning):
            return [one for one in found if not _UNKNOWN_FUNCTION.search(one.message)]
        return found


def resource_check(
    config: Data, env: Mapping[str, str] | None = None
) -> Callable[[Resource], None]:
    """Checks one resource that no file says: what is given raises the first ConfigError."""
    services = _services(config, expression_engine(config), os.environ if env is None else env)
    has_workload_api = bool(endpoint_of(config))

    def check(resource: Resource) -> None:
        if not has_workload_api and uses_svid(resource.data):
            raise ConfigError("", NO_ENDPOINT)
        for problem in _problems(resource, "", services):
            raise problem

    return check


def _services(config: Data, engine: Engine, env: Mapping[str, str]) -> Services:
    keeps = bool((config.get("state") or {}).get("journal"))
    secret = env.get(SECRET_VARIABLE, "")
    alone = Services(SystemClock(), engine, keeps_spending=keeps, cookie_secret=secret)
    return replace(alone, callouts=CheckedCallouts(alone))


def _engine(config: Data, found: list[ConfigError]) -> Engine:
    """The engine of the configuration; without its functions, a problem, when they are at fault."""
    try:
        return expression_engine(config)
    except ConfigError as error:
        found.append(ConfigError(_FUNCTIONS, error.message))
    return expression_engine({**config, "customFunctions": ""})


def _lacks_functions(found: Sequence[ConfigError], pruning: Pruning | None) -> bool:
    """Whether expressions may call custom functions that are at fault themselves."""
    if found and found[0].path == _FUNCTIONS:
        return True
    return pruning is not None and (
        pruning.is_unknown("config") or pruning.is_sore(("config", "customFunctions"))
    )


def _problems(resource: Resource, place: str, services: Services) -> Iterator[ConfigError]:
    check = _CHECKS.get(resource.kind)
    if check is not None:
        for path, payload, test in check(resource.name, resource.data, services):
            for inner, message in _faults(payload, test):
                steps = render_path(inner)
                where = f"{path}{steps}" if steps.startswith("[") else f"{path}.{steps}"
                yield ConfigError(f"{place}.{where.strip('.')}".strip("."), message)


def _faults(payload: Any, test: Callable[[Any], object]) -> Iterator[tuple[Parts, str]]:
    """Every fault of a payload: what a test names is cut out, and the rest is tested again."""
    pruning = Pruning(payload)
    while True:
        try:
            test(pruning.data)
        except ConfigError as error:
            parts = pruning.original(resolve(error.path, pruning.data))
            if not pruning.is_consequence(parts):
                yield parts, error.message
            pruning.hurt(parts)
            if not pruning.cut([parts]) or not pruning.data:
                return
        else:
            return


Test = tuple[str, Any, Callable[[Any], object]]
"""Place of a payload, the payload, and what raises ConfigError with a path inside of it.

The payload is None where the test cannot do with a part of it: its first fault is its only one.
"""


def _route(name: str, data: Data, services: Services) -> Iterator[Test]:
    policies = on_route(data["policies"])
    if policies:
        yield "policies", policies, lambda given: build("route", given, services)
    yield "", None, lambda _: RouteEntry.compiled(name, data, None)
    of_backends = {k: v for k, v in data["policies"].items() if k in BACKEND_TYPE}
    is_mcp = bool(data["backends"]) and all(_is_mcp(one["target"]) for one in data["backends"])
    yield from _backend_policies("policies", of_backends, services, is_mcp=is_mcp)
    agent = of_backends.get("a2a")
    if agent is not None:
        yield "policies", {"a2a": agent}, lambda given: _made(given, services)
        if any(not _NO_AGENT.isdisjoint(one["target"]) for one in data["backends"]):
            yield "policies.a2a", None, _no_agent
    for index, backend in enumerate(data["backends"]):
        yield from _backend(f"backends[{index}]", backend, services)


def _is_mcp(target: Data) -> bool:
    return "mcp" in target or target.get("ref") == SERVERS


def _no_agent(_: object) -> None:
    raise ConfigError("", "models and MCP servers are no A2A agents")


def _tcp_route(name: str, data: Data, services: Services) -> Iterator[Test]:
    yield from _backend_policies("policies", data["policies"], services)
    for index, backend in enumerate(data["backends"]):
        yield from _backend(f"backends[{index}]", backend, services)


def _backend(path: str, data: Data, services: Services) -> Iterator[Test]:
    policies = data["policies"]
    below = f"{path}.policies".strip(".")
    if policies:
        yield below, policies, lambda given: build("backend", given, services)
    yield from _backend_policies(below, policies, services, is_mcp="mcp" in data["target"])
    if policies.get("a2a") is not None and not _NO_AGENT.isdisjoint(data["target"]):
        yield f"{below}.a2a", None, _no_agent
    if "mcp" in data["target"]:
        yield path, None, lambda _: _server_check().check_target(data["target"]["mcp"], services)
    if not _MODELS.isdisjoint(data["target"]):
        target = data["target"]
        yield path, None, lambda _: _model_check().check_target(target, {}, services, _NoWriter())
    target = (data["target"].get("dynamic") or {}).get("target")
    if target is not None:
        yield f"{path}.dynamic", None, lambda _: Expression(target, services, "target")


def _health(path: str, health: Data, services: Services) -> Iterator[Test]:
    if health.get("eviction") is not None:
        eviction = health["eviction"]
        yield path, None, lambda _: Eviction.from_policy(eviction, "eviction")
    source = health.get("unhealthyExpression")
    if source is not None:
        yield (
            path,
            None,
            lambda _: Expression(source, services, "unhealthyExpression", with_response=True),
        )


def _check_tunnel(tunnel: Data, services: Services) -> None:
    """Raises: ConfigError."""
    services.callouts.resolve(tunnel["proxy"], tunnel.get("policies") or {}, "Http")


def _backend_policies(
    path: str, policies: Data, services: Services, *, is_mcp: bool = False
) -> Iterator[Test]:
    rules = policies.get("mcpAuthorization")
    if rules is not None:
        yield (
            f"{path}.mcpAuthorization",
            None,
            lambda _: _server_check().check_rules(rules, services),
        )
    guards = policies.get("mcpGuardrails")
    if guards is not None:
        yield (
            f"{path}.mcpGuardrails",
            None,
            lambda _: _server_check().check_guardrails(guards, services),
        )
    tls = policies.get("backendTLS")
    if tls is not None:
        yield path, None, lambda _: ClientTls(tls, "backend.invalid")
    ai = policies.get("ai")
    if ai is not None:
        yield f"{path}.ai", None, lambda _: _model_check().check_policy(ai, services)
    auth = policies.get("backendAuth")
    if auth is not None and not (is_mcp and "passthrough" in auth):
        yield f"{path}.backendAuth", None, lambda _: _credentials(auth, services)
    yield from _health(f"{path}.health", policies.get("health") or {}, services)
    tunnel = policies.get("backendTunnel")
    if tunnel is not None:
        yield f"{path}.backendTunnel", None, lambda _: _check_tunnel(tunnel, services)
    affinity = policies.get("sessionAffinity")
    if affinity is not None:
        yield f"{path}.sessionAffinity", None, lambda _: affinity_of(affinity, services)


def _credentials(payload: Any, services: Services) -> object:
    from sidecar.gateway.credentials import credentials_of
    from sidecar.llm.providers.base import DefaultAuth

    # What the destination adds is not known here.
    auth = DefaultAuth(region="any", service="any")
    return credentials_of(payload, services, auth=auth, host="backend.invalid")


def _named_backend(name: str, data: Data, services: Services) -> Iterator[Test]:
    return _backend("", data, services)


def _listener(name: str, data: Data, services: Services) -> Iterator[Test]:
    if data["policies"]:
        # A listener of `gateways` has its policies among its own keys.
        path = "" if name.startswith("gateway/") else "policies"
        yield path, data["policies"], lambda given: build("gateway", given, services)
    if data["tls"] is not None:
        yield "", None, lambda _: _server_tls(name, data)


def _server_tls(name: str, data: Data) -> ServerTls:
    try:
        return ServerTls((TlsListener.from_data(name, data),), TlsDefaults())
    except ConfigError as error:
        path = error.path.removeprefix(f"listeners[{name}]").strip(".")
        raise ConfigError(path, error.message) from error


def _policy(name: str, data: Data, services: Services) -> Iterator[Test]:
    kind, payload = data["kind"], data["policy"]
    if kind in KINDS:
        yield "policy", {kind: payload}, lambda given: _made(given, services)
    else:
        # It may be bound to an MCP backend, which has its own words for `passthrough`.
        yield from _backend_policies("policy", {kind: payload}, services, is_mcp=True)


def _made(payloads: Data, services: Services) -> object:
    """The policies of some payloads, each by itself."""
    return [make(kind, payload, services) for kind, payload in payloads.items()]


def _frontend(name: str, data: Data, services: Services) -> Iterator[Test]:
    policy = data["policy"]
    if name in _CONNECTION_PHASE:
        yield "", {name: policy}, lambda given: _made(given, services)
    elif name == "accessLog":
        yield "", policy, lambda given: _access_log(given, services)
        if policy.get("otlp") is not None:
            yield "otlp", policy["otlp"], lambda given: _otlp_log(given, policy, services)
        if policy.get("database") is not None:
            yield "database", policy["database"], lambda given: _request_rows(given, services)
    elif name == "tracing":
        yield from _tracing(policy, Compiler(services.cel))
    elif name == "http":
        yield "", None, lambda _: http_settings(policy)
    elif name == "tls":
        yield "", None, lambda _: TlsDefaults.from_policy(policy, os.environ).check()


def _access_log(policy: Data, services: Services) -> AccessLog:
    compiler, sink = Compiler(services.cel), LogSink(1)
    return AccessLog(policy, "text", compiler, sink=sink, clock=services.clock, path="")


def _otlp_log(given: Data, log: Data, services: Services) -> object:
    OtlpLog(given, log, Compiler(services.cel), lambda _: None, services.clock, path="")
    return OtlpTarget.of_policy(given, "", signal="logs").exporter("logs")


def _request_rows(policy: Data, services: Services) -> RequestRows:
    compiler, clock = Compiler(services.cel), services.clock
    return RequestRows(policy, None, compiler, put=lambda _: None, clock=clock, path="")


def _tracing(policy: Data, compiler: Compiler) -> Iterator[Test]:
    yield "", None, lambda _: OtlpTarget.of_policy(policy, "").exporter()
    for key in ("clientSampling", "randomSampling"):
        yield "", None, partial(_sampler, policy.get(key), compiler, key)
    for key in ("attributes", "resources"):
        given = {key: policy.get(key)}
        yield "", given, partial(_expressions, compiler, key)
    if policy.get("filter") is not None:
        yield "", None, lambda _: compiler.expression(policy["filter"], "filter")


def _sampler(value: Any, compiler: Compiler, key: str, _: object) -> object:
    return Sampler(value, False, compiler, key)


def _expressions(compiler: Compiler, key: str, given: Data) -> object:
    return compiler.expressions(given.get(key), key, at_end=key != "resources")


def _static(name: str, data: Data, services: Services) -> Iterator[Test]:
    config = data["config"]
    compiler = Compiler(services.cel)

    def fields(given: Data) -> object:
        metrics = given["metrics"]
        added = compiler.expressions((metrics.get("fields") or {}).get("add"), "metrics.fields.add")
        return RequestMetrics(_NoWriter(), metrics.get("remove") or (), added)

    def levels(_: object) -> object:
        return parse_levels((config.get("logging") or {}).get("level", "info"))

    yield "", {"metrics": config.get("metrics") or {}}, fields
    yield "logging.level", None, levels
    standard = config.get("standardAttributes") or {}
    for key in ("user", "group"):
        one = {key: standard.get(key)}
        yield (
            "standardAttributes",
            None,
            partial(_standard, one, compiler),
        )
    for key in ("connectionMinTerminationDeadline", "connectionTerminationDeadline"):
        if config.get(key):
            yield key, None, partial(_duration, config[key])


def _standard(given: Data, compiler: Compiler, _: object) -> object:
    return standard_attributes(given, compiler, "")


def _duration(text: str, _: object) -> float:
    return duration_seconds(text)


@final
class _NoWriter:
    """A column nobody reads: labels are checked, nothing is counted."""

    def _cell(self, *_: object) -> _NoWriter:
        return self

    counter = real_counter = gauge = histogram = _cell

    def add(self, n: float, /) -> None:
        """Nothing."""

    def set(self, x: float, /) -> None:
        """Nothing."""

    def observe(self, x: float, /) -> None:
        """Nothing."""


def _catalog(name: str, data: Data, services: Services) -> Iterator[Test]:
    yield "", None, lambda _: _loaded(data["sources"])


def _model_check() -> ModuleType:
    """The check of models, loaded by the first configuration that has any."""
    from sidecar.gateway import llm_check

    return llm_check


def _server_check() -> ModuleType:
    """The same of MCP servers."""
    from sidecar.gateway import mcp_check

    return mcp_check


def _loaded(sources: Sequence[Data]) -> object:
    from sidecar.llm.cost import load

    try:
        return load(sources, lambda path: b"")
    except ConfigError as problem:
        raise ConfigError(problem.path.removeprefix("config."), problem.message) from problem


_CHECKS: Final[Mapping[str, Callable[[str, Data, Services], Iterator[Test]]]] = {
    "route": _route,
    "tcproute": _tcp_route,
    "backend": _named_backend,
    "listener": _listener,
    "policy": _policy,
    "frontend": _frontend,
    "static": _static,
    "catalog": _catalog,
}
