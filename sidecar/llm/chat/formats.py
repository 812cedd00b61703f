"""All wire formats by name; the table that everything else looks formats up in."""

from __future__ import annotations

from typing import Final

from sidecar.llm.chat import (
    completions,
    converse,
    count_tokens,
    detect,
    embeddings,
    gemini,
    gemini_count,
    messages,
    realtime,
    rerank,
    responses,
)
from sidecar.llm.chat.base import WireFormat

FORMATS: Final[dict[str, WireFormat]] = {
    item.name: item
    for item in (
        completions.FORMAT,
        messages.FORMAT,
        responses.FORMAT,
        gemini.FORMAT,
        converse.FORMAT,
        embeddings.FORMAT,
        rerank.FORMAT,
        count_tokens.FORMAT,
        gemini_count.FORMAT,
        realtime.FORMAT,
        detect.FORMAT,
    )
}
"""By route type; `converse` is no route type. `models` and `passthrough` read nothing."""
CHAT: Final = frozenset(("completions", "messages", "responses", "generateContent"))
"""Formats with messages: those that are enriched and guarded."""
