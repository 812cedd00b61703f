"""A server over Streamable HTTP, of both eras.

Source: spec/mcp_a2a.md sections 1.3, 1.4 and 2.5.

Any worker can serve any session here: what the server gave (`Held`) comes with each message. A
server may answer with a document, or with a stream; it may end its stream before the answer when it
told event ids (SEP-1699), and then the answer is fetched by GET. None of this shows to the caller.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, replace
from typing import Final, final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http.decoded import plain_body
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Response, read_up_to
from sidecar.http.sse import MAX_EVENT_BYTES
from sidecar.jsonrpc import Id
from sidecar.mcp.upstream.base import (
    Answered,
    Held,
    Inbound,
    Messages,
    Outbound,
    Refused,
    SendHttp,
)
from sidecar.mcp.upstream.events import EventMessages, Resume, answered, broken
from sidecar.mcp.upstream.inbox import Whole
from sidecar.mcp.upstream.outgoing import asked, posted

_log = logging.getLogger("sidecar.mcp.upstream")
REFUSAL_BYTES: Final = 64 * 1024
_SESSION_ID: Final = re.compile(rb"[\x21-\x7e]{1,1024}")
_MAX_LINGERING: Final = 256
_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 64 * 1024
_BEFORE_GREETING: Final = 64
"""Messages that a server may send before it has answered `initialize`."""


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an exchange with a server over HTTP."""

    head_seconds: float = 60.0
    """Until the response's head."""
    idle_seconds: float = 300.0
    """Between two reads of an answer."""
    listen_idle_seconds: float = 3600.0
    """The same of a listening stream, on which silence is no fault; it is then asked for anew."""
    answer_bytes: int = 4 * 1024 * 1024
    """Of a JSON answer."""
    event_bytes: int = MAX_EVENT_BYTES
    """Of one event."""


DEFAULT_LIMITS: Final = Limits()


@final
class Lingerers:
    """Bodies whose rest nobody needs, read to the end so that their connections can be used again.

    Bounded in number, time and bytes; what passes a bound is closed, and its connection with it.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, body: Body) -> None:
        """Take a body over."""
        # Fast path: the server ended the stream with the answer.
        try:
            if body.read_nowait() == b"":
                return
        except SidecarError:
            body.close()
            return
        if len(self._tasks) >= _MAX_LINGERING:
            body.close()
            return
        task = asyncio.get_running_loop().create_task(_drained(body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give all up."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _drained(body: Body) -> None:
    """Read to the end, in bounds."""
    taken = 0
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while taken <= _LINGER_BYTES and (data := await body.read()):
                taken += len(data)
    except (SidecarError, TimeoutError) as error:
        _log.debug("the rest of an answer was given up: %s", error)
    finally:
        body.close()


@final
class StreamableTarget:
    """See base.Target."""

    __slots__ = ("_authority", "_limits", "_lingerers", "_path", "_send", "name")

    def __init__(
        self,
        name: str,
        send: SendHttp,
        authority: str,
        path: str,
        lingerers: Lingerers,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """`path`: of the endpoint, with its query. `lingerers`: the worker's."""
        self.name = name
        self._send = send
        self._authority = authority
        self._path = path
        self._lingerers = lingerers
        self._limits = limits

    async def request(self, outbound: Outbound) -> Answered:
        """See base.Target."""
        response, pin = await self._posted(outbound)
        try:
            messages = await self._messages(outbound, response, pin)
            if outbound.message["method"] != "initialize":
                return Answered(messages, outbound.held)
            return await self._greeted(messages, response.headers, pin)
        except BaseException:
            response.body.close()
            raise

    async def send(self, outbound: Outbound) -> None:
        """See base.Target."""
        response, _ = await self._posted(outbound)
        self._lingerers.add(response.body)

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """See base.Target."""
        request = asked("GET", outbound, self._authority, self._path, last_event_id)
        response, _ = await self._send(request, self._limits.head_seconds, outbound.held.pin)
        if response.status == 405 or (response.status == 404 and not outbound.held.upstream_id):
            self._lingerers.add(response.body)
            return None
        body = await self._stream_of(response)
        resume = self._resumer(outbound)
        # A stream that is taken up has its end; one that only listens has none.
        is_polled = outbound.is_polled and last_event_id != b""
        idle_seconds = self._limits.listen_idle_seconds
        return self._events(body, None, idle_seconds, resume, is_polled=is_polled)

    async def end(self, outbound: Outbound) -> None:
        """See base.Target."""
        if outbound.era == "modern" or not outbound.held.upstream_id:
            return
        request = asked("DELETE", outbound, self._authority, self._path)
        try:
            response, _ = await self._send(request, self._limits.head_seconds, outbound.held.pin)
        except SidecarError as error:
            _log.debug("%s: a session could not be ended: %s", self.name, error)
            return
        self._lingerers.add(response.body)

    # --- one exchange ---------------------------------------------------------------------

    async def _posted(self, outbound: Outbound) -> tuple[Response, str]:
        request = posted(outbound, self._authority, self._path)
        response, pin = await self._send(request, self._limits.head_seconds, outbound.held.pin)
        plain(response, self.name)
        if not 200 <= response.status < 300:
            raise await refused(response, self._limits.idle_seconds)
        return response, pin

    async def _messages(self, outbound: Outbound, response: Response, pin: str) -> Messages:
        """The answer to a request. Raises: UpstreamError."""
        kind = content_type(response.headers)
        identity: Id = outbound.message["id"]
        if kind == b"text/event-stream":
            resume = None
            if outbound.era == "legacy":
                held = _held(response.headers, pin) if not outbound.held.upstream_id else None
                resume = self._resumer(replace(outbound, held=held) if held else outbound)
            idle_seconds, is_polled = self._limits.idle_seconds, outbound.is_polled
            return self._events(response.body, identity, idle_seconds, resume, is_polled=is_polled)
        if kind != b"application/json" or response.status in (202, 204):
            raise broken(self.name, "answered a request with neither JSON nor an event stream")
        raw = await self._whole(response.body)
        taken = answered(raw, identity, self.name)
        return Whole(taken, is_json=len(taken) == 1)

    async def _whole(self, body: Body) -> bytes:
        limits = self._limits
        try:
            async with asyncio.timeout(limits.idle_seconds):
                raw, rest = await read_up_to(body, limits.answer_bytes)
        except TimeoutError as error:
            text = f"MCP target {self.name} did not end its answer in {limits.idle_seconds:g} s"
            raise UpstreamError(504, "Timeout", text) from error
        if rest is not None:
            raise broken(self.name, f"answered with more than {limits.answer_bytes} bytes")
        return raw

    async def _greeted(self, messages: Messages, headers: Headers, pin: str) -> Answered:
        """The answer to `initialize`, read to its end: it says which version was agreed on."""
        taken: list[Inbound] = []
        try:
            while (inbound := await messages.next()) is not None:
                taken.append(inbound)
                if len(taken) > _BEFORE_GREETING:
                    raise broken(self.name, "sends much and does not answer initialize")
        except BaseException:
            messages.close()
            raise
        held = greeting_held(_held(headers, pin), taken)
        return Answered(Whole(taken, is_json=messages.is_json), held)

    def _events(
        self,
        body: Body,
        identity: Id | None,
        idle_seconds: float,
        resume: Resume | None,
        *,
        is_polled: bool,
    ) -> EventMessages:
        limit = self._limits.event_bytes
        add = self._lingerers.add
        return EventMessages(
            self.name, body, identity, idle_seconds, add, resume, limit, is_polled=is_polled
        )

    def _resumer(self, outbound: Outbound) -> Resume:
        async def resume(last_event_id: bytes) -> Body | None:
            request = asked("GET", outbound, self._authority, self._path, last_event_id)
            response, _ = await self._send(request, self._limits.head_seconds, outbound.held.pin)
            try:
                return await self._stream_of(response)
            except Refused as error:
                # The server may be restarting: that, unlike a refusal, is worth another try.
                if error.status >= 500:
                    text = f"MCP target {self.name} answered {error.status}"
                    raise UpstreamError(502, "UpstreamFailure", text) from error
                return None

        return resume

    async def _stream_of(self, response: Response) -> Body:
        """The body of an answer to GET. Raises: Refused, UpstreamError."""
        plain(response, self.name)
        if not 200 <= response.status < 300:
            raise await refused(response, self._limits.idle_seconds)
        if content_type(response.headers) != b"text/event-stream":
            response.body.close()
            raise broken(self.name, "answered GET with what is no event stream")
        return response.body


def content_type(headers: Headers) -> bytes:
    """The media type, lower case, without parameters."""
    return (headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()


def plain(response: Response, name: str) -> None:
    """Take off what the body is compressed by, though nobody asked for that. Raises: UpstreamError.

    What it stands for is bounded by its ratio, and by whoever reads it.
    """
    response.body = plain_body(response, f"MCP target {name}")


async def refused(response: Response, seconds: float) -> Refused:
    """A refusal with its body, cut to nothing when it is too long or does not come."""
    raw = b""
    try:
        async with asyncio.timeout(seconds):
            raw, _ = await read_up_to(response.body, REFUSAL_BYTES)
    except (SidecarError, TimeoutError) as error:
        _log.debug("the body of a refusal was given up: %s", error)
    response.body.close()
    return Refused(response.status, response.headers, raw)


def _held(headers: Headers, pin: str) -> Held:
    """What the server holds the session by. An id that is none of MCP's counts as no id."""
    raw = headers.get(b"mcp-session-id") or b""
    if not _SESSION_ID.fullmatch(raw):
        return Held()
    return Held(raw.decode("ascii"), "", pin)


def greeting_held(held: Held, taken: list[Inbound]) -> Held:
    """With the version that the answer to `initialize` tells; as it is when that is an error."""
    result = taken[-1].message.get("result") if taken else None
    version = result.get("protocolVersion") if isinstance(result, dict) else None
    return replace(held, version=version) if isinstance(version, str) else held
