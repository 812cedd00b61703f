"""A benchmark's section of docs/benchmarks.md: replaced whole, the rest of the page stays."""

from __future__ import annotations

from collections.abc import Iterable

from tests.bench.report import Target, table


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
