"""Upgrade without loss: a new instance is executed beside the old, which drains once it is ready.

Source: design section 1 (SIGUSR2). Both accept from the same sockets (sidecar.gateway.handover).
Environment variables tell the new instance where the old one hands them over, and which descriptor
to write a byte to; if it ends before that, so does the pipe, and the old one goes on.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import final

UPGRADE_ENV = "AGENTGATEWAY_SIDECAR_UPGRADE_FD"
FOLDER_ENV = "AGENTGATEWAY_SIDECAR_UPGRADE_FOLDER"

_log = logging.getLogger(__name__)


@final
class Upgrade:
    """The old instance's side. Watch `reader`; `pid` is the new instance while it is not ready."""

    __slots__ = ("_argv", "_folder", "pid", "reader")

    def __init__(self, argv: tuple[str, ...], folder: str) -> None:
        self._argv = argv or tuple(sys.orig_argv)
        self._folder = folder
        self.reader: int | None = None
        self.pid = 0

    def start(self) -> None:
        """Execute the command line anew, or log why not."""
        if os.getpid() == 1:
            _log.error("upgrade refused: we are process 1, and our end would end the container")
        elif self.reader is not None:
            _log.error("upgrade refused: process %d is on its way already", self.pid)
        else:
            self._spawn()

    def _spawn(self) -> None:
        self.reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        environment = {**os.environ, UPGRADE_ENV: str(writer), FOLDER_ENV: self._folder}
        try:
            self.pid = os.posix_spawn(sys.executable, self._argv, environment)
            _log.info("upgrade: started process %d", self.pid)
        except OSError as exc:
            _log.error("upgrade: cannot execute %s: %s", self._argv[0], exc)
        finally:
            os.close(writer)

    def finish(self) -> bool:
        """Call when `reader` is readable: whether the new instance is ready, else it has gone."""
        assert self.reader is not None
        is_ready = bool(os.read(self.reader, 1))
        os.close(self.reader)
        self.reader = None
        if is_ready:
            _log.info("upgrade: process %d is ready, draining", self.pid)
            self.pid = 0  # it stands on its own from now on
        else:
            _log.error("upgrade failed: the new instance ended before it was ready; going on")
        return is_ready

    def on_reaped(self, pid: int) -> None:
        """A process that is none of the supervisor's children has ended."""
        if pid == self.pid:
            self.pid = 0


@final
class Predecessor:
    """The new instance's side: the one who started us, if any.

    Taken from the environment once, so that no process we start inherits the variable or the pipe.
    """

    __slots__ = ("descriptor", "folder")

    def __init__(self) -> None:
        value = os.environ.pop(UPGRADE_ENV, "")
        self.folder = os.environ.pop(FOLDER_ENV, "")
        """Where its workers hand over their sockets; empty once it drains."""
        self.descriptor = int(value) if value.isdecimal() else None
        if self.descriptor is not None:
            os.set_inheritable(self.descriptor, False)

    def tell(self) -> None:
        """Let it drain: we are ready."""
        if self.descriptor is not None:
            os.write(self.descriptor, b"R")
            os.close(self.descriptor)
            self.descriptor = None
            self.folder = ""
