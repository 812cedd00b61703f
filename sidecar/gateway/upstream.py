"""Which endpoint a backend's next call goes to, and the pools that all backends share.

Source: spec/config.md sections 4.2 to 4.4, 10.5, 10.6; design section 3.

Pools belong to the worker and are found by what makes connections interchangeable (address, TLS,
settings): a reload that leaves a backend as it was keeps its connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol, final

from sidecar.errors import RequestError, SidecarError, UpstreamError
from sidecar.http.message import Request, Response
from sidecar.net.dialer import Address, Dialer, DialSettings, UpstreamTls, connect_failed
from sidecar.net.forbidden import is_forbidden, is_own
from sidecar.net.pool import Call, Pool, PoolSettings, Version
from sidecar.net.proxied import Proxy, ProxyDialer
from sidecar.net.resolve import Resolver
from sidecar.net.sweep import Sweeper
from sidecar.telemetry.clock import Clock

_DYNAMIC_POOLS: Final = 512


class Picked(Protocol):
    """One endpoint chosen for one call. `begin` and `end` bracket it, `end` exactly once."""

    pool: Pool
    label: str

    def begin(self) -> None:
        """The call starts."""

    def end(self, duration_ns: int, response: Response | None, error: SidecarError | None) -> None:
        """The call ended with one of the two, or with neither when it was cancelled."""


class Upstream(Protocol):
    """Chooses endpoints for one backend."""

    def pick_nowait(self, request: Request) -> Picked | None:
        """The choice, or None when it takes a look-up first. Raises SidecarError."""

    async def pick(self, request: Request) -> Picked:
        """The choice. Raises SidecarError."""

    async def pinned(self, label: str) -> Picked | None:
        """The endpoint of that label (see Picked), if it is one of the backend's still."""


@final
@dataclass(frozen=True, slots=True)
class PoolKey:
    """What two backends must share to share connections; `tls` is a digest of its configuration."""

    address: Address
    tls: str
    settings: PoolSettings


@final
class Pools:
    """All upstream pools of a worker."""

    def __init__(
        self,
        dialer: Dialer,
        loop: asyncio.AbstractEventLoop,
        sweeper: Sweeper,
        resolver: Resolver,
        on_connect: Callable[[float, str], None],
    ) -> None:
        self._dialer = dialer
        self._loop = loop
        self._sweeper = sweeper
        self._on_connect = on_connect
        self._pools: dict[PoolKey, Pool] = {}
        self._used: set[PoolKey] = set()
        self.resolver = resolver
        self.proxies: dict[str, Proxy] = {}
        """Those of `PoolSettings.proxy`, as the newest configuration has them."""

    def get(self, key: PoolKey, tls: UpstreamTls | None) -> Pool:
        """The pool of a key, made when it is new. `tls` is the meaning of `key.tls`."""
        self._used.add(key)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(
                key.address,
                tls,
                self._dialer_of(key),
                key.settings,
                self._loop,
                self._sweeper,
                self._on_connect,
            )
        return pool

    def _dialer_of(self, key: PoolKey) -> Dialer:
        proxy = key.settings.proxy
        if not proxy:
            return self._dialer
        if key.address.hop:
            return _NoDetour()
        return ProxyDialer(lambda: self.proxies[proxy], self._loop)

    def begin_round(self) -> None:
        """A full compilation begins: what it does not ask for is dropped by `end_round`."""
        self._used = set()

    def end_round(self) -> None:
        """Close the pools nobody asked for since `begin_round`; calls under way finish."""
        for key in [key for key in self._pools if key not in self._used]:
            self._pools.pop(key).close()

    def end_some(self, addresses: Collection[Address]) -> None:
        """Close the pools of addresses that are gone."""
        for key in [key for key in self._pools if key.address in addresses]:
            self._pools.pop(key).close()

    def forget(self, key: PoolKey) -> None:
        """Close one pool (a dynamic backend's, when it has too many)."""
        pool = self._pools.pop(key, None)
        if pool is not None:
            pool.close()

    def close(self) -> None:
        """Close all."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self.resolver.close()


@final
class _NoDetour:
    """Behind a proxy of `backendTunnel` a workload of a mesh would be called in plaintext."""

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        tls: UpstreamTls | None,
        settings: DialSettings,
        *,
        http1_only: bool,
    ) -> asyncio.Transport:
        """See Dialer. Raises: UpstreamError."""
        raise connect_failed(address, "backendTunnel does not lead to workloads of a mesh")


@final
class FixedPick:
    """The only endpoint there is: nothing to weigh, so nothing to record."""

    __slots__ = ("label", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.label = str(pool.address)

    def begin(self) -> None:
        """See Picked."""

    def end(self, duration_ns: int, response: Response | None, error: SidecarError | None) -> None:
        """See Picked."""


@final
class FixedUpstream:
    """An IP address or a Unix socket."""

    __slots__ = ("_picked",)

    def __init__(self, pool: Pool) -> None:
        self._picked = FixedPick(pool)

    def pick_nowait(self, request: Request) -> Picked | None:
        """See Upstream."""
        return self._picked

    async def pick(self, request: Request) -> Picked:
        """See Upstream."""
        return self._picked

    async def pinned(self, label: str) -> Picked | None:
        """See Upstream."""
        return self._picked if self._picked.label == label else None


@final
class NamedUpstream:
    """A hostname: round robin over its addresses."""

    __slots__ = ("_host", "_make", "_picks", "_port", "_resolver")

    def __init__(
        self, host: str, port: int, resolver: Resolver, make: Callable[[Address], Pool]
    ) -> None:
        self._host = host
        self._port = port
        self._resolver = resolver
        self._make = make
        self._picks: dict[str, FixedPick] = {}

    def pick_nowait(self, request: Request) -> Picked | None:
        """See Upstream."""
        ip = self._resolver.pick_nowait(self._host)
        return None if ip is None else self._at(ip)

    async def pick(self, request: Request) -> Picked:
        """See Upstream."""
        return self._at(await self._resolver.pick(self._host))

    async def pinned(self, label: str) -> Picked | None:
        """See Upstream."""
        await self._resolver.pick(self._host)
        for ip in self._resolver.known(self._host):
            if str(Address(ip, self._port)) == label:
                return self._at(ip)
        return None

    def _at(self, ip: str) -> Picked:
        picked = self._picks.get(ip)
        if picked is None or picked.pool.closed:
            picked = self._picks[ip] = FixedPick(self._make(Address(ip, self._port)))
        return picked


@final
class DynamicUpstream:
    """The host the request names (forward proxy), or what an expression says of it.

    At most 512 destinations keep connections; the one unused longest is dropped first.
    """

    __slots__ = (
        "_admin_port",
        "_allows_all",
        "_destination",
        "_known",
        "_make",
        "_pools",
        "_resolver",
    )

    def __init__(
        self,
        destination: Callable[[Request], tuple[str, int]],
        resolver: Resolver | None,
        make: Callable[[Address, str], tuple[PoolKey, UpstreamTls | None]],
        pools: Pools,
        *,
        allows_all: bool = False,
        admin_port: int = 0,
    ) -> None:
        """`resolver`: None where somebody else resolves names. `allows_all`: even destinations that
        net.forbidden tells of. `admin_port`: where this gateway itself takes orders; 0: nowhere."""
        self._allows_all = allows_all
        self._admin_port = admin_port
        self._destination = destination
        self._resolver = resolver
        self._make = make
        self._pools = pools
        self._known: dict[PoolKey, FixedPick] = {}

    def pick_nowait(self, request: Request) -> Picked | None:
        """See Upstream."""
        return None

    async def pick(self, request: Request) -> Picked:
        """See Upstream."""
        host, port = self._destination(request)
        host = host.strip("[]")
        ip = host if self._resolver is None else await self._resolver.pick(host)
        if not self._allows_all and is_forbidden(ip):
            text = "link-local and metadata addresses are no destinations"
            raise RequestError(403, "Authorization", text)
        if port == self._admin_port and is_own(ip):
            # Who may come there, it judges by the address that a connection comes from.
            text = "the gateway's own admin service is no destination"
            raise RequestError(403, "Authorization", text)
        key, tls = self._make(Address(ip, port), host)
        picked = self._known.pop(key, None)
        if picked is None or picked.pool.closed:
            picked = FixedPick(self._pools.get(key, tls))
        self._known[key] = picked
        if len(self._known) > _DYNAMIC_POOLS:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._pools.forget(oldest)
        return picked

    async def pinned(self, label: str) -> Picked | None:
        """See Upstream: what requests name is nothing of the backend's own."""
        return None


def authority_destination(request: Request) -> tuple[str, int]:
    """Host and port of the authority; the port defaults by scheme. Raises RequestError."""
    host, _, port = request.authority.rpartition(":")
    if host and port.isdigit() and not request.authority.endswith("]"):
        return host, int(port)
    if not request.authority:
        raise RequestError(400, "InvalidRequest", "invalid request")
    return request.authority, 443 if request.scheme == "https" else 80


@final
class BrokenUpstream:
    """A backend that cannot serve; each call says why."""

    __slots__ = ("_code", "_message", "_status")

    def __init__(self, status: int, code: str, message: str) -> None:
        self._status = status
        self._code = code
        self._message = message

    def pick_nowait(self, request: Request) -> Picked | None:
        """Raises UpstreamError."""
        raise UpstreamError(self._status, self._code, self._message, sent=False)

    async def pick(self, request: Request) -> Picked:
        """Raises UpstreamError."""
        raise UpstreamError(self._status, self._code, self._message, sent=False)

    async def pinned(self, label: str) -> Picked | None:
        """Raises UpstreamError."""
        raise UpstreamError(self._status, self._code, self._message, sent=False)


async def send_picked(picked: Picked, call: Call, version: Version, clock: Clock) -> Response:
    """Send to this endpoint, and tell it how the call went. Raises: SidecarError."""
    started = clock.monotonic_ns()
    picked.begin()
    response: Response | None = None
    failure: SidecarError | None = None
    try:
        response = await picked.pool.send(call, version)
        return response
    except SidecarError as error:
        failure = error
        raise
    finally:
        picked.end(clock.monotonic_ns() - started, response, failure)


async def retried(once: Callable[[], Awaitable[Response]]) -> Response:
    """Once more, when nothing of the call can have reached the peer. Raises: SidecarError."""
    try:
        return await once()
    except UpstreamError as error:
        if error.sent:
            raise
    return await once()
