"""A request body on its way in: its framing undone, its octets handed to who reads the request.

Source: RFC 9112 sections 6 and 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from sidecar.http import h1
from sidecar.http.chunked import ChunkedDecoder, FramingError
from sidecar.net.host import Host
from sidecar.net.incoming import IncomingBody


@final
class Intake:
    """Feeds one body that was not wholly at hand with its head.

    `length`: octets, or h1.CHUNKED. `on_flow(paused)`: pause or resume the connection.
    """

    __slots__ = ("_chunked", "_remaining", "body", "progress_bytes", "rest")

    def __init__(
        self,
        length: int,
        host: Host,
        on_flow: Callable[[bool], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.body = IncomingBody(
            None if length == h1.CHUNKED else length,
            host.settings.stream_buffer_bytes,
            on_flow,
            _nothing,
            loop,
        )
        self.progress_bytes = 0
        """What came since the owner last set this to 0."""
        self.rest = b""
        """Once the body is complete: what came after it."""
        self._remaining = length
        self._chunked = None
        if length == h1.CHUNKED:
            self._chunked = ChunkedDecoder(host.limits, drops_underscores=True)

    def feed(self, data: bytes) -> bool:
        """Take octets (not empty); whether the body is complete.

        Broken framing fails the body: where it would have ended is unknown.
        """
        body = self.body
        decoder = self._chunked
        if decoder is None:
            take = data if len(data) <= self._remaining else data[: self._remaining]
            self._remaining -= len(take)
            body.feed(take)
            if not self._remaining:
                self.rest = data[len(take) :]
                body.feed_end(None)
                return True
        else:
            try:
                take = decoder.feed(data)
            except FramingError as error:
                body.fail(h1.bad_request(str(error)))
                return False
            if take:
                body.feed(take)
            if decoder.done:
                self.rest = decoder.rest
                body.feed_end(decoder.trailers)
                return True
        self.progress_bytes += len(data)
        return False


def _nothing() -> None:
    """The client's own connection needs no telling that its body is not read further."""
