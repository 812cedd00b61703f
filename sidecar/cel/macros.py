"""Forms that do not evaluate their arguments first: comprehensions, `has`, `default`, `coalesce`.

Source: cel-spec, section "Macros"; spec/config.md section 7.3. `default` forgives a missing key or
variable and replaces null; `coalesce` forgives everything and passes over null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from sidecar.cel.meter import spend
from sidecar.cel.ops import elements, has, mapping
from sidecar.cel.syntax import Call, Ident, Node, Select
from sidecar.cel.values import NONE, CelError, Code, CostExceededError, Optional, kept, no_overload
from sidecar.errors import ConfigError

Scope = Mapping[str, int]
"""Local variables in sight, and their places in the frame."""


class Coder(Protocol):
    """What a macro needs of the compiler."""

    def code(self, node: Node, scope: Scope) -> Code:
        """Code for a node. Raises ConfigError."""

    def bind(self, scope: Scope, name: str) -> tuple[int, Scope]:
        """A place in the frame for a local variable, and the scope that has it."""

    def repeated(self, node: Node, scope: Scope) -> Code:
        """As `code`, for what a loop runs again and again: what it calls is metered."""

    def meter(self) -> int:
        """The place in the frame of the steps that are left."""

    def forgiving(self, node: Node, scope: Scope) -> Code:
        """As `code`, where a failure has somewhere to go: it is no fault of the configuration."""

    def error(self, node: Node, message: str) -> ConfigError:
        """A ConfigError that names the node's line and column."""


Items = Callable[[Mapping[str, object], list[object]], Any]
"""What a loop runs over: a sequence, or a dict for those that go over maps."""
Macro = Callable[[Coder, Call, Scope], Code]
_OVER_MAPS: Final = frozenset(("mapValues", "filterKeys"))


def _variable(coder: Coder, call: Call, counts: tuple[int, ...]) -> str:
    first = call.args[0] if call.args else None
    if call.target is None or len(call.args) not in counts or not isinstance(first, Ident):
        raise coder.error(call, f"{call.name}() takes a variable name and an expression")
    return first.name


def _loop(coder: Coder, call: Call, scope: Scope) -> tuple[Items, int, Code]:
    """Of `target.macro(name, expression)`: the items, the variable's place, the expression."""
    slot, inner = coder.bind(scope, _variable(coder, call, (2,)))
    return _items(coder, call, scope), slot, coder.repeated(call.args[1], inner)


def _items(coder: Coder, call: Call, scope: Scope) -> Items:
    """What a loop runs over: a list, or a map as it is. Its turns are paid for here."""
    assert call.target is not None
    target, meter = coder.code(call.target, scope), coder.meter()
    is_map = call.name in _OVER_MAPS

    def run(c: Mapping[str, object], f: list[object]) -> Any:
        value = target(c, f)
        items: Any = mapping(value, call.name) if is_map else elements(value)
        spend(f, meter, 1 + len(items))
        return items

    return run


def _quantifier(stop: bool) -> Macro:
    """`exists` (true stops it) and `all` (false stops it); an error counts if nothing does."""

    def compile_macro(coder: Coder, call: Call, scope: Scope) -> Code:
        target, slot, test = _loop(coder, call, scope)

        def run(c: Mapping[str, object], f: list[object]) -> object:
            failed: CelError | None = None
            for item in target(c, f):
                f[slot] = item
                try:
                    value = test(c, f)
                except CostExceededError:
                    raise
                except CelError as exc:
                    failed = kept(exc)
                    continue
                if value is stop:
                    return stop
                if type(value) is not bool:
                    failed = no_overload(call.name, value)
            if failed is not None:
                try:
                    raise failed
                finally:
                    failed = None  # this frame is in its traceback: no cycle
            return not stop

        return run

    return compile_macro


def _holds(test: Code, c: Mapping[str, object], f: list[object], name: str) -> bool:
    value = test(c, f)
    if type(value) is not bool:
        raise no_overload(name, value)
    return value


def _exists_one(coder: Coder, call: Call, scope: Scope) -> Code:
    target, slot, test = _loop(coder, call, scope)

    def run(c: Mapping[str, object], f: list[object]) -> object:
        count = 0
        for item in target(c, f):
            f[slot] = item
            count += _holds(test, c, f, "exists_one")
        return count == 1

    return run


def _filter(coder: Coder, call: Call, scope: Scope) -> Code:
    target, slot, test = _loop(coder, call, scope)

    def run(c: Mapping[str, object], f: list[object]) -> object:
        kept: list[object] = []
        for item in target(c, f):
            f[slot] = item
            if _holds(test, c, f, "filter"):
                kept.append(item)
        return kept

    return run


def _map(coder: Coder, call: Call, scope: Scope) -> Code:
    slot, inner = coder.bind(scope, _variable(coder, call, (2, 3)))
    target = _items(coder, call, scope)
    test = coder.repeated(call.args[1], inner) if len(call.args) == 3 else None
    make = coder.repeated(call.args[-1], inner)

    def run(c: Mapping[str, object], f: list[object]) -> object:
        made: list[object] = []
        for item in target(c, f):
            f[slot] = item
            if test is None or _holds(test, c, f, "map"):
                made.append(make(c, f))
        return made

    return run


def _map_values(coder: Coder, call: Call, scope: Scope) -> Code:
    target, slot, make = _loop(coder, call, scope)

    def run(c: Mapping[str, object], f: list[object]) -> object:
        made: dict[object, object] = {}
        for key, value in target(c, f).items():
            f[slot] = value
            made[key] = make(c, f)
        return made

    return run


def _filter_keys(coder: Coder, call: Call, scope: Scope) -> Code:
    target, slot, test = _loop(coder, call, scope)

    def run(c: Mapping[str, object], f: list[object]) -> object:
        kept: dict[object, object] = {}
        for key, value in target(c, f).items():
            f[slot] = key
            if _holds(test, c, f, "filterKeys"):
                kept[key] = value
        return kept

    return run


def _has(coder: Coder, call: Call, scope: Scope) -> Code:
    if len(call.args) != 1 or not isinstance(call.args[0], Select) or call.args[0].optional:
        raise coder.error(call, "has() takes a field selection, as has(jwt.sub)")
    operand, field = coder.code(call.args[0].operand, scope), call.args[0].field
    return lambda c, f: has(operand(c, f), field)


def _default(coder: Coder, call: Call, scope: Scope) -> Code:
    if len(call.args) != 2:
        raise coder.error(call, "default() takes an expression and a fallback")
    wanted, fallback = coder.forgiving(call.args[0], scope), coder.code(call.args[1], scope)

    def run(c: Mapping[str, object], f: list[object]) -> object:
        try:
            value = wanted(c, f)
        except CelError as exc:
            if not exc.missing:
                raise
            value = None
        return fallback(c, f) if value is None else value

    return run


def _coalesce(coder: Coder, call: Call, scope: Scope) -> Code:
    if not call.args:
        raise coder.error(call, "coalesce() takes at least one expression")
    choices = [coder.forgiving(argument, scope) for argument in call.args]

    def run(c: Mapping[str, object], f: list[object]) -> object:
        failed: CelError | None = None
        saw_null = False
        for choice in choices:
            try:
                value = choice(c, f)
            except CostExceededError:
                raise
            except CelError as exc:
                failed = kept(exc)
                continue
            if value is not None:
                return value
            saw_null = True
        if failed is not None and not saw_null:
            try:
                raise failed
            finally:
                failed = None  # this frame is in its traceback: no cycle
        return None

    return run


def _variables(coder: Coder, call: Call, scope: Scope) -> Code:
    if call.args:
        raise coder.error(call, "variables() takes no argument")
    return lambda c, f: dict(c)


def _or(unwrap: bool) -> Macro:
    """`x.or(y)` gives an optional, `x.orValue(y)` a value; y is evaluated only when x is empty."""

    def compile_macro(coder: Coder, call: Call, scope: Scope) -> Code:
        if call.target is None or len(call.args) != 1:
            raise coder.error(call, f"{call.name}() is called on an optional with one argument")
        first, second = coder.code(call.target, scope), coder.code(call.args[0], scope)

        def run(c: Mapping[str, object], f: list[object]) -> object:
            held = first(c, f)
            if not isinstance(held, Optional):
                raise no_overload(call.name, held)
            if held is not NONE:
                return held.value if unwrap else held
            other = second(c, f)
            if not unwrap and not isinstance(other, Optional):
                raise no_overload(call.name, held, other)
            return other

        return run

    return compile_macro


METHOD_MACROS: Final[dict[str, Macro]] = {
    "all": _quantifier(stop=False),
    "exists": _quantifier(stop=True),
    "exists_one": _exists_one,
    "map": _map,
    "filter": _filter,
    "mapValues": _map_values,
    "filterKeys": _filter_keys,
    "or": _or(unwrap=False),
    "orValue": _or(unwrap=True),
}
FUNCTION_MACROS: Final[dict[str, Macro]] = {
    "has": _has,
    "default": _default,
    "coalesce": _coalesce,
    "variables": _variables,
}
MACROS: Final = frozenset(METHOD_MACROS) | frozenset(FUNCTION_MACROS) | {"with"}
