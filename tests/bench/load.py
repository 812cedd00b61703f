"""Load generators and what they report: wrk, h2load, event streams, the open loop."""

from __future__ import annotations

import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from tests.bench import events
from tests.bench.openloop import run_open_loop
from tests.bench.peers import SMALL, Peer
from tests.bench.usage import PROXY_CORE, CoreTimes, cpu_seconds, foreign_share

_REPORT = Path(__file__).parent / "wrk" / "report.lua"
_ERRORS_MAX = 0.001


class LoadError(Exception):
    """A generator did not run, or too many of its requests failed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a generator saw: latencies in microseconds; `units` are what CPU is counted by."""

    requests: int
    seconds: float
    errors: int
    p50: float
    p99: float
    units: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. `cpu_us` is per request (per event for streams); `foreign` a share of 1."""

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float
    foreign: float
    errors: int


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load. `post` octets are sent with each request; `streams` a connection (h2)."""

    name: str
    title: str
    tool: str
    scheme: str = "http"
    path: str = "/small"
    connections: int = 32
    streams: int = 1
    post: int = 0


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; `values` in any order, not empty."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _run(command: list[str], seconds: float) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 30, check=False
    )
    if done.returncode:
        raise LoadError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def wrk(peer: Peer, case: Case, seconds: float) -> Seen:
    """HTTP/1.1, closed loop, one thread."""
    command = ["wrk", "-t1", f"-c{case.connections}", f"-d{math.ceil(seconds)}s"]
    command += ["--timeout", "10s", "-s", str(_REPORT), peer.url(case.scheme, case.path)]
    if case.post:
        command += ["--", "post", str(case.post)]
    report = orjson.loads(_run(command, seconds).strip().splitlines()[-1])
    return Seen(
        report["requests"],
        report["micros"] / 1e6,
        report["errors"],
        report["p50"],
        report["p99"],
        report["requests"],
    )


def h2load(peer: Peer, case: Case, seconds: float) -> Seen:
    """HTTP/2, closed loop; latencies from its log, which has one line a request."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "requests"
        command = ["h2load", "-t1", f"-c{case.connections}", f"-m{case.streams}"]
        command += [
            f"-D{math.ceil(seconds)}",
            f"--log-file={log}",
            peer.url(case.scheme, case.path),
        ]
        _run(command, seconds)
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    good = [float(micros) for _, status, micros in lines if status == "200"]
    if not good:
        raise LoadError("h2load: no request succeeded")
    # It opens no new connection for one that the peer ends after so many requests, so the time is
    # that from the first request to the last, not that which it was told.
    starts = [float(start) for start, _, _ in lines]
    spent = (max(starts) - min(starts)) / 1e6
    errors = len(lines) - len(good)
    p50, p99 = percentile(good, 0.5), percentile(good, 0.99)
    return Seen(len(good), spent, errors, p50, p99, len(good))


def sse(peer: Peer, case: Case, seconds: float) -> Seen:
    """Event streams: a request is one stream, CPU is counted by the event."""
    began = time.monotonic()
    counted = events.count(peer.plain, case.connections, seconds)
    spent = time.monotonic() - began
    if not counted.latencies:
        raise LoadError("no stream came to its end")
    micros = [one * 1e6 for one in counted.latencies]
    p50, p99 = percentile(micros, 0.5), percentile(micros, 0.99)
    return Seen(counted.streams, spent, counted.errors, p50, p99, counted.events)


def open_loop(peer: Peer, path: str, rate: float, seconds: float) -> Seen:
    """A fixed rate, whatever comes of it; latencies from the scheduled send times."""
    outcome = run_open_loop(peer.plain, path, SMALL[-16:], rate, seconds)
    if not outcome.latencies:
        raise LoadError("no request was answered")
    micros = [one * 1e6 for one in outcome.latencies]
    done = len(micros)
    p50, p99 = percentile(micros, 0.5), percentile(micros, 0.99)
    return Seen(done, seconds, outcome.errors + outcome.unanswered, p50, p99, done)


def generate(peer: Peer, case: Case, seconds: float, rate: float) -> Seen:
    """Run the case's generator. `rate` is for the open loop."""
    if case.tool == "open":
        return open_loop(peer, case.path, rate, seconds)
    return {"wrk": wrk, "h2load": h2load, "sse": sse}[case.tool](peer, case, seconds)


def measure(peer: Peer, case: Case, seconds: float, rate: float = 0.0) -> Sample:
    """One run with its CPU. Raises: LoadError."""
    return sampled(peer.load_pids, lambda: generate(peer, case, seconds, rate))


def sampled(pids: Sequence[int], run: Callable[[], Seen]) -> Sample:
    """What a run cost these processes. Raises: LoadError, also when 0.1 % of requests failed."""
    core = CoreTimes.now(PROXY_CORE)
    cpu = cpu_seconds(pids)
    seen = run()
    used = cpu_seconds(pids) - cpu
    foreign = foreign_share(core, CoreTimes.now(PROXY_CORE), used)
    if seen.errors > _ERRORS_MAX * (seen.requests + seen.errors):
        raise LoadError(f"{seen.errors} of {seen.requests + seen.errors} requests failed")
    return Sample(
        seen.requests / seen.seconds,
        seen.p50,
        seen.p99,
        used / seen.units * 1e6,
        foreign,
        seen.errors,
    )
