"""Tokens that all workers of a gateway use: one fetches, the others find it in shared memory.

Source: design section 5; spec config section 3.12. The table is `shm.tokens`.

Within a worker one flight at a time serves all that ask for a key; among workers the table's lease
says who flies. Who waits for another worker looks now and then: it is a matter of milliseconds to
seconds, once in a token's life. Where there is no table, or no room in it, each worker fetches its
own: `SharedTokens(None, …)` still has one flight at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import blake2b
from typing import Final, Generic, TypeVar, final

from shm.errors import ShmError
from shm.segment import Identity
from shm.tokens import MAX_VALUE_BYTES, Token, TokenTable
from sidecar.llm.credentials.base import Fetched, failed
from sidecar.telemetry.clock import Clock

_NS: Final = 1_000_000_000
_LEASE_SECONDS: Final = 12.0
_FIRST_LOOK_SECONDS: Final = 0.01
_LAST_LOOK_SECONDS: Final = 0.2
_AGAIN_SECONDS: Final = 1.0
"""A token that another worker is renewing is used that much longer before it is looked for anew."""
_log = logging.getLogger("sidecar.llm.credentials")

T = TypeVar("T")
Fetch = Callable[[], Awaitable[Fetched[bytes]]]


@final
class SharedTokens:
    """One worker's use of the table. Belongs to one event loop."""

    __slots__ = ("_clock", "_flights", "_me", "_table")

    def __init__(self, table: TokenTable | None, clock: Clock) -> None:
        """After the fork: the worker's identity is that of a lease's holder."""
        self._table = table
        self._clock = clock
        self._me = Identity.of_self()
        self._flights: dict[bytes, asyncio.Task[Fetched[bytes]]] = {}

    def key(self, *parts: bytes) -> bytes:
        """The key of all that a token depends on; secrets may be among it."""
        if self._table is not None:
            return self._table.key(*parts)
        digest = blake2b(digest_size=16)
        for part in parts:
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(part)
        return digest.digest()

    def get_nowait(self, key: bytes) -> Fetched[bytes] | None:
        """What is there and valid. Takes a lock, for some microseconds."""
        if self._table is None:
            return None
        now_ns = self._clock.monotonic_ns()
        try:
            found = self._table.get(key, now_ns)
        except ShmError as error:
            _log.warning("tokens cannot be shared: %s", error)
            return None
        if found is None:
            return None
        fresh, valid = found.fresh_ns - now_ns, found.valid_ns - now_ns
        return Fetched(found.value, max(fresh, 0) / _NS, valid / _NS)

    async def obtain(
        self, key: bytes, fetch: Fetch, lease_seconds: float = _LEASE_SECONDS
    ) -> Fetched[bytes]:
        """What is there and fresh, or what `fetch` gives; one that is being renewed by another
        worker, as it is. `fetch` ends by its own deadlines, within `lease_seconds`.

        Cancelling ends the wait, not the flight. Raises: UpstreamError 500, and what `fetch` does.
        """
        return await asyncio.shield(self.begin(key, fetch, lease_seconds))

    def begin(
        self, key: bytes, fetch: Fetch, lease_seconds: float = _LEASE_SECONDS
    ) -> asyncio.Task[Fetched[bytes]]:
        """The flight that `obtain` waits for; it must not be cancelled."""
        task = self._flights.get(key)
        if task is None:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._flight(key, fetch, lease_seconds))
            self._flights[key] = task
            task.add_done_callback(partial(self._ended, key))
        return task

    def _ended(self, key: bytes, task: asyncio.Task[Fetched[bytes]]) -> None:
        del self._flights[key]
        if not task.cancelled():
            # Whoever waited has it; nobody may be left who did.
            task.exception()

    async def _flight(self, key: bytes, fetch: Fetch, lease_seconds: float) -> Fetched[bytes]:
        waits_until = self._clock.monotonic_ns() + int(lease_seconds * _NS)
        pause = _FIRST_LOOK_SECONDS
        while True:
            found = self.get_nowait(key)
            if found is not None and found.fresh_seconds > 0:
                return found
            if self._claims(key, lease_seconds):
                break
            if found is not None:
                return found._replace(fresh_seconds=min(_AGAIN_SECONDS, found.valid_seconds))
            if self._clock.monotonic_ns() >= waits_until:
                raise failed()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK_SECONDS)
        try:
            got = await fetch()
        except BaseException:
            self._gives_up(key)
            raise
        self._keep(key, got)
        return got

    def _claims(self, key: bytes, lease_seconds: float) -> bool:
        """Whether this worker shall fetch: also when it cannot be agreed on who does."""
        if self._table is None:
            return True
        now_ns = self._clock.monotonic_ns()
        try:
            return self._table.claim(key, self._me, now_ns, now_ns + int(lease_seconds * _NS))
        except ShmError:
            # No room (the table counts it), or a lock that is stuck: each for itself.
            return True

    def _keep(self, key: bytes, got: Fetched[bytes]) -> None:
        if self._table is None:
            return
        now_ns = self._clock.monotonic_ns()
        fresh, valid = (int(one * _NS) for one in (got.fresh_seconds, got.valid_seconds))
        if valid <= 0 or len(got.value) > MAX_VALUE_BYTES:
            self._gives_up(key)
            return
        try:
            self._table.put(key, self._me, Token(got.value, now_ns + fresh, now_ns + valid))
        except ShmError as error:
            _log.warning("tokens cannot be shared: %s", error)

    def _gives_up(self, key: bytes) -> None:
        if self._table is None:
            return
        try:
            self._table.give_up(key, self._me)
        except ShmError as error:
            _log.warning("tokens cannot be shared: %s", error)


@final
class Share(Generic[T]):
    """Puts a blocking fetch (see base.Cached) behind the shared table."""

    __slots__ = ("_decode", "_encode", "_key", "_tokens")

    def __init__(
        self,
        tokens: SharedTokens,
        key: bytes,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T],
    ) -> None:
        self._tokens = tokens
        self._key = key
        self._encode = encode
        self._decode = decode

    async def __call__(self, fetch: Callable[[], Fetched[T]]) -> Fetched[T]:
        """The value of another worker, or of `fetch`, which runs in a thread."""

        async def encoded() -> Fetched[bytes]:
            got = await asyncio.to_thread(fetch)
            return Fetched(self._encode(got.value), got.fresh_seconds, got.valid_seconds)

        found = await self._tokens.obtain(self._key, encoded)
        return Fetched(self._decode(found.value), found.fresh_seconds, found.valid_seconds)
