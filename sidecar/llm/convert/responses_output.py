"""Items of an OpenAI response, as its output lists and its events carry them.

Source: OpenAI API reference (responses object); spec llm section 2.8.
"""

from __future__ import annotations

from sidecar.llm.convert.base import Json
from sidecar.llm.shape import to_count, to_object, to_optional_count


def text_part(text: str) -> Json:
    """A content part of a message."""
    return {"type": "output_text", "annotations": [], "logprobs": None, "text": text}


def refusal_part(text: str) -> Json:
    """A content part that says no."""
    return {"type": "refusal", "refusal": text}


def message_item(identity: str, status: str, parts: list[Json]) -> Json:
    """The assistant's message."""
    return {
        "type": "message",
        "id": identity,
        "role": "assistant",
        "status": status,
        "content": parts,
    }


def call_item(
    identity: str, call_id: str, name: str, text: str, status: str, *, is_custom: bool
) -> Json:
    """A call; `text` is its arguments as JSON text, or a free-form tool's input."""
    return {
        "type": "custom_tool_call" if is_custom else "function_call",
        "id": identity,
        "call_id": call_id,
        "name": name,
        "input" if is_custom else "arguments": text,
        "status": status,
    }


def reasoning_item(identity: str, summary: str, encrypted: str) -> Json:
    """What the model thought. `encrypted`: what only its provider reads; "" for nothing."""
    parts = [{"type": "summary_text", "text": summary}] if summary else []
    item: Json = {"type": "reasoning", "id": identity, "summary": parts}
    if encrypted:
        item["encrypted_content"] = encrypted
    return item


def responses_usage(
    sent: int, received: int, total: int, cached: int, written: int | None, reasoning: int
) -> Json:
    """Token counts: `sent` includes those read from and written to a cache."""
    details: Json = {"cached_tokens": cached}
    if written is not None:
        details["cache_write_tokens"] = written
    return {
        "input_tokens": sent,
        "input_tokens_details": details,
        "output_tokens": received,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": total,
    }


def usage_of_completions(usage: Json) -> Json:
    """Chat completions' usage. Some providers leave the output out of a total that counts it."""
    sent = to_count(usage.get("prompt_tokens"), "usage.prompt_tokens")
    received = to_count(usage.get("completion_tokens"), "usage.completion_tokens")
    total = to_optional_count(usage.get("total_tokens"), "usage.total_tokens")
    if total is None:
        total = sent + received
    elif received == 0:
        received = max(total - sent, 0)
    before = to_object(usage.get("prompt_tokens_details"), "usage.prompt_tokens_details")
    after = to_object(usage.get("completion_tokens_details"), "usage.completion_tokens_details")
    return responses_usage(
        sent,
        received,
        total,
        to_count(before.get("cached_tokens"), "usage.cached_tokens"),
        to_optional_count(before.get("cache_write_tokens"), "usage.cache_write_tokens"),
        to_count(after.get("reasoning_tokens"), "usage.reasoning_tokens"),
    )


def usage_of_messages(usage: Json) -> Json:
    """Anthropic's usage, which counts cached tokens apart."""
    sent = to_count(usage.get("input_tokens"), "usage.input_tokens")
    received = to_count(usage.get("output_tokens"), "usage.output_tokens")
    read = to_count(usage.get("cache_read_input_tokens"), "usage.cache_read_input_tokens")
    written = to_optional_count(
        usage.get("cache_creation_input_tokens"), "usage.cache_creation_input_tokens"
    )
    sent += read + (written or 0)
    return responses_usage(sent, received, sent + received, read, written, 0)
