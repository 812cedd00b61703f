"""Answers that nobody converts, bounded in time, and ended in words where they are events.

Source: spec/llm.md sections 0 (`streamIdleTimeout`) and 2.14: each accepted stream ends with data
or an error event.
"""

from __future__ import annotations

import asyncio
from typing import Final, final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http.message import Body, FixedBody, Response
from sidecar.http.wrapped import WrappedBody
from sidecar.llm.chat.formats import FORMATS

_SSE: Final = b"text/event-stream"
_CODING: Final = b"content-encoding"


def bounded(response: Response, idle_seconds: float) -> None:
    """An answer whose provider may be silent for that long."""
    if response.tunnel is None and type(response.body) is not FixedBody:
        response.body = _IdleBody(response.body, idle_seconds)


def told(response: Response) -> None:
    """If it is a stream of events that can be read, a failure becomes the last of them."""
    kind = response.headers.get(b"content-type") or b""
    is_readable = kind.lower().startswith(_SSE) and not response.headers.has(_CODING)
    # One of known length is short of something in any case.
    if response.tunnel is None and is_readable and response.body.length is None:
        response.body = _ToldBody(response.body, response)


@final
class _IdleBody(WrappedBody):
    """See Body. Raises: UpstreamError 504 after too long a silence."""

    __slots__ = ("_idle",)

    def __init__(self, source: Body, idle_seconds: float) -> None:
        self._source = source
        self.length = source.length
        self._idle = idle_seconds

    def read_nowait(self) -> bytes | None:
        """See Body."""
        return self._source.read_nowait()

    async def read(self) -> bytes:
        """See Body."""
        # A timer a wait: nobody says when the last of a body of known length was read.
        try:
            async with asyncio.timeout(self._idle):
                return await self._source.read()
        except TimeoutError as error:
            self._source.close()
            text = f"the provider sent nothing for {self._idle:g} s"
            raise UpstreamError(504, "Timeout", text) from error

    def close(self) -> None:
        """See Body."""
        self._source.close()


@final
class _ToldBody(WrappedBody):
    """See Body. A failure is an event of OpenAI's shape, not an exception."""

    __slots__ = ("_is_over", "_response")

    def __init__(self, source: Body, response: Response) -> None:
        self._source = source
        self.length = None
        self._response = response
        self._is_over = False

    def read_nowait(self) -> bytes | None:
        """See Body."""
        if self._is_over:
            return b""
        try:
            return self._source.read_nowait()
        except SidecarError as error:
            return self._failed(error)

    async def read(self) -> bytes:
        """See Body."""
        if self._is_over:
            return b""
        try:
            return await self._source.read()
        except SidecarError as error:
            return self._failed(error)

    def _failed(self, error: SidecarError) -> bytes:
        self._is_over = True
        self._source.close()
        self._response.error = str(error)
        status = error.status if isinstance(error, UpstreamError) else 502
        # An event that was cut must not swallow the one that says so.
        return b"\n\n" + FORMATS["detect"].error_frame(status, str(error))

    def close(self) -> None:
        """See Body."""
        self._is_over = True
        self._source.close()
