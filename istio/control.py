"""The mesh in control: the certificate and who is in the mesh, from the control plane to the
snapshot.

Source: spec istio sections 3.4 to 3.6.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from hbone.wire.identity import parse_identity
from istio.authz import Policies
from istio.ca.client import CaSource
from istio.ca.identity import Identity, Source
from istio.ca.spiffe import SpiffeSource
from istio.clock import SystemClock
from istio.environment import Environment
from istio.errors import CaError, ResourceError
from istio.xds.client import Refused, Subscription, XdsClient
from istio.xds.delta import Node
from istio.xds.resources import Translator
from istio.xds.translate import (
    ADDRESS,
    AUTHORIZATION,
    RESOURCE,
    address,
    authorization_or_denial,
    denial,
)
from sidecar.config.common import Common
from sidecar.config.discovery import service_of, workload_of
from sidecar.config.mesh import OWN, resource
from sidecar.config.snapshot import Resource
from sidecar.config.svid import KEY as _SVID
from sidecar.config.svid import svid_resource
from sidecar.errors import ConfigError
from sidecar.gateway.mesh import Contribute
from sidecar.net.svid import Svid
from sidecar.telemetry.metrics import Registry

_log = logging.getLogger("istio.control")
_IDENTITY: Final = f"identity/{OWN}"
_ADDRESSES: Final = ("service/", "workload/")
_POLICIES: Final = "authorization/"
Json = dict[str, Any]


@final
class Control:
    """See sidecar.gateway.mesh.ControlMesh."""

    def __init__(
        self,
        environment: Environment,
        node: Node | None,
        known: Mapping[str, Resource],
        *,
        spiffe_socket: str = "",
        has_file: bool,
        is_pod: bool = False,
        check: Callable[[Resource], None],
    ) -> None:
        """`check`: raises ConfigError for a resource that a worker would refuse. `is_pod`: a pod's
        sidecar, which is told of policies and not of routes. `has_file`: the certificate is in the
        file already. `spiffe_socket`: of the Workload API,
        "" for none. `known`: what an earlier process was told."""
        self._publish: Contribute
        self._has_file = has_file
        self._has_identity = (_SVID if spiffe_socket else _IDENTITY) in known
        self._inherited = {key for key in known if key.startswith(_ADDRESSES)}
        """Of an earlier process; what the first response does not have is gone."""
        self._inherited_policies = {key for key in known if is_pod and key.startswith(_POLICIES)}
        self._inherited_resources = (
            set(known) - self._inherited - self._inherited_policies - {_IDENTITY, _SVID}
        )
        self._held: dict[str, Resource] | None = {} if is_pod and not self._inherited else None
        """Workloads and services that came before the policies, and are published with them: a pod
        that is known without its policies would let everybody in. None: nothing is held back."""
        self._translator = Translator(check)
        self._source: Source | None = None
        self._is_svid = bool(spiffe_socket)
        if spiffe_socket:
            self._source = SpiffeSource(spiffe_socket)
        elif not has_file and environment.ca is not None:
            self._source = CaSource(
                environment.ca, str(environment.identity), ttl_seconds=environment.ttl_seconds
            )
        self._xds: XdsClient | None = None
        if environment.xds is not None:
            assert node is not None
            addresses = Subscription(ADDRESS, _read_by(Common()), self._addresses)
            if is_pod:
                policies = Subscription(
                    AUTHORIZATION, authorization_or_denial, self._authorizations, stands_in=True
                )
                self._xds = XdsClient(environment.xds, node, (addresses, policies))
            else:
                resources = Subscription(RESOURCE, _as_it_is, self._resources)
                self._xds = XdsClient(environment.xds, node, (addresses, resources))

    async def run(self, publish: Contribute) -> None:
        """See ControlMesh."""
        self._publish = publish
        async with asyncio.TaskGroup() as group:
            if self._source is not None:
                group.create_task(self._source.run(self._identified))
            if self._xds is not None:
                group.create_task(self._xds.run())

    async def _identified(self, identity: Identity) -> None:
        """The SVID for listeners and backends, and the mesh's certificate, unless a file has it.

        Raises: CaError.
        """
        changed: dict[str, Resource] = {}
        if self._is_svid:
            changed[_SVID] = _svid(identity)
        if not self._has_file and parse_identity(identity.spiffe_id) is not None:
            chain, key, roots = identity.chain_pem, identity.key_pem, identity.roots_pem
            data = resource(chain.decode(), key.decode(), roots.decode())
            changed[_IDENTITY] = Resource.of("identity", OWN, data)
        elif not self._has_file and self._xds is not None:
            _log.error("no tunnels: %s is no spiffe://…/ns/…/sa/…", identity.spiffe_id)
        refusal = await self._publish(changed, ())
        if refusal:
            _log.error("the certificate cannot be published: %s", refusal)
            return
        self._has_identity = True
        _log.info("certificate of %s, until %s", identity.spiffe_id, identity.not_after)

    async def _addresses(self, updates: Mapping[str, Resource], removed: Sequence[str]) -> Refused:
        """Workloads and services that came or went."""
        changed = {made.key: made for made in updates.values()}
        gone = {key for name in removed for key in (f"service/{name}", f"workload/{name}")}
        gone |= self._inherited - changed.keys()
        self._inherited = set()
        if self._held is not None:
            for key in gone:
                self._held.pop(key, None)
            self._held.update(changed)
            return {}
        refusal = await self._publish(changed, gone)
        return dict.fromkeys(updates, refusal) if refusal else {}

    async def _resources(self, updates: Mapping[str, bytes], removed: Sequence[str]) -> Refused:
        """Binds, listeners, routes, backends and policies that came or went."""
        applied = self._translator.apply(updates, removed)
        gone = set(applied.removed) | (self._inherited_resources - applied.changed.keys())
        self._inherited_resources = set()
        refusal = await self._publish(applied.changed, gone)
        if refusal:
            self._translator.undo()
            return dict.fromkeys(updates, refusal)
        return applied.refused

    async def _authorizations(self, updates: Mapping[str, Json], removed: Sequence[str]) -> Refused:
        """Policies that came or went. One that cannot be understood denies what it would bind."""
        changed: dict[str, Resource] = {}
        refused: dict[str, str] = {}
        for name, data in updates.items():
            fault = data.get("fault")
            try:
                if fault is None:
                    Policies().put(name, data)
            except ConfigError as error:
                fault = str(error)
            if fault is not None:
                refused[name] = fault
                data = denial(data)
            made = Resource.of("authorization", name, data)
            changed[made.key] = made
        gone = {f"{_POLICIES}{name}" for name in removed}
        gone |= self._inherited_policies - changed.keys()
        self._inherited_policies = set()
        held, self._held = self._held, None
        refusal = await self._publish({**(held or {}), **changed}, gone)
        if refusal:
            self._held = held
        return dict.fromkeys(updates, refusal) if refusal else refused

    # --- what is shown --------------------------------------------------------------------

    def pending(self) -> Sequence[str]:
        """See ControlMesh."""
        waits: list[str] = []
        if self._source is not None and not self._has_identity:
            waits.append("certificate")
        if self._xds is not None and self._xds.pending():
            waits.append("xds")
        return waits

    def dump(self) -> Mapping[str, object]:
        """See ControlMesh."""
        made: dict[str, object] = {}
        if self._source is not None:
            made["certificate"] = self._source.status.dump(SystemClock().now())
        if self._xds is not None:
            made["xds"] = self._xds.dump()
        return made

    def measure(self, registry: Registry) -> None:
        """See ControlMesh."""
        if self._xds is not None:
            stats = self._xds.stats
            registry.gauge("xds_connected").set(1 if stats.is_connected else 0)
            for type_url, count in stats.resources.items():
                registry.gauge("xds_resources", (("type", type_url),)).set(count)
            for type_url, count in stats.nacks.items():
                registry.gauge("xds_nacks", (("type", type_url),)).set(count)
            registry.gauge("xds_connection_failures").set(stats.failures)
        if self._source is not None:
            status = self._source.status
            registry.gauge("certificate_renewals").set(status.successes)
            registry.gauge("certificate_failures").set(status.failures)


def _svid(identity: Identity) -> Resource:
    """Raises: CaError, for what workers would refuse, and with it what else was published."""
    made = svid_resource(
        identity.spiffe_id,
        identity.chain_pem.decode(),
        identity.key_pem.decode(),
        identity.roots_pem.decode(),
        {domain: pem.decode() for domain, pem in identity.federated.items()},
        int(identity.not_after.timestamp()),
    )
    try:
        Svid.from_data(made.data)
    except ConfigError as error:
        raise CaError(str(error)) from error
    return made


def _as_it_is(payload: bytes) -> bytes:
    return payload


def _read_by(common: Common) -> Callable[[bytes], Resource]:
    """What reads an address: made a resource at once, so that ten thousand are not held in two
    forms. It raises: ResourceError."""

    def read(payload: bytes) -> Resource:
        one = address(payload)
        try:
            if "service" in one:
                return Resource.of("service", *service_of(one["service"]))
            uid, data = workload_of(one["workload"])
            common.share(data)
            return Resource.of("workload", uid, data)
        except ConfigError as error:
            raise ResourceError(str(error)) from error

    return read
