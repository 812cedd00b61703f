"""Serves an ASGI application of the control process on one address, by Granian.

Granian binds with SO_REUSEPORT, which would let two gateways share an operator's port without a
word; so the address is tried without it first, and that also says clearly why it cannot be had.

Source: spec/config.md section 8.1 (`adminAddr`, `statsAddr`, `readinessAddr`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

from sidecar.admin.guard import is_loopback
from sidecar.errors import ConfigError

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_PROBE_SECONDS = 0.01
_BACKLOG = 128

# Granian's own logger only: without `incremental` it would shut every handler of the process.
_LOGGING: dict[str, Any] = {"incremental": True, "handlers": {}, "loggers": {}}


@final
@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and port, or a path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether a browser of this machine, and nothing outside it, can come here over TCP."""
        return not self.path and is_loopback(self.host)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, path: str) -> Address | None:
    """`ip:port`, `localhost:port`, `unix:/path`; None for `off`.

    `path` is the key in the configuration. Raises: ConfigError.
    """
    if text == "off":
        return None
    if text.startswith("unix:"):
        if not text.startswith("unix:/"):
            raise ConfigError(path, f"{text!r}: a Unix socket needs an absolute path")
        return Address(path=text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(path, f"{text!r}: expected ip:port, localhost:port, unix:/path or off")
    if host == "localhost":
        host = "127.0.0.1"
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return Address(host, int(port))
    raise ConfigError(path, f"{text!r}: {host!r} is neither an IP address nor localhost")


@final
class AdminServer:
    """One application on one address. `start` and `stop` once each, on one loop."""

    def __init__(self, app: Any, address: Address, path: str, *, shares_port: bool = False) -> None:
        """`path`: the configuration key, for error messages. `shares_port`: another instance, the
        one we take over from, still has the port.
        """
        self._shares_port = shares_port
        self._app = app
        self._path = path
        self.address = address
        """The port is the real one once started."""
        self._server: Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._bound = ""
        """Where the Unix socket is made; beside its place while another instance is there."""
        self._socket: tuple[int, int] | None = None
        """Device and inode of the Unix socket."""

    async def start(self) -> None:
        """Listen; returns when a connection is taken. Raises: ConfigError."""
        self.address = self._available()
        address = self.address
        if address.path:
            self._bound = f"{address.path}.new" if self._shares_port else address.path
        self._server = server = Server(
            self._app,
            address=address.host or "127.0.0.1",
            port=address.port,
            uds=Path(self._bound) if address.path else None,
            interface=Interfaces.ASGINL,
            http=HTTPModes.auto,
            websockets=False,
            backlog=_BACKLOG,
            log_level=LogLevels.error,
            log_dictconfig=_LOGGING,
        )
        if address.path:
            # Who may connect is decided at creation: nobody else, not even for a moment.
            server.uds_permissions = 0o600
        self._task = asyncio.get_running_loop().create_task(server.serve(), name=self._path)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._wait_listening()
        except TimeoutError:
            await self.stop()
            raise ConfigError(self._path, f"{address}: did not begin to listen") from None
        if address.path:
            self._take_place(address.path)

    async def stop(self) -> None:
        """Stop listening, and let the requests in hand end for some seconds."""
        task, self._task = self._task, None
        if task is None or self._server is None:
            return
        if not self._has_place():
            self._server.bind_uds = None  # Granian would remove the socket of our successor
        self._server.stop()  # type: ignore[no-untyped-call]
        done, _ = await asyncio.wait({task}, timeout=_STOP_SECONDS)
        if not done:
            task.cancel()
            await asyncio.wait({task})
        self._remove_socket()

    def _take_place(self, path: str) -> None:
        """Put the socket where it belongs, at one stroke: there is always one to connect to."""
        if self._bound != path:
            os.replace(self._bound, path)
        self._socket = _identity(path)

    def _has_place(self) -> bool:
        """Whether the Unix socket at the address is the one made here."""
        return self._socket is not None and _identity(self.address.path) == self._socket

    def _remove_socket(self) -> None:
        if self._has_place():
            Path(self.address.path).unlink(missing_ok=True)

    async def _wait_listening(self) -> None:
        assert self._task is not None
        while not self._task.done():
            try:
                if self.address.path:
                    _, writer = await asyncio.open_unix_connection(self._bound)
                else:
                    _, writer = await asyncio.open_connection(self._reachable, self.address.port)
            except OSError:
                # Granian tells nobody when its runtime has begun to accept.
                await asyncio.sleep(_PROBE_SECONDS)
                continue
            writer.close()
            return
        exc = self._task.exception()
        raise ConfigError(self._path, f"{self.address}: cannot serve: {exc}") from exc

    @property
    def _reachable(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address.host, self.address.host)

    def _available(self) -> Address:
        address = self.address
        if address.path:
            self._clear_stale_socket(address.path)
            if self._shares_port:
                self._clear_stale_socket(f"{address.path}.new")
            return address
        try:
            return _tried(address, self._shares_port)
        except OSError as exc:
            if address.host == "::" and exc.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                # The default address on a host without IPv6.
                return _tried(Address("0.0.0.0", address.port), self._shares_port)
            raise ConfigError(self._path, f"cannot listen on {address}: {_reason(exc)}") from exc

    def _clear_stale_socket(self, path: str) -> None:
        """Remove a socket that nobody serves; anything else there is an error."""
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            if not Path(path).parent.is_dir():
                raise ConfigError(self._path, f"no directory for the socket {path}") from None
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigError(self._path, f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
                return
        if self._shares_port and path == self.address.path:
            return
        raise ConfigError(self._path, f"cannot listen on unix:{path}: another process serves it")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _tried(address: Address, shared: bool) -> Address:
    """The address with its real port, after binding it for a moment. Raises: OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind((address.host, address.port))
        if not shared:  # listening beside another instance would take its connections
            probe.listen(1)
        return Address(address.host, probe.getsockname()[1])


def _reason(exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return "the port is in use by another process"
    if exc.errno == errno.EACCES:
        return "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE"
    if exc.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return exc.strerror or str(exc)
