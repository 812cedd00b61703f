"""A body that is watched as it passes.

Source: spec/mcp_a2a.md section 3.2 (events are never held up).
"""

from __future__ import annotations

from typing import final

from sidecar.a2a.outcome import Watch
from sidecar.http.headers import Headers
from sidecar.http.message import Body


@final
class WatchedBody:
    """The source's octets, piece by piece as they come. See Body."""

    __slots__ = ("_source", "_watch", "length")

    def __init__(self, source: Body, watch: Watch) -> None:
        self._source = source
        self._watch = watch
        self.length = source.length

    @property
    def trailers(self) -> Headers | None:
        """Those of the source."""
        return self._source.trailers

    @trailers.setter
    def trailers(self, value: Headers | None) -> None:
        self._source.trailers = value

    def read_nowait(self) -> bytes | None:
        """See Body."""
        data = self._source.read_nowait()
        if data:
            self._watch.feed(data)
        return data

    async def read(self) -> bytes:
        """See Body."""
        data = await self._source.read()
        if data:
            self._watch.feed(data)
        return data

    def close(self) -> None:
        """See Body."""
        self._source.close()
