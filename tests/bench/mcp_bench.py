"""Measures the MCP gateway beside ContextForge: `python -m tests.bench.mcp_bench [case …]`.

ContextForge is installed from PyPI when it is first needed (see mcp_contextforge.py), and left out,
with the reason, where that fails. What parts of it cost: `python -m tests.bench.mcp_parts`.

Exit codes: 0 all ran, 1 a peer failed, 2 wrong usage or a missing program. Missed targets are
printed and do not change the exit code: a busy computer is not a defect.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.bench import mcp_cases
from tests.bench.cases import Plan
from tests.bench.environments import AbsentError
from tests.bench.mcp_cases import CASES
from tests.bench.mcp_contextforge import program
from tests.bench.mcp_hop import hop_us
from tests.bench.mcp_peers import CONTEXTFORGE, GATEWAY, McpStage
from tests.bench.mcp_report import McpReport, to_markdown, with_section
from tests.bench.report import targets_text
from tests.bench.usage import LOAD_CORE, PROXY_CORE, pinned
from tests.support.gateway import ROOT

_PAGE: Final = Path("docs") / "benchmarks.md"
IDLE: Final = "idle"
HOP: Final = "hop"
_NAMES: Final = (*(case.name for case in CASES), IDLE, HOP)


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.write and options.case:
        parser.error("--write replaces the whole section, so it takes no cases")
    if unknown := sorted(set(options.case) - set(_NAMES)):
        parser.error(f"no such case: {unknown[0]}")
    if shutil.which("wrk") is None or len(os.sched_getaffinity(0)) < 2:
        print("needs two cores and wrk", file=sys.stderr)
        return 2
    report = McpReport(_plan(options))
    names = options.case or list(_NAMES)
    why_absent = "left out" if options.no_contextforge else _install()
    if why_absent:
        report.absent[CONTEXTFORGE] = why_absent
    if HOP in names:
        with pinned(PROXY_CORE):
            report.hop_us = hop_us()
    with pinned(LOAD_CORE), McpStage(with_contextforge=not why_absent) as stage:
        _measure(stage, report, names)
    report.failures += [
        f"{one.case.name} {one.peer}: {one.failure}" for one in report.cells if one.failure
    ]
    print(targets_text(report.targets))
    for note in (*report.notes, *report.failures):
        print(note)
    if options.write:
        page = ROOT / _PAGE
        page.write_text(with_section(page.read_text(), to_markdown(report)))
    return 1 if report.failures else 0


def _measure(stage: McpStage, report: McpReport, names: Sequence[str]) -> None:
    for peer in stage.peers:
        if peer.why_absent and peer.name not in report.absent:
            report.absent[peer.name] = peer.why_absent
            report.failures.append(f"{peer.name}: {peer.why_absent}")
    chosen = [case for case in CASES if case.name in names]
    report.cells = mcp_cases.run_cases(stage, chosen, report.plan, _tell)
    if IDLE in names:
        try:
            report.idle_mb = mcp_cases.idle_sessions(stage.peer(GATEWAY))
        except (LookupError, OSError) as error:
            report.failures.append(f"{IDLE}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mcp_bench", description=__doc__)
    parser.add_argument("case", nargs="*", help=f"some of: {', '.join(_NAMES)}", metavar="case")
    parser.add_argument("--quick", action="store_true", help="one repeat of two seconds")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tries", type=int, default=3, help="runs to find the core undisturbed")
    parser.add_argument("--no-contextforge", action="store_true", help="leave ContextForge out")
    parser.add_argument("--write", action="store_true", help=f"write its section of {_PAGE}")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan(options.seconds, 1.0, options.repeats, options.tries)
    return replace(plan, seconds=2.0, repeats=1, tries=1) if options.quick else plan


def _tell(line: str) -> None:
    print(line, flush=True)


def _install() -> str:
    """Why there is no ContextForge; "" when there is."""
    try:
        program()
    except AbsentError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
