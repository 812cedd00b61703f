"""What control tells of the gateway beside its requests: workers, tables, leases, certificates.

Source: spec/config.md section 9.1; spec istio section 3.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, final

from shm.cells import Series
from shm.config import WorkerStatus
from shm.metrics import MetricsTable
from sidecar.config.mesh import OWN
from sidecar.config.snapshot import Resource
from sidecar.config.svid import KEY as SVID
from sidecar.gateway.mesh import ControlMesh
from sidecar.gateway.own_certificate import OwnCertificate
from sidecar.gateway.tending import count_leases
from sidecar.state.leases import Leases
from sidecar.state.tables import Tables
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.metrics import GatewayMetrics, Registry
from sidecar.version import package_version


@final
class ControlCounts:
    """Gauges that nobody else keeps, in control's own column, and the series of all columns."""

    def __init__(
        self, config: Mapping[str, Any], metrics: MetricsTable, tables: Tables, column: int
    ) -> None:
        """`config`: the section of that name, as of the start."""
        registry = Registry(
            metrics.writer(column),
            (config.get("metrics") or {}).get("remove") or (),
            mode=config.get("histograms") or "classic",
        )
        self.own = GatewayMetrics(registry, package_version())
        self._metrics = metrics
        self._tables = tables
        self._certificate = OwnCertificate(SystemClock(), self.own.certificate_expires)
        self._svid = OwnCertificate(
            SystemClock(), self.own.svid_expires, "SVID", "there is no TLS with `spiffe`"
        )

    def look(
        self, workers: Sequence[WorkerStatus], leases: Leases | None, mesh: ControlMesh | None
    ) -> None:
        """Once a second."""
        for status in workers:
            self.own.worker_up(status.worker, status.is_alive)
        self.own.table_occupancy("metrics", self._metrics.used_rows, self._metrics.rows)
        count_leases(self._tables, leases, self.own)
        if mesh is not None:
            mesh.measure(self.own.registry)

    def look_at_certificates(self, find: Callable[[str], Resource | None]) -> None:
        """`find`: of what is published, by key."""
        identity, svid = find(f"identity/{OWN}"), find(SVID)
        self._certificate.look("" if identity is None else str(identity.data["chain"]))
        self._svid.look("" if svid is None else str(svid.data["chain"]))

    @property
    def has_expired_certificate(self) -> bool:
        """Whether one was good once and is not any more."""
        return self._certificate.has_expired or self._svid.has_expired

    def collect(self) -> Iterable[Series]:
        """See AdminState."""
        tables = (self.own.table_series(stats) for stats in self._tables.stats())
        return chain(self._metrics.collect(), *tables)
