"""A body that is watched as it passes.

Source: spec/mcp_a2a.md section 3.2 (events are never held up).
"""

from __future__ import annotations

from typing import final

from sidecar.a2a.outcome import Watch
from sidecar.http.message import Body
from sidecar.http.wrapped import WrappedBody


@final
class WatchedBody(WrappedBody):
    """The source's octets, piece by piece as they come. See Body."""

    __slots__ = ("_watch",)

    def __init__(self, source: Body, watch: Watch) -> None:
        self._source = source
        self._watch = watch
        self.length = source.length

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
