"""The figures as text for a terminal, as JSON, and as docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import re
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.cases import FOREIGN_MAX, OPEN, PEAK, Cell, Plan
from tests.bench.load import Sample

DIRECT = "direct"
BASE = "nginx"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure with its bound; `is_floor` when more is better."""

    title: str
    value: float
    bound: float
    unit: str
    is_floor: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the figure is within its bound."""
        return self.value >= self.bound if self.is_floor else self.value <= self.bound


@dataclass
class Report:
    """All results of one run."""

    plan: Plan
    cells: list[Cell] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    pss_kib: dict[str, int] = field(default_factory=dict)
    """All processes of a peer, idle."""
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def cell(self, case: str, peer: str) -> Sample | None:
        """The medians, if it was measured."""
        for one in self.cells:
            if one.case.name == case and one.peer == peer and one.samples:
                return one.median()
        return None

    @property
    def failures(self) -> list[str]:
        """What did not run as it should have."""
        return [f"{one.case.name} {one.peer}: {one.failure}" for one in self.cells if one.failure]

    def add_request_targets(self) -> None:
        """The bounds on native HTTP/1.1 at 32 connections."""
        native, base = self.cell(PEAK, "native"), self.cell(PEAK, BASE)
        if native is None:
            return
        if base is not None:
            ratio = native.rate / base.rate
            self.targets.append(
                Target("HTTP/1.1 requests/s over nginx's", ratio, 0.5, "", is_floor=True)
            )
        self.targets.append(Target("CPU a request", native.cpu_us, 40, "µs"))
        self.targets.append(
            Target("p99 over p50, 32 connections", native.p99_us / native.p50_us, 3, "")
        )


def to_json(report: Report) -> dict[str, Any]:
    """Every sample, and the targets."""
    return {
        "plan": asdict(report.plan),
        "cells": [asdict(one) for one in report.cells],
        "absent": report.absent,
        "pssKib": report.pss_kib,
        "targets": [{**asdict(one), "met": one.is_met} for one in report.targets],
        "notes": report.notes,
    }


def targets_text(targets: Iterable[Target]) -> str:
    """One line a target."""
    return "\n".join(
        f"{'met   ' if one.is_met else 'MISSED'}  {one.title:<52}{one.value:10.2f} {one.unit:<4}"
        f" {'>=' if one.is_floor else '<='} {one.bound:g}"
        for one in targets
    )


def to_markdown(report: Report) -> str:
    """The page; ratios first, because absolute figures are those of one computer."""
    plan = report.plan
    parts = [
        "# Benchmarks",
        "",
        "Written by `python -m tests.bench --write` (`make bench`); do not edit.",
        "",
        *_method(plan),
        "",
        "## Ratios to nginx",
        "",
        "Requests/s: more is better. CPU, p50 and p99: less is better. Each is the peer's median",
        "divided by nginx's of the same run. ~ marks a row in which others took more than a tenth",
        "of core 0 all the same; CPU suffers least from that.",
        "",
        *_ratios(report),
        "",
        "## Figures",
        "",
        *_figures(report),
        "",
        "## Targets",
        "",
        "One worker, one route, metrics on, access log off, so no trace ids",
        "(`config.logging.level: info,request=warn`).",
        "",
        *table(
            ("target", "measured", "bound", ""),
            (
                (
                    one.title,
                    f"{one.value:.2f} {one.unit}".strip(),
                    f"{'≥' if one.is_floor else '≤'} {one.bound:g} {one.unit}".strip(),
                    "met" if one.is_met else "**missed**",
                )
                for one in report.targets
            ),
        ),
        "",
        *(f"* {note}" for note in (*report.notes, *report.failures)),
        "",
        *_not_shown(),
    ]
    return "\n".join(parts) + "\n"


def _method(plan: Plan) -> list[str]:
    return [
        f"Run on {machine()}. {plan.repeats} repeats of",
        f"{plan.seconds:g} s after {plan.warm_up_seconds:g} s of warm-up; the order of the peers",
        "is turned in every second repeat; medians are shown.",
        "",
        "* The proxy under test has core 0; the load generator and the upstream share core 1.",
        "* The upstream is nginx with a 128-octet or 64 KiB file; for events, a server that writes",
        "  100 events of 1 KiB one by one.",
        "* nginx as the proxy: one worker, 512 kept upstream connections, no access log, no",
        "  buffering to files. It counts nothing, which the gateway does.",
        "* `granian`: the gateway with `config.frontDoor: granian`, under what that door serves.",
        "* CPU is user and system time of the proxy's workers from `/proc/PID/stat`, divided by",
        "  the requests (for event streams: by the events).",
        "* Memory is the sum of PSS over all processes of the proxy, idle after start.",
        "* A gateway starts from byte code, as one that was installed does, on core 0 alone.",
        "* HTTP/1.1 and TLS by wrk, HTTP/2 by h2load: closed loops, which hide stalls. The open",
        "  loop sends at a fixed rate and counts latency from the moment a request was due.",
        "* Before any load each peer must return the right bodies, and an event before its stream",
        "  ends. A run with more than 0.1 % errors does not count.",
        "* A run waits a little for both cores to be idle. One in which other processes took more",
        f"  than a tenth of core 0 is made again, {plan.tries} times in all; the quietest counts.",
    ]


def machine() -> str:
    """The computer and the interpreter, on two lines."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, Linux {_kernel()},\n"
        f"CPython {platform.python_version()} ({_build()})"
    )


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.machine()


def _kernel() -> str:
    return platform.release().partition("-")[0]


def _build() -> str:
    # The interpreter's build is worth a sixth of the CPU, so the page says what is known of it.
    options = str(sysconfig.get_config_var("CONFIG_ARGS"))
    flags = str(sysconfig.get_config_var("PY_CORE_CFLAGS"))
    optimised = "--enable-optimizations" in options or "-fprofile-use" in flags
    return "with profile-guided optimisation" if optimised else "its build flags show no profiling"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return lines


def _ratios(report: Report) -> list[str]:
    rows = []
    for cell in report.cells:
        base = report.cell(cell.case.name, BASE)
        if cell.peer in (BASE, DIRECT) or not cell.samples or base is None:
            continue
        one = cell.median()
        is_open = cell.case.name == OPEN.name
        mark = "~" if max(one.foreign, base.foreign) > FOREIGN_MAX else ""
        rows.append(
            (
                cell.case.title,
                cell.peer,
                "-" if is_open else f"{mark}{one.rate / base.rate:.2f}",
                f"{one.cpu_us / base.cpu_us:.1f}" if base.cpu_us else "-",
                f"{mark}{one.p50_us / base.p50_us:.1f}",
                f"{mark}{one.p99_us / base.p99_us:.1f}",
            )
        )
    return table(("case", "peer", "requests/s", "CPU", "p50", "p99"), rows)


def _figures(report: Report) -> list[str]:
    rows = []
    for cell in report.cells:
        if not cell.samples:
            rows.append((cell.case.title, cell.peer, cell.failure, "", "", "", ""))
            continue
        one = cell.median()
        rows.append(
            (
                cell.case.title,
                cell.peer,
                f"{one.rate:,.0f}",
                "-" if cell.peer == DIRECT else f"{one.cpu_us:.1f}",
                f"{one.p50_us:,.0f}",
                f"{one.p99_us:,.0f}",
                f"{one.foreign:.0%}",
            )
        )
    lines = table(
        ("case", "peer", "requests/s", "CPU µs", "p50 µs", "p99 µs", "others on core 0"), rows
    )
    lines += ["", *table(("peer", "memory idle (sum of PSS)"), _memory(report))]
    return lines


def _memory(report: Report) -> Iterable[Sequence[str]]:
    for peer, kib in report.pss_kib.items():
        yield peer, f"{kib / 1024:.1f} MiB"
    yield from report.absent.items()


def _not_shown() -> list[str]:
    return [
        "## What this does not show",
        "",
        "* Absolute speed. The figures are of one small computer, with client, upstream and proxy",
        "  on neighbouring cores and no network between them; they say how the peers compare.",
        "* The cost of policies: the route has none. JWT, rate limits and CEL are not in here.",
        "* More than one worker, TLS to the upstream, HTTP/2 to the upstream, TLS handshakes",
        "  (connections are kept), upload streams, WebSocket, gRPC.",
        "* A2A. Of calls of models and of MCP there are sections below.",
        "* Long runs: memory is taken minutes after start, not after days.",
        "* Feature parity: nginx without metrics does less for a request.",
        "* The floor of the open loop: its clock ticks every millisecond, so a request may leave",
        "  up to 1 ms late, and that counts. The row `direct` is that client without a proxy.",
    ]
