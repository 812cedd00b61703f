"""Keys of issuers that are fetched from them: at once, again and again, and when one is missing.

Source: spec/config.md sections 3.6 and 10.1; RFC 7517; RFC 9111 section 4.2 (freshness); OpenID
Connect Core section 10.1.1 (rotation); hardening: an identity provider that is down, slow, rotated
or lies about sizes.

States of a set: none yet (requests wait for the fetch, then 503) → fresh → due (used while the
fetch goes on: stale-while-revalidate) → too old (none again). A fetch that fails changes nothing
but the time of the next one. A token with an unknown key may bring a fetch forward, but seldom:
strangers can make up as many names of keys as they like.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Final, Generic, TypeVar, final
from urllib.parse import urlsplit

from sidecar.errors import ConfigError, SidecarError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Response
from sidecar.policies.callouts import Callout, Callouts, Subtype, unprompted
from sidecar.policies.jwks import MAX_BYTES, JwksError, KeySet, parse
from sidecar.policies.kept import KeptKeys, Start
from sidecar.telemetry.clock import Clock

_log: Final = logging.getLogger("sidecar.policies.remote_keys")
_SECOND: Final = 1_000_000_000
_TIMEOUT_SECONDS: Final = 5.0
"""Of one fetch, and of a request that waits for it."""
_REFRESH_SECONDS: Final = 900
_SHORTEST_SECONDS: Final = 60
_LONGEST_SECONDS: Final = 86_400
_AGAIN_SECONDS: Final = 15
"""After a fetch that failed."""
_FIRST_AGAIN_NS: Final = 1 * _SECOND
"""The same while there are no keys at all, and somebody asks."""
_UNKNOWN_NS: Final = 30 * _SECOND
"""Between two fetches that unknown keys bring forward."""
_STALE_NS: Final = 86_400 * _SECOND
"""For so long after the last fetch that succeeded, keys are used: an issuer whose keys nobody could
ask for in a day may have withdrawn them."""
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.I)

T = TypeVar("T")


class DocumentError(ValueError):
    """A document that is not what was asked for; says nothing of what it holds."""


class Fetched(Generic[T]):
    """What is read from behind one URL, fetched again and again. One event loop.

    `read` makes something of the octets, and raises DocumentError or JwksError. `what` names it in
    the log. `current`: what was read last; None when it could not be fetched yet, or not for too
    long.
    """

    __slots__ = (
        "_asked_ns",
        "_callout",
        "_clock",
        "_fetched_ns",
        "_is_closed",
        "_landed",
        "_problem",
        "_raw",
        "_read",
        "_start",
        "_target",
        "_timer",
        "_unknown_ns",
        "_url",
        "_what",
        "current",
    )

    def __init__(
        self,
        url: str,
        target: str,
        callout: Callout,
        clock: Clock,
        start: Start,
        read: Callable[[bytes], T],
        what: str,
    ) -> None:
        self._url = url
        self._target = target
        self._callout = callout
        self._clock = clock
        self._start = start
        self._read = read
        self._what = what
        self.current: T | None = None
        self._raw = b""
        self._problem = ""
        self._fetched_ns = self._asked_ns = self._unknown_ns = -_STALE_NS
        self._landed: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.fetch()

    def reach_by(self, callout: Callout) -> None:
        """Use this way from now on: that of the newest configuration."""
        self._callout = callout

    def close(self) -> None:
        """No more fetches; one under way ends by itself."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def fetch(self) -> None:
        """Begin a fetch, unless one is under way."""
        if self._landed is not None or self._is_closed:
            return
        self._asked_ns = self._clock.monotonic_ns()
        self._landed = asyncio.Event()
        if not self._start(self._fetched):
            self._land(_AGAIN_SECONDS)

    def is_worth_waiting(self) -> bool:
        """Whether what is not here may be here after `wait`. Begins a fetch where that may be done
        for a stranger."""
        if self._landed is None:
            now_ns = self._clock.monotonic_ns()
            if self.current is None:
                if now_ns - self._asked_ns >= _FIRST_AGAIN_NS:
                    self.fetch()
            elif now_ns - self._unknown_ns >= _UNKNOWN_NS:
                self._unknown_ns = now_ns
                self.fetch()
        return self._landed is not None

    async def wait(self) -> None:
        """Until the fetch under way has ended, at most its own timeout."""
        landed = self._landed
        if landed is not None:
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await landed.wait()
            except TimeoutError:
                return

    # --- one fetch ------------------------------------------------------------------------

    async def _fetched(self) -> None:
        seconds = _AGAIN_SECONDS
        try:
            response = await self._callout.send(
                unprompted("GET", self._target, _HEADERS, self._clock), _TIMEOUT_SECONDS, MAX_BYTES
            )
            seconds = self._took(response)
        except (SidecarError, JwksError, DocumentError) as problem:
            # Once for each way to fail, not every 15 seconds.
            level = logging.DEBUG if str(problem) == self._problem else logging.WARNING
            _log.log(level, "%s of %s cannot be fetched: %s", self._what, self._url, problem)
            self._problem = str(problem)
            self._drop_old()
        finally:
            self._land(seconds)

    def _took(self, response: Response) -> int:
        """Use what came; in how many seconds to come again. Raises: UpstreamError, JwksError,
        DocumentError."""
        if response.status != 200:
            text = f"status {response.status}"
            raise UpstreamError(502, "UpstreamFailure", text)
        if response.headers.get(b"content-encoding") not in (None, b"identity"):
            raise UpstreamError(502, "UpstreamFailure", "compressed, which was not asked for")
        raw = response.body.read_nowait() or b""
        # The same octets are the same set: tokens that were verified with it stay known.
        if self.current is None or raw != self._raw:
            fresh = self._read(raw)
            if self.current is not None:
                _log.info("%s of %s have changed", self._what, self._url)
            self.current, self._raw = fresh, raw
        self._fetched_ns = self._clock.monotonic_ns()
        self._problem = ""
        return _fresh_seconds(response.headers)

    def _drop_old(self) -> None:
        if self.current is None or self._clock.monotonic_ns() - self._fetched_ns < _STALE_NS:
            return
        _log.error("%s of %s are not used any more: too old", self._what, self._url)
        self.current, self._raw = None, b""

    def _land(self, seconds: int) -> None:
        landed, self._landed = self._landed, None
        if landed is not None:
            landed.set()
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.fetch)


@final
class RemoteKeys(Fetched[KeySet]):
    """The keys behind one URL. See tokens.KeySource."""

    __slots__ = ()

    def __init__(self, url: str, target: str, callout: Callout, clock: Clock, start: Start) -> None:
        super().__init__(url, target, callout, clock, start, _keys_in, "keys")


def _keys_in(raw: bytes) -> KeySet:
    found = parse(raw)
    if not found:
        raise JwksError("no key in it can be used")
    return found


_HEADERS: Final = (
    (b"accept", b"application/jwk-set+json, application/json"),
    (b"accept-encoding", b"identity"),
)


def _fresh_seconds(headers: Headers) -> int:
    """How long an answer is fresh, in bounds (spec/config.md section 10.1)."""
    given = b",".join(headers.get_all(b"cache-control")).decode("latin-1").lower()
    if "no-store" in given or "no-cache" in given:
        return _SHORTEST_SECONDS
    found = _MAX_AGE.search(given)
    if found is None:
        return _REFRESH_SECONDS
    return max(_SHORTEST_SECONDS, min(int(found[1]), _LONGEST_SECONDS))


def kept_keys(kept: KeptKeys, url: str, target: str, callout: Callout, clock: Clock) -> RemoteKeys:
    """The keys behind a URL, as kept over compilations; the fetch of new ones begins."""

    def make() -> RemoteKeys:
        return RemoteKeys(url, target, callout, clock, kept.start)

    found = kept.keep(url, RemoteKeys, make)
    found.reach_by(callout)
    return found


def reachable(url: str, callouts: Callouts, subtype: Subtype = "Oidc") -> tuple[str, Callout]:
    """The request target and the destination of a URL. Raises: ConfigError, `url` its path."""
    try:
        parts = urlsplit(url)
        has_user = parts.username is not None or parts.password is not None
    except ValueError:
        raise ConfigError("url", "not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("url", "expected http://host/path or https://host/path")
    if has_user or parts.fragment:
        raise ConfigError("url", "user info and fragments are not supported")
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    if not target.isascii() or not target.isprintable() or " " in target:
        raise ConfigError("url", "not a URL")
    try:
        callout = callouts.resolve({"host": f"{parts.scheme}://{parts.netloc}"}, {}, subtype)
    except ConfigError as problem:
        raise ConfigError("url", problem.message) from problem
    return target, callout
