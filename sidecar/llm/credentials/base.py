"""The shape of a credential, and the cache that keeps fetching it off the request path.

Source: spec config section 3.12; spec llm section 1.5.

A value is `fresh`, then `stale` (still used while a new one is fetched in the background), then
gone (callers wait, at most `FETCH_SECONDS`). One fetch runs at a time; after a failure the next
starts no sooner than a second later. Fetching may block: it runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, Protocol, TypeVar, final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Request
from sidecar.telemetry.clock import Clock

FETCH_SECONDS: Final = 5.0
_BACKOFF_NS: Final = 1_000_000_000
_NS: Final = 1_000_000_000
_log = logging.getLogger("sidecar.llm.credentials")

T = TypeVar("T")


class CredentialError(SidecarError):
    """A credential could not be had. The message holds no secret."""


@final
@dataclass(slots=True)
class Outgoing:
    """A request about to be sent, complete but for its credential, which edits it in place."""

    method: str
    scheme: str
    authority: str
    """Value of the Host field."""
    target: str
    """Path and query."""
    headers: Headers = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    client: Request | None = field(default=None, repr=False)
    """The client's request, for credentials that are made of the client's own; None where no
    client asks."""


class Credential(Protocol):
    """One configured credential of one worker."""

    explicit_place: bool
    """The configuration says where it goes, so that no provider moves it (`KeyPlace`)."""
    is_last: bool
    """It covers the head and the body, which nobody may change afterwards."""

    def apply_nowait(self, request: Outgoing) -> bool:
        """Put it into the request; False when it must be fetched first."""

    async def apply(self, request: Outgoing) -> None:
        """The same, waiting for it. Raises: UpstreamError 500."""

    def close(self) -> None:
        """Stop fetching."""


class Fetched(NamedTuple, Generic[T]):
    """What a fetch gives: the value, and for how long."""

    value: T
    fresh_seconds: float
    """Until then it is used without more ado."""
    valid_seconds: float
    """Until then it is used while a new one is fetched."""

    def __repr__(self) -> str:
        # asyncio shows a task's result in its debugging messages.
        return "<fetched>"

    @classmethod
    def lasting(cls, value: T, seconds: float) -> Fetched[T]:
        """A value with a life: refreshed well before its end, not used in its last seconds."""
        margin = min(300.0, seconds / 4)
        return cls(value, max(0.0, seconds - margin), max(0.0, seconds - min(10.0, margin)))


Sharing = Callable[[Callable[[], Fetched[T]]], Awaitable[Fetched[T]]]


@final
class Cached(Generic[T]):
    """A value that is fetched, kept and renewed. Belongs to one event loop."""

    __slots__ = (
        "_clock",
        "_fetch",
        "_fresh_until",
        "_label",
        "_retry_at",
        "_share",
        "_task",
        "_valid_until",
        "_value",
    )

    def __init__(
        self,
        label: str,
        fetch: Callable[[], Fetched[T]],
        clock: Clock,
        share: Sharing[T] | None = None,
    ) -> None:
        """`fetch` may block and raise; its own deadlines must end it. `label` names it in logs.

        `share`: asks other workers first (shared.Share). None: this worker is alone.
        """
        self._label = label
        self._fetch = fetch
        self._share = share
        self._clock = clock
        self._value: T | None = None
        self._fresh_until = 0
        self._valid_until = 0
        self._retry_at = 0
        self._task: asyncio.Task[Fetched[T]] | None = None

    def get_nowait(self) -> T | None:
        """The value, if there is one to use now."""
        now = self._clock.monotonic_ns()
        # Fast path: fresh.
        if now < self._fresh_until:
            return self._value
        if now >= self._valid_until:
            return None
        if now >= self._retry_at:
            self._start()
        return self._value

    async def get(self) -> T:
        """The value, fetched when need be. Raises: UpstreamError 500."""
        value = self.get_nowait()
        if value is not None:
            return value
        if self._task is None and self._clock.monotonic_ns() < self._retry_at:
            raise failed()
        task = self._start()
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                # Others wait for the same fetch: one caller's end must not be its end.
                return (await asyncio.shield(task)).value
        except Exception as exc:
            raise failed() from exc

    def _start(self) -> asyncio.Task[Fetched[T]]:
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._fetched())
            self._task.add_done_callback(self._ended)
        return self._task

    async def _fetched(self) -> Fetched[T]:
        if self._share is not None:
            return await self._share(self._fetch)
        return await asyncio.to_thread(self._fetch)

    def _ended(self, task: asyncio.Task[Fetched[T]]) -> None:
        self._task = None
        if task.cancelled():
            return
        now = self._clock.monotonic_ns()
        problem = task.exception()
        if problem is not None:
            self._retry_at = now + _BACKOFF_NS
            shown = str(problem) if isinstance(problem, CredentialError) else ""
            _log.warning("no credential for %s: %s", self._label, shown or type(problem).__name__)
            return
        found = task.result()
        self._value = found.value
        self._fresh_until = now + int(found.fresh_seconds * _NS)
        self._valid_until = now + int(found.valid_seconds * _NS)

    def close(self) -> None:
        """Stop waiting for a fetch under way; its thread ends by its own deadline."""
        if self._task is not None:
            self._task.cancel()


def failed() -> UpstreamError:
    """What the client learns: no more than that."""
    return UpstreamError(
        500, "UpstreamFailure", "backend authentication failed", retryable=True, sent=False
    )
