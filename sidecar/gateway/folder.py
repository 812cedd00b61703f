"""The gateway's own folder of the workers' sockets: made at the start, removed at the end, and what
killed gateways left of theirs removed by the next one.

Source: flock(2); unix(7), `sun_path`; rmdir(2).

Whoever lives of a gateway holds a shared flock on its folder: the supervisor takes it, the workers
inherit it, and the kernel lets go of it with the last of them. So it tells of the living of other
pid namespaces, too, and no pid that comes again is taken for another. (systemd-tmpfiles leaves a
locked folder alone, however old.)

Invariants:
    D1  A folder is used only when its path still leads to it after the flock was taken: until
        then a sweep may take it for a dead one's.
    D2  A sweep removes only while it holds the exclusive flock, in a folder that is this user's and
        closed to others; it follows no link, and removes nothing but what gateways put there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from typing import Final, final

from sidecar.errors import ConfigError

_PREFIX: Final = "agw-workers-"
_RANDOM: Final = "xxxxxxxx"
"""As many characters as `mkdtemp` adds."""
_CONTENT: Final = re.compile(r"worker-\d+\.(sock|sessions|new|fds)")
_PATH_BYTES: Final = 107
_ATTEMPTS: Final = 16
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@final
class Folder:
    """Of one gateway, mode 0700. `close` removes it, in the process that made it."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def make(cls, workers: int) -> Folder:
        """In TMPDIR, where it also sweeps. Raises: ConfigError when sockets cannot be there."""
        try:
            parent = tempfile.gettempdir()
            _check_length(parent, workers)
            sweep(parent)
            for _ in range(_ATTEMPTS):
                path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
                descriptor = _held(path)
                if descriptor is not None:
                    return cls(path, descriptor)
        except OSError as error:
            text = f"no folder for the workers' sockets: {error.strerror or error}"
            raise ConfigError("", f"{text}; set TMPDIR to one that can be written") from error
        raise ConfigError("", f"no folder for the workers' sockets: {parent} is swept all the time")

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def sweep(parent: str) -> list[str]:
    """Remove the folders of this user's dead gateways (D2); their paths."""
    try:
        with os.scandir(parent) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(_PREFIX))
    except OSError:
        return []  # what can be written need not be readable
    return [path for name in names if _is_removed(path := os.path.join(parent, name))]


def _check_length(parent: str, workers: int) -> None:
    """Raises: ConfigError."""
    longest = os.path.join(parent, _PREFIX + _RANDOM, f"worker-{workers - 1}.sock")
    excess = len(os.fsencode(longest)) - _PATH_BYTES
    if excess > 0:
        raise ConfigError(
            "",
            f"TMPDIR ({parent}) is {excess} bytes too long for the workers' sockets, whose paths"
            f" may have {_PATH_BYTES}",
        )


def _held(path: str) -> int | None:
    """A descriptor with the shared flock on a new folder; None when a sweep was faster (D1)."""
    try:
        descriptor = os.open(path, _OPEN)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None
    except OSError:
        # A file system without flock, where no sweep gets one either.
        return descriptor
    os.close(descriptor)
    return None


def _is_removed(path: str) -> bool:
    """Whether it was a dead gateway's, and is gone; in doubt it stays."""
    try:
        descriptor = os.open(path, _OPEN)
    except OSError:
        return False
    try:
        info = os.fstat(descriptor)
        if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) != stat.S_IRWXU:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in os.listdir(descriptor):
            if _CONTENT.fullmatch(name):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=descriptor)
        os.rmdir(path)
    except OSError:
        return False  # someone lives, or something else lies there
    else:
        return True
    finally:
        os.close(descriptor)
