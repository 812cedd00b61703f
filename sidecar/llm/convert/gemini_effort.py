"""Reasoning efforts that Gemini takes where Google imitates OpenAI.

Source: Gemini API reference (OpenAI compatibility, thinking).
"""

from __future__ import annotations

import re
from typing import Final

_GEMINI: Final = re.compile(r"(?:.*/)?gemini-")
_ALWAYS_THINKS: Final = re.compile(r"(?:.*/)?gemini-(?:2\.5-pro|[3-9]|\d\d)")
_GREATEST: Final = "high"
_LEAST: Final = "minimal"


def effort_for(effort: object, model: str) -> object:
    """The effort, or the nearest that the model takes; as it is for models of others."""
    if _GEMINI.match(model) is None:
        return effort
    if effort in ("xhigh", "max"):
        return _GREATEST
    return _LEAST if effort == "none" and _ALWAYS_THINKS.match(model) else effort
