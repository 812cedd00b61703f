"""The way to Redis or Valkey: one script call at a time a connection, each with a deadline.

Source: Redis "RESP protocol" and "EVALSHA" through the `redis` package; design section 5.

    up      calls are made
    down    a call failed: nothing is sent until a time that doubles up to 5 s, with jitter; then
            one call may try, and the others go on as if it were down

A call that failed may be executed now, later or never: messages bear that (`shm.leases`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Self, final
from urllib.parse import urlsplit

from sidecar.config.scalars import duration_ns
from sidecar.errors import ConfigError, SidecarError
from sidecar.state.redis_scripts import BUDGET, RATE

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

_log = logging.getLogger("sidecar.state.redis")
PLACE: Final = "config.state.redis"
_CONNECTIONS: Final = 8
_CONNECT_SECONDS: Final = 1.0
_SHARE: Final = 0.8
"""Of `redisWait`, what a call may take."""
_FIRST_BACKOFF: Final = 0.1
_LAST_BACKOFF: Final = 5.0
UP, DOWN = 1, 2
"""What `LeaseTable.mark` is told."""


class RedisError(SidecarError):
    """Redis did not answer, or not as it should."""


@final
@dataclass(frozen=True, slots=True)
class RedisSettings:
    """`config.state.redis…`."""

    url: str
    fails_open: bool
    prefix: str
    percent: int
    """How much of a limit one lease may be."""
    ttl_ns: int
    wait_ns: int
    """How long a request waits for a lease, and how long a call may take."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self | None:
        """Of `config.state`; None without Redis. Raises: ConfigError without the library."""
        url = config.get("redis")
        if not url:
            return None
        if find_spec("redis") is None:
            raise ConfigError(PLACE, "needs a library: pip install redis")
        return cls(
            url=str(url),
            fails_open=config.get("redisFailureMode") != "failClosed",
            prefix=str(config.get("redisPrefix") or "agw"),
            percent=int(config.get("redisLeasePercent") or 10),
            ttl_ns=duration_ns(str(config.get("redisLeaseTtl") or "10s")),
            wait_ns=duration_ns(str(config.get("redisWait") or "50ms")),
        )

    @property
    def shown(self) -> str:
        """Where it is, without user and password."""
        parts = urlsplit(self.url)
        place = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{place}{parts.path}"


@final
class RedisLink:
    """One process's connections. `told(word)`: UP or DOWN, for all; whether that is news.

    `heard()`: what was told last, by any process; 0: nothing.
    """

    def __init__(
        self,
        settings: RedisSettings,
        now: Callable[[], float],
        told: Callable[[int], bool],
        heard: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._now = now
        self._told = told
        self._heard = heard
        self._client: Redis | None = None
        self._scripts: dict[str, AsyncScript] = {}
        self._failures = 0
        self._retry_at = 0.0
        self._word = 0
        self._is_cut_off = False
        """The last call failed though others were answered: that they are is no hope for us."""

    @property
    def is_down(self) -> bool:
        """The last call failed, or none was made yet."""
        return self._word != UP

    @property
    def may_try(self) -> bool:
        """Whether a call is worth its while now."""
        return self._now() >= self._retry_at or self.is_back

    @property
    def is_back(self) -> bool:
        """Others have reached Redis since it failed here, where that was not tried in vain."""
        return self._word == DOWN and not self._is_cut_off and self._heard() == UP

    async def call(self, script: str, key: str, arguments: Sequence[int | str]) -> Sequence[int]:
        """What the script gives. Raises: RedisError."""
        found = await self._bounded(lambda: self._script(script)(keys=[key], args=list(arguments)))
        return [int(one) for one in found]

    async def probe(self) -> None:
        """Whether Redis is there. Raises: RedisError."""
        await self._bounded(lambda: self._connected().ping())

    async def _bounded(self, made: Callable[[], Awaitable[Any]]) -> Any:
        """What Redis answers, in time. Raises: RedisError."""
        from redis.exceptions import RedisError as LibraryError

        # In time for who waits for it to know; what only tries whether Redis is back may connect.
        seconds = self._settings.wait_ns / 1e9 * _SHARE
        if self.is_down:
            seconds = max(seconds, _CONNECT_SECONDS)
            # Whoever comes meanwhile does not try as well.
            self._retry_at = self._now() + seconds
        is_back = self.is_down and self._heard() == UP
        try:
            # Before the time runs: the first one loads the library.
            self._connected()
            async with asyncio.timeout(seconds):
                found = await made()
        except (LibraryError, OSError, TimeoutError) as error:
            self._failed(error, is_back=is_back)
            raise RedisError(f"{self._settings.shown}: {type(error).__name__}") from error
        except BaseException:
            self._retry_at = 0.0
            raise
        self._worked()
        return found

    async def close(self) -> None:
        """Let go of the connections."""
        client, self._client = self._client, None
        self._scripts.clear()
        if client is not None:
            await client.aclose()

    def _script(self, script: str) -> AsyncScript:
        made = self._scripts.get(script)
        if made is None:
            made = self._scripts[script] = self._connected().register_script(script)
        return made

    def _connected(self) -> Redis:
        if self._client is None:
            self._client = _client(self._settings)
        return self._client

    def _worked(self) -> None:
        self._failures = 0
        self._retry_at = 0.0
        self._is_cut_off = False
        if self._word != UP:
            self._word = UP
            if self._told(UP):
                _log.info("state is shared over %s", self._settings.shown)

    def _failed(self, error: Exception, *, is_back: bool) -> None:
        self._failures += 1
        self._is_cut_off = is_back
        pause = min(_FIRST_BACKOFF * 2 ** min(self._failures - 1, 10), _LAST_BACKOFF)
        self._retry_at = self._now() + pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        if self._word != DOWN:
            self._word = DOWN
            if self._told(DOWN):
                mode = (
                    "failOpen: each gateway for itself"
                    if self._settings.fails_open
                    else ("failClosed: what no lease covers is refused")
                )
                place = self._settings.shown
                _log.error("%s cannot be used (%s); %s", place, type(error).__name__, mode)


def _client(settings: RedisSettings) -> Redis:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # A call that is sent again by the library would be a message of an old number.
    options: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED} if _is_tls(settings) else {}
    pool = BlockingConnectionPool.from_url(
        settings.url,
        max_connections=_CONNECTIONS,
        timeout=_CONNECT_SECONDS,
        socket_timeout=max(_CONNECT_SECONDS, settings.wait_ns / 1e9),
        socket_connect_timeout=_CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    return Redis.from_pool(pool)


def _is_tls(settings: RedisSettings) -> bool:
    return settings.url.startswith("rediss:")


__all__ = ["BUDGET", "DOWN", "RATE", "UP", "RedisError", "RedisLink", "RedisSettings"]
