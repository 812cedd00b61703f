"""The configuration table: publishing, reading, reporting, and a death at every line of each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import posix_ipc
import pytest

from shm.config import MAX_ERROR_BYTES, ConfigTable, WorkerState
from shm.errors import SegmentRefusedError, ShmError, SnapshotGoneError
from shm.segment import segment_name, unlink

DIRECTORY = Path("/dev/shm")
INSTANCE = f"test-config-{os.getpid()}"


@pytest.fixture
def table() -> Iterator[ConfigTable]:
    table = ConfigTable.create(INSTANCE, workers=3)
    yield table
    table.close()
    unlink(segment_name(INSTANCE, "config"))
    assert snapshots() == []


def snapshots() -> list[str]:
    prefix = segment_name(INSTANCE, "s")[1:]
    return sorted(path.name.removeprefix(prefix) for path in DIRECTORY.glob(prefix + "*"))


def in_child(action: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at_line(number: int, action: Callable[[], object]) -> bool:
    """Run in a process that kills itself at its n-th line of `shm`; False: it came through."""
    left = number

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if "/shm/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    def traced() -> None:
        sys.settrace(on_line)
        action()

    code = in_child(traced)
    assert code in (0, -signal.SIGKILL), "the action itself must not fail"
    return code != 0


def test_nothing_is_published_at_first(table: ConfigTable) -> None:
    assert (table.generation, table.announced(), table.statuses()) == (0, (0, "", 0), [])
    for generation in (-1, 0, 1):
        with pytest.raises(SnapshotGoneError):
            table.read(generation)
    with pytest.raises(SnapshotGoneError):
        table.read_current()


@pytest.mark.parametrize("data", [b"", b"{}", os.urandom(1 << 20)], ids=["empty", "small", "1MiB"])
def test_publish_and_read(table: ConfigTable, data: bytes) -> None:
    assert table.publish(data) == 1
    view = table.read(1)
    assert (bytes(view), view.readonly) == (data, True)
    assert table.announced() == (1, segment_name(INSTANCE, "s1"), len(data))


def test_another_process_reads_and_reports(table: ConfigTable) -> None:
    table.publish(b"one")

    def work() -> None:
        table.join(1)
        generation, data = ConfigTable.attach(INSTANCE).read_current()
        assert bytes(data) == b"one"
        table.report(1, generation)

    assert in_child(work) == 0
    (status,) = table.statuses()
    assert (status.worker, status.state, status.applied_generation) == (1, WorkerState.SERVING, 1)
    assert not status.is_alive
    assert status.started_ns > 0


def test_a_refusal_keeps_the_applied_generation_and_says_why(table: ConfigTable) -> None:
    table.join(0)
    table.report(0, 1)
    table.report(0, 2, "é" * 400)
    (status,) = table.statuses()
    assert (status.applied_generation, status.refused_generation) == (1, 2)
    assert status.error == "é" * (MAX_ERROR_BYTES // 2)
    table.report(0, 3)
    (status,) = table.statuses()
    assert (status.applied_generation, status.refused_generation, status.error) == (3, 0, "")


def test_a_cut_error_ends_at_a_whole_character(table: ConfigTable) -> None:
    table.join(0)
    table.report(0, 1, "x" + "é" * 400)
    assert table.statuses()[0].error == "x" + "é" * 255


def test_states(table: ConfigTable) -> None:
    table.join(2)
    assert table.statuses()[0].state is WorkerState.STARTING
    table.set_state(2, WorkerState.DRAINING)
    table.report(2, 1)
    assert table.statuses()[0].state is WorkerState.DRAINING


def test_a_slot_has_one_living_holder(table: ConfigTable) -> None:
    table.join(0)
    assert in_child(lambda: refused(table)) == 0
    assert in_child(lambda: table.join(1)) == 0
    table.join(1)  # its holder is dead
    for worker in (-1, 3):
        with pytest.raises(ShmError, match="worker slot"):
            table.join(worker)


def refused(table: ConfigTable) -> None:
    with pytest.raises(ShmError, match="held by process"):
        table.join(0)


def test_old_snapshots_go_when_all_the_living_have_moved_on(table: ConfigTable) -> None:
    table.publish(b"1")
    table.join(0)

    def apply_and_die() -> None:
        table.join(1)
        table.report(1, 1)

    assert in_child(apply_and_die) == 0  # the dead do not count
    table.report(0, 1)
    table.publish(b"2")
    table.publish(b"3")
    assert snapshots() == ["1", "2", "3"]
    table.report(0, 2)
    assert (table.prune(), snapshots()) == (1, ["2", "3"])
    table.report(0, 3, "does not compile")
    assert (table.prune(), snapshots()) == (1, ["3"])
    assert table.prune() == 0
    with pytest.raises(SnapshotGoneError, match="gone"):
        table.read(1)


def test_a_view_outlives_its_snapshot(table: ConfigTable) -> None:
    table.publish(b"first")
    view = table.read(1)
    table.publish(b"second")
    assert snapshots() == ["2"]
    assert bytes(view) == b"first"


def test_what_is_announced_is_published_though_the_one_before_stays(table: ConfigTable) -> None:
    table.publish(b"first")
    path = DIRECTORY / segment_name(INSTANCE, "s1")[1:]
    path.unlink()
    path.mkdir()  # which nobody can unlink
    assert table.publish(b"second") == 2
    assert table.read_current()[0] == 2
    with pytest.raises((OSError, posix_ipc.Error)):
        table.prune()
    path.rmdir()
    path.touch()
    assert (table.prune(), snapshots()) == (1, ["2"])


def test_54_a_corrupt_snapshot_is_refused(table: ConfigTable) -> None:
    table.publish(b"payload")
    path = DIRECTORY / segment_name(INSTANCE, "s1")[1:]
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    with pytest.raises(SegmentRefusedError, match="corrupt snapshot"):
        table.read_current()


def test_54_a_lost_snapshot_is_said_not_waited_for(table: ConfigTable) -> None:
    table.publish(b"payload")
    unlink(segment_name(INSTANCE, "s1"))
    with pytest.raises(SnapshotGoneError):
        table.read_current()


def test_54_a_truncated_table_is_refused(table: ConfigTable) -> None:
    table.publish(b"payload")
    os.truncate(DIRECTORY / segment_name(INSTANCE, "config")[1:], 512)
    for check in (table.verify, lambda: ConfigTable.attach(INSTANCE)):
        with pytest.raises(SegmentRefusedError, match="512 bytes long"):
            check()
    os.truncate(DIRECTORY / segment_name(INSTANCE, "config")[1:], table._segment.header.size_bytes)
    unlink(segment_name(INSTANCE, "s1"))


@pytest.mark.parametrize("workers", [0, 1025])
def test_capacity_is_checked(workers: int) -> None:
    with pytest.raises(ShmError, match="workers"):
        ConfigTable.create(INSTANCE, workers)


def test_53_a_publisher_killed_at_any_line_leaves_old_or_new(table: ConfigTable) -> None:
    current, line = table.publish(b"good"), 0
    while killed_at_line(line := line + 1, lambda: table.publish(b"next")):
        generation, data = table.read_current()
        assert (generation, bytes(data)) in ((current, b"good"), (current + 1, b"next"))
        assert table.announced()[0] == generation
        current = table.publish(b"good")
        assert current == generation + 1
        assert snapshots() == [f"{current:x}"]
    assert line > 50


def test_53_a_reporter_killed_at_any_line_leaves_a_sound_slot(table: ConfigTable) -> None:
    table.publish(b"good")
    line = 0

    def work() -> None:
        table.join(1)
        table.report(1, 1, "x" * 600)
        table.report(1, 1)

    while killed_at_line(line := line + 1, work):
        for status in table.statuses():
            assert status.error in ("", "x" * MAX_ERROR_BYTES)
            assert status.applied_generation in (0, 1)
            assert not status.is_alive
    assert line > 30
    assert table.recoveries > 10
