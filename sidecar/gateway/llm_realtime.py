"""A realtime session under guards: the events of both sides are read, and only then passed on.

What the client says is judged event by event, what the model says like a stream. A refusal is an
`error` event for the client and `response.cancel` for the provider; of the refused answer nothing
more passes but that it is done.

Source: spec/llm.md section 2.15; RFC 6455.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import Final, final

import orjson

from sidecar.errors import RequestError, SidecarError, UpstreamError
from sidecar.gateway.llm_guard_window import BLOCKED, CODE, Blocked, JudgedWindow
from sidecar.gateway.llm_guards import Guards
from sidecar.http import websocket
from sidecar.http.message import FixedBody, Request, Response, Tunnel
from sidecar.http.sse import SseEvent
from sidecar.http.websocket import CLOSE, TEXT, Message, WebSocketError
from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json
from sidecar.llm.chat.realtime import CANCEL, FORMAT
from sidecar.llm.guard.realtime_texts import realtime_texts
from sidecar.llm.guard.stream_texts import StreamText
from sidecar.llm.shape import nests_too_deeply

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""Of one message; a piece of audio may have 15 MiB."""
EXTENSIONS: Final = b"sec-websocket-extensions"
_MAX_TOLD: Final = 64
_PROTOCOL: Final = 1002
_POLICY: Final = 1008
_INTERNAL: Final = 1011


def session_guards(request: Request, guards: Guards | None) -> Guards | None:
    """The guards of a session, if there are any; the request for it asks for no compression.

    Raises: RequestError 400.
    """
    if guards is None or not guards.guards_sessions:
        return None
    if request.upgrade != "websocket":
        # What comes back could be a session by WebRTC, of which nothing is seen here.
        text = "a realtime session under guards needs a WebSocket"
        raise RequestError(400, "InvalidRequest", text)
    request.headers.remove_all(EXTENSIONS)
    return guards


def guarded(response: Response, guards: Guards, request: Request) -> None:
    """Put guards into the session that a response begins. Raises: UpstreamError 502."""
    tunnel = response.tunnel
    if tunnel is None:
        return
    if response.headers.get(EXTENSIONS):
        tunnel.close()
        text = "the provider compresses messages, which was not asked for"
        raise UpstreamError(502, "UpstreamFailure", text)
    response.tunnel = GuardedSession(tunnel, guards, request, response)


@final
class GuardedSession:
    """The provider's side of a session, as the client's side sees it. See Tunnel."""

    __slots__ = (
        "_active",
        "_client",
        "_far",
        "_guards",
        "_has_ended",
        "_muted",
        "_reading",
        "_request",
        "_response",
        "_server",
        "_told",
        "_wake",
        "_window",
    )

    def __init__(self, far: Tunnel, guards: Guards, request: Request, response: Response) -> None:
        self._far = far
        self._guards = guards
        self._request = request
        self._response = response
        self._client = websocket.Decoder(MAX_MESSAGE_BYTES, is_masked=True)
        self._server = websocket.Decoder(MAX_MESSAGE_BYTES, is_masked=False)
        self._window = self._fresh()
        self._active = ""
        """The answer under way."""
        self._muted: str | None = None
        """The answer that was refused, until it is done."""
        self._told: deque[bytes] = deque()
        """What the gateway itself has to say to the client."""
        self._wake: asyncio.Future[None] | None = None
        self._reading: asyncio.Task[bytes] | None = None
        self._has_ended = False

    def _fresh(self) -> JudgedWindow | None:
        if not self._guards.guards_streams:
            return None
        return JudgedWindow(realtime_texts, self._guards, self._request, _as_frame)

    # --- the client's events --------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """See Tunnel."""
        if self._has_ended:
            return
        try:
            for message in self._client.feed(data):
                await self._from_client(message)
        except WebSocketError as error:
            await self._send(websocket.close(error.code, "", secrets.token_bytes(4)))
            self._tell(websocket.close(error.code, str(error)))
            self._has_ended = True

    async def _from_client(self, message: Message) -> None:
        if message.opcode >= CLOSE:
            await self._pass(message.opcode, message.data)
            return
        event = _parsed(message)
        if event is None:
            self._tell_error(400, "an event is not a JSON object")
            return
        try:
            refusal = await self._guards.on_request(FORMAT, event, self._request)
        except RequestError as error:
            self._tell_error(error.status, error.message)
            return
        if refusal is None:
            # Written anew: what was judged is what the provider reads, also of repeated keys.
            await self._pass(message.opcode, orjson.dumps(event))
            return
        body = refusal.body
        text = body.unread.decode(errors="replace") if isinstance(body, FixedBody) else ""
        self._tell_error(403, text, BLOCKED, CODE)
        await self._pass(TEXT, CANCEL)

    async def _pass(self, opcode: int, data: bytes) -> None:
        await self._send(websocket.encode(opcode, data, secrets.token_bytes(4)))

    async def _send(self, frame: bytes) -> None:
        await self._far.write(frame)

    def write_eof(self) -> None:
        """See Tunnel."""
        self._far.write_eof()

    # --- the provider's events ------------------------------------------------------------

    async def read(self) -> bytes:
        """See Tunnel."""
        while True:
            if self._told:
                return self._told.popleft()
            if self._has_ended:
                return b""
            data = await self._next()
            if data is None:
                continue
            made = await self._from_server(data)
            if made:
                return made

    async def _next(self) -> bytes | None:
        """Octets of the provider; None when there is something to tell first."""
        loop = asyncio.get_running_loop()
        if self._reading is None:
            self._reading = loop.create_task(self._far.read())
        wake = self._wake = loop.create_future()
        await asyncio.wait((self._reading, wake), return_when=asyncio.FIRST_COMPLETED)
        self._wake = None
        # What the provider answers to a refusal may be there already: the refusal comes first.
        if self._told or not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        return reading.result()

    async def _from_server(self, data: bytes) -> bytes:
        out: list[bytes] = []
        try:
            messages = self._server.feed(data)
        except WebSocketError as error:
            return self._broken(_PROTOCOL, f"the provider: {error}")
        if not data:
            out.append(await self._last())
        for message in messages:
            out.append(await self._judged(message))
            if self._has_ended:
                break
        return b"".join(out)

    async def _judged(self, message: Message) -> bytes:
        if message.opcode == CLOSE:
            return await self._last() + websocket.encode(CLOSE, message.data)
        if message.opcode > CLOSE or self._window is None:
            return websocket.encode(message.opcode, message.data)
        event = _parsed(message)
        if event is None:
            return self._broken(_INTERNAL, "an event of the provider is not a JSON object")
        if self._muted is not None:
            return self._beside_muted(event)
        kind = event.get("type")
        answer = _answer_of(event)
        if kind == "response.created":
            self._active = answer
        try:
            self._window.add(SseEvent(message.data), event)
            made = await self._window.released(is_last=False)
        except (Blocked, SidecarError) as problem:
            return await self._refused(event, _error_of(problem))
        if kind == "response.done" and answer == self._active:
            self._active = ""
        return made

    async def _last(self) -> bytes:
        """The provider says no more: what is left is judged."""
        self._has_ended = True
        if self._window is None:
            return b""
        try:
            return await self._window.released(is_last=True)
        except (Blocked, SidecarError) as problem:
            return _error_of(problem)

    async def _refused(self, event: Json, error: bytes) -> bytes:
        """What the client gets in the place of an answer; what was held is never sent."""
        self._window = self._fresh()
        self._response.error = "refused by a prompt guard"
        answer = _answer_of(event) or self._active
        self._active = ""
        await self._pass(TEXT, CANCEL)
        if event.get("type") == "response.done":
            return error + _emptied(event)
        if answer:
            self._muted = answer
        return error

    def _beside_muted(self, event: Json) -> bytes:
        """An event while a refused answer is not done: nothing that has text, or is of it."""
        answer = _answer_of(event)
        if event.get("type") == "response.done" and answer in (self._muted, ""):
            self._muted = None
            return _emptied(event)
        is_text = any(isinstance(one, StreamText) for one in realtime_texts(event))
        return b"" if is_text or answer == self._muted else _frame(event)

    # --- the gateway's own ----------------------------------------------------------------

    def _tell_error(self, status: int, message: str, kind: str = "", code: str = "") -> None:
        self._tell(_error(status, message, kind, code))

    def _tell(self, frame: bytes) -> None:
        if len(self._told) >= _MAX_TOLD:
            # It asks and asks, and does not read the answers.
            self._told.append(websocket.close(_POLICY, "too many refused events"))
            self._has_ended = True
        else:
            self._told.append(frame)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _broken(self, code: int, reason: str) -> bytes:
        self._has_ended = True
        self._response.error = reason
        return _error(502, reason) + websocket.close(code, reason)

    def close(self) -> None:
        """See Tunnel."""
        self._has_ended = True
        if self._reading is not None:
            self._reading.cancel()
        self._far.close()


def _parsed(message: Message) -> Json | None:
    """The event, also of a binary message: some servers read JSON of either."""
    try:
        value = orjson.loads(message.data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict) or nests_too_deeply(message.data, value):
        return None
    return value


def _answer_of(event: Json) -> str:
    """The id of the answer that an event belongs to; "" for none."""
    named = loose.text(event.get("response_id"))
    return named or loose.text(loose.obj(event.get("response")).get("id"))


def _emptied(event: Json) -> bytes:
    """`response.done` without what was said."""
    return _frame({**event, "response": {**loose.obj(event.get("response")), "output": []}})


def _frame(event: Json) -> bytes:
    return websocket.encode(TEXT, orjson.dumps(event))


def _as_frame(event: SseEvent, data: bytes) -> bytes:
    return websocket.encode(TEXT, data)


def _error_of(problem: Exception) -> bytes:
    """A refusal, or why there was no judgement."""
    if isinstance(problem, Blocked):
        return _error(403, str(problem), BLOCKED, CODE)
    if isinstance(problem, RequestError):
        return _error(problem.status, problem.message)
    return _error(502, str(problem))


def _error(status: int, message: str, kind: str = "", code: str = "") -> bytes:
    return websocket.encode(TEXT, FORMAT.error_frame(status, message, kind, code))


__all__ = ["EXTENSIONS", "MAX_MESSAGE_BYTES", "GuardedSession", "guarded", "session_guards"]
