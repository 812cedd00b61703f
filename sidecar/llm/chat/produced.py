"""How many tokens an answer has brought and its prompt had, where the provider does not say so.

Source: spec llm sections 2.16 and 4.6; OpenAI's rule of thumb, 4 characters a token.

The estimate of a stream is the number of events with generated text (providers seldom cut a token
in two), or a token for each 4 characters of that text, whichever is more: providers put many tokens
into an event where they stream in bigger pieces. Of a whole answer it is the latter.
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
        *("function", "functionCall", "message", "output", "parts", "reasoningContent"),
        *("response", "summary", "tool_calls", "toolUse"),
    )
)
"""Keys of what such text stands in."""
_GIVEN: Final = frozenset(("args", "input"))
"""Arguments of a call that are an object: all of it was generated."""
_BINARY: Final = frozenset(("data", "file_data", "bytes"))
_UNREAD: Final = _BINARY | frozenset(
    (
        *("model", "metadata", "user", "safety_identifier", "prompt_cache_key"),
        *("signature", "encrypted_content", "thoughtSignature"),
    )
)
"""Keys in requests of what no model reads as text."""
_MEDIA_TYPES: Final = frozenset(
    ("image", "image_url", "input_image", "document", "input_file", "file", "input_audio")
)
_MEDIA_KEYS: Final = frozenset(("inlineData", "inline_data", "fileData", "file_data"))
_MEDIA_CHARS: Final = CHARS_PER_TOKEN * 85
"""OpenAI's cost of an image at low detail, the least that it can be."""


def tokens_of_chars(chars: int) -> int:
    """An estimate, rounded up."""
    return -(-chars // CHARS_PER_TOKEN)


def text_chars(event: Json | None) -> int:
    """Characters of generated text in one decoded event or answer. No recursion: providers nest as
    they like.
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
                elif value and key in _GIVEN:
                    chars += _all_chars(value, frozenset())
    return chars


def asked_chars(body: Json) -> int:
    """Characters of a request of which nobody knows where its prompt is, all in all; a picture or
    file counts as what the cheapest one costs."""
    return _all_chars(body, _UNREAD)


def extra_chars(body: Json) -> int:
    """What a chat has a model read beside its texts: tools with their schemas, pictures, files."""
    chars = _all_chars(body.get("tools"), frozenset())
    waiting: list[object] = [value for key, value in body.items() if key != "tools"]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            kind = item.get("type")  # in a schema it may be a list, or a schema itself
            is_media = isinstance(kind, str) and kind in _MEDIA_TYPES
            if is_media or not _MEDIA_KEYS.isdisjoint(item):
                chars += _MEDIA_CHARS
            else:
                waiting.extend(item.values())
    return chars


def _all_chars(value: object, unread: frozenset[str]) -> int:
    """Characters of all texts and names below a value. No recursion, as above."""
    chars = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            is_media = item.startswith("data:") and ";base64," in item[:_MEDIA_CHARS]
            chars += _MEDIA_CHARS if is_media else len(item)
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            for key, inner in item.items():
                if key not in unread:
                    chars += len(key)
                    waiting.append(inner)
                elif key in _BINARY and inner:
                    chars += _MEDIA_CHARS
        elif item is not None:
            chars += len(str(item))
    return chars


@final
class Produced:
    """What one stream has brought so far."""

    __slots__ = ("_envelope", "_octets", "chars", "events", "is_left", "is_whole")

    def __init__(self) -> None:
        self.events = 0
        """With generated text."""
        self.chars = 0
        self.is_whole = False
        """The stream came to its end: what it reports is all."""
        self.is_left = False
        """Nobody wanted the rest of it."""
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


__all__ = [
    "CHARS_PER_TOKEN",
    "Produced",
    "asked_chars",
    "extra_chars",
    "text_chars",
    "tokens_of_chars",
]
