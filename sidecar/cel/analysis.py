"""Which variables an expression names, told from its tree: strings, map keys and loop variables
are never mistaken for them.

Source: spec/config.md sections 7.2 and 7.6.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from sidecar.cel.functions import FUNCTIONS, NAMESPACES
from sidecar.cel.syntax import Call, Ident, Index, Let, Literal, Node, Select, children
from sidecar.cel.values import TYPES_BY_NAME

_ROOTS: Final = """
    request response proxy env jwt apiKey basicAuth llm llmRequest source destination mcp a2a
    backend extauthz extproc mcpGuardrails metadata
"""
ROOTS: Final = frozenset(_ROOTS.split())
"""The variables that a gateway knows."""

COMPREHENSIONS: Final = frozenset(
    ("all", "exists", "exists_one", "map", "filter", "mapValues", "filterKeys")
)
"""Methods whose first argument names a variable that the others may use."""

Path = tuple[str, ...]


def paths(node: Node) -> frozenset[Path]:
    """Every chain of constant keys from a variable on, the variable first; each as long as written.

    `request.headers["x"] == jwt.sub` gives `("request", "headers", "x")` and `("jwt", "sub")`.
    `variables()` counts as each variable of the gateway, whole.
    """
    found: set[Path] = set()
    _collect(node, frozenset(), found)
    return frozenset(found)


def _collect(node: Node, bound: frozenset[str], found: set[Path]) -> None:
    path = _chain(node)
    if path is not None:
        if path[0] not in bound and not _is_type(path):
            found.add(path)
        return
    if isinstance(node, Let):
        for _, value in node.bindings:
            _collect(value, bound, found)
        _collect(node.body, bound.union(name for name, _ in node.bindings), found)
    elif isinstance(node, Call) and node.target is not None and node.name in COMPREHENSIONS:
        _collect(node.target, bound, found)
        variable = node.args[0] if node.args else None
        inner = bound | {variable.name} if isinstance(variable, Ident) else bound
        for argument in node.args[1:]:
            _collect(argument, inner, found)
    else:
        if isinstance(node, Call) and node.name == "variables" and node.target is None:
            found.update((root,) for root in ROOTS)
        below = node.args if isinstance(node, Call) and is_namespaced(node) else children(node)
        for child in below:
            _collect(child, bound, found)


def _is_type(path: Path) -> bool:
    return ".".join(path) in TYPES_BY_NAME and path[0] not in ROOTS


def is_namespaced(node: Call) -> bool:
    """Whether the target is no variable but a part of the function's name, as in `math.ceil`."""
    name = node.target.name if isinstance(node.target, Ident) else ""
    return name in NAMESPACES and f"{name}.{node.name}" in FUNCTIONS


def _chain(node: Node) -> Path | None:
    keys: list[str] = []
    while True:
        if isinstance(node, Select):
            keys.append(node.field)
            node = node.operand
        elif (
            isinstance(node, Index)
            and isinstance(node.key, Literal)
            and isinstance(node.key.value, str)
        ):
            keys.append(node.key.value)
            node = node.operand
        elif isinstance(node, Ident):
            return (node.name, *reversed(keys))
        else:
            return None


def dotted_type(node: Select, bound: Container[str]) -> str | None:
    """The type that `google.protobuf.Timestamp` and its like stand for; None for anything else."""
    path = _chain(node)
    if path is None or path[0] in bound or not _is_type(path):
        return None
    return ".".join(path)


def names(found: frozenset[Path], root: str, *fields: str) -> bool:
    """Whether a path reads one of the fields of a root, or the root as a whole."""
    return any(path[0] == root and (len(path) == 1 or path[1] in fields) for path in found)
