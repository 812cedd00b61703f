"""Measures nginx and the gateway's front doors in one run: `python -m tests.bench [case …]`.

Exit codes: 0 all ran, 1 a peer failed or was not qualified, 2 wrong usage or a missing program.
Missed targets are printed and do not change the exit code: a busy computer is not a defect.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from tests.bench import reload, streams
from tests.bench.cases import CASES, Plan, qualify, run_cases
from tests.bench.peers import Peer, Stage
from tests.bench.report import Report, Target, targets_text, to_json, to_markdown
from tests.bench.usage import LOAD_CORE, PROXY_CORE, memory, pinned, pss_kib
from tests.support.gateway import ROOT

_EXTRA = ("start", "stream", "stalled", "reload")
_PAGE = Path("docs") / "benchmarks.md"
_MARK = "# Shared state\n"


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; returns the exit code."""
    options = _parser().parse_args(argv)
    missing = [name for name in ("nginx", "wrk", "h2load") if shutil.which(name) is None]
    if missing or len(os.sched_getaffinity(0)) < 2:
        print(f"needs two cores, nginx, wrk and h2load; missing: {missing}", file=sys.stderr)
        return 2
    plan = (
        Plan(1.0, 0.0, 1, 1)
        if options.quick
        else Plan(options.seconds, 1.0, options.repeats, options.tries)
    )
    report = Report(plan)
    names = options.case or [*(case.name for case in CASES), *_EXTRA]
    with pinned(LOAD_CORE), Stage() as stage:
        _idle_memory(stage, report)
        _qualified(stage, report)
        chosen = [case for case in CASES if case.name in names]
        report.cells = run_cases(stage, chosen, plan, lambda line: print(line, flush=True))
        report.add_request_targets()
        _extras(stage, report, names, quick=options.quick)
    print(targets_text(report.targets))
    for note in (*report.notes, *report.failures):
        print(note)
    if options.json:
        text = orjson.dumps(
            to_json(report), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
        )
        Path(options.json).write_bytes(text + b"\n")
    if options.write:
        page = ROOT / _PAGE
        # What other benchmarks print is pasted below the mark, and stays.
        _, mark, rest = page.read_text().partition(_MARK) if page.exists() else ("", "", "")
        page.write_text(to_markdown(report) + (f"\n{mark}{rest}" if mark else ""))
    return 1 if report.failures else 0


def _parser() -> argparse.ArgumentParser:
    known = [*(case.name for case in CASES), *_EXTRA]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("case", nargs="*", help=f"some of: {', '.join(known)}", metavar="case")
    parser.add_argument("--quick", action="store_true", help="one repeat of one second, 1 GiB")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tries", type=int, default=3, help="runs to find the core undisturbed")
    parser.add_argument("--json", metavar="FILE", help="every sample")
    parser.add_argument("--write", action="store_true", help=f"write {_PAGE}")
    return parser


def _idle_memory(stage: Stage, report: Report) -> None:
    for peer in stage.peers:
        if peer.why_absent:
            report.absent[peer.name] = peer.why_absent
            continue
        report.pss_kib[peer.name] = pss_kib(peer.all_pids)
        if peer.name == "native":
            private = max(memory(pid).private for pid in peer.load_pids)
            report.targets.append(
                Target("private memory of an idle worker", private / 1024, 45, "MiB")
            )


def _qualified(stage: Stage, report: Report) -> None:
    """A peer that does not do what is to be measured is not measured."""
    for index, peer in enumerate(stage.peers):
        if not peer.why_absent and (why := qualify(peer)):
            stage.peers[index] = Peer(peer.name, why_absent=why)
            report.absent[peer.name] = why
    report.notes += [f"{name}: {why}" for name, why in report.absent.items()]


def _extras(stage: Stage, report: Report, names: Sequence[str], *, quick: bool) -> None:
    # A gateway that has served load would hide growth in memory it has freed and kept.
    with pinned(PROXY_CORE):
        native = stage.gateway("native")
    if not native.why_absent and "stalled" in names:
        growth = streams.stalled_growth_kib(native, 500)
        report.targets.append(Target("RSS growth a client that stops reading", growth, 256, "KiB"))
    if not native.why_absent and "stream" in names:
        _stream(native, report, 1 if quick else 10)
    if "start" in names:
        seconds = reload.start_seconds(stage.bodies, 1, 1 if quick else 5)
        report.targets.append(Target("ready after start", seconds, 1.5, "s"))
    if "reload" in names:
        _reload(stage, report, 1 if quick else 5)


def _stream(native: Peer, report: Report, gib: int) -> None:
    streamed = streams.stream_through(native, gib * 2**30)
    report.targets.append(
        Target(f"RSS growth while {gib} GiB stream through", streamed.growth_kib / 1024, 32, "MiB")
    )
    mib = streamed.octets / 2**20
    report.notes.append(
        f"one stream: {mib / streamed.seconds:,.0f} MiB/s, "
        f"{streamed.cpu_seconds / mib * 1e3:.2f} ms CPU a MiB"
    )


def _reload(stage: Stage, report: Report, repeats: int) -> None:
    report.targets.append(
        Target(f"match among {reload.ROUTES:,} routes", reload.match_us(), 20, "µs")
    )
    seen = reload.reload_one(stage.bodies, repeats)
    served = statistics.median(one.served for one in seen)
    added = statistics.median(one.added for one in seen)
    report.targets += [
        Target(f"1 of {reload.ROUTES:,} routes changed: served after", served * 1e3, 500, "ms"),
        Target("the same: added to the slowest request", added * 1e3, 10, "ms"),
    ]
    before = statistics.median(one.before for one in seen)
    report.notes.append(
        f"slowest of 100 requests/s in the two seconds before a reload: {before * 1e3:.1f} ms, "
        f"during it: {statistics.median(one.during for one in seen) * 1e3:.1f} ms, "
        f"failed: {sum(one.errors for one in seen)}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
