"""Texts in a realtime session's events, whatever shape a provider gives them."""

from __future__ import annotations

import pytest

from sidecar.llm.guard.realtime_texts import realtime_texts


@pytest.mark.parametrize("role", ["assistant", None, 7, ["assistant"], {"a": 1}])
def test_an_item_of_no_known_role_is_the_models(role: object) -> None:
    item = {"type": "message", "role": role, "content": [{"type": "text", "text": "hi"}]}
    assert len(list(realtime_texts({"type": "response.output_item.done", "item": item}))) == 1


@pytest.mark.parametrize("role", ["user", "system"])
def test_what_the_client_said_is_judged_elsewhere(role: str) -> None:
    item = {"type": "message", "role": role, "content": [{"type": "text", "text": "hi"}]}
    assert not list(realtime_texts({"type": "conversation.item.created", "item": item}))
