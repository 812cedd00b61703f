"""Where the tools of an HTTP API come from: a document at hand, or one that is fetched.

Source: spec/config.md sections 6.6 and 10.1.

Workers fetch, not control: they have the pools and the trust of every other connection, a document
that cannot be had keeps nothing from starting, and one that is lost for a while costs nothing, as
the last one that was good stays in use. A document is made into tools beside the loop, for a large
one takes a while, and once for all configurations that hold it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, final
from weakref import WeakValueDictionary

from sidecar.errors import ConfigError, SidecarError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.mcp.openapi.toolbox import Toolbox
from sidecar.telemetry.clock import Clock

_log = logging.getLogger("sidecar.mcp.upstream")
FETCH_SECONDS: Final = 30.0
_SECOND: Final = 1_000_000_000
_REFRESH_SECONDS: Final = 24 * 3600
_SHORTEST_SECONDS: Final = 60
_AGAIN_SECONDS: Final = 15
"""After a fetch that failed."""
_FIRST_AGAIN_SECONDS: Final = 1
"""The same while there is no document at all, and somebody asks."""
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)

Fetch = Callable[[], Awaitable[tuple[Headers, bytes]]]
"""Headers and body of a document. Raises: UpstreamError, also for a status that is not 200."""
Later = Callable[[Callable[[], Coroutine[Any, Any, None]]], bool]
"""Start what nobody waits for, in bounds; False when there is too much."""


class Source(Protocol):
    """Gives the tools of one API."""

    async def toolbox(self) -> Toolbox:
        """As they are now. Raises: UpstreamError when there are none."""


@final
class FixedSource:
    """A document of the configuration. See Source."""

    __slots__ = ("__weakref__", "_lock", "_made", "_make")

    def __init__(self, make: Callable[[], Toolbox]) -> None:
        """`make`: reads the document; it was checked when the configuration was loaded."""
        self._make: Callable[[], Toolbox] | None = make
        self._made: Toolbox | None = None
        self._lock = asyncio.Lock()

    async def toolbox(self) -> Toolbox:
        """See Source."""
        # Fast path: made before.
        if self._made is not None:
            return self._made
        async with self._lock:
            if self._made is None:
                assert self._make is not None
                try:
                    self._made = await asyncio.to_thread(self._make)
                except ConfigError as error:
                    raise UpstreamError(500, "UpstreamFailure", str(error), sent=False) from error
                self._make = None
            return self._made


@final
class RemoteSource:
    """A document behind a URL. See Source. It is looked at again when somebody asks and it is due;
    whoever asks gets the last good one meanwhile."""

    __slots__ = (
        "__weakref__",
        "_again_ns",
        "_clock",
        "_current",
        "_fetch",
        "_landed",
        "_later",
        "_make",
        "_raw",
        "_url",
        "_why",
    )

    def __init__(
        self, url: str, fetch: Fetch, make: Callable[[bytes], Toolbox], clock: Clock, later: Later
    ) -> None:
        """`make`: raises ConfigError for what is no document. The fetch begins at once."""
        self._url = url
        self._fetch = fetch
        self._make = make
        self._clock = clock
        self._later = later
        self._current: Toolbox | None = None
        self._raw = b""
        self._again_ns = 0
        self._why = ""
        self._landed: asyncio.Event | None = None
        self._begin()

    def fetch_by(self, fetch: Fetch) -> None:
        """Use this way from now on: that of the newest configuration."""
        self._fetch = fetch

    async def toolbox(self) -> Toolbox:
        """See Source."""
        if self._landed is None and self._clock.monotonic_ns() >= self._again_ns:
            self._begin()
        # Fast path: there is one, due or not.
        if self._current is not None:
            return self._current
        landed = self._landed
        if landed is not None:
            try:
                async with asyncio.timeout(FETCH_SECONDS):
                    await landed.wait()
            except TimeoutError:
                self._why = f"no answer within {FETCH_SECONDS:g} s"
        if self._current is None:
            text = f"the OpenAPI document {self._url} cannot be had: {self._why}"
            raise UpstreamError(503, "UpstreamFailure", text, sent=False)
        return self._current

    def _begin(self) -> None:
        self._landed = asyncio.Event()
        if not self._later(self._fetched):
            self._land("too much is under way", _FIRST_AGAIN_SECONDS)

    async def _fetched(self) -> None:
        first = _FIRST_AGAIN_SECONDS if self._current is None else _AGAIN_SECONDS
        why, seconds = "the fetch was given up", first
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                headers, raw = await self._fetch()
                if self._current is None or raw != self._raw:
                    self._current = await asyncio.to_thread(self._make, raw)
                    self._raw = raw
                    _log.info("%s: %d tools", self._url, len(self._current.tools))
            why, seconds = "", _fresh_seconds(headers)
        except TimeoutError:
            why = f"no answer within {FETCH_SECONDS:g} s"
        except SidecarError as error:
            why = str(error)
        finally:
            if why:
                _log.warning("the OpenAPI document %s cannot be had: %s", self._url, why)
            self._land(why, seconds)

    def _land(self, why: str, seconds: int) -> None:
        self._why = why
        self._again_ns = self._clock.monotonic_ns() + seconds * _SECOND
        landed, self._landed = self._landed, None
        if landed is not None:
            landed.set()


def _fresh_seconds(headers: Headers) -> int:
    """How long a document is fresh, in bounds."""
    given = b",".join(headers.get_all(b"cache-control")).decode("latin-1").lower()
    if "no-store" in given or "no-cache" in given:
        return _SHORTEST_SECONDS
    found = _MAX_AGE.search(given)
    if found is None:
        return _REFRESH_SECONDS
    return max(_SHORTEST_SECONDS, int(found[1]))


@final
class Sources:
    """Those of a worker, by what they are made of, as long as some configuration uses them."""

    __slots__ = ("_fixed", "_remote")

    def __init__(self) -> None:
        self._fixed: WeakValueDictionary[bytes, FixedSource] = WeakValueDictionary()
        self._remote: WeakValueDictionary[bytes, RemoteSource] = WeakValueDictionary()

    def fixed(self, key: bytes, make: Callable[[], Toolbox]) -> FixedSource:
        """`key`: digest of the document and of what else `make` depends on."""
        found = self._fixed.get(key)
        if found is None:
            found = self._fixed[key] = FixedSource(make)
        return found

    def remote(
        self,
        key: bytes,
        url: str,
        fetch: Fetch,
        make: Callable[[bytes], Toolbox],
        clock: Clock,
        later: Later,
    ) -> RemoteSource:
        """The same of a document that is fetched."""
        found = self._remote.get(key)
        if found is None:
            found = self._remote[key] = RemoteSource(url, fetch, make, clock, later)
        else:
            found.fetch_by(fetch)
        return found
