"""Sections of the page of benchmarks."""

from __future__ import annotations

from tests.bench.section import with_section

COMMAND = "python -m tests.bench.some --write"


def test_the_section_is_replaced_and_nothing_else() -> None:
    first = with_section("# Page\n\ntext\n", "# LLM\n\none\n", COMMAND)
    assert first.startswith(f"# Page\n\ntext\n\n<!-- begin: {COMMAND} -->\n")
    page = first + "\n# After\n"
    again = with_section(page, "# LLM\n\ntwo\n", COMMAND)
    assert again == page.replace("one", "two")


def test_sections_of_two_commands_stand_side_by_side() -> None:
    page = with_section("# Page\n", "one", COMMAND)
    both = with_section(page, "two", "make other")
    assert with_section(both, "three", COMMAND) == both.replace("one", "three")
