"""Tool names for Bedrock, which takes letters, digits, `_` and `-`, at most 64 of them (as OpenAI).

Source: Amazon Bedrock API reference (ToolSpecification); spec llm section 2.9.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, final

from sidecar.llm.convert.base import Context
from sidecar.llm.shape import ShapeError

MAX_NAME_CHARS: Final = 64
_PREFIX_CHARS: Final = 57
_HASH_BYTES: Final = 3
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")


@final
class ToolNames:
    """The names of one request. What differs from the client's is left in `context.tool_names`.

    A name depends on the names before it only when two clean alike, so a conversation that lists
    its tools in the same order gets the same names each time.
    """

    __slots__ = ("_clean", "_context", "_taken")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._clean: dict[str, str] = {}
        self._taken: set[str] = set()

    def clean(self, name: str, where: str) -> str:
        """The provider's name of a tool. Raises: ShapeError for an empty one."""
        known = self._clean.get(name)
        if known is not None:
            return known
        if not name:
            raise ShapeError(where, "a name")
        clean = _FOREIGN.sub("_", name)
        if len(clean) > MAX_NAME_CHARS or clean in self._taken:
            digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=_HASH_BYTES)
            clean = f"{clean[:_PREFIX_CHARS]}_{digest.hexdigest()}"
        self._clean[name] = clean
        self._taken.add(clean)
        if clean != name:
            self._context.tool_names[clean] = name
        return clean
