"""The mesh in one worker: its certificate, who is in it, tunnels in and out.

Source: spec istio sections 1, 2.4 and 4.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, final

from hbone.aio import Credentials, RevocationList, Settings
from hbone.errors import HboneError
from hbone.wire.limits import Limits
from istio.counts import Counts
from istio.judge import Judge
from istio.outbound import Source
from istio.place import place_of
from istio.sidecar.pod import PodSidecar
from istio.sidecar.pod import settings_of as pod_settings
from istio.sidecar.sockets import outgoing
from istio.upstream import Upstream
from istio.waypoint import Entrance
from istio.workload import OwnGateway, Store
from sidecar.config.mesh import OWN, REVOKED
from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError
from sidecar.gateway.mesh import Front, MeshGate
from sidecar.http.message import Connection, Request
from sidecar.net.bind import Carried
from sidecar.net.dialer import Address, DialSettings, DirectDialer, UpstreamTls
from sidecar.net.listener import Port
from sidecar.telemetry.metrics import Registry

Data = Mapping[str, Any]
_log = logging.getLogger("istio.worker")
_IDENTITY: Final = f"identity/{OWN}"
_REVOKED: Final = f"identity/{REVOKED}"
_DEFAULT: Final = "default"


@final
class Worker:
    """See sidecar.gateway.mesh.WorkerMesh."""

    def __init__(self, gate: MeshGate, config: Data) -> None:
        own = config.get("istio") or {}
        network = config.get("network") or ""
        settings = settings_of(config.get("hbone") or {})
        pod = pod_settings(config)
        mark = 0 if pod is None else pod.packet_mark
        self._gate = gate
        self._store = Store(network, config.get("trustDomain") or "cluster.local")
        self._gateway = OwnGateway(
            config.get("gateway") or _DEFAULT, config.get("namespace") or _DEFAULT
        )
        self._credentials: Credentials | None = None
        self._upstream = Upstream(
            gate.loop,
            self._store,
            DirectDialer(gate.loop, mark),
            settings,
            own=self._gateway,
            allows_plaintext=bool(own.get("plaintextFallback")),
            prepare=outgoing(mark) if mark else None,
        )
        self._judge = Judge(self._store, self._gateway)
        self._entrance = Entrance(
            gate, self._store, self._gateway, self._judge, settings, trust_of(config)
        )
        self._place = place_of(os.environ, config)
        self._counts: Counts | None = None
        self._waypoints: set[str] = set()
        self._lists: str | None = None
        """Revocation lists, PEM; None for none."""
        self._revoked: RevocationList | None = None
        """What they say."""
        self._pod: PodSidecar | None = None
        """Where the gateway is the sidecar of its pod."""
        if pod is not None:
            self._pod = PodSidecar(
                gate,
                pod,
                self._store,
                self._judge.policies,
                place=self._place,
                namespace=self._gateway.namespace,
                hbone=settings,
                trust_domains=trust_of(config),
                is_told=is_told(config),
            )

    # --- configuration --------------------------------------------------------------------

    def apply(self, changed: Mapping[str, Data], removed: Iterable[str]) -> None:
        """See WorkerMesh."""
        gone = tuple(removed)
        identity = changed.get(_IDENTITY)
        credentials = self._credentials
        if identity is not None:
            credentials = credentials_of(identity)
        elif _IDENTITY in gone:
            credentials = None
        lists = changed.get(_REVOKED, {}).get("lists", self._lists)
        if _REVOKED in gone:
            lists = None
        revoked = self._revoked
        if lists != self._lists or credentials is not self._credentials:
            revoked = _revoked(lists, credentials)
        self._store.apply(changed, gone)
        self._note_binds(changed, gone)
        has_changed, refusal = self._judged(changed, gone)
        if credentials is not self._credentials:
            self._credentials = credentials
            self._upstream.set_credentials(credentials)
            self._entrance.set_credentials(credentials)
        if lists != self._lists or identity is not None or _IDENTITY in gone:
            self._lists, self._revoked = lists, revoked
            self._upstream.set_revoked(revoked)
            self._entrance.set_revoked(revoked)
            if self._pod is not None:
                self._pod.set_credentials(credentials, revoked)
        if has_changed:
            self._entrance.lives.end_denied(None)
        elif self._judge.has_policies:
            # Which policies bind a service or a workload is also its own to say.
            self._entrance.lives.end_denied({*changed, *gone})
        if self._pod is not None:
            self._pod.changed(policies=has_changed)
        if refusal is not None:
            raise refusal

    def _judged(
        self, changed: Mapping[str, Data], gone: Iterable[str]
    ) -> tuple[bool, ConfigError | None]:
        """Whether decisions may be others now. A policy that means nothing denies what it would
        bind, and keeps neither a new certificate nor a revocation from being taken."""
        try:
            return self._judge.apply(changed, gone), None
        except ConfigError as error:
            return True, error

    def _note_binds(self, changed: Mapping[str, Data], gone: Iterable[str]) -> None:
        for key in gone:
            self._waypoints.discard(key)
        for key, data in changed.items():
            if key.startswith("bind/"):
                is_waypoint = data["tunnel"] == "hboneWaypoint"
                (self._waypoints.add if is_waypoint else self._waypoints.discard)(key)
        kind = "gateway" if self._pod is None else "sidecar"
        if self._waypoints:
            kind = "waypoint"
        self._upstream.source = Source(
            place=self._place, namespace=self._gateway.namespace, kind=kind
        )

    # --- tunnels in -----------------------------------------------------------------------

    def carry(self, bind: str, tunnel: str, connection: Connection) -> Carried | None:
        """See WorkerMesh."""
        return self._entrance.carry(bind, tunnel, connection)

    def handed_on(self, own: Port, connection: Connection) -> Port | None:
        """See WorkerMesh."""
        return self._entrance.handed_on(own, connection)

    def judge(self, front: Front, request: Request) -> bool:
        """See WorkerMesh."""
        return self._judge.permits_request(front, request)

    @property
    def judges_requests(self) -> bool:
        """See WorkerMesh."""
        return self._judge.has_policies

    # --- tunnels out ----------------------------------------------------------------------

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        tls: UpstreamTls | None,
        settings: DialSettings,
        *,
        http1_only: bool,
    ) -> asyncio.Transport:
        """See Dialer."""
        return await self._upstream.connect(factory, address, tls, settings, http1_only=http1_only)

    # --- the rest -------------------------------------------------------------------------

    def measure(self, registry: Registry) -> None:
        """See WorkerMesh."""
        if self._counts is None or self._counts.registry is not registry:
            self._counts = Counts(registry, self._counts)
        self._counts.take(self._entrance, self._upstream)
        if self._pod is not None:
            self._pod.measure(registry)

    async def drain(self, minimum_seconds: float, maximum_seconds: float) -> None:
        """See WorkerMesh."""
        if self._pod is not None:
            if minimum_seconds:
                await asyncio.sleep(minimum_seconds)
            await self._pod.drain(max(maximum_seconds - minimum_seconds, 0.0))

    async def close(self) -> None:
        """See WorkerMesh."""
        if self._pod is not None:
            await self._pod.close()
        await self._entrance.close()
        await self._upstream.close()


def credentials_of(data: Data) -> Credentials:
    """Of the `identity` resource, known to be usable. Raises: ConfigError."""
    try:
        made = Credentials(data["chain"].encode(), data["key"].encode(), data["roots"].encode())
        made.context(is_server=False)
    except HboneError as error:
        raise ConfigError(_IDENTITY, str(error)) from error
    return made


def _revoked(lists: str | None, credentials: Credentials | None) -> RevocationList | None:
    """What the lists say by the roots there are. Raises: ConfigError."""
    if lists is None or credentials is None:
        return None
    try:
        # Istio's authority is often an intermediate one, which signs the lists itself.
        return RevocationList(lists.encode(), credentials.roots_pem + credentials.issuers_pem)
    except HboneError as error:
        raise ConfigError("config.istio.revocations", str(error)) from error


def settings_of(hbone: Data) -> Settings:
    """Of `config.hbone`. Raises: ConfigError."""
    names = {
        "windowSize": "stream_window_bytes",
        "connectionWindowSize": "connection_window_bytes",
        "frameSize": "frame_bytes",
        "poolMaxStreamsPerConn": "client_streams",
    }
    given = {names[key]: value for key, value in hbone.items() if key in names and value}
    idle = hbone.get("poolUnusedReleaseTimeout")
    try:
        limits = Limits(**given)
    except ValueError as error:
        raise ConfigError("config.hbone", str(error)) from error
    if idle is None:
        return Settings(limits=limits)
    return Settings(limits=limits, idle_release_seconds=duration_seconds(idle))


def is_told(config: Data) -> bool:
    """Whether a control plane tells who is in the mesh."""
    return bool(os.environ.get("XDS_ADDRESS") or config.get("xdsAddress"))


def trust_of(config: Data) -> frozenset[str] | None:
    """Trust domains that are let in beside our own; None for any that the roots vouch for."""
    if config.get("skipValidateTrustDomain"):
        return None
    further = config.get("additionalTrustDomains") or ""
    return frozenset(name.strip() for name in further.split(",") if name.strip())
