"""Marks that all processes of a gateway see change: what one has kept, another may know is stale.

Source: mmap(2), MAP_SHARED | MAP_ANONYMOUS; spec/mcp_a2a.md section 5.2 row 12.

`CELLS` words of 64 bits, in memory that is made before the fork and has no name: it ends with its
processes. A change is a new random number and no count, so that of two at once none is lost; no
lock is taken, since a word is written whole. What shares a cell with something else is held for
stale too often, and never too seldom.
"""

from __future__ import annotations

import mmap
import secrets
from typing import Final, final
from zlib import crc32

CELLS: Final = 4096
_WORD_BYTES: Final = 8


@final
class Generations:
    """Made by the process that forks the others."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, CELLS * _WORD_BYTES)).cast("Q")

    @staticmethod
    def cell(*names: bytes) -> int:
        """Where the mark of what is so named stands."""
        found = 0
        for name in names:
            found = crc32(len(name).to_bytes(4, "little") + name, found)
        return found % CELLS

    def get(self, cell: int) -> int:
        """The mark as of now."""
        return self._words[cell]

    def change(self, cell: int) -> None:
        """Whoever sees the mark again finds it another one."""
        self._words[cell] = secrets.randbits(64)
