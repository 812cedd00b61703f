"""A benchmark's section of docs/benchmarks.md: replaced whole, the rest of the page stays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.bench.options import PAGE
from tests.bench.report import Target, machine, table, targets_text
from tests.support.gateway import ROOT


@dataclass
class Figures:
    """Of one run: printed as they come, and the section they make.

    `command`: as in `python -m tests.bench.llm_bench --write`.
    """

    title: str
    command: str
    about: str
    """How they were measured."""
    targets: list[Target] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Without a bound."""

    def reached(self, title: str, value: float, bound: float, unit: str, **more: bool) -> None:
        """Note one that has a bound; `is_floor` when more is better."""
        self.targets.append(Target(title, value, bound, unit, **more))
        print(targets_text(self.targets[-1:]), flush=True)

    def noted(self, text: str) -> None:
        """Note one that has none."""
        self.others.append(text)
        print(f"        {text}", flush=True)

    def to_markdown(self) -> str:
        """The section."""
        parts = [
            f"# {self.title}",
            "",
            f"Written by `{self.command}`; do not edit.",
            "",
            f"Run on {machine()}.",
            self.about,
            "",
            *targets_table(self.targets),
            "",
            *(f"* {one}" for one in self.others),
        ]
        return "\n".join(parts) + "\n"

    def write(self) -> None:
        """Put the section into the page."""
        page = ROOT / PAGE
        page.write_text(with_section(page.read_text(), self.to_markdown(), self.command))


def with_section(page: str, section: str, command: str) -> str:
    """The page with this section in place of the one that `command` wrote before, else at its end.

    `command`: as in `python -m tests.bench.llm_bench --write`.
    """
    begin_mark, end_mark = f"<!-- begin: {command} -->\n", f"<!-- end: {command} -->\n"
    made = f"{begin_mark}{section.strip()}\n{end_mark}"
    before, begin, rest = page.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if begin and end:
        return before + made + after
    return f"{page.rstrip()}\n\n{made}"


def targets_table(targets: Iterable[Target]) -> list[str]:
    """Lines of a Markdown table: what was to be reached, and whether it was."""
    rows = [
        (
            one.title,
            f"{one.value:,.2f} {one.unit}".strip(),
            f"{'≥' if one.is_floor else '≤'} {one.bound:,g} {one.unit}".strip(),
            "met" if one.is_met else "**missed**",
        )
        for one in targets
    ]
    return table(("target", "measured", "bound", ""), rows)
