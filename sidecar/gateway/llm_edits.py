"""What the `ai` policy does to a request's body, compiled.

Source: spec/llm.md sections 0 (request pipeline, steps 4, 6, 9 and 12) and 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

from sidecar.cel.engine import CelError
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.names import Aliases
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression
from sidecar.policies.schema import nested

Data = Mapping[str, Any]
REQUEST: Final = "llmRequest"
"""The variable that expressions read the body by."""


@final
class Edits:
    """The edits of one policy. Raises: ConfigError, its path below the policy's key."""

    __slots__ = (
        "_aliases",
        "_append",
        "_defaults",
        "_final",
        "_overrides",
        "_prepend",
        "_transformations",
        "alias",
        "changes_last",
        "has_prompts",
        "is_idle",
    )

    def __init__(self, policy: Data, services: Services) -> None:
        self._defaults: Data = policy.get("defaults") or {}
        self._overrides: Data = policy.get("overrides") or {}
        self._transformations = _compiled(policy, "transformations", services)
        self._final = _compiled(policy, "finalTransformations", services)
        self.is_idle = not (self._overrides or self._transformations or self._defaults)
        """Whether `apply` changes nothing."""
        self.changes_last = bool(self._final)
        """Whether `finish` changes anything."""
        prompts = policy.get("prompts") or {}
        self._prepend: list[Json] = [dict(one) for one in prompts.get("prepend") or ()]
        self._append: list[Json] = [dict(one) for one in prompts.get("append") or ()]
        self.has_prompts = bool(self._prepend or self._append)
        self._aliases = Aliases(policy.get("modelAliases") or {})
        self.alias = self._aliases.apply
        """What a model's name stands for; the name itself when it stands for nothing else."""

    def apply(self, body: Json, request: Request) -> None:
        """Overrides, transformations, defaults. `request.state` has the original as llmRequest."""
        # Computed first: they see what the client sent.
        computed = [(key, _value(one, request)) for key, one in self._transformations]
        if self._overrides:
            body.update(self._overrides)
        _write(body, computed)
        for key, value in self._defaults.items():
            body.setdefault(key, value)

    def enrich(self, wire_format: WireFormat, body: Json) -> None:
        """Put the configured messages around the client's."""
        prepend = [dict(one) for one in self._prepend]
        wire_format.enrich(body, prepend, [dict(one) for one in self._append])

    def finish(self, body: Json, request: Request) -> None:
        """The last changes, of the body as the provider gets it."""
        before = request.state.get(REQUEST)
        request.state[REQUEST] = body
        try:
            computed = [(key, _value(one, request)) for key, one in self._final]
        finally:
            request.state[REQUEST] = before
        _write(body, computed)


def _compiled(policy: Data, key: str, services: Services) -> list[tuple[str, Expression]]:
    made: list[tuple[str, Expression]] = []
    for name, source in (policy.get(key) or {}).items():
        try:
            made.append((name, Expression(source, services, name)))
        except ConfigError as problem:
            raise nested(key, problem) from problem
    return made


def _value(expression: Expression, request: Request) -> object:
    try:
        return expression.value(request)
    except (CelError, RequestError):
        return None


def _write(body: Json, computed: list[tuple[str, object]]) -> None:
    """A value that is null, or could not be computed, takes the key away."""
    for key, value in computed:
        if value is None:
            body.pop(key, None)
        else:
            body[key] = value
