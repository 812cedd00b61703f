"""Resources of an agentgateway controller become resources of the snapshot, as files make them.

Each is said in the file's words (`documents`), checked by the file's own schema and normalised by
its own functions, so both mean the same. What cannot be honoured is refused with its reason; the
resource before it stays. Nothing of it reads a file.

Source: spec istio 3.8; spec config 0.7 and 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from pydantic import BaseModel

from istio.errors import ResourceError
from istio.xds import translate
from istio.xds._pb import resource_pb2 as pb
from istio.xds.binds import Fronts, Made
from istio.xds.documents import policies as policy_documents
from istio.xds.documents import routes as documents
from istio.xds.documents.checking import checked, key_of, raise_first, run_of
from istio.xds.models import Models
from sidecar.config.ai import target_of
from sidecar.config.discovery import service_of, workload_of
from sidecar.config.frontend import frontend_policies
from sidecar.config.model.backends import RouteBackend
from sidecar.config.model.frontend import FrontendPolicies
from sidecar.config.model.policies import BackendPolicies, TargetedPolicy
from sidecar.config.model.routes import Route, TcpRoute
from sidecar.config.payloads import policies
from sidecar.config.routes import Place, RouteMaker
from sidecar.config.snapshot import Resource
from sidecar.config.validate import check_backend_scope, check_policy
from sidecar.errors import ConfigError
from sidecar.policies.merge import merge

_log = logging.getLogger(__name__)
Json = dict[str, Any]


@final
@dataclass(slots=True)
class Applied:
    """What an update did to the snapshot's resources, by key (`<kind>/<name>`)."""

    changed: dict[str, Resource] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    """Name in the control plane to the reason."""


Check = Callable[[Resource], None]


def _is_good(_: Resource) -> None:
    """A resource of which nothing more is known."""


@final
class Translator:
    """Holds what the control plane sent. One thread."""

    def __init__(self, check: Check = _is_good) -> None:
        """`check`: raises ConfigError for what only whoever runs a resource can find wrong."""
        self._check = check
        self._made: dict[str, Made] = {}
        """Name in the control plane to what it made."""
        self._fronts = Fronts(check)
        self._models = Models(check)
        self._owners: dict[str, str] = {}
        self._saved: _Saved = ({}, {}, self._fronts, self._models)

    @property
    def owners(self) -> Mapping[str, str]:
        """Key in the snapshot → name in the control plane. Not to be changed."""
        return self._owners

    def apply(self, updates: Mapping[str, bytes], removed: Sequence[str]) -> Applied:
        """Apply what the control plane sent, removals first. Nothing is raised."""
        copies = self._fronts.copy(), self._models.copy()
        self._saved = (dict(self._made), dict(self._owners), *copies)
        applied = Applied()
        for name in removed:
            self._put(name, (), applied)
            self._fronts.drop(name)
            self._models.drop(name)
        for name, payload in updates.items():
            try:
                self._update(name, payload, applied)
            except (ResourceError, ConfigError) as error:
                applied.refused[name] = str(error)
            except Exception:
                # A mistake of ours with one resource is no reason to lose the others.
                _log.exception("%s cannot be translated", name)
                applied.refused[name] = "internal error"
        for name, made in self._fronts.settle(applied.refused):
            if made or not self._is_other(name):
                self._put(name, made, applied)
        self._settle_models(applied)
        return applied

    def _settle_models(self, applied: Applied) -> None:
        if self._models.is_idle:
            return
        resources = self.resources()

        def backends(key: str) -> tuple[Json, Json] | None:
            found = resources.get(f"backend/{key}")
            if found is None:
                return None
            attached: list[Json] = [
                {str(one.data["kind"]): one.data["policy"]}
                for one in resources.values()
                if one.kind == "policy" and _target_of(one) == key
            ]
            return dict(found.data), merge(attached)

        for name, made in self._models.settle(backends, applied.refused):
            if made is None:
                continue
            try:
                self._check_owner(name, made)
            except ResourceError as error:
                applied.refused[name] = str(error)
                continue
            self._put(name, made, applied)

    def undo(self) -> None:
        """The last update could not be published: it never was. For one update only."""
        self._made, self._owners, self._fronts, self._models = self._saved

    def _update(self, name: str, payload: bytes, applied: Applied) -> None:
        message = translate.parsed(pb.Resource, payload)
        translate.refuse_unknown(message, "")
        kind = message.WhichOneof("kind")
        if kind in ("bind", "listener"):
            if name not in self._fronts:
                self._put(name, (), applied)
            self._models.drop(name)
            self._fronts.put(name, getattr(message, kind))
            return
        if self._is_of_models(name, message, applied):
            return
        maker = _MAKERS.get(kind)
        if maker is None:
            raise ResourceError(f"a resource of the kind {kind} is not supported")
        made = maker(getattr(message, kind))
        self._check_owner(name, made)
        for resource in made:
            self._check(resource)
        self._models.drop(name)
        if name in self._fronts:
            # What it made as a bind or a listener goes first.
            self._fronts.drop(name)
            self._put(name, (), applied)
        self._put(name, made, applied)

    def _is_of_models(self, name: str, message: pb.Resource, applied: Applied) -> bool:
        """Whether it is for `models`, which has it then."""
        is_router = message.backend.WhichOneof("kind") == "model_router"
        if not is_router and message.WhichOneof("kind") != "model_route":
            return False
        was_known = name in self._models
        if is_router:
            self._models.put_router(name, message.backend)
        else:
            self._models.put(name, message.model_route)
        if not was_known:
            self._fronts.drop(name)
            self._put(name, (), applied)
        return True

    def _is_other(self, name: str) -> bool:
        """Whether the name has come to mean something that is no bind and no listener."""
        return any(one.kind not in ("bind", "listener") for one in self._made.get(name, ()))

    def _check_owner(self, name: str, made: Made) -> None:
        for resource in made:
            owner = self._owners.get(resource.key, name)
            if owner != name:
                raise ResourceError(f"{owner} is {resource.key} already")

    def _put(self, name: str, made: Made, applied: Applied) -> None:
        before = self._made.pop(name, ())
        if made:
            self._made[name] = made
        keys = {one.key for one in made}
        for one in before:
            if one.key not in keys and self._owners.get(one.key) == name:
                del self._owners[one.key]
                applied.changed.pop(one.key, None)
                applied.removed.add(one.key)
        digests = {one.key: one.digest for one in before}
        for one in made:
            self._owners[one.key] = name
            applied.removed.discard(one.key)
            if digests.get(one.key) != one.digest:
                applied.changed[one.key] = one

    def resources(self) -> dict[str, Resource]:
        """Everything, by key."""
        return {one.key: one for made in self._made.values() for one in made}


_Saved = tuple[dict[str, Made], dict[str, str], Fronts, Models]


def _target_of(policy: Resource) -> str | None:
    """Key of the backend that a policy is attached to."""
    target: Any = policy.data["target"]
    backend = target.get("backend")
    found = backend.get("backend") if isinstance(backend, dict) else None
    return None if found is None else str(found["name"])


# --- routes, backends, policies -----------------------------------------------------------


def _route(one: pb.Route) -> Made:
    return (_routed(one, Route, documents.route(one), "HTTP"),)


def _tcp_route(one: pb.TCPRoute) -> Made:
    # As TLS: whether there is a name to match, its listener knows.
    return (_routed(one, TcpRoute, documents.tcp_route(one), "TLS"),)


def _routed(one: Any, model: type[BaseModel], document: Json, protocol: str) -> Resource:
    key = key_of(one)
    problems: list[ConfigError] = []
    run = run_of(document, problems)
    group = one.route_group_key if protocol == "HTTP" and one.route_group_key else None
    place = Place("", one.listener_key or None, group, protocol)
    RouteMaker().make(checked(model, document), 0, place, "", run)
    raise_first(problems)
    (made,) = run.resources.values()
    data = dict(made.data)
    if one.name.kind not in ("", _KINDS[made.kind]):
        data["kind"] = one.name.kind
    if one.HasField("service_key"):
        service = f"{one.service_key.namespace}/{one.service_key.hostname}"
        data["service"] = {"name": service, "port": one.service_port or None}
    return Resource.of(made.kind, key, data)


_KINDS: Final = {"route": "HTTPRoute", "tcproute": "TCPRoute"}
"""What a route of the snapshot is unless it says something else; policies may be for one kind."""


def _backend(one: pb.Backend) -> Made:
    document = documents.backend(one)
    problems: list[ConfigError] = []
    run = run_of(document, problems)
    entry = checked(RouteBackend, document)
    own = entry.get("policies") or {}
    check_backend_scope(own, "policies", run, scope="named")
    target: Any = target_of(entry, "", run)
    if "ai" in target:
        documents.unwritten(one, target["ai"]["groups"])
    for server in target.get("mcp", {}).get("targets", ()):
        server["reference"] = documents.service_of_mark(server["reference"])
    data: Json = {"target": target, "policies": policies(own, "policies", run)}
    raise_first(problems)
    return (Resource.of("backend", key_of(one), data),)


def _policy(one: pb.Policy) -> Made:
    document = policy_documents.policy(one)
    problems: list[ConfigError] = []
    run = run_of(document, problems)
    if "frontend" in document:
        payloads = checked(FrontendPolicies, document["frontend"])
        frontend_policies({"frontendPolicies": payloads}, {}, run)
        raise_first(problems)
        return tuple(run.resources.values())
    (kind,) = document["policy"]
    if kind in _OF_BACKENDS:
        target, payloads = _of_backends(document, kind)
    else:
        entry = checked(TargetedPolicy, document)
        check_policy(entry, "", run)
        target, payloads = entry["target"], entry["policy"]
    made = policies(payloads, "policy", run)
    raise_first(problems)
    data: Json = {
        "target": target,
        "phase": document["phase"],
        "kind": kind,
        "policy": made[kind],
    }
    return (Resource.of("policy", key_of(one), data),)


_OF_BACKENDS: Final = frozenset(("health", "http", "inferenceRouting", "tcp"))
"""Kinds that a file writes in a backend alone, and has no entry in `policies` for."""


def _of_backends(document: Json, kind: str) -> tuple[Json, Json]:
    """The target and `{kind: payload}`, each as the file's schema takes it."""
    target: Json = checked(TargetedPolicy, {**document, "policy": {"a2a": {}}})["target"]
    is_service = (target.get("backend") or {}).get("service") is not None
    if kind == "inferenceRouting" and not is_service:
        raise ResourceError("inferenceRouting is only supported on services")
    return target, checked(BackendPolicies, document["policy"])


def _workload(one: Any) -> Made:
    name, data = workload_of(translate.workload(one))
    return (Resource.of("workload", name, data),)


def _service(one: Any) -> Made:
    name, data = service_of(translate.service(one))
    return (Resource.of("service", name, data),)


def _group(one: pb.RouteGroup) -> Made:
    """Groups are what their routes name."""
    key_of(one)
    return ()


_MAKERS: Final[Mapping[str | None, Callable[[Any], Made]]] = {
    "route": _route,
    "tcp_route": _tcp_route,
    "backend": _backend,
    "policy": _policy,
    "workload": _workload,
    "service": _service,
    "route_group": _group,
}
