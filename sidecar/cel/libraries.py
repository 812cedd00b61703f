"""Standard CEL by cel-expr-python, which is Google's C++ implementation.

Source: cel-expr-python 0.1; cel-spec.

It gets source printed from our own tree and runs it as it is. It takes no datetime, knows no lazy
Python function, and forgets `uint` and key order on the way; what it cannot do exactly is refused
when an expression is compiled. Conversions from text are refused too: it forgives blanks there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from sidecar.cel.analysis import Path, paths
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
from sidecar.cel.values import CelError, UInt, plain
from sidecar.errors import ConfigError

_FUNCTIONS: Final = """
    size bytes timestamp duration type dyn matches startsWith endsWith contains
    math.greatest math.least math.ceil math.floor math.round math.trunc math.isNaN math.isInf
    math.isFinite math.abs math.sign math.bitAnd math.bitOr math.bitXor math.bitNot
    math.bitShiftLeft math.bitShiftRight optional.of optional.none optional.ofNonZeroValue
"""
_METHODS: Final = """
    size matches startsWith endsWith contains lowerAscii upperAscii getFullYear getMonth
    getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes getSeconds getMilliseconds
    value hasValue or orValue
"""
_CPP_FUNCTIONS: Final = frozenset(_FUNCTIONS.split())
_CPP_METHODS: Final = frozenset(_METHODS.split())
_LOOPS: Final = frozenset(("all", "exists", "exists_one", "map", "filter"))
Evaluate = Callable[[Mapping[str, object]], object]


_TYPE_NAMES: Final = {
    "NULL": "null_type",
    "TIMESTAMP": "google.protobuf.Timestamp",
    "DURATION": "google.protobuf.Duration",
    **{
        name.upper(): name
        for name in ("bool", "int", "uint", "double", "string", "bytes", "list", "map", "type")
    },
}


def refused(engine: str, what: str) -> ConfigError:
    """The error of an expression that an engine cannot run exactly."""
    return ConfigError("", f"CEL: {what} is not supported by the engine {engine}")


def _text(value: str) -> str:
    """A string literal that every CEL lexer reads alike."""
    plain_text = json.dumps(value, ensure_ascii=True)
    if any(ord(c) > 0xFFFF for c in value):
        parts = (f"\\U{ord(c):08x}" if ord(c) > 0xFFFF else json.dumps(c)[1:-1] for c in value)
        return f'"{"".join(parts)}"'
    return plain_text


def print_literal(value: object) -> str:
    """The source text of a constant."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes):
        return 'b"' + "".join(f"\\x{octet:02x}" for octet in value) + '"'
    if isinstance(value, UInt):
        return f"{int(value)}u"
    # Parentheses keep a sign from joining what stands before it.
    return f"({value!r})" if repr(value)[0] == "-" else repr(value)


def _needed(activation: Mapping[str, object], found: frozenset[Path]) -> dict[str, object]:
    """The variables named, of maps the keys named only: converting a large token is slow."""
    data: dict[str, object] = {}
    for name in {path[0] for path in found} & activation.keys():
        value = activation[name]
        keys = {path[1] if len(path) > 1 else None for path in found if path[0] == name}
        if type(value) is dict and None not in keys:
            value = {key: value[key] for key in keys if key in value}
        data[name] = plain(value)
    return data


@final
class CelExprPython:
    """Google's C++ implementation."""

    __slots__ = ("_env", "_error", "_type")
    name = "cel-expr-python"

    def __init__(self) -> None:
        try:
            from cel_expr_python import cel
            from cel_expr_python.ext import ext_math, ext_optional, ext_strings
        except ImportError as exc:
            raise ConfigError("", f"the engine {self.name} is not installed here") from exc
        extensions = [ext_math.ExtMath(), ext_optional.ExtOptional(), ext_strings.ExtStrings()]
        self._env: Any = cel.NewEnv(extensions=extensions)
        self._error: Any = cel.Type.ERROR
        self._type: Any = cel.Type

    def prepare(self, node: Node, source: str) -> Evaluate:
        """See engine.Backend."""
        try:
            # Types are checked at run time: CEL says `1 == 1.0` where the checker says no.
            program = self._env.compile(self._print(node), disable_check=True)
        except RuntimeError as exc:
            raise ConfigError("", f"CEL: {str(exc).splitlines()[0]}") from exc
        found = paths(node)

        def evaluate(activation: Mapping[str, object]) -> object:
            data = _needed(activation, found)
            try:
                result = program.eval(data=data)
                if result.type() == self._error:
                    # The library's text may quote values.
                    raise CelError("the evaluation failed")
                return self._plain(result.plain_value())
            except (RuntimeError, TypeError, KeyError) as exc:
                raise CelError("the value has no place in this engine") from exc

        return evaluate

    def _plain(self, value: object) -> object:
        if isinstance(value, bytearray):
            return bytes(value)
        if isinstance(value, list):
            return [self._plain(item) for item in value]
        if isinstance(value, dict):
            return {self._plain(key): self._plain(item) for key, item in value.items()}
        if isinstance(value, self._type):
            return _TYPE_NAMES[value.name().partition("<")[0]]
        return value

    def _print(self, node: Node) -> str:
        match node:
            case Literal(value=value):
                return print_literal(value)
            case Ident(name=name):
                return name
            case Select(operand, field, optional, _):
                dot = ".?" if optional else "."
                return f"{self._print(operand)}{dot}`{field}`"
            case Index(operand, key, optional, _):
                mark = "?" if optional else ""
                return f"{self._print(operand)}[{mark}{self._print(key)}]"
            case ListOf(items=items):
                return f"[{', '.join('?' * flag + self._print(one) for flag, one in items)}]"
            case MapOf(entries=entries):
                pairs = (
                    f"{'?' * flag}{self._print(k)}: {self._print(v)}" for flag, k, v in entries
                )
                return f"{{{', '.join(pairs)}}}"
            case Let():
                # A loop over one item binds a name, and computes its value even if unused.
                name, value = single_binding(self.name, node)
                return f"[{self._print(value)}].map({name}, {self._print(node.body)})[0]"
            case Call():
                return self._call(node)

    def _call(self, node: Call) -> str:
        if is_operator(node):
            return _print_operator(node, self._print)
        args = ", ".join(map(self._print, node.args))
        if node.target is None:
            if node.name != "has" and node.name not in _CPP_FUNCTIONS:
                raise refused(self.name, f"{node.name}()")
            if node.name == "has":
                args = args.replace("`", "")
            return f"{node.name}({args})"
        full = f"{node.target.name}.{node.name}" if isinstance(node.target, Ident) else ""
        if full in _CPP_FUNCTIONS:
            return f"{full}({args})"
        if node.name not in _CPP_METHODS and node.name not in _LOOPS:
            raise refused(self.name, f"{node.name}()")
        return f"{self._print(node.target)}.{node.name}({args})"


def _print_operator(node: Call, show: Callable[[Node], str]) -> str:
    parts = [show(argument) for argument in node.args]
    if node.name == "?:":
        return f"({parts[0]} ? {parts[1]} : {parts[2]})"
    if len(parts) == 1:
        return f"({node.name}({parts[0]}))"
    return f"({f' {node.name} '.join(parts)})"


def single_binding(engine: str, node: Let) -> tuple[str, Node]:
    """The one name and value of a Let; several at once cannot be printed as CEL."""
    if len(node.bindings) != 1:
        raise refused(engine, "a custom function that has not one argument")
    return node.bindings[0]
