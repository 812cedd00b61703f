"""The streams of HTTP+SSE servers that this worker holds, and who waits for what on them.

Source: spec/mcp_a2a.md sections 1.2 and 1.3; hardening case 43 (a server that names another).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, final
from urllib.parse import urljoin, urlsplit
from weakref import WeakValueDictionary

from sidecar.errors import BodyTooLarge, SidecarError, UpstreamError
from sidecar.http.message import Body
from sidecar.http.sse import SseDecoder, SseEvent
from sidecar.jsonrpc import Json
from sidecar.mcp.upstream.base import Refused, Scope
from sidecar.mcp.upstream.dialogue import Dialogue
from sidecar.mcp.upstream.events import broken, messages_of
from sidecar.mcp.upstream.streamable import Limits

_log = logging.getLogger("sidecar.mcp.upstream")
ENDPOINT_SECONDS: Final = 30.0
"""From the stream's head to its first event, which tells where to post."""
MAX_CONNECTIONS: Final = 1024
"""Of a worker."""
SLOW_READER_SECONDS: Final = 10.0
_MAX_ENDPOINT: Final = 4096
ConnectionKey = tuple[str, str, bytes]


@final
class SseConnection:
    """One stream of a server, and who waits for what on it."""

    def __init__(
        self, name: str, body: Body, pin: str, limits: Limits, *, is_anyones: bool = False
    ) -> None:
        """`pin`: the endpoint that holds the stream, to which all messages go. `is_anyones`: see
        Scope."""
        self.pin = pin
        self.greeting: Json | None = None
        self.is_announced = False
        self.used = time.monotonic()
        self.post_to: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Path and query of where to post, as the server told."""
        self._name = name
        self._body = body
        self._limits = limits
        self._room = asyncio.Event()
        self._room.set()
        self._own: asyncio.Queue[Json] = asyncio.Queue(maxsize=64)
        self.dialogue = Dialogue(
            name, limits.idle_seconds, self._tell, self._hold, is_anyones=is_anyones
        )

    def _tell(self, message: Json) -> None:
        try:
            self._own.put_nowait(message)
        except asyncio.QueueFull:
            _log.debug("%s: a message of the gateway's own was dropped", self._name)

    def _hold(self, is_held: bool) -> None:
        if is_held:
            self._room.clear()
        else:
            self._room.set()

    async def run(self, base: str, post: Callable[[Json], Awaitable[None]]) -> None:
        """Read the stream to its end. `base`: the URL of the stream. `post`: posts a message in
        the name of who opened the connection: for answers and cancellations of our own."""
        text = f"MCP target {self._name} ended its stream"
        error = UpstreamError(502, "UpstreamFailure", text)
        posting = asyncio.get_running_loop().create_task(self._post_own(post))
        try:
            await self._read(base)
        except UpstreamError as failure:
            error = failure
        except SidecarError as failure:
            error = UpstreamError(502, "UpstreamFailure", f"{text}: {failure}")
        finally:
            self._body.close()
            if not self.post_to.done():
                self.post_to.set_exception(error)
                # Looked at, so that a stream that nobody waits for is not reported.
                self.post_to.exception()
            self.dialogue.end(error)
            posting.cancel()
            await asyncio.wait((posting,))

    async def _post_own(self, post: Callable[[Json], Awaitable[None]]) -> None:
        """Answers to pings, and cancellations."""
        while True:
            message = await self._own.get()
            try:
                await post(message)
            except (SidecarError, Refused) as error:
                _log.debug("%s: a message of our own was not taken: %s", self._name, error)

    async def _read(self, base: str) -> None:
        decoder = SseDecoder(self._limits.event_bytes)
        while True:
            await self._wait_room()
            seconds = self._limits.listen_idle_seconds
            seconds = seconds if self.post_to.done() else ENDPOINT_SECONDS
            try:
                async with asyncio.timeout(seconds):
                    data = await self._body.read()
            except TimeoutError as error:
                text = f"MCP target {self._name} sent nothing for {seconds:g} s"
                raise UpstreamError(504, "Timeout", text) from error
            try:
                events = decoder.feed(data) if data else decoder.finish()
            except BodyTooLarge as error:
                text = f"sent an event of more than {self._limits.event_bytes} bytes"
                raise broken(self._name, text) from error
            for event in events:
                self._take(event, base)
            if not data:
                return

    async def _wait_room(self) -> None:
        """While a reader is slow, nothing is read; one that does not read at all is given up."""
        if self._room.is_set():
            return
        try:
            async with asyncio.timeout(SLOW_READER_SECONDS):
                await self._room.wait()
        except TimeoutError:
            self.dialogue.drop_slow()

    def _take(self, event: SseEvent, base: str) -> None:
        if event.event == b"endpoint":
            if not self.post_to.done():
                self.post_to.set_result(endpoint_of(base, event.data, self._name))
        elif event.data and event.event in (b"", b"message"):
            for message in messages_of(event.data, self._name):
                self.dialogue.receive(message, len(event.data))


def endpoint_of(base: str, said: bytes, name: str) -> str:
    """Path and query of the URL that the server told, relative to `base` or absolute.

    Raises: UpstreamError when it is of another origin: credentials would go there.
    """
    text = said.decode("utf-8", "replace").strip()
    is_plain = text.isascii() and text.isprintable() and " " not in text
    if not is_plain or not 0 < len(text) <= _MAX_ENDPOINT:
        raise broken(name, "told an endpoint that is no URL")
    try:
        ours, theirs = urlsplit(base), urlsplit(urljoin(base, text))
        is_same = _origin(ours) == _origin(theirs)
    except ValueError as error:
        raise broken(name, "told an endpoint that is no URL") from error
    if not is_same:
        raise broken(name, "told an endpoint of another origin")
    path = theirs.path or "/"
    return f"{path}?{theirs.query}" if theirs.query else path


def _origin(url: Any) -> tuple[str, str, int | None]:
    port = url.port if url.port is not None else {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, (url.hostname or "").lower(), port


@final
class SseConnections:
    """The worker's connections, by target and scope. See `children.Children`."""

    def __init__(self, idle_seconds: float = 3600.0) -> None:
        """`idle_seconds`: of a connection that nobody waits on."""
        self._idle = idle_seconds
        self._connections: dict[ConnectionKey, SseConnection] = {}
        self._tasks: dict[ConnectionKey, asyncio.Task[None]] = {}
        self._locks: WeakValueDictionary[ConnectionKey, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._connections)

    def lock(self, key: str, scope: Scope) -> asyncio.Lock:
        """For who opens the connection of a scope, that it is opened once."""
        return self._locks.setdefault((key, scope.kind, scope.key), asyncio.Lock())

    def find(self, key: str, scope: Scope) -> SseConnection | None:
        """The open connection of this scope."""
        connection = self._connections.get((key, scope.kind, scope.key))
        if connection is not None:
            connection.used = time.monotonic()
        return connection

    def add(
        self,
        key: str,
        scope: Scope,
        connection: SseConnection,
        base: str,
        post: Callable[[Json], Awaitable[None]],
    ) -> None:
        """Take a connection in and read it, in the place of an earlier one of the scope.

        Raises: UpstreamError when there are too many.
        """
        self._make_room()
        own_key = (key, scope.kind, scope.key)
        self._drop(own_key)
        task = asyncio.get_running_loop().create_task(connection.run(base, post))
        self._connections[own_key] = connection
        self._tasks[own_key] = task

        def ended(_: object) -> None:
            if self._tasks.get(own_key) is task:
                del self._tasks[own_key], self._connections[own_key]

        task.add_done_callback(ended)

    def sweep(self) -> None:
        """Close those that nobody has used for long."""
        now = time.monotonic()
        for key, connection in list(self._connections.items()):
            is_idle = not connection.dialogue.waiting and now - connection.used > self._idle
            if is_idle:
                self._drop(key)

    def _make_room(self) -> None:
        self.sweep()
        if len(self._connections) >= MAX_CONNECTIONS:
            text = f"this worker has {MAX_CONNECTIONS} SSE connections, which is the most"
            raise UpstreamError(503, "UpstreamFailure", text, sent=False)

    def end(self, key: str, scope: Scope) -> None:
        """Close the connection of a scope, if there is one."""
        self._drop((key, scope.kind, scope.key))

    def retire(self, keys: frozenset[str], *, is_urgent: bool = True) -> None:
        """Close those of all targets but these. `is_urgent`: also those that somebody waits on.

        `keys`: ends of the targets' own, behind their last `/`."""
        for key, connection in list(self._connections.items()):
            if key[0].rpartition("/")[2] not in keys and (
                is_urgent or not connection.dialogue.waiting
            ):
                self._drop(key)

    def _drop(self, key: ConnectionKey) -> None:
        task = self._tasks.pop(key, None)
        self._connections.pop(key, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Close all."""
        tasks = list(self._tasks.values())
        for key in list(self._tasks):
            self._drop(key)
        if tasks:
            await asyncio.wait(tasks)
