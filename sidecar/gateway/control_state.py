"""What the admin servers see of the gateway, and tell it.

Source: spec/config.md sections 8.3 and 8.4.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

from shm.cells import Series
from shm.config import ConfigTable, WorkerState
from sidecar.admin.api import ProcessStatus
from sidecar.config.svid import KEY as SVID
from sidecar.gateway.control_counts import ControlCounts
from sidecar.gateway.frontdoor import front_door
from sidecar.gateway.mesh import ControlMesh
from sidecar.gateway.process import ControlContext
from sidecar.gateway.publication import Publication, config_of
from sidecar.telemetry.logs import Logs, parse_levels
from sidecar.version import package_version


@final
class ControlState:
    """Implements admin.api.AdminState."""

    def __init__(
        self,
        context: ControlContext,
        configs: ConfigTable,
        publication: Publication,
        counts: ControlCounts,
        mesh: ControlMesh | None,
        logs: Logs,
        source: str,
        is_draining: Callable[[], bool],
    ) -> None:
        """`source`: the name of what the configuration is read from."""
        self.is_begun = False
        """Whether the configuration is loaded and published."""
        self._is_meshed = False
        """Whether all that readiness waits for of the mesh was there once."""
        self._context = context
        self._configs = configs
        self._publication = publication
        self._counts = counts
        self._mesh = mesh
        self._logs = logs
        self._source = source
        self._is_draining = is_draining

    def config_dump(self) -> Mapping[str, object]:
        """See AdminState."""
        current = self._publication.current
        config = config_of(current)
        resources = self._publication.resources()
        return {
            "version": package_version(),
            "revision": self._configs.generation,
            "source": self._source,
            "lastError": self._publication.error or None,
            "frontDoors": {
                key: front_door(config, str(one.data["protocol"]))
                for key, one in current.snapshot.resources.items()
                if one.kind == "listener"
            },
            "resources": {key: one.data for key, one in resources.items() if key != SVID},
            **({} if self._mesh is None else {"mesh": self._mesh.dump()}),
        }

    def statuses(self) -> Sequence[ProcessStatus]:
        """See AdminState."""
        error = self._publication.error
        own = ProcessStatus("control", os.getpid(), self._configs.generation, error)
        workers = [
            ProcessStatus(f"worker {one.worker}", one.pid, one.applied_generation, one.error)
            for one in self._configs.statuses()
            if one.is_alive
        ]
        return [own, *workers]

    def collect(self) -> Iterable[Series]:
        """See AdminState."""
        return self._counts.collect()

    def pending(self) -> Sequence[str]:
        """See AdminState."""
        if self._is_draining():
            return ["draining"]
        if not self.is_begun:
            return ["control"]
        serving = [
            one
            for one in self._configs.statuses()
            if one.is_alive and one.state == WorkerState.SERVING
        ]
        if not serving:
            return ["workers"]
        if self._mesh is not None and not self._is_meshed:
            waits = self._mesh.pending()
            if waits:
                return waits
            if any(one.applied_generation < self._configs.generation for one in serving):
                return ["workers"]
            self._is_meshed = True
        # Unlike the rest of the mesh, without which the gateway goes on.
        return ["certificate"] if self._counts.has_expired_certificate else []

    def quit(self) -> None:
        """See AdminState."""
        self._context.stop_gateway()

    async def set_levels(self, spec: str | None) -> str:
        """See AdminState. Either all processes get them or none does."""
        if spec is None:
            self._publication.set_levels("")
            self._logs.reset_levels()
        else:
            parse_levels(spec)
            self._publication.set_levels(spec)
            self._logs.set_levels(spec)
        return self._logs.levels()
