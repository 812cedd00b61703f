"""Arguments of a call as the parts of a URL, headers and cookies that a document asks for.

Source: OpenAPI 3.1.1 section 4.8.12.6 (style values) and appendix C; RFC 6570; RFC 3986.

What a value says is encoded before it stands anywhere, so that it cannot say more: no further path
segment, query parameter, header or cookie.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, final
from urllib.parse import quote

import orjson

Place = Literal["path", "query", "header", "cookie"]
PLACES: Final = ("path", "query", "header", "cookie")

_UNRESERVED: Final = "-._~"
_RESERVED: Final = "-._~:/?[]@!$'()*,;"
"""What `allowReserved` lets through: not what would end the parameter, or the query."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SEGMENT_ENDS: Final = re.compile(r"[/\\]")
_STYLES: Final = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form", "cookie"),
}


class BadArgumentsError(Exception):
    """Arguments that no request can be made of; the text is for the model."""


@final
@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an operation."""

    name: str
    place: Place
    is_required: bool = False
    style: str = ""
    """"" is the default of the place."""
    explode: bool | None = None
    """None is the default of the style."""
    allow_reserved: bool = False
    is_json: bool = False
    """Described by `content`: the value is JSON, whatever its shape."""

    @property
    def is_exploded(self) -> bool:
        """Whether each item stands for itself."""
        if self.explode is not None:
            return self.explode
        return self.style in ("form", "cookie", "deepObject") or (
            not self.style and self.place in ("query", "cookie")
        )

    def problem(self) -> str | None:
        """What of it cannot be honoured."""
        if self.style and self.style not in _STYLES[self.place]:
            return f"style `{self.style}` is not one of a {self.place} parameter"
        return None


def text_of(value: Any) -> str:
    """A value as text: what is nested is JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return orjson.dumps(value).decode()


def _quoted(text: str, safe: str = _UNRESERVED) -> str:
    return quote(text, safe, errors="replace")


# --- path ---------------------------------------------------------------------------------------


def path_value(parameter: Parameter, value: Any) -> str:
    """What takes the place of `{name}`. Raises: BadArgumentsError."""
    name = parameter.name
    if parameter.is_json:
        text = _quoted(_json(value))
    elif parameter.style == "label":
        text = _labelled(value, is_exploded=parameter.is_exploded)
    elif parameter.style == "matrix":
        text = _matrix(name, value, is_exploded=parameter.is_exploded)
    else:
        text = ",".join(_simple(value, is_exploded=parameter.is_exploded))
    if not text:
        raise BadArgumentsError(f"path parameter `{name}` is empty")
    for one in _texts(value):
        if _CONTROL.search(one) or any(map(is_dots, _SEGMENT_ENDS.split(one))):
            # Encoded or not: servers that decode before they route would go elsewhere.
            raise BadArgumentsError(f"path parameter `{name}` holds what no segment may be")
    return text


def is_dots(segment: str) -> bool:
    """Whether a server may read it as this directory or the one above (`..;x` in some, too)."""
    return segment.partition(";")[0] in (".", "..")


def _simple(value: Any, *, is_exploded: bool) -> list[str]:
    if isinstance(value, list):
        return [_quoted(text_of(one)) for one in value]
    if isinstance(value, dict):
        pairs = [(_quoted(key), _quoted(text_of(one))) for key, one in value.items()]
        if is_exploded:
            return [f"{key}={one}" for key, one in pairs]
        return [part for pair in pairs for part in pair]
    return [_quoted(text_of(value))]


def _labelled(value: Any, *, is_exploded: bool) -> str:
    parts = _simple(value, is_exploded=is_exploded)
    return f".{('.' if is_exploded else ',').join(parts)}" if parts else ""


def _matrix(name: str, value: Any, *, is_exploded: bool) -> str:
    parts = _simple(value, is_exploded=is_exploded)
    if not is_exploded or not isinstance(value, list | dict):
        return f";{_quoted(name)}={','.join(parts)}" if parts else ""
    if isinstance(value, dict):
        return "".join(f";{part}" for part in parts)
    return "".join(f";{_quoted(name)}={part}" for part in parts)


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text_of(one) for one in value]
    if isinstance(value, dict):
        return [part for key, one in value.items() for part in (key, text_of(one))]
    return [text_of(value)]


# --- query --------------------------------------------------------------------------------------


def query_pairs(parameter: Parameter, value: Any) -> list[tuple[str, str]]:
    """`[(name, value)]`, encoded. Nothing for null, and for what is empty and not text."""
    name = parameter.name
    safe = _RESERVED if parameter.allow_reserved else _UNRESERVED
    if value is None:
        return []
    if parameter.is_json:
        return [(_quoted(name), _quoted(_json(value), safe))]
    if isinstance(value, dict) and parameter.style == "deepObject":
        return [(_quoted(key), _quoted(one, safe)) for key, one in _deep(name, value)]
    if not isinstance(value, list | dict):
        return [(_quoted(name), _quoted(text_of(value), safe))]
    if not value:
        return []
    if parameter.is_exploded:
        items = value.items() if isinstance(value, dict) else [(name, one) for one in value]
        return [(_quoted(key), _quoted(text_of(one), safe)) for key, one in items]
    between = {"spaceDelimited": "%20", "pipeDelimited": "%7C"}.get(parameter.style, ",")
    parts = [_quoted(part, safe) for part in _texts(value)]
    return [(_quoted(name), between.join(parts))]


def _deep(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, one in value.items() for pair in _deep(f"{name}[{key}]", one)]
    if isinstance(value, list):
        return [(name, text_of(one)) for one in value]
    return [] if value is None else [(name, text_of(value))]


# --- headers and cookies ------------------------------------------------------------------------


def header_value(parameter: Parameter, value: Any) -> bytes:
    """The value of a header. Raises: BadArgumentsError."""
    text = _json(value) if parameter.is_json else _joined(parameter, value)
    if _CONTROL.search(text.replace("\t", " ")):
        raise BadArgumentsError(f"header `{parameter.name}` holds a control character")
    return text.strip(" \t").encode("utf-8", "replace")


def cookie_pair(parameter: Parameter, value: Any) -> str:
    """`name=value`, encoded where a cookie could not hold it."""
    text = _json(value) if parameter.is_json else _joined(parameter, value)
    return f"{_quoted(parameter.name, _COOKIE_NAME)}={_quoted(text, _COOKIE_VALUE)}"


_COOKIE_NAME: Final = "!#$&'*+-.^_`|~"
_COOKIE_VALUE: Final = "!#$&'()*+-./:<=>?@[]^_`{|}~"


def _joined(parameter: Parameter, value: Any) -> str:
    if isinstance(value, dict) and parameter.place == "header" and parameter.is_exploded:
        return ",".join(f"{key}={text_of(one)}" for key, one in value.items())
    return ",".join(_texts(value))


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
