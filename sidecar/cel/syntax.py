"""The syntax tree of an expression, and the tokens it is read from.

Source: cel-spec, section "Syntax".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from sidecar.cel.values import INT_MAX, UINT_MAX, UInt
from sidecar.errors import ConfigError

MAX_SOURCE_CHARACTERS: Final = 64 * 1024


@final
@dataclass(frozen=True, slots=True)
class Literal:
    """A constant. `position` (here and below): offset in the source, for messages."""

    value: object
    position: int


@final
@dataclass(frozen=True, slots=True)
class Ident:
    """A variable."""

    name: str
    position: int


@final
@dataclass(frozen=True, slots=True)
class Select:
    """`operand.field`, or `operand.?field`."""

    operand: Node
    field: str
    optional: bool
    position: int


@final
@dataclass(frozen=True, slots=True)
class Index:
    """`operand[key]`, or `operand[?key]`."""

    operand: Node
    key: Node
    optional: bool
    position: int


@final
@dataclass(frozen=True, slots=True)
class Call:
    """A function, a method (with a target), or an operator under its own sign.

    `&&`, `||` and `+` hold a whole chain of operands, `?:` three; unary minus is `-` with one.
    """

    name: str
    target: Node | None
    args: tuple[Node, ...]
    position: int


@final
@dataclass(frozen=True, slots=True)
class ListOf:
    """`[a, ?b]`: each item with its "optional" flag."""

    items: tuple[tuple[bool, Node], ...]
    position: int


@final
@dataclass(frozen=True, slots=True)
class MapOf:
    """`{k: v, ?k: v}`."""

    entries: tuple[tuple[bool, Node, Node], ...]
    position: int


@final
@dataclass(frozen=True, slots=True)
class Let:
    """Values under names within `body`: what `with` and calls of custom functions become.

    The values do not see each other's names. All are computed, in order, whether used or not.
    """

    bindings: tuple[tuple[str, Node], ...]
    body: Node
    position: int


Node = Literal | Ident | Select | Index | Call | ListOf | MapOf | Let


def is_operator(node: Call) -> bool:
    """Whether a call is one of an operator; no function can bear such a name."""
    return node.target is None and (node.name == "in" or not _starts_name(node.name[0]))


def _starts_name(sign: str) -> bool:
    return sign == "_" or sign.isalpha()


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below, in the order they are written."""
    match node:
        case Literal() | Ident():
            return ()
        case Select(operand=operand):
            return (operand,)
        case Index(operand=operand, key=key):
            return (operand, key)
        case Call(target=target, args=args):
            return args if target is None else (target, *args)
        case ListOf(items=items):
            return tuple(item for _, item in items)
        case MapOf(entries=entries):
            return tuple(part for _, key, value in entries for part in (key, value))
        case Let(bindings=bindings, body=body):
            return (*(value for _, value in bindings), body)


class Token(NamedTuple):
    """`kind`: "ident", "quoted" (a backtick identifier), "literal", "end", or the sign itself."""

    kind: str
    value: object
    position: int


def syntax_error(source: str, position: int, message: str) -> ConfigError:
    """A ConfigError (with an empty path) that names line and column, both from 1."""
    before = source[:position]
    line = before.count("\n") + 1
    column = position - (before.rfind("\n") + 1) + 1
    return ConfigError("", f"CEL line {line}, column {column}: {message}")


_RESERVED: Final = """
    as break const continue else for function if import let loop package namespace return var
    void while
"""
RESERVED: Final = frozenset(_RESERVED.split())
_TOKEN: Final = re.compile(
    r"""
    (?P<space> (?: [ \t\r\n\f]+ | //[^\n]* )+ )
  | (?P<text> [bB]?[rR]? (?: \"\"\" | ''' | \" | ' ) )
  | (?P<float> \d+\.\d+(?:[eE][+-]?\d+)? | \d+[eE][+-]?\d+ | \.\d+(?:[eE][+-]?\d+)? )
  | (?P<int> (?: 0x[0-9a-fA-F]+ | \d+ ) [uU]? )
  | (?P<ident> [_a-zA-Z][_a-zA-Z0-9]* )
  | (?P<quoted> `[a-zA-Z0-9_.\-/ ]+` )
  | (?P<sign> \|\| | && | [=!<>]= | [<>+\-*/%!?:.,()\[\]{}] )
    """,
    re.VERBOSE | re.ASCII,
)
_KEYWORDS: Final[dict[str, object]] = {"true": True, "false": False, "null": None}


def tokens(source: str) -> list[Token]:
    """The tokens of a source, ending in one of kind "end". Raises ConfigError."""
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise ConfigError("", f"CEL: longer than {MAX_SOURCE_CHARACTERS} characters")
    found: list[Token] = []
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            sign = source[position]
            raise syntax_error(source, position, f"unexpected character {sign!r}")
        start, position = position, match.end()
        kind = match.lastgroup or ""
        text = match.group()
        if kind == "text":
            value, position = _read_text(source, start, text)
            found.append(Token("literal", value, start))
        elif kind != "space":
            found.append(_word(source, start, kind, text))
    found.append(Token("end", None, len(source)))
    return found


def _word(source: str, start: int, kind: str, text: str) -> Token:
    if kind == "ident":
        if text in _KEYWORDS:
            return Token("literal", _KEYWORDS[text], start)
        return Token("in" if text == "in" else "ident", text, start)
    if kind == "quoted":
        return Token("quoted", text[1:-1], start)
    if kind == "float":
        return Token("literal", float(text), start)
    if kind == "int":
        return Token("literal", _integer(source, start, text), start)
    return Token(text, text, start)


def _integer(source: str, start: int, text: str) -> int:
    unsigned = text[-1] in "uU"
    digits = text[:-1] if unsigned else text
    value = int(digits, 16 if digits.startswith("0x") else 10)
    # One past the largest: the parser folds a minus sign in front of it, and refuses it alone.
    if value > (UINT_MAX if unsigned else INT_MAX + 1):
        raise syntax_error(source, start, "the integer does not fit in 64 bits")
    return UInt(value) if unsigned else value


_ESCAPE: Final = re.compile(
    r"\\(?:(?P<sign>[\\?\"'`abfnrtv])|[xX](?P<hex>[0-9a-fA-F]{2})|u(?P<u4>[0-9a-fA-F]{4})"
    r"|U(?P<u8>[0-9a-fA-F]{8})|(?P<octal>[0-3][0-7]{2})|(?P<bad>.|\Z))",
    re.DOTALL,
)
_SIGNS: Final = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))


def _read_text(source: str, start: int, opening: str) -> tuple[str | bytes, int]:
    """A string or bytes literal; gives its value and where it ends."""
    prefix = opening.rstrip("\"'").lower()
    quote = opening[len(prefix) :]
    raw = "r" in prefix
    position = start + len(opening)
    body_start = position
    while not source.startswith(quote, position):
        if position >= len(source) or (len(quote) == 1 and source[position] in "\r\n"):
            raise syntax_error(source, start, "the string does not end")
        position += 2 if source[position] == "\\" and not raw else 1
    body = source[body_start:position]
    end = position + len(quote)
    if "b" in prefix:
        return (body.encode() if raw else _unescape_bytes(source, start, body)), end
    return (body if raw else _unescape_text(source, start, body)), end


def _unescape_text(source: str, start: int, body: str) -> str:
    def character(match: re.Match[str]) -> str:
        if sign := match["sign"]:
            return _SIGNS.get(sign, sign)
        if match["bad"] is not None:
            raise syntax_error(source, start, f"bad escape \\{match['bad']} in the string")
        digits = match["hex"] or match["u4"] or match["u8"]
        code = int(digits, 16) if digits else int(match["octal"], 8)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise syntax_error(source, start, "the escape is no Unicode character")
        return chr(code)

    return _ESCAPE.sub(character, body) if "\\" in body else body


def _unescape_bytes(source: str, start: int, body: str) -> bytes:
    parts: list[bytes] = []
    position = 0
    for match in _ESCAPE.finditer(body):
        parts.append(body[position : match.start()].encode())
        position = match.end()
        if sign := match["sign"]:
            parts.append(_SIGNS.get(sign, sign).encode())
        elif match["hex"] or match["octal"]:
            code = int(match["hex"], 16) if match["hex"] else int(match["octal"], 8)
            parts.append(bytes((code,)))
        else:
            raise syntax_error(source, start, "bad escape in the bytes literal")
    parts.append(body[position:].encode())
    return b"".join(parts)
