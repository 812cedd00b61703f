"""Reading JSON that goes by: what has another shape than expected counts as not there.

A pass-through must not fail over a field that it only looks at; `llm.shape` is for conversions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import orjson

from sidecar.errors import RequestError
from sidecar.llm.usage import Usage

Json = dict[str, Any]

MAX_CONTENT_CHARS: Final = 4 * 1024 * 1024
"""How much text of one stream is kept for those who asked for content."""
MAX_ARGUMENT_CHARS: Final = 256 * 1024
"""How much of the arguments of one call is kept for them."""
MAX_CALLS: Final = 256
"""How many calls, or choices, of one stream are kept for them."""
MAX_COUNT: Final = 2**53 - 1
"""What JSON can say exactly; a count above it is no count."""
_EMPTY: Final[Json] = {}


def obj(value: object) -> Json:
    """The object, else an empty one, which must not be written to."""
    return value if isinstance(value, dict) else _EMPTY


def items(value: object) -> list[Any]:
    """The list, else an empty one."""
    return value if isinstance(value, list) else []


def objects(value: object) -> list[Json]:
    """The objects of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(value: object) -> str:
    """The string, else ""."""
    return value if isinstance(value, str) else ""


def name(value: object) -> str | None:
    """The string unless it is empty."""
    return value if isinstance(value, str) and value else None


def count(value: object) -> int | None:
    """A whole number, not negative; providers write some as 214.0."""
    # Fast path: most are, or are not there.
    if value is None or (type(value) is int and 0 <= value <= MAX_COUNT):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
        return value
    return None


def counts(value: object) -> Mapping[str, int | None]:
    """The object with `count` of all its values; an empty one for anything else."""
    if not isinstance(value, dict):
        return _EMPTY
    # Fast path: they are counts as they stand.
    for one in value.values():
        if type(one) is not int or not 0 <= one <= MAX_COUNT:
            return {key: count(one) for key, one in value.items()}
    return value


def total(*values: int | None) -> int | None:
    """The sum of those that are known; None when none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def parse(data: str | bytes) -> object:
    """The JSON value; the text itself when it is none (a truncated tool call)."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data if isinstance(data, str) else data.decode(errors="replace")


def pick(body: Json, names: Mapping[str, str]) -> Json:
    """The set scalars of `body`. `names`: its key to the key to give it; of two for one, the first
    that is there."""
    out: Json = {}
    for source, value in body.items():
        target = names.get(source)
        if target is not None and isinstance(value, (int, float, str)):
            if target in out:
                return _first_of_each(body, names)
            out[target] = value
    return out


def _first_of_each(body: Json, names: Mapping[str, str]) -> Json:
    out: Json = {}
    for source, target in names.items():
        value = body.get(source)
        if target not in out and isinstance(value, (int, float, str)):
            out[target] = value
    return out


def refuse(where: str, wanted: str) -> RequestError:
    """What `check` raises."""
    return RequestError(400, "InvalidRequest", f"{where}: {wanted} expected")


def check_model(body: Json) -> None:
    """Raises: RequestError 400 unless the model is absent or a string."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise refuse("model", "a string")


def check_stream(body: Json) -> None:
    """Raises: RequestError 400 unless `stream` is absent or a boolean."""
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise refuse("stream", "a boolean")


def check_call(body: Json) -> None:
    """`check_model`, then `check_stream`."""
    model, stream = body.get("model"), body.get("stream")
    # Fast path: they are as they should be.
    if (model is None or type(model) is str) and (stream is None or type(stream) is bool):
        return
    check_model(body)
    check_stream(body)


def check_objects(value: object, where: str, *, is_required: bool = True) -> list[Json]:
    """Raises: RequestError 400 unless it is a list of objects, or absent when it may be."""
    if value is None and not is_required:
        return []
    if not isinstance(value, list):
        raise refuse(where, "a list")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise refuse(f"{where}[{index}]", "an object")
    return value


def tool_call(identity: object, called: object, arguments: object) -> Json:
    """A call as `Usage.output_messages` holds it; arguments in text are decoded."""
    if isinstance(arguments, str):
        arguments = parse(arguments) if arguments.strip() else {}
    return custom_call(identity, called, arguments)


def custom_call(identity: object, called: object, arguments: object) -> Json:
    """The same, for a tool whose input is text as it stands."""
    head = {"type": "tool_call", "id": name(identity), "name": name(called)}
    return head | {"arguments": arguments}


def add_calls(usage: Usage, calls: list[Json], finish: object) -> None:
    """Put a message with these calls into `usage`, if there are any."""
    if calls:
        message: Json = {"role": "assistant", "content": calls}
        if isinstance(finish, str):
            message["finish_reason"] = finish
        usage.output_messages.append(message)


@final
class Field:
    """A text in a body: `holder[key]`."""

    __slots__ = ("_holder", "_key", "kind", "role")

    def __init__(self, role: str, kind: str, holder: Json, key: str) -> None:
        self.role = role
        self.kind = kind
        self._holder = holder
        self._key = key

    @property
    def text(self) -> str:
        """The text as it stands there now."""
        value: str = self._holder[self._key]
        return value

    def replace(self, text: str) -> None:
        """Put other text in its place."""
        self._holder[self._key] = text


@final
class JsonField:
    """A JSON value in a body, read and replaced as its text (the arguments of a tool call)."""

    __slots__ = ("_holder", "_key", "kind", "role")

    def __init__(self, role: str, kind: str, holder: Json, key: str) -> None:
        self.role = role
        self.kind = kind
        self._holder = holder
        self._key = key

    @property
    def text(self) -> str:
        """The value's JSON text as it is now."""
        return orjson.dumps(self._holder[self._key]).decode()

    def replace(self, text: str) -> None:
        """Put the value of this JSON in its place; text that is no object goes into one."""
        value = parse(text)
        self._holder[self._key] = value if isinstance(value, dict) else {"text": text}


@final
class Capture:
    """Text that a stream brings, kept up to a limit."""

    __slots__ = ("_chars", "_limit", "_parts")

    def __init__(self, limit_chars: int = MAX_CONTENT_CHARS) -> None:
        self._parts: list[str] = []
        self._chars = 0
        self._limit = limit_chars

    def add(self, text: str) -> None:
        """One more piece; beyond the limit it is left out."""
        if self._chars + len(text) <= self._limit:
            self._chars += len(text)
            self._parts.append(text)

    def joined(self) -> str:
        """All of it."""
        return "".join(self._parts)
