"""Google's countTokens.

Source: Gemini API reference (countTokens).
"""

from __future__ import annotations

from typing import final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.chat.errors import frame, google_error
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.usage import Usage


@final
class _GeminiCount(PlainFormat):
    """GCT: `contents`, or a whole `generateContentRequest`; an answer of one number."""

    name = "geminiCountTokens"

    def check(self, body: Json) -> None:
        super().check(body)
        loose.check_objects(body.get("contents"), "contents", is_required=False)

    def is_streaming(self, body: Json) -> bool:
        return False

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        return Usage(
            count_tokens=loose.count(body.get("totalTokens")),
            cached_input_tokens=loose.count(body.get("cachedContentTokenCount")),
        )

    def error(self, status: int, message: str, kind: str = "", code: str = "") -> Json:
        return google_error(status, message, kind, code)

    def error_frame(self, status: int, message: str, kind: str = "", code: str = "") -> bytes:
        return frame(google_error(status, message, kind, code))


FORMAT: WireFormat = _GeminiCount()
