"""How many tokens a stream has brought, for when it ends before its provider says so.

Source: spec llm sections 2.16 and 4.6; OpenAI's rule of thumb, 4 characters a token.

The estimate is the number of events with generated text (providers seldom cut a token in two), or
a token for each 4 characters of that text, whichever is more: providers put many tokens into an
event where they stream in bigger pieces.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.chat.base import Json

CHARS_PER_TOKEN: Final = 4
_TEXTS: Final = frozenset(
    (
        *("arguments", "content", "delta", "generation", "input", "outputText", "partial_json"),
        *("reasoning", "reasoning_content", "refusal", "text", "thinking"),
    )
)
"""Keys of generated text in the events of all formats."""
_HOLDERS: Final = frozenset(
    (
        *("candidates", "choices", "content", "contentBlock", "content_block", "delta"),
        *("function", "functionCall", "message", "parts", "reasoningContent", "response"),
        *("tool_calls", "toolUse"),
    )
)
"""Keys of what such text stands in."""


def tokens_of_chars(chars: int) -> int:
    """An estimate, rounded up."""
    return -(-chars // CHARS_PER_TOKEN)


def text_chars(event: Json | None) -> int:
    """Characters of generated text in one decoded event. No recursion: providers nest as they like.

    Arguments that are objects (Gemini) are not looked into: the event counts as a token.
    """
    if event is None:
        return 0
    chars = 0
    waiting: list[object] = [event]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            for key, value in item.items():
                if isinstance(value, str):
                    if key in _TEXTS:
                        chars += len(value)
                elif value and key in _HOLDERS:
                    waiting.append(value)
    return chars


@final
class Produced:
    """What one stream has brought so far."""

    __slots__ = ("_envelope", "_octets", "chars", "events", "is_whole")

    def __init__(self) -> None:
        self.events = 0
        """With generated text."""
        self.chars = 0
        self.is_whole = False
        """The stream came to its end: what it reports is all."""
        self._envelope = 0
        self._octets = 0

    def add(self, event: Json | None) -> None:
        """A decoded event with text."""
        self.events += 1
        self.chars += text_chars(event)

    def learn(self, event: Json | None, octets: int) -> None:
        """One of the first events with text, of this size: what is around the text is taken to be
        the same in later ones."""
        before = self.chars
        self.add(event)
        envelope = octets - (self.chars - before)
        # The very first may also name the role.
        if self.events == 1 or envelope < self._envelope:
            self._envelope = envelope

    @property
    def is_framed(self) -> bool:
        """Whether enough events were learnt from."""
        return self.events > 1

    def pass_by(self, octets: int) -> None:
        """An event of this size that nobody decodes; one no longer than a frame has no text."""
        text = octets - self._envelope
        if text > 0:
            self.events += 1
            self._octets += text

    @property
    def tokens(self) -> int:
        """The estimate."""
        return max(self.events, tokens_of_chars(self.chars + self._octets))


__all__ = ["CHARS_PER_TOKEN", "Produced", "text_chars", "tokens_of_chars"]
