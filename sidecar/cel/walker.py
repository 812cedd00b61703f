"""Standard CEL by cel-python, the portable library.

Source: cel-python 0.5; cel-spec.

cel-python's own operators raise where CEL says false, take `true` for `1` and round durations to
seconds. So it only parses and walks the tree: every operator and function is printed as a call of
ours. Its `map` and `filter` let errors escape past `&&` and `||`; there they are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, final

from sidecar.cel.analysis import dotted_type
from sidecar.cel.functions import FUNCTIONS, METHODS, NAMESPACES
from sidecar.cel.libraries import Evaluate, print_literal, refused, single_binding
from sidecar.cel.ops import BINARY, elements, has, index, negate, select
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
    is_operator,
)
from sidecar.cel.values import TYPES_BY_NAME, CelError, NoSuchKey, UInt, no_overload
from sidecar.errors import ConfigError

_SIGNS: Final = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "%": "modulo",
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
    "in": "within",
}
_QUANTIFIERS: Final = frozenset(("all", "exists"))
_LEAKY: Final = frozenset(("map", "filter", "exists_one"))


def _boolean(value: object) -> bool:
    if type(value) is not bool:
        raise no_overload("logic", value)
    return value


def _invert(value: object) -> bool:
    return not _boolean(value)


def _map_of(*parts: object) -> dict[object, object]:
    made: dict[object, object] = {}
    for key, value in zip(parts[::2], parts[1::2], strict=True):
        if not isinstance(key, str | bool | int):
            raise no_overload("map key", key)
        if key in made:
            raise CelError("a map key is given twice")
        made[key] = value
    return made


def _type_named(name: object) -> object:
    return TYPES_BY_NAME[str(name)]


_OURS: Final[dict[str, Callable[..., object]]] = {
    **{f"op_{word}": BINARY[sign] for sign, word in _SIGNS.items()},
    "op_negate": negate,
    "op_not": _invert,
    "op_bool": _boolean,
    "op_select": lambda operand, field: select(operand, str(field)),
    "op_has": lambda operand, field: has(operand, str(field)),
    "op_index": index,
    "op_list": lambda *items: list(items),
    "op_map": _map_of,
    "op_items": elements,
    "op_type": _type_named,
    **{f"fn_{name.replace('.', '_')}": one.code for name, one in FUNCTIONS.items()},
    **{f"of_{name}": one.code for name, one in METHODS.items()},
}


@final
class CelPython:
    """cel-python as a tree walker over our operators."""

    __slots__ = ("_celpy", "_environment", "_functions", "_kinds")
    name = "cel-python"

    def __init__(self) -> None:
        try:
            import celpy
            import celpy.celtypes as kinds
        except ImportError as exc:
            raise ConfigError("", f"the engine {self.name} is not installed here") from exc
        self._celpy: Any = celpy
        self._kinds: Any = kinds
        self._environment: Any = celpy.Environment()
        self._functions = {name: self._wrapped(code) for name, code in _OURS.items()}

    def _wrapped(self, code: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            try:
                value = code(*map(self._ours, args))
            except CelError as exc:
                return self._celpy.CELEvalError("failed", type(exc), exc.args)
            return self._kinds.BoolType(value) if isinstance(value, bool) else value

        return call

    def _ours(self, value: object) -> object:
        """Literals come as the library's own types."""
        kinds = self._kinds
        if isinstance(value, kinds.BoolType):
            return bool(value)
        if isinstance(value, kinds.UintType):
            return UInt(value)
        if isinstance(value, kinds.IntType):
            return int(value)
        if isinstance(value, kinds.DoubleType):
            return float(value)
        if isinstance(value, kinds.StringType):
            return str(value)
        if isinstance(value, kinds.BytesType):
            return bytes(value)
        if isinstance(value, kinds.ListType):
            return [self._ours(item) for item in value]
        return value

    def prepare(self, node: Node, source: str) -> Evaluate:
        """See engine.Backend."""
        text = self._print(node, frozenset(), False)
        try:
            tree = self._environment.compile(text)
            program = self._environment.program(tree, functions=self._functions)
        except (self._celpy.CELParseError, RecursionError) as exc:
            raise ConfigError("", f"CEL: {self.name} cannot read the expression") from exc

        def evaluate(activation: Mapping[str, object]) -> object:
            try:
                return self._ours(program.evaluate(dict(activation)))
            except self._celpy.CELEvalError as exc:
                cause = exc.args[1] if len(exc.args) > 1 else None
                kind = NoSuchKey if cause in (NoSuchKey, KeyError) else CelError
                raise kind("the evaluation failed") from exc
            except RecursionError as exc:
                raise CelError("a value nests too deeply") from exc

        return evaluate

    def _print(self, node: Node, bound: frozenset[str], guarded: bool) -> str:
        """`bound`: local variables. `guarded`: an error here may be forgiven further out."""

        def show(inner: Node) -> str:
            return self._print(inner, bound, guarded)

        match node:
            case Literal(value=value):
                return print_literal(value)
            case Ident(name=name):
                return f'op_type("{name}")' if name in TYPES_BY_NAME and name not in bound else name
            case Select(operand, field, False, _):
                if (dotted := dotted_type(node, bound)) is not None:
                    return f'op_type("{dotted}")'
                return f"op_select({show(operand)}, {print_literal(field)})"
            case Index(operand, key, False, _):
                return f"op_index({show(operand)}, {show(key)})"
            case ListOf(items=items) if not any(flag for flag, _ in items):
                return f"op_list({', '.join(show(item) for _, item in items)})"
            case MapOf(entries=entries) if not any(flag for flag, _, _ in entries):
                return f"op_map({', '.join(f'{show(k)}, {show(v)}' for _, k, v in entries)})"
            case Let(body=body) if not guarded:
                name, value = single_binding(self.name, node)
                inside = self._print(body, bound | {name}, guarded)
                return f"op_list({show(value)}).map({name}, {inside})[0]"
            case Call():
                return self._call(node, bound, guarded)
        raise refused(self.name, "this form")

    def _call(self, node: Call, bound: frozenset[str], guarded: bool) -> str:
        if is_operator(node):
            return self._operator(node, bound, guarded)
        target = node.target
        if target is None:
            if node.name == "has" and isinstance(node.args[0], Select):
                field = print_literal(node.args[0].field)
                return f"op_has({self._print(node.args[0].operand, bound, guarded)}, {field})"
            return self._function(node, node.name, FUNCTIONS, node.args, bound, guarded)
        if isinstance(target, Ident) and target.name in NAMESPACES and target.name not in bound:
            full = f"{target.name}.{node.name}"
            return self._function(node, full, FUNCTIONS, node.args, bound, guarded)
        if node.name in _QUANTIFIERS or (node.name in _LEAKY and not guarded):
            return self._loop(node, target, bound, guarded)
        return self._function(node, node.name, METHODS, (target, *node.args), bound, guarded)

    def _function(
        self,
        node: Call,
        name: str,
        table: Mapping[str, object],
        args: tuple[Node, ...],
        bound: frozenset[str],
        guarded: bool,
    ) -> str:
        if name not in table:
            raise refused(self.name, f"{name}()")
        prefix = "fn" if table is FUNCTIONS else "of"
        shown = ", ".join(self._print(argument, bound, guarded) for argument in args)
        return f"{prefix}_{name.replace('.', '_')}({shown})"

    def _loop(self, node: Call, target: Node, bound: frozenset[str], guarded: bool) -> str:
        if len(node.args) != 2 or not isinstance(node.args[0], Ident):
            raise refused(self.name, f"{node.name}() of this form")
        variable = node.args[0].name
        inside = guarded or node.name in _QUANTIFIERS
        body = self._print(node.args[1], bound | {variable}, inside)
        if node.name != "map":
            body = f"op_bool({body})"
        items = self._print(target, bound, guarded)
        return f"op_items({items}).{node.name}({variable}, {body})"

    def _operator(self, node: Call, bound: frozenset[str], guarded: bool) -> str:
        logic = node.name in ("&&", "||")
        parts = [self._print(argument, bound, guarded or logic) for argument in node.args]
        if logic:
            return "(" + f" {node.name} ".join(f"op_bool({part})" for part in parts) + ")"
        if node.name == "?:":
            return f"(op_bool({parts[0]}) ? {parts[1]} : {parts[2]})"
        if len(parts) == 1:
            return f"op_{'not' if node.name == '!' else 'negate'}({parts[0]})"
        text = parts[0]
        for part in parts[1:]:
            text = f"op_{_SIGNS[node.name]}({text}, {part})"
        return text
