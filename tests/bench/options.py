"""The command line that the benchmarks of gateways have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.cases import Plan

PAGE: Final = Path("docs") / "benchmarks.md"
_QUICK: Final = Plan(2.0, 1.0, 1, 1)


def parser(name: str, description: str | None, cases: Sequence[str]) -> argparse.ArgumentParser:
    """Of `python -m tests.bench.<name>`; `cases`: what may be asked for alone."""
    made = argparse.ArgumentParser(prog=f"python -m tests.bench.{name}", description=description)
    made.add_argument("case", nargs="*", help=f"some of: {', '.join(cases)}", metavar="case")
    made.add_argument("--quick", action="store_true", help="one repeat of two seconds")
    made.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--tries", type=int, default=3, help="runs to find the core undisturbed")
    made.add_argument("--write", action="store_true", help=f"write its section of {PAGE}")
    return made


def parsed(
    made: argparse.ArgumentParser, argv: Sequence[str], cases: Sequence[str]
) -> argparse.Namespace:
    """The options; ends the process with 2 where they make no sense together."""
    options = made.parse_args(argv)
    if options.write and options.case:
        made.error("--write replaces the whole section, so it takes no cases")
    if unknown := sorted(set(options.case) - set(cases)):
        made.error(f"no such case: {unknown[0]}")
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """How long, and how often."""
    if options.quick:
        return _QUICK
    return Plan(options.seconds, 1.0, options.repeats, options.tries)


def tell(line: str) -> None:
    """Print at once: a run takes minutes."""
    print(line, flush=True)
