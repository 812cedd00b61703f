"""Watches the files a configuration was read from and says which of them hold something new.

Source: spec config section 10.1 (atomic rename safe); Kubernetes atomic writer: a mounted file is a
symbolic link through `..data`, which is replaced as a whole.

The kernel's notices only say when to look: directories on the way to each file are watched, and
what counts is the content. A look at every file's identity once a second finds what notices cannot
tell: a change between reading and watching, or on a file system without notices.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final, NamedTuple, final

from watchfiles import awatch

from sidecar.gateway.stamps import Stamp, stamp_of

QUIET_MS = 20
"""A change is looked at when its directories have been quiet this long."""
MAX_WAIT_MS = 80
"""A directory that is never quiet is looked at this often all the same: an operator who changes the
configuration beside a busy log waits no longer than one who does not."""
LOOK_INTERVAL_MS = 1000
_MAX_LINKS = 40
"""As the kernel: more symbolic links in a row are a loop."""

_log = logging.getLogger(__name__)

Directory = tuple[Path, int, int]


class _Seen(NamedTuple):
    stamp: Stamp
    digest: bytes


_OTHER: Final = b""
"""The digest of a content that is there no more."""


@final
class FileWatcher:
    """Compares files with what they held when they were loaded, or last looked at.

    `files`: absolute paths, links not followed, each with its stamp from before it was read: what
    has changed since is reported. A file may be missing, and come; one that cannot be read differs
    from one that can.
    """

    __slots__ = ("_known", "_stop")

    def __init__(self, files: Mapping[Path, Stamp]) -> None:
        self._known: dict[Path, _Seen] = {}
        self._stop = asyncio.Event()
        self.replace(files)

    @property
    def paths(self) -> frozenset[Path]:
        """The files watched, absolute, links not followed."""
        return frozenset(self._known)

    def replace(self, files: Mapping[Path, Stamp]) -> None:
        """Another load: watch these files from now on."""
        for path in self._known.keys() - files.keys():
            del self._known[path]
        self.extend(files)

    def extend(self, files: Mapping[Path, Stamp]) -> None:
        """A load that was refused: watch these files too."""
        for path, stamp in files.items():
            known = self._known.get(path)
            if known is None or known.stamp != stamp:
                seen = _see(path)
                self._known[path] = seen if seen.stamp == stamp else _Seen(stamp, _OTHER)
        self._stop.set()

    async def changes(self) -> AsyncIterator[frozenset[Path]]:
        """Sets of files whose content has changed, for ever. One iteration at a time."""
        while True:
            self._stop = asyncio.Event()
            directories = await asyncio.to_thread(watched_directories, self.paths)
            while changed := await self._look(is_noticed=False):  # since nobody was watching
                yield changed
            try:
                async for changed in self._watch(directories):
                    yield changed
            except OSError as exc:  # out of inotify watches, or a directory went this moment
                _log.warning("no notices of changed files, looking again soon: %s", exc)
                await asyncio.sleep(LOOK_INTERVAL_MS / 1000)
                if changed := await self._look(is_noticed=False):
                    yield changed

    async def _watch(self, directories: frozenset[Directory]) -> AsyncIterator[frozenset[Path]]:
        """Changes until `replace` was called, or the directories on the way are others."""
        notices = awatch(
            *(path for path, _, _ in directories),
            watch_filter=None,
            debounce=MAX_WAIT_MS,
            step=QUIET_MS,
            stop_event=self._stop,
            rust_timeout=LOOK_INTERVAL_MS,
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        )
        async with aclosing(notices):
            async for notice in notices:
                if changed := await self._look(is_noticed=bool(notice)):
                    yield changed
                if await asyncio.to_thread(watched_directories, self.paths) != directories:
                    return

    async def _look(self, *, is_noticed: bool) -> frozenset[Path]:
        """The files whose content differs; without a notice, only of those whose stamp does."""
        before = dict(self._known)
        now = await asyncio.to_thread(_see_all, before, is_noticed=is_noticed)
        # `replace` may have come in between: what it says of a file is newer than this look.
        current = {
            path: seen for path, seen in now.items() if self._known.get(path) is before[path]
        }
        self._known.update(current)
        return frozenset(
            path for path, seen in current.items() if seen.digest != before[path].digest
        )


def watched_directories(paths: Iterable[Path]) -> frozenset[Directory]:
    """Where something must happen for a file to change: (directory, device, inode).

    That is the directory of the path itself and, link by link, of all it leads through. Where a
    directory is missing, the nearest one above it stands in.
    """
    directories: set[Path] = set()
    for path in paths:
        _add_directories(path, directories, _MAX_LINKS)
    found = set()
    for directory in directories:
        with suppress(OSError):  # gone this moment: the next look differs, and asks again
            info = directory.stat()
            found.add((directory, info.st_dev, info.st_ino))
    return frozenset(found)


def _add_directories(path: Path, directories: set[Path], links_left: int) -> None:
    """Walk a path from the root: the directory of each link on the way, and of the end."""
    parts, here = list(reversed(path.parts[1:])), Path(path.anchor)
    while parts:
        part = parts.pop()
        following = here.parent if part == ".." else here / part
        if links_left and os.path.islink(following):
            links_left -= 1
            directories.add(here)
            target = Path(os.readlink(following))
            here = Path(target.anchor) if target.is_absolute() else here
            parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        elif parts and os.path.isdir(following):
            here = following
        else:
            break  # the file itself, or the first directory that is missing
    directories.add(here)


def _see(path: Path) -> _Seen:
    stamp = stamp_of(path)  # first: what is written in between differs at the next look
    return _Seen(stamp, _digest(path))


def _see_all(known: Mapping[Path, _Seen], *, is_noticed: bool) -> dict[Path, _Seen]:
    """How the files are now; a file is read when there was a notice, or its stamp differs."""
    return {
        path: _see(path) if is_noticed or stamp_of(path) != seen.stamp else seen
        for path, seen in known.items()
    }


def _digest(path: Path) -> bytes:
    """A hash of the content, of a directory the names in it; or the reason why there is none."""
    try:
        if path.is_dir():
            return hashlib.blake2b("\0".join(sorted(os.listdir(path))).encode()).digest()
        return hashlib.blake2b(path.read_bytes()).digest()
    except OSError as exc:
        return f"errno {exc.errno}".encode()
