"""What routing costs: `python -m tests.bench.routing_bench`. Prints microseconds, best of five."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import perf_counter_ns

from sidecar.http.headers import Headers
from sidecar.net import clienthello
from sidecar.routing import canonical
from sidecar.routing.balance import Endpoint, Group, WeightedChoice, pick
from sidecar.routing.outlier import Eviction, Outcome, Outliers
from sidecar.routing.table import RouteEntry, RouteTable
from tests.support.endpoints import slot, table
from tests.support.hello import client_hello

HEADERS = Headers((f"x-header-{n}".encode(), b"value") for n in range(12))


def timed(name: str, call: Callable[[], object], rounds: int = 20_000, budget: str = "") -> None:
    best = min(_once(call, rounds) for _ in range(5))
    print(f"{name:<58}{best / 1000:>10.3f} us  {budget}")


def _once(call: Callable[[], object], rounds: int) -> float:
    begin = perf_counter_ns()
    for _ in range(rounds):
        call()
    return (perf_counter_ns() - begin) / rounds


def routes(count: int, *, hosts: int = 1) -> list[RouteEntry[int]]:
    return [
        RouteEntry.compiled(
            f"default/default/bind/80/l/default/route{n}",
            {
                "hostnames": [f"h{n % hosts}.example.com"],
                "matches": [
                    {"path": {"kind": ("exact", "prefix")[n % 2], "value": f"/api/v1/res{n}/items"}}
                ],
            },
            n,
        )
        for n in range(count)
    ]


def bench_canonical() -> None:
    target = "/api/v1/users/1234567/profile.json"
    timed("canonical path, nothing to do", lambda: canonical.resolve(target), budget="<= 0.4")
    timed("canonical path with a query", lambda: canonical.resolve(target + "?page=2&size=50"))
    timed("canonical path, %2F", lambda: canonical.resolve("/-/package/%40scope%2Fname"))
    timed("canonical path, dot segments", lambda: canonical.resolve("/a/b/../c"))
    timed("canonical authority, seen before", lambda: canonical.authority("Api.Example.com:8443"))


def bench_table() -> None:
    one = RouteTable(routes(1))
    host = "h0.example.com"
    timed(
        "match, 1 route, prefix",
        lambda: RouteTable.match(one, host, "/api/v1/res0/items", "GET", HEADERS),
    )
    entries = routes(10_000)
    begin = perf_counter_ns()
    table = RouteTable(entries)
    print(f"{'build of 10,000 compiled routes':<58}{(perf_counter_ns() - begin) / 1e6:>10.1f} ms")
    for name, path in (
        ("exact", "/api/v1/res5000/items"),
        ("prefix", "/api/v1/res5001/items/7/parts"),
        ("deep miss", "/api/v1/none/a/b/c/d/e/f/g/h"),
    ):
        timed(
            f"match, 10,000 routes of a host, {name}",
            lambda path=path: table.match(host, path, "GET", HEADERS),  # type: ignore[misc]
            budget="<= 20",
        )
    wide = RouteTable(routes(10_000, hosts=1000))
    timed(
        "match, 10,000 routes of 1,000 hosts",
        lambda: wide.match("h7.example.com", "/api/v1/res7/items/x", "GET", HEADERS),
    )
    changed = routes(1)
    timed("replace 1 of 10,000 routes of a host", lambda: table.replaced(changed), 50, "<= 2000")
    timed("replace 1 of 10,000 of 1,000 hosts", lambda: wide.replaced(changed), 50, "<= 2000")
    regexes = [
        RouteEntry.compiled(
            f"x{n}",
            {"matches": [{"path": {"kind": "regex", "value": f"/svc{n}/[0-9]+/.*"}}]},
            n,
        )
        for n in range(50)
    ]
    mixed = RouteTable(regexes + routes(100))
    timed("match, 50 regexes", lambda: mixed.match("x", "/svc7/12/parts", "GET", HEADERS))
    begin = perf_counter_ns()
    routes(10_000)
    print(f"{'compile of 10,000 routes':<58}{(perf_counter_ns() - begin) / 1e6:>10.1f} ms")


def bench_balance() -> None:
    chance = random.Random(1).random
    groups = [Group([Endpoint(f"e{n}") for n in range(8)])]
    timed("pick of two among 8", lambda: pick(groups, 1, chance))
    weighted = WeightedChoice([("a", 1), ("b", 3)])
    timed("weighted choice of two", lambda: weighted.pick(chance))
    endpoint, outliers = Endpoint("e"), Outliers()
    good = Outcome(200, latency_seconds=0.01)
    timed("record a success", lambda: outliers.record(endpoint, good, 1, 1))


def bench_shared() -> None:
    """What endpoints cost whose state four workers share."""
    with table(columns=4) as shared:
        column = shared.column(0)
        endpoints = [Endpoint(f"e{n}", state=slot(column, f"e{n}")) for n in range(8)]
        chance = random.Random(1).random
        groups = [Group(endpoints)]
        timed("shared: pick of two among 8", lambda: pick(groups, 1, chance))
        endpoint, outliers = endpoints[0], Outliers(Eviction(1, consecutive_failures=10**9))
        state = endpoint.state
        timed(
            "shared: in flight, begin and end",
            lambda: (state.begin(), state.end()),
            budget="<= 0.6",
        )
        good, bad = Outcome(200, latency_seconds=0.01), Outcome(500)
        timed(
            "shared: record a success", lambda: outliers.record(endpoint, good, 1, 1), 2000, "<= 2"
        )
        timed("shared: record a failure", lambda: outliers.record(endpoint, bad, 1, 1), 2000)


def bench_hello() -> None:
    hello = client_hello("api.example.com", alpn=[b"h2", b"http/1.1"], padding=400)
    timed("client hello", lambda: clienthello.parse(hello))


if __name__ == "__main__":
    bench_canonical()
    bench_table()
    bench_balance()
    bench_shared()
    bench_hello()
