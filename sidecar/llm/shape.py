"""Reading decoded JSON whose shape nobody has checked: what is wrong is said with its place.

Who calls a conversion knows whose JSON it was: `ShapeError` is a 400 for a client's request and a
502 for a provider's answer.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from sidecar.errors import SidecarError

Json = dict[str, Any]
_LIMIT: Final = 2**63
"""Of whole numbers that can be written as JSON again, sums of two included."""
_LEVELS: Final = 224
"""Of nesting that are written again for certain: orjson reads 1,024 and writes 254, and what is
converted moves some levels down."""
_SPARE: Final = 254 - _LEVELS


class ShapeError(SidecarError):
    """JSON of another shape than its format. `where` is the place, as `messages[0].content`."""

    def __init__(self, where: str, wanted: str) -> None:
        super().__init__(f"{where}: {wanted} expected")
        self.where = where


def to_object(value: object, where: str) -> Json:
    """An object; None counts as an empty one. Raises: ShapeError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ShapeError(where, "an object")
    return value


def to_list(value: object, where: str) -> list[Any]:
    """A list; None counts as an empty one. Raises: ShapeError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ShapeError(where, "a list")
    return value


def to_objects(value: object, where: str) -> list[Json]:
    """A list of objects; None counts as an empty one. Raises: ShapeError."""
    items = to_list(value, where)
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise ShapeError(f"{where}[{index}]", "an object")
    return items


def to_text(value: object, where: str) -> str:
    """A string; None counts as "". Raises: ShapeError."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ShapeError(where, "a string")
    return value


def joined_text(value: object, where: str, separator: str = "") -> str:
    """A string, or the texts of a list of content parts. Raises: ShapeError."""
    if value is None or isinstance(value, str):
        return value or ""
    parts = to_objects(value, where)
    texts = [to_text(part.get("text"), f"{where}.text") for part in parts]
    return separator.join(text for text in texts if text)


def to_count(value: object, where: str) -> int:
    """A whole number not below 0; None counts as 0. Raises: ShapeError."""
    if value is None:
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LIMIT:
        raise ShapeError(where, "a whole number, not negative,")
    return value


def to_optional_count(value: object, where: str) -> int | None:
    """The same, but None stays None. Raises: ShapeError."""
    return None if value is None else to_count(value, where)


def nests_too_deeply(raw: bytes, value: object) -> bool:
    """Whether a value, decoded of `raw`, cannot be written as JSON once it is converted."""
    # What `bytes.count` looks for octet by octet, `bytes.replace` finds by memchr, in half the time
    # for 1 KiB of prompt, in a tenth for 100.
    rest = len(raw.replace(b"{", b"", _LEVELS + 1)) + len(raw.replace(b"[", b"", _LEVELS + 1))
    if 2 * len(raw) - rest <= _LEVELS:
        return False
    for _ in range(_SPARE):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return True
    return False


def to_json(value: Json, where: str) -> bytes:
    """As JSON. Raises: ShapeError where texts that were decoded brought too many levels."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        if "Recursion limit" not in str(error):
            raise
        raise ShapeError(where, "JSON of fewer levels") from error


def parse_object(data: bytes | str) -> Json | None:
    """A JSON object; None for anything else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
