"""A syntax tree as text again: one spelling, whatever the source's blanks and brackets were.

Source: cel-spec, section "Syntax".
"""

from __future__ import annotations

import re
from typing import Final

import orjson

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
from sidecar.cel.values import UInt

_NAME: Final = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*", re.ASCII)


def written(node: Node) -> str:
    """The expression; operators within operators stand in brackets."""
    match node:
        case Literal(value=value):
            return _constant(value)
        case Ident(name=name):
            return name
        case Select(operand=operand, field=field, optional=optional):
            name = field if _NAME.fullmatch(field) else f"`{field}`"
            return f"{_operand(operand)}.{'?' if optional else ''}{name}"
        case Index(operand=operand, key=key, optional=optional):
            return f"{_operand(operand)}[{'?' if optional else ''}{written(key)}]"
        case Call():
            return _operation(node) if is_operator(node) else _call(node)
        case ListOf(items=items):
            return f"[{', '.join(f'{_mark(flag)}{written(item)}' for flag, item in items)}]"
        case MapOf(entries=entries):
            pairs = (f"{_mark(flag)}{written(k)}: {written(v)}" for flag, k, v in entries)
            return f"{{{', '.join(pairs)}}}"
        case Let(bindings=bindings, body=body):
            values = ", ".join(f"{name} = {written(value)}" for name, value in bindings)
            return f"({written(body)} with {values})"


def _mark(optional: bool) -> str:
    return "?" if optional else ""


def _constant(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, bytes):
        return 'b"' + "".join(map(_octet, value)) + '"'
    if isinstance(value, str):
        return orjson.dumps(str(value)).decode()
    return f"{int(value)}u" if isinstance(value, UInt) else str(value)


def _octet(octet: int) -> str:
    is_plain = 0x20 <= octet < 0x7F and octet not in b'"\\'
    return chr(octet) if is_plain else f"\\x{octet:02x}"


def _operand(node: Node) -> str:
    text = written(node)
    return f"({text})" if isinstance(node, Call) and is_operator(node) else text


def _operation(node: Call) -> str:
    sides = [_operand(argument) for argument in node.args]
    if node.name == "?:":
        return f"{sides[0]} ? {sides[1]} : {sides[2]}"
    return f" {node.name} ".join(sides) if len(sides) > 1 else f"{node.name}{sides[0]}"


def _call(node: Call) -> str:
    arguments = ", ".join(written(argument) for argument in node.args)
    receiver = "" if node.target is None else f"{_operand(node.target)}."
    return f"{receiver}{node.name}({arguments})"
