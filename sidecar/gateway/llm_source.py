"""A client's body for several providers, one after the other.

Source: spec/llm.md section 3.3 (a request moves on until there is an answer).
"""

from __future__ import annotations

from typing import Final, final

from sidecar.http.message import Body, FixedBody, Request, read_up_to
from sidecar.http.wrapped import WrappedBody

_HELD_BYTES: Final = 64 * 1024
"""A larger body streams, and cannot be sent to a second provider once it has begun to."""


async def hold(request: Request) -> None:
    """Have a small body at hand, so that it can be sent again. Raises: as Body.read."""
    body = request.body
    length = body.length
    if type(body) is not FixedBody and length is not None and length <= _HELD_BYTES:
        whole, rest = await read_up_to(body, _HELD_BYTES)
        request.body = FixedBody(whole, body.trailers) if rest is None else rest


@final
class Source:
    """A body that is asked for anew for each provider.

    One that is wholly at hand can be sent again, one that streams as long as nobody has read it.
    """

    __slots__ = ("_body", "_fixed")

    def __init__(self, body: Body) -> None:
        self._fixed = body if type(body) is FixedBody else None
        self._body = _OnceBody(body)

    @property
    def is_whole(self) -> bool:
        """Whether all of it can be sent (again)."""
        return self._fixed is not None or not self._body.is_used

    def again(self) -> Body:
        """From its beginning. Call it while `is_whole`."""
        return self._body if self._fixed is None else self._fixed.copy()


@final
class _OnceBody(WrappedBody):
    """A body that knows whether somebody has begun to read it, or given it up. See Body."""

    __slots__ = ("is_used",)

    def __init__(self, source: Body) -> None:
        self._source = source
        self.length = source.length
        self.is_used = False

    def read_nowait(self) -> bytes | None:
        """See Body."""
        self.is_used = True
        return self._source.read_nowait()

    async def read(self) -> bytes:
        """See Body."""
        self.is_used = True
        return await self._source.read()

    def close(self) -> None:
        """See Body."""
        self.is_used = True
        self._source.close()
