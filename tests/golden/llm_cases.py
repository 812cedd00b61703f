"""Golden cases of LLM translation as data: where they are, and when two results are the same.

One file a case: `group` and `target` name what is run (see test_llm.py), `input` is a client's
request or a provider's answer, the rest is what must come out.

Source: spec llm section 6 (redactions, settings, frame by frame comparison).
"""

from __future__ import annotations

import base64
import re
import struct
from pathlib import Path
from typing import Any, Final

import orjson

Json = dict[str, Any]

OWN: Final = Path(__file__).parent / "llm"
PUBLISHED: Final = Path(__file__).parents[3] / "shared" / "fixtures" / "llm"
_REDACTED_STREAM_ID: Final = re.compile(r"(?:resp|msg|call)_xxx")
_BLANK: Final = re.compile(r"\n\n+")


def load(folder: Path) -> list[Json]:
    """The cases of a folder, by name; none where the folder is absent."""
    return [orjson.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


def input_bytes(case: Json) -> bytes:
    """The provider's bytes."""
    given = case["input"]
    if "base64" in given:
        return base64.b64decode(given["base64"])
    if "text" in given:
        return str(given["text"]).encode()
    return orjson.dumps(given["json"])


# --- comparison -----------------------------------------------------------------------------


def redacted(answer: Json) -> Json:
    """An answer without what differs from run to run, as spec 6.2 (3) says."""
    out = dict(answer)
    for key in ("id", "created", "created_at"):
        if key in out:
            out[key] = "[id]" if key == "id" else "[date]"
    if isinstance(out.get("output"), list):
        out["output"] = [item | ({"id": "[id]"} if "id" in item else {}) for item in out["output"]]
    return out


def without_nulls(answer: Json) -> Json:
    """Top-level keys that say something; a pass-through does not add `"usage": null`."""
    return {key: value for key, value in answer.items() if value is not None}


def float32(value: Any) -> Any:
    """A number as single precision has it, which is how the published cases were written."""
    if isinstance(value, float):
        return struct.unpack("f", struct.pack("f", value))[0]
    return value


def frames(stream: str) -> list[tuple[str, Any]]:
    """SSE text as `[(event name, parsed data or text)]`; comments are left out."""
    out: list[tuple[str, Any]] = []
    for block in _BLANK.split(stream.replace("\r\n", "\n")):
        name, data = "", []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            if field == "event":
                name = value.strip()
            elif field == "data":
                data.append(value.strip())
        if data:
            out.append((name, _parsed("\n".join(data))))
    return out


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


_PARTS: Final = frozenset(
    ("response.content_part.added", "response.content_part.done", "response.output_text.done")
)


def essence(stream: list[tuple[str, Any]]) -> list[Any]:
    """A converted stream of responses without what the reference leaves out of one.

    Its streams have no usable names, not all parts, empty deltas, messages that stay open behind
    tool calls, and no output in the last event (docs/llm-differences.md, "Streams of responses
    are whole").
    """
    return [
        _without(data, ("sequence_number", "output", "content"))
        for _, data in stream
        if not (isinstance(data, dict) and _is_left_out(data))
    ]


def _is_left_out(data: Json) -> bool:
    kind = data.get("type")
    if kind == "response.output_item.done":
        return bool(data["item"]["type"] == "message")
    return kind in _PARTS or (kind == "response.output_text.delta" and not data["delta"])


def _without(value: Any, names: tuple[str, ...]) -> Any:
    """A value without these keys and without nulls, however deep."""
    if not isinstance(value, dict):
        return value
    kept = {k: v for k, v in value.items() if k not in names and v is not None}
    return {key: _without(item, names) for key, item in kept.items()}


def difference(expected: Any, actual: Any, where: str = "") -> str | None:
    """Where two values of a stream differ, else None.

    Times are 123 in published streams; an id that was redacted, or that the reference leaves
    empty, may be any string.
    """
    key = where.rpartition(".")[2]
    if key in ("created", "created_at") and isinstance(actual, int):
        return None
    if isinstance(expected, dict) and isinstance(actual, dict):
        for name in expected.keys() | actual.keys():
            if name not in expected or name not in actual:
                return f"{where}.{name}: only on one side"
            if found := difference(expected[name], actual[name], f"{where}.{name}"):
                return found
        return None
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        pairs = enumerate(zip(expected, actual, strict=True))
        each = (difference(one, other, f"{where}[{i}]") for i, (one, other) in pairs)
        return next((item for item in each if item), None)
    is_id = key in ("id", "item_id", "call_id") and isinstance(actual, str)
    if is_id and (expected == "" or _REDACTED_STREAM_ID.fullmatch(str(expected))):
        return None
    return None if expected == actual else f"{where}: {expected!r} != {actual!r}"
