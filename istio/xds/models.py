"""Routes of models of a controller, put together to the routers that the `llm` section makes.

Design note
-----------
A router is one backend of the snapshot with all its models, so it is made as a whole: of the routes
that name it, and of the providers in the backends to which they lead. It is made anew whenever one
of these changes. While something that a new route names has not come, the router is made of the
routes that were good before; when something has gone that they name, there is no router: a model
that is missing must not become another one's, whose name is a pattern that fits. New routes with a
fault are refused, and the router stays as it was.

    route names     router                                    its backend
    router_key      of the backends `model_router` with it    theirs
    listener_key    of the listener, on all of its paths      one that no controller can name

Source: spec istio 3.8; spec config 1.9, 5.2 and 5.3; the field list of ModelRoute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, final

from istio.errors import ResourceError
from istio.xds._pb import resource_pb2 as pb
from istio.xds.documents.checking import key_of
from istio.xds.documents.models import Model, fits, model_of
from istio.xds.documents.plain import Json
from sidecar.config.internal import internal_route
from sidecar.config.routes import DEFAULT_MATCH, Place
from sidecar.config.run import Known, Run
from sidecar.config.snapshot import Resource
from sidecar.errors import ConfigError
from sidecar.policies.merge import merge

_log = logging.getLogger(__name__)
Made = tuple[Resource, ...]
Backends = Callable[[str], tuple[Json, Json] | None]
"""Key of a backend → its data and the policies attached to it by target; None: not there."""
_PARAMS: Final = ("baseUrl", "hostOverride", "pathOverride", "pathPrefix", "tokenize")
_ROUTE: Final = "llm:request"


@final
class _WaitingError(Exception):
    """Something that a route names has not come."""


@final
class Models:
    """Routes and routers as they were sent. See the design note."""

    def __init__(self, check: Callable[[Resource], None]) -> None:
        """`check`: raises ConfigError for a resource that cannot be run."""
        self._check = check
        self._sent: dict[str, Model] = {}
        """By name in the control plane."""
        self._routers: dict[str, tuple[str, str]] = {}
        """Name in the control plane → key of the backend, key of the router."""
        self._good: dict[str, dict[str, Model]] = {}
        """Of each router, the routes that it was made of last."""
        self._fresh: set[str] = set()
        """Routes sent since the last settlement."""
        self._made: set[str] = set()
        """Names that made something."""
        self._passed: dict[str, bytes] = {}
        """Key of a backend → what of it the check has found good."""
        self._told: dict[str, str] = {}
        """Of each router, what the log says that it waits for."""

    def copy(self) -> Models:
        """As it is now; what is held is never changed."""
        other = Models(self._check)
        other._sent, other._routers = dict(self._sent), dict(self._routers)
        other._good, other._made = dict(self._good), set(self._made)
        return other

    def put(self, name: str, message: pb.ModelRoute) -> None:
        """A route was sent. Raises: ResourceError."""
        made = model_of(message)
        self._routers.pop(name, None)
        self._sent[name] = made
        self._fresh.add(name)

    def put_router(self, name: str, one: pb.Backend) -> None:
        """A backend `model_router` was sent. Raises: ResourceError."""
        if not one.model_router.router_key:
            raise ResourceError("model_router.router_key is missing")
        if one.inline_policies:
            raise ResourceError("policies of a model router are not supported")
        key = key_of(one)
        self._sent.pop(name, None)
        self._routers[name] = key, one.model_router.router_key

    def drop(self, name: str) -> None:
        """It is gone."""
        one = self._sent.pop(name, None)
        if one is not None:
            self._forget(one.router, name)
        self._routers.pop(name, None)
        self._fresh.discard(name)
        self._made.discard(name)  # whoever drops it takes away what it made

    def _forget(self, router: str, name: str) -> None:
        """What comes under the name later has nothing that was good before."""
        left = {key: one for key, one in self._good.pop(router, {}).items() if key != name}
        if left:
            self._good[router] = left

    def __contains__(self, name: str) -> bool:
        return name in self._sent or name in self._routers

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to settle."""
        return not (self._sent or self._routers or self._made)

    def settle(
        self, backends: Backends, refused: dict[str, str]
    ) -> Iterable[tuple[str, Made | None]]:
        """(name, what it makes; None for what it made before) of everything; notes refusals."""
        made: dict[str, Made | None] = {}
        for owner, backend, router, listener in self._places():
            made[owner] = self._settled(router, backend, listener, backends, refused)
        gone = dict.fromkeys(self._made - made.keys(), ())
        self._made = set(made)
        self._fresh.clear()
        return {**gone, **made}.items()

    def _places(self) -> Iterator[tuple[str, str, str, str]]:
        """Name of the owner, key of the backend, key of the router, key of the listener or ""."""
        for name, (key, router) in self._routers.items():
            yield name, key, f"router {router}", ""
        for router in sorted({one.router for one in self._sent.values() if one.listener}):
            listener = router.removeprefix("listener ")
            # A control plane's names and keys have no spaces.
            yield f"models of {router}", f"models of {router}", router, listener

    def _settled(
        self, router: str, backend: str, listener: str, backends: Backends, refused: dict[str, str]
    ) -> Made | None:
        own = {name: one for name, one in self._sent.items() if one.router == router}
        try:
            made = self._make(own, backend, listener, backends)
        except _WaitingError as error:
            self._tell(router, f"waits for {error}")
            return self._without_fresh(own, router, backend, listener, backends)
        except (ResourceError, ConfigError) as error:
            self._put_back(router, own, str(error), refused)
            return self._without_fresh(own, router, backend, listener, backends) or None
        self._good[router] = own
        self._told.pop(router, None)
        return made

    def _without_fresh(
        self,
        own: Mapping[str, Model],
        router: str,
        backend: str,
        listener: str,
        backends: Backends,
    ) -> Made:
        good = self._good.get(router, {})
        kept = {name: good[name] for name in own if name in good}
        try:
            return self._make(kept, backend, listener, backends) if kept else ()
        except (_WaitingError, ResourceError, ConfigError):
            return ()

    def _tell(self, router: str, text: str) -> None:
        if self._told.get(router) != text:
            self._told[router] = text
            _log.warning("models: %s %s", router, text)

    def _put_back(
        self, router: str, own: Mapping[str, Model], reason: str, refused: dict[str, str]
    ) -> None:
        """What was good before stays, and with it what was made of it."""
        good = self._good.get(router, {})
        fresh = own.keys() & self._fresh
        if not fresh:
            self._tell(router, f"stays as it was: {reason}")
        for name in fresh:
            refused.setdefault(name, reason)
            del self._sent[name]
            if name in good:
                self._sent[name] = good[name]

    # --- one router -----------------------------------------------------------------------

    def _make(
        self, own: Mapping[str, Model], backend: str, listener: str, backends: Backends
    ) -> Made:
        models: list[Json] = []
        virtual: list[Json] = []
        for one in sorted(own.values(), key=lambda one: (one.created, one.key)):
            if one.routing is None:
                models += _concrete(one, backends)
            elif "failover" in one.routing:
                found, entry = _failover(one, backends)
                models += found
                virtual.append(entry)
            else:
                virtual.append(_virtual(one, one.routing))
        _await_targets(models, virtual)
        target = {"llm": {"models": models, "virtualModels": virtual}}
        made = [Resource.of("backend", backend, {"target": target, "policies": {}})]
        if self._passed.get(backend) != made[0].digest:
            self._check(made[0])
            self._passed[backend] = made[0].digest
        if listener:
            made.append(_route_at(listener, backend))
        return tuple(made)


def _route_at(listener: str, backend: str) -> Resource:
    run = Run([], Known(unsure=frozenset(("backend",))))
    place = Place(listener, listener, None, "HTTP")
    internal_route(place, _ROUTE, {}, (backend, {"ref": backend}), [DEFAULT_MATCH], "", run)
    (made,) = run.resources.values()
    return made


def _groups(one: Model, backends: Backends) -> tuple[list[list[Json]], list[Json]]:
    """Providers of the backend it leads to, and the levels of policies around them."""
    found = backends(one.backend)
    if found is None:
        raise _WaitingError(one.backend)
    data, attached = found
    groups = data["target"].get("ai", {}).get("groups")
    if groups is None:
        raise ResourceError(f"{one.key}: {one.backend} is no backend of models")
    return groups, [attached, data["policies"], one.policies]


def _model(one: Model, name: str, id_: str, entry: Json, levels: list[Json]) -> Json:
    policies = merge([*levels, entry["policies"]])
    if (policies.get("ai") or {}).get("routes"):
        raise ResourceError(f"{one.key}: a router of models has the paths of its own, not `routes`")
    data: Json = {
        "id": id_,
        "key": f"llm:model:{id_}",
        "name": name,
        "provider": entry["provider"],
        "params": {key: entry[key] for key in _PARAMS if entry.get(key) is not None},
        "policies": policies,
        "visibility": "public" if one.is_public else "internal",
    }
    return data if one.authorization is None else {**data, "authorization": one.authorization}


def _concrete(one: Model, backends: Backends) -> list[Json]:
    groups, levels = _groups(one, backends)
    if [len(group) for group in groups] != [1]:
        raise ResourceError(f"{one.key}: {one.backend} has several providers: one is supported")
    return [_model(one, one.name, one.key, groups[0][0], levels)]


def _failover(one: Model, backends: Backends) -> tuple[list[Json], Json]:
    """A model for each provider, which nobody can ask for, and the virtual one over them."""
    groups, levels = _groups(one, backends)
    models: list[Json] = []
    targets: list[Json] = []
    for rank, group in enumerate(groups):
        for entry in group:
            (given,) = entry["provider"].values()
            if not (given or {}).get("model"):
                raise ResourceError(f"{one.key}: `{entry['name']}` of a failover names no model")
            name = f"{one.name} {rank}.{entry['name']}"
            models.append(_model(one, name, f"{one.key} {rank}.{entry['name']}", entry, levels))
            targets.append({"model": name, "priority": rank})
    return models, _virtual(one, {"failover": {"targets": targets}})


def _virtual(one: Model, routing: Json) -> Json:
    return {"name": one.name, "key": f"llm:virtual-model:{one.key}", "routing": routing}


def _await_targets(models: list[Json], virtual: list[Json]) -> None:
    names = [model["name"] for model in models]
    for entry in virtual:
        (value,) = entry["routing"].values()
        for target in value["targets"]:
            if not any(fits(name, target["model"]) for name in names):
                raise _WaitingError(f"the model {target['model']}")
