"""Every address of a name that a client wants an agent to call, within bounds.

Source: hardening.md case 43.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final, final

from sidecar.a2a.webhook import Address, Refused

_SECONDS: Final = 3.0
_AT_ONCE: Final = 8


@final
class Lookup:
    """Asks the system's resolver, in threads of its own.

    Clients choose the names, and the resolver cannot be told to give up: names without an answer
    must not take the threads that upstreams' names need.
    """

    __slots__ = ("_threads",)

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    async def addresses(self, host: str) -> list[Address]:
        """All of them, one at least. Raises: Refused, also when nobody answers in time."""
        if self._threads is None:
            # Their number is bounded here; they end when this object does.
            self._threads = ThreadPoolExecutor(_AT_ONCE, "a2a-lookup")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_SECONDS):
                found = await loop.run_in_executor(self._threads, _asked, host)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            raise Refused("its host has no address") from error
        if not found:
            raise Refused("its host has no address")
        return [ipaddress.ip_address(text) for text in found]


def _asked(host: str) -> set[str]:
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {str(answer[4][0]).partition("%")[0] for answer in answers}
