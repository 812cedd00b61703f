"""A named piece of shared memory: created whole, checked before use, removed when its owner ends.

Source: design section 5; hardening cases 54 (truncated, corrupt, other version) and 58 (no room).

Who may do what:
    creator   makes the segment and holds a shared flock on it; removes it in `close`.
    child     inherits the mapping over fork, and with it the flock; never removes anything.
    attacher  maps an existing segment after every check of `layout.read_header`.
    heir      takes over a *kept* segment: one that outlives its instance, so that limits and spend
              survive even the death of all processes at once.

Invariants:
    S1  A segment is mapped only when its file is as long as its header says (H3), is ours
        (effective uid) and closed to others (0600).
    S2  All of its pages exist before anyone writes: where /dev/shm is full, creation fails, instead
        of a write dying by SIGBUS later.
    S3  Only the owner (pid, start time, pid namespace) unlinks; `adopt` makes this process it.
    S4  `sweep` removes an instance's segments only when nobody of it lives: every owner of this pid
        namespace is dead, and nobody holds a flock on those of another. The flock tells for a
        sidecar's container, which shares /dev/shm with its predecessor but not the pids.
    S6  A kept segment is swept only when its owner is dead and its last sign of life (the header's
        generation, ns since the epoch, renewed by `beat`) is a day old.
    S5  Judging a segment dead, removing it and creating one in its place happen under one lock of
        this user, so that nobody removes what has just been created anew.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

import posix_ipc

from shm import layout
from shm.errors import SegmentInUseError, SegmentMissingError, SegmentRefusedError, ShmError
from shm.layout import GENERATION_OFFSET, HEADER_BYTES, OWNER_OFFSET, Header, Kind

_PREFIX = "agw-"
_KEPT_PREFIX = "agwk-"
_KEPT_NS = 24 * 3600 * 1_000_000_000
_INSTANCE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TABLE = re.compile(r"[a-z0-9]{1,17}")
_SHM_DIR = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
_OWNER = struct.Struct("=3Q")


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """A process, distinguishable from a later one of the same pid. `start_ticks` since boot."""

    pid: int
    start_ticks: int
    namespace: int

    @classmethod
    def of_self(cls) -> Self:
        """The calling process; ask again after a fork."""
        pid = os.getpid()
        return cls(pid, start_ticks(pid) or 0, _namespace())

    def is_local(self) -> bool:
        """Whether the pid means anything here: it is of our own pid namespace."""
        return self.namespace == _namespace()

    def is_alive(self) -> bool:
        """Whether that very process still runs (a zombie does not)."""
        return self.pid != 0 and start_ticks(self.pid) == self.start_ticks


def start_ticks(pid: int) -> int | None:
    """When a process started, clock ticks since boot; None when it is gone or a zombie.

    Source: proc(5), /proc/pid/stat fields 3 and 22; the name in field 2 may hold anything, so count
    from the last parenthesis.
    """
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = data[data.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _instance_prefix(instance: str, prefix: str) -> str:
    if not _INSTANCE.fullmatch(instance):
        raise ShmError("instance: 1 to 128 letters, digits, dots, dashes and underscores")
    return prefix + hashlib.blake2b(instance.encode(), digest_size=8).hexdigest() + "-"


def segment_name(instance: str, table: str, *, kept: bool = False) -> str:
    """The POSIX name of an instance's table, at most 40 characters whatever the instance is called.

    `kept`: it outlives its instance (S6).

    Raises: ShmError for an instance or table outside the allowed alphabet.
    """
    if not _TABLE.fullmatch(table):
        raise ShmError("table: 1 to 17 lower-case letters and digits")
    return "/" + _instance_prefix(instance, _KEPT_PREFIX if kept else _PREFIX) + table


@final
class Segment:
    """One mapped segment. `body` is all behind the header; its layout is the table's.

    The mapping lives as long as its last view, so no view ever points to memory that is gone.
    """

    __slots__ = ("_owned_name", "_view", "body", "file", "header", "name")

    def __init__(self, name: str, header: Header, file: mmap.mmap) -> None:
        self.name = name
        self.header = header
        self.file = file
        """The whole mapping, header included: slicing it is cheaper than slicing `body`."""
        self._view = memoryview(file)
        self._owned_name = ""
        self.body = self._view[HEADER_BYTES:]

    @classmethod
    def create(
        cls,
        name: str,
        kind: Kind,
        body_bytes: int,
        parameters: tuple[int, int, int, int] = (0, 0, 0, 0),
        content: bytes = b"",
    ) -> Self:
        """Make a segment, owned by this process. Call `seal` once the table is set up.

        `content`: what the body begins with; the rest is zeros. Written to the file, that takes
        half the time of copying it to pages that are mapped one after the other.
        A segment of the same name whose owner is dead is replaced.
        Raises: SegmentInUseError when the owner lives, ShmError when there is no room.
        """
        header = Header(kind, HEADER_BYTES + body_bytes, parameters)
        descriptor = _create_file(name, header.size_bytes)
        try:
            _write(descriptor, content)
            segment = cls(name, header, mmap.mmap(descriptor, header.size_bytes))
        finally:
            os.close(descriptor)  # the mapping keeps its own duplicate, and with it the flock
        layout.write_header(segment._view, header)
        segment.adopt()
        return segment

    @classmethod
    def attach(cls, name: str, kind: Kind, *, read_only: bool = False) -> Self:
        """Map an existing segment after checking all of it that can be checked (S1).

        Raises: SegmentMissingError, SegmentRefusedError.
        """
        descriptor = _open_file(name, read_only=read_only)
        try:
            size = _check_file(name, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a sweep at most, which is brief
            access = mmap.ACCESS_READ if read_only else mmap.ACCESS_WRITE
            with mmap.mmap(descriptor, HEADER_BYTES, access=mmap.ACCESS_READ) as head:
                header = layout.read_header(name, memoryview(head[:]), size, kind)
            return cls(name, header, mmap.mmap(descriptor, size, access=access))
        finally:
            os.close(descriptor)

    @classmethod
    def inherit(cls, name: str, kind: Kind, *, from_living: bool = False) -> Self | None:
        """Take over the kept segment that an earlier instance left; None when there is none.

        `from_living`: also when its owner lives, which is the predecessor in an upgrade.
        Raises: SegmentInUseError when the owner lives, SegmentRefusedError.
        """
        with _registry():
            if not from_living and _is_held(_SHM_DIR / name[1:]):
                raise SegmentInUseError(f"{name}: in use; does this instance run already?")
            try:
                segment = cls.attach(name, kind)
            except SegmentMissingError:
                return None
            segment.adopt()
        return segment

    def beat(self) -> None:
        """Renew the sign of life of a kept segment (S6)."""
        self.generation_word[0] = time.time_ns()

    def leave(self) -> None:
        """Let go of the mapping, and leave a kept segment to the next instance."""
        self.beat()
        self._owned_name = ""
        self.body = self._view[:0]

    def seal(self) -> None:
        """Open the segment to others (H1)."""
        layout.seal(self._view)

    def adopt(self) -> None:
        """Become the owner, who removes the segment in `close`."""
        me = Identity.of_self()
        _OWNER.pack_into(self._view, OWNER_OFFSET, me.pid, me.start_ticks, me.namespace)
        self._owned_name = self.name

    @property
    def owner(self) -> Identity:
        """The process in charge of removing the segment."""
        return Identity(*_OWNER.unpack_from(self._view, OWNER_OFFSET))

    @property
    def generation_word(self) -> memoryview:
        """The header's generation as a view of one u64, for the table that counts in it."""
        return self._view[GENERATION_OFFSET : GENERATION_OFFSET + 8].cast("Q")

    def verify(self) -> None:
        """Look at the segment again: still as long as it was, header intact.

        For the supervisor, before it forks into a segment that would kill.
        Raises: SegmentMissingError, SegmentRefusedError.
        """
        descriptor = _open_file(self.name, read_only=True)
        try:
            size = _check_file(self.name, descriptor)
            with mmap.mmap(descriptor, HEADER_BYTES, access=mmap.ACCESS_READ) as head:
                layout.read_header(self.name, memoryview(head[:]), size, self.header.kind)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Remove the name if this process owns it (S3), and let go of the mapping. Idempotent."""
        if self._owned_name and self.owner == Identity.of_self():
            unlink(self._owned_name)
        self._owned_name = ""
        self.body = self._view[:0]


def unlink(name: str) -> bool:
    """Remove a name; those who mapped it keep their memory. False when there was none."""
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        return False
    return True


def sweep() -> list[str]:
    """Remove what dead instances of this user left behind (S4); the names removed."""
    with _registry():
        return _sweep()


def _sweep() -> list[str]:
    instances: dict[str, list[Path]] = {}
    for path in sorted(_SHM_DIR.glob(_PREFIX + "*-*")):
        instances.setdefault(path.name.rpartition("-")[0], []).append(path)
    removed = []
    for paths in instances.values():
        if not any(_is_held(path) for path in paths):
            removed += ["/" + path.name for path in paths if unlink("/" + path.name)]
    for path in sorted(_SHM_DIR.glob(_KEPT_PREFIX + "*-*")):
        if not _is_held(path) and _is_stale(path) and unlink("/" + path.name):
            removed.append("/" + path.name)
    return removed


def _is_stale(path: Path) -> bool:
    """Whether a kept segment of a dead owner has been of no use for long (S6)."""
    try:
        with path.open("rb") as file:
            head = memoryview(file.read(HEADER_BYTES))
    except OSError:
        return False
    if len(head) < HEADER_BYTES:
        return True
    beat = int.from_bytes(head[GENERATION_OFFSET : GENERATION_OFFSET + 8], sys.byteorder)
    return time.time_ns() - beat > _KEPT_NS


def _is_held(path: Path) -> bool:
    """Whether someone living may still want this segment; in doubt, yes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # another user's, or not a file: none of our business
    try:
        return _is_descriptor_held(descriptor)
    finally:
        os.close(descriptor)


def _is_descriptor_held(descriptor: int) -> bool:
    info = os.fstat(descriptor)
    if info.st_uid != os.geteuid() or not stat.S_ISREG(info.st_mode):
        return True
    head = memoryview(os.pread(descriptor, HEADER_BYTES, 0))
    if len(head) == HEADER_BYTES and layout.is_sealed(head):
        owner = Identity(*_OWNER.unpack_from(head, OWNER_OFFSET))
        if owner.is_local():
            return owner.is_alive()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _create_file(name: str, size_bytes: int) -> int:
    """A new file of real pages (S2)."""
    descriptor = _create_name(name)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as exc:
        os.close(descriptor)
        unlink(name)
        if exc.errno in (errno.ENOSPC, errno.ENOMEM):
            raise ShmError(_no_room(name, size_bytes)) from exc
        raise ShmError(f"{name}: {exc.strerror}") from exc
    return descriptor


def _write(descriptor: int, content: bytes) -> None:
    rest, offset = memoryview(content), HEADER_BYTES
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _no_room(name: str, size_bytes: int) -> str:
    """What happened, and how to enlarge /dev/shm wherever this runs."""
    room = os.statvfs(_SHM_DIR)
    free = room.f_bavail * room.f_frsize
    size = room.f_blocks * room.f_frsize
    wanted = f"{-(-(size - free + size_bytes) // 2**20)}m"
    return (
        f"{name}: no room for {size_bytes} bytes in {_SHM_DIR}, {free} of its {size} are free."
        f" Enlarge it to {wanted} or more: mount -o remount,size={wanted} {_SHM_DIR};"
        f" docker run --shm-size={wanted}; in Kubernetes mount an emptyDir with medium: Memory and"
        f" sizeLimit at {_SHM_DIR}"
    )


def _create_name(name: str) -> int:
    with _registry():
        try:
            return _create_exclusively(name)
        except posix_ipc.ExistentialError as exc:
            if _is_held(_SHM_DIR / name[1:]):
                raise SegmentInUseError(f"{name}: in use; does this instance run already?") from exc
        unlink(name)
        try:
            return _create_exclusively(name)
        except posix_ipc.ExistentialError as exc:
            raise SegmentInUseError(f"{name}: another process created it just now") from exc


def _create_exclusively(name: str) -> int:
    """A new file with our shared flock on it: one without magic or flock has lost its creator."""
    try:
        descriptor = int(posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600).fd)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except posix_ipc.ExistentialError:
        raise
    except (OSError, posix_ipc.Error) as exc:
        raise ShmError(f"{name}: {exc}") from exc
    return descriptor


@contextmanager
def _registry() -> Iterator[None]:
    """One process of this user at a time (S5). The lock's file stays; the kernel frees the lock."""
    path = _SHM_DIR / f"agw.lock.{os.geteuid()}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ShmError(f"{path}: {exc.strerror}") from exc
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise SegmentRefusedError(f"{path}: belongs to another user")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_file(name: str, *, read_only: bool) -> int:
    try:
        return int(posix_ipc.SharedMemory(name, read_only=read_only).fd)
    except posix_ipc.ExistentialError as exc:
        raise SegmentMissingError(f"{name}: no such shared memory") from exc
    except (OSError, posix_ipc.Error) as exc:
        raise SegmentRefusedError(f"{name}: {exc}") from exc


def _check_file(name: str, descriptor: int) -> int:
    """The file's size. Raises: SegmentRefusedError when it is not ours alone, or too short."""
    info = os.fstat(descriptor)
    if info.st_uid != os.geteuid():
        raise SegmentRefusedError(f"{name}: belongs to user {info.st_uid}")
    if info.st_mode & 0o077:
        raise SegmentRefusedError(f"{name}: open to other users (mode {info.st_mode & 0o777:o})")
    if info.st_size < HEADER_BYTES:
        raise SegmentRefusedError(
            f"{name}: {info.st_size} bytes long, too short for a header (truncated?)"
        )
    return info.st_size
