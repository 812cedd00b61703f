"""Anthropic's count_tokens.

Source: Anthropic API reference (messages/count_tokens).
"""

from __future__ import annotations

from typing import final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.chat.errors import anthropic_error, frame
from sidecar.llm.chat.messages import check
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.usage import Usage


@final
class _CountTokens(PlainFormat):
    """CT: a request for messages, an answer of one number."""

    name = "anthropicTokenCount"

    def check(self, body: Json) -> None:
        check(body)

    def is_streaming(self, body: Json) -> bool:
        return False

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        return Usage(count_tokens=loose.count(body.get("input_tokens")))

    def error(self, status: int, message: str, kind: str = "", code: str = "") -> Json:
        return anthropic_error(status, message, kind)

    def error_frame(self, status: int, message: str, kind: str = "", code: str = "") -> bytes:
        return frame(anthropic_error(status, message, kind), b"error")


FORMAT: WireFormat = _CountTokens()
