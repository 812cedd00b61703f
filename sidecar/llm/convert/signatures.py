"""Anthropic's proof of thinking inside OpenAI's `encrypted_content`, so that clients bring it back.

The prefix tells it from content that OpenAI itself encrypted, which Anthropic would refuse: a
client may change providers in the middle of a conversation.

Source: Anthropic API reference (extended thinking); OpenAI API reference (reasoning items).
"""

from __future__ import annotations

from typing import Final

from sidecar.llm.convert.base import Json

_SIGNED: Final = "anthropic-signature:"
_REDACTED: Final = "anthropic-redacted:"


def of_signature(signature: str) -> str:
    """A thinking block's signature as encrypted content; "" stays ""."""
    return _SIGNED + signature if signature else ""


def of_redacted(data: str) -> str:
    """A redacted_thinking block's data as encrypted content; "" stays ""."""
    return _REDACTED + data if data else ""


def thinking_block(summary: str, encrypted: str) -> Json | None:
    """The block that the client brought back; None when Anthropic could not verify it."""
    if encrypted.startswith(_SIGNED):
        signature = encrypted.removeprefix(_SIGNED)
        return {"type": "thinking", "thinking": summary, "signature": signature}
    if encrypted.startswith(_REDACTED):
        return {"type": "redacted_thinking", "data": encrypted.removeprefix(_REDACTED)}
    return None
