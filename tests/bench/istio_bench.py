"""What discovery costs: `python -m tests.bench.istio_bench [--workloads N] [--write]`.

An istiod in a process of its own tells a client of a whole mesh over TLS: time from the start to
ready, resources made for the snapshot included; then one endpoint that changes, many times. Missed
targets do not change the exit code.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from subprocess import PIPE
from typing import Final

import uvloop

from istio.endpoint import Endpoint
from istio.xds import translate
from istio.xds._pb import workload_pb2 as wds
from istio.xds.client import Subscription, XdsClient
from istio.xds.delta import Node
from sidecar.config.discovery import service_of, workload_of
from sidecar.config.snapshot import Resource
from tests.bench.section import Figures
from tests.support.authority import Authority
from tests.support.istiod import Istiod

TARGET_LOAD_SECONDS, TARGET_CHANGE_SECONDS = 3.0, 0.020
PATIENCE_SECONDS = 60.0
COMMAND: Final = "python -m tests.bench.istio_bench --write"


def mesh(workloads: int, services: int) -> dict[str, bytes]:
    """Services with an address and two ports each, and workloads that serve one each."""
    made: dict[str, bytes] = {}
    for number in range(services):
        vip = wds.NetworkAddress(address=IPv4Address(0x0A600000 + number).packed)
        one = wds.Service(
            name=f"service-{number}",
            namespace=f"ns-{number % 50}",
            hostname=f"service-{number}.ns-{number % 50}.svc.cluster.local",
            addresses=[vip],
            ports=[
                wds.Port(service_port=80, target_port=8080, app_protocol=wds.HTTP11),
                wds.Port(service_port=443, target_port=8443),
            ],
        )
        made[f"{one.namespace}/{one.hostname}"] = wds.Address(service=one).SerializeToString()
    for number in range(workloads):
        made |= [workload(number, services)]
    return made


def workload(number: int, services: int, revision: int = 0) -> tuple[str, bytes]:
    of = number % services
    namespace = f"ns-{of % 50}"
    hostname = f"{namespace}/service-{of}.{namespace}.svc.cluster.local"
    ports = wds.PortList(
        ports=[
            wds.Port(service_port=80, target_port=8080),
            wds.Port(service_port=443, target_port=8443),
        ]
    )
    one = wds.Workload(
        uid=f"Kubernetes//Pod/{namespace}/pod-{number}",
        name=f"pod-{number}",
        namespace=namespace,
        addresses=[IPv4Address(0x0A000000 + number).packed],
        tunnel_protocol=wds.HBONE,
        trust_domain="cluster.local",
        service_account=f"account-{of}",
        node=f"node-{number % 200}",
        canonical_name=f"service-{of}",
        canonical_revision=f"v{revision}",
        workload_name=f"service-{of}",
        services={hostname: ports},
        cluster_id="Kubernetes",
        locality=wds.Locality(region="r", zone=f"z{number % 3}"),
    )
    return one.uid, wds.Address(workload=one).SerializeToString()


# --- the server's process -----------------------------------------------------------------


def serve(workloads: int, services: int) -> None:
    authority = Authority()
    with Istiod(authority.issue(["127.0.0.1"])) as istiod:
        istiod.put(translate.ADDRESS, mesh(workloads, services))
        print(json.dumps([istiod.address, authority.root]), flush=True)
        for revision, _ in enumerate(sys.stdin, 1):
            istiod.put(translate.ADDRESS, dict([workload(revision % 100, services, revision)]))


# --- the client ---------------------------------------------------------------------------


def resource_of(payload: bytes) -> Resource:
    """The snapshot's resource, as control makes it."""
    ((kind, one),) = translate.address(payload).items()
    return Resource.of(kind, *(service_of if kind == "service" else workload_of)(one))


class Holder:
    """Keeps the snapshot's resources."""

    def __init__(self) -> None:
        self.held: dict[str, Resource] = {}
        self.updates: asyncio.Queue[float] = asyncio.Queue()

    def apply(self, updates: Mapping[str, Resource], removed: Sequence[str]) -> Mapping[str, str]:
        self.held.update(updates)
        for name in removed:
            self.held.pop(name, None)
        self.updates.put_nowait(time.perf_counter())
        return {}


async def measure(server: subprocess.Popen[str], changes: int, found: Figures) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    address, root = json.loads(await asyncio.to_thread(server.stdout.readline))
    holder = Holder()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    client = XdsClient(
        Endpoint(address, roots=root),
        Node("agentgateway~1.1.1.1~bench.ns~ns.svc.cluster.local"),
        [Subscription(translate.ADDRESS, resource_of, holder.apply)],
    )
    task = asyncio.create_task(client.run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await client.wait_ready()
    load = time.perf_counter() - wall
    load_cpu = time.process_time() - cpu
    after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await holder.updates.get()
    took: list[float] = []
    for _ in range(changes):
        start = time.perf_counter()
        server.stdin.write("\n")
        server.stdin.flush()
        async with asyncio.timeout(PATIENCE_SECONDS):
            took.append(await holder.updates.get() - start)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    found.reached("initial load, to ready", load, TARGET_LOAD_SECONDS, "s")
    bound = TARGET_CHANGE_SECONDS * 1e3
    found.reached("one endpoint changed, p50", statistics.median(took) * 1e3, bound, "ms")
    found.noted(f"one endpoint changed, at most: {max(took) * 1e3:.2f} ms")
    found.noted(f"CPU of the load: {load_cpu:.2f} s, for {len(holder.held):,} resources")
    found.noted(f"peak memory grew by {(after_kib - before_kib) / 1024:.0f} MiB")


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
    workloads, services = given.workloads // share, max(given.services // share, 1)
    if given.serve:
        serve(workloads, services)
        return
    command = [sys.executable, "-m", "tests.bench.istio_bench", "--serve"]
    sizes = [f"--workloads={workloads}", f"--services={services}"]
    found = Figures(
        "Discovery",
        COMMAND,
        f"An istiod in a process of its own tells of {workloads:,} workloads and {services:,}"
        f" services over TLS.\nLoad {os.getloadavg()[0]:.1f} at the start.",
    )
    with subprocess.Popen([*command, *sizes], stdin=PIPE, stdout=PIPE, text=True) as server:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(measure(server, given.changes, found))
        finally:
            assert server.stdin is not None
            server.stdin.close()
    if given.write:
        found.write()


if __name__ == "__main__":
    main()
