"""An answer of events without end, which ends with its client.

Source: WHATWG HTML section 9.2 (server-sent events); PEP 525, `aclose`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

_HEADERS: Final = {"cache-control": "no-store"}


@final
class EventStream(StreamingResponse):
    """Sends what a generator makes, and closes it.

    A client may leave in the middle of an event that it does not read: the generator is not running
    then, hears of no cancellation, and would keep what it holds until the next search for cycles.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_HEADERS)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
