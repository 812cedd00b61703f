"""Streamed answers of models on their way to the client: untouched, or converted event by event.

Source: spec/llm.md sections 2.14 and 2.16.

Both are bodies that pull from the provider's. A stream that fails, or is silent for too long,
ends with an error event in the client's format: its status was sent long ago. When the client
leaves, `close` ends the provider's stream at once.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.gateway.llm_idle import IdleWatch
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Response
from sidecar.llm.chat.base import Json, UsageReader, WireFormat
from sidecar.llm.chat.ending import is_end
from sidecar.llm.chat.framing import EventDecoder
from sidecar.llm.chat.passthrough import StreamTap
from sidecar.llm.chat.produced import Produced
from sidecar.llm.convert.base import StreamConversion, StreamEvent

IDLE_SECONDS: Final = 300.0
_DONE: Final = b"data: [DONE]"
_EARLY: Final = "the provider's stream ended early"
_TAIL_BYTES: Final = 1024
_RECENT: Final = 4
"""Events among which is the one that ends an answer: usage, metadata and [DONE] may follow it."""
_ENDS: Final = {
    "completions": re.compile(rb'data: ?\[DONE\]|"finish_reason"\s*:\s*"'),
    "messages": re.compile(rb'"message_stop"'),
    "responses": re.compile(rb'"response\.(?:completed|incomplete|failed|cancelled)"'),
}
"""What the last octets of a whole stream have. Google's streams end with whatever comes last."""
_BLANK: Final = re.compile(rb"\n\r?\n")
_FAILED: Final = re.compile(rb'"error"\s*:\s*[{"]|"type"\s*:\s*"error"')


class Watcher(Protocol):
    """Who wants to know when the first text has come."""

    def first_text(self) -> None:
        """It has."""


class _Pulled:
    """What the two kinds share: pulling in bounds of time, and ending with an error."""

    def __init__(
        self,
        source: Body,
        first: bytes,
        idle_seconds: float,
        client: WireFormat,
        watcher: Watcher,
        produced: Produced,
    ) -> None:
        """`first`: what was read of the source already."""
        self.length: int | None = None
        self.trailers: Headers | None = None
        self.response: Response | None = None
        """Whose body this is: a failure is noted there for the log."""
        self._source = source
        self._first = first
        self._idle = idle_seconds
        self._watch = IdleWatch(idle_seconds)
        self._client = client
        self._watcher = watcher
        self.produced = produced
        """What has come, and whether it was all."""
        self._ended = False

    def _through(self, data: bytes) -> bytes:
        """What becomes of a chunk; b"" for nothing yet. Raises: SidecarError."""
        raise NotImplementedError

    def _last(self) -> bytes:
        """What is due at the end. Raises: SidecarError."""
        raise NotImplementedError

    def _is_whole(self) -> bool:
        """Whether what came up to the end is all of the answer, so that its usage is final."""
        raise NotImplementedError

    def _before_error(self) -> bytes:
        """What must stand between the stream so far and an error event."""
        return b""

    def read_nowait(self) -> bytes | None:
        """See Body."""
        while not self._ended:
            try:
                data = self._take_first() if self._first else self._source.read_nowait()
            except SidecarError as error:
                return self._failed(error)
            if data is None:
                return None
            made = self._made(data)
            if made:
                return made
        return b""

    async def read(self) -> bytes:
        """See Body. A provider's failure is an event, not an exception."""
        while not self._ended:
            data = self._take_first() if self._first else b""
            try:
                if not data:
                    with self._watch:
                        data = await self._source.read()
            except TimeoutError:
                text = f"the provider sent nothing for {self._idle:g} s"
                return self._failed(UpstreamError(504, "Timeout", text))
            except SidecarError as error:
                return self._failed(error)
            made = self._made(data)
            if made:
                return made
        return b""

    def _take_first(self) -> bytes:
        first, self._first = self._first, b""
        return first

    def _made(self, data: bytes) -> bytes:
        try:
            if data:
                return self._through(data)
            self._ended = True
            last = self._last()
            self.produced.is_whole = self._is_whole()
            return last
        except SidecarError as error:
            return self._failed(error)

    def _failed(self, error: SidecarError) -> bytes:
        """The stream's last octets."""
        self._ended = True
        self._source.close()
        status = error.status if isinstance(error, UpstreamError) else 502
        if self.response is not None:
            self.response.error = str(error)
        return self._before_error() + self._client.error_frame(status, str(error))

    def close(self) -> None:
        """See Body."""
        if not self._ended:
            self._ended = self.produced.is_left = True
        self._first = b""
        self._watch.close()
        self._source.close()


@final
class PassedStream(_Pulled):
    """A stream in the client's own format: its octets as they come."""

    def __init__(
        self,
        source: Body,
        first: bytes,
        idle_seconds: float,
        client: WireFormat,
        watcher: Watcher,
        tap: StreamTap,
    ) -> None:
        super().__init__(source, first, idle_seconds, client, watcher, tap.produced)
        self._tap = tap
        self._tail = bytearray()

    def _through(self, data: bytes) -> bytes:
        if self._tap.feed(data):
            self._watcher.first_text()
        tail = self._tail
        if len(data) >= _TAIL_BYTES:
            tail[:] = data[-_TAIL_BYTES:]
        else:
            # Grown in place and cut now and then: a copy of it for each chunk would cost more than
            # all else that is done with one.
            tail += data
            if len(tail) > 2 * _TAIL_BYTES:
                del tail[:-_TAIL_BYTES]
        return data

    def _last(self) -> bytes:
        self._tap.finish()
        tail = self._tail
        # Some leave out the empty line behind the last event, but half a line is a cut.
        is_cut = not tail.endswith((b"\n", b"\r", _DONE))
        # Of an event that is longer than what was kept nobody can tell.
        is_short = len(tail) < _TAIL_BYTES or _BLANK.search(tail.rstrip()) is not None
        has_end = is_short and self._client.name in _ENDS and not _FAILED.search(tail)
        if is_cut or (has_end and not self._is_whole()):
            raise UpstreamError(502, "UpstreamFailure", _EARLY)
        return b""

    def _is_whole(self) -> bool:
        end = _ENDS.get(self._client.name)
        return self._tap.is_ended or (end is not None and end.search(self._tail) is not None)

    def _before_error(self) -> bytes:
        # An event that was cut must not swallow the one that says so.
        return b"" if self._tail.endswith(b"\n\n") else b"\n\n"


@final
class ConvertedStream(_Pulled):
    """A stream in another format, decoded and put together anew."""

    def __init__(
        self,
        source: Body,
        first: bytes,
        idle_seconds: float,
        client: WireFormat,
        watcher: Watcher,
        decoder: EventDecoder,
        reader: UsageReader,
        conversion: StreamConversion,
        produced: Produced,
    ) -> None:
        super().__init__(source, first, idle_seconds, client, watcher, produced)
        self._decoder = decoder
        self._reader = reader
        self._conversion = conversion
        self._has_text = False
        self._recent: deque[Json | None] = deque(maxlen=_RECENT)

    def _through(self, data: bytes) -> bytes:
        return self._converted(self._decoder.feed(data))

    def _converted(self, events: list[StreamEvent]) -> bytes:
        frames: list[bytes] = []
        for event in events:
            if self._reader.feed(event.name, event.data):
                self.produced.add(event.data)
                if not self._has_text:
                    self._has_text = True
                    self._watcher.first_text()
            frames += self._conversion.feed(event)
        # Looked at when the stream ends, not at each of its events.
        self._recent.extend([event.data for event in events[-_RECENT:]])
        return b"".join(frames)

    def _is_whole(self) -> bool:
        return any(map(is_end, self._recent))

    def _last(self) -> bytes:
        return self._converted(self._decoder.finish()) + b"".join(self._conversion.finish())


Usable = PassedStream | ConvertedStream
"""What a streamed answer's body is."""


async def first_chunk(
    source: Body,
    is_whole: Callable[[bytes], bool],
    limit_bytes: int,
    idle_seconds: float = IDLE_SECONDS,
) -> bytes:
    """The beginning of a stream, up to its first event at least, or its end.

    Raises: UpstreamError, also for an event past the limit, or silence.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        data = source.read_nowait()
        if data is None:
            try:
                async with asyncio.timeout(idle_seconds):
                    data = await source.read()
            except TimeoutError as error:
                text = f"the provider sent nothing for {idle_seconds:g} s"
                raise UpstreamError(504, "Timeout", text, retryable=True) from error
        parts.append(data)
        size += len(data)
        joined = parts[0] if len(parts) == 1 else b"".join(parts)
        if not data or is_whole(joined):
            if not joined:
                raise UpstreamError(502, "UpstreamFailure", _EARLY, retryable=True)
            return joined
        if size > limit_bytes:
            raise UpstreamError(502, "UpstreamFailure", "a stream event is too large")
        parts = [joined]
