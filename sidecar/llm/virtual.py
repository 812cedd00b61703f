"""How a virtual model finds its targets: by share, by rank, or by condition.

Source: spec llm section 3.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

from sidecar.cel.engine import Engine, Program
from sidecar.cel.variables import Plan
from sidecar.errors import ConfigError
from sidecar.http.message import Request
from sidecar.llm.names import ModelError

Data = Mapping[str, Any]
Strategy = Callable[[Request], Sequence[Sequence[str]]]
"""From a request to groups of target names, in order."""
Find = Callable[[str], Sequence[object]]


def strategy_of(
    data: Data, place: str, cel: Engine, random: Callable[[], float], found: Find
) -> Strategy:
    """The strategy of one entry of `llm.virtualModels`. `found`: models of a name, for the check
    that every target is one. Raises: ConfigError."""
    name = data["name"]
    given = [(kind, value) for kind, value in data["routing"].items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{place}.routing",
            f"virtual model {name} must specify exactly one routing strategy",
        )
    kind, value = given[0]
    targets: Sequence[Data] = value.get("targets") or ()
    if not targets:
        raise ConfigError(
            f"{place}.routing.{kind}",
            f"virtual model {name} must specify at least one {kind} target",
        )
    for index, target in enumerate(targets):
        if not found(target["model"]):
            raise ConfigError(
                f"{place}.routing.{kind}.targets[{index}].model",
                f"virtual model target {target['model']} does not match any llm.models entry",
            )
    if kind == "weighted":
        return _weighted(name, targets, random)
    if kind == "failover":
        return _failover(targets)
    return _conditional(name, targets, f"{place}.routing.conditional", cel)


def _weighted(name: str, targets: Sequence[Data], random: Callable[[], float]) -> Strategy:
    bounds = list(accumulate(target.get("weight", 1) for target in targets))
    names = [target["model"] for target in targets]

    def draw(request: Request) -> Sequence[Sequence[str]]:
        if not bounds[-1]:
            raise ModelError(
                404, "virtual_model_not_resolved", f"Every target of '{name}' has weight 0"
            )
        at = random() * bounds[-1]
        return ((next(model for model, bound in zip(names, bounds, strict=True) if at < bound),),)

    return draw


def _failover(targets: Sequence[Data]) -> Strategy:
    order = sorted(targets, key=lambda target: int(target["priority"]))
    ranks = groupby(order, key=lambda target: int(target["priority"]))
    groups = tuple(tuple(target["model"] for target in group) for _, group in ranks)
    return lambda request: groups


def _conditional(name: str, targets: Sequence[Data], place: str, cel: Engine) -> Strategy:
    compiled: list[tuple[Program | None, str]] = []
    for index, target in enumerate(targets):
        when = target.get("when")
        if when is None and index < len(targets) - 1:
            raise ConfigError(
                f"{place}.targets[{index}]",
                f"virtual model {name} conditional fallback target must be last",
            )
        try:
            program = None if when is None else cel.compile(when)
        except ConfigError as exc:
            raise ConfigError(f"{place}.targets[{index}].when", exc.message) from exc
        compiled.append((program, target["model"]))
    plan = Plan(program for program, _ in compiled if program is not None)

    def choose(request: Request) -> Sequence[Sequence[str]]:
        activation = plan.activation(request)
        for program, model in compiled:
            if program is None or program.truth(activation):
                return ((model,),)
        raise ModelError(400, "virtual_model_no_matching_target", f"No condition of '{name}' holds")

    return choose
