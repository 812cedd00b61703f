"""What is measured, the check that each peer does it right, and the order of the runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.bench.events import is_incremental
from tests.bench.load import Case, LoadError, Sample, measure
from tests.bench.peers import LARGE, SMALL, Peer, Stage, fetch
from tests.bench.usage import wait_calm

OPEN = Case("open", "HTTP/1.1 open loop at half of native's peak", "open")
PEAK = "h1-32"
CASES = (
    Case("h1-1", "HTTP/1.1, 1 connection", "wrk", connections=1),
    Case(PEAK, "HTTP/1.1, 32 connections", "wrk"),
    Case("h1-256", "HTTP/1.1, 256 connections", "wrk", connections=256),
    Case("tls-32", "HTTP/1.1 over TLS 1.3, 32 connections", "wrk", "https"),
    Case("h2-1", "HTTP/2, 1 connection, 32 streams", "h2load", "h2", connections=1, streams=32),
    Case("h2-32", "HTTP/2, 32 connections, 1 stream each", "h2load", "h2"),
    Case("h2-256", "HTTP/2, 256 connections, 1 stream each", "h2load", "h2", connections=256),
    Case(
        "body-32", "64 KiB up and 64 KiB down, 32 connections", "wrk", "http", "/large", post=65536
    ),
    Case("sse-32", "100 events of 1 KiB, 32 streams at a time", "sse", "http", "/events"),
    OPEN,
)
FOREIGN_MAX = 0.10
_PATIENCE_SECONDS = 2.0


@dataclass
class Cell:
    """The samples of one peer under one case; `failure` says why there are none."""

    case: Case
    peer: str
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""

    def median(self) -> Sample:
        """Each figure's median over the repeats."""
        rows = self.samples
        return Sample(
            statistics.median(one.rate for one in rows),
            statistics.median(one.p50_us for one in rows),
            statistics.median(one.p99_us for one in rows),
            statistics.median(one.cpu_us for one in rows),
            statistics.median(one.foreign for one in rows),
            sum(one.errors for one in rows),
        )


def qualify(peer: Peer) -> str:
    """ "" when the peer proxies what will be measured rightly, else what it got wrong."""
    checks: list[tuple[str, Callable[[], bool]]] = [
        ("a small body", lambda: fetch(peer, "http", "/small") == (200, SMALL)),
        ("64 KiB up and down", lambda: fetch(peer, "http", "/large", LARGE) == (200, LARGE)),
        ("events as they come", lambda: is_incremental(peer.plain)),
    ]
    if "https" in peer.schemes:
        checks.append(("TLS", lambda: fetch(peer, "https", "/small") == (200, SMALL)))
    for what, holds in checks:
        try:
            if not holds():
                return f"not qualified: {what}"
        except OSError as error:
            return f"not qualified: {what}: {error}"
    return ""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    seconds: float
    warm_up_seconds: float
    repeats: int
    tries: int
    """Runs a repeat may take to find the core undisturbed."""


def run_cases(
    stage: Stage, cases: Sequence[Case], plan: Plan, tell: Callable[[str], None]
) -> list[Cell]:
    """Every case on every peer that is there; in each repeat the order of the peers is turned."""
    cells: list[Cell] = []
    direct = Peer("direct", plain=stage.bodies)
    for case in cases:
        peers = [
            peer for peer in stage.peers if case.scheme in peer.schemes and not peer.why_absent
        ]
        if case.tool == "open":
            peers.append(direct)
        rate = _half_peak(cells)
        row = {peer.name: Cell(case, peer.name) for peer in peers}
        for repeat in range(plan.repeats):
            for peer in peers if repeat % 2 == 0 else reversed(peers):
                _sample(row[peer.name], peer, plan, rate)
        for cell in row.values():
            tell(f"{case.name:<10}{cell.peer:<10}{_line(cell)}")
        cells.extend(row.values())
    return cells


def _half_peak(cells: Iterable[Cell]) -> float:
    """Half of what native did in the closed loop."""
    for cell in cells:
        if cell.case.name == PEAK and cell.peer == "native" and cell.samples:
            return cell.median().rate / 2
    return 1000.0


def _sample(cell: Cell, peer: Peer, plan: Plan, rate: float) -> None:
    if cell.failure:
        return
    try:
        if plan.warm_up_seconds and not cell.samples:
            measure(peer, cell.case, plan.warm_up_seconds, rate)
        cell.samples.append(
            quietest(lambda: measure(peer, cell.case, plan.seconds, rate), plan.tries)
        )
    except (LoadError, OSError) as error:
        cell.failure = str(error)


def quietest(run: Callable[[], Sample], tries: int) -> Sample:
    """A run whose core others used is made again, and the quietest one counts."""
    best: Sample | None = None
    for _ in range(tries):
        wait_calm(FOREIGN_MAX, _PATIENCE_SECONDS)
        sample = run()
        if best is None or sample.foreign < best.foreign:
            best = sample
        if best.foreign <= FOREIGN_MAX:
            break
    assert best is not None, "no tries"
    return best


def _line(cell: Cell) -> str:
    if not cell.samples:
        return cell.failure
    one = cell.median()
    return (
        f"{one.rate:10.0f}/s  p50 {one.p50_us:8.0f} us  p99 {one.p99_us:8.0f} us  "
        f"CPU {one.cpu_us:7.1f} us  others on the core {one.foreign:4.0%}"
    )
