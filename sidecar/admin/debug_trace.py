"""`POST /debug/trace?expression=…`: requests of all workers as they happen, as an event stream.

A listener is announced to the workers, which connect to a socket of its own; the name is abstract,
so that nothing is left behind, and both ends look whose process the other is. One listener at a
time: a new one ends the old, which may be a client that died without a word. One that is slow
loses events, which the workers count.

Source: spec/config.md section 8.4.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final, final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shm.errors import ShmError
from sidecar.admin.event_stream import EventStream
from sidecar.cel.engine import Engine
from sidecar.errors import ConfigError, SidecarError
from sidecar.telemetry.debug_trace import MAX_FRAME_BYTES, frame, peer_uid
from sidecar.telemetry.expressions import Compiler

MAX_EXPRESSION_CHARS: Final = 4096
_WAITING_FRAMES: Final = 128
_BACKLOG: Final = 1024
_LOOK_SECONDS: Final = 0.5
_PING_SECONDS: Final = 15.0
_HEADERS: Final = {"cache-control": "no-store"}
_log = logging.getLogger("sidecar.admin.debug_trace")

Announce = Callable[[Mapping[str, object] | None], None]
"""Tell the workers of a listener, or that there is none. Raises: SidecarError, ShmError."""


@final
class _Listener:
    """One stream: the socket that workers connect to, and the events that came."""

    __slots__ = ("_frames", "_receivers", "_server", "address", "is_over")

    def __init__(self) -> None:
        self.address = f"agw-trace-{secrets.token_hex(16)}"
        self.is_over = False
        self._frames: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_FRAMES)
        self._server: asyncio.Server | None = None
        self._receivers: set[asyncio.Task[None]] = set()
        """One a worker, made by the server."""

    async def open(self) -> None:
        """Listen. Raises: OSError."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            made.bind("\0" + self.address)
            made.listen(_BACKLOG)
        except OSError:
            made.close()
            raise
        self._server = await asyncio.start_unix_server(
            self._receive, sock=made, limit=2 * MAX_FRAME_BYTES
        )

    async def next(self) -> bytes:
        """What has come; b"" when nothing did for a moment."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await self._frames.get()
        except TimeoutError:
            return b""

    def close(self) -> None:
        """End it; the workers notice, and tell no more."""
        self.is_over = True
        if self._frames.empty():
            self._frames.put_nowait(b"")  # who waits for an event sees it now
        if self._server is not None:
            self._server.close()
        for receiver in self._receivers:
            receiver.cancel()  # it may wait for room that nobody will make

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_over or peer_uid(writer.get_extra_info("socket")) != os.getuid():
            writer.close()
            return
        receiver = asyncio.current_task()
        assert receiver is not None
        self._receivers.add(receiver)
        try:
            # No timeout: a worker has nothing to say while there are no requests.
            while True:
                await self._frames.put(await reader.readuntil(b"\n\n"))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return  # the worker ended
        except asyncio.CancelledError:
            if not self.is_over:  # else it is `close`, of which streams would complain in the log
                raise
        finally:
            self._receivers.discard(receiver)
            writer.close()


def debug_trace_routes(
    engine: Engine, announce: Announce, is_stopping: Callable[[], bool]
) -> tuple[Route, ...]:
    """For the admin application, which keeps web pages away."""
    return (Route("/debug/trace", _Traces(engine, announce, is_stopping).trace, methods=["POST"]),)


@final
class _Traces:
    __slots__ = ("_announce", "_engine", "_is_stopping", "_listener")

    def __init__(self, engine: Engine, announce: Announce, is_stopping: Callable[[], bool]) -> None:
        self._engine = engine
        self._announce = announce
        self._is_stopping = is_stopping
        self._listener: _Listener | None = None

    async def trace(self, request: Request) -> Response:
        """The stream, or 400 for an expression that cannot be used."""
        source = request.query_params.get("expression")
        if source is not None:
            try:
                if len(source) > MAX_EXPRESSION_CHARS:
                    raise ConfigError(
                        "expression", f"longer than {MAX_EXPRESSION_CHARS} characters"
                    )
                Compiler(self._engine).expression(source, "expression", at_end=False)
            except ConfigError as error:
                return JSONResponse({"error": str(error)}, 400, _HEADERS)
        return EventStream(self._events(source))

    async def _events(self, source: str | None) -> AsyncGenerator[bytes, None]:
        if self._listener is not None:
            self._listener.close()
        listener = self._listener = _Listener()
        try:
            try:
                await listener.open()
                self._announce({"address": listener.address, "expression": source})
            except (OSError, SidecarError, ShmError) as error:
                yield frame("error", {"type": "error", "severity": "error", "error": str(error)})
                return
            yield b": requests\n\n"
            quiet_since = time.monotonic()
            while not (self._is_stopping() or listener.is_over):
                found = await listener.next()
                if found:
                    quiet_since = time.monotonic()
                    yield found
                elif time.monotonic() - quiet_since > _PING_SECONDS:
                    quiet_since = time.monotonic()
                    yield b": nothing new\n\n"
        finally:
            listener.close()
            if self._listener is listener:
                self._listener = None
                self._forget()

    def _forget(self) -> None:
        """The workers have noticed; one that starts later must not look for it."""
        try:
            self._announce(None)
        except (SidecarError, ShmError) as error:
            # It finds nobody there, which it can do with.
            _log.warning("the end of a debug trace was not published: %s", error)
