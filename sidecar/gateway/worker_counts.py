"""What a worker tells of itself beside its requests: lag, losses, leases, rows of the request log.

Source: spec/config.md section 9.1.
"""

from __future__ import annotations

from typing import final

from sidecar.gateway.observe import Observers
from sidecar.state.leases import Leases
from sidecar.telemetry.metrics import LeaseMetrics, Registry, RequestLogMetrics, WorkerMetrics


@final
class WorkerCounts:
    """Those of one worker. Nothing is counted before `begin`."""

    def __init__(self, observers: Observers, worker: int) -> None:
        self._observers = observers
        self._worker = worker
        self._registry: Registry | None = None
        self._own: WorkerMetrics | None = None
        self._leases: LeaseMetrics | None = None
        self._rows: RequestLogMetrics | None = None
        self._dropped = (0, 0)
        """Log lines and spans lost, as last counted."""

    def begin(self, registry: Registry) -> None:
        """With each configuration."""
        self._registry = registry
        self._own = WorkerMetrics(registry, self._worker)

    def look(self, lag_seconds: float, in_flight: int) -> None:
        """Once a second."""
        own = self._own
        if own is None:
            return
        own.loop_lag.observe(lag_seconds)
        own.in_flight.set(in_flight)
        self._count_dropped(own)
        if self._observers.leases is not None:
            self.count_leases(self._observers.leases)
        self.count_rows()

    def count_leases(self, leases: Leases) -> None:
        """What was leased, and waited for."""
        if self._leases is None and self._registry is not None:
            self._leases = LeaseMetrics(self._registry)
        if self._leases is not None:
            self._leases.take(leases.counted())

    def count_rows(self) -> None:
        """What was written to the request log."""
        request_log = self._observers.request_log
        if request_log is None or self._registry is None:
            return
        if self._rows is None:
            self._rows = RequestLogMetrics(self._registry)
        self._rows.take(request_log.counts())

    def _count_dropped(self, own: WorkerMetrics) -> None:
        dropped = self._observers.dropped()
        for kind, now, before in zip(("log", "span"), dropped, self._dropped, strict=True):
            own.dropped(kind, now - before)
        self._dropped = dropped
