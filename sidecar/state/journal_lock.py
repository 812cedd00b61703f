"""Keeps a second gateway from a journal that one writes: a lock on a file beside it.

Source: flock(2). Two gateways with one /dev/shm meet in the table of budgets already; containers
that share a volume meet only here.

    start       an exclusive lock, for a moment: nobody else has the file. Then a shared one, kept
                by every process of the gateway for as long as one of them lives.
    upgrade     a shared lock beside the predecessor's, which ends with it.

The file stays when the gateway ends: removing it would let two gateways lock two files of one name.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import Final

from sidecar.errors import ConfigError

_log = logging.getLogger("sidecar.state.journal")
WAIT_SECONDS: Final = 2.0
"""For the processes of a gateway that was just killed, which may be in the middle of a write."""
_POLL_SECONDS: Final = 0.02
_HELD: Final = (errno.EWOULDBLOCK, errno.EACCES)


def claim(
    path: Path, place: str, *, from_living: bool = False, wait_seconds: float = WAIT_SECONDS
) -> int | None:
    """Lock a journal for this gateway; the descriptor that holds the lock, or None without one.

    `place`: where the configuration names it. `from_living`: the holder is the predecessor in an
    upgrade. None: the folder cannot be written, and so neither can the journal now.
    Raises: ConfigError while another gateway has it, or where files cannot be locked.
    """
    file = path.with_name(path.name + ".lock")
    descriptor = _opened(file)
    if descriptor is None:
        return None
    until = time.monotonic() + wait_seconds
    try:
        if not from_living:
            while not _is_locked(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > until:
                    raise ConfigError(
                        place,
                        f"{path} is written by another gateway, which holds {file.name};"
                        " give each one a journal of its own",
                    )
                time.sleep(_POLL_SECONDS)
        if not _is_locked(descriptor, fcntl.LOCK_SH):
            raise ConfigError(place, f"{path}: another gateway starts with it at the same time")
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(place, f"{file} cannot be locked: {error.strerror}") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _opened(file: Path) -> int | None:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | flags, 0o600)
    except OSError as error:
        problem = error
    try:
        # A disk that is read-only now: the lock of an earlier start will do.
        return os.open(file, os.O_RDONLY | flags)
    except OSError:
        _log.warning("%s cannot be made: %s", file, problem.strerror)
    return None
