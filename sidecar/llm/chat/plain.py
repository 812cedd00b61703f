"""What a wire format does unless it says otherwise: no messages, no stream, OpenAI's errors.

Source: spec llm section 4.1 (formats that enrichment and guards leave alone).
"""

from __future__ import annotations

from typing import final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, TextPart, UsageReader
from sidecar.llm.chat.errors import frame, openai_error
from sidecar.llm.usage import Usage


@final
class NoReader:
    """The reader of a format that does not stream."""

    __slots__ = ("_usage",)

    def __init__(self) -> None:
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """Nothing."""
        return self._usage

    def feed(self, name: str, data: Json | None) -> bool:
        """Nothing is read."""
        return False


class PlainFormat:
    """To be derived from; each method is described at `WireFormat`."""

    name = ""

    def check(self, body: Json) -> None:
        """Raises: RequestError 400 when `model` or `stream` has a wrong type."""
        loose.check_call(body)

    def model(self, body: Json) -> str | None:
        """`model` of the body."""
        return loose.name(body.get("model"))

    def is_streaming(self, body: Json) -> bool:
        """`stream` of the body."""
        return body.get("stream") is True

    def params(self, body: Json) -> Json:
        """None."""
        return {}

    def prompt(self, body: Json) -> list[dict[str, str]]:
        """None."""
        return []

    def enrich(self, body: Json, prepend: list[Json], append: list[Json]) -> None:
        """Ignored."""

    def request_texts(self, body: Json) -> list[TextPart]:
        """None."""
        return []

    def response_texts(self, body: Json) -> list[TextPart]:
        """None."""
        return []

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        """Nothing but the model."""
        return Usage(provider_model=loose.name(body.get("model")))

    def reader(self, *, with_content: bool = False) -> UsageReader:
        """One that reads nothing."""
        return NoReader()

    def error(self, status: int, message: str, kind: str = "", code: str = "") -> Json:
        """OpenAI's error object."""
        return openai_error(status, message, kind, code)

    def error_frame(self, status: int, message: str, kind: str = "", code: str = "") -> bytes:
        """OpenAI's error object as an unnamed event."""
        return frame(openai_error(status, message, kind, code))
