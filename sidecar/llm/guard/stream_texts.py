"""The texts in the events of a streamed answer, in each format that clients speak.

Source: spec/llm.md sections 2.14, 2.16 and 4.2; the providers' API references (streaming events).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json


@final
@dataclass(frozen=True, slots=True)
class StreamText:
    """A text at `holder[key]`, which continues what its channel brought before.

    `channel` None: it stands for itself, as the repetition of a whole text does.
    """

    channel: Hashable
    holder: Json
    key: str


StreamTexts = Callable[[Json], Iterator[StreamText]]
_DELTA_KEYS: Final = ("content", "refusal", "reasoning_content", "reasoning")
_BLOCK_KEYS: Final = ("text", "thinking")
_DONE_KEYS: Final = ("text", "refusal")
_TEXT_DELTAS: Final = frozenset(
    (
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
    )
)


def _held(channel: Hashable, holder: Json, keys: tuple[str, ...]) -> Iterator[StreamText]:
    for key in keys:
        if isinstance(holder.get(key), str):
            yield StreamText(None if channel is None else (channel, key), holder, key)


def _completions(data: Json) -> Iterator[StreamText]:
    for choice in loose.objects(data.get("choices")):
        delta = loose.obj(choice.get("delta"))
        index = loose.count(choice.get("index")) or 0
        yield from _held(index, delta, _DELTA_KEYS)
        for part in loose.objects(delta.get("content")):
            yield from _held((index, "content"), part, ("text",))


def _messages(data: Json) -> Iterator[StreamText]:
    index = loose.count(data.get("index")) or 0
    yield from _held(index, loose.obj(data.get("delta")), _BLOCK_KEYS)
    yield from _held(index, loose.obj(data.get("content_block")), _BLOCK_KEYS)


def _responses(data: Json) -> Iterator[StreamText]:
    kind = data.get("type")
    if kind in _TEXT_DELTAS:
        place = [
            loose.count(data.get(key)) for key in ("output_index", "content_index", "summary_index")
        ]
        yield from _held((kind, *place), data, ("delta",))
        return
    yield from _held(None, data, _DONE_KEYS)
    yield from _held(None, loose.obj(data.get("part")), _DONE_KEYS)
    whole = [{"output": [data["item"]]}] if isinstance(data.get("item"), dict) else []
    if isinstance(data.get("response"), dict):
        whole.append(data["response"])
    for answer in whole:
        for item in loose.objects(answer.get("output")):
            for key in ("content", "summary"):
                for part in loose.objects(item.get(key)):
                    yield from _held(None, part, _DONE_KEYS)


def _gemini(data: Json) -> Iterator[StreamText]:
    for at, candidate in enumerate(loose.objects(data.get("candidates"))):
        index = loose.count(candidate.get("index"))
        for part in loose.objects(loose.obj(candidate.get("content")).get("parts")):
            channel = (at if index is None else index, part.get("thought") is True)
            yield from _held(channel, part, ("text",))


STREAM_TEXTS: Final[Mapping[str, StreamTexts]] = {
    "completions": _completions,
    "messages": _messages,
    "responses": _responses,
    "generateContent": _gemini,
}
"""By route type."""
