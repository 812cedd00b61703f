"""The texts in what a realtime model says: its words, the transcripts of its voice, its calls.

What the user said comes back too; it was judged, as far as it was text, when the client sent it.

Source: OpenAI API reference (realtime server events); spec/llm.md section 2.15.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json
from sidecar.llm.guard.stream_texts import StreamEnd, StreamText, called, held, item_texts

_SPOKEN: Final = (
    "response.output_text",
    "response.text",
    "response.output_audio_transcript",
    "response.audio_transcript",
)
_CALLED: Final = ("response.function_call_arguments", "response.mcp_call_arguments")
_OTHERS: Final = frozenset(("user", "system"))


def realtime_texts(data: Json) -> Iterator[StreamText | StreamEnd]:
    """See stream_texts.StreamTexts."""
    name, _, step = loose.text(data.get("type")).rpartition(".")
    place = tuple(
        str(data.get(key)) for key in ("response_id", "item_id", "output_index", "content_index")
    )
    if step == "delta":
        if name in _SPOKEN:
            yield from held(("text", *place), data, ("delta",))
        elif name in _CALLED:
            yield from called(("call", *place), data, ("delta",))
        return
    if name in _SPOKEN:
        yield StreamEnd(("text", *place))
        yield from held(None, data, ("text", "transcript"))
    elif name in _CALLED:
        yield StreamEnd(("call", *place))
        yield from called(None, data, ("arguments",))
    elif (name, step) == ("response", "done"):
        yield StreamEnd(())
    yield from held(None, loose.obj(data.get("part")), ("text", "transcript", "refusal"))
    items = [data["item"]] if isinstance(data.get("item"), dict) else []
    items += loose.objects(loose.obj(data.get("response")).get("output"))
    for item in items:
        if loose.text(item.get("role")) not in _OTHERS:
            yield from item_texts(item)
