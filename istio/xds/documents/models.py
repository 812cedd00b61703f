"""One route of models (ModelRoute), as the file's models and virtual models have it.

Source: as plain.py; spec config 5.2 and 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

from istio.errors import ResourceError
from istio.xds._pb import resource_pb2 as pb
from istio.xds.documents.backend import backend_policies
from istio.xds.documents.checking import checked, key_of, raise_first, run_of
from istio.xds.documents.converter import CONVERTER
from istio.xds.documents.plain import Json, once
from sidecar.config.model.llm import VirtualRouting
from sidecar.config.model.policies import BackendPolicies
from sidecar.config.payloads import policies
from sidecar.config.validate import check_backend_scope
from sidecar.errors import ConfigError

_PUBLIC: Final = pb.ModelRoute.ConcreteModel.PUBLIC
_INTERNAL: Final = pb.ModelRoute.ConcreteModel.INTERNAL


@final
@dataclass(frozen=True, slots=True)
class Model:
    """`router`: `router <key>` or `listener <key>`. `backend`: of a concrete model and a failover.
    `routing`: of a virtual one, in the file's words; that of a failover is empty, for it is made
    of the backend."""

    key: str
    name: str
    router: str
    listener: str
    created: int
    backend: str
    routing: Json | None
    is_public: bool
    policies: Json
    authorization: Json | None


def model_of(one: pb.ModelRoute) -> Model:
    """Raises: ResourceError."""
    key, name = key_of(one), one.match.model
    if not name or name.count("*") > 1 or "*" in name[1:-1]:
        raise ResourceError(f"match.model: `{name}`: a name, with one `*` at its start or end")
    if not one.router_key and not one.listener_key:
        raise ResourceError("neither router_key nor listener_key is there")
    listener = "" if one.router_key else one.listener_key
    router = f"listener {listener}" if listener else f"router {one.router_key}"
    kind = one.WhichOneof("kind")
    if kind is None:
        raise ResourceError("a model of no known kind")
    made = _policies(one)
    authorization = _authorization(one)
    if kind == "virtual_model":
        backend, routing, is_public = *_virtual(one, name), False
        if authorization is not None and "failover" not in routing:
            raise ResourceError("authorization of a virtual model is not supported")
        if made and "failover" not in routing:
            raise ResourceError("ai_policy of a virtual model is not supported")
    else:
        concrete = one.concrete_model
        if concrete.model_visibility not in (_PUBLIC, _INTERNAL):
            raise ResourceError(f"model_visibility: {concrete.model_visibility} is not known here")
        backend, routing = _reference(concrete.backend), None
        is_public = concrete.model_visibility == _PUBLIC
    return Model(
        key, name, router, listener, one.created, backend, routing, is_public, made, authorization
    )


def _policies(one: pb.ModelRoute) -> Json:
    """Of the route and of its way to the backend, as the file's schema and functions take them."""
    document = backend_policies(CONVERTER, one.concrete_model.backend_policies)
    if one.HasField("ai_policy"):
        once(document, "ai", CONVERTER.plain(one.ai_policy))
    problems: list[ConfigError] = []
    run = run_of(document, problems)
    given: Any = checked(BackendPolicies, document)
    check_backend_scope(given, "", run, scope="named")
    made = policies(given, "", run)
    raise_first(problems)
    return made


def _authorization(one: pb.ModelRoute) -> Json | None:
    if not one.HasField("authorization"):
        return None
    document = {"authorization": CONVERTER.plain(one.authorization)}
    rules: Json = checked(BackendPolicies, document)["authorization"]
    return rules


def _virtual(one: pb.ModelRoute, name: str) -> tuple[str, Json]:
    """The backend of a failover, and the routing."""
    if "*" in name:
        raise ResourceError("match.model: a virtual model has no pattern for a name")
    virtual = one.virtual_model
    kind = virtual.WhichOneof("routing")
    if kind == "failover":
        return _reference(virtual.failover.backend), {"failover": {}}
    if kind == "weighted":
        targets = [{"model": to.model, "weight": to.weight} for to in virtual.weighted.targets]
        if not sum(to["weight"] for to in targets):
            raise ResourceError("weighted: at least one target needs a weight above 0")
    elif kind == "conditional":
        targets = [
            {"model": to.model, **({"when": to.when} if to.HasField("when") else {})}
            for to in virtual.conditional.targets
        ]
    else:
        raise ResourceError("a virtual model of no known kind")
    if not targets:
        raise ResourceError(f"{kind}: at least one target is needed")
    return "", checked(VirtualRouting, {kind: {"targets": targets}})


def _reference(one: pb.BackendReference) -> str:
    if one.WhichOneof("kind") != "backend" or not one.backend:
        raise ResourceError("a model leads to a backend of models, by its key")
    return one.backend


def fits(pattern: str, model: str) -> bool:
    """Whether a name, with one `*` at its start or end, is of that model."""
    if pattern.startswith("*"):
        return model.endswith(pattern[1:])
    if pattern.endswith("*"):
        return model.startswith(pattern[:-1])
    return pattern == model
