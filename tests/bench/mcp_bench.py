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
from typing import Final

from tests.bench import mcp_cases
from tests.bench.environments import AbsentError
from tests.bench.mcp_cases import CASES
from tests.bench.mcp_contextforge import program
from tests.bench.mcp_hop import hop_us
from tests.bench.mcp_peers import CONTEXTFORGE, GATEWAY, McpStage
from tests.bench.mcp_report import COMMAND, McpReport, to_markdown
from tests.bench.options import PAGE, parsed, parser, plan_of, tell
from tests.bench.report import targets_text
from tests.bench.section import with_section
from tests.bench.usage import LOAD_CORE, PROXY_CORE, pinned
from tests.support.gateway import ROOT

IDLE: Final = "idle"
HOP: Final = "hop"
_NAMES: Final = (*(case.name for case in CASES), IDLE, HOP)


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; returns the exit code."""
    options = _options(argv)
    if shutil.which("wrk") is None or len(os.sched_getaffinity(0)) < 2:
        print("needs two cores and wrk", file=sys.stderr)
        return 2
    report = McpReport(plan_of(options))
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
        page = ROOT / PAGE
        page.write_text(with_section(page.read_text(), to_markdown(report), COMMAND))
    return 1 if report.failures else 0


def _measure(stage: McpStage, report: McpReport, names: Sequence[str]) -> None:
    for peer in stage.peers:
        if peer.why_absent and peer.name not in report.absent:
            report.absent[peer.name] = peer.why_absent
            report.failures.append(f"{peer.name}: {peer.why_absent}")
    chosen = [case for case in CASES if case.name in names]
    report.cells = mcp_cases.run_cases(stage, chosen, report.plan, tell)
    if IDLE in names:
        try:
            report.idle_mb = mcp_cases.idle_sessions(stage.peer(GATEWAY))
        except (LookupError, OSError) as error:
            report.failures.append(f"{IDLE}: {error}")


def _options(argv: Sequence[str]) -> argparse.Namespace:
    made = parser("mcp_bench", __doc__, _NAMES)
    made.add_argument("--no-contextforge", action="store_true", help="leave ContextForge out")
    return parsed(made, argv, _NAMES)


def _install() -> str:
    """Why there is no ContextForge; "" when there is."""
    try:
        program()
    except AbsentError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
