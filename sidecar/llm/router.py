"""Which configured models a request means, in `llm` mode, and the list of models.

Source: spec llm sections 0 (error codes), 3.4 and 3.5; spec config sections 5.2 and 5.3.

A virtual model's name is looked up first, then models: the most specific name pattern, then the
order of the file; the first whose header matches hold. An internal model is found by virtual models
only. A failover model resolves to several groups, so that one request may try the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, final

from sidecar.cel.engine import Engine
from sidecar.errors import ConfigError
from sidecar.http.message import Request
from sidecar.llm.names import AllowedModels, ModelError, NamePattern
from sidecar.llm.virtual import Strategy, strategy_of
from sidecar.routing.match import Check, Facts, compile_match

Data = Mapping[str, Any]
_REMEMBERED: Final = 4096


@final
@dataclass(frozen=True, slots=True)
class Model:
    """One entry of `llm.models`. `data`: its payload, references followed."""

    index: int
    key: str
    """Its backend's name: `llm:model:<id>`, or `llm:model:<name>:<index>`."""
    pattern: NamePattern
    is_public: bool
    matches: tuple[tuple[Check, ...], ...]
    """Alternatives of header checks; empty: any request."""
    data: Data

    def accepts(self, facts: Facts) -> bool:
        """Whether one of its matches holds."""
        return not self.matches or any(all(c(facts) for c in one) for one in self.matches)


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """A model to call, and the name that stands in the request for it from now on."""

    model: Model
    name: str


@final
@dataclass(frozen=True, slots=True)
class Resolution:
    """Where a request may go. `groups`: in order, the next when one has failed; never empty, nor is
    any group."""

    requested: str
    groups: tuple[tuple[Choice, ...], ...]
    virtual: str = ""
    """Backend name of the virtual model, `llm:virtual-model:<name>:<index>`."""


IsAllowed = Callable[[Model], bool]
"""Whether the caller may use a model, by the model's `authorization`."""


@final
class Router:
    """The models of one configuration.

    `models`: payloads with references to providers followed (`config.llm`).
    `random`: uniform in [0, 1).
    `created_seconds`: since 1970, for lists. Raises: ConfigError.
    """

    def __init__(
        self,
        models: Sequence[Data],
        virtual_models: Sequence[Data],
        cel: Engine,
        random: Callable[[], float],
        created_seconds: int,
    ) -> None:
        self.models = tuple(_model(data, index) for index, data in enumerate(models))
        _check_ids(models)
        order = sorted(self.models, key=lambda model: -model.pattern.specificity)
        self._created = created_seconds

        def found(name: str) -> tuple[Model, ...]:
            return tuple(model for model in order if model.pattern.matches(name))

        # Names come from clients: the memory of them is bounded.
        self._found = lru_cache(_REMEMBERED)(found)
        self._fixed = lru_cache(_REMEMBERED)(self._found_alone)
        self._virtual: dict[str, tuple[str, Strategy]] = {}
        for index, data in enumerate(virtual_models):
            name = data["name"]
            if name in self._virtual:
                raise ConfigError(f"llm.virtualModels[{index}].name", f"`{name}` is there twice")
            strategy = strategy_of(data, f"llm.virtualModels[{index}]", cel, random, found)
            self._virtual[name] = (f"llm:virtual-model:{name}:{index}", strategy)

    def resolve(
        self,
        name: str,
        request: Request,
        allowed: AllowedModels | None = None,
        is_allowed: IsAllowed | None = None,
    ) -> Resolution:
        """What the client's model name means. Conditions read `request.state` (`llmRequest`, …).

        Raises: ModelError 400, 403, 404.
        """
        if allowed is not None and not allowed.allows(name):
            raise ModelError(403, "model_not_allowed", f"Model '{_shown(name)}' is not allowed")
        virtual = self._virtual.get(name)
        # Fast path: the name alone says which model.
        if virtual is None and is_allowed is None and (fixed := self._fixed(name)) is not None:
            return fixed
        facts = _facts(request)
        if virtual is None:
            model = self._first(name, facts, is_public=True)
            if model is None:
                raise _not_found(name)
            _check_allowed((model,), is_allowed)
            return Resolution(name, ((Choice(model, name),),))
        key, strategy = virtual
        groups = [
            [Choice(m, target) for target in group if (m := self._first(target, facts)) is not None]
            for group in strategy(request)
        ]
        groups = [group for group in groups if group]
        if not groups:
            raise ModelError(
                404, "virtual_model_target_not_found", f"No target of '{name}' can be used"
            )
        usable = _allowed_groups(groups, is_allowed)
        return Resolution(name, usable, key)

    def _found_alone(self, name: str) -> Resolution | None:
        """What a name means in each request; None when that depends on the request."""
        for model in self._found(name):
            if model.is_public:
                alone = Resolution(name, ((Choice(model, name),),))
                return None if model.matches else alone
        return None

    def _first(self, name: str, facts: Facts, *, is_public: bool = False) -> Model | None:
        for model in self._found(name):
            if (model.is_public or not is_public) and model.accepts(facts):
                return model
        return None

    def listing(
        self, allowed: AllowedModels | None = None, is_allowed: IsAllowed | None = None
    ) -> dict[str, Any]:
        """The answer to `GET /v1/models`: what this caller may ask for."""
        names = dict.fromkeys(self._names(allowed, is_allowed))
        return {"data": [self._entry(name) for name in names], "object": "list"}

    def detail(
        self,
        name: str,
        allowed: AllowedModels | None = None,
        is_allowed: IsAllowed | None = None,
    ) -> dict[str, Any]:
        """The answer to `GET /v1/models/{name}`, also for a name that a pattern matches.

        Raises: ModelError 404; the same for what the caller may not see.
        """
        is_known = name in self._virtual or any(
            model.is_public and (is_allowed is None or is_allowed(model))
            for model in self._found(name)
        )
        if not is_known or (allowed is not None and not allowed.allows(name)):
            raise _not_found(name)
        return self._entry(name)

    def _names(self, allowed: AllowedModels | None, is_allowed: IsAllowed | None) -> Iterable[str]:
        for model in self.models:
            if not model.is_public or (is_allowed is not None and not is_allowed(model)):
                continue
            yield from [model.pattern.text] if allowed is None else allowed.shown(model.pattern)
        for name in self._virtual:
            if allowed is None or allowed.allows(name):
                yield name

    def _entry(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "openai"}


def _not_found(name: str) -> ModelError:
    return ModelError(404, "model_not_found", f"Model '{_shown(name)}' not found")


def _shown(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:200]}…"


def _check_allowed(models: Sequence[Model], is_allowed: IsAllowed | None) -> None:
    if is_allowed is not None and not any(map(is_allowed, models)):
        raise ModelError(403, "model_authorization_denied", "Access to the model is denied")


def _allowed_groups(
    groups: list[list[Choice]], is_allowed: IsAllowed | None
) -> tuple[tuple[Choice, ...], ...]:
    if is_allowed is not None:
        _check_allowed([choice.model for group in groups for choice in group], is_allowed)
        groups = [[choice for choice in group if is_allowed(choice.model)] for group in groups]
    return tuple(tuple(group) for group in groups if group)


def _facts(request: Request) -> Facts:
    path, _, query = request.target.partition("?")
    return Facts(request.headers, query, request.method, request.scheme, request.authority, path)


def _model(data: Data, index: int) -> Model:
    place = f"llm.models[{index}]"
    pattern = NamePattern.parse(data["name"], f"{place}.name")
    key = f"llm:model:{data['id']}" if data.get("id") else f"llm:model:{data['name']}:{index}"
    matches = [
        _checks(one.get("headers") or (), f"{place}.matches[{at}]")
        for at, one in enumerate(data.get("matches") or ())
    ]
    is_public = data.get("visibility", "public") == "public"
    return Model(index, key, pattern, is_public, tuple(matches), data)


def _checks(headers: Sequence[Data], place: str) -> tuple[Check, ...]:
    made: list[dict[str, str]] = []
    for item in headers:
        value = item["value"]
        if value == "invalid":
            return (_never,)
        kind = "exact" if value.get("exact") is not None else "regex"
        made.append({"name": item["name"], "kind": kind, "value": value[kind]})
    return compile_match({"headers": made}, place).checks


def _never(facts: Facts) -> bool:
    return False


def _check_ids(models: Sequence[Data]) -> None:
    seen: set[str] = set()
    for index, data in enumerate(models):
        name = data.get("id")
        if name is None:
            continue
        if not name:
            raise ConfigError(f"llm.models[{index}].id", "llm.models model id cannot be empty")
        if name in seen:
            raise ConfigError(
                f"llm.models[{index}].id", f"llm.models contains duplicate model id: {name}"
            )
        seen.add(name)
