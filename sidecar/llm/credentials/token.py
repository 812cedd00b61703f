"""A bearer token that is fetched and renewed."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from sidecar.llm.credentials.base import Cached, Fetched, Outgoing
from sidecar.telemetry.clock import Clock


@final
class BearerToken:
    """`Authorization: Bearer …`. `fetch` gives the token; it may block."""

    explicit_place = True
    """A cloud's token is no API key: it stays where it is."""
    is_last = False

    def __init__(self, label: str, fetch: Callable[[], Fetched[str]], clock: Clock) -> None:
        self._cached = Cached(label, fetch, clock)

    def apply_nowait(self, request: Outgoing) -> bool:
        """See Credential."""
        token = self._cached.get_nowait()
        if token is None:
            return False
        request.headers.set(b"authorization", b"Bearer " + token.encode())
        return True

    async def apply(self, request: Outgoing) -> None:
        """See Credential."""
        token = await self._cached.get()
        request.headers.set(b"authorization", b"Bearer " + token.encode())

    def close(self) -> None:
        """See Credential."""
        self._cached.close()
