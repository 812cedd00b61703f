"""Writing a stream of OpenAI chat completion chunks, and telling the calls of one apart.

Source: OpenAI API reference (chat, streaming).
"""

from __future__ import annotations

from typing import Any, Final, final

import orjson

from sidecar.http.sse import encode_event
from sidecar.llm.convert.base import Context, Json

DONE: Final = encode_event(b"[DONE]")


def is_another_call(call: Json, function: Json, identity: object) -> bool:
    """Whether a delta begins another call than the one of its number, whose id is `identity`:
    Google's imitation of OpenAI gives the number 0 to all calls."""
    own = call.get("id")
    return bool(own and identity and function.get("name")) and own != identity


@final
class ChunkWriter:
    """Chunks of the one choice of one stream. The first delta carries the role."""

    __slots__ = ("_created", "_has_role", "_identity", "_model")

    def __init__(self, context: Context, identity: str, model: str) -> None:
        self._created = context.now_seconds
        self._identity = identity
        self._model = model
        self._has_role = False

    def delta(self, delta: Json, finish: str | None = None, usage: Json | None = None) -> bytes:
        """A chunk. `finish`: the reason, on the last one."""
        full: Json = {"content": None} | delta
        if not self._has_role:
            self._has_role = True
            full["role"] = "assistant"
        choice: Json = {"index": 0, "delta": full}
        if finish is not None:
            choice["finish_reason"] = finish
        return self._chunk([choice], usage)

    def usage(self, usage: Json) -> bytes:
        """The chunk of token counts that has no choice."""
        return self._chunk([], usage)

    def call(self, number: int, identity: str, name: str) -> bytes:
        """A tool call begins."""
        function = {"name": name}
        call = {"index": number, "id": identity, "type": "function", "function": function}
        return self.delta({"tool_calls": [call]})

    def arguments(self, number: int, text: str) -> bytes:
        """More of its arguments."""
        call = {"index": number, "id": None, "type": None, "function": {"arguments": text}}
        return self.delta({"tool_calls": [call]})

    def _chunk(self, choices: list[Any], usage: Json | None) -> bytes:
        return encode_event(
            orjson.dumps(
                {
                    "id": self._identity,
                    "choices": choices,
                    "created": self._created,
                    "model": self._model,
                    "service_tier": None,
                    "system_fingerprint": None,
                    "object": "chat.completion.chunk",
                    "usage": usage,
                }
            )
        )
