"""Code for operators: logic that may stop early, and comparisons with constants made quick.

Source: cel-spec, section "Logical Operators": `&&` and `||` do not mind an error on one side when
the other side decides.
"""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.cel.headers_view import HeaderView
from sidecar.cel.ops import BINARY, contains, equal, negate
from sidecar.cel.syntax import Call, ListOf, Literal
from sidecar.cel.values import CelError, Code, kept, no_overload


def chain(sign: str, terms: list[Code]) -> Code:
    """`a && b && …` (decided by a false) or `a || b || …` (decided by a true)."""
    decisive = sign == "||"

    def run(c: Mapping[str, object], f: list[object]) -> object:
        failed: CelError | None = None
        for term in terms:
            try:
                value = term(c, f)
            except CelError as exc:
                failed = kept(exc)
                continue
            if value is decisive:
                return decisive
            if type(value) is not bool:
                failed = no_overload(f"_{sign}_", value)
        if failed is not None:
            try:
                raise failed
            finally:
                failed = None  # this frame is in its traceback: no cycle
        return not decisive

    return run


def conditional(test: Code, yes: Code, no: Code) -> Code:
    """`test ? yes : no`."""

    def run(c: Mapping[str, object], f: list[object]) -> object:
        value = test(c, f)
        if value is True:
            return yes(c, f)
        if value is False:
            return no(c, f)
        raise no_overload("_?_:_", value)

    return run


def unary(sign: str, operand: Code) -> Code:
    """`!x` or `-x`."""
    if sign == "-":
        return lambda c, f: negate(operand(c, f))

    def invert(c: Mapping[str, object], f: list[object]) -> object:
        value = operand(c, f)
        if type(value) is not bool:
            raise no_overload("!_", value)
        return not value

    return invert


def binary(node: Call, left: Code, right: Code) -> Code:
    """An operator with two sides."""
    first, second = node.args
    if node.name in ("==", "!=") and isinstance(second, Literal):
        return _equals_constant(left, second.value, node.name == "==")
    if node.name in ("==", "!=") and isinstance(first, Literal):
        return _equals_constant(right, first.value, node.name == "==")
    if node.name == "in":
        if isinstance(second, ListOf):
            texts = [item.value for _, item in second.items if isinstance(item, Literal)]
            if len(texts) == len(second.items) and all(type(t) is str for t in texts):
                return _in_texts(left, texts)
        if isinstance(first, Literal) and type(first.value) is str:
            return _holds_text(first.value, right)
    operation = BINARY[node.name]
    return lambda c, f: operation(left(c, f), right(c, f))


def _equals_constant(operand: Code, constant: object, wanted: bool) -> Code:
    kind = type(constant)
    if kind not in (str, bytes, bool):
        return lambda c, f: equal(operand(c, f), constant) is wanted

    def compare(c: Mapping[str, object], f: list[object]) -> object:
        value = operand(c, f)
        # Fast path: values of one kind that Python compares as CEL does.
        if type(value) is kind:
            return (value == constant) is wanted
        return equal(value, constant) is wanted

    return compare


def _in_texts(operand: Code, texts: list[object]) -> Code:
    known = frozenset(texts)

    def search(c: Mapping[str, object], f: list[object]) -> object:
        value = operand(c, f)
        if type(value) is str:
            return value in known
        return contains(texts, value)

    return search


def _holds_text(text: str, container: Code) -> Code:
    """`"x-team" in request.headers` and its like."""
    key = text.lower().encode() if text.isascii() else None

    def search(c: Mapping[str, object], f: list[object]) -> object:
        holder = container(c, f)
        if type(holder) is HeaderView and key is not None:
            return holder.has_bytes(key)
        return contains(holder, text)

    return search
