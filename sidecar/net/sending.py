"""Responses of HTTP/1.x on their way out: heads encoded, bodies framed, written with backpressure.

Source: RFC 9112 sections 2, 6 and 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, final

from sidecar.errors import RequestError, SidecarError, UpstreamError
from sidecar.http import h1
from sidecar.http.chunked import encode_chunk, encode_last_chunk
from sidecar.http.message import Body, Request, Response
from sidecar.http.spelling import RESPONSE

_TELLING_BYTES: Final = 32 * 1024
_CLOSE: Final = b"connection: close\r\n"


class Sink(Protocol):
    """The connection that is written to."""

    transport: asyncio.Transport
    can_write: asyncio.Future[None] | None
    """Set while the peer has no room."""

    def write(self, data: bytes) -> None:
        """Send."""

    async def flush(self) -> None:
        """Wait until the peer has room."""


def head_parts(
    request: Request,
    head: h1.RequestHead,
    response: Response,
    keep: bool,
    date: Callable[[], bytes],
) -> tuple[list[bytes], bool, bool]:
    """`(parts of the response head, keep the connection, chunked)`.

    `keep`: whether nothing else speaks against keeping it. `date`: gives the `date: …CRLF` line.
    """
    status = response.status
    length = response.body.length
    bodiless = request.method == "HEAD" or status in (204, 304)
    spelling = request.state.get(RESPONSE)
    parts = [h1.status_line(status), h1.encode_fields(response.headers, spelling)]
    chunked = False
    if length is not None and status != 204:
        parts.append(b"content-length: %d\r\n" % length)
    elif not bodiless and head.version == "HTTP/1.1":
        parts.append(b"transfer-encoding: chunked\r\n")
        chunked = True
    elif not bodiless:
        keep = False
    if not response.headers.has(b"date"):
        parts.append(date())
    if not keep:
        parts.append(_CLOSE)
    elif head.version == "HTTP/1.0":
        parts.append(b"connection: keep-alive\r\n")
    parts.append(b"\r\n")
    return parts, keep, chunked


def tunnel_head(response: Response) -> bytes:
    """The head of a response after which the connection is no longer HTTP."""
    parts = [h1.status_line(response.status), h1.encode_fields(response.headers)]
    if response.status == 101:
        parts.append(b"connection: upgrade\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def refusal(error: RequestError, date: bytes) -> bytes:
    """The whole response to what is no request; the connection ends after it."""
    text = error.message.encode()
    return b"".join(
        (
            h1.status_line(error.status),
            b"content-type: text/plain\r\ncontent-length: %d\r\n" % len(text),
            date,
            b"connection: close\r\n\r\n",
            text,
        )
    )


@final
class Sender:
    """Takes a response body, frames it and writes it; knows when it is complete.

    `length`: octets promised, None when the framing tells the end.
    """

    __slots__ = ("_body", "_chunked", "_length", "_must_wait", "_trailers", "error", "sent")

    def __init__(self, body: Body, length: int | None, chunked: bool, trailers: bool) -> None:
        self.sent = 0
        """Octets of the body handed to the sink."""
        self.error = ""
        """Why the body was cut; empty when it was not."""
        self._body = body
        self._must_wait = False
        self._length = length
        self._chunked = chunked
        self._trailers = trailers

    async def send(self, parts: list[bytes], sink: Sink) -> bool:
        """Write the head in `parts` and the body; whether the body went out whole.

        The head goes out with the first chunk when that is at hand. Closes the body, and the
        transport when the body was cut.
        """
        try:
            await self._pump(parts, sink)
            return self._is_complete
        except SidecarError as error:
            # The status is out: an unfinished body is the only honest signal left.
            self.error = str(error)
            if parts:
                sink.write(b"".join(parts))
            if self._is_self_delimiting:
                sink.transport.close()
            else:
                sink.transport.abort()
            return False
        except asyncio.CancelledError:
            self.error = self.error or "client disconnected"
            raise
        finally:
            self._body.close()

    async def _pump(self, parts: list[bytes], sink: Sink) -> None:
        while True:
            if parts and len(parts[-1]) > _TELLING_BYTES:
                await _write_large(parts, sink)  # before asking for more, which may be as large
            more = self._take(parts)
            if not more:
                break
            if parts and len(parts[-1]) > _TELLING_BYTES:
                await _write_large(parts, sink)
            elif parts:
                sink.write(b"".join(parts) if len(parts) > 1 else parts[0])
                parts.clear()
            if sink.can_write is not None:
                await sink.flush()
            if self._must_wait:
                await self._wait(parts)
        if parts:
            sink.write(b"".join(parts) if len(parts) > 1 else parts[0])
        if sink.can_write is not None:
            await sink.flush()

    @property
    def _is_self_delimiting(self) -> bool:
        """Whether a client can tell a cut body from a whole one by the framing alone."""
        return self._chunked or self._length is not None

    @property
    def _is_complete(self) -> bool:
        """Whether as much was sent as was promised."""
        return self._length is None or self.sent == self._length

    def _take(self, parts: list[bytes]) -> bool:
        """Append framed octets at hand to `parts`; False when that was the end of the body."""
        data = self._body.read_nowait()
        self._must_wait = data is None
        return data is None or self._append(data, parts)

    async def _wait(self, parts: list[bytes]) -> None:
        """Append the next octets, waiting for them. The end shows at the next `_take`."""
        data = await self._body.read()
        if data:
            self._append(data, parts)

    def _append(self, data: bytes, parts: list[bytes]) -> bool:
        if not data:
            if self._chunked:
                parts.append(encode_last_chunk(self._body.trailers if self._trailers else None))
            elif not self._is_complete:
                raise UpstreamError(502, "UpstreamFailure", "the response body is too short")
            return False
        self.sent += len(data)
        if self._length is not None and self.sent > self._length:
            self.sent -= len(data)
            raise UpstreamError(502, "UpstreamFailure", "the response body is too long")
        parts.append(encode_chunk(data) if self._chunked else data)
        # Fast path: the promised length is reached, so nobody needs to be asked for more.
        return self._length is None or self.sent < self._length


async def _write_large(parts: list[bytes], sink: Sink) -> None:
    """Write, and wait for what uvloop says of it: that it is full it says at a turn's end."""
    sink.write(b"".join(parts) if len(parts) > 1 else parts[0])
    parts.clear()
    await asyncio.sleep(0)
    if sink.can_write is not None:
        await sink.flush()
