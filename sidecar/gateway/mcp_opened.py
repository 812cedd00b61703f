"""The sessions that began at a worker, told to the worker that takes its place when it is killed.

Source: spec/mcp_a2a.md sections 2.6 and 5.2 row 19.

Servers hear of the end of a session that nobody uses from the worker where it began. What only its
memory held would be lost with it, so each beginning and each end is a line of a file beside the
workers' sockets (0700, gone with the gateway); the next worker of that number reads it, and nobody
else does. Lines are sealed for this purpose: nobody gets a session by them.

    +sealed [backend, session id]
    -key of the row
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import orjson

from sidecar.mcp.sessions import Live, Sessions
from sidecar.mcp.token import MAX_CHARS

_log = logging.getLogger("sidecar.gateway.mcp_opened")
OPENED_MAX: Final = 20_000
_PURPOSE: Final = b"agentgateway mcp opened 1"
_SPARE_LINES: Final = 1024
"""Lines that say nothing any more, before the file is written anew."""


@final
class OpenedSessions:
    """Those of one worker: `(backend, session)` by the key of the row."""

    __slots__ = ("_file", "_lines", "_path", "_sessions", "_table")

    def __init__(self, sessions: Sessions, path: Path) -> None:
        """Raises: OSError when the file cannot be used."""
        self._sessions = sessions
        self._path = path
        self._table: OrderedDict[bytes, tuple[bytes, Live]] = OrderedDict()
        self._lines = 0
        for line in _lines(path):
            self._take(line)
        self._file = -1
        self._rewrite()

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[tuple[bytes, tuple[bytes, Live]]]:
        return iter(tuple(self._table.items()))

    def _take(self, line: bytes) -> None:
        """A line of the worker before."""
        if line.startswith(b"-"):
            self._table.pop(bytes.fromhex(line[1:].decode("ascii", "replace")), None)
            return
        raw = self._sessions.sealer.open_bytes(line[1:].decode("ascii", "replace"), _PURPOSE)
        if raw is None:
            # The last line of a worker that was killed while it wrote.
            return
        backend, text = orjson.loads(raw)
        live = self._sessions.recalled(text)
        if live is not None:
            self._table[live.key] = (bytes.fromhex(backend), live)

    def add(self, backend: bytes, live: Live) -> None:
        """A session began."""
        self._table[live.key] = (backend, live)
        if len(self._table) > OPENED_MAX:
            self._table.popitem(last=False)
        self._write(self._line(backend, live))

    def discard(self, key: bytes) -> None:
        """It ended, or is no business of this worker."""
        if self._table.pop(key, None) is not None:
            self._write(b"-" + key.hex().encode() + b"\n")

    def _line(self, backend: bytes, live: Live) -> bytes:
        sealed = self._sessions.sealer.seal_bytes(
            orjson.dumps([backend.hex(), live.text]), _PURPOSE
        )
        # What is too long to be read again is not written: that session ends by itself.
        return b"+" + sealed.encode() + b"\n" if len(sealed) <= MAX_CHARS else b""

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._file, line)
            self._lines += 1
            if self._lines > 2 * len(self._table) + _SPARE_LINES:
                self._rewrite()
        except OSError as error:
            _log.warning("sessions are not noted for a worker to come: %s", error)

    def _rewrite(self) -> None:
        """With what holds now. Raises: OSError."""
        lines = [self._line(backend, live) for backend, live in self._table.values()]
        fresh = self._path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        file = os.open(fresh, flags, 0o600)
        try:
            with open(file, "wb", closefd=False) as out:
                out.writelines(lines)
            fresh.rename(self._path)
        except OSError:
            os.close(file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._lines = len(lines)

    def close(self) -> None:
        """The worker ends; the file is for the next one."""
        os.close(self._file)


def _lines(path: Path) -> list[bytes]:
    """Raises: OSError."""
    try:
        return path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
