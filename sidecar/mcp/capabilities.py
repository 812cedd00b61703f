"""What a server offers, in bits: what a session remembers of each, so that none is asked in vain.

Source: spec/mcp_a2a.md sections 1.4, 2.3 and 5.2 row 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TOOLS: Final = 1
PROMPTS: Final = 2
RESOURCES: Final = 4
SUBSCRIBE: Final = 8
LOGGING: Final = 16
COMPLETIONS: Final = 32
TASKS: Final = 64
EVERYTHING: Final = 127

_NAMED: Final = {
    "tools": TOOLS,
    "prompts": PROMPTS,
    "resources": RESOURCES,
    "logging": LOGGING,
    "completions": COMPLETIONS,
    "tasks": TASKS,
}
_NEEDED: Final[Mapping[str, int]] = {
    "tools/list": TOOLS,
    "prompts/list": PROMPTS,
    "resources/list": RESOURCES,
    "resources/templates/list": RESOURCES,
    "logging/setLevel": LOGGING,
    "tasks/list": TASKS,
}


def bits_of(capabilities: object) -> int:
    """Of `capabilities` in the answer to initialize or server/discover."""
    if not isinstance(capabilities, dict):
        return 0
    found = sum(bit for name, bit in _NAMED.items() if capabilities.get(name) is not None)
    resources = capabilities.get("resources")
    if isinstance(resources, dict) and resources.get("subscribe"):
        found |= SUBSCRIBE
    return found


def offers(bits: int, method: str) -> bool:
    """Whether a server with these is asked when all are."""
    needed = _NEEDED.get(method, 0)
    return bits & needed == needed
