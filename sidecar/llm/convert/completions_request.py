"""Reading a chat completions request for another format.

Source: OpenAI API reference (chat: tool_choice).
"""

from __future__ import annotations

from sidecar.llm.convert.base import Context
from sidecar.llm.shape import to_object


def unlisted(choice: object, context: Context) -> object:
    """`tool_choice`; of one that lists tools (`allowed_tools`) its mode is left, since others
    cannot choose among some. Raises: ShapeError."""
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return choice
    context.drop("tool_choice allowed_tools")
    allowed = to_object(choice.get("allowed_tools"), "tool_choice.allowed_tools")
    return "required" if allowed.get("mode") == "required" else "auto"
