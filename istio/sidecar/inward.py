"""Lets incoming connections in: tunnels of port 15008, and plaintext that was captured.

Source: spec istio 1.5, 2.1b and 4.5 ("Effect on wire").

A tunnel is answered with 200 when the application has accepted: who refuses, and why, is seen by
who asks. A change of policy ends connections that it denies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, final

from hbone.aio import ByteStream, Connect, Prepare, TcpStream, dial_tcp
from hbone.errors import HboneError
from istio.sidecar.accept import Caught
from istio.sidecar.joined import Counts, Live, relayed
from istio.sidecar.original_dst import plain_address
from istio.sidecar.ways import UNKNOWN, Arrival, Entry, Judge, Refused, Settings

_log = logging.getLogger("istio.sidecar")
_UNAVAILABLE: Final = 503


@final
class Inward:
    """`prepare`: of sockets towards the application. `judge`: asked anew for each connection."""

    def __init__(
        self, settings: Settings, judge: Callable[[], Judge], prepare: Prepare, counts: Counts
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._judge = judge
        self._prepare = prepare
        self._counts = counts
        self._live: set[Live] = set()
        self._change: asyncio.Future[None] = self._loop.create_future()
        """Done at the next `recheck`."""

    async def tunnel(self, connect: Connect) -> int | None:
        """Serve a CONNECT; see hbone.aio.server.Handler."""
        local, remote = connect.local_address, connect.remote_address
        arrival = Arrival(
            connect.authority,
            connect.peer.identity,
            (plain_address(local[0]), local[1]),
            (plain_address(remote[0]), remote[1]),
        )
        entry = await self._admit(arrival)
        if isinstance(entry, Refused):
            self._counts.ended["inbound", entry.flag] += 1
            return entry.status
        stream = await self._dial("inbound", entry, arrival)
        if stream is None:
            return _UNAVAILABLE
        try:
            tunnel = connect.accept(entry.headers)
        except BaseException:
            stream.abort()
            raise
        await self._relay("inbound", arrival, tunnel, stream)
        return None

    async def plaintext(self, caught: Caught, arrival: Arrival) -> None:
        """Serve a captured connection; resets it where it leads nowhere. Raises: OSError."""
        entry = await self._admit(arrival)
        if isinstance(entry, Refused):
            self._counts.ended["plaintext", entry.flag] += 1
            caught.reset()
            return
        stream = await self._dial("plaintext", entry, arrival)
        if stream is None:
            caught.reset()
            return
        try:
            peer = await caught.stream(self._loop)
        except BaseException:
            stream.abort()
            raise
        await self._relay("plaintext", arrival, peer, stream)

    async def changed(self, until: float) -> bool:
        """Wait for the next `recheck`, but no longer than until that loop time; False after it."""
        left = until - self._loop.time()
        if left <= 0:
            return False
        await asyncio.wait((self._change,), timeout=left)
        return True

    def recheck(self) -> int:
        """End what policies deny by now; gives how many."""
        change, self._change = self._change, self._loop.create_future()
        change.set_result(None)
        judge = self._judge()
        denied = [live for live in self._live if not judge.allows(live.arrival)]
        for live in denied:
            live.deny()
        return len(denied)

    async def _relay(
        self, direction: str, arrival: Arrival, peer: ByteStream, stream: TcpStream
    ) -> None:
        live = Live(arrival, (peer, stream))
        self._live.add(live)
        try:
            if not self._judge().allows(arrival):
                live.deny()  # while the application was dialled
            await relayed(self._counts, direction, peer, stream, live)
        finally:
            self._live.discard(live)

    async def _admit(self, arrival: Arrival) -> Entry | Refused:
        """The judge's word; a workload that is not known yet is waited for."""
        entry = self._judge().inbound(arrival)
        until = self._loop.time() + self._settings.known_seconds
        while isinstance(entry, Refused) and entry.flag == UNKNOWN and await self.changed(until):
            entry = self._judge().inbound(arrival)
        if isinstance(entry, Entry) and entry.port in self._settings.own_ports:
            return Refused(_UNAVAILABLE, "LOOP", "a port of the sidecar itself")
        if isinstance(entry, Refused):
            who = arrival.identity or "plaintext"
            _log.info("%s from %s refused: %s", who, arrival.remote[0], entry.reason)
        return entry

    async def _dial(self, direction: str, entry: Entry, arrival: Arrival) -> TcpStream | None:
        try:
            stream = await dial_tcp(
                entry.host,
                entry.port,
                self._settings.connect_seconds,
                source_ip=self._source_of(arrival, entry),
                prepare=self._prepare,
            )
            if entry.preface:
                await stream.write(entry.preface)
        except (HboneError, OSError) as error:
            flag = error.flag if isinstance(error, HboneError) else "RESET"
            self._counts.ended[direction, flag] += 1
            _log.debug("the application: %s", error)
            return None
        return stream

    def _source_of(self, arrival: Arrival, entry: Entry) -> str:
        """The address to dial the application from, "" for any."""
        source = arrival.remote[0]
        is_usable = self._settings.preserve_source and (":" in source) == (":" in entry.host)
        return source if is_usable and not ip_address(entry.host).is_loopback else ""
