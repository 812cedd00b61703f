"""Reads an expression into its syntax tree.

Source: cel-spec, section "Syntax", with the optional syntax `a.?b`, `a[?b]`, `[?a]`, `{?k: v}`.

A precedence climber, so that nesting costs few Python frames. Depth is bounded: neither a hostile
configuration nor an expression sent to the admin API may exhaust the stack.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.cel.syntax import (
    RESERVED,
    Call,
    Ident,
    Index,
    ListOf,
    Literal,
    MapOf,
    Node,
    Select,
    Token,
    syntax_error,
    tokens,
)
from sidecar.cel.values import INT_MAX
from sidecar.errors import ConfigError

MAX_NESTING: Final = 64
MAX_CHAIN: Final = 64
"""Operators or selections in a row that nest to the left, as `a - b - c` or `a.b.c`."""

_PRECEDENCE: Final = {
    "||": 1,
    "&&": 2,
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!=", "in"), 3),
    "+": 4,
    "-": 4,
    "*": 5,
    "/": 5,
    "%": 5,
}
_FLAT: Final = frozenset(("||", "&&", "+"))


def parse(source: str) -> Node:
    """The tree of one expression. Raises ConfigError("", message with line and column)."""
    parser = _Parser(source)
    node = parser.expression()
    parser.expect("end")
    return node


@final
class _Parser:
    __slots__ = ("_at", "_depth", "_source", "_tokens")

    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = tokens(source)
        self._at = 0
        self._depth = 0

    def expect(self, kind: str) -> Token:
        token = self._tokens[self._at]
        if token.kind != kind:
            raise self._unexpected(token, kind)
        self._at += 1
        return token

    def _unexpected(self, token: Token, wanted: str) -> ConfigError:
        seen = "the end" if token.kind == "end" else repr(token.value)
        message = f"expected {_described(wanted)}, found {seen}"
        return syntax_error(self._source, token.position, message)

    def _take(self, kind: str) -> bool:
        if self._tokens[self._at].kind == kind:
            self._at += 1
            return True
        return False

    def _fail(self, position: int, message: str) -> ConfigError:
        return syntax_error(self._source, position, message)

    def expression(self) -> Node:
        start = self._tokens[self._at].position
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._fail(start, f"nested deeper than {MAX_NESTING}")
        node = self._binary(1)
        if self._take("?"):
            yes = self._binary(1)
            self.expect(":")
            node = Call("?:", None, (node, yes, self.expression()), start)
        self._depth -= 1
        return node

    def _binary(self, least: int) -> Node:
        left = self._unary()
        links = 0
        while True:
            token = self._tokens[self._at]
            precedence = _PRECEDENCE.get(token.kind, 0)
            if precedence < least:
                return left
            self._at += 1
            right = self._binary(precedence + 1)
            if token.kind in _FLAT and isinstance(left, Call) and _is_chain(left, token):
                left = Call(token.kind, None, (*left.args, right), left.position)
                continue
            links += 1
            if links > MAX_CHAIN:
                raise self._fail(token.position, f"more than {MAX_CHAIN} operators in a row")
            left = Call(token.kind, None, (left, right), token.position)

    def _unary(self) -> Node:
        token = self._tokens[self._at]
        if token.kind not in ("!", "-"):
            return self._member()
        count = 0
        while self._take(token.kind):
            count += 1
        operand = self._tokens[self._at]
        is_least = type(operand.value) is int and operand.value == INT_MAX + 1
        if token.kind == "-" and operand.kind == "literal" and is_least:
            # The least integer exists only with its sign.
            self._at += 1
            node: Node = Literal(-(INT_MAX + 1), token.position)
            count -= 1
        else:
            node = self._member()
        if token.kind == "-" and count == 1 and isinstance(node, Literal):
            value = node.value
            # Of the least integer there is no negative: that fails when it is evaluated.
            if type(value) in (int, float) and value != -(INT_MAX + 1):
                return Literal(-value, token.position)  # type: ignore[operator]
        if count > MAX_NESTING:
            raise self._fail(token.position, f"more than {MAX_NESTING} signs in a row")
        for _ in range(count):
            node = Call(token.kind, None, (node,), token.position)
        return node

    def _member(self) -> Node:
        node = self._primary()
        links = 0
        while True:
            token = self._tokens[self._at]
            if token.kind == ".":
                node = self._dotted(node, token)
            elif token.kind == "[":
                self._at += 1
                optional = self._take("?")
                key = self.expression()
                self.expect("]")
                node = Index(node, key, optional, token.position)
            else:
                if token.kind == "{" and isinstance(node, Ident | Select):
                    raise self._fail(token.position, "messages are not supported")
                return node
            links += 1
            if links > MAX_CHAIN:
                raise self._fail(token.position, f"more than {MAX_CHAIN} selections in a row")

    def _dotted(self, node: Node, dot: Token) -> Node:
        self._at += 1
        optional = self._take("?")
        token = self._tokens[self._at]
        if token.kind not in ("ident", "quoted", "in"):
            raise self._unexpected(token, "a name")
        self._at += 1
        name = str(token.value)
        if token.kind == "ident" and not optional and self._take("("):
            return Call(name, node, self._arguments(")"), token.position)
        return Select(node, name, optional, dot.position)

    def _arguments(self, closing: str) -> tuple[Node, ...]:
        found: list[Node] = []
        while not self._take(closing):
            if found:
                self.expect(",")
            found.append(self.expression())
        return tuple(found)

    def _primary(self) -> Node:
        token = self._tokens[self._at]
        self._at += 1
        if token.kind == "literal":
            if type(token.value) is int and token.value > INT_MAX:
                raise self._fail(token.position, "the integer does not fit in 64 bits")
            return Literal(token.value, token.position)
        if token.kind == "." and self._tokens[self._at].kind == "ident":
            # A leading dot means the outermost scope, which is the only one for a variable.
            token = self._tokens[self._at]
            self._at += 1
        if token.kind == "ident":
            return self._identifier(token)
        if token.kind == "(":
            node = self.expression()
            self.expect(")")
            return node
        if token.kind == "[":
            return self._list(token)
        if token.kind == "{":
            return self._map(token)
        raise self._unexpected(token, "an expression")

    def _identifier(self, token: Token) -> Node:
        name = str(token.value)
        if name in RESERVED:
            raise self._fail(token.position, f"{name!r} is a reserved word")
        if self._take("("):
            return Call(name, None, self._arguments(")"), token.position)
        return Ident(name, token.position)

    def _list(self, opening: Token) -> Node:
        items: list[tuple[bool, Node]] = []
        while not self._take("]"):
            if items:
                self.expect(",")
                if self._take("]"):
                    break
            items.append((self._take("?"), self.expression()))
        return ListOf(tuple(items), opening.position)

    def _map(self, opening: Token) -> Node:
        entries: list[tuple[bool, Node, Node]] = []
        while not self._take("}"):
            if entries:
                self.expect(",")
                if self._take("}"):
                    break
            optional = self._take("?")
            key = self.expression()
            self.expect(":")
            entries.append((optional, key, self.expression()))
        return MapOf(tuple(entries), opening.position)


def _described(wanted: str) -> str:
    return "the end" if wanted == "end" else wanted if wanted.startswith("a") else f"`{wanted}`"


def _is_chain(left: Call, token: Token) -> bool:
    """Whether a chain may grow: the parser marks a chain by giving it its first operand's place.

    `(a + b) + c` folds alike; grouping on the left changes no result of these operators.
    """
    return left.name == token.kind and left.target is None and len(left.args) >= 2
