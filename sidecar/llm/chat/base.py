"""The shape of a wire format: how to read and edit its bodies without converting them.

Source: spec llm sections 0, 4.1, 5.2 and 6.2. Bodies are decoded JSON whose unknown fields survive.
"""

from __future__ import annotations

from typing import Any, Protocol

from sidecar.llm.usage import Usage

Json = dict[str, Any]


class UsageReader(Protocol):
    """Reads one provider stream as it goes by; never raises over what the provider sent."""

    @property
    def usage(self) -> Usage:
        """What has been seen so far; may be looked at any time."""

    def feed(self, name: str, data: Json | None) -> bool:
        """One decoded event (see convert.base.StreamEvent); True when it carried generated text."""


class TextPart(Protocol):
    """A piece of text that a guard may read and replace in place."""

    role: str
    kind: str
    """`systemPrompt`, `messages`, `toolOutput`, `toolInput` or, in answers, `completion`."""

    @property
    def text(self) -> str:
        """The text as it stands in the body now."""

    def replace(self, text: str) -> None:
        """Put other text in its place in the body."""


class WireFormat(Protocol):
    """One format. All methods are pure but for those that say that they edit."""

    name: str
    """The route type: `completions`, `messages`, `responses`, `generateContent`, …."""

    def check(self, body: Json) -> None:
        """Raises: RequestError 400 when fields that the gateway reads have a wrong shape."""

    def model(self, body: Json) -> str | None:
        """The model the body names."""

    def is_streaming(self, body: Json) -> bool:
        """Whether the client asked for a stream."""

    def params(self, body: Json) -> Json:
        """temperature, top_p, max_tokens, frequency_penalty, presence_penalty, seed, dimensions,
        encoding_format: those that are set."""

    def prompt(self, body: Json) -> list[dict[str, str]]:
        """`[{role, content}]`, texts only: for guards, logs and CEL."""

    def enrich(self, body: Json, prepend: list[Json], append: list[Json]) -> None:
        """Edit: put messages before and after (section 4.1)."""

    def request_texts(self, body: Json) -> list[TextPart]:
        """All text of a request that guards may see, in order."""

    def response_texts(self, body: Json) -> list[TextPart]:
        """All text of an answer that guards may see, in order."""

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        """What an answer reports."""

    def reader(self, *, with_content: bool = False) -> UsageReader:
        """A reader for one stream."""

    def error(self, status: int, message: str, kind: str = "", code: str = "") -> Json:
        """An error of the gateway's own as this format's clients expect it."""

    def error_frame(self, status: int, message: str, kind: str = "", code: str = "") -> bytes:
        """The same as the last SSE frame of a stream that cannot go on."""
