"""`mcp` backends of a snapshot, made ready to serve.

Source: spec/mcp_a2a.md sections 2.1 to 2.8; spec/config.md sections 3.3 and 6.

Each server over HTTP has a backend of its own, so that pools, TLS, credentials, the policies of a
target, spans and metrics are those of every other backend. Of the levels around it only what acts
on connections holds for each server; the rest acts once, around all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, final

import orjson

from shm.generations import Generations
from sidecar.config.model.mcp_tools import ToolControl, ToolPins
from sidecar.config.scalars import duration_ns
from sidecar.errors import ConfigError
from sidecar.gateway.levels import Levels
from sidecar.gateway.mcp_credentials import passes_credentials, without_passthrough
from sidecar.gateway.mcp_facts import McpMetrics
from sidecar.gateway.mcp_keys import state_key
from sidecar.gateway.mcp_openapi import source_of
from sidecar.gateway.mcp_send import Sender
from sidecar.gateway.mcp_serve import Admission, McpServe
from sidecar.gateway.mcp_worker import McpWorker
from sidecar.gateway.plan import Backend
from sidecar.http.message import Request
from sidecar.mcp.asking import Admit, Asking, Terms
from sidecar.mcp.calls import Calls
from sidecar.mcp.fanout import Fanout
from sidecar.mcp.federation import Federation
from sidecar.mcp.lanes import Lanes, own_version
from sidecar.mcp.listing import Listing
from sidecar.mcp.names import MAX_TOOL_NAME, Names
from sidecar.mcp.pinned import PinFile, PinFileError, PinnedTools
from sidecar.mcp.pins import Change, Pins
from sidecar.mcp.rules import Rules
from sidecar.mcp.tools import Control
from sidecar.mcp.upstream.base import Target
from sidecar.mcp.upstream.openapi import OpenApiTarget
from sidecar.mcp.upstream.process import StdioSpec
from sidecar.mcp.upstream.sse import SseTarget
from sidecar.mcp.upstream.stdio import StdioTarget
from sidecar.mcp.upstream.streamable import StreamableTarget
from sidecar.policies.base import Services
from sidecar.policies.chain import hook_of
from sidecar.policies.mcp_guardrails import Config as GuardrailsConfig
from sidecar.policies.mcp_guardrails import Count, McpGuardrails, uncounted
from sidecar.policies.merge import merge
from sidecar.policies.order import KINDS
from sidecar.policies.schema import nested, parse
from sidecar.telemetry.metrics import Histogram
from sidecar.telemetry.trace import Tracer

Data = Mapping[str, Any]
_KIND: Final = "mcp"
_CONNECTION: Final = ("backendTLS", "backendAuth", "backendTunnel", "health", "http", "tcp")
_NO_ROUTE: Final[Data] = {"namespace": "", "name": "", "rule_name": "", "policies": {}}


class Connect(Protocol):
    """Makes backends of plain targets (gateway.backends.Backends)."""

    def make(self, reference: Data, policies: Data) -> Backend:
        """See there."""

    def target_of(self, target: Data) -> tuple[Data, Data]:
        """See there."""


@final
class McpBackends:
    """Makes the backends of one compilation."""

    def __init__(
        self,
        connect: Connect,
        levels: Levels,
        services: Services,
        worker: McpWorker,
        metrics: McpMetrics,
        measured: Histogram,
        tracer: Tracer | None,
    ) -> None:
        self._connect = connect
        self._levels = levels
        self._services = services
        self._worker = worker
        self._metrics = metrics
        self._measured = measured
        self._tracer = tracer

    def routed(self, base: Backend, target: Data, policies: Data) -> Backend:
        """An `mcp` backend; `policies`: merged of all levels but the servers' own.

        Raises: ConfigError, its path below the backend.
        """
        worker, sessions = self._worker, self._worker.sessions
        assert sessions is not None
        parts = Parts(target, policies, self._services, self._metrics.guarded)
        key = hashlib.blake2b(base.label.encode(), digest_size=16).digest()
        made = {
            entry["name"]: self._bridged(entry, policies, f"mcp.targets[{index}]", key)
            for index, entry in enumerate(target["targets"])
        }
        admit = limits(target, self._services, f"mcp/{base.label}")
        lanes = Lanes(made, sessions, worker.later, parts.trusted)
        asking = Asking(
            lanes,
            parts.calls.names,
            parts.listing(self._services, self._metrics.unapproved, worker.generations, key),
            parts.terms,
            admit,
        )
        fanout = Fanout(asking, parts.calls, parts.rules, parts.guard)
        state = f"{key.hex()}{_digest([target, policies])}"
        federation = Federation(key, asking, sessions, fanout, parts.verbatim, parts.guard, state)
        worker.add(federation)
        serve = McpServe(federation, worker, parts.admission, self._metrics)
        return replace(base, kind=_KIND, serve=serve)

    def _bridged(self, entry: Data, outer: Data, place: str, backend: bytes) -> Target:
        target, kind = self._server(entry, outer, place), entry["kind"]
        if kind == "openapi":
            return target
        key = f"{backend.hex()}{_digest(_around(outer))}/{state_key(entry)}"
        return self._worker.bridged(key, target, is_legacy=kind == "sse")

    def _server(self, entry: Data, outer: Data, place: str) -> Target:
        name, kind = str(entry["name"]), entry["kind"]
        if kind == "stdio":
            spec = stdio_spec(entry["stdio"])
            key = state_key(entry)
            target = StdioTarget(name, key, spec, self._worker.children)
            return self._worker.own(key, target, with_facts=False, has_homes=True)
        below = _around(outer)
        try:
            backend = self._backend(entry, below)
        except ConfigError as problem:
            raise nested(f"{place}.policies", problem) from problem
        sender = Sender(
            backend, entry["authority"], self._measured, self._tracer, self._services.clock, name
        )
        if kind == "openapi":
            return self._api(entry, sender, entry["authority"] or backend.default_authority, place)
        lingerers = self._worker.lingerers
        authority = entry["authority"] or backend.default_authority
        if kind == "mcp":
            return StreamableTarget(name, sender, authority, entry["path"], lingerers)
        # Not only what it is: the same server behind another route may be shown other credentials.
        key = f"{_digest(below)}/{state_key(entry)}"
        base = f"{backend.scheme}://{authority}{entry['path']}"
        made = SseTarget(name, key, sender, base, self._worker.connections, lingerers)
        return self._worker.own(key, made)

    def _api(self, entry: Data, sender: Sender, authority: str, place: str) -> Target:
        try:
            source = source_of(entry, self._services, self._worker)
        except ConfigError as problem:
            raise nested(place, problem) from problem
        return OpenApiTarget(str(entry["name"]), sender, authority, source)

    def _backend(self, entry: Data, below: Data) -> Backend:
        reference = {
            "name": entry["name"],
            "weight": 1,
            "target": entry["reference"],
            "policies": {},
        }
        _, own = self._connect.target_of(entry["reference"])
        levels = self._levels.backend_phase(None, None, _NO_ROUTE, reference, own)
        merged = merge([below, *levels, entry["policies"]])
        return self._connect.make(reference, without_passthrough(merged))


def _around(outer: Data) -> dict[str, Any]:
    """What of the levels around it acts on connections to each server."""
    return {one: outer[one] for one in _CONNECTION if outer.get(one) is not None}


def _digest(data: Any) -> str:
    """Tells plain data from other data."""
    text = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def limits(target: Data, services: Services, place: str) -> Admit | None:
    """What `rateLimits` makes of each message; None without. Raises: ConfigError."""
    payload = target.get("rateLimits")
    if payload is None:
        return None
    listed = payload.get("conditional", ()) if isinstance(payload, Mapping) else payload
    if any(bucket.get("type") == "tokens" for bucket in listed):
        raise ConfigError("mcp.rateLimits", "messages have no tokens: `type` can be `requests`")
    kind = KINDS["localRateLimit"]
    try:
        made = kind.factory(parse(kind.config, payload), replace(services, attachment=place))
    except ConfigError as problem:
        raise nested("mcp.rateLimits", problem) from problem
    found = hook_of(made, "on_request")
    assert found is not None
    hook, is_async = found

    async def admit(request: Request) -> None:
        done = hook(request)
        if is_async:
            await done

    return admit


def stdio_spec(given: Data) -> StdioSpec:
    """What to run."""
    return StdioSpec(
        (given["cmd"], *(given.get("args") or ())),
        dict(given.get("env") or {}),
        bool(given.get("clear_env")),
    )


def guardrails(policies: Data, services: Services, count: Count) -> McpGuardrails | None:
    """`mcpGuardrails`; None where there are none, or none that looks at anything.

    Raises: ConfigError, its path below the backend.
    """
    given = policies.get("mcpGuardrails")
    if given is None:
        return None
    try:
        made = McpGuardrails(parse(GuardrailsConfig, given), services, count)
    except ConfigError as problem:
        raise nested("policies.mcpGuardrails", problem) from problem
    return None if made.is_blind else made


@final
class Parts:
    """All of an `mcp` backend that needs neither a worker nor a connection.

    Raises: ConfigError, its path below the backend.
    """

    def __init__(
        self, target: Data, policies: Data, services: Services, count: Count = uncounted
    ) -> None:
        servers: list[Data] = target["targets"]
        names = self._names(target, servers)
        self.controls: dict[str, Control] = {}
        for index, entry in enumerate(servers):
            if entry.get("tools") is not None:
                place = f"mcp.targets[{index}].tools"
                self.controls[entry["name"]] = Control(_parsed(entry["tools"], place))
        self.calls = Calls(names, self.controls)
        given = (policies.get("mcpAuthorization") or {}).get("rules") or ()
        try:
            self.rules = Rules(given, services.cel)
        except ConfigError as problem:
            raise nested("policies.mcpAuthorization", problem) from problem
        self.guard = guardrails(policies, services, count)
        only = names.targets[0] if len(servers) == 1 and not names.is_several else ""
        is_pinned = any(entry.get("pin") is not None for entry in servers)
        is_plain = not (given or self.controls or is_pinned or self.guard)
        self.verbatim = only if is_plain else ""
        self._target = target
        common = policies.get("backendAuth")
        auths = {one["name"]: (one.get("policies") or {}).get("backendAuth") for one in servers}
        self.trusted = frozenset(
            name for name, own in auths.items() if passes_credentials(own or common, services)
        )
        """Servers whose calls take the client's own `Authorization` along."""
        origins = target.get("allowedOrigins")
        self.admission = Admission(
            is_local_only=bool(target.get("dnsRebindingProtection")),
            origins=None if origins is None else frozenset(one.lower() for one in origins),
            is_strict=target.get("mirroredHeaders") != "lenient",
        )
        self.terms = Terms(
            {"name": "agentgateway", "version": own_version()},
            fails_open=target.get("failureMode") == "failOpen",
            is_stateful=target.get("statefulMode") != "stateless",
        )

    @staticmethod
    def _names(target: Data, servers: list[Data]) -> Names:
        limit = target.get("maxNameLength")
        try:
            return Names(
                tuple(entry["name"] for entry in servers),
                target.get("prefixMode") or "conditional",
                max_tool_name=MAX_TOOL_NAME if limit is None else limit,
            )
        except ConfigError as problem:
            raise nested("mcp", problem) from problem

    def pins(
        self, services: Services, tell: Callable[[str, Change], None]
    ) -> dict[str, PinnedTools]:
        """Of the servers whose tools are pinned. Raises: ConfigError."""
        made: dict[str, PinnedTools] = {}
        for index, entry in enumerate(self._target["targets"]):
            if entry.get("pin") is not None:
                place = f"mcp.targets[{index}].pin"
                made[entry["name"]] = _pinned(entry, place, services, tell)
        return made

    def listing(
        self,
        services: Services,
        tell: Callable[[str, Change], None],
        generations: Generations,
        backend: bytes,
    ) -> Listing:
        """Where pages of lists are kept. Raises: ConfigError."""
        ttl = self._target.get("listCacheTtl")
        ttl_ms = 0 if ttl is None else duration_ns(ttl) // 1_000_000
        pins = self.pins(services, tell)
        names, clock = self.calls.names, services.clock
        return Listing(names, self.controls, pins, ttl_ms, clock, generations, backend)


def _pinned(
    entry: Data, place: str, services: Services, tell: Callable[[str, Change], None]
) -> PinnedTools:
    try:
        config = ToolPins.model_validate(entry["pin"])
    except ValueError as problem:
        raise ConfigError(place, str(problem)) from problem
    file = None if config.file is None else PinFile(config.file)
    try:
        pins = Pins(config, None if file is None else file.read())
    except PinFileError as problem:
        raise ConfigError(f"{place}.file", str(problem)) from problem
    except ConfigError as problem:
        raise ConfigError(f"{place}.file", problem.message) from problem
    return PinnedTools(str(entry["name"]), pins, file, services.clock, tell)


def _parsed(given: Data, place: str) -> ToolControl:
    try:
        return ToolControl.model_validate(given)
    except ValueError as problem:
        raise ConfigError(place, str(problem)) from problem
