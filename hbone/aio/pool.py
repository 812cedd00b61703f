"""The client's pool: many tunnels a connection, one connection a key while it has room.

Source: spec istio 1.7 and 1.2.

A key says who asks, who may answer and where: two workloads never share a connection, since their
peers tell them apart by its certificate. One dial a key at a time; those who come meanwhile wait
for it. A connection that had its fill is used again when tunnels end (ztunnel gives it up).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, final

from hbone.aio.carrier import Carrier
from hbone.aio.client import ClientEndpoint
from hbone.aio.credentials import Credentials
from hbone.aio.dial import Prepare, open_tcp
from hbone.aio.peer import Accepts, Peer, accepts_identities
from hbone.aio.revocation import RevocationList
from hbone.aio.settings import Settings
from hbone.aio.tunnel import Tunnel
from hbone.errors import (
    CertificateError,
    ConnectFailedError,
    ConnectionLostError,
    ConnectTimeoutError,
    HboneError,
    RevokedError,
    TunnelUnprocessedError,
)
from hbone.wire.authority import Authority
from hbone.wire.connect import Field

_TRIES: Final = 3
"""A CONNECT that no server looked at is asked again on another connection."""


@final
@dataclass(frozen=True, slots=True)
class PoolKey:
    """`source`: our identity, as URI. `expected`: identities of which the server must have one;
    none of them is nobody. `address`: IP and port. `source_ip`: to dial from, "" for any."""

    source: str
    expected: frozenset[str]
    address: tuple[str, int]
    source_ip: str = ""


@final
@dataclass(slots=True)
class _Slot:
    endpoints: list[ClientEndpoint] = field(default_factory=list)
    dialing: asyncio.Task[None] | None = None


@final
class Pool:
    """Tunnels to other proxies; to be made in the loop that runs it. Raises: CertificateError.

    `prepare`: sets options of the sockets before they connect, such as a packet mark.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        settings: Settings | None = None,
        revoked: RevocationList | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings or Settings()
        self._prepare = prepare
        self._revoked = revoked
        self._contexts: dict[str, tuple[Credentials, ssl.SSLContext]] = {}
        self._slots: dict[PoolKey, _Slot] = {}
        self._endpoints: set[ClientEndpoint] = set()
        self._carriers: set[Carrier] = set()
        self._is_closed = False
        self.dials = 0
        """TCP connections begun."""
        self.failed: Counter[str] = Counter()
        """Dials that failed, by `HboneError.flag`."""
        self.set_credentials(credentials)

    # --- certificates ---------------------------------------------------------------------

    def set_credentials(self, credentials: Credentials) -> None:
        """Of one more identity, or renewed: live connections keep theirs.

        Raises: CertificateError.
        """
        context = credentials.context(is_server=False)
        self._contexts[str(credentials.identity)] = credentials, context

    def set_revoked(self, revoked: RevocationList | None) -> None:
        """For connections to come, and ends those to servers that are revoked."""
        self._revoked = revoked
        if revoked is None:
            return
        for endpoint in list(self._endpoints):
            if endpoint.has_peer:
                try:
                    revoked.check(endpoint.peer)
                except RevokedError as error:
                    endpoint.abort(error)

    # --- tunnels --------------------------------------------------------------------------

    async def connect(
        self, key: PoolKey, authority: Authority, headers: Iterable[Field] = ()
    ) -> Tunnel:
        """A tunnel to `authority` by way of the server at `key`.

        Raises: HboneError: ConnectFailedError, ConnectTimeoutError, HandshakeError,
        PeerRejectedError, RevokedError, TunnelRefusedError, TunnelResetError, ConnectionLostError,
        CertificateError for a source that has no credentials here, or expired ones.
        """
        headers = tuple(headers)
        last: TunnelUnprocessedError | None = None
        for _ in range(_TRIES):
            endpoint = await self._checkout(key)
            try:
                return await endpoint.open(authority, headers)
            except TunnelUnprocessedError as error:
                last = error
        assert last is not None
        raise last

    async def connect_inside(
        self,
        outer: Tunnel,
        source: str,
        expected: frozenset[str],
        authority: Authority,
        headers: Iterable[Field] = (),
    ) -> Tunnel:
        """A tunnel in a tunnel, each with its own TLS: never pooled, `outer` ends with it.

        Raises: as `connect`.
        """
        try:
            endpoint = self._endpoint(source, expected, lambda _: None)
        except HboneError:
            outer.abort()
            raise
        carrier = Carrier(self._loop, outer, endpoint)
        self._carriers.add(carrier)
        endpoint.closed.add_done_callback(lambda _: self._carriers.discard(carrier))
        seconds = self._settings.connect_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                await endpoint.wait_ready()
            tunnel = await endpoint.open(authority, headers)
        except TimeoutError as error:
            carrier.abort()
            raise ConnectTimeoutError(f"no inner HBONE handshake within {seconds:g} s") from error
        except BaseException:
            carrier.abort()
            raise
        endpoint.drain()
        return tunnel

    # --- connections ----------------------------------------------------------------------

    async def _checkout(self, key: PoolKey) -> ClientEndpoint:
        while True:
            if self._is_closed:
                raise ConnectionLostError("the pool is closed")
            self._credentials_of(key.source)
            found = self._slots.get(key)
            for endpoint in [] if found is None else list(found.endpoints):
                if endpoint.has_expired:
                    endpoint.drain()  # which leaves the slot, and may take it along
                elif endpoint.has_room:
                    return endpoint
            slot = self._slots.setdefault(key, _Slot())
            if slot.dialing is None:
                slot.dialing = self._loop.create_task(self._dial(key, slot))
                slot.dialing.add_done_callback(_retrieve)
            # One who gives up must not take the dial from the others.
            await asyncio.shield(slot.dialing)

    async def _dial(self, key: PoolKey, slot: _Slot) -> None:
        endpoint: ClientEndpoint | None = None
        try:
            endpoint = self._endpoint(key.source, key.expected, lambda gone: self._gone(key, gone))
            await self._connect(key, endpoint)
            if not endpoint.has_room:
                raise TunnelUnprocessedError("the server allows no tunnels")
            slot.endpoints.append(endpoint)
            self._watch_idle(endpoint, self._settings.idle_release_seconds)
        except HboneError as error:
            self.failed[error.flag] += 1
            if endpoint is not None:
                endpoint.discard(error)
            raise
        except BaseException:
            if endpoint is not None:
                endpoint.discard(ConnectionLostError("the dial was given up"))
            raise
        finally:
            slot.dialing = None
            if not slot.endpoints:
                self._slots.pop(key, None)

    async def _connect(self, key: PoolKey, endpoint: ClientEndpoint) -> None:
        host, port = key.address
        seconds = self._settings.connect_timeout_seconds
        self.dials += 1
        is_connected = False
        try:
            async with asyncio.timeout(seconds):
                await open_tcp(
                    self._loop,
                    lambda: endpoint,
                    host,
                    port,
                    source_ip=key.source_ip,
                    prepare=self._prepare,
                )
                is_connected = True
                await endpoint.wait_ready()
        except TimeoutError as error:
            if is_connected:
                raise ConnectTimeoutError(
                    f"{host}:{port} made no HBONE handshake within {seconds:g} s"
                ) from error
            raise ConnectTimeoutError(
                f"connect {host}:{port} timed out after {seconds:g} s;"
                f" a NetworkPolicy may be blocking HBONE port {port}"
            ) from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConnectFailedError(f"connect {host}:{port} failed: {reason}") from error

    def _endpoint(
        self, source: str, expected: frozenset[str], on_gone: Callable[[ClientEndpoint], None]
    ) -> ClientEndpoint:
        credentials, context = self._credentials_of(source)
        endpoint = ClientEndpoint(
            self._loop,
            context,
            self._settings,
            self._accepts(expected),
            on_gone,
            not_after=credentials.not_after.timestamp(),
        )
        self._endpoints.add(endpoint)
        endpoint.closed.add_done_callback(lambda _: self._endpoints.discard(endpoint))
        return endpoint

    def _credentials_of(self, source: str) -> tuple[Credentials, ssl.SSLContext]:
        found = self._contexts.get(source)
        if found is None:
            raise CertificateError(f"there are no credentials of {source}")
        if found[0].has_expired:
            raise CertificateError(f"our certificate expired at {found[0].not_after}")
        return found

    def _accepts(self, expected: frozenset[str]) -> Accepts:
        is_expected = accepts_identities(expected)

        def check(peer: Peer) -> None:
            is_expected(peer)
            if self._revoked is not None:
                self._revoked.check(peer)

        return check

    def _gone(self, key: PoolKey, endpoint: ClientEndpoint) -> None:
        slot = self._slots.get(key)
        if slot is not None and endpoint in slot.endpoints:
            slot.endpoints.remove(endpoint)
            if not slot.endpoints and slot.dialing is None:
                del self._slots[key]

    def _watch_idle(self, endpoint: ClientEndpoint, seconds: float) -> None:
        endpoint.idle_timer = self._loop.call_later(seconds, self._look_idle, endpoint)

    def _look_idle(self, endpoint: ClientEndpoint) -> None:
        left = endpoint.used + self._settings.idle_release_seconds - self._loop.time()
        if left <= 0:
            endpoint.drain()
        else:
            self._watch_idle(endpoint, left)

    @property
    def connections(self) -> int:
        """How many there are, pooled or only kept by their tunnels."""
        return len(self._endpoints)

    async def close(self, deadline_seconds: float = 0.0) -> None:
        """No new tunnels; those there are may go on until the deadline."""
        self._is_closed = True
        dialing = [slot.dialing for slot in self._slots.values() if slot.dialing is not None]
        for task in dialing:
            task.cancel()
        for endpoint in list(self._endpoints):
            endpoint.drain()
        if self._endpoints and deadline_seconds > 0:
            waits = [endpoint.closed for endpoint in self._endpoints]
            await asyncio.wait(waits, timeout=deadline_seconds)
        carriers = list(self._carriers)
        for endpoint in list(self._endpoints):
            endpoint.discard(ConnectionLostError("the pool is closed"))
        if dialing:
            await asyncio.wait(dialing)
        if self._endpoints:
            await asyncio.wait([endpoint.closed for endpoint in self._endpoints])
        for carrier in carriers:
            await carrier.wait_closed()


def _retrieve(task: asyncio.Task[None]) -> None:
    """Those who wait get the error; when nobody does, it is nobody's."""
    if not task.cancelled():
        task.exception()
