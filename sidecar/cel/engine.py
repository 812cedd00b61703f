"""Compiles and evaluates CEL expressions; the one door to the CEL libraries.

Source: cel-spec; spec/config.md section 7.

The `closures` backend compiles to Python closures, has the whole language of section 7 and is the
default. The two libraries speak standard CEL, each as far as it can be trusted, and refuse the
rest when an expression is compiled; they are there to compare with, and for an operator who wants
the reference implementation to decide. `AGENTGATEWAY_CEL_ENGINE` chooses for the whole process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol, final

from sidecar.cel.analysis import ROOTS, Path, names, paths
from sidecar.cel.compiler import compile_tree
from sidecar.cel.context import Context
from sidecar.cel.custom import NONE_DEFINED, expand, parse_definitions
from sidecar.cel.libraries import CelExprPython
from sidecar.cel.parser import parse
from sidecar.cel.syntax import Node
from sidecar.cel.values import CelError, CostExceededError, Flattened, NoSuchKey, plain
from sidecar.cel.walker import CelPython
from sidecar.errors import ConfigError, RequestError

Evaluate = Callable[[Mapping[str, object]], object]
"""From an activation to a value, not yet plain. Raises CelError."""

VARIABLE: Final = "AGENTGATEWAY_CEL_ENGINE"
BACKEND: Final = os.environ.get(VARIABLE) or "closures"
"""Read once, when the module is imported, so that a process never mixes two dialects."""


class Backend(Protocol):
    """What runs expressions."""

    def prepare(self, node: Node, source: str) -> Evaluate:
        """Compile a tree. Raises ConfigError("", …), also for what it cannot do exactly."""


@final
class Closures:
    """Our own: see `compiler`."""

    __slots__ = ()

    def prepare(self, node: Node, source: str) -> Evaluate:
        """See Backend."""
        code, frame = compile_tree(node, source)

        def evaluate(activation: Mapping[str, object]) -> object:
            try:
                return code(activation, frame.copy())
            except RecursionError as exc:
                raise CelError("a value nests too deeply") from exc

        return evaluate


_BACKENDS: Final[dict[str, Callable[[], Backend]]] = {
    "closures": Closures,
    "cel-expr-python": CelExprPython,
    "cel-python": CelPython,
}


@final
class Program:
    """One compiled expression.

    `variables`: the root variables it names. `paths`: the chains of constant keys, see `analysis`.
    `context` and `sensitive_headers` are those of its engine. A program may be shared by threads.
    """

    __slots__ = (
        "_evaluate",
        "context",
        "needs_request_body",
        "needs_response_body",
        "paths",
        "sensitive_headers",
        "source",
        "variables",
    )

    def __init__(
        self,
        source: str,
        evaluate: Evaluate,
        found: frozenset[Path],
        context: Context,
        sensitive_headers: frozenset[bytes],
    ) -> None:
        self.source = source
        self._evaluate = evaluate
        self.paths = found
        self.variables = frozenset(path[0] for path in found)
        self.context = context
        self.sensitive_headers = sensitive_headers
        self.needs_request_body = names(found, "request", "body", "bodyPrefix")
        self.needs_response_body = names(found, "response", "body", "bodyPrefix")

    @property
    def unknown_variables(self) -> frozenset[str]:
        """Variables that no gateway has: often a spelling mistake, and never more than absent."""
        return self.variables - ROOTS

    def eval(self, activation: Mapping[str, object]) -> object:
        """The value, as plain Python that shares nothing with the activation; raises CelError.

        Kinds: None, bool, int, float, str, bytes, list, dict, datetime, timedelta, and `Flattened`.
        """
        value = self._evaluate(activation)
        if type(value) is Flattened:
            return Flattened(plain(value.value), value.recursive)
        return plain(value)

    def truth(self, activation: Mapping[str, object]) -> bool:
        """Whether the value is true; False when it is no bool, and when evaluating it fails.

        Raises: RequestError 500 when it costs too much. A client can make a long list, and must not
        get past a rule by that.
        """
        try:
            return self._evaluate(activation) is True
        except CostExceededError as error:
            raise RequestError(500, "ExpressionCost", "an expression costs too much") from error
        except CelError:
            return False


@final
class Engine:
    """Compiles expressions that share custom functions and a redaction list.

    `custom_functions`: the text of `config.customFunctions`. `sensitive_headers`: the names of
    `config.sensitiveHeaders`. `backend` defaults to what the environment chose.
    Raises ConfigError("", …).
    """

    __slots__ = ("_backend", "_custom", "context", "reads_completion", "sensitive_headers")

    def __init__(
        self,
        custom_functions: str = "",
        sensitive_headers: Iterable[str | bytes] = frozenset(),
        *,
        context: Context | None = None,
        backend: str | None = None,
    ) -> None:
        self._backend = _backend(BACKEND if backend is None else backend)
        self.reads_completion = False
        """Whether any expression compiled so far reads what a model has answered."""
        self.context = Context() if context is None else context
        self.sensitive_headers = frozenset(
            (name.encode() if isinstance(name, str) else name).lower() for name in sensitive_headers
        )
        self._custom = NONE_DEFINED
        if custom_functions.strip():
            self._custom = parse_definitions(custom_functions)
            for one in self._custom.values():
                # Compiled alone to find its mistakes now, where its text is at hand.
                self._backend.prepare(expand(one.body, self._custom), custom_functions)

    def compile(self, source: str) -> Program:
        """One expression. Raises ConfigError("", message with line and column)."""
        node = expand(parse(source), self._custom)
        evaluate = self._backend.prepare(node, source)
        found = paths(node)
        if names(found, "llm", "completion", "toolCalls"):
            self.reads_completion = True
        return Program(source, evaluate, found, self.context, self.sensitive_headers)


def _backend(name: str) -> Backend:
    try:
        return _BACKENDS[name]()
    except KeyError:
        known = ", ".join(_BACKENDS)
        raise ConfigError("", f"{VARIABLE}: unknown engine {name!r}; known are {known}") from None


__all__ = ["BACKEND", "Backend", "CelError", "Engine", "Flattened", "NoSuchKey", "Program"]
