"""Expressions of policies: what is read without an evaluation is what an evaluation gives."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.cel.engine import CelError, Engine
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression
from sidecar.telemetry.clock import SystemClock
from tests.support.compiled import ask_for

LLM = {
    "totalTokens": 40,
    "cost": {"total": 0.00086, "input": 0},
    "provider": "openai",
    "streaming": True,
    "params": {"seed": 7},
}


@pytest.mark.parametrize("state", [LLM, {}, None])
@pytest.mark.parametrize(
    "source",
    [
        *("llm.totalTokens", " llm.totalTokens ", "llm.cost.total", "llm.cost.input"),
        *("llm.provider", "llm.streaming", "llm.params", "llm.params.seed", "llm.totalTokens.x"),
        *("llm.nothing", "llm.cost.nothing"),
    ],
)
def test_numbers_of_a_call(source: str, state: dict[str, Any] | None) -> None:
    made = Expression(source, Services(SystemClock(), Engine()), "cost")
    same = Expression(f"({source})", Services(SystemClock(), Engine()), "cost")
    request = ask_for()
    if state is not None:
        request.state["llm"] = state
    assert _value(made, request) == _value(same, request)


@pytest.mark.parametrize("root", ["apiKey", "jwt"])
@pytest.mark.parametrize("field", ["name", "org.unit", "level", "key", "rawToken", "absent"])
def test_who_the_client_is(root: str, field: str) -> None:
    made = Expression(f"{root}.{field}", Services(SystemClock(), Engine()), "key")
    same = Expression(f"({root}.{field})", Services(SystemClock(), Engine()), "key")
    request = ask_for()
    facts = {"name": "me", "org": {"unit": "x"}, "level": 3, "key": "claim", "rawToken": "claim"}
    request.state |= {root: facts, "apiKey.key": "secret", "jwt.rawToken": "secret"}
    assert _value(made, request) == _value(same, request)


def _value(expression: Expression, request: Any) -> tuple[type, object]:
    try:
        found = expression.value(request)
    except CelError:
        return CelError, None
    return type(found), found
