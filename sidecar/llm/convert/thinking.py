"""Between OpenAI's reasoning effort and Anthropic's thinking budget.

Source: spec llm section 2.2; Anthropic API reference (extended and adaptive thinking, effort).
"""

from __future__ import annotations

from typing import Final

from sidecar.llm.convert.base import Context, Json
from sidecar.llm.convert.claude_models import is_adaptive_only, takes_one_sampler
from sidecar.llm.shape import to_object

BUDGETS: Final = {
    "minimal": 1024,
    "low": 1024,
    "medium": 2048,
    "high": 4096,
    "xhigh": 8192,
    "max": 16384,
}
_ADAPTIVE: Final = {"minimal": "low"}
"""Efforts that models which think adaptively do not know; they know all others."""
MIN_BUDGET: Final = 1024
"""The least that Anthropic accepts."""
MAX_TEMPERATURE: Final = 1
"""The most that Anthropic and Bedrock accept; OpenAI's scale ends at 2."""
_MIN_TOP_P: Final = 0.95
"""The least that Anthropic accepts beside thinking."""


def budget_of(effort: object) -> int | None:
    """Tokens to think with; None for `none` and for what is not an effort."""
    return BUDGETS.get(effort) if isinstance(effort, str) else None


def effort_of(budget_tokens: int) -> str:
    """The greatest effort whose budget is not above this one; `low` below all."""
    if budget_tokens < BUDGETS["medium"]:
        return "low"
    efforts = ("medium", "high", "xhigh", "max")
    return max((e for e in efforts if BUDGETS[e] <= budget_tokens), key=BUDGETS.__getitem__)


def openai_effort_of(budget_tokens: int) -> str:
    """The same for OpenAI's models: `high` at most, since many refuse what is above it."""
    return effort_of(min(budget_tokens, BUDGETS["high"]))


def thinking_of(effort: object, max_tokens: int) -> Json | None:
    """Anthropic's `thinking` for an effort: its budget has to be below the limit of the answer."""
    budget = budget_of(effort)
    if budget is None:
        return None
    budget = min(budget, max_tokens - 1)
    return {"type": "enabled", "budget_tokens": budget} if budget >= MIN_BUDGET else None


def think(out: Json, effort: object, context: Context) -> None:
    """Edit a messages request: think with an effort, as its model can, where nothing in the request
    stands against it."""
    if is_adaptive_only(context.known_as):
        if budget_of(effort) is None:
            return
        # Without it these models would tell nothing of their thinking.
        out["thinking"] = {"type": "adaptive", "display": "summarized"}
        settle_thinking(out, context)
        if "thinking" in out:
            out.setdefault("output_config", {})["effort"] = _ADAPTIVE.get(str(effort), effort)
        return
    thinking = thinking_of(effort, out["max_tokens"])
    if thinking is not None:
        out["thinking"] = thinking
        settle_thinking(out, context)


def settle_sampling(holder: Json, context: Context, top_p: str = "top_p") -> None:
    """Edit where sampling settings are: leave out those that the model refuses, and a temperature
    above the most that it takes becomes that.

    `top_p`: its key there; `temperature` and `top_k` have one name everywhere.
    """
    if is_adaptive_only(context.known_as):
        for key in ("temperature", top_p, "top_k"):
            # 1 is what they do anyway.
            if holder.pop(key, None) not in (None, 1):
                context.drop("top_p" if key == top_p else key)
        return
    temperature = holder.get("temperature")
    if isinstance(temperature, int | float) and temperature > MAX_TEMPERATURE:
        context.drop("temperature above 1")
        holder["temperature"] = MAX_TEMPERATURE
    if takes_one_sampler(context.known_as) and "temperature" in holder and top_p in holder:
        # Whoever sets both hardly means the one that does nothing.
        if holder["temperature"] == 1:
            del holder["temperature"]
        elif holder.pop(top_p) != 1:
            context.drop("top_p with temperature")


def settle_thinking(out: Json, context: Context) -> None:
    """Edit a messages request: leave out what Anthropic refuses beside thinking.

    A tool round in the history must begin with the thinking that led to it, and a forced tool
    cannot be thought about: there the thinking goes. Else the sampling settings go.
    """
    if "thinking" not in out:
        return
    choice = to_object(out.get("tool_choice"), "tool_choice")
    is_adaptive = out["thinking"]["type"] == "adaptive"
    # Whoever decides itself whether to think may have called its tools without.
    is_unthought = not is_adaptive and _is_unthought_round(out["messages"])
    if is_unthought or choice.get("type") in ("any", "tool"):
        context.drop("reasoning effort in a tool round")
        del out["thinking"]
        return
    if out.get("temperature") not in (None, 1):
        context.drop("temperature with reasoning")
        del out["temperature"]
    top_p = out.get("top_p")
    if isinstance(top_p, int | float) and top_p < _MIN_TOP_P:
        context.drop("top_p with reasoning")
        del out["top_p"]


def _is_unthought_round(messages: list[Json]) -> bool:
    """Whether the messages end in results of tools that were called without visible thinking."""
    for message in reversed(messages):
        blocks = message["content"]
        kinds = [block["type"] for block in blocks] if isinstance(blocks, list) else []
        if message["role"] == "assistant":
            return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")
        if kinds != ["tool_result"] * len(kinds) or not kinds:
            return False
    return False
