"""Measures the LLM gateway beside LiteLLM and nginx: `python -m tests.bench.llm_bench [case …]`.

LiteLLM is installed from PyPI when it is first needed (see llm_litellm.py), and left out, with the
reason, where that fails.

Exit codes: 0 all ran, 1 a peer failed or was not qualified, 2 wrong usage or a missing program.
Missed targets are printed and do not change the exit code: a busy computer is not a defect.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from tests.bench import llm_cases
from tests.bench.environments import AbsentError
from tests.bench.llm_cases import CASES, MANY, TTFT
from tests.bench.llm_litellm import program
from tests.bench.llm_many import STREAMS
from tests.bench.llm_peers import LITELLM, LlmStage
from tests.bench.llm_qualify import qualify
from tests.bench.llm_report import COMMAND, LlmReport, to_json, to_markdown
from tests.bench.load import LoadError
from tests.bench.options import PAGE, parsed, parser, plan_of, tell
from tests.bench.report import targets_text
from tests.bench.section import with_section
from tests.bench.usage import LOAD_CORE, pinned
from tests.support.gateway import ROOT

_NAMES: Final = (*(case.name for case in CASES), TTFT, MANY)
_FILES_A_STREAM: Final = 2
_SPARE_FILES: Final = 500


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; returns the exit code."""
    options = _options(argv)
    missing = [name for name in ("nginx", "wrk") if shutil.which(name) is None]
    if missing or len(os.sched_getaffinity(0)) < 2:
        print(f"needs two cores, nginx and wrk; missing: {missing}", file=sys.stderr)
        return 2
    report = LlmReport(plan_of(options))
    names = options.case or list(_NAMES)
    why_absent = "left out" if options.no_litellm else _install()
    with pinned(LOAD_CORE), LlmStage(with_litellm=not why_absent) as stage:
        if why_absent:
            _leave_out(stage, report, LITELLM, why_absent)
        _qualified(stage, report)
        chosen = [case for case in CASES if case.name in names]
        report.cells = llm_cases.run_cases(stage, chosen, report.plan, tell)
        _extras(stage, report, names)
    report.failures += [
        f"{one.case.name} {one.peer}: {one.failure}" for one in report.cells if one.failure
    ]
    print(targets_text(report.targets))
    for note in (*report.notes, *report.failures):
        print(note)
    _save(report, options)
    return 1 if report.failures else 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    made = parser("llm_bench", __doc__, _NAMES)
    made.add_argument("--no-litellm", action="store_true", help="leave LiteLLM out")
    made.add_argument("--json", metavar="FILE", help="every sample")
    return parsed(made, argv, _NAMES)


def _install() -> str:
    """Why there is no LiteLLM; "" when there is."""
    try:
        program()
    except AbsentError as error:
        return str(error)
    return ""


def _leave_out(stage: LlmStage, report: LlmReport, name: str, why: str) -> None:
    stage.peers = [peer for peer in stage.peers if peer.name != name]
    report.absent[name] = why
    report.notes.append(f"{name}: {why}")


def _qualified(stage: LlmStage, report: LlmReport) -> None:
    """A peer that does not do what is to be measured is not measured."""
    for peer in list(stage.peers):
        why = peer.why_absent or qualify(stage, peer)
        if why:
            _leave_out(stage, report, peer.name, why)
            report.failures.append(f"{peer.name}: {why}")


def _extras(stage: LlmStage, report: LlmReport, names: Sequence[str]) -> None:
    if "convert" in names:
        alone = llm_cases.conversion_us(2000)
        report.notes.append(f"the conversion of that chat by itself: {alone:.0f} µs")
    try:
        if TTFT in names:
            report.ttft = llm_cases.first_tokens(stage, report.plan.repeats)
        if MANY in names:
            report.many = llm_cases.hold_many(stage, _streams(report))
    except (LoadError, OSError) as error:
        report.failures.append(str(error) or type(error).__name__)


def _streams(report: LlmReport) -> int:
    """As many as descriptors allow: a proxy needs two for each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(STREAMS, (most - _SPARE_FILES) // _FILES_A_STREAM)
    if count < STREAMS:
        report.notes.append(f"{count:,} streams at once: there are {most:,} descriptors a process")
    return count


def _save(report: LlmReport, options: argparse.Namespace) -> None:
    if options.json:
        text = orjson.dumps(
            to_json(report), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
        )
        Path(options.json).write_bytes(text + b"\n")
    if options.write:
        page = ROOT / PAGE
        page.write_text(with_section(page.read_text(), to_markdown(report), COMMAND))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
