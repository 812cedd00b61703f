"""What one LLM call used, as far as the provider says; `None` is "not said", never 0.

Source: spec llm sections 5.2 and 6.2; OpenAI, Anthropic and Google usage objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, final

from sidecar.llm.pieces import Pieces, with_piece


@final
@dataclass(slots=True)
class Usage:
    """Token counts as the provider reports them, and what else an answer tells about the call."""

    input_tokens: int | None = None
    """As reported: some providers count cached tokens in it, some do not (`Cost.convention`)."""
    input_text_tokens: int | None = None
    input_image_tokens: int | None = None
    input_audio_tokens: int | None = None
    count_tokens: int | None = None
    """The answer of a token-counting call."""
    output_tokens: int | None = None
    output_text_tokens: int | None = None
    output_image_tokens: int | None = None
    output_audio_tokens: int | None = None
    total_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    long_cache_creation_input_tokens: int | None = None
    """Of those, the ones that are kept for an hour; never 0."""
    cached_input_tokens: int | None = None
    pieces: Pieces | None = None
    """What else the call used that has a price: see llm.pieces."""
    service_tier: str | None = None
    provider_model: str | None = None
    """The model that answered."""
    completion: list[str] = field(default_factory=list)
    """The answer's text, one for each choice; filled only when somebody asked for content."""
    output_messages: list[dict[str, Any]] = field(default_factory=list)
    """Messages with their tool calls; filled only when somebody asked for content."""

    def piece(self, name: str, count: object) -> None:
        """Note how many pieces of a kind were used, if `count` is an amount at all."""
        self.pieces = with_piece(self.pieces, name, count)

    def merge(self, newer: Usage) -> None:
        """Take over what `newer` says: a stream reports piece by piece, the last word counts."""
        for name in _FIELDS:
            value = getattr(newer, name)
            if name == "pieces" and value is not None:
                value = {**(self.pieces or {}), **value}
            if value is not None and value != []:
                setattr(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """What is known, by field name."""
        values = ((name, getattr(self, name)) for name in _FIELDS)
        return {name: value for name, value in values if value is not None and value != []}


_FIELDS = tuple(item.name for item in fields(Usage))
