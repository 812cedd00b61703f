"""`customFunctions`: functions that the operator writes in CEL, and their calls put in place.

Source: spec/config.md section 7.7.

A call becomes a `Let` around the body, so that a custom function costs nothing at request time
and the variables it names are those of the expression that calls it. Names in a body that are no
parameters mean what they mean where the call stands, as in agentgateway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from sidecar.cel.functions import FUNCTIONS, METHODS, NAMESPACES
from sidecar.cel.macros import MACROS
from sidecar.cel.parser import parse
from sidecar.cel.syntax import (
    Call,
    Ident,
    Index,
    Let,
    ListOf,
    Literal,
    MapOf,
    Node,
    Select,
    children,
    syntax_error,
)
from sidecar.errors import ConfigError

_NAME: Final = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*", re.ASCII)
_HEAD: Final = re.compile(r"\s*(this\s*\.\s*)?(\S*?)\s*\(([^)]*)\)\s*", re.ASCII)


@final
@dataclass(frozen=True, slots=True)
class Definition:
    """One function. `rest`: the name of the variadic list, or None."""

    name: str
    receiver: bool
    params: tuple[str, ...]
    rest: str | None
    body: Node


Definitions = Mapping[str, Definition]
NONE_DEFINED: Final[Definitions] = {}


def parse_definitions(source: str) -> Definitions:
    """All functions of a `customFunctions` block. Raises ConfigError("", …)."""
    found: dict[str, Definition] = {}
    position = 0
    while (position := _skip(source, position)) < len(source):
        definition, position = _definition(source, position)
        if definition.name in found:
            raise ConfigError("", f"custom function {definition.name} is defined twice")
        found[definition.name] = definition
    _refuse_recursion(found)
    return found


def _skip(source: str, position: int) -> int:
    """Past white space and `#` comments."""
    while position < len(source):
        if source[position] == "#":
            end = source.find("\n", position)
            position = len(source) if end < 0 else end
        elif not source[position].isspace():
            break
        position += 1
    return position


def _definition(source: str, start: int) -> tuple[Definition, int]:
    opening = source.find("{", start)
    head = _HEAD.fullmatch(source, start, opening if opening >= 0 else len(source))
    if opening < 0 or head is None:
        raise syntax_error(source, start, "expected a function, as `name(a, b) { … }`")
    name = head[2]
    _check_name(source, start, name, "function")
    if name in FUNCTIONS or name in METHODS or name in MACROS or name in NAMESPACES:
        raise syntax_error(source, start, f"custom function {name} hides a built-in one")
    params, rest = _parameters(source, start, head[3])
    end = _body_end(source, opening)
    # Blanks in place of what stands before keep line and column of the whole block.
    blanks = re.sub(r"[^\n]", " ", source[: opening + 1])
    body = parse(blanks + source[opening + 1 : end])
    return Definition(name, head[1] is not None, params, rest, body), end + 1


def _check_name(source: str, position: int, name: str, what: str) -> None:
    if _NAME.fullmatch(name) is None or name == "this":
        raise syntax_error(source, position, f"{name!r} is no name for a {what}")


def _parameters(source: str, start: int, inside: str) -> tuple[tuple[str, ...], str | None]:
    names = [part.strip() for part in inside.split(",")] if inside.strip() else []
    rest = names.pop()[:-3].strip() if names and names[-1].endswith("...") else None
    every = [*names, *([] if rest is None else [rest])]
    for name in every:
        _check_name(source, start, name, "parameter")
    if len(set(every)) != len(every):
        raise syntax_error(source, start, "two parameters have one name")
    return tuple(names), rest


def _body_end(source: str, opening: int) -> int:
    """The `}` that closes a body; braces in strings do not count."""
    depth, position = 0, opening
    while position < len(source):
        sign = source[position]
        if sign in "\"'":
            position = _string_end(source, position)
            continue
        if source.startswith("//", position):
            end = source.find("\n", position)
            position = len(source) if end < 0 else end
            continue
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return position
        position += 1
    raise syntax_error(source, opening, "the body does not end")


def _string_end(source: str, start: int) -> int:
    quote = source[start] * 3 if source.startswith(source[start] * 3, start) else source[start]
    raw = source[start - 1] in "rR"
    position = start + len(quote)
    while position < len(source) and not source.startswith(quote, position):
        position += 2 if source[position] == "\\" and not raw else 1
    return position + len(quote)


def _calls(node: Node) -> set[str]:
    inner = set[str]().union(*map(_calls, children(node)))
    return inner | {node.name} if isinstance(node, Call) else inner


def _refuse_recursion(found: Definitions) -> None:
    calls = {name: _calls(one.body) & found.keys() for name, one in found.items()}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ConfigError("", f"custom function {name} calls itself")
        for called in calls[name]:
            visit(called, (*above, name))

    for name in found:
        visit(name, ())


def expand(node: Node, custom: Definitions) -> Node:
    """The tree with `with` and the calls of custom functions replaced. Raises ConfigError."""
    match node:
        case Literal() | Ident():
            return node
        case Select(operand, field, optional, position):
            return Select(expand(operand, custom), field, optional, position)
        case Index(operand, key, optional, position):
            return Index(expand(operand, custom), expand(key, custom), optional, position)
        case ListOf(items, position):
            return ListOf(tuple((flag, expand(one, custom)) for flag, one in items), position)
        case MapOf(entries, position):
            pairs = ((flag, expand(k, custom), expand(v, custom)) for flag, k, v in entries)
            return MapOf(tuple(pairs), position)
        case Call():
            return _expand_call(node, custom)
        case Let():
            raise AssertionError("the parser makes no Let")


def _expand_call(node: Call, custom: Definitions) -> Node:
    target = None if node.target is None else expand(node.target, custom)
    args = tuple(expand(argument, custom) for argument in node.args)
    if node.name == "with" and target is not None:
        if len(args) != 2 or not isinstance(args[0], Ident):
            raise ConfigError("", "CEL: with() takes a name and an expression")
        return Let(((args[0].name, target),), args[1], node.position)
    definition = custom.get(node.name)
    if definition is None or _is_namespaced(node):
        return Call(node.name, target, args, node.position)
    return _applied(definition, target, args, node.position, custom)


def _is_namespaced(node: Call) -> bool:
    return isinstance(node.target, Ident) and f"{node.target.name}.{node.name}" in FUNCTIONS


def _applied(
    one: Definition, target: Node | None, args: tuple[Node, ...], position: int, custom: Definitions
) -> Let:
    if one.receiver != (target is not None):
        form = f"x.{one.name}(…)" if one.receiver else f"{one.name}(…)"
        raise ConfigError("", f"CEL: custom function {one.name} is called as {form}")
    fixed = len(one.params)
    if len(args) < fixed or (one.rest is None and len(args) > fixed):
        raise ConfigError("", f"CEL: custom function {one.name} takes {fixed} arguments")
    bindings = list(zip(one.params, args, strict=False))
    if one.rest is not None:
        rest = ListOf(tuple((False, argument) for argument in args[fixed:]), position)
        bindings.append((one.rest, rest))
    if target is not None:
        bindings.insert(0, ("this", target))
    return Let(tuple(bindings), expand(one.body, custom), position)
