"""One connection between two workers: its frames, and an exchange seen from either end.

Source: `peers`, which says what is exchanged.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast, final

import orjson

from sidecar.errors import UpstreamError
from sidecar.mcp import peer_frames
from sidecar.mcp.upstream.base import Held, Inbound, Messages, Refused, Target
from sidecar.mcp.upstream.inbox import Inbox

_log = logging.getLogger("sidecar.mcp.peers")
MAX_FRAME_BYTES: Final = 8 * 1024 * 1024
REPLY_SECONDS: Final = 180.0
"""Longer than what the owner itself waits for (a start, a greeting, a response's head)."""
IDLE_SECONDS: Final = 600.0
"""Between two messages of a request: longer than the owner's own bound."""
SLOW_SECONDS: Final = 30.0
"""How long the owner waits for a worker that does not read."""
_FLUSH_BYTES: Final = 64 * 1024
_LENGTH: Final = struct.Struct(">I")


class OwnerGone(UpstreamError):
    """The worker that holds the session is dead, or died in the exchange (`sent` tells)."""

    def __init__(self, owner: int, *, sent: bool) -> None:
        text = f"worker {owner}, which holds the session, has ended"
        super().__init__(503, "UpstreamFailure", text, retryable=not sent, sent=sent)


class PeerConnection(asyncio.Protocol):
    """Frames over a socket, both ways. `on_frame` and `on_lost` are whoever uses it now."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.is_lost = False
        self.room = asyncio.Event()
        self.room.set()
        self.on_frame: Callable[[dict[str, Any], int], None] = lambda frame, size: None
        self.on_lost: Callable[[], object] = lambda: None
        self.on_gone: Callable[[], None] = lambda: None
        """Whose set it is in, whoever uses it."""
        self._buffer = bytearray()
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        # A cast, for uvloop's transports are asyncio's by behaviour and not by class.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, start)
            end = start + _LENGTH.size + size
            if len(buffer) < end and size <= MAX_FRAME_BYTES:
                break
            frame = _decoded(bytes(buffer[start + _LENGTH.size : end]), size)
            if frame is None:
                _log.warning("a worker sent what is no frame")
                buffer.clear()
                self.transport.abort()
                return
            start = end
            self.on_frame(frame, size)
        del buffer[:start]

    def send(self, frame: dict[str, Any]) -> None:
        """Send a frame with all others of this turn of the loop. Raises: UpstreamError."""
        raw = orjson.dumps(frame)
        if len(raw) > MAX_FRAME_BYTES:
            text = f"a message of more than {MAX_FRAME_BYTES} bytes"
            raise UpstreamError(502, "UpstreamFailure", text, sent=False)
        if not self._outgoing:
            self.loop.call_soon(self._flush)
        self._outgoing.append(_LENGTH.pack(len(raw)))
        self._outgoing.append(raw)
        self._outgoing_bytes += len(raw)
        if self._outgoing_bytes > _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Hand over what was gathered; the transport may then ask us to pause."""
        self._outgoing_bytes = 0
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.room.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.is_lost = True
        self.room.set()
        self.on_lost()
        self.on_gone()

    def hold(self, is_held: bool) -> None:
        """Stop reading, or go on."""
        if not self.is_lost and not self.transport.is_closing():
            if is_held:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()


def _decoded(raw: bytes, size_bytes: int) -> dict[str, Any] | None:
    """The frame; None when it is too long, or none."""
    if size_bytes > MAX_FRAME_BYTES:
        return None
    try:
        frame = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return frame if isinstance(frame, dict) else None


@final
class Serving:
    """The owner's side of one connection."""

    def __init__(
        self, connection: PeerConnection, target_of: Callable[[str], Target | None]
    ) -> None:
        self._connection = connection
        self._target_of = target_of
        self._frames: deque[dict[str, Any]] = deque()
        self._came = asyncio.Event()
        connection.on_frame = self._take

    def _take(self, frame: dict[str, Any], size_bytes: int) -> None:
        self._frames.append(frame)
        self._came.set()
        if len(self._frames) > 1:
            # One exchange at a time: whoever asks twice is none of ours.
            self._connection.transport.abort()

    async def run(self) -> None:
        """Exchange after exchange; cancelled when the connection is lost."""
        try:
            while not self._connection.is_lost:
                await self._came.wait()
                frame = self._frames.popleft()
                self._came.clear()
                try:
                    await self._exchange(frame)
                except Refused as refused:
                    self._connection.send(peer_frames.refused(refused))
                except UpstreamError as error:
                    self._connection.send(peer_frames.failed(error))
        except TimeoutError:
            _log.warning("a worker does not read what it asked for")
        except Exception:
            # Our own bug: it ends this connection, and is not lost with it.
            _log.exception("an exchange with another worker failed")
        finally:
            self._connection.transport.close()

    async def _exchange(self, frame: dict[str, Any]) -> None:
        op = frame["op"]
        target = self._target_of(frame["key"])
        if target is None:
            text = "the worker that holds the session does not know the MCP target"
            raise UpstreamError(503, "UpstreamFailure", text, retryable=True, sent=False)
        outbound = peer_frames.outbound_of(frame)
        if op == "request":
            answered = await target.request(outbound)
            await self._stream(answered.messages, answered.held, listens=False)
        elif op == "listen":
            messages = await target.listen(outbound, frame["last"].encode("latin-1"))
            if messages is None:
                self._connection.send({"none": True})
            else:
                await self._stream(messages, outbound.held, listens=True)
        else:
            await (target.send(outbound) if op == "send" else target.end(outbound))
            self._connection.send({"done": True})

    async def _stream(self, messages: Messages, held: Held, *, listens: bool) -> None:
        connection = self._connection
        try:
            connection.send(peer_frames.begun(messages, held, listens=listens))
            while (inbound := await _next(messages)) is not None:
                connection.send(peer_frames.message(inbound, messages.retry_ms))
                if not connection.room.is_set():
                    async with asyncio.timeout(SLOW_SECONDS):
                        await connection.room.wait()
            connection.send({"end": True})
        finally:
            messages.close()


async def _next(messages: Messages) -> Inbound | None:
    """A refusal in the middle of an answer is a failure like others: its head is gone already.

    Raises: UpstreamError.
    """
    try:
        return await messages.next()
    except Refused as refused:
        text = f"an MCP target answered {refused.status} in the middle of a call"
        raise UpstreamError(502, "UpstreamFailure", text) from refused


@final
class Asking:
    """The asking side of one exchange."""

    def __init__(self, connection: PeerConnection, owner: int, release: Callable[[], None]) -> None:
        self._connection = connection
        self._owner = owner
        self._release = release
        self._reply: asyncio.Future[dict[str, Any]] = connection.loop.create_future()
        self._inbox: Inbox | None = None
        connection.on_frame = self._take
        connection.on_lost = self._lost

    async def ask(self, frame: dict[str, Any]) -> dict[str, Any]:
        """The first frame of the answer. Raises: UpstreamError, Refused."""
        connection = self._connection
        try:
            connection.send(frame)
            async with asyncio.timeout(REPLY_SECONDS):
                reply = await self._reply
        except TimeoutError as error:
            connection.transport.abort()
            text = f"worker {self._owner} did not answer in {REPLY_SECONDS:g} s"
            raise UpstreamError(504, "Timeout", text) from error
        except BaseException:
            connection.transport.abort()
            raise
        peer_frames.check(reply)
        return reply

    def _take(self, frame: dict[str, Any], size_bytes: int) -> None:
        inbox = self._inbox
        if inbox is None:
            if "held" in frame:
                # Made here, not where the reply is awaited: messages may stand in the same read.
                self._inbox = self._box(frame)
            else:
                self._done()
            if not self._reply.done():
                self._reply.set_result(frame)
        elif "m" in frame:
            inbox.retry_ms = frame["r"]
            inbox.put(frame["m"], size_bytes, frame["e"].encode("latin-1"))
            if inbox.is_full:
                self._connection.hold(True)
        else:
            self._done()
            inbox.finish(peer_frames.error_of(frame))

    def _box(self, frame: dict[str, Any]) -> Inbox:
        idle = None if frame["listens"] else IDLE_SECONDS
        inbox = Inbox(f"behind worker {self._owner}", idle)
        inbox.is_json, inbox.retry_ms = frame["json"], frame["r"]
        inbox.on_close = self._closed
        inbox.on_room = lambda: self._connection.hold(False)
        return inbox

    def messages(self) -> Messages:
        """What follows a reply with `held`."""
        assert self._inbox is not None
        return self._inbox

    def _done(self) -> None:
        """The exchange is over and the connection free."""
        self._connection.on_frame = _unasked
        self._connection.hold(False)
        self._release()

    def _closed(self) -> None:
        assert self._inbox is not None
        if not self._inbox.is_ended:
            self._connection.transport.abort()

    def _lost(self) -> None:
        gone = OwnerGone(self._owner, sent=True)
        if not self._reply.done():
            self._reply.set_exception(gone)
            # Looked at, for whoever asked may have been cancelled in the same turn.
            self._reply.exception()
        if self._inbox is not None:
            self._inbox.finish(gone)


def _unasked(frame: dict[str, Any], size_bytes: int) -> None:
    _log.warning("a worker said something that it was not asked for")
