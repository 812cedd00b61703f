"""A bearer token that is fetched and renewed."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from sidecar.llm.credentials.base import Cached, Fetched, Outgoing, Sharing
from sidecar.telemetry.clock import Clock


@final
class BearerToken:
    """`Authorization: Bearer …`. `fetch` gives the token; it may block."""

    explicit_place = True
    """A cloud's token is no API key: it stays where it is."""
    is_last = False

    def __init__(
        self,
        label: str,
        fetch: Callable[[], Fetched[str]],
        clock: Clock,
        share: Sharing[str] | None = None,
        beside: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """`beside`: fields that go with the token."""
        self._beside = beside
        self._cached = Cached(label, fetch, clock, share)

    def apply_nowait(self, request: Outgoing) -> bool:
        """See Credential."""
        token = self._cached.get_nowait()
        if token is None:
            return False
        self._put(request, token)
        return True

    async def apply(self, request: Outgoing) -> None:
        """See Credential."""
        self._put(request, await self._cached.get())

    def _put(self, request: Outgoing, token: str) -> None:
        request.headers.set(b"authorization", b"Bearer " + token.encode())
        for name, value in self._beside:
            request.headers.set(name, value)

    def close(self) -> None:
        """See Credential."""
        self._cached.close()
