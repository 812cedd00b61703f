"""Names to addresses, without the request path ever waiting for a second answer.

Source: spec/config.md section 4.2. The system resolver gives no TTL, so an answer is renewed every
five seconds (the reference's floor) in the background while the last good one goes on serving.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - the first name to be resolved would wait for it
import ipaddress
import socket
from typing import Final, final

from sidecar.errors import UpstreamError

REFRESH_SECONDS: Final = 5.0
_BACKOFF_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
_TIMEOUT_SECONDS: Final = 10.0
_FAMILIES: Final = {
    "V4Only": (socket.AF_INET,),
    "V6Only": (socket.AF_INET6,),
    "V4Preferred": (socket.AF_INET, socket.AF_INET6),
    "Auto": (socket.AF_INET, socket.AF_INET6),
    "All": (socket.AF_INET, socket.AF_INET6),
}


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address and needs no look-up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@final
class _Entry:
    __slots__ = ("addresses", "failures", "fresh_until", "index", "lookup", "used")

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.fresh_until = 0.0
        self.failures = 0
        self.index = 0
        self.lookup: asyncio.Task[None] | None = None
        self.used = 0.0


@final
class Resolver:
    """Round robin over the addresses of a name.

    `family`: `config.dns.lookupFamily`. At most `max_names` names are held; the least recently
    used goes first (a dynamic backend takes names from clients).
    """

    __slots__ = ("_entries", "_family", "_loop", "_max_names")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, family: str = "Auto", max_names: int = 1024
    ) -> None:
        self._loop = loop
        self._family = family
        self._entries: dict[str, _Entry] = {}
        self._max_names = max_names

    def pick_nowait(self, host: str) -> str | None:
        """The next address of a name already known, else None. Renews in the background."""
        entry = self._entries.get(host)
        if entry is None or not entry.addresses:
            return None
        now = self._loop.time()
        entry.used = now
        if now >= entry.fresh_until and entry.lookup is None:
            entry.lookup = self._loop.create_task(self._look_up(host, entry))
        entry.index += 1
        return entry.addresses[entry.index % len(entry.addresses)]

    async def pick(self, host: str) -> str:
        """The next address of `host`. Raises UpstreamError 503 when it has none."""
        known = self.pick_nowait(host)
        if known is not None:
            return known
        entry = self._entries.get(host) or self._add(host)
        if entry.lookup is None and self._loop.time() >= entry.fresh_until:
            entry.lookup = self._loop.create_task(self._look_up(host, entry))
        if entry.lookup is not None:
            await asyncio.shield(entry.lookup)
        found = self.pick_nowait(host)
        if found is None:
            raise UpstreamError(
                503,
                "NoHealthyBackend",
                "backends required DNS resolution which failed",
                retryable=True,
                sent=False,
            )
        return found

    def known(self, host: str) -> tuple[str, ...]:
        """All addresses of a name that was looked up."""
        entry = self._entries.get(host)
        return () if entry is None else entry.addresses

    def _add(self, host: str) -> _Entry:
        if len(self._entries) >= self._max_names:
            idle = [name for name, entry in self._entries.items() if entry.lookup is None]
            if idle:
                del self._entries[min(idle, key=lambda name: self._entries[name].used)]
        entry = self._entries[host] = _Entry()
        return entry

    async def _look_up(self, host: str, entry: _Entry) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                answers = await self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            answers = []
        finally:
            entry.lookup = None
        found: list[str] = []
        for family in _FAMILIES.get(self._family, _FAMILIES["Auto"]):
            for answer in answers:
                address = str(answer[4][0])
                if answer[0] == family and address not in found:
                    found.append(address)
            if found and self._family != "All":
                break
        now = self._loop.time()
        if found:
            entry.addresses = tuple(sorted(found))
            entry.failures = 0
            entry.fresh_until = now + REFRESH_SECONDS
        else:
            # The last good answer goes on serving; only how soon to ask again changes.
            step = min(entry.failures, len(_BACKOFF_SECONDS) - 1)
            entry.failures += 1
            entry.fresh_until = now + _BACKOFF_SECONDS[step]

    def close(self) -> None:
        """Cancel look-ups under way."""
        for entry in self._entries.values():
            if entry.lookup is not None:
                entry.lookup.cancel()
