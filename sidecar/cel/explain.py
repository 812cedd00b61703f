"""Evaluates an expression and says how its parts came out: for those who write expressions.

Source: spec/config.md section 8.4, `/api/cel`; what goes beyond a result and an error is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from sidecar.cel.analysis import COMPREHENSIONS, is_namespaced
from sidecar.cel.encoding import jsonable
from sidecar.cel.engine import Engine, Program
from sidecar.cel.parser import parse
from sidecar.cel.syntax import Call, Ident, Index, ListOf, Literal, MapOf, Node, Select, children
from sidecar.cel.values import CelError, Flattened
from sidecar.cel.written import written
from sidecar.errors import ConfigError

MAX_STEPS: Final = 200
_SCOPED: Final = COMPREHENSIONS | {"with"}
"""Methods whose arguments name variables of their own, so that they mean nothing alone."""


@final
@dataclass(frozen=True, slots=True)
class Step:
    """A part of the expression. `value` is JSON; `error`: why there is none, else ""."""

    expression: str
    value: Any = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """`value` or `error`."""
        outcome = {"error": self.error} if self.error else {"value": self.value}
        return {"expression": self.expression, **outcome}


@final
@dataclass(frozen=True, slots=True)
class Explanation:
    """The result, and how it came about. Parts stand in the order in which they are written."""

    result: Any = None
    error: str = ""
    steps: list[Step] = field(default_factory=list)
    variables: list[str] = field(default_factory=list)
    """What it names, as `request.path`."""
    absent: list[str] = field(default_factory=list)
    """Variables it names that the sample lacks."""
    reads: list[str] = field(default_factory=list)
    """Bodies that a policy with it makes the gateway hold back until they are whole."""

    def to_json(self) -> dict[str, Any]:
        """As the admin API answers."""
        return {
            "result": self.result,
            "error": self.error or None,
            "explanation": {
                "steps": [one.to_json() for one in self.steps],
                "variables": self.variables,
                "absent": self.absent,
                "buffers": self.reads,
            },
        }


def explain(engine: Engine, source: str, activation: Mapping[str, object]) -> Explanation:
    """Evaluate it on an activation (see `sample`). An expression that is wrong is an error too."""
    try:
        program = engine.compile(source)
        parts = [node for node in _parts(parse(source)) if not isinstance(node, Literal)]
    except ConfigError as error:
        return Explanation(error=error.message)
    whole = _step(program, source, activation)
    steps = [_part(engine, written(node), activation) for node in parts[1 : MAX_STEPS + 1]]
    bodies = (("request", program.needs_request_body), ("response", program.needs_response_body))
    return Explanation(
        whole.value,
        whole.error,
        steps,
        sorted({".".join(path) for path in program.paths}),
        sorted(program.variables - activation.keys()),
        [f"{name}.body" for name, is_read in bodies if is_read],
    )


def _parts(node: Node) -> Iterator[Node]:
    """The nodes that have a value by themselves, those of one chain of fields once."""
    yield node
    below = children(node)
    if isinstance(node, Select | Index) and _is_chain(node):
        return
    if isinstance(node, Call) and node.target is not None:
        if is_namespaced(node):
            below = node.args
        elif node.name in _SCOPED:
            below = (node.target,)
    for child in below:
        if isinstance(child, ListOf | MapOf) and _is_constant(child):
            continue  # a constant
        yield from _parts(child)


def _is_constant(node: Node) -> bool:
    return all(isinstance(child, Literal) for child in children(node))


def _is_chain(node: Node) -> bool:
    while isinstance(node, Select | Index):
        if isinstance(node, Index) and not isinstance(node.key, Literal):
            return False
        node = node.operand
    return isinstance(node, Ident)


def _part(engine: Engine, text: str, activation: Mapping[str, object]) -> Step:
    try:
        return _step(engine.compile(text), text, activation)
    except ConfigError as error:
        return Step(text, error=error.message)


def _step(program: Program, text: str, activation: Mapping[str, object]) -> Step:
    try:
        value = program.eval(activation)
        return Step(text, jsonable(value.value if isinstance(value, Flattened) else value))
    except CelError as error:
        return Step(text, error=str(error))
