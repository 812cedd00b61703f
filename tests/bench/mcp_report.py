"""The MCP benchmark's figures as text, and as their section of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench import mcp_contextforge
from tests.bench.cases import Plan
from tests.bench.load import Sample
from tests.bench.mcp_cases import SESSIONS, McpCell
from tests.bench.mcp_peers import CONTEXTFORGE, GATEWAY, RULE
from tests.bench.report import Target, machine, table
from tests.bench.section import targets_table

TIMES_CONTEXTFORGE: Final = 20
IDLE_MB: Final = 150
HOP_US: Final = 300
COMMAND: Final = "python -m tests.bench.mcp_bench --write"


@dataclass
class McpReport:
    """All results of one run."""

    plan: Plan
    cells: list[McpCell] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    idle_mb: float | None = None
    hop_us: float | None = None
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def cell(self, case: str, peer: str) -> Sample | None:
        """The medians, if it was measured."""
        for one in self.cells:
            if one.case.name == case and one.peer == peer and one.samples:
                return one.median()
        return None

    def times(self, cell: McpCell) -> float | None:
        """How often as much as ContextForge's a CPU second serves; None when it is unknown."""
        base = self.cell(cell.case.name, CONTEXTFORGE)
        own = cell.median().cpu_us if cell.samples else 0.0
        return base.cpu_us / own if base is not None and own else None

    @property
    def targets(self) -> list[Target]:
        """What was to be reached, as far as it was measured."""
        found = []
        for cell in self.cells:
            if cell.peer != GATEWAY or not cell.samples:
                continue
            case = cell.case
            if case.bound_us:
                title = f"{case.title}: CPU"
                found.append(Target(title, cell.median().cpu_us, case.bound_us, "µs"))
            times = self.times(cell)
            if times is not None and case.is_compared:
                title = f"{case.title}: calls a CPU second over ContextForge's"
                found.append(Target(title, times, TIMES_CONTEXTFORGE, "", is_floor=True))
        if self.idle_mb is not None:
            found.append(Target(f"{SESSIONS:,} idle sessions", self.idle_mb, IDLE_MB, "MB"))
        if self.hop_us is not None:
            found.append(Target("hop to another worker: CPU of both", self.hop_us, HOP_US, "µs"))
        return found


def to_markdown(report: McpReport) -> str:
    """The section; what it says of the method is all that a reader needs to make it again."""
    parts = [
        "# MCP gateway",
        "",
        "Written by `python -m tests.bench.mcp_bench --write` (`make bench-mcp`); do not edit.",
        "",
        *_method(report.plan),
        "",
        "## Calls and lists",
        "",
        *_figures(report),
        "",
        "## Targets of the MCP gateway",
        "",
        *targets_table(report.targets),
        "",
        *(f"* {note}" for note in (*report.notes, *report.failures)),
        "",
        "## What this does not show of MCP",
        "",
        "* Streams: every answer here is one JSON document. Servers far away, or slow ones.",
        "* stdio servers: a call of one costs what its process takes, and the hop when another",
        "  worker holds it.",
        "* The era bridge, OpenAPI servers, authentication, guards.",
        "* ContextForge with Redis, PostgreSQL, or more than one process.",
    ]
    return "\n".join(parts) + "\n"


def _method(plan: Plan) -> list[str]:
    return [
        f"Run on {machine()}. {plan.repeats} repeats",
        f"of {plan.seconds:g} s after {plan.warm_up_seconds:g} s of warm-up, the order of peers",
        "turned in every second repeat; medians are shown.",
        "",
        "* One worker of each on core 0; wrk and the MCP server share core 1. CPU is that of the",
        "  worker from `/proc/PID/stat`, the whole request.",
        "* The MCP server: a canned one on uvloop, with a hundred tools of 600 octets a path.",
        "* 32 connections of wrk, all of one session; `2026-07-28` has none. ContextForge gets 4:",
        "  it has no core left for more. Latencies tell of that, CPU does not.",
        f"* The rule: `{RULE}`.",
        f"* ContextForge {mcp_contextforge.version()} from PyPI, the newest that this Python runs:",
        "  one process with SQLite, a token of its administrator; its rate limits, metrics in the",
        "  database, compression and pages are off.",
        "* Before any load each peer must give the right answer. A run with more than 0.1 % errors",
        "  does not count.",
        f"* Idle sessions: what the PSS of all processes grows by with {SESSIONS:,} sessions.",
        "* The hop: both ends in one process, the CPU of a call above one without the hop.",
    ]


def _figures(report: McpReport) -> list[str]:
    head = ("case", "peer", "requests/s", "CPU µs", "a CPU second", "p50 µs", "p99 µs")
    return table((*head, "over ContextForge", "others on core 0"), _rows(report))


def _rows(report: McpReport) -> Iterable[Sequence[str]]:
    for cell in report.cells:
        if not cell.samples:
            yield (cell.case.title, cell.peer, cell.failure, *[""] * 6)
            continue
        one = cell.median()
        times = report.times(cell) if cell.peer == GATEWAY else None
        yield (
            cell.case.title,
            cell.peer,
            f"{one.rate:,.0f}",
            f"{one.cpu_us:,.1f}" if one.cpu_us else "-",
            f"{1e6 / one.cpu_us:,.0f}" if one.cpu_us else "-",
            f"{one.p50_us:,.0f}",
            f"{one.p99_us:,.0f}",
            "-" if times is None else f"{times:.0f}",
            f"{one.foreign:.0%}" if one.cpu_us else "-",
        )
    for name, why in report.absent.items():
        yield ("", name, why, *[""] * 6)
