"""What pydantic found wrong, in the words of the reference and with a suggestion.

The reference's messages are serde's; operators and their scripts know `unknown field` and
`invalid type`. A value is repeated only where it cannot be a secret.

Source: spec config section 0.6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, final

from pydantic import BaseModel

from sidecar.config.model.base import NOT_YET, TAG_MARK
from sidecar.config.problems import Key, closest, is_slip
from sidecar.config.scalars import (
    NAMESPACED_PATTERN,
    PSEUDO_PATTERN,
    SCHEME_PATTERN,
    TOKEN_PATTERN,
    VALUE_PATTERN,
)

UNKNOWN_KEY = "extra_forbidden"
"""pydantic's name for it."""
_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "a sequence",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "none_required": "null",
    "union_tag_not_found": "another type",
    "union_tag_invalid": "another type",
}
_KINDS: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "floating point",
    str: "string",
    list: "sequence",
    dict: "map",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
}
_PATTERNS = {
    TOKEN_PATTERN: "a token such as a header name",
    PSEUDO_PATTERN: "a header name, or one of :method, :scheme, :authority, :path, :status",
    VALUE_PATTERN: "text without line breaks",
    SCHEME_PATTERN: "a URI scheme",
    NAMESPACED_PATTERN: "`namespace/hostname`",
}
_SECRET = re.compile(
    r"key|secret|token|password|credential|htpasswd|authorization|cookie|env|url", re.IGNORECASE
)


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, placed by path rather than by line."""

    parts: tuple[Key, ...]
    message: str
    hint: str = ""
    at_key: bool = False
    """Whether the key is at fault rather than its value."""
    kind: str = ""
    """pydantic's type of error."""


def findings(
    model: type[BaseModel], errors: Iterable[Mapping[str, Any]], prefix: tuple[Key, ...]
) -> list[Finding]:
    """Translate `ValidationError.errors()` of a model that stands at `prefix`."""
    found = [_finding(model, error, prefix) for error in errors]
    refused = {one.parts for one in found if one.kind == NOT_YET}
    # A misspelt key is one fault: that the right one is absent is its other side.
    meant = {meant_parts(one) for one in found if one.hint and one.kind == UNKNOWN_KEY}
    return [
        one
        for one in found
        if not (_is_moot(one, refused) or (one.kind == "missing" and one.parts in meant))
    ]


def meant_parts(one: Finding) -> tuple[Key, ...]:
    """The place that was meant by an unknown key with a hint."""
    return (*one.parts[:-1], one.hint)


def ignorable(model: type[BaseModel], error: Mapping[str, Any]) -> bool:
    """Whether the error is an unknown key where those are ignored, and no slip of a known one."""
    if error["type"] != UNKNOWN_KEY:
        return False
    *parent, key = _clean(error["loc"])
    known, is_open = _keys_at(model, tuple(parent))
    return is_open and not is_slip(str(key), known)


def path_of(error: Mapping[str, Any]) -> tuple[Key, ...]:
    """The keys and indexes that lead to an error."""
    return _clean(error["loc"])


def _is_moot(one: Finding, refused: set[tuple[Key, ...]]) -> bool:
    # Inside of what is refused as a whole, a refused part and an unread file are no news.
    if one.kind not in (NOT_YET, "file"):
        return False
    return any(one.parts[:length] in refused for length in range(len(one.parts)))


def _clean(loc: tuple[Key, ...]) -> tuple[Key, ...]:
    # `\0…` names a union's branch, `[key]` says that the key is meant.
    return tuple(
        part
        for part in loc
        if not (isinstance(part, str) and (part.startswith(TAG_MARK) or part == "[key]"))
    )


def _finding(model: type[BaseModel], error: Mapping[str, Any], prefix: tuple[Key, ...]) -> Finding:
    kind = error["type"]
    parts = _clean(error["loc"])
    at_key = kind in (UNKNOWN_KEY, NOT_YET) or "[key]" in error["loc"]
    message, hint = _words(model, error, parts, is_secret=any(map(_is_secret, parts)))
    return Finding(prefix + parts, message, hint, at_key, kind)


def _words(
    model: type[BaseModel], error: Mapping[str, Any], parts: tuple[Key, ...], *, is_secret: bool
) -> tuple[str, str]:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == UNKNOWN_KEY:
        known, _ = _keys_at(model, parts[:-1])
        return f"unknown field `{parts[-1]}`", closest(str(parts[-1]), known)
    if kind == "missing":
        return f"missing field `{parts[-1]}`", ""
    if kind == NOT_YET:
        return f"not supported yet ({context['feature']})", ""
    if kind in _EXPECTED:
        return _invalid_type(value, _EXPECTED[kind], is_secret), ""
    if kind == "type":
        return _invalid_type(value, context["expected"], is_secret), ""
    if kind == "literal_error":
        return _variant(value, context["expected"], is_secret)
    if kind in _BOUNDS:
        name, word = _BOUNDS[kind]
        return f"invalid value: {_shown(value, is_secret)}, expected {word} {context[name]}", ""
    if kind == "string_pattern_mismatch":
        expected = _PATTERNS.get(context["pattern"], "text of another form")
        return f"invalid value, expected {expected}", ""
    # What is left are our own errors, worded already, and lengths, which repeat no value.
    return error["msg"], ""


def _invalid_type(value: Any, expected: str, is_secret: bool) -> str:
    return f"invalid type: {_shown(value, is_secret)}, expected {expected}"


def _variant(value: Any, expected: str, is_secret: bool) -> tuple[str, str]:
    variants = re.findall(r"'([^']*)'", expected)
    choice = ", ".join(f"`{variant}`" for variant in variants)
    if not isinstance(value, str):
        return _invalid_type(value, f"one of {choice}", is_secret), ""
    shown = f" `{value[:60]}`" if not is_secret else ""
    return f"unknown variant{shown}, expected one of {choice}", closest(value, variants)


def _shown(value: Any, is_secret: bool) -> str:
    """The kind of a value, and the value of short harmless kinds."""
    kind = _KINDS.get(type(value), "null")
    # Text is never repeated: it may have come from the environment.
    if is_secret or not isinstance(value, int | float):
        return kind
    return f"{kind} `{str(value).lower()}`"


def _is_secret(part: Key) -> bool:
    return isinstance(part, str) and _SECRET.search(part) is not None


Schema = dict[str, Any]


@cache
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(by_alias=True)


def _keys_at(model: type[BaseModel], parts: tuple[Key, ...]) -> tuple[set[str], bool]:
    """The keys that a mapping may have, over all its forms, and whether others are ignored."""
    root = _schema(model)
    nodes = list(_forms(root, root))
    for part in parts:
        below = (child for node in nodes for child in _children(node, part))
        nodes = [form for child in below for form in _forms(child, root)]
    keys = {key for node in nodes for key in node.get("properties", {})}
    return keys, any(node.get("x-open") for node in nodes)


def _children(node: Schema, part: Key) -> Iterator[Schema]:
    if isinstance(part, int):
        found = node.get("items")
    else:
        found = node.get("properties", {}).get(part) or node.get("additionalProperties")
    if isinstance(found, dict):
        yield found


def _forms(node: Schema, root: Schema) -> Iterator[Schema]:
    """The node with references followed and its alternatives spread out."""
    if "$ref" in node:
        yield from _forms(root["$defs"][node["$ref"].rpartition("/")[2]], root)
        return
    alternatives = [*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())]
    if not alternatives:
        yield node
    for alternative in alternatives:
        yield from _forms(alternative, root)
