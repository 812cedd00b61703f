"""JSON, Base64, URL and form encodings, digests.

Source: spec/config.md section 7.3; RFC 8259; RFC 4648; RFC 3986; WHATWG URL. JSON is read strictly
(hardening case 46): duplicate keys, lone surrogates, NaN, numbers past a double and nesting past
MAX_DEPTH are errors, so that a policy and the upstream cannot read one document in two ways.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, NoReturn
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from sidecar.cel.headers_view import quote_form
from sidecar.cel.ops import mapping
from sidecar.cel.table import Function, Table, octets, text
from sidecar.cel.times import format_duration, format_timestamp
from sidecar.cel.values import (
    INT_MAX,
    INT_MIN,
    MAX_DEPTH,
    UINT_MAX,
    CelError,
    NoSuchKey,
    UInt,
    no_overload,
    plain,
)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CelError("json: a key appears twice")
    return found


def _double(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise CelError("json: a number is too large")
    return value


def _whole(digits: str) -> int | float:
    # Past 20 digits the text is no 64-bit integer, and int() of a long text is slow.
    if len(digits) <= 20:
        value = int(digits)
        if INT_MIN <= value <= INT_MAX:
            return value
        if 0 <= value <= UINT_MAX:
            return UInt(value)
    return _double(digits)


def _constant(_name: str) -> NoReturn:
    raise CelError("json: NaN and Infinity are not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_float=_double,
    parse_int=_whole,
    parse_constant=_constant,
    strict=True,
)


def parse_json(source: bytes | str) -> object:
    """A document as CEL values. Raises CelError."""
    try:
        document = source.decode() if isinstance(source, bytes) else str(source)
        value: object = _DECODER.decode(document)
    except (ValueError, RecursionError) as exc:
        raise CelError("json: not valid JSON") from exc
    _check(value, 0)
    return value


def _check(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CelError(f"json: nests deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise CelError("json: a lone surrogate") from exc


def _json(value: object) -> object:
    if not isinstance(value, str | bytes):
        raise no_overload("json", value)
    return parse_json(value)


def _json_field(value: object, key: object) -> object:
    document, name = _json(value), text("jsonField", key)
    if not isinstance(document, dict):
        raise CelError("jsonField: the document is no object")
    if name not in document:
        raise NoSuchKey(name)
    return document[name]


def to_json(value: object) -> str:
    """The value as compact JSON: bytes as Base64, moments as RFC 3339, durations as `1.5s`."""
    ready = jsonable(plain(value))
    return json.dumps(ready, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def jsonable(value: object) -> object:
    """A plain value as what JSON can say: see `to_json`."""
    if isinstance(value, dict):
        return {_json_key(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return format_timestamp(value)
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # as serde_json prints it
    return value


def _json_key(key: object) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    return str(key)


def _unvalidated_payload(value: object) -> object:
    parts = str(text("unvalidatedJwtPayload", value)).split(".")
    if len(parts) != 3:
        raise CelError("unvalidatedJwtPayload: not a JWT")
    payload = parts[1]
    if not payload.isascii() or set(payload) & {"+", "/", "="}:
        raise CelError("unvalidatedJwtPayload: not base64url")
    return parse_json(_from_base64(payload.translate({45: 43, 95: 47}), "unvalidatedJwtPayload"))


def _from_base64(source: str, what: str) -> bytes:
    """Standard alphabet, padded or not."""
    bare = source.rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    if len(source) != len(bare) and source != padded:
        raise CelError(f"{what}: not Base64")
    try:
        return base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CelError(f"{what}: not Base64") from exc


def _base64_encode(value: object) -> str:
    return base64.b64encode(octets("base64.encode", value)).decode()


def _base64_decode(value: object) -> bytes:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return _from_base64(text("base64.decode", value), "base64.decode")


def _url_decode(value: object) -> str:
    try:
        return unquote_to_bytes(str(text("url.decode", value))).decode()
    except UnicodeDecodeError as exc:
        raise CelError("url.decode: not UTF-8") from exc


def _form_decode(value: object) -> dict[object, object]:
    source = str(text("form.decode", value))
    found: dict[object, object] = {}
    try:
        pairs = parse_qsl(source, keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError as exc:  # UnicodeDecodeError among them
        raise CelError("form.decode: not a form") from exc
    for key, item in pairs:
        if key not in found:
            found[key] = item
        elif isinstance(earlier := found[key], list):
            earlier.append(item)
        else:
            found[key] = [earlier, item]
    return found


def _form_encode(value: object) -> str:
    fields = {text("form.encode", k): v for k, v in mapping(value, "form.encode").items()}
    return "&".join(
        f"{quote_form(key)}={quote_form(item)}"
        for key in sorted(fields)
        for item in _form_items(fields[key])
    )


def _form_items(held: object) -> list[str]:
    if held is None:
        return []
    if isinstance(held, list):
        return [each for item in held for each in _form_items(item)]
    if isinstance(held, bool):
        return ["true" if held else "false"]
    if isinstance(held, str | int | float):
        return [str(held)]
    raise no_overload("form.encode", held)


def _digest(name: str, of: Callable[[bytes], str]) -> Function:
    return Function(lambda value: of(octets(name, value)), 1, 1)


_BASE64_ENCODE: Final = Function(_base64_encode, 1, 1)
_BASE64_DECODE: Final = Function(_base64_decode, 1, 1)
_TO_JSON: Final = Function(to_json, 1, 1)

FUNCTIONS: Final[Table] = {
    "json": Function(_json, 1, 1),
    "jsonField": Function(_json_field, 2, 2),
    "toJson": _TO_JSON,
    "to_json": _TO_JSON,
    "unvalidatedJwtPayload": Function(_unvalidated_payload, 1, 1),
    "base64.encode": _BASE64_ENCODE,
    "base64Encode": _BASE64_ENCODE,
    "base64.decode": _BASE64_DECODE,
    "base64Decode": _BASE64_DECODE,
    "url.encode": Function(lambda value: quote(str(text("url.encode", value)), safe=""), 1, 1),
    "url.decode": Function(_url_decode, 1, 1),
    "form.encode": Function(_form_encode, 1, 1),
    "form.decode": Function(_form_decode, 1, 1),
    # Digests for cache keys and log fields, by the names the configuration uses; nothing here
    # authenticates anything.
    "sha1.encode": _digest(
        "sha1.encode", lambda data: hashlib.sha1(data, usedforsecurity=False).hexdigest()
    ),
    "sha256.encode": _digest("sha256.encode", lambda data: hashlib.sha256(data).hexdigest()),
    "md5.encode": _digest(
        "md5.encode", lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest()
    ),
}
