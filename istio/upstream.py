"""From the gateway to workloads of the mesh: tunnels, tunnels in tunnels, and Istio's older TLS.

Source: spec istio sections 1.2 to 1.4, 1.7 and 2.4 (steps 8 to 10).

Without a certificate nothing is sent: a call that should have been sealed fails, unless
`config.istio.plaintextFallback` says otherwise.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final, final

from hbone.aio import Credentials, Pool, PoolKey, Prepare, RevocationList, Settings
from hbone.errors import HboneError, TunnelRefusedError
from hbone.wire.authority import make_authority
from istio.legacy import LegacyTls
from istio.outbound import Route, Source, directly, to_endpoint, to_service
from istio.workload import Endpoint, OwnGateway, Service, Store, Workload
from istio.workload.balance import target_port
from istio.workload.records import HBONE, LEGACY_MTLS
from istio.workload.waypoint import is_ours
from sidecar.errors import UpstreamError
from sidecar.gateway.discovered import DOUBLE, WAYPOINT, hop_of
from sidecar.net.dialer import Address, Dialer, DialSettings, UpstreamTls, connect_failed
from sidecar.net.stream import ByteStream, StreamTransport
from sidecar.net.tls_stream import TlsStream

Factory = Callable[[], asyncio.Protocol]
_TRANSPORTS: Final = {HBONE: "hbone", LEGACY_MTLS: "legacy_mtls", DOUBLE: "double_hbone"}
"""By the protocol of a hop; each of them sealed."""


@final
class Upstream:
    """Dials addresses that have a `hop`. `direct`: for what needs no mesh after all."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        direct: Dialer,
        settings: Settings,
        *,
        own: OwnGateway,
        allows_plaintext: bool,
        prepare: Prepare | None = None,
    ) -> None:
        self.source = Source()
        """Who we say we are."""
        self.failed: Counter[str] = Counter()
        """Tunnels that could not be had, by `HboneError.flag`."""
        self.opened = 0
        """Tunnels that were."""
        self._loop = loop
        self._store = store
        self._direct = direct
        self._settings = settings
        self._own = own
        self._allows_plaintext = allows_plaintext
        self._prepare = prepare
        self._credentials: Credentials | None = None
        self._legacy: LegacyTls | None = None
        self._pool: Pool | None = None

    def set_credentials(self, credentials: Credentials | None) -> None:
        """For what is dialled from now on. Raises: CertificateError."""
        if credentials is not None:
            if self._pool is None or self._legacy is None:
                self._pool = Pool(credentials, settings=self._settings, prepare=self._prepare)
                self._legacy = LegacyTls(self._loop, credentials, prepare=self._prepare)
            else:
                self._pool.set_credentials(credentials)
                self._legacy.set_credentials(credentials)
        self._credentials = credentials

    def set_revoked(self, revoked: RevocationList | None) -> None:
        """For what is dialled from now on, and ends connections to servers that are revoked."""
        if self._pool is not None:
            self._pool.set_revoked(revoked)
        if self._legacy is not None:
            self._legacy.set_revoked(revoked)

    @property
    def connections(self) -> int:
        """To other proxies."""
        return 0 if self._pool is None else self._pool.connections

    async def close(self) -> None:
        """End all of them."""
        if self._pool is not None:
            await self._pool.close()

    async def connect(
        self,
        factory: Factory,
        address: Address,
        tls: UpstreamTls | None,
        settings: DialSettings,
        *,
        http1_only: bool,
    ) -> asyncio.Transport:
        """See Dialer."""
        route = self._route(address)
        if route.transport == "refused":
            raise connect_failed(address, route.reason)
        credentials = self._credentials
        if credentials is None or route.transport == "plain":
            place = self._in_the_clear(route, address)
            return await self._direct.connect(factory, place, tls, settings, http1_only=http1_only)
        try:
            async with asyncio.timeout(settings.connect_seconds):
                if route.transport == "legacy_mtls":
                    return await self._connect_legacy(factory, route, tls, address)
                return await self._tunnelled(factory, route, tls, credentials, http1_only)
        except TimeoutError as error:
            why = f"timed out after {settings.connect_seconds:g}s"
            raise connect_failed(address, why) from error
        except HboneError as error:
            self.failed[error.flag] += 1
            raise _unreached(address, error) from error
        except ssl.SSLError as error:
            said = getattr(error, "verify_message", "") or error.reason or str(error)
            raise connect_failed(address, f"TLS: {said}") from error
        except OSError as error:
            raise connect_failed(address, error.strerror or type(error).__name__) from error

    def _route(self, address: Address) -> Route:
        protocol, uid, name = hop_of(address.hop)
        workload = self._store.workload(uid)
        if workload is None:
            raise connect_failed(address, "the workload is gone")
        namespace, _, hostname = name.partition("/")
        service = self._store.service(namespace, hostname) if name else None
        if protocol == WAYPOINT and service is not None:
            return self._by_waypoint(service, workload, address.port)
        endpoint = Endpoint(workload, address.port, service)
        if protocol == DOUBLE:
            if service is None:
                raise connect_failed(address, "another network is reached by services only")
            called = make_authority(service.hostname, address.port)
            route = to_endpoint(self._store, endpoint, called, self.source, random.random)
        else:
            route = directly(endpoint, self.source, address.host)
        if route.transport not in ("refused", _TRANSPORTS.get(protocol)):
            # It changed since it was chosen: what was to be sealed is not sent otherwise.
            raise connect_failed(address, "the workload is reached otherwise by now")
        return route

    def _by_waypoint(self, service: Service, workload: Workload, port: int) -> Route:
        """To the service's waypoint, or to the endpoint that was chosen when this is it.

        `port`: the service's.
        """
        if not is_ours(self._store, service, self._own):
            called = make_authority(service.hostname, port)
            return to_service(self._store, service, called, self.source, random.random)
        target = target_port(workload, service, port) or port
        return directly(Endpoint(workload, target, service), self.source)

    def _in_the_clear(self, route: Route, address: Address) -> Address:
        """Where to dial without the mesh. Raises: UpstreamError, where that is not allowed."""
        if route.transport == "plain":
            return Address(route.host, route.port)
        is_between = route.is_waypoint or route.transport == "double_hbone"
        if not self._allows_plaintext or is_between:
            raise connect_failed(address, "there is no certificate to prove who calls")
        place = route.authority or route
        return Address(place.host, place.port)

    async def _tunnelled(
        self,
        factory: Factory,
        route: Route,
        tls: UpstreamTls | None,
        credentials: Credentials,
        http1_only: bool,
    ) -> asyncio.Transport:
        stream = await self._tunnel(route, credentials)
        extra = {}
        try:
            if tls is not None:
                inner = TlsStream(
                    stream,
                    tls.context(http1_only=http1_only),
                    server_hostname=tls.server_hostname,
                )
                await inner.handshake()
                tls.verify(inner.ssl_object)
                extra["ssl_object"] = inner.ssl_object
                stream = inner
        except BaseException:
            stream.abort()
            raise
        self.opened += 1
        return StreamTransport(self._loop, stream, factory(), extra)

    async def _tunnel(self, route: Route, credentials: Credentials) -> ByteStream:
        pool, authority = self._pool, route.authority
        assert pool is not None
        assert authority is not None
        us = str(credentials.identity)
        ids = os.urandom(16), os.urandom(8)
        key = PoolKey(us, route.expected_sans, (route.host, route.port))
        if route.inner_authority is None:
            return await pool.connect(key, authority, route.headers(*ids))
        outer = await pool.connect(key, authority, route.outer_headers(*ids))
        try:
            return await pool.connect_inside(
                outer, us, route.inner_sans, route.inner_authority, route.headers(*ids)
            )
        except BaseException:
            outer.abort()
            raise

    async def _connect_legacy(
        self, factory: Factory, route: Route, tls: UpstreamTls | None, address: Address
    ) -> asyncio.Transport:
        if tls is not None:
            raise connect_failed(address, "backendTLS does not go into LEGACY_ISTIO_MTLS")
        assert self._legacy is not None
        return await self._legacy.connect(factory, route.host, route.port, route.expected_sans)


def _unreached(address: Address, error: HboneError) -> UpstreamError:
    if isinstance(error, TunnelRefusedError) and error.is_denied:
        return connect_failed(address, "a policy of the destination denies us")
    return connect_failed(address, str(error))
