"""10,000 routes: start, match, and a reload of one of them under traffic; start-up of one route."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import uvloop

from sidecar.http.headers import Headers
from sidecar.routing.table import RouteEntry, RouteTable
from tests.bench.openloop import OpenLoop, Outcome
from tests.bench.peers import SMALL
from tests.bench.usage import PROXY_CORE, pinned
from tests.support.gateway import GatewayProcess, free_ports

ROUTES = 10_000
_STREAM_RATE = 100.0
_QUIET_SECONDS = 2.0
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Seconds. `served`: from the rename to the first answer of the changed route.

    `before` and `during`: the longest latency of a stream of 100 requests a second, before the
    rename and from there until half a second after the change was served.
    """

    served: float
    p50: float
    before: float
    during: float
    errors: int

    @property
    def added(self) -> float:
        """What the reload added to the slowest request."""
        return max(self.during - self.p50, 0.0)


def match_us() -> float:
    """Microseconds of one match among 10,000 routes: the slowest kind of path, best of five."""
    entries = [
        RouteEntry.compiled(
            f"route{n}",
            {
                "matches": [
                    {"path": {"kind": ("exact", "prefix")[n % 2], "value": f"/v1/r{n}/items"}}
                ]
            },
            n,
        )
        for n in range(ROUTES)
    ]
    table = RouteTable(entries)
    headers = Headers()
    paths = ("/v1/r5000/items", "/v1/r5001/items/7/parts", "/v1/none/a/b/c/d/e/f/g/h")
    return max(_timed_us(table, path, headers) for path in paths)


def _timed_us(table: RouteTable[int], path: str, headers: Headers) -> float:
    best = float("inf")
    for _ in range(5):
        began = perf_counter_ns()
        for _ in range(5000):
            table.match("bench", path, "GET", headers)
        best = min(best, (perf_counter_ns() - began) / 5000)
    return best / 1000


class _Routes:
    """A gateway whose file has many routes; `change` gives one of them another path."""

    def __init__(self, upstream: int, count: int) -> None:
        (self.port,) = free_ports(1)
        self._upstream = upstream
        self._count = count
        self.process = GatewayProcess({"binds": []})
        self.process.path.write_text(self._text("/route-5000"))

    def _text(self, path: str) -> str:
        """YAML as an operator writes it; PyYAML would take seconds to print it."""
        process = self.process
        lines = [
            "config:",
            f"  adminAddr: 127.0.0.1:{process.admin_port}",
            f"  statsAddr: 127.0.0.1:{process.stats_port}",
            f"  readinessAddr: 127.0.0.1:{process.readiness_port}",
            "  workerThreads: 1",
            "  logging: {level: 'info,request=warn'}",
            "binds:",
            f"- port: {self.port}",
            "  listeners:",
            "  - routes:",
        ]
        for number in range(self._count):
            exact = path if number == 5000 else f"/route-{number}"
            lines += [
                f"    - name: r{number}",
                "      matches:",
                "      - path:",
                f"          exact: {exact}",
                "      backends:",
                f"      - host: 127.0.0.1:{self._upstream}",
            ]
        return "\n".join(lines) + "\n"

    def change(self, path: str) -> None:
        """Put the route where it will answer `path`; the rename is the last thing done."""
        fresh = self.process.path.with_suffix(".new")
        fresh.write_text(self._text(path))
        os.replace(fresh, self.process.path)


@contextmanager
def _gateway(upstream: int, count: int) -> Iterator[tuple[_Routes, float]]:
    """The running gateway, and the seconds from its start to readiness."""
    routes = _Routes(upstream, count)
    with pinned(PROXY_CORE):
        began = time.monotonic()
        with routes.process:
            yield routes, time.monotonic() - began


def start_seconds(upstream: int, count: int, repeats: int) -> float:
    """From the start of the command to readiness 200; the median."""
    spent = []
    for _ in range(repeats):
        with _gateway(upstream, count) as (_, seconds):
            spent.append(seconds)
    return statistics.median(spent)


def reload_one(upstream: int, repeats: int) -> list[Reloaded]:
    """Change one of 10,000 routes, so often."""
    with _gateway(upstream, ROUTES) as (routes, _):
        return [_reload(routes, f"/changed-{n}") for n in range(repeats)]


def _reload(routes: _Routes, path: str) -> Reloaded:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_observed(routes, path))


async def _observed(routes: _Routes, path: str) -> Reloaded:
    loop = asyncio.get_running_loop()
    seconds = _QUIET_SECONDS + 4.0
    stream = OpenLoop(routes.port, "/route-0", SMALL[-16:], connections=8)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(stream.run(_STREAM_RATE, seconds))
        await asyncio.sleep(_QUIET_SECONDS)
        # In another thread, so that writing the file does not hold up the stream's clock.
        await loop.run_in_executor(None, routes.change, path)
        renamed = time.monotonic()
        served = await _first_answer(routes.port, path, renamed)
    return _judged(running.result(), renamed, served)


async def _first_answer(port: int, path: str, since: float) -> float:
    """When the path was first answered with 200, in seconds after `since`."""
    while time.monotonic() - since < _PATIENCE_SECONDS:
        probe = OpenLoop(port, path, b"", connections=1)
        outcome = await probe.run(1000.0, 0.001)
        if outcome.latencies:
            return time.monotonic() - since
        await asyncio.sleep(0.002)
    raise TimeoutError("the changed route was never served")


def _judged(outcome: Outcome, renamed: float, served: float) -> Reloaded:
    """Split the stream at the rename; the file's writing, just before it, belongs to neither."""
    pairs = list(zip(outcome.times, outcome.latencies, strict=True))
    before = [latency for due, latency in pairs if due < renamed - 0.5]
    during = [latency for due, latency in pairs if renamed <= due <= renamed + served + 0.5]
    return Reloaded(
        served,
        statistics.median(before),
        max(before),
        max(during),
        outcome.errors + outcome.unanswered,
    )
