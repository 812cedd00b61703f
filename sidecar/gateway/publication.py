"""What control publishes, piece by piece, and the revision that it falls back on.

Source: design section 2; spec/config.md section 10.1; hardening case 58 (shared memory is full).

A revision is the file's resources, what a mesh adds, log levels and who listens to requests. What
cannot be published is not current: whoever asked for it is told, and nothing of it goes out with a
later revision. What workers refuse is taken back by a revision without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, final

from shm.config import ConfigTable
from shm.errors import LockTimeoutError, ShmError
from sidecar.config.snapshot import Resource, Snapshot, encode
from sidecar.gateway.loading import LoadedSnapshot
from sidecar.gateway.published import LEVELS, difference_of
from sidecar.telemetry.debug_trace import RESOURCE as TRACE
from sidecar.telemetry.metrics import GatewayMetrics

_log = logging.getLogger("sidecar.gateway.control")
STATIC: Final = "static/config"


def config_of(loaded: LoadedSnapshot) -> Mapping[str, Any]:
    """The section `config` of a file."""
    config = loaded.snapshot.resources[STATIC].data["config"]
    assert isinstance(config, dict)
    return config


@final
class Publication:
    """See the module. Nothing of it waits; who changes it over an `await` holds `changing`."""

    def __init__(
        self,
        configs: ConfigTable,
        metrics: GatewayMetrics,
        current: LoadedSnapshot,
        running: Mapping[str, Resource],
        *,
        extra: Mapping[str, Resource],
        levels: str,
        error: str,
        wake_workers: Callable[[], None],
        try_again: Callable[[], None],
    ) -> None:
        """`running`, `extra`, `levels`: what an earlier process had published, of the mesh, and of
        log levels. `try_again`: called when the lock was not to be had."""
        self.changing = asyncio.Lock()
        self.current = current
        self.error = error
        """Why the file's newest text is not what runs; empty when it is."""
        self.extra: dict[str, Resource] = dict(extra)
        """What the mesh adds to the file; the file comes first."""
        self._good_extra = dict(extra)
        """As of the last configuration that every worker applied."""
        self._good: LoadedSnapshot | None = None
        """The last configuration that every worker applied."""
        self._static = running[STATIC].data["config"]
        """`config` as of the start: what it says holds until the gateway is started again."""
        self._levels = levels
        self._trace: Mapping[str, object] | None = None
        """Who listens to requests (admin.debug_trace), if anybody does."""
        self._configs = configs
        self._metrics = metrics
        self._wake_workers = wake_workers
        self._try_again = try_again

    @property
    def revision(self) -> int:
        """The newest that was announced."""
        return self._configs.generation

    def resources(self) -> dict[str, Resource]:
        """The current ones as workers get them: a replaced worker must be like the others."""
        resources = {**self.extra, **self.current.snapshot.resources}
        then = self._static
        assert isinstance(then, dict)
        held = {**then, "frontDoor": config_of(self.current).get("frontDoor")}
        resources[STATIC] = Resource.of("static", "config", {"config": held})
        return resources

    def find(self, key: str) -> Resource | None:
        """One of `resources`, other than `static/config`."""
        return self.current.snapshot.resources.get(key, self.extra.get(key))

    def begin(self, running: Mapping[str, Resource]) -> None:
        """Publish what differs from what the workers run, which is fallen back on."""
        if difference_of(running, self.resources()):
            self._good = LoadedSnapshot(Snapshot(dict(running)), (), self.current.files)
            self._try_publish(self._good)
        else:
            self._show_revision()

    def publish(self) -> None:
        """A new revision. Raises: ShmError, when there is none."""
        resources = self.resources()
        if self._levels:
            resources[LEVELS] = Resource.of("runtime", "levels", {"spec": self._levels})
        if self._trace is not None:
            resources[TRACE] = Resource.of("runtime", "trace", dict(self._trace))
        self._configs.publish(encode(Snapshot(resources, (), {}), self.revision + 1))
        self._show_revision()
        self._wake_workers()

    def replace(self, loaded: LoadedSnapshot) -> bool:
        """Whether it is published; else what was current is that again, and the log says why.

        Hardening case 58: the workers serve on, and the next change is tried afresh.
        """
        previous, self.current = self.current, loaded
        return self._try_publish(previous)

    def _try_publish(self, previous: LoadedSnapshot) -> bool:
        try:
            self.publish()
        except ShmError as error:
            self.current = previous
            self.refuse(str(error))
            if isinstance(error, LockTimeoutError):  # the file is as good as it was
                self._try_again()
            return False
        except Exception as error:
            # Our fault: were it current without being published, nothing would have changed.
            _log.exception("publishing failed inside the gateway")
            self.current = previous
            self.refuse(f"internal error: {error}")
            return False
        return True

    def _show_revision(self) -> None:
        self._metrics.config_revision.set(self.revision)
        self._metrics.config_synchronized.set(0 if self.error else 1)

    # --- the file -------------------------------------------------------------------------

    def reload(self, loaded: LoadedSnapshot, warnings: Iterable[str]) -> None:
        """What the file says now, of which there is something to say."""
        old, new = self.current.snapshot.resources, loaded.snapshot.resources
        difference = difference_of(old, new)
        self.error = ""
        if not difference:
            self.current = loaded
            self._metrics.config_synchronized.set(1)
            _log.info("configuration read again: nothing changed")
            return
        if old[STATIC].digest != new[STATIC].digest:
            _log.warning("changes of `config` take effect at the next restart")
        for warning in warnings:
            _log.warning("%s", warning)
        if self.replace(loaded):
            _log.info("configuration revision %d: %s", self.revision, difference)

    def refuse(self, reason: str) -> None:
        """What runs is not what the file says."""
        self.error = reason
        self._metrics.config_synchronized.set(0)
        self.log_refusal()

    def log_refusal(self) -> None:
        """Say so again."""
        _log.error(
            "configuration refused, revision %d stays in force:\n%s", self.revision, self.error
        )

    # --- what is no file's ----------------------------------------------------------------

    async def contribute(self, changed: Mapping[str, Resource], removed: Collection[str]) -> str:
        """See ControlMesh.run."""
        async with self.changing:
            extra = self.extra
            # Looked at one by one: a mesh has tens of thousands, and mostly one changes.
            before = {key: extra.get(key) for key in (*changed, *removed)}
            for key in removed:
                extra.pop(key, None)
            extra.update(changed)
            if all(extra.get(key) == one for key, one in before.items()):
                return ""
            try:
                self.publish()
            except Exception as error:
                # Also after our own fault: else the same, sent again, would change nothing.
                extra.update({key: one for key, one in before.items() if one is not None})
                for key, one in before.items():
                    if one is None:
                        extra.pop(key, None)
                if not isinstance(error, ShmError):
                    raise
                return str(error)
            return ""

    def set_levels(self, spec: str) -> None:
        """Log levels of the workers; empty for those of the configuration. Raises: ShmError."""
        before, self._levels = self._levels, spec or " "
        try:
            self.publish()
        except BaseException:
            self._levels = before
            raise

    def announce(self, trace: Mapping[str, object] | None) -> None:
        """See admin.debug_trace.Announce, which takes back itself what could not be published."""
        self._trace = trace
        self.publish()

    # --- what workers make of it ----------------------------------------------------------

    def look_at_reports(self) -> None:
        """Raises: LockTimeoutError."""
        self._configs.prune()
        alive = [status for status in self._configs.statuses() if status.is_alive]
        refused = [one for one in alive if one.error and one.refused_generation == self.revision]
        if refused:
            self._take_back(refused[0].error)
        elif alive and all(one.applied_generation >= self.revision for one in alive):
            self._good = self.current
            self._good_extra = dict(self.extra)

    def _take_back(self, why: str) -> None:
        if self.extra != self._good_extra:
            # Not the file's fault: it stays, without what the mesh added last.
            self.extra = dict(self._good_extra)
            self._try_publish(self.current)
            _log.error("what the mesh sent was refused: %s", why)
            return
        if self._good is not None and self.current is not self._good:
            # What is published is what a worker that starts has to run on, so a revision that was
            # refused may not stay published (a port that is taken, say).
            self.replace(self._good)
        self.refuse(why)
