"""The older transport, HTTP+SSE of 2024-11-05, for clients: a stream down, and a POST a message.

Source: MCP 2024-11-05, transports; spec/mcp_a2a.md sections 1.2, 1.3 and 2.4.

The stream is held by the worker that it was opened at. A message may come to any worker, which
passes it on over that one's socket; the endpoint that the client was told is sealed, names that
worker, and is worth nothing to another principal. The session ends with the stream.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import parse_qs

import orjson

from shm.errors import ShmError
from sidecar import jsonrpc
from sidecar.errors import RequestError, SidecarError
from sidecar.gateway.mcp_facts import Facts
from sidecar.gateway.mcp_http import LIMITED, passed_on, shown
from sidecar.http.headers import Headers
from sidecar.http.message import Request
from sidecar.jsonrpc import INTERNAL_ERROR, INVALID_REQUEST, Id, Json, JsonRpcError
from sidecar.mcp import era
from sidecar.mcp.federation import Federation, new_uuid
from sidecar.mcp.lanes import Caller
from sidecar.mcp.sessions import Live, Sessions, SessionsFullError, seen_by_servers
from sidecar.mcp.upstream.base import Answered, Held, Inbound, Messages, Outbound, Refused, Scope
from sidecar.mcp.upstream.inbox import Inbox

if TYPE_CHECKING:
    from sidecar.gateway.mcp_worker import McpWorker

PATH: Final = "/sse"
STREAMS: Final = "streams"
"""By what workers know each other's streams."""
_PURPOSE: Final = b"agentgateway mcp stream 1"
_QUERY: Final = "sessionId"
MAX_STREAMS: Final = 4096
"""Of a worker."""
_CALLS_MAX: Final = 64
"""Of a stream."""
_TOUCH_SECONDS: Final = 20.0


@final
class OldStreams:
    """Those that this worker holds. `send` is that of mcp.upstream.base.Target."""

    __slots__ = ("_streams", "name")

    def __init__(self) -> None:
        self.name = STREAMS
        self._streams: dict[bytes, OldStream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: OldStream) -> None:
        """A stream that was opened."""
        self._streams[stream.key] = stream

    def discard(self, stream: OldStream) -> None:
        """A stream that has ended."""
        self._streams.pop(stream.key, None)

    async def send(self, outbound: Outbound) -> None:
        """A message of a stream's client. Raises: Refused 404 when there is no such stream."""
        stream = self._streams.get(outbound.scope.key)
        if stream is None:
            raise Refused(404, Headers(), b"")
        stream.take(outbound.message, outbound.of, outbound.held.upstream_id)

    async def request(self, outbound: Outbound) -> Answered:
        """Nobody asks a stream anything. Raises: Refused."""
        raise Refused(405, Headers(), b"")

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """Its client alone listens."""
        return None

    async def end(self, outbound: Outbound) -> None:
        """It ends with its connection."""


@final
class OldStream:
    """One stream, and the session on it. See Messages."""

    def __init__(self, worker: McpWorker, federation: Federation, principal: bytes) -> None:
        assert worker.sessions is not None
        self.key = os.urandom(16)
        self.is_json = False
        self.retry_ms: int | None = None
        self.principal = principal
        self._worker = worker
        self._federation = federation
        """With the rules of whoever passed the latest message on: those in force."""
        self._sessions: Sessions = worker.sessions
        self._inbox = Inbox("the stream of a client", None)
        self._room = asyncio.Event()
        self._room.set()
        self._inbox.on_room = self._room.set
        self._tasks: set[asyncio.Task[None]] = set()
        self._live: Live | None = None
        self._is_greeted = False
        self._is_listening = False
        self._last: Request | None = None
        """Of the client's latest message: in whose name the session is ended."""

    def endpoint(self, place: int) -> str:
        """Where the client posts. `place`: this worker."""
        backend = self._federation.key.hex()
        plain = orjson.dumps([place, self.key.hex(), self.principal.hex(), backend])
        sealed = self._sessions.sealer.seal_bytes(plain, _PURPOSE)
        return f"{PATH}?{_QUERY}={sealed}"

    # --- to the client --------------------------------------------------------------------

    async def next(self) -> Inbound | None:
        """See Messages."""
        waiting = asyncio.ensure_future(self._inbox.next())
        try:
            while True:
                done, _ = await asyncio.wait((waiting,), timeout=_TOUCH_SECONDS)
                if done:
                    return waiting.result()
                # An open stream is use of its session.
                if self._live is not None and not self._touched():
                    return None
        finally:
            if not waiting.done():
                waiting.cancel()

    def close(self) -> None:
        """See Messages."""
        if self._inbox.is_closed:
            return
        self._inbox.close()
        self._room.set()
        self._worker.streams.discard(self)
        for task in tuple(self._tasks):
            task.cancel()
        live, last = self._live, self._last
        if live is not None and last is not None:
            self._worker.later(lambda: self._ended(live, last))

    async def _ended(self, live: Live, last: Request) -> None:
        if self._sessions.delete(live):
            self._worker.closed(live)
            await self._federation.end(self._caller(last, live))

    async def _put(self, message: Json) -> None:
        while self._inbox.is_full and not self._inbox.is_closed:
            self._room.clear()
            await self._room.wait()
        self._inbox.put(message, len(orjson.dumps(message)))

    # --- from the client ------------------------------------------------------------------

    def take(self, message: Json, request: Request, state: str) -> None:
        """A message that came by POST; its answer goes on the stream. `state`: of the backend
        that took it."""
        federation = self._worker.in_state(state)
        if federation is not None and federation.key == self._federation.key:
            self._federation = federation
        identity = jsonrpc.id_of(message) if "method" in message else None
        if len(self._tasks) >= _CALLS_MAX:
            if self._inbox.is_full:
                # A client that asks and asks, and reads nothing.
                self._worker.streams.discard(self)
                self._inbox.finish()
                return
            text = f"{_CALLS_MAX} requests wait for their answers"
            self._inbox.put(jsonrpc.error(identity, INTERNAL_ERROR, text), 256)
            return
        self._last = request
        self._own(lambda: self._served(message, request, identity))

    def _own(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(make())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()

    async def _served(self, message: Json, request: Request, identity: Id | None) -> None:
        try:
            await self._passed(message, request, identity)
        except JsonRpcError as error:
            if identity is not None:
                await self._put(jsonrpc.error(identity, error.code, str(error), error.data))
        except RequestError as error:
            if identity is not None:
                await self._put(jsonrpc.error(identity, LIMITED, str(error)))
        except (SidecarError, Refused, SessionsFullError, ShmError) as error:
            if identity is not None:
                await self._put(jsonrpc.error(identity, INTERNAL_ERROR, str(error)))

    async def _passed(self, message: Json, request: Request, identity: Id | None) -> None:
        """Raises: JsonRpcError, UpstreamError, Refused, SessionsFullError, ShmError."""
        federation = self._federation
        if message.get("method") == "initialize" and identity is not None:
            await self._greet(message, request)
            return
        if self._live is None or not self._touched():
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: there is no session")
        caller = self._caller(request, self._live)
        if identity is None:
            await federation.tell(message, caller)
            if message.get("method") == "notifications/initialized" and not self._is_listening:
                self._is_listening = True
                self._own(lambda: self._listen(caller))
            return
        facts = Facts(request, self._live.shown)
        facts.asks(message)
        await self._pump(await federation.request(message, caller, facts.goes_to))

    def _touched(self) -> bool:
        live = self._live
        assert live is not None
        found = self._sessions.open(live.text, self._federation.key, self.principal)
        if found is None:
            self._inbox.finish()
            return False
        self._live = found
        return True

    async def _greet(self, message: Json, request: Request) -> None:
        if self._is_greeted:
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: initialize came before")
        self._is_greeted = True
        uuid = new_uuid()
        sessions = self._sessions
        caller = self._caller(request, None)
        caller.scope = Scope("session", sessions.key_of(uuid), sessions.owner.worker)
        try:
            greeting = await self._federation.greet(message, caller, uuid)
        except BaseException:
            self._is_greeted = False
            raise
        self._live = greeting.live
        if greeting.live is not None:
            self._worker.opened(self._federation, greeting.live)
        else:
            self._is_greeted = False
        await self._pump(greeting.messages)

    async def _listen(self, caller: Caller) -> None:
        try:
            messages = await self._federation.listen(caller, b"")
            if messages is not None:
                await self._pump(messages)
        except (SidecarError, Refused, JsonRpcError):
            # A server that says nothing of its own accord is no fault of the session.
            return

    async def _pump(self, messages: Messages) -> None:
        try:
            while (inbound := await messages.next()) is not None:
                if inbound.message:
                    await self._put(inbound.message)
        finally:
            messages.close()

    def _caller(self, request: Request, live: Live | None) -> Caller:
        headers, own = passed_on(request)
        owner = self._sessions.owner.worker
        scope = Scope("session", self.key, owner)
        version, who = "", self.principal
        if live is not None:
            is_trusted = self._federation.lanes.shows_credentials
            who = seen_by_servers(self._worker.key, who, shown(request, is_trusted=is_trusted))
            scope = Scope("session", live.key, live.row.owner.worker)
            version = live.claims.version
        return Caller(request, headers, who, "legacy", version, scope, live, own)


def place_of(
    sessions: Sessions, request: Request, principal: bytes, backend: bytes
) -> tuple[int, bytes] | None:
    """Worker and key of the stream that a POST is for; None when it is for none of this
    principal's, or for one of another backend, before which other policies stand."""
    given = parse_qs(request.target.partition("?")[2]).get(_QUERY, [])
    raw = sessions.sealer.open_bytes(given[0], _PURPOSE) if len(given) == 1 else None
    if raw is None:
        return None
    worker, key, *whose = orjson.loads(raw)
    is_theirs = whose == [principal.hex(), backend.hex()]
    return (worker, bytes.fromhex(key)) if is_theirs else None


def posted(message: Json, request: Request, place: tuple[int, bytes], state: str) -> Outbound:
    """A client's message on its way to its stream. `state`: see OldStream.take; as there is no
    server here, it goes in the place of what a server holds the session by."""
    worker, key = place
    scope = Scope("session", key, worker)
    return Outbound(message, "legacy", era.LEGACY[-1], request, Headers(), scope, Held(state))
