"""When a file was what: enough of its identity to see that it is another by now.

Source: stat(2).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

Stamp = tuple[int, int, int, int] | None
CHANGED: Final[Stamp] = (0, 0, 0, 0)
"""Of a file that changed while it was read: no file has it."""


def stamp_of(path: Path) -> Stamp:
    """What changes with the content, mostly: device, inode, size, time; None when not to be had."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def size_in(stamp: tuple[int, int, int, int]) -> int:
    """Octets."""
    return stamp[2]


@final
class Stamps:
    """The files of one load, each as it was before it was read.

    A file may become what it was (A, B, A): who reads B in between must not be told that nothing
    has changed, so what was read is told apart by stamps taken on both sides of the reading.
    """

    def __init__(self) -> None:
        self._found: dict[Path, Stamp] = {}

    def note(self, name: str | Path) -> Stamp:
        """It is about to be read; a second time changes nothing."""
        path = Path(os.path.abspath(name))
        if path not in self._found:
            self._found[path] = stamp_of(path)
        return self._found[path]

    def settled(self) -> Mapping[Path, Stamp]:
        """By absolute path, after the reading: CHANGED for what is another by now."""
        return {
            path: stamp if stamp_of(path) == stamp else CHANGED
            for path, stamp in self._found.items()
        }
