"""For all tests of shared memory."""

from __future__ import annotations

import pytest

from shm import lock


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that the machine does not let run for a second is not one that was stopped."""
    monkeypatch.setattr(lock, "WAIT_SECONDS", 60.0)
