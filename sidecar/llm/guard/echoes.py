"""Where an answer says again what its texts say: tokens with their odds, details, excerpts.

Source: spec/llm.md section 4.2; the API references of OpenAI (logprobs, audio), OpenRouter
(reasoning_details), Anthropic (citations) and Google (logprobsResult, groundingSupports).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, TextPart

Place = tuple[Json, str]
_DETAILS: Final = ("text", "summary")


def without_logprobs(data: Json) -> bool:
    """Edit an answer, or an event of one, in any format: tokens cannot be judged one by one, and a
    mask over them would be seen through. True if there were any."""
    found = [_emptied(choice, None) for choice in loose.objects(data.get("choices"))]
    found += [_dropped(one, "logprobsResult") for one in loose.objects(data.get("candidates"))]
    if "choices" in data or "candidates" in data:
        return any(found)
    items = [loose.obj(data.get("item"))]
    items += loose.objects(data.get("output"))
    items += loose.objects(loose.obj(data.get("response")).get("output"))
    parts = [part for item in items for part in loose.objects(item.get("content"))]
    found = [_emptied(holder, []) for holder in (data, loose.obj(data.get("part")), *parts)]
    return any(found)


def _emptied(holder: Json, empty: list[object] | None) -> bool:
    if not holder.get("logprobs"):
        return False
    holder["logprobs"] = empty
    return True


def _dropped(holder: Json, key: str) -> bool:
    return holder.pop(key, None) is not None


def message_echoes(message: Json) -> Iterator[Place]:
    """Of a message, or a delta, of chat completions."""
    for detail in loose.objects(message.get("reasoning_details")):
        yield from _texts(detail, *_DETAILS)
    yield from _texts(loose.obj(message.get("audio")), "transcript")


def candidate_echoes(candidate: Json) -> Iterator[Place]:
    """Of Gemini's."""
    grounding = loose.obj(candidate.get("groundingMetadata"))
    for support in loose.objects(grounding.get("groundingSupports")):
        yield from _texts(loose.obj(support.get("segment")), "text")


def block_echoes(block: Json) -> Iterator[Place]:
    """Of a content block, or a delta, of messages."""
    citations = [loose.obj(block.get("citation")), *loose.objects(block.get("citations"))]
    for citation in citations:
        yield from _texts(citation, "cited_text")


def _texts(holder: Json, *keys: str) -> Iterator[Place]:
    for key in keys:
        if isinstance(holder.get(key), str):
            yield holder, key


def answer_echoes(body: Json) -> list[TextPart]:
    """Of a whole answer in any format, to be judged as its texts are."""
    places: list[Place] = []
    for choice in loose.objects(body.get("choices")):
        places += message_echoes(loose.obj(choice.get("message")))
    for candidate in loose.objects(body.get("candidates")):
        places += candidate_echoes(candidate)
    for block in loose.objects(body.get("content")):
        places += block_echoes(block)
    return [loose.Field("assistant", "completion", holder, key) for holder, key in places]


__all__ = [
    "answer_echoes",
    "block_echoes",
    "candidate_echoes",
    "message_echoes",
    "without_logprobs",
]
