"""The LLM benchmark's figures as text, as JSON, and as its section of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tests.bench import llm_litellm
from tests.bench.cases import Plan
from tests.bench.llm_cases import CONNECTIONS, PACED_STREAMS, SLOW_STREAMS, FirstToken, LlmCell
from tests.bench.llm_many import Many
from tests.bench.llm_peers import BARE, DIRECT, LIMITED, LITELLM, NGINX_NAME
from tests.bench.load import Sample
from tests.bench.report import Target, machine, table
from tests.bench.section import targets_table

TIMES_LITELLM: Final = 50
COMMAND: Final = "python -m tests.bench.llm_bench --write"


@dataclass
class LlmReport:
    """All results of one run."""

    plan: Plan
    cells: list[LlmCell] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    ttft: dict[str, FirstToken] = field(default_factory=dict)
    many: dict[str, Many] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def cell(self, case: str, peer: str) -> Sample | None:
        """The medians, if it was measured."""
        for one in self.cells:
            if one.case.name == case and one.peer == peer and one.samples:
                return one.median()
        return None

    def times(self, cell: LlmCell, other: str) -> float | None:
        """How often as much as the other a CPU second serves; None when one of them is unknown."""
        base = self.cell(cell.case.name, other)
        own = cell.median().cpu_us if cell.samples else 0.0
        return base.cpu_us / own if base is not None and own else None

    @property
    def targets(self) -> list[Target]:
        """What was to be reached, as far as it was measured."""
        found = []
        for cell in self.cells:
            if cell.peer != LIMITED or not cell.samples:
                continue
            case = cell.case
            if case.bound_us:
                title = f"{case.title}: CPU a {case.unit}"
                found.append(Target(title, cell.median().cpu_us, case.bound_us, "µs"))
            times = self.times(cell, LITELLM)
            if times is not None and case.is_compared:
                title = f"{case.title}: {case.unit}s a CPU second over LiteLLM's"
                found.append(Target(title, times, TIMES_LITELLM, "", is_floor=True))
        if LIMITED in self.ttft:
            added = self.ttft[LIMITED].p50 - self.ttft[DIRECT].p50
            found.append(Target("added time to first token, p50", added / 1000, 1, "ms"))
        many = self.many.get(LIMITED)
        if many is not None:
            title = f"{many.streams:,} streams at once: RSS of the worker"
            found.append(Target(title, many.rss * 1024 / 1e6, 400, "MB"))
            lost = many.streams - many.alive
            found.append(Target("the same: streams that a chunk did not reach", lost, 0, ""))
        return found


def to_json(report: LlmReport) -> dict[str, Any]:
    """Every sample, and the targets."""
    return {
        "plan": asdict(report.plan),
        "cells": [
            {
                "case": one.case.name,
                "peer": one.peer,
                "samples": [asdict(sample) for sample in one.samples],
                "failure": one.failure,
            }
            for one in report.cells
        ],
        "absent": report.absent,
        "ttft": {name: asdict(one) for name, one in report.ttft.items()},
        "many": {name: asdict(one) for name, one in report.many.items()},
        "targets": [{**asdict(one), "met": one.is_met} for one in report.targets],
        "notes": report.notes,
        "failures": report.failures,
    }


def to_markdown(report: LlmReport) -> str:
    """The section; what it says of the method is all that a reader needs to make it again."""
    parts = [
        "# LLM gateway",
        "",
        "Written by `python -m tests.bench.llm_bench --write` (`make bench-llm`); do not edit.",
        "",
        *_method(report.plan),
        "",
        "## Chats and streams",
        "",
        f"* `{LIMITED}`: with the policies; `{BARE}`: the same without them.",
        "* a CPU second: requests, or chunks, for each second of the worker's CPU. The two columns",
        "  on the right divide it by that of LiteLLM and of nginx in the same run.",
        "",
        *_figures(report),
        "",
        "## Time to first token",
        "",
        "One stream after the other on one connection, microseconds from the request's last octet",
        "to the first event. Added: the percentile less that of the way without a proxy.",
        "",
        *_first_tokens(report),
        "",
        "## Many streams at once",
        "",
        "Through one worker, each on a connection of its own, with a chunk to each of them now and",
        "then; memory is taken with all of them open.",
        "",
        *_many(report),
        "",
        "## Targets of the LLM gateway",
        "",
        *targets_table(report.targets),
        "",
        *(f"* {note}" for note in (*report.notes, *report.failures)),
        "",
        *_not_shown(),
    ]
    return "\n".join(parts) + "\n"


def _method(plan: Plan) -> list[str]:
    return [
        f"Run on {machine()}. {plan.repeats} repeats",
        f"of {plan.seconds:g} s after {plan.warm_up_seconds:g} s of warm-up, the order of peers",
        "turned in every second repeat; medians are shown.",
        "",
        "* One worker of each on core 0; the load generator and the provider share core 1. CPU is",
        "  that of the worker from `/proc/PID/stat`.",
        "* The provider: nginx with a fixed answer of 80 tokens; for streams a server of ours,",
        "  whose chunks of 260 octets are writes of their own.",
        f"* LiteLLM {llm_litellm.version()}: its proxy from PyPI in production mode, on uvloop,",
        "  without a database; with a key of the proxy, and its limits of requests and tokens a",
        "  minute in memory. No budget, no metrics.",
        "* nginx: a reverse proxy that looks at nothing: the floor.",
        "* The gateway's policies: `apiKey` with a budget in USD and its journal on disk, a limit",
        "  of requests and one of tokens by key. With and without them it counts `gen_ai` metrics",
        "  and prices each call; the access log is off.",
        f"* Chats by wrk with {CONNECTIONS} connections. Streams by a client of ours, as many at a",
        f"  time, {PACED_STREAMS} when paced; LiteLLM's {SLOW_STREAMS} at a time.",
        "* Before any load each peer must give the right answers, converted and streamed, refuse a",
        "  wrong key, and charge the budget. A run with more than 0.1 % errors does not count.",
    ]


def _figures(report: LlmReport) -> list[str]:
    head = ("case", "peer", "requests/s", "CPU µs", "a CPU second", "p50 µs", "p99 µs")
    return table((*head, "over LiteLLM", "over nginx", "others on core 0"), _figure_rows(report))


def _figure_rows(report: LlmReport) -> Iterable[Sequence[str]]:
    for cell in report.cells:
        if not cell.samples:
            yield (cell.case.title, cell.peer, cell.failure, *[""] * 7)
            continue
        one = cell.median()
        times = report.times(cell, LITELLM)
        over = "-"
        if times is not None and cell.peer in (LIMITED, BARE):
            over = f"{times:.1f}, {'met' if times >= TIMES_LITELLM else '**missed**'}"
        floor = report.times(cell, NGINX_NAME)
        yield (
            cell.case.title,
            cell.peer,
            f"{one.rate:,.0f}",
            f"{one.cpu_us:,.1f} a {cell.case.unit}",
            f"{1e6 / one.cpu_us:,.0f}" if one.cpu_us else "-",
            f"{one.p50_us:,.0f}",
            f"{one.p99_us:,.0f}",
            over,
            "-" if floor is None or cell.peer == NGINX_NAME else f"{floor:.3f}",
            f"{one.foreign:.0%}",
        )
    for name, why in report.absent.items():
        yield ("", name, why, *[""] * 7)


def _first_tokens(report: LlmReport) -> list[str]:
    direct = report.ttft.get(DIRECT)
    rows = []
    for name, one in report.ttft.items():
        added = ("-", "-")
        if direct is not None and name != DIRECT:
            added = (f"{one.p50 - direct.p50:,.0f}", f"{one.p99 - direct.p99:,.0f}")
        rows.append((name, f"{one.p50:,.0f}", f"{one.p99:,.0f}", *added))
    return table(("peer", "p50 µs", "p99 µs", "added p50 µs", "added p99 µs"), rows)


def _many(report: LlmReport) -> list[str]:
    rows = [
        (
            name,
            f"{one.streams:,}",
            f"{one.alive:,}",
            _mb(one.before_rss),
            f"{_mb(one.rss)}, {_mb(one.pss)}",
            f"{one.a_stream_kib:.1f}",
            _mb(one.all_pss),
        )
        for name, one in report.many.items()
    ]
    head = ("peer", "streams", "alive", "worker before, MB", "with them, RSS and PSS, MB")
    return table((*head, "KiB a stream", "PSS of all processes, MB"), rows)


def _mb(kib: int) -> str:
    return f"{kib * 1024 / 1e6:,.0f}"


def _not_shown() -> list[str]:
    return [
        "What this does not show: LiteLLM with a database, Redis, virtual keys, budgets or more",
        "workers; providers over TLS; guards, transformations and failover; prompts with images.",
        "A chunk that comes alone costs any proxy a wake-up, a read and a write, whatever it makes",
        "of it: nginx's row of paced chunks says how much. Of chunks that come as fast as the",
        "provider can write, each proxy reads several at once.",
    ]
