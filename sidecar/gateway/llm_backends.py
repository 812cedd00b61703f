"""`ai` backends of a snapshot, made ready to serve.

Source: spec/llm.md sections 0, 1 and 3; spec/config.md sections 3.3, 5.5 and 5.6.

A provider is one member with a backend of its own for each place that it may send calls to, so that
pools, TLS, spans and metrics are those of every other backend. What is known of its health is kept
in the shared table under the names of the backend and the provider.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, final

from sidecar.config.llm import ROUTER
from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError
from sidecar.gateway.credentials import credentials_of
from sidecar.gateway.endpoints import Endpoints, Place
from sidecar.gateway.llm_attempts import Asker, Failover, Shared
from sidecar.gateway.llm_call import Member
from sidecar.gateway.llm_choice import Ranks
from sidecar.gateway.llm_edits import Edits
from sidecar.gateway.llm_guards import Count, Guards
from sidecar.gateway.llm_router import LlmRouter
from sidecar.gateway.llm_serve import ErrorShape, LlmServe
from sidecar.gateway.llm_stream import IDLE_SECONDS
from sidecar.gateway.plan import Backend
from sidecar.llm.chat.base import Json
from sidecar.llm.chat.paths import LLM_MODE, RouteTypes
from sidecar.llm.credentials.base import Credential
from sidecar.llm.credentials.kept import KeptCredentials
from sidecar.llm.credentials.table import api_key, default_credential
from sidecar.llm.providers.base import Authority, Provider
from sidecar.llm.providers.table import backend_provider, model_provider
from sidecar.llm.tokens import prepare
from sidecar.net.dialer import Address
from sidecar.policies.base import Services
from sidecar.policies.merge import merge
from sidecar.policies.order import build
from sidecar.policies.schema import nested
from sidecar.routing.outlier import Outliers

Data = Mapping[str, Any]
_KIND: Final = "llm"
_CONNECTION: Final = ("backendTLS", "backendAuth", "backendTunnel", "health", "http", "tcp", "ai")
"""Of the outer levels, what acts on each provider; the rest acts once, around all of them."""


class Connect(Protocol):
    """Makes backends of plain targets (gateway.backends.Backends)."""

    def make(self, reference: Data, policies: Data) -> Backend:
        """See there."""

    def outliers(self, health: Data | None) -> Outliers:
        """A `health` policy made ready."""


@final
class LlmBackends:
    """Makes the backends of one compilation."""

    def __init__(
        self,
        connect: Connect,
        services: Services,
        random: Callable[[], float],
        endpoints: Endpoints,
        shared: Shared,
        credentials: KeptCredentials | None = None,
    ) -> None:
        self._connect = connect
        self._services = services
        self._random = random
        self._endpoints = endpoints
        self._shared = shared
        self._kept = credentials or KeptCredentials()

    def routed(self, base: Backend, target: Data, policies: Data) -> Backend:
        """An `ai` backend; `policies`: merged of all levels but the providers' own.

        Raises: ConfigError.
        """
        policy: Data = policies.get("ai") or {}
        types = RouteTypes(policy.get("routes") or {})
        groups = [
            [self._routed_member(base.label, entry, policies, place) for place, entry in group]
            for group in _placed(target["groups"])
        ]
        ranks = Ranks(groups, self._services.clock, self._random, self._endpoints)
        asker = Asker(failover_of(policy), idle_seconds(policy), self._shared)
        serve = LlmServe(ranks, types, asker)
        return self.served(base, serve, ErrorShape(types))

    def router(self, base: Backend, target: Data, policies: Data) -> Backend:
        """The models of the `llm` section. Raises: ConfigError."""
        types = RouteTypes(LLM_MODE)
        asker = Asker(failover_of(target), idle_seconds(target), self._shared)
        models = [self._model(data, index, target) for index, data in enumerate(target["models"])]
        serve = LlmRouter(
            target, models, asker, types, self._services, self._random, self._endpoints
        )
        return self.served(base, serve, ErrorShape(types))

    def _model(self, data: Data, index: int, target: Data) -> Member:
        place = f"llm.models[{index}]"
        params: Data = data.get("params") or {}
        provider = model_provider(data["provider"], params, tags=self._shared.tags, place=place)
        given = params.get("apiKey")
        key = () if given is None else (api_key(given, f"{place}.params.apiKey"),)
        own = data["policies"]
        if target.get("lossy") is not None:
            own = {**own, "ai": {"lossy": target["lossy"], **(own.get("ai") or {})}}
        made = self.member(provider, ROUTER, str(data["key"]), own, {}, place, key)
        return _tokenizing(made, bool(params.get("tokenize")))

    def served(self, base: Backend, serve: Any, shape: ErrorShape) -> Backend:
        """A backend that is served by something else than an endpoint."""
        return replace(base, kind=_KIND, serve=serve, start=serve.start, error_shape=shape)

    def _routed_member(self, backend: str, entry: Data, outer: Data, place: str) -> Member:
        provider = backend_provider(entry, tags=self._shared.tags, place=place)
        name = str(entry["name"])
        own = entry.get("policies") or {}
        made = self.member(provider, backend, name, own, outer, place)
        return _tokenizing(made, bool(entry.get("tokenize")))

    def member(
        self,
        provider: Provider,
        backend: str,
        name: str,
        own: Data,
        outer: Data,
        place: str,
        key: tuple[Credential, ...] = (),
    ) -> Member:
        """One provider. `own` and `outer`: its policies and those of the levels around it. `key`:
        what authenticates when no policy does. Raises: ConfigError."""
        below = {kind: outer[kind] for kind in _CONNECTION if outer.get(kind) is not None}
        merged = merge([below, own])
        try:
            return self._member(provider, backend, name, own, merged, key)
        except ConfigError as problem:
            raise nested(f"{place}.policies" if place else "policies", problem) from problem

    def _member(
        self,
        provider: Provider,
        backend: str,
        name: str,
        own: Data,
        merged: Data,
        key: tuple[Credential, ...],
    ) -> Member:
        authorities = provider.authorities()
        connection = {kind: merged[kind] for kind in _CONNECTION if kind in merged}
        policy: Data = merged.get("ai") or {}
        try:
            edits = Edits(policy, self._services)
            guards = guards_of(policy, self._services, self._shared.metrics.guarded)
        except ConfigError as problem:
            raise nested("ai", problem) from problem
        return Member(
            name=name,
            provider=provider,
            backends={one: self._backend(one, connection) for one in authorities},
            endpoint=self._endpoints.get(Place(f"ai/{backend}", 0, Address(name, 0)), 1),
            outliers=self._connect.outliers(merged.get("health")),
            edits=edits,
            guards=guards,
            chain=build("backend", own, self._services),
            credentials=self._credentials(provider, merged.get("backendAuth"), key),
            settings=settings_of(policy),
            rejects_loss=policy.get("lossy") == "reject",
            attempt_seconds=failover_of(policy).attempt_seconds,
        )

    def _backend(self, authority: Authority, connection: Data) -> Backend:
        host = {"address": authority.host, "port": authority.port, "tls": authority.tls}
        reference = {"name": authority.host, "target": {"host": host}}
        kept = {kind: connection[kind] for kind in connection if kind not in ("ai", "backendAuth")}
        made = self._connect.make(reference, kept)
        # Also for an address: a provider's Host is its own, never the client's.
        return replace(made, kind=_KIND, auto_host=made.auto_host or authority.host_header)

    def _credentials(
        self, provider: Provider, payload: Any, key: tuple[Credential, ...]
    ) -> tuple[Credential, ...]:
        services = self._services
        if payload is not None:
            host = provider.authorities()[0].host
            try:
                return credentials_of(
                    payload, services, auth=provider.auth, host=host, kept=self._kept
                )
            except ConfigError as problem:
                raise nested("backendAuth", problem) from problem
        if key:
            return key

        def default() -> tuple[Credential, ...]:
            found = default_credential(provider.auth, services.clock, services.tokens)
            return () if found is None else (found,)

        return self._kept.get(None, provider.auth, "", default)


def _tokenizing(member: Member, wanted: bool) -> Member:
    """The member that counts prompts; the tokenizer is loaded before the first request."""
    if not wanted:
        return member
    prepare(("o200k_base", "cl100k_base"))
    return replace(member, tokenizes=True)


def failover_of(policy: Data) -> Failover:
    """The key of that name."""
    given = policy.get("failover") or {}
    seconds = given.get("attemptTimeout")
    return Failover(
        int(given.get("maxAttempts", 3)) if given.get("enabled", True) else 1,
        None if seconds is None else duration_seconds(seconds) or None,
        idle_seconds(policy),
    )


def idle_seconds(policy: Data) -> float:
    """`streamIdleTimeout`."""
    given = policy.get("streamIdleTimeout")
    return IDLE_SECONDS if given is None else duration_seconds(given) or IDLE_SECONDS


def guards_of(policy: Data, services: Services, count: Count) -> Guards | None:
    """`promptGuard`. Raises: ConfigError, its path below the policy."""
    given = policy.get("promptGuard")
    if given is None:
        return None
    try:
        return Guards(given, services, count)
    except ConfigError as problem:
        raise nested("promptGuard", problem) from problem


def settings_of(policy: Data) -> Json:
    """What conversions read of the policy."""
    caching = policy.get("promptCaching")
    return {} if caching is None else {"promptCaching": caching}


def _placed(groups: Any) -> list[list[tuple[str, Data]]]:
    """Providers with their places below the backend's own path."""
    if len(groups) == 1 and len(groups[0]) == 1:
        return [[("ai", groups[0][0])]]
    return [
        [(f"ai.groups[{number}].providers[{at}]", entry) for at, entry in enumerate(group)]
        for number, group in enumerate(groups)
    ]
