"""What a server answers over HTTP: one JSON document, or a stream of events that may be resumed.

Source: spec/mcp_a2a.md sections 1.2 (SEP-1699) and 1.3; hardening case 49.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, final

from sidecar import jsonrpc
from sidecar.errors import BodyTooLarge, SidecarError, UpstreamError
from sidecar.http.message import Body
from sidecar.http.sse import MAX_EVENT_BYTES, SseDecoder
from sidecar.jsonrpc import Id, Json, JsonRpcError
from sidecar.mcp.upstream.base import Inbound

_log = logging.getLogger("sidecar.mcp.upstream")
Resume = Callable[[bytes], Awaitable[Body | None]]
"""Ask for what follows the event of this id; None when the server refuses. Raises: UpstreamError,
and then it is asked again."""
Linger = Callable[[Body], None]
"""Take a body whose rest nobody needs, so that its connection can be used again."""

RETRY_MS: Final = 1000
MAX_RETRY_MS: Final = 30_000
MAX_FUTILE: Final = 5
"""Connections in a row without a new event, after which a stream counts as broken."""
_MAX_ID_BYTES: Final = 4096
_SHOWN: Final = ("", "message")
_NO_MESSAGE: Final[Json] = {}


def broken(name: str, what: str) -> UpstreamError:
    """A server that does not speak MCP as it should."""
    return UpstreamError(502, "UpstreamFailure", f"MCP target {name} {what}")


def messages_of(raw: bytes, name: str) -> list[Json]:
    """The messages of a document, a batch split. Raises: UpstreamError for what is none."""
    try:
        document = jsonrpc.parse(raw)
        messages = document if isinstance(document, list) else [document]
        for message in messages:
            jsonrpc.kind_of(message)
    except JsonRpcError as error:
        raise broken(name, f"sent what is no JSON-RPC message ({error.message})") from error
    return messages


def is_answer(message: Json, asked: Id) -> bool:
    """Whether it answers the request; an error without an id answers the only one there is."""
    if "method" in message:
        return False
    identity = jsonrpc.id_of(message)
    if identity is None:
        return "error" in message
    # 1 and True, or 1 and "1", are different ids.
    return type(identity) is type(asked) and identity == asked


def answered(raw: bytes, asked: Id, name: str) -> list[Inbound]:
    """What a JSON answer holds, up to the answer. Raises: UpstreamError when it is not there."""
    taken = []
    for message in messages_of(raw, name):
        if is_answer(message, asked):
            if "id" not in message or message["id"] is None:
                message = {**message, "id": asked}
            taken.append(Inbound(message))
            return taken
        if "method" in message:
            taken.append(Inbound(message))
    raise broken(name, "answered another request than it was asked")


@final
class EventMessages:
    """The messages of an event stream. See Messages.

    With `asked` the stream ends behind the answer to that request, else with the server's stream.
    A stream that is cut, and had told ids of its events, is taken up behind the last one, after
    the time that the server asked for. One that the server ends is left to a client that polls
    (SEP-1699): the server wants to be rid of the connection, and the client is told all it needs.
    """

    __slots__ = (
        "_asked",
        "_body",
        "_decoder",
        "_futile",
        "_idle",
        "_is_closed",
        "_is_done",
        "_is_polled",
        "_items",
        "_last_id",
        "_limit",
        "_linger",
        "_name",
        "_resume",
        "is_json",
        "retry_ms",
    )

    def __init__(
        self,
        name: str,
        body: Body,
        asked: Id | None,
        idle_seconds: float,
        linger: Linger,
        resume: Resume | None = None,
        limit_bytes: int = MAX_EVENT_BYTES,
        *,
        is_polled: bool = False,
    ) -> None:
        """`resume`: None for a stream that ends where it ends. `is_polled`: see Outbound."""
        self.is_json = False
        self.retry_ms: int | None = None
        self._name = name
        self._body: Body | None = body
        self._asked = asked
        self._idle = idle_seconds
        self._limit = limit_bytes
        self._decoder = SseDecoder(limit_bytes, keeps_bare=True)
        self._linger = linger
        self._resume = resume
        self._items: deque[Inbound] = deque()
        self._last_id = b""
        self._futile = 0
        self._is_done = False
        self._is_polled = is_polled
        self._is_closed = False

    async def next(self) -> Inbound | None:
        """See Messages."""
        while not self._items:
            if self._is_done or self._is_closed:
                return None
            try:
                await self._more()
            except UpstreamError:
                self.close()
                raise
        return self._items.popleft()

    def close(self) -> None:
        """See Messages."""
        self._is_closed = True
        self._items.clear()
        body, self._body = self._body, None
        if body is not None:
            body.close()

    async def _more(self) -> None:
        """Read once, or connect again. Raises: UpstreamError."""
        body = self._body
        if body is None:
            await self._again()
            return
        try:
            data = body.read_nowait()
            if data is None:
                async with asyncio.timeout(self._idle):
                    data = await body.read()
        except TimeoutError as error:
            text = f"MCP target {self._name} sent nothing for {self._idle:g} s"
            raise UpstreamError(504, "Timeout", text) from error
        except SidecarError as error:
            self._cut(error)
            return
        self._take(data)
        if not data and not self._is_done:
            self._cut(None)

    def _take(self, data: bytes) -> None:
        """Sort what one read held. b"" is the end of the stream."""
        try:
            events = self._decoder.feed(data) if data else self._decoder.finish()
        except BodyTooLarge as error:
            text = f"sent an event of more than {self._limit} bytes"
            raise broken(self._name, text) from error
        for event in events:
            if event.retry_ms is not None:
                self.retry_ms = min(event.retry_ms, MAX_RETRY_MS)
            if event.id and len(event.id) <= _MAX_ID_BYTES:
                self._last_id = event.id
                self._futile = 0
            # The first event of a stream that can be resumed is an id without data.
            if event.data and event.event.decode("latin-1") in _SHOWN:
                self._offer(event.data, event.id)
            elif self._is_polled and not event.data:
                self._items.append(Inbound(_NO_MESSAGE, event.id, event.retry_ms))
            if self._is_done:
                self._leave()
                return

    def _offer(self, data: bytes, event_id: bytes) -> None:
        for message in messages_of(data, self._name):
            if self._asked is None or "method" in message:
                self._items.append(Inbound(message, event_id))
            elif is_answer(message, self._asked):
                if message.get("id") is None:
                    message = {**message, "id": self._asked}
                self._items.append(Inbound(message, event_id))
                self._is_done = True
                return
            else:
                _log.debug("%s: an answer to another request was dropped", self._name)

    def _leave(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            self._linger(body)

    def _cut(self, error: SidecarError | None) -> None:
        """The stream ended, or broke. Raises: UpstreamError when that was the last of it."""
        body, self._body = self._body, None
        if body is not None:
            body.close()
        if self._is_polled and self._last_id and error is None:
            self._is_done = True
            return
        if self._resume is not None and self._last_id:
            return
        if self._asked is None:
            self._is_done = True
            return
        if isinstance(error, UpstreamError):
            raise error
        raise broken(self._name, "ended its stream before the answer")

    async def _again(self) -> None:
        """Take the stream up behind the last event. Raises: UpstreamError."""
        assert self._resume is not None
        if self._futile >= MAX_FUTILE:
            raise broken(self._name, "ends its stream again and again")
        wait_ms = RETRY_MS if self.retry_ms is None else self.retry_ms
        await asyncio.sleep(min(wait_ms << self._futile, MAX_RETRY_MS) / 1000)
        if self._is_closed:
            return
        self._futile += 1
        try:
            body = await self._resume(self._last_id)
        except UpstreamError as error:
            _log.debug("%s: a stream could not be resumed: %s", self._name, error)
            return
        if body is None:
            self._is_done = self._asked is None
            if not self._is_done:
                raise broken(self._name, "does not resume its stream")
            return
        if self._is_closed:
            body.close()
            return
        self._body = body
        self._decoder = SseDecoder(self._limit, keeps_bare=True)
