"""Messages of servers as a client gets them: one JSON document, or server-sent events.

Source: spec/mcp_a2a.md sections 1.3, 1.4 and 5.2 row 5.

A stream is a body that pulls from the servers. It is never silent for long (a comment every 15 s
keeps proxies from closing it), and a server that fails in the middle of an answer becomes the
error that answers the request: the status was sent long ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import orjson

from sidecar.errors import SidecarError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Response
from sidecar.http.sse import encode_event
from sidecar.jsonrpc import Id, Json, JsonRpcError
from sidecar.mcp.event_log import Failure, Reader, failure
from sidecar.mcp.event_logs import EventLogs
from sidecar.mcp.lanes import Caller
from sidecar.mcp.upstream.base import Inbound, Messages, Refused

KEEP_ALIVE_SECONDS: Final = 15.0
PRIME_SECONDS: Final = 0.05
"""Of silence, until a client is told an id: most answers are there sooner, and need none."""
_PRIMED: Final = "2025-11-25"
_RESUMABLE: Final = frozenset(("2025-03-26", "2025-06-18", _PRIMED))
_COMMENT: Final = b": keep-alive\n\n"
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

Seen = Callable[[Json], None]
"""Told of each message that goes to the client."""


@final
@dataclass(frozen=True, slots=True)
class Logging:
    """How a stream is logged whose server names no events."""

    logs: EventLogs
    session: bytes
    """Key of its row."""
    primes: bool
    """Whether the client knows events that say but an id (2025-11-25)."""
    earlier: Sequence[Inbound] = ()
    """What the client missed of an earlier stream."""


def logging_of(logs: EventLogs, caller: Caller, earlier: Sequence[Inbound] = ()) -> Logging | None:
    """How a stream can be taken up again; None where its client does not do that."""
    live = caller.live
    if live is None or caller.version not in _RESUMABLE:
        return None
    return Logging(logs, live.key, caller.version == _PRIMED, earlier)


def document(message: Json, status: int = 200) -> Response:
    """One message as JSON."""
    reason = "Upstream" if status < 400 else "MCP"
    return Response(status, Headers((_JSON,)), FixedBody(orjson.dumps(message)), reason=reason)


def stream(body: EventBody) -> Response:
    """Messages as events."""
    return Response(200, Headers(_EVENTS), body)


async def answer(
    messages: Messages, identity: Id | None, seen: Seen, logging: Logging | None = None
) -> Response:
    """As the server answered: JSON for JSON, else events. Raises: UpstreamError.

    `identity`: of the request that is answered; None for a listening stream. `logging`: where the
    client may resume the stream.
    """
    if not messages.is_json:
        has_ids = logging is not None
        return stream(EventBody(messages, identity, seen, has_ids=has_ids, logging=logging))
    inbound = await messages.next()
    messages.close()
    assert inbound is not None, "JSON is one message"
    seen(inbound.message)
    return document(inbound.message)


@final
class EventBody:
    """See Body."""

    __slots__ = (
        "_ended",
        "_has_ids",
        "_identity",
        "_keep_seconds",
        "_logging",
        "_messages",
        "_seen",
        "_task",
        "length",
        "trailers",
    )

    def __init__(
        self,
        messages: Messages,
        identity: Id | None,
        seen: Seen,
        *,
        has_ids: bool,
        logging: Logging | None = None,
        keep_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        """`logging`: of a stream that may turn out to be without ids; None for any other."""
        self.length: int | None = None
        self.trailers: Headers | None = None
        self._messages = messages
        self._identity = identity
        self._seen = seen
        self._has_ids = has_ids
        self._keep_seconds = keep_seconds
        self._task: asyncio.Task[Inbound | None] | None = None
        self._ended = False
        self._logging = logging
        if logging is not None and logging.earlier:
            self._log(logging)

    def read_nowait(self) -> bytes | None:
        """See Body."""
        return b"" if self._ended else None

    async def read(self) -> bytes:
        """See Body. A server's failure is a message, not an exception."""
        if self._ended:
            return b""
        task = self._task
        if task is None:
            # Kept over comments: to cancel it could lose what it has read.
            task = self._task = asyncio.get_running_loop().create_task(self._messages.next())
        if not task.done():
            logging = self._logging
            primes = logging is not None and logging.primes
            await asyncio.wait((task,), timeout=PRIME_SECONDS if primes else self._keep_seconds)
            if not task.done():
                if logging is None or not primes:
                    return _COMMENT
                self._task = None
                reader = self._log(logging, task)
                return _COMMENT if reader is None else self._told(reader)
        self._task = None
        return self._event(task)

    def _log(
        self,
        logging: Logging,
        reading: asyncio.Task[Inbound | None] | None = None,
        first: Sequence[Inbound] = (),
    ) -> Reader | None:
        """From here on the log reads the server. None when there is no room for it."""
        self._logging = None
        reader = logging.logs.begin(
            logging.session,
            self._identity,
            self._messages,
            reading,
            (*logging.earlier, *first),
            primes=logging.primes,
        )
        if reader is None:
            self._task = reading
        else:
            self._messages = reader
        return reader

    def _told(self, reader: Reader) -> bytes:
        """What is at hand."""
        told = [self._encoded(reader.queue.popleft()) for _ in range(len(reader.queue))]
        return b"".join(told)

    def _event(self, task: asyncio.Task[Inbound | None]) -> bytes:
        if task.cancelled():
            self._ended = True
            return b""
        try:
            inbound = task.result()
        except (SidecarError, JsonRpcError, Refused) as error:
            return self._failed(error)
        if inbound is None:
            self._ended = True
            return b""
        logging = self._logging
        if logging is not None:
            is_first = not inbound.event_id and "method" in inbound.message
            reader = self._log(logging, None, (inbound,)) if is_first else None
            if reader is not None:
                return self._told(reader)
            # Its server names events itself, or this is the answer, and nothing follows.
            self._logging = None
        return self._encoded(inbound)

    def _encoded(self, inbound: Inbound) -> bytes:
        identity = inbound.event_id if self._has_ids else b""
        if not inbound.message:
            return encode_event(b"", b"", identity, inbound.retry_ms)
        self._seen(inbound.message)
        return encode_event(orjson.dumps(inbound.message), b"message", identity)

    def _failed(self, error: Failure) -> bytes:
        self._ended = True
        self._messages.close()
        if self._identity is None:
            return b""
        message = failure(self._identity, error)
        self._seen(message)
        return encode_event(orjson.dumps(message), b"message")

    def close(self) -> None:
        """See Body."""
        self._ended = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._messages.close()
