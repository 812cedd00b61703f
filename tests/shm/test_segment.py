"""Segments: life, ownership over fork and death, refusal of damage, and what a sweep takes away."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shm import layout
from shm.errors import (
    SegmentInUseError,
    SegmentMissingError,
    SegmentRefusedError,
    ShmError,
)
from shm.layout import HEADER_BYTES, Kind
from shm.segment import Identity, Segment, segment_name, start_ticks, sweep, unlink

KIND = Kind("test", 1)
DIRECTORY = Path("/dev/shm")


@pytest.fixture
def name() -> Iterator[str]:
    name = segment_name(f"test-segment-{os.getpid()}", "table")
    yield name
    unlink(name)


def make(name: str, body_bytes: int = 64) -> Segment:
    segment = Segment.create(name, KIND, body_bytes, (7, 0, 0, 0))
    segment.seal()
    return segment


def file_of(name: str) -> Path:
    return DIRECTORY / name[1:]


def in_child(action: Callable[[], object]) -> int:
    """Run in a forked process that ends without clean-up; its wait status as an exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_two_mappings_see_one_memory(name: str) -> None:
    segment = make(name)
    other = Segment.attach(name, KIND)
    segment.body[:5] = b"hello"
    segment.generation_word[0] = 12
    assert (bytes(other.body[:5]), other.generation_word[0]) == (b"hello", 12)
    assert other.header.parameters == (7, 0, 0, 0)
    assert stat.S_IMODE(file_of(name).stat().st_mode) == 0o600
    segment.close()


def test_a_read_only_mapping_cannot_be_written(name: str) -> None:
    segment = make(name)
    with pytest.raises(TypeError):
        Segment.attach(name, KIND, read_only=True).body[0] = 1
    segment.close()


def test_close_removes_the_name_but_not_a_view_in_use(name: str) -> None:
    segment = make(name)
    view = segment.body
    segment.close()
    segment.close()
    view[0] = 9
    assert view[0] == 9
    with pytest.raises(SegmentMissingError, match=name):
        Segment.attach(name, KIND)


def test_a_child_does_not_remove_what_its_parent_owns(name: str) -> None:
    segment = make(name)
    assert in_child(segment.close) == 0
    assert Segment.attach(name, KIND).owner == Identity.of_self()
    segment.close()


def test_whoever_adopts_removes(name: str) -> None:
    segment = make(name)
    assert in_child(lambda: Segment.attach(name, KIND).adopt()) == 0
    segment.close()
    assert file_of(name).exists()  # it was another's by then

    def adopt_and_close() -> None:
        heir = Segment.attach(name, KIND)
        heir.adopt()
        heir.close()

    assert in_child(adopt_and_close) == 0
    assert not file_of(name).exists()


def test_a_living_owner_keeps_its_name(name: str) -> None:
    segment = make(name)
    with pytest.raises(SegmentInUseError, match="in use"):
        make(name)
    segment.close()


def test_a_dead_owner_is_replaced(name: str) -> None:
    assert in_child(lambda: make(name)) == 0
    segment = make(name)
    assert segment.owner == Identity.of_self()
    segment.close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda p: os.truncate(p, 100), "too short for a header", id="54-truncated-head"
        ),
        pytest.param(lambda p: os.truncate(p, 150), "150 bytes long", id="54-truncated-body"),
        pytest.param(lambda p: os.truncate(p, 0), "too short", id="54-emptied"),
        pytest.param(lambda p: p.chmod(0o644), "mode 644", id="54-opened-to-others"),
        pytest.param(lambda p: p.write_bytes(bytes(192)), "no magic", id="54-zeroed"),
    ],
)
def test_damage_is_refused(name: str, damage: Callable[[Path], object], message: str) -> None:
    segment = make(name)
    damage(file_of(name))
    with pytest.raises(SegmentRefusedError, match=message):
        Segment.attach(name, KIND)
    with pytest.raises(SegmentRefusedError, match=message):
        segment.verify()
    unlink(name)


def test_verify_passes_an_intact_segment_and_misses_a_removed_one(name: str) -> None:
    segment = make(name)
    segment.verify()
    unlink(name)
    with pytest.raises(SegmentMissingError):
        segment.verify()


def test_no_room_is_said_at_creation(name: str) -> None:
    with pytest.raises(ShmError, match=r"no room|large"):
        Segment.create(name, KIND, 1 << 45)
    assert not file_of(name).exists()


@pytest.mark.parametrize("instance", ["", "a/b", "x" * 129, "ü", "a b"])
def test_instance_names_are_checked(instance: str) -> None:
    with pytest.raises(ShmError, match="instance"):
        segment_name(instance, "config")


def test_names_are_short_and_differ() -> None:
    names = {segment_name(i, t) for i in ("a", "a" * 128) for t in ("config", "s" + "f" * 16)}
    assert len(names) == 4
    assert max(map(len, names)) <= 40


def test_identity_tells_a_zombie_and_a_stranger_from_the_living() -> None:
    me = Identity.of_self()
    assert me.is_alive()
    assert not Identity(me.pid, me.start_ticks + 1, me.namespace).is_alive()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert start_ticks(pid) is None  # a zombie
    os.waitpid(pid, 0)
    assert start_ticks(pid) is None


def orphan(instance: str) -> str:
    """A segment whose owner was killed."""
    name = segment_name(instance, "table")

    def make_and_die() -> None:
        make(name)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(make_and_die) == -signal.SIGKILL
    return name


def test_sweep_takes_the_dead_and_leaves_the_living(name: str) -> None:
    segment = make(name)
    dead = orphan(f"test-dead-{os.getpid()}")
    removed = sweep()
    assert dead in removed
    assert name not in removed
    assert not file_of(dead).exists()
    assert file_of(name).exists()
    segment.close()


def test_sweep_leaves_all_of_an_instance_while_one_of_it_lives() -> None:
    instance = f"test-mixed-{os.getpid()}"
    root = make(segment_name(instance, "config"))
    part = orphan(instance)  # as a snapshot of a control process that was killed
    assert part not in sweep()
    root.close()
    assert part in sweep()


def test_sweep_asks_the_flock_about_another_pid_namespace(name: str) -> None:
    make(name)
    path = file_of(name)
    with path.open("r+b") as file:
        file.seek(layout.OWNER_OFFSET)
        file.write(struct.pack("=3Q", 1, 1, 1))
        fcntl.flock(file, fcntl.LOCK_SH)
        assert name not in sweep()
    assert name in sweep()


def test_a_segment_in_the_making_is_its_living_creators(name: str) -> None:
    ready, done = os.pipe()

    creator = os.fork()
    if creator == 0:
        segment = Segment.create(name, KIND, 64)
        os.write(done, segment.name[:1].encode())
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    try:
        assert name not in sweep()
        with pytest.raises(SegmentInUseError):
            make(name)
    finally:
        os.kill(creator, signal.SIGKILL)
        os.waitpid(creator, 0)
    make(name).close()
    file_of(name).touch(0o600)
    assert name in sweep()
    os.close(ready)
    os.close(done)


def test_sweep_leaves_what_is_not_a_plain_file() -> None:
    path = DIRECTORY / f"agw-{'0' * 16}-link{os.getpid()}"
    path.symlink_to("/etc/hostname")
    try:
        assert "/" + path.name not in sweep()
    finally:
        path.unlink()


def test_the_body_begins_on_a_cache_line(name: str) -> None:
    segment = make(name)
    assert HEADER_BYTES % layout.LINE_BYTES == 0
    assert len(segment.body) == 64
    segment.close()
