"""What the store of a mesh and its policies cost: `python -m tests.bench.mesh_bench [--write]`.

10,000 workloads of 1,000 services; 10,000 policies of 10 rules. Times are CPU, best of five; memory
is what the resident size grew by in a process of its own that keeps nothing else.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from time import process_time_ns
from typing import Any, Final

import orjson

from hbone.wire.authority import parse_authority
from hbone.wire.identity import Identity
from istio.authz import Connection, Policies, Request, Subject
from istio.outbound import Source, decide
from istio.workload import Store
from sidecar.config.discovery import service_of, workload_of
from tests.bench.section import Figures

SERVICES = 1_000
WORKLOADS = 10_000
POLICIES = 10_000
RULES = 10
COMMAND: Final = "python -m tests.bench.mesh_bench --write"

Data = dict[str, Any]


def timed(
    found: Figures, name: str, call: Callable[[], object], rounds: int, bound_us: float = 0.0
) -> None:
    us = min(_once(call, rounds) for _ in range(5)) / 1000
    if bound_us:
        found.reached(name, us, bound_us, "µs")
    else:
        found.noted(f"{name}: {us:,.1f} µs")


def _once(call: Callable[[], object], rounds: int) -> float:
    begin = process_time_ns()
    for _ in range(rounds):
        call()
    return (process_time_ns() - begin) / rounds


def hostname(number: int) -> str:
    return f"svc-{number}.ns-{number % 50}.svc.cluster.local"


def services() -> Iterator[tuple[str, Data]]:
    for number in range(SERVICES):
        namespace = f"ns-{number % 50}"
        name, data = service_of(
            {
                "name": f"svc-{number}",
                "namespace": namespace,
                "hostname": hostname(number),
                "vips": [f"/10.0.{number // 250}.{number % 250}"],
                "ports": {"80": 8080, "443": 8443},
                "subjectAltNames": [f"spiffe://cluster.local/ns/{namespace}/sa/svc-{number}"],
                "waypoint": {"destination": f"{namespace}/wp.{namespace}.svc.cluster.local"}
                if number % 2
                else None,
            }
        )
        yield f"service/{name}", data


def one_workload(number: int, *, status: str = "Healthy") -> tuple[str, Data]:
    of = number % SERVICES
    namespace = f"ns-{of % 50}"
    uid, data = workload_of(
        {
            "uid": f"Kubernetes//Pod/{namespace}/svc-{of}-7c9f8b6d5-{number:05}",
            "name": f"svc-{of}-7c9f8b6d5-{number:05}",
            "namespace": namespace,
            "workloadIps": [f"10.{1 + number // 62500}.{number // 250 % 250}.{number % 250}"],
            "protocol": "HBONE",
            "trustDomain": "cluster.local",
            "serviceAccount": f"svc-{of}",
            "node": f"node-{number % 100}",
            "clusterId": "Kubernetes",
            "status": status,
            "canonicalName": f"svc-{of}",
            "canonicalRevision": "v1",
            "workloadType": "deployment",
            "workloadName": f"svc-{of}",
            "locality": {"region": "eu", "zone": f"eu-{number % 3}"},
            "services": {f"{namespace}/{hostname(of)}": {"80": 8080, "443": 8443}},
        }
    )
    return f"workload/{uid}", data


def everything() -> dict[str, Data]:
    return {**dict(services()), **dict(map(one_workload, range(WORKLOADS)))}


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _grow(make: str, path: str, sent: Any) -> None:
    """In a process of its own, which reads one resource after the other, as a worker does."""
    kept: Any = Policies() if make == "all_policies" else Store()
    before = resident_bytes()
    with open(path, "rb") as file:
        for line in file:
            kept.apply(orjson.loads(line), ())
    gc.collect()
    sent.send(resident_bytes() - before)


def grown(make: str, data: dict[str, Data]) -> int:
    context = get_context("spawn")
    here, there = context.Pipe()
    with tempfile.NamedTemporaryFile() as file:
        for name, one in data.items():
            file.write(orjson.dumps({name: one}) + b"\n")
        file.flush()
        process = context.Process(target=_grow, args=(make, file.name, there))
        process.start()
        found: int = here.recv()
        process.join()
    return found


def bench_store(found: Figures) -> None:
    data = everything()
    begin = process_time_ns()
    store = Store()
    store.apply(data, ())
    found.noted(f"load of all of it: {(process_time_ns() - begin) / 1e6:,.0f} ms")
    changes = [dict([one_workload(5, status=status)]) for status in ("Unhealthy", "Healthy")]
    turn = iter(range(10**9))
    timed(
        found,
        "one endpoint changed",
        lambda: store.apply(changes[next(turn) % 2], ()),
        1000,
        1000.0,
    )
    service = dict([next(services())])
    timed(found, "one service changed", lambda: store.apply(service, ()), 1000, 1000.0)
    me = store.workload(one_workload(7)[0].removeprefix("workload/"))
    assert me is not None
    source = Source.of(me, me.ips[0])
    numbers = random.Random(1)
    for name, text in (
        ("a workload", b"10.1.0.5:8080"),
        ("a service", b"10.0.0.4:80"),
        ("an unknown address", b"1.2.3.4:80"),
    ):
        timed(
            found,
            f"decision about {name}",
            partial(decide, store, parse_authority(text), source, numbers.random),
            5000,
        )

    def after_change() -> None:
        store.apply(changes[next(turn) % 2], ())
        decide(store, parse_authority(b"10.0.0.5:80"), source, numbers.random)

    timed(
        found, "an endpoint changed, and a decision about its service", after_change, 500, 20_000.0
    )
    found.reached("memory of the store", grown("everything", data) / 1e6, 60, "MB")


def one_policy(number: int, *, scope: str = "NAMESPACE", namespace: str = "ns") -> Data:
    rules = [
        [
            [
                {
                    "principals": [
                        {"exact": f"cluster.local/ns/ns-{number}/sa/account-{rule}"},
                        {"prefix": f"cluster.local/ns/other-{number}-{rule}/"},
                    ],
                    "notSourceIps": [f"10.{rule}.0.0/16"],
                }
            ],
            [{"destinationPorts": [80, 443, 8080]}],
        ]
        for rule in range(RULES)
    ]
    return {
        "name": f"p-{number}",
        "namespace": namespace,
        "scope": scope,
        "action": "ALLOW" if number % 2 else "DENY",
        "dryRun": False,
        "rules": rules,
    }


def all_policies() -> dict[str, Data]:
    return {f"authorization/ns/p-{number}": one_policy(number) for number in range(POLICIES)}


def bench_policies(found: Figures) -> None:
    data = all_policies()
    begin = process_time_ns()
    policies = Policies()
    policies.apply(data, ())
    found.noted(f"load of all policies: {(process_time_ns() - begin) / 1e6:,.0f} ms")
    subject = Subject("ns")
    member = Connection(
        Identity("cluster.local", "ns-9999", "account-9"), "10.200.0.1", "10.1.1.1", 80
    )
    nobody = Connection(Identity("cluster.local", "none", "none"), "10.200.0.1", "10.1.1.1", 80)
    plain = Connection(None, "10.200.0.1", "10.1.1.1", 80)
    request = Request("GET", "/", "a", lambda _: ())
    for name, connection in (("allowed", member), ("not allowed", nobody), ("plaintext", plain)):
        timed(
            found,
            f"decision among {POLICIES} policies of {RULES} rules, {name}",
            partial(policies.decide, subject, connection),
            2000,
            1000.0,
        )
    timed(found, "the same of a request", lambda: policies.decide(subject, member, request), 2000)
    changed = {"authorization/ns/p-5": one_policy(5)}
    timed(found, "one policy changed", lambda: policies.apply(changed, ()), 500, 20_000.0)

    def after_change() -> None:
        policies.apply(changed, ())
        policies.decide(subject, member)

    timed(found, "one policy changed, and a decision", after_change, 500, 20_000.0)
    found.noted(f"memory of all policies: {grown('all_policies', data) / 1e6:,.0f} MB")
    worst = Policies()
    worst.apply(
        {
            f"authorization/ns/p-{number}": {
                **one_policy(number),
                "action": "DENY",
                "rules": [[[{"notPrincipals": [{"exact": "x"}], "notDestinationPorts": [80]}]]]
                * 10,
            }
            for number in range(POLICIES)
        },
        (),
    )
    timed(
        found,
        "decision where all rules only say who is not meant",
        lambda: worst.decide(subject, member),
        3,
        1000.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write its section of the page")
    given = parser.parse_args()
    found = Figures(
        "Mesh: store and policies",
        COMMAND,
        f"{WORKLOADS:,} workloads of {SERVICES:,} services, {POLICIES:,} policies of {RULES} rules;"
        " CPU time in one process, best of five.",
    )
    bench_store(found)
    bench_policies(found)
    if given.write:
        found.write()


if __name__ == "__main__":
    main()
