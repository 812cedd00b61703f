"""Sets of allow, deny and require rules, as requests and connections are judged by.

Source: spec/config.md section 3.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self, final

from pydantic import Discriminator, Tag, model_validator

from sidecar.errors import ConfigError
from sidecar.http.message import Request
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression, shared_plan
from sidecar.policies.schema import OBJECT, PLAIN, PolicyConfig, exactly_one, form


class Rule(PolicyConfig):
    """One rule; exactly one key."""

    allow: str | None = None
    """CEL: when true the request passes, unless another rule is against it."""
    deny: str | None = None
    """CEL: when true the request is refused. An error is not true, so that it does not refuse."""
    require: str | None = None
    """CEL: when not true, also for an error, the request is refused."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self)
        return self


AnyRule = Annotated[Annotated[Rule, Tag(OBJECT)] | Annotated[str, Tag(PLAIN)], Discriminator(form)]
"""A rule, or the CEL of an allow rule."""

Effect = Literal["allow", "deny", "require"]


@final
class RuleSet:
    """Rules of all levels as one set. `roots`: the only variables they may name, None for any."""

    __slots__ = ("_allow", "_deny", "_plan", "_require", "needs_request_body", "variables")

    def __init__(
        self, rules: Sequence[AnyRule], services: Services, roots: frozenset[str] | None = None
    ) -> None:
        compiled: dict[Effect, list[Expression]] = {"allow": [], "deny": [], "require": []}
        for index, rule in enumerate(rules):
            effect, source = _effect(rule)
            path = f"rules[{index}]" if isinstance(rule, str) else f"rules[{index}].{effect}"
            expression = Expression(source, services, path)
            if roots is not None and not expression.variables <= roots:
                unknown = ", ".join(f"`{name}`" for name in sorted(expression.variables - roots))
                text = f"{unknown} cannot be named here, only " + ", ".join(sorted(roots))
                raise ConfigError(path, text)
            strangers = expression.program.unknown_variables
            if effect == "deny" and strangers:
                # An error is not true, so a misspelt variable would let everybody in.
                names = ", ".join(f"`{name}`" for name in sorted(strangers))
                raise ConfigError(path, f"unknown variable {names}: this rule could never deny")
            compiled[effect].append(expression)
        everything = [item for items in compiled.values() for item in items]
        self.needs_request_body = any(item.needs_request_body for item in everything)
        self.variables = frozenset[str]().union(*(item.variables for item in everything))
        """Root names that the rules read."""
        self._plan = shared_plan(everything) if everything else None
        self._deny = tuple(item.true_in for item in compiled["deny"])
        self._require = tuple(item.true_in for item in compiled["require"])
        self._allow = tuple(item.true_in for item in compiled["allow"])

    def permits(self, request: Request) -> bool:
        """Whether the rules let it pass: denials first, then requirements, then allowances.

        Raises: RequestError when a rule names `request.path` and the path is ambiguous.
        """
        if self._plan is None:
            return True
        activation = self._plan.activation(request)
        for is_true in self._deny:
            if is_true(activation):
                return False
        for is_true in self._require:
            if not is_true(activation):
                return False
        if not self._allow:
            return True
        return any(is_true(activation) for is_true in self._allow)


def _effect(rule: AnyRule) -> tuple[Effect, str]:
    if isinstance(rule, str):
        return "allow", rule
    if rule.allow is not None:
        return "allow", rule.allow
    if rule.deny is not None:
        return "deny", rule.deny
    return "require", rule.require or ""
