"""Pinned tools of one server in one worker: what lists show, what calls find, and the file.

An extension. Source: spec/mcp_a2a.md section 5.3, wish 9; hardening case 44.

All workers share the file, and whoever writes a tool into it first decides: a worker takes nothing
for approved that it has not written, or found there. Its owner may edit the file at any time; that
is seen at the next list. While it cannot be read or written nothing new is approved.

A server may change a tool between a list and a call. So a call makes the gateway look at the list
anew when the server said that it changed, and when the last look is a minute ago.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, final

from sidecar.errors import ConfigError, SidecarError
from sidecar.jsonrpc import Json
from sidecar.mcp.pins import Change, Pins, encode, parse
from sidecar.telemetry.clock import Clock

_log = logging.getLogger("sidecar.mcp.pins")
MAX_FILE_BYTES: Final = 4 * 1024 * 1024
LOOK_SECONDS: Final = 60
_LOCK_TRIES: Final = 50
_LOCK_PAUSE_SECONDS: Final = 0.01
_SECOND_NS: Final = 1_000_000_000


class PinFileError(SidecarError):
    """The file cannot be read, or not be written."""


@final
class PinFile:
    """A file of approved definitions, which several processes write."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def read(self) -> bytes | None:
        """Its content; None when there is none yet. Raises: PinFileError."""
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PinFileError(f"{self._path} cannot be read: {error.strerror}") from error
        if len(raw) > MAX_FILE_BYTES:
            raise PinFileError(f"{self._path} has more than {MAX_FILE_BYTES} bytes")
        return raw

    def stamp(self) -> tuple[int, int, int]:
        """What changes with its content; zeros when there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def merge(self, learned: Mapping[str, str]) -> dict[str, str]:
        """Add what is not there yet; all that is there then. Raises: PinFileError."""
        try:
            with self._locked():
                pins = _parsed(self.read())
                new = {name: one for name, one in learned.items() if name not in pins}
                if new:
                    pins |= new
                    self._write(encode(pins))
                return pins
        except OSError as error:
            raise PinFileError(f"{self._path} cannot be written: {error.strerror}") from error

    def _locked(self) -> contextlib.ExitStack:
        """Beside the file, which is replaced by each write. Raises: OSError, PinFileError."""
        with contextlib.ExitStack() as stack:
            path = self._path.with_name(self._path.name + ".lock")
            lock = stack.enter_context(path.open("ab"))
            for _ in range(_LOCK_TRIES):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    # Another worker's, for the time of a small write.
                    time.sleep(_LOCK_PAUSE_SECONDS)
                else:
                    return stack.pop_all()
        raise PinFileError(f"{self._path} is locked by another process")

    def _write(self, raw: bytes) -> None:
        """All or nothing, whenever the process or the machine ends. Raises: OSError."""
        number, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


def _parsed(raw: bytes | None) -> dict[str, str]:
    try:
        return parse(raw)
    except ConfigError as error:
        raise PinFileError(f"the file of pinned tools {error.message}") from error


@final
class PinnedTools:
    """See the module. `tell` hears of each definition that is kept from clients, once."""

    __slots__ = ("_clock", "_file", "_looked_ns", "_pins", "_stamp", "_target", "_tell")

    def __init__(
        self,
        target: str,
        pins: Pins,
        file: PinFile | None,
        clock: Clock,
        tell: Callable[[str, Change], None],
    ) -> None:
        self._target = target
        self._pins = pins
        self._file = file
        self._clock = clock
        self._tell = tell
        self._stamp = file.stamp() if file is not None else (0, 0, 0)
        self._looked_ns: int | None = None
        """When the first page of the list was last seen; None: it is to be looked at."""

    def kept(self, tools: list[Json]) -> list[Json]:
        """The tools of a page that are approved."""
        pins, file = self._pins, self._file
        if file is not None:
            self._refresh(file)
        pins.relearn()
        kept = pins.kept(tools)
        learned = pins.learned()
        if learned and file is not None:
            try:
                pins.replace(file.merge(learned))
                self._stamp = file.stamp()
            except PinFileError as error:
                _log.error("MCP target %s: new tools are not approved: %s", self._target, error)
                pins.forget(learned)
            kept = pins.kept(tools)
        for change in pins.changes():
            _log.warning(
                "MCP target %s: tool %s is kept from clients: its definition is %s, sha256 %s",
                self._target,
                change.name[:128],
                "another than the pinned one" if change.state == "changed" else "not pinned",
                change.digest,
            )
            self._tell(self._target, change)
        self._looked_ns = self._clock.monotonic_ns()
        return kept

    def _refresh(self, file: PinFile) -> None:
        """Take over what its owner, or another worker, wrote."""
        stamp = file.stamp()
        if stamp == self._stamp:
            return
        try:
            self._pins.replace(_parsed(file.read()))
        except PinFileError as error:
            _log.error("MCP target %s: %s; what was approved stays so", self._target, error)
        self._stamp = stamp

    def changed(self) -> None:
        """The server says that its list is another one."""
        self._looked_ns = None

    def is_due(self, name: str) -> bool:
        """Whether the list must be looked at before this tool is called."""
        looked = self._looked_ns
        if looked is None or self._pins.state(name) == "unseen":
            return True
        return self._clock.monotonic_ns() - looked > LOOK_SECONDS * _SECOND_NS

    def check(self, name: str) -> bool:
        """See Pins. Raises: JsonRpcError."""
        return self._pins.check(name)
