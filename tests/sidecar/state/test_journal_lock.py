"""One gateway writes a journal, whatever /dev/shm the second one sees."""

from __future__ import annotations

import fcntl
import os
import signal
import uuid
from pathlib import Path

import pytest

from sidecar.errors import ConfigError
from sidecar.state.budgets import open_budgets
from sidecar.state.journal import PLACE
from sidecar.state.journal_lock import claim
from tests.shm.cuts import exit_code, fork


def claimed(path: Path, *, from_living: bool = False, wait_seconds: float = 0) -> int:
    held = claim(path, PLACE, from_living=from_living, wait_seconds=wait_seconds)
    assert held is not None
    return held


def test_a_second_gateway_is_refused_while_the_first_has_it(tmp_path: Path) -> None:
    path = tmp_path / "spend.db"
    held = claimed(path)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"spend\.db is written by another gateway"):
            claim(path, PLACE, wait_seconds=0)
    os.close(held)
    os.close(claimed(path))
    assert (tmp_path / "spend.db.lock").stat().st_mode & 0o777 == 0o600


def test_an_upgrade_shares_it_and_goes_on_alone(tmp_path: Path) -> None:
    path = tmp_path / "spend.db"
    old = claimed(path)
    new = claimed(path, from_living=True)
    os.close(old)
    with pytest.raises(ConfigError):
        claim(path, PLACE, wait_seconds=0)
    os.close(new)


def test_it_ends_with_the_last_process_of_a_gateway(tmp_path: Path) -> None:
    path = tmp_path / "spend.db"
    ready, end = os.pipe()

    def supervise() -> None:
        claimed(path)
        child = fork(signal.pause)
        os.write(end, b"%d" % child)
        signal.pause()

    supervisor = fork(supervise)
    child = int(os.read(ready, 16))
    os.kill(supervisor, signal.SIGKILL)
    assert exit_code(supervisor) == -signal.SIGKILL
    with pytest.raises(ConfigError):
        claim(path, PLACE, wait_seconds=0)
    os.kill(child, signal.SIGKILL)
    os.close(claimed(path, wait_seconds=20))
    os.close(ready)
    os.close(end)


def test_budgets_of_another_place_meet_at_the_journal(tmp_path: Path) -> None:
    """As two containers do, which share a volume and not /dev/shm."""
    config, name = {"journal": str(tmp_path / "spend.db")}, uuid.uuid4().hex
    first = open_budgets(config, "x", f"test-{name}")
    with pytest.raises(ConfigError, match="another gateway"):
        open_budgets(config, "x", f"test-{name}b")
    first.close()
    open_budgets(config, "x", f"test-{name}b").close()


def test_a_start_that_fails_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "spend.db"
    path.write_bytes(b"something else")
    with pytest.raises(ConfigError, match="is damaged"):
        open_budgets({"journal": str(path)}, "x", "y")
    os.close(claimed(path))


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert claim(tmp_path / "none" / "spend.db", PLACE) is None
    assert [one.levelname for one in caplog.records] == ["WARNING"]


def test_files_that_cannot_be_locked_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigError, match="cannot be locked: Operation not supported"):
        claim(tmp_path / "spend.db", PLACE)
