"""What the simulated model answers: a pure function of what it was asked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final, final

import orjson

from sidecar.simulator.ask import Ask, Json, as_list, as_object, tokens

CREATED: Final = 1_700_000_000
"""Of every answer, in Unix seconds: answers do not depend on the clock."""
SIGNATURE: Final = "c2ltdWxhdG9y"
"""Of thoughts, where the format has one."""
_THOUGHT: Final = "Let me think about it."
_QUOTED_CHARS: Final = 400
_PIECE: Final = re.compile(r"\s*\S+|\s+")
_MAX_DEPTH: Final = 8


@final
@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool. `arguments`: an object that fits the tool's schema."""

    name: str
    arguments: Json

    @property
    def text(self) -> str:
        """The arguments as JSON."""
        return orjson.dumps(self.arguments).decode()

    def halves(self) -> tuple[str, str]:
        """The JSON in the two pieces in which it is streamed."""
        middle = len(self.text) // 2
        return self.text[:middle], self.text[middle:]


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: text, or the call of a tool."""

    identity: str
    """16 hexadecimal digits, the same for the same question."""
    thought: str
    text: str
    call: Call | None
    is_cut: bool
    """It has reached the limit of tokens."""
    input_tokens: int
    output_tokens: int

    @property
    def pieces(self) -> list[str]:
        """The text as it is streamed, a word at a time; together they are the text."""
        return _PIECE.findall(self.text)

    @property
    def finish(self) -> str:
        """`call`, `cut` or `end`."""
        return "call" if self.call else "cut" if self.is_cut else "end"

    @property
    def thought_tokens(self) -> int:
        """Part of `output_tokens`."""
        return tokens(self.thought)


def make(ask: Ask, words: int = 0) -> Reply:
    """The answer. `words`: how many it is to have; 0 leaves that to the simulator."""
    identity = hashlib.sha256(f"{ask.model}\n{ask.prompt}".encode()).hexdigest()[:16]
    thought = _THOUGHT if ask.is_thinking else ""
    call = Call(ask.tool.name, as_object(example(ask.tool.schema))) if ask.tool else None
    text = "" if call else _text(ask, words)
    is_cut = ask.limit is not None and tokens(text) > ask.limit
    if is_cut:
        text = "".join(_PIECE.findall(text)[: ask.limit])
    written = tokens(call.text) if call else tokens(text)
    return Reply(
        identity, thought, text, call, is_cut, tokens(ask.prompt), written + tokens(thought)
    )


def _text(ask: Ask, words: int) -> str:
    if words:
        return " ".join(["word"] * words)
    if ask.schema is not None:
        return orjson.dumps(example(ask.schema)).decode()
    quoted = " ".join(ask.last.split())[:_QUOTED_CHARS]
    return f"The tool said: {quoted}" if ask.is_result else f"You said: {quoted}"


def example(schema: Json, depth: int = 0) -> Any:
    """A value that fits a JSON Schema of the plain kind; `null` beyond eight levels."""
    if depth > _MAX_DEPTH:
        return None
    if as_list(schema.get("enum")):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    for key in ("anyOf", "oneOf", "allOf"):
        if as_list(schema.get(key)):
            return example(as_object(schema[key][0]), depth + 1)
    kind = schema.get("type", "object")
    name = str(kind[0] if isinstance(kind, list) and kind else kind).lower()
    if name == "object":
        properties = as_object(schema.get("properties"))
        return {key: example(as_object(value), depth + 1) for key, value in properties.items()}
    if name == "array":
        return [example(as_object(schema.get("items")), depth + 1)]
    return {"string": "simulated", "integer": 1, "number": 1.5, "boolean": True}.get(name)
