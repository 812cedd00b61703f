"""What OpenAI's responses refuse that other formats take.

Source: OpenAI API reference (create a response: max_output_tokens).
"""

from __future__ import annotations

from typing import Final

MIN_OUTPUT_TOKENS: Final = 16
"""Less is 400; clients ask for one token to see whether a model is there."""


def output_limit(limit: object) -> object:
    """A limit of the answer in tokens, as responses take it; what is no number stays."""
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        return max(limit, MIN_OUTPUT_TOKENS)
    return limit
