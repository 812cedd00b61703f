"""What Claude's models can do, by their names.

Source: Anthropic's and Amazon Bedrock's pages on adaptive thinking: from Opus 4.7 on, `thinking`
of the type `enabled` with a budget is 400, and so it is for Mythos and Fable; the models before 4.6
know nothing else; those of 4.6 take both.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_VERSIONED: Final = re.compile(r"claude-(?:opus|sonnet|haiku)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
"""Not `claude-3-5-sonnet`, as models before 4 are called; a date is no minor version."""
_ADAPTIVE_FAMILIES: Final = re.compile(r"claude-(?:mythos|fable)\b")
_FIRST_ADAPTIVE: Final = (4, 7)


@lru_cache(1024)
def is_adaptive_only(model: str) -> bool:
    """Whether the model decides itself how much to think, and refuses budgets. The name is that of
    any cloud: `anthropic.claude-opus-4-7`, `claude-opus-4-7@20260416`, `anthropic/claude-opus-4.7`.
    """
    if _ADAPTIVE_FAMILIES.search(model):
        return True
    found = _VERSIONED.search(model)
    if found is None:
        return False
    return (int(found[1]), int(found[2] or 0)) >= _FIRST_ADAPTIVE
