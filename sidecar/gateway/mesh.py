"""What the gateway asks of a mesh, and lends to it: the seam to the package `istio`.

Source: design section 1; spec istio sections 2.4 and 3.

The gateway knows binds, routes and backends, the mesh knows identities, tunnels and who may call
whom. A worker makes the mesh's part when a snapshot first holds something of it (`is_meshed`), and
hands it the resources of `KINDS`; control makes the other part when the configuration names a
control plane or an authority.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, final

from sidecar.config.snapshot import Resource
from sidecar.errors import RequestError
from sidecar.http.message import Connection, Request
from sidecar.net.bind import CARRYING, Carried
from sidecar.net.dialer import Address, Dialer, DialSettings, UpstreamTls, connect_failed
from sidecar.net.listener import Port
from sidecar.net.tcp import Relay
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.metrics import Registry

Data = Mapping[str, Any]
KINDS: Final = ("service/", "workload/", "authorization/", "identity/", "bind/")
"""Beginnings of the keys that the mesh is handed. `identity/own`: `{chain, key, roots}`, PEM."""


CONTRIBUTED: Final = (
    *("service/", "workload/", "authorization/", "identity/", "svid/"),
    *("bind/", "listener/", "route/", "tcproute/", "backend/", "policy/", "frontend/"),
)
"""Beginnings of the keys that a mesh in control may add."""


class MeshGate(Protocol):
    """What the mesh needs of the worker that it serves."""

    loop: asyncio.AbstractEventLoop
    clock: Clock

    def front(self, front: Front) -> Port | None:
        """Where calls of a service or a workload are served; None when nothing is there."""

    def port_of(self, number: int) -> Port | None:
        """The bind of a port, else the wildcard; None when there is neither."""

    def examine(self, bind: str, connection: Connection) -> Awaitable[None] | None:
        """See Gate."""

    def admit(self, bind: str, connection: Connection) -> bool:
        """See Gate."""

    async def dial(self, bind: str, listener: str, connection: Connection) -> Relay:
        """See Gate."""


class WorkerMesh(Dialer, Protocol):
    """The mesh in one worker. As a Dialer it reaches addresses that have a `hop`."""

    def apply(self, changed: Mapping[str, Data], removed: Iterable[str]) -> None:
        """Resources of `KINDS` by key.

        Raises: ConfigError, before anything is changed; for a policy that means nothing, which then
        denies what it would bind, when everything else was.
        """

    def carry(self, bind: str, tunnel: str, connection: Connection) -> Carried | None:
        """Take a connection to an HBONE bind; None: it has to be closed."""

    def handed_on(self, own: Port, connection: Connection) -> Port | None:
        """As Gate: `own` for what is nothing of the mesh."""

    def judge(self, front: Front, request: Request) -> bool:
        """Whether policies of the mesh let a request pass."""

    @property
    def judges_requests(self) -> bool:
        """Whether there is any policy that could refuse one."""

    def measure(self, registry: Registry) -> None:
        """Write what is known to metrics; called about once a second."""

    async def drain(self, minimum_seconds: float, maximum_seconds: float) -> None:
        """What it accepts itself: go on for the minimum, then finish what runs until the
        maximum. What comes by binds is drained by their ports."""

    async def close(self) -> None:
        """End everything that is left."""


Contribute = Callable[[Mapping[str, Resource], Collection[str]], Awaitable[str]]
"""Publishes `(changed, removed)` resources beside those of the file; gives why it cannot be done,
"" when it was. A worker may still refuse them: then they are taken back."""


class ControlMesh(Protocol):
    """The mesh in control."""

    async def run(self, publish: Contribute) -> None:
        """Until cancelled."""

    def pending(self) -> Sequence[str]:
        """What readiness waits for."""

    def dump(self) -> Mapping[str, object]:
        """For `/config_dump`; without keys."""

    def measure(self, registry: Registry) -> None:
        """As WorkerMesh."""


class Mesh(Protocol):
    """Makes both; the command line hands it in."""

    def bring(self, resources: Mapping[str, Resource]) -> None:
        """Import what workers will need for these (see gateway.parts)."""

    def worker(self, gate: MeshGate, config: Data) -> WorkerMesh:
        """`config`: the section of that name."""

    def control(self, config: Data, known: Mapping[str, Resource]) -> ControlMesh | None:
        """None where everything is in the file. `known`: what an earlier one had published.

        Raises: ConfigError.
        """


def is_meshed(resources: Mapping[str, Data]) -> bool:
    """Whether there is something for the mesh to do: a certificate alone is nothing."""
    for key, data in resources.items():
        if key.startswith("authorization/"):
            return True
        if (
            key == "static/config"
            and (data["config"].get("istio") or {}).get("sidecar") is not None
        ):
            return True
        if key.startswith("bind/") and data["tunnel"] in CARRYING:
            return True
        if key.startswith("workload/") and data.get("protocol", "TCP") != "TCP":
            return True
    return False


def packet_mark(config: Data) -> int:
    """What tells the gateway's packets from its pod's application's; 0 for nothing.

    `config`: the section of that name.
    """
    pod = (config.get("istio") or {}).get("sidecar")
    return 0 if pod is None else int(pod.get("packetMark", _PACKET_MARK))


_PACKET_MARK: Final = 1337
"""Default of `config.istio.sidecar.packetMark`."""


@final
class MeshDialer:
    """Dials directly but for addresses with a hop, which the mesh reaches."""

    __slots__ = ("_direct", "mesh")

    def __init__(self, direct: Dialer) -> None:
        self._direct = direct
        self.mesh: WorkerMesh | None = None

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
        # Fast path: nothing of the mesh.
        if not address.hop:
            return await self._direct.connect(
                factory, address, tls, settings, http1_only=http1_only
            )
        if self.mesh is None:
            raise connect_failed(address, "there is no mesh to reach it by")
        return await self.mesh.connect(factory, address, tls, settings, http1_only=http1_only)


@final
class Front:
    """What a tunnel is for: a service's port, or a workload's. `str()` is the key of its bind."""

    __slots__ = ("bind", "is_tcp", "kind", "name", "port")

    def __init__(self, bind: str, kind: str, name: str, port: int, *, is_tcp: bool = False) -> None:
        """`bind`: of the port that the tunnel came to. `kind`: `service`, `workload`, or `gateway`
        for what another bind of this gateway serves. `name`: `namespace/hostname`, or a uid.
        `is_tcp`: it is known to be no HTTP."""
        self.is_tcp = is_tcp
        self.bind = bind
        self.kind = kind
        self.name = name
        self.port = port

    def __str__(self) -> str:
        speaks = "tcp" if self.is_tcp else "http"
        return f"{self.bind}{_MARK}{self.kind}:{speaks}:{self.port}:{self.name}"

    @classmethod
    def parse(cls, key: str) -> Front | None:
        """The front of a bind's key; None for the key of a port's own bind."""
        bind, mark, rest = key.partition(_MARK)
        if not mark:
            return None
        kind, speaks, port, name = rest.split(":", 3)
        return cls(bind, kind, name, int(port), is_tcp=speaks == "tcp")


_MARK: Final = "#"


@final
class Judged:
    """The mesh's policies in a route's chain; see policies.base.Policy."""

    __slots__ = ("_front", "_judge")
    is_guard = True

    def __init__(self, front: Front, judge: Callable[[Front, Request], bool]) -> None:
        self._front = front
        self._judge = judge

    def on_request(self, request: Request) -> None:
        """Raises: RequestError 403."""
        if not self._judge(self._front, request):
            raise RequestError(403, "Authorization", "RBAC: access denied")
