"""Starts a gateway: loads the configuration once, makes the shared tables, runs the supervisor.

Source: design section 1; spec/conventions.md section 5.3 (start-up block, exit codes).

The supervisor loads the configuration itself before it forks: a bad one ends the command at once
with every problem on stderr, and a good one is at hand for control without being read twice.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final

import orjson

from shm.config import ConfigTable
from shm.errors import ShmError
from shm.metrics import MetricsTable
from shm.segment import sweep
from sidecar.config.local import Source
from sidecar.config.problems import InvalidConfigError
from sidecar.config.scalars import duration_seconds
from sidecar.config.snapshot import Resource, encode
from sidecar.config.validate import sidecar_ports
from sidecar.errors import SidecarError
from sidecar.gateway.control import control_main
from sidecar.gateway.folder import Folder
from sidecar.gateway.loading import LoadedSnapshot, Loader
from sidecar.gateway.mesh import Mesh
from sidecar.gateway.parts import bring
from sidecar.gateway.ports import listening_socket, refusal_of
from sidecar.gateway.process import ProcessSpec, tell
from sidecar.gateway.supervisor import Supervisor
from sidecar.gateway.upgrade import UPGRADE_ENV
from sidecar.gateway.worker import worker_main
from sidecar.state.tables import Tables
from sidecar.version import package_version

_METRIC_ROWS: Final = 16_384


def run(source: Source, output: str, mesh: Mesh | None = None) -> int:
    """Run until told to stop; gives the exit code. `output`: "text" or "json" (problems)."""
    loader = Loader(source)
    try:
        loaded = loader.load()
    except InvalidConfigError as error:
        _print_problems(error, output)
        return 1
    config: Any = loaded.snapshot.resources["static/config"].data["config"]
    workers = worker_count(config.get("workerThreads"))
    for warning in loaded.warnings:
        tell(f"warning: {warning.render(source.name)}")
    taken = _taken_port(loaded, config)
    if taken:
        tell(f"error: {taken}")
        return 1
    try:
        with ExitStack() as stack:
            shared = _shared(source, workers, config, stack)
            shared.configs.publish(encode(loaded.snapshot, 1))
            bring(loaded.snapshot.resources.values())
            if mesh is not None:
                mesh.bring(loaded.snapshot.resources)
            tell(_banner(loader.source, loaded, workers, config))
            return Supervisor(_spec(loader, loaded, shared, workers, config, mesh)).run()
    except (SidecarError, ShmError) as error:
        tell(f"error: {error}")
        return 1


@final
@dataclass(frozen=True, slots=True)
class _Shared:
    """What the processes share; made before there is more than one."""

    configs: ConfigTable
    metrics: MetricsTable
    tables: Tables
    directory: str
    """Of the workers' sockets for each other; only this user may look into it."""

    def verify(self) -> None:
        """See ProcessSpec."""
        self.configs.verify()
        self.metrics.verify()
        self.tables.verify()


def _shared(source: Source, workers: int, config: Any, stack: ExitStack) -> _Shared:
    """Make the shared memory; the stack removes it. Raises: ShmError, ConfigError."""
    sweep()
    instance = f"agw{os.getpid()}"
    configs = ConfigTable.create(instance, workers)
    stack.callback(configs.close)
    # One column more than workers: control's own.
    metrics = MetricsTable.create(instance, workers + 1, _METRIC_ROWS)
    stack.callback(metrics.close)
    is_upgrade = UPGRADE_ENV in os.environ
    state = config.get("state") or {}
    tables = Tables.open(
        state,
        instance,
        source.path,
        workers=workers,
        from_living=is_upgrade,
        session_key=(config.get("session") or {}).get("key") or "",
    )
    stack.callback(tables.close)
    for refusal in tables.refusals:
        print(f"warning: kept state was made anew: {refusal}", file=sys.stderr)
    folder = Folder.make(workers)
    stack.callback(folder.close)
    return _Shared(configs, metrics, tables, folder.path)


def _spec(
    loader: Loader,
    loaded: LoadedSnapshot,
    shared: _Shared,
    workers: int,
    config: Any,
    mesh: Mesh | None,
) -> ProcessSpec:
    configs, metrics, tables = shared.configs, shared.metrics, shared.tables

    return ProcessSpec(
        control_main=partial(
            control_main,
            loader=loader,
            configs=configs,
            metrics=metrics,
            tables=tables,
            preloaded=lambda: loaded,
            mesh=mesh,
        ),
        worker_main=partial(
            worker_main,
            configs=configs,
            metrics=metrics,
            tables=tables,
            directory=shared.directory,
            mesh=mesh,
        ),
        workers=workers,
        drain_seconds=duration_seconds(config.get("connectionTerminationDeadline") or "5s"),
        verify=shared.verify,
        folder=shared.directory,
    )


def _taken_port(loaded: LoadedSnapshot, config: Any) -> str:
    """What is wrong with the ports, if anything; looked at once, before there is any worker.

    The workers share their ports (SO_REUSEPORT), and so would a second gateway of the same user,
    each answering some of the other's clients. Only an upgrade means to do that.
    """
    if UPGRADE_ENV in os.environ:
        return ""
    places = loaded.snapshot.places
    wanted = [
        (f"{places.get(key, key)}.port", port)
        for key, resource in loaded.snapshot.resources.items()
        if (port := listened_port(resource))
    ]
    wanted += [
        (f"config.istio.sidecar.{key}", port) for key, port in sidecar_ports({"config": config})
    ]
    for place, port in wanted:
        try:
            listening_socket(port, ipv6=bool(config.get("enableIpv6", True))).close()
        except OSError as error:
            return f"{place}: port {port}: {refusal_of(error)}"
    return ""


def listened_port(resource: Resource) -> int:
    """Where a resource has the workers listen; 0 for one that does not."""
    if resource.kind != "bind" or resource.data.get("mode") == "internal":
        return 0
    port = resource.data.get("port")
    return port if isinstance(port, int) else 0


def worker_count(value: object) -> int:
    """Workers for `config.workerThreads`: a number, a share of the CPUs (`50%`), or `auto`."""
    available = len(os.sched_getaffinity(0))
    limit = _cgroup_cpus()
    if limit:
        available = max(1, min(available, limit))
    if isinstance(value, str) and value.endswith("%"):
        return max(1, round(available * float(value[:-1]) / 100))
    if value in (None, "auto"):
        return available
    return max(1, int(str(value)))


def _cgroup_cpus() -> int:
    """The CPU quota of this cgroup (version 2), rounded up; 0 without one."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else -(-int(quota) // int(period))


def _banner(source: Source, loaded: LoadedSnapshot, workers: int, config: Any) -> str:
    resources = loaded.snapshot.resources.values()
    ports = sorted(port for one in resources if (port := listened_port(one)))
    routes = sum(one.kind in ("route", "tcproute") for one in resources)
    return "\n".join(
        (
            f"agentgateway-sidecar {package_version()}: {source.name}",
            f"  listening on    {', '.join(map(str, ports)) or 'no port'} ({_count(routes)})",
            f"  workers         {workers}, state in shared memory",
            *_captures(config),
            f"  admin           {_place(config.get('adminAddr'))}",
            f"  stats           {_place(config.get('statsAddr'), '/metrics')}",
            f"  readiness       {_place(config.get('readinessAddr'), '/healthz/ready')}",
        )
    )


def _captures(config: Any) -> list[str]:
    """The line of a pod's sidecar, which has listeners of its own."""
    ports = [str(port) for _, port in sidecar_ports({"config": config})]
    return [f"  captures        {', '.join(ports)} (sidecar of its pod)"] if ports else []


def _count(routes: int) -> str:
    return "1 route" if routes == 1 else f"{routes} routes"


def _place(address: str, path: str = "") -> str:
    """Where a service is found; one that is off has no path."""
    return address if address == "off" else address + path


def _print_problems(error: InvalidConfigError, output: str) -> None:
    if output == "json":
        report = {
            "valid": False,
            "problems": [problem.to_json(error.file) for problem in error.problems],
            "warnings": [warning.to_json(error.file) for warning in error.warnings],
        }
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    for problem in error.problems:
        print(problem.render(error.file), file=sys.stderr)
    for warning in error.warnings:
        print(f"warning: {warning.render(error.file)}", file=sys.stderr)
