"""Cache points that the gateway sets by itself in Bedrock requests, as `promptCaching` says.

Source: Amazon Bedrock user guide (prompt caching); spec llm section 4.3.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.llm.convert.base import Context, Json

MAX_POINTS: Final = 4
"""What Bedrock takes in one request."""
_TOKENS_A_WORD: Final = 1.3
_WITHOUT: Final = ("claude-instant", "claude-v1", "claude-v2")


def cache_point() -> Json:
    """A point; everything before it in the request is cached."""
    return {"cachePoint": {"type": "default"}}


def is_cachable(model: str) -> bool:
    """Whether Bedrock caches prompts for this model."""
    if "anthropic.claude" in model:
        return not any(name in model for name in _WITHOUT)
    is_profile = model.startswith("arn:") and ":application-inference-profile/" in model
    return "amazon.nova" in model or is_profile


def add_cache_points(body: Json, context: Context, taken: int) -> None:
    """Edit a Converse request. `taken`: points that the client itself has set."""
    rules: dict[str, Any] | None = context.settings.get("promptCaching")
    if rules is None or not is_cachable(context.model):
        return
    left = MAX_POINTS - taken
    system = body.get("system", [])
    minimum = rules.get("minTokens", 1024)
    if rules.get("cacheSystem", True) and left > 0 and _estimate(system) >= (minimum or 0):
        left -= _append(system)
    if rules.get("cacheMessages", True) and left > 0:
        index = len(body["messages"]) - 2 - rules.get("cacheMessageOffset", 0)
        if index >= 0:
            left -= _append(body["messages"][index]["content"])
    if rules.get("cacheTools", False) and left > 0:
        _append(body.get("toolConfig", {}).get("tools", []))


def _estimate(system: list[Json]) -> float:
    return sum(len(block.get("text", "").split()) for block in system) * _TOKENS_A_WORD


def _append(blocks: list[Json]) -> int:
    """How many points were set: none on nothing, nor where one stands already."""
    if not blocks or "cachePoint" in blocks[-1]:
        return 0
    blocks.append(cache_point())
    return 1
