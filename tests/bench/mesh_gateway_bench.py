"""What a mesh costs a gateway: `python -m tests.bench.mesh_gateway_bench [--quick] [--write]`.

A whole gateway with one worker, and an istiod in a process of its own that tells it of a mesh:
seconds from the start of the gateway to readiness; then one workload that changes, many times, from
the push until the worker has applied it; and the memory of control and worker, beside that of the
same gateway in a mesh of one service and one workload. Missed targets do not change the exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import PIPE
from typing import Any, Final

from istio.xds.translate import ADDRESS, RESOURCE
from shm.config import ConfigTable
from tests.bench.istio_bench import mesh, workload
from tests.bench.section import Figures
from tests.bench.usage import cpu_seconds, descendants, memory
from tests.support.gateway import GatewayProcess
from tests.support.istiod import Istiod

TARGET_LOAD_SECONDS, TARGET_CHANGE_MS, TARGET_MIB = 3.0, 20.0, 60.0
PATIENCE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.0005
_SETTLE_SECONDS: Final = 0.02
"""Between two changes: the answer to the one before is out of the way."""
COMMAND: Final = "python -m tests.bench.mesh_gateway_bench --write"


# --- the server's process -----------------------------------------------------------------


def serve(workloads: int, services: int) -> None:
    """Say when the gateway came; then push a change for every line that comes, and say when.

    Times are those of CLOCK_MONOTONIC, which all processes share.
    """
    with Istiod() as istiod:
        istiod.put(ADDRESS, mesh(workloads, services))
        istiod.put(RESOURCE, {})
        print(json.dumps(istiod.address), flush=True)
        istiod.wait_streams(1)
        print(json.dumps(time.monotonic()), flush=True)
        for revision, _ in enumerate(sys.stdin, 1):
            number = revision * 97 % workloads
            change = dict([workload(number, services, revision)])
            began = time.monotonic()
            istiod.put(ADDRESS, change)
            print(json.dumps([began, time.monotonic()]), flush=True)


# --- the gateway --------------------------------------------------------------------------


@contextmanager
def _istiod(workloads: int, services: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.bench.mesh_gateway_bench", "--serve"]
    sizes = [f"--workloads={workloads}", f"--services={services}"]
    with subprocess.Popen([*command, *sizes], stdin=PIPE, stdout=PIPE, text=True) as server:
        try:
            yield server
        finally:
            assert server.stdin is not None
            server.stdin.close()


def _said(server: subprocess.Popen[str]) -> Any:
    assert server.stdout is not None
    return json.loads(server.stdout.readline())


@contextmanager
def _gateway(server: subprocess.Popen[str]) -> Iterator[tuple[GatewayProcess, float, float]]:
    """The gateway; seconds to readiness, from its start, and from the stream that it opened."""
    address = _said(server)
    environment = {"NAMESPACE": "ns", "GATEWAY": "gw", "XDS_ADDRESS": address}
    began = time.monotonic()
    with GatewayProcess({}, env=environment) as one:
        ready = time.monotonic()
        yield one, ready - began, ready - _said(server)


@dataclass(frozen=True, slots=True)
class _Use:
    """Of each process by its pid: MiB of PSS, and seconds of CPU time since it began."""

    mib: dict[int, float]
    cpu: dict[int, float]

    @classmethod
    def of(cls, gateway: GatewayProcess) -> _Use:
        pids = descendants(gateway.process.pid)
        return cls(
            {pid: memory(pid).pss / 1024 for pid in pids},
            {pid: cpu_seconds([pid]) for pid in pids},
        )


def _roles(gateway: GatewayProcess) -> dict[str, int]:
    """Asked last: whoever shows ten thousand resources needs memory for it."""
    return {"control": gateway.control_pid(), "worker": gateway.worker_pids()[0]}


def _change(server: subprocess.Popen[str], table: ConfigTable) -> tuple[float, float, float]:
    """Milliseconds from the push to the published revision, to the worker that has applied it, and
    of the push itself within istiod."""
    assert server.stdin is not None
    wanted = table.generation + 1
    server.stdin.write("\n")
    server.stdin.flush()
    until = time.monotonic() + PATIENCE_SECONDS
    while table.generation < wanted:
        assert time.monotonic() < until, "nothing was published"
        time.sleep(_POLL_SECONDS)
    published = time.monotonic()
    while any(one.applied_generation < wanted for one in table.statuses()):
        assert time.monotonic() < until, table.statuses()
        time.sleep(_POLL_SECONDS)
    applied = time.monotonic()
    began, pushed = _said(server)
    return tuple((at - began) * 1e3 for at in (published, applied, pushed))


def measure(workloads: int, services: int, changes: int, found: Figures) -> None:
    with _istiod(1, 1) as server, _gateway(server) as (gateway, alone_seconds, _):
        alone, alone_roles = _Use.of(gateway), _roles(gateway)
    with _istiod(workloads, services) as server, _gateway(server) as (gateway, seconds, load):
        loaded = _Use.of(gateway)
        table = ConfigTable.attach(f"agw{gateway.process.pid}")
        took = []
        for _ in range(changes):
            took.append(_change(server, table))
            time.sleep(_SETTLE_SECONDS)
        after = _Use.of(gateway)
        table.close()
        roles = _roles(gateway)
    published, applied, pushed = ([one[n] for one in took] for n in range(3))
    found.reached("initial load, stream opened to ready", load, TARGET_LOAD_SECONDS, "s")
    found.reached("start of the gateway to ready", seconds, TARGET_LOAD_SECONDS, "s")
    p50 = statistics.median(applied)
    found.reached("one workload changed, push to applied, p50", p50, TARGET_CHANGE_MS, "ms")
    for role, pid in roles.items():
        growth = after.mib[pid] - alone.mib[alone_roles[role]]
        found.reached(f"growth of the {role} (PSS)", growth, TARGET_MIB, "MiB")
    found.noted(f"start to ready in a mesh of one service and one workload: {alone_seconds:.2f} s")
    found.noted(
        f"one workload changed: applied after at most {max(applied):.1f} ms; published after"
        f" {statistics.median(published):.1f} ms p50, {max(published):.1f} ms at most;"
        f" istiod's own part {statistics.median(pushed):.1f} ms p50"
    )
    for role, pid in roles.items():
        spent = (after.cpu[pid] - loaded.cpu[pid]) / changes
        found.noted(
            f"{role}: {alone.mib[alone_roles[role]]:.0f} MiB in the small mesh,"
            f" {loaded.mib[pid]:.0f} MiB when ready, {after.mib[pid]:.0f} MiB after {changes}"
            f" changes; {alone.cpu[alone_roles[role]]:.2f} s of CPU time until ready in the small"
            f" mesh, {loaded.cpu[pid]:.2f} s in the large one, and {spent * 1e3:.1f} ms a change"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=1_000)
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--write", action="store_true", help="write its section of the page")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    share = 10 if given.quick else 1
    workloads, services = given.workloads // share or 1, given.services // share or 1
    if given.serve:
        serve(workloads, services)
        return
    found = Figures(
        "A mesh in the gateway",
        COMMAND,
        f"A gateway with one worker, and an istiod in a process of its own that tells of"
        f" {workloads:,} workloads\nand {services:,} services without TLS."
        f" Load {os.getloadavg()[0]:.1f} at the start.",
    )
    measure(workloads, services, given.changes, found)
    if given.write:
        found.write()


if __name__ == "__main__":
    main()
