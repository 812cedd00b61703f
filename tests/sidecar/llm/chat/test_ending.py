"""Which events say that a streamed answer is complete."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.llm.chat.ending import is_end


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 1}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
        {"type": "response.completed", "response": {}},
        {"type": "response.incomplete", "response": {}},
        {"candidates": [{"finishReason": "STOP"}]},
        {"promptFeedback": {"blockReason": "SAFETY"}},
        {"stopReason": "end_turn"},
        {"usage": {}, "metrics": {"latencyMs": 1}},
    ],
)
def test_ends(data: dict[str, Any] | None) -> None:
    assert is_end(data)


@pytest.mark.parametrize(
    "data",
    [
        {},
        # Azure's first one.
        {"choices": [], "usage": None},
        # Some count in each event.
        {"choices": [{"delta": {"content": "a"}, "finish_reason": None}], "usage": {"x": 1}},
        {"choices": {"a": 1}},
        {"choices": [None]},
        {"type": "message_start", "message": {"stop_reason": None}},
        {"type": "message_delta", "delta": None},
        {"type": "error", "error": {}},
        {"type": "response.failed", "response": {}},
        {"candidates": [{"content": {}}]},
        {"candidates": "x"},
    ],
)
def test_others(data: dict[str, Any]) -> None:
    assert not is_end(data)
