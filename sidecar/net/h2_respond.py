"""The sending half of H2Server: a response, its body or tunnel, and what comes before it.

Source: RFC 9113 sections 8.1, 8.5; RFC 8441; RFC 9110 sections 8.6, 15.2.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import final

from sidecar.errors import RequestError, SidecarError
from sidecar.http.h2_fields import MessageError, outgoing
from sidecar.http.headers import Field, Headers
from sidecar.http.message import Request, Response, Tunnel
from sidecar.net.h2_endpoint import Endpoint, limits_of
from sidecar.net.h2_stream import Stream, StreamGone
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper


@final
class ServerStream(Stream):
    """A request under way."""

    __slots__ = ("expects_continue", "has_head", "is_tunnel", "request")

    def __init__(self, stream_id: int, now: float) -> None:
        super().__init__(stream_id, now)
        self.request: Request | None = None
        self.has_head = False
        """A final response head was sent."""
        self.expects_continue = False
        self.is_tunnel = False


class Responder(Endpoint[ServerStream]):
    """Answers streams. `date()` gives the value of the Date field, None leaves it out."""

    def __init__(
        self, sweeper: Sweeper, settings: HttpSettings, date: Callable[[], bytes] | None
    ) -> None:
        super().__init__(
            asyncio.get_running_loop(), sweeper, settings, limits_of(settings), is_client=False
        )
        self._date = date

    @abstractmethod
    def drain(self) -> None:
        """Take no new requests, finish those under way, close."""

    def body_wanted(self, stream: Stream) -> None:
        """See StreamOwner: a client that waits to be asked is asked now."""
        assert isinstance(stream, ServerStream)
        if stream.expects_continue and not stream.has_head and not stream.is_over:
            self._codec.respond(stream.id, 100, [], end=False)
            self.flush_soon()
        stream.expects_continue = False

    async def _respond(self, stream: ServerStream, request: Request, response: Response) -> None:
        # `response.close` is for HTTP/1.1, where octets of a bad request may be taken for the next
        # one. Here they stay in their stream, and the connection may be other people's as well.
        failure = "the client went away"
        try:
            if response.tunnel is not None:
                await self._tunnel(stream, request, response, response.tunnel)
            else:
                await self._send_response(stream, request, response)
            failure = ""
        except SidecarError as error:
            failure = str(error)
            raise
        finally:
            response.body.close()
            if response.on_done is not None:
                response.on_done(stream.sent_bytes, failure)

    async def _send_response(
        self, stream: ServerStream, request: Request, response: Response
    ) -> None:
        body = response.body
        status = response.status
        if status < 200:
            raise RequestError(502, "UpstreamFailure", "a response cannot be informational")
        has_no_body = request.method == "HEAD" or status == 204 or status == 304
        length = None if has_no_body else body.length
        fields = self._fields(response.headers)
        _set_length(fields, length, has_no_body, status, body.length)
        data = b"" if has_no_body else body.read_nowait()
        ends = data == b"" and not length and (has_no_body or not body.trailers)
        self._start(stream, status, fields, end=ends)
        if not ends:
            await self._send_body(stream, body, data, length)

    def _fields(self, headers: Headers) -> list[Field]:
        fields = outgoing(headers)
        if self._date is not None and not headers.has(b"date"):
            fields.append((b"date", self._date()))
        return fields

    def _start(self, stream: ServerStream, status: int, fields: list[Field], *, end: bool) -> None:
        if stream.is_over or self._is_closing or not self._codec.is_open(stream.id):
            raise StreamGone
        stream.has_head = True
        self._codec.respond(stream.id, status, fields, end=end)
        self.flush_soon()

    def _informational(self, stream: ServerStream, status: int, headers: Headers) -> None:
        # 100 is ours to send, when somebody wants the body; HTTP/2 has no 101.
        if status <= 101 or status > 199 or stream.has_head or stream.is_over:
            return
        try:
            fields = outgoing(headers)
        except MessageError:
            # An informational response is advice: a malformed one is not worth the request.
            return
        self._codec.respond(stream.id, status, fields, end=False)
        self.flush_soon()

    async def _tunnel(
        self, stream: ServerStream, request: Request, response: Response, tunnel: Tunnel
    ) -> None:
        """Octets both ways behind a CONNECT (RFC 9113 section 8.5, RFC 8441)."""
        stream.is_tunnel = True
        # A plain CONNECT has no body: what comes behind it no policy is shown.
        body = request.body if request.upgrade else stream.body or request.body

        async def upward() -> None:
            while data := await body.read():
                await tunnel.write(data)
            tunnel.write_eof()

        try:
            status = 200 if response.status == 101 else response.status
            self._start(stream, status, self._fields(response.headers), end=False)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(upward())
                while data := await tunnel.read():
                    await self._send_data(stream, data, end=False)
                    stream.touched = self.now()
                    stream.blocked_since = 0.0
                await self._send_data(stream, b"", end=True)
                if stream.body is not None and stream.body.has_ended:
                    await task
                else:
                    task.cancel()
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error
        finally:
            tunnel.close()


def _set_length(
    fields: list[Field], length: int | None, has_no_body: bool, status: int, declared: int | None
) -> None:
    """Make Content-Length say what will be sent; where no body is sent, what would have been."""
    name = b"content-length"
    if has_no_body and status != 204:
        if declared and not any(field[0] == name for field in fields):
            fields.append((name, b"%d" % declared))
        return
    wanted = None if length is None else (name, b"%d" % length)
    for index, field in enumerate(fields):
        if field[0] == name:
            if field == wanted:
                return
            fields[:] = [kept for kept in fields if kept[0] != name]
            if wanted is not None:
                fields.insert(index, wanted)
            return
    if wanted is not None and not has_no_body:
        fields.append(wanted)
