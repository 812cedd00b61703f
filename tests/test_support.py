"""What the tests themselves rely on."""

from __future__ import annotations

import pytest

from tests.support.programs import needs_program


@pytest.mark.parametrize(
    ("ci", "program", "is_skipped"),
    [
        ("", "no-such-program", True),
        ("true", "no-such-program", False),
        ("", "sh", False),
        ("true", "sh", False),
    ],
)
def test_a_missing_program_fails_under_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, program: str, is_skipped: bool
) -> None:
    monkeypatch.setenv("CI", ci)
    assert needs_program(program).mark.args == (is_skipped,)
