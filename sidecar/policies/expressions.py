"""A CEL expression as a policy uses it: compiled once, given the variables it names, evaluated.

Source: spec/config.md section 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, final

from sidecar.cel.engine import CelError
from sidecar.cel.variables import Plan
from sidecar.errors import ConfigError
from sidecar.http.message import Request, Response
from sidecar.policies import fields
from sidecar.policies.base import Services

_LEARNT: Final = re.compile(r"(?:llm|apiKey|jwt)(?:\.[A-Za-z]+){1,2}")
"""Who the client is, and what a call of a model has used or cost: by far the most frequent
expressions of limits."""
_SECRETS: Final = frozenset(("apiKey.key", "jwt.rawToken"))
_PLAIN: Final = frozenset((str, int, float))

Activation = Mapping[str, object]
"""Variables and their values at one moment, enough for all expressions of the plan that made it."""


@final
class Expression:
    """One expression of a policy.

    `with_response`: it is evaluated when there is a response. Elsewhere naming `response` is
    refused, since such an expression could only ever fail. `path` is where it stands below the
    policy's key. Raises: ConfigError.
    """

    __slots__ = (
        "_keys",
        "_plan",
        "is_learnt",
        "names_response",
        "needs_request_body",
        "needs_response_body",
        "program",
        "true_in",
        "variables",
    )

    def __init__(
        self, source: str, services: Services, path: str, *, with_response: bool = False
    ) -> None:
        try:
            program = services.cel.compile(source)
        except ConfigError as problem:
            raise ConfigError(path, problem.message) from problem
        self.variables = program.variables
        """Root names of the variables it reads."""
        self.names_response = "response" in program.variables
        if self.names_response and not with_response:
            raise ConfigError(path, "`response` is not known yet where this is evaluated")
        # Policies run before the model gateway reads the body.
        self.needs_request_body = program.needs_request_body or "llmRequest" in program.variables
        self.needs_response_body = program.needs_response_body
        self.program = program
        self.true_in = program.truth
        """`true_in(activation)`: whether it is true; an error or another type is not."""
        self._plan = Plan((program,))
        found = _LEARNT.fullmatch(source.strip())
        self.is_learnt = found is not None and found[0] not in _SECRETS
        """Whether it does no more than name a field of what policies or the model gateway learnt,
        so that `value` is quick."""
        self._keys = tuple(found[0].split(".")) if found is not None else ()

    def value(self, request: Request, response: Response | None = None) -> object:
        """The value as plain Python. Raises: CelError; RequestError for an ambiguous path."""
        # Fast path: a number or a text that stands where the expression says.
        if self.is_learnt:
            held: Any = request.state
            try:
                for key in self._keys:
                    held = held[key]
            except (LookupError, TypeError):
                held = None
            if type(held) in _PLAIN:
                return held
        return self.program.eval(self._plan.activation(request, response))

    def truth(self, request: Request, response: Response | None = None) -> bool:
        """Whether it is true; an error or another type is not. Raises: RequestError as `value`."""
        return self.true_in(self._plan.activation(request, response))

    def value_in(self, activation: Activation) -> object:
        """The value under an activation of a shared plan; None for an error."""
        try:
            return self.program.eval(activation)
        except CelError:
            return None

    def encoded_in(self, activation: Activation) -> bytes | None:
        """The value's bytes under an activation of a shared plan; None for an error or null."""
        return fields.encoded(self.value_in(activation))


def shared_plan(expressions: Iterable[Expression]) -> Plan:
    """One plan for expressions that are evaluated at the same moment: variables are built once."""
    return Plan(expression.program for expression in expressions)
