"""What OpenAI's models refuse, by their names.

Source: OpenAI's guides on its models (parameter compatibility) and API reference (`stop`): models
that reason refuse `temperature` and `top_p`, from gpt-5.1 on only while they reason (those named
codex or pro always do); o3, o4-mini and those named gpt-5 refuse `stop` as well.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.llm.convert.base import Context, Json

_ALWAYS: Final = re.compile(r"(?:.*/)?(?:o[134]|gpt-5(?!\.|-chat))")
_NEVER_SAMPLED: Final = re.compile(r"(?:.*/)?gpt-[5-9]\.\d+-(?:codex|pro)")
_WHILE_REASONING: Final = re.compile(r"(?:.*/)?gpt-(?:5\.|[6-9])(?!.*-chat)")
_SAMPLING: Final = ("temperature", "top_p")


def settle_sampling(out: Json, effort: object, context: Context) -> None:
    """Edit a request: leave out the settings that its model refuses; 1 is what it does anyway.

    `effort`: the reasoning effort that the request asks for.
    """
    is_always = _ALWAYS.match(context.model) is not None
    if is_always and out.pop("stop", None) is not None:
        context.drop("stop_sequences")
    is_reasoning = effort not in (None, "none") and _WHILE_REASONING.match(context.model)
    if not is_always and not is_reasoning and not _NEVER_SAMPLED.match(context.model):
        return
    for key in _SAMPLING:
        if out.pop(key, None) not in (None, 1):
            context.drop(key)
