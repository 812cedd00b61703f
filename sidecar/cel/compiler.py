"""Turns a syntax tree into Python closures.

Source: cel-spec, section "Evaluation". Work that does not depend on a request is done here:
constants are folded, regular expressions compiled, header names made lower-case bytes.
tests/bench/cel_bench.py holds the measurement behind choosing closures.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final, final

from sidecar.cel.analysis import dotted_type
from sidecar.cel.functions import FUNCTIONS, METHODS, NAMESPACES
from sidecar.cel.headers_view import HeaderView
from sidecar.cel.macros import FUNCTION_MACROS, METHOD_MACROS, Scope
from sidecar.cel.meter import MAX_STEPS, metered
from sidecar.cel.operators import binary, chain, conditional, unary
from sidecar.cel.ops import (
    BINARY,
    add,
    find,
    index,
    index_optional,
    select,
    select_optional,
)
from sidecar.cel.strings import Pattern, pattern
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
    is_operator,
    syntax_error,
)
from sidecar.cel.table import Function
from sidecar.cel.values import (
    MISSING,
    NONE,
    TYPES_BY_NAME,
    CelError,
    Code,
    NoSuchKey,
    Optional,
    UInt,
    Unavailable,
    no_overload,
)
from sidecar.errors import ConfigError

MAX_NODES: Final = 20_000
"""Custom functions that call others twice each grow a tree exponentially; here it ends."""

MAX_TREE_DEPTH: Final = 160
"""Levels of a tree, each worth about three Python frames."""

_NO_SCOPE: Final[Scope] = {}


def compile_tree(node: Node, source: str) -> tuple[Code, list[object]]:
    """The code, and the frame that each run gets a copy of. Raises ConfigError("", …)."""
    _check_size(node)
    compiler = Compiler(source)
    code = compiler.code(node, _NO_SCOPE)
    return code, compiler.frame


def _check_size(node: Node) -> None:
    level, depth, count = [node], 0, 0
    while level:
        depth += 1
        count += len(level)
        if depth > MAX_TREE_DEPTH or count > MAX_NODES:
            raise ConfigError("", "CEL: the expression is too large")
        level = [child for each in level for child in children(each)]


@final
class Compiler:
    """Compiles one expression; see `macros.Coder` for what it offers to macros."""

    __slots__ = ("_forgiven", "_loops", "_meter", "_source", "frame")

    def __init__(self, source: str) -> None:
        self._source = source
        self._forgiven = 0
        self._loops = 0
        self._meter: int | None = None
        self.frame: list[object] = []

    def error(self, node: Node, message: str) -> ConfigError:
        """A ConfigError at a node."""
        # A node of a custom function's body has a place in another text; that text was checked.
        return syntax_error(self._source, min(node.position, len(self._source)), message)

    def bind(self, scope: Scope, name: str) -> tuple[int, Scope]:
        """See Coder."""
        return self._place(None), {**scope, name: len(self.frame) - 1}

    def _place(self, first: object) -> int:
        self.frame.append(first)
        return len(self.frame) - 1

    def meter(self) -> int:
        """See Coder."""
        if self._meter is None:
            self._meter = self._place(MAX_STEPS)
        return self._meter

    def repeated(self, node: Node, scope: Scope) -> Code:
        """See Coder."""
        self._loops += 1
        code = self.code(node, scope)
        self._loops -= 1
        return code

    def forgiving(self, node: Node, scope: Scope) -> Code:
        """See Coder."""
        self._forgiven += 1
        code = self.code(node, scope)
        self._forgiven -= 1
        return code

    def code(self, node: Node, scope: Scope) -> Code:
        """See Coder."""
        match node:
            case Literal(value=value):
                return lambda c, f: value
            case Ident():
                return _variable(node.name, scope)
            case Select():
                return self._select(node, scope)
            case Index():
                return self._index(node, scope)
            case Call():
                return self._call(node, scope)
            case ListOf():
                return self._list(node, scope)
            case MapOf():
                return self._map(node, scope)
            case Let():
                return self._let(node, scope)

    def _select(self, node: Select, scope: Scope) -> Code:
        name = node.field
        if (dotted := dotted_type(node, scope)) is not None:
            kind = TYPES_BY_NAME[dotted]
            return lambda c, f: kind
        operand = self.code(node.operand, scope)
        if node.optional:
            return lambda c, f: select_optional(operand(c, f), name)
        if isinstance(node.operand, Ident) and node.operand.name not in scope:
            return _field_of(node.operand.name, name)
        return lambda c, f: select(operand(c, f), name)

    def _index(self, node: Index, scope: Scope) -> Code:
        operand, key = self.code(node.operand, scope), self.code(node.key, scope)
        if node.optional:
            return lambda c, f: index_optional(operand(c, f), key(c, f))
        if isinstance(node.key, Literal) and isinstance(node.key.value, str):
            return _constant_key(operand, node.key.value)
        return lambda c, f: index(operand(c, f), key(c, f))

    def _list(self, node: ListOf, scope: Scope) -> Code:
        items = [(flag, self.code(item, scope)) for flag, item in node.items]
        if not any(flag for flag, _ in items):
            plain = [code for _, code in items]
            return lambda c, f: [code(c, f) for code in plain]

        def build(c: Mapping[str, object], f: list[object]) -> object:
            made: list[object] = []
            for flag, code in items:
                value = code(c, f)
                if not flag or (value := _unwrapped(value)) is not MISSING:
                    made.append(value)
            return made

        return build

    def _map(self, node: MapOf, scope: Scope) -> Code:
        entries = [
            (flag, self.code(key, scope), self.code(value, scope))
            for flag, key, value in node.entries
        ]

        def build(c: Mapping[str, object], f: list[object]) -> object:
            made: dict[object, object] = {}
            for flag, key_code, value_code in entries:
                key, value = key_code(c, f), value_code(c, f)
                if flag and (value := _unwrapped(value)) is MISSING:
                    continue
                _put(made, key, value)
            return made

        return build

    def _let(self, node: Let, scope: Scope) -> Code:
        inner, values = dict(scope), []
        for name, value in node.bindings:
            code = self.code(value, scope)
            slot, _ = self.bind(scope, name)
            inner[name] = slot
            values.append((slot, code))
        body = self.code(node.body, inner)

        def run(c: Mapping[str, object], f: list[object]) -> object:
            for slot, code in values:
                f[slot] = code(c, f)
            return body(c, f)

        return run

    def _call(self, node: Call, scope: Scope) -> Code:
        name, target = node.name, node.target
        if target is None:
            if is_operator(node):
                return self._operator(node, scope)
            if name in FUNCTION_MACROS:
                return FUNCTION_MACROS[name](self, node, scope)
            return self._apply(node, self._known(node, name, FUNCTIONS), node.args, scope)
        if isinstance(target, Ident) and target.name not in scope and target.name in NAMESPACES:
            full = f"{target.name}.{name}"
            return self._apply(node, self._known(node, full, FUNCTIONS), node.args, scope)
        if name in METHOD_MACROS:
            return METHOD_MACROS[name](self, node, scope)
        function = self._known(node, name, METHODS)
        return self._apply(node, function, (target, *node.args), scope)

    def _known(self, node: Call, name: str, table: Mapping[str, Function]) -> Function:
        function = table.get(name)
        if function is None:
            close = difflib.get_close_matches(name, table, 1)
            hint = f"; did you mean {close[0]}()?" if close else ""
            form = "function" if table is FUNCTIONS else "method"
            raise self.error(node, f"unknown {form} {name}(){hint}")
        if not function.least <= len(node.args) <= function.most:
            raise self.error(node, f"{name}() does not take {len(node.args)} arguments")
        return function

    def _apply(self, node: Call, known: Function, args: tuple[Node, ...], scope: Scope) -> Code:
        function = known.code
        constants = [arg.value for arg in args if isinstance(arg, Literal)]
        if node.name in ("matches", "regexReplace") and isinstance(args[1], Literal):
            found = self._pattern(node, args[1].value)
            if node.name == "matches" and not isinstance(args[0], Literal) and not self._loops:
                return _search(self.code(args[0], scope), found)
        if known.pure and args and len(constants) == len(args):
            return self._folded(node, known, constants)
        codes = [self.code(arg, scope) for arg in args]
        if self._loops:
            return metered(self.meter(), function, codes)
        if len(codes) == 1:
            (one,) = codes
            return lambda c, f: function(one(c, f))
        if len(codes) == 2:
            first, second = codes
            if isinstance(args[1], Literal):
                constant = args[1].value
                return lambda c, f: function(first(c, f), constant)
            return lambda c, f: function(first(c, f), second(c, f))
        return lambda c, f: function(*[code(c, f) for code in codes])

    def _pattern(self, node: Call, source: object) -> Pattern:
        try:
            return pattern(str(source))
        except CelError as exc:
            raise self.error(node, str(exc)) from exc

    def _folded(self, node: Call, known: Function, constants: list[object]) -> Code:
        """A call of constants is a constant; one that always fails is the operator's mistake."""
        try:
            value = known.code(*constants)
        except CelError as exc:
            if not self._forgiven:
                raise self.error(node, f"this always fails: {exc}") from exc
            return lambda c, f: known.code(*constants)
        return lambda c, f: value

    def _operator(self, node: Call, scope: Scope) -> Code:
        codes = [self.code(arg, scope) for arg in node.args]
        if node.name in ("&&", "||"):
            return chain(node.name, codes)
        if node.name == "?:":
            return conditional(*codes)
        if len(codes) == 1:
            return unary(node.name, codes[0])
        if node.name == "+" and len(codes) > 2:
            return metered(self.meter(), _total, codes) if self._loops else _sum(codes)
        if self._loops and _may_be_long(node):
            return metered(self.meter(), BINARY[node.name], codes)
        return binary(node, codes[0], codes[1])


def _search(subject: Code, found: Pattern) -> Code:
    def run(c: Mapping[str, object], f: list[object]) -> object:
        value = subject(c, f)
        if not isinstance(value, str):
            raise no_overload("matches", value, "")
        return found.search(str(value)) is not None

    return run


def _sum(codes: list[Code]) -> Code:
    first, rest = codes[0], codes[1:]

    def run(c: Mapping[str, object], f: list[object]) -> object:
        total = first(c, f)
        for code in rest:
            total = add(total, code(c, f))
        return total

    return run


def _may_be_long(node: Call) -> bool:
    """Whether an operator may take as long as its operands are, and no constant says how long."""
    first, second = node.args
    if node.name == "in":
        return not isinstance(second, ListOf)
    if node.name in ("==", "!="):
        return not isinstance(first, Literal) and not isinstance(second, Literal)
    return node.name == "+"


def _total(first: object, *rest: object) -> object:
    for value in rest:
        first = add(first, value)
    return first


def _variable(name: str, scope: Scope) -> Code:
    if name in scope:
        slot = scope[name]
        return lambda c, f: f[slot]
    kind = TYPES_BY_NAME.get(name)

    def root(c: Mapping[str, object], f: list[object]) -> object:
        value = c.get(name, MISSING)
        if value is not MISSING:
            return value
        if kind is not None:
            return kind
        raise NoSuchKey(name)

    return root


def _field_of(root: str, field: str) -> Code:
    """`root.field`: half of what rules are made of."""

    def get(c: Mapping[str, object], f: list[object]) -> object:
        holder = c.get(root, MISSING)
        # Fast path: a field that is there.
        if type(holder) is dict:
            value: object = holder.get(field, MISSING)
            if value is not MISSING and type(value) is not Unavailable:
                return value
        elif holder is MISSING:
            raise NoSuchKey(root)
        return select(holder, field)

    return get


def _constant_key(operand: Code, key: str) -> Code:
    lower = key.lower().encode() if key.isascii() else None

    def get(c: Mapping[str, object], f: list[object]) -> object:
        holder = operand(c, f)
        if type(holder) is HeaderView and lower is not None:
            value = holder.find_bytes(lower)
            if value is MISSING:
                raise NoSuchKey(key)
            return value
        return index(holder, key)

    return get


def _unwrapped(value: object) -> object:
    if not isinstance(value, Optional):
        raise no_overload("optional entry", value)
    return MISSING if value is NONE else value.value


def _put(made: dict[object, object], key: object, value: object) -> None:
    if not isinstance(key, str | bool | int | UInt):
        raise no_overload("map key", key)
    if find(made, key) is not MISSING:
        raise CelError("a map key is given twice")
    if key in made:
        # One Python dict cannot hold both `true` and `1`.
        raise CelError("a map with both boolean and integer keys is not supported")
    made[str(key) if isinstance(key, str) else key] = value
