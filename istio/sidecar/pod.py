"""The sidecar in one worker of the gateway: configured, told of changes, measured, drained.

Source: spec istio 2.9.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Final, final

from hbone import aio
from hbone.aio import Credentials, RevocationList
from hbone.errors import HboneError
from istio.authz import Policies
from istio.errors import IstioError
from istio.sidecar.accept import Caught
from istio.sidecar.capture import Capture
from istio.sidecar.decisions import Decisions
from istio.sidecar.sockets import CaptureError
from istio.sidecar.ways import Mode, Settings, Way
from istio.workload import Place, Store
from sidecar.errors import ConfigError
from sidecar.gateway.mesh import MeshGate
from sidecar.telemetry.metrics import Registry

Data = Mapping[str, Any]
_log = logging.getLogger("istio.sidecar")
_NAMES: Final = {
    "outboundPort": "outbound_port",
    "inboundPort": "inbound_port",
    "hbonePort": "hbone_port",
    "socks5Port": "socks5_port",
    "packetMark": "packet_mark",
    "preserveSource": "preserve_source",
}


def settings_of(config: Data) -> Settings | None:
    """`config.istio.sidecar` of the section `config`; None where there is none."""
    given = (config.get("istio") or {}).get("sidecar")
    if given is None:
        return None
    values = {_NAMES[key]: value for key, value in given.items() if key in _NAMES}
    return Settings(
        **values,
        mode=Mode(given.get("mode") or "strict"),
        uses_ipv6=bool(config.get("enableIpv6", True)) and _has_ipv6(),
    )


def _has_ipv6() -> bool:
    """Whether this network namespace has IPv6 addresses, without which nothing can come by it."""
    try:
        with open("/proc/net/if_inet6") as file:
            return bool(file.read(1))
    except OSError:
        return False


@final
class PodSidecar:
    """`store`, `policies` are the worker's, which tells of their changes (`changed`).

    Raises: ConfigError.
    """

    def __init__(
        self,
        gate: MeshGate,
        settings: Settings,
        store: Store,
        policies: Policies,
        *,
        place: Place,
        namespace: str,
        hbone: aio.Settings,
        trust_domains: frozenset[str] | None,
        is_told: bool,
    ) -> None:
        """`is_told`: see Decisions."""
        self._gate = gate
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: dict[tuple[str, str, str], int] = {}
        try:
            self._decisions = Decisions(store, policies, place, namespace, is_told=is_told)
            self._capture = Capture(
                settings,
                self._decisions,
                hbone=hbone,
                trust_domains=trust_domains,
                hand_over=self._hand_over,
            )
            self._capture.start()
        except CaptureError as error:
            raise ConfigError(error.path, error.reason) from error

    def changed(self, *, policies: bool) -> None:
        """Workloads, or `policies`, are others now: end what is denied."""
        # Others' workloads come and go all the time, and say nothing of who may call this one.
        if not self._decisions.has_moved() and not policies:
            return
        ended = self._capture.recheck()
        if ended:
            _log.info("%d connections are denied by now and were ended", ended)

    def set_credentials(
        self, credentials: Credentials | None, revoked: RevocationList | None = None
    ) -> None:
        """Soon; see Capture."""
        self._own(self._set(credentials, revoked))

    async def _set(self, credentials: Credentials | None, revoked: RevocationList | None) -> None:
        try:
            await self._capture.set_credentials(credentials, revoked)
        except (HboneError, IstioError) as error:
            _log.error("the sidecar's certificate: %s", error)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._gate.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hand_over(self, caught: Caught, called: tuple[str, int], way: Way) -> bool:
        """To the gateway's own routes, when it has a bind for the port of a known service; one that
        has a waypoint is called through that."""
        if not way.service or way.is_waypoint:
            return False
        port = self._gate.port_of(called[1])
        if port is None or port.plan.port != called[1]:
            return False
        sock = caught.sock
        caught.give()
        port.take(sock, caught.peer, called)
        return True

    def measure(self, registry: Registry) -> None:
        """Write what is so now to metrics."""
        counts = self._capture.counts
        tunnels = self._capture.tunnel_connections
        registry.gauge("sidecar_captured_connections").set(self._capture.connections)
        for direction, count in zip(("inbound", "outbound"), tunnels, strict=True):
            registry.gauge("sidecar_tunnel_connections", (("direction", direction),)).set(count)
        for (direction, flag), total in counts.ended.items():
            labels = (("direction", direction), ("flag", flag))
            self._count(registry, "sidecar_connections_total", labels, total)
        for name, by_direction in (
            ("sidecar_sent_bytes_total", counts.sent_bytes),
            ("sidecar_received_bytes_total", counts.received_bytes),
        ):
            for direction, total in by_direction.items():
                self._count(registry, name, (("direction", direction),), total)

    def _count(
        self, registry: Registry, name: str, labels: tuple[tuple[str, str], ...], total: int
    ) -> None:
        """A counter survives the registry; what was counted is not counted again."""
        key = (name, labels[0][1], labels[-1][1])
        more = total - self._seen.get(key, 0)
        if more:
            self._seen[key] = total
            registry.counter(name, labels).add(more)

    async def drain(self, seconds: float) -> None:
        """See Capture."""
        await self._capture.drain(seconds)

    async def close(self) -> None:
        """See Capture."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._capture.close()
