"""What Claude's models can do, by their names.

Source: Anthropic's and Amazon Bedrock's pages on adaptive thinking: from Opus 4.7 on, `thinking`
of the type `enabled` with a budget is 400, and so it is for Mythos and Fable; the models before 4.6
know nothing else; those of 4.6 take both. The same models refuse `temperature`, `top_p` and `top_k`
(Anthropic's migration guide); those from 4.1 on take `temperature` or `top_p`, not both.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_VERSIONED: Final = re.compile(r"claude-(?:opus|sonnet|haiku)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
"""Not `claude-3-5-sonnet`, as models before 4 are called; a date is no minor version."""
_ADAPTIVE_FAMILIES: Final = re.compile(r"claude-(?:mythos|fable)\b")
_FIRST_ADAPTIVE: Final = (4, 7)
_FIRST_OF_ONE_SAMPLER: Final = (4, 1)


@lru_cache(1024)
def is_adaptive_only(model: str) -> bool:
    """Whether the model decides itself how much to think, and refuses budgets. The name is that of
    any cloud: `anthropic.claude-opus-4-7`, `claude-opus-4-7@20260416`, `anthropic/claude-opus-4.7`.
    """
    if _ADAPTIVE_FAMILIES.search(model):
        return True
    return _version(model) >= _FIRST_ADAPTIVE


@lru_cache(1024)
def takes_one_sampler(model: str) -> bool:
    """Whether the model refuses `temperature` beside `top_p`."""
    return _version(model) >= _FIRST_OF_ONE_SAMPLER


def _version(model: str) -> tuple[int, int]:
    """(0, 0) for what is no Claude, or one before 4."""
    found = _VERSIONED.search(model)
    return (0, 0) if found is None else (int(found[1]), int(found[2] or 0))
