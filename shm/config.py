"""The configuration table: which snapshot is current, and what each worker made of it.

Source: design section 2 (control publishes, workers apply and report), spec config section 10.1.

Body, behind the header; generation g is the header's generation word, 0 before the first:

    offset size type   field                              written by          a reader may see torn
    0      64   lock   the table's lock                   `lock`
    64     48*2 -      announcements, g in slot g mod 2:  publisher, locked
                 char[40] segment name                                        no: slot g mod 2 is
                 u64   payload bytes                                          complete before g is
    160    8    u64    oldest generation not yet unlinked publisher, locked   no: one word
    168    24   -      zero
    192    576  -      worker slots, one each:
      +0   8    u64    worker id (slot index)             the worker, locked  only under no lock
      +8   8    u64    pid
      +16  8    u64    start, ticks since boot
      +24  8    u64    state (WorkerState)
      +32  8    u64    applied generation                                     no: one word
      +40  8    u64    refused generation, 0 when none
      +48  8    u64    started, ns since the epoch
      +56  8    u64    error text bytes, ≤ 512
      +64  512  UTF-8  error text

Parameters of the header: number of worker slots, 0, 0, 0. A snapshot is a segment of its own:
parameters payload bytes, CRC-32, generation, 0; its body is the payload. It never changes.

States of a generation: written (its segment is sealed) → announced (the generation word says so) →
superseded → unlinked (`oldest` has passed it).

Invariants:
    C1  The generation word is stored after the announcement and the sealed segment it names.
    C2  Publisher and workers change the table under its lock; one publisher at a time.
    C3  Generations in [oldest, g] are readable; one past g may exist, left by a publisher that died
        before announcing it, and is replaced by the next publication.
    C4  `error text bytes` is 0 while the text is being stored.
    C5  A generation is unlinked only when every living worker has applied or refused a newer one.
        (Refusing counts: else one worker that refuses all would fill the memory with snapshots.)
So a holder's death leaves nothing half-made; repair only checks that the words are in range.
"""

from __future__ import annotations

import contextlib
import enum
import struct
import time
import zlib
from dataclasses import dataclass
from typing import Self, final

import posix_ipc

from shm.errors import SegmentMissingError, SegmentRefusedError, ShmError, SnapshotGoneError
from shm.layout import Kind
from shm.lock import LOCK_BYTES, RobustLock
from shm.segment import Identity, Segment, segment_name, unlink

KIND = Kind("config", 1)
SNAPSHOT_KIND = Kind("snapshot", 1)
MAX_WORKERS = 1024
MAX_ERROR_BYTES = 512

_ANNOUNCEMENT = struct.Struct("=40sQ")
_ANNOUNCEMENTS_OFFSET = 64
_OLDEST = 160 // 8
_SLOTS_OFFSET = 192
_SLOT_BYTES = 576
_TEXT_OFFSET = 64
_ID, _PID, _START, _STATE, _APPLIED, _REFUSED, _STARTED, _TEXT_BYTES = range(8)

assert _ANNOUNCEMENTS_OFFSET + 2 * _ANNOUNCEMENT.size == _OLDEST * 8, "body design note"
assert _TEXT_OFFSET + MAX_ERROR_BYTES == _SLOT_BYTES, "body design note"


class WorkerState(enum.IntEnum):
    """Where a worker is in its life; EMPTY: the slot was never used."""

    EMPTY = 0
    STARTING = 1
    SERVING = 2
    DRAINING = 3


@final
@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One slot, as of one moment."""

    worker: int
    pid: int
    state: WorkerState
    is_alive: bool
    applied_generation: int
    """0: none yet."""
    refused_generation: int
    """The generation `error` is about; 0: none."""
    error: str
    started_ns: int
    """Nanoseconds since the epoch."""


@final
class ConfigTable:
    """The table, in the process that created it and, over fork, in its children.

    Workers call `join`, then `read_current`, compile, and `report`; control calls `publish`,
    `statuses` and, when workers have reported, `prune`.
    """

    __slots__ = ("_generation", "_instance", "_lock", "_segment", "_words", "workers")

    def __init__(self, instance: str, segment: Segment, *, fresh: bool) -> None:
        self._instance = instance
        self._segment = segment
        self.workers = segment.header.parameters[0]
        if len(segment.body) != _SLOTS_OFFSET + self.workers * _SLOT_BYTES:
            raise SegmentRefusedError(f"{segment.name}: size does not fit {self.workers} workers")
        self._words = segment.body.cast("Q")
        self._generation = segment.generation_word
        make_lock = RobustLock.create if fresh else RobustLock
        self._lock = make_lock(segment.body[:LOCK_BYTES], self._repair)

    @classmethod
    def create(cls, instance: str, workers: int) -> Self:
        """A new table for `workers` slots (1 to 1,024), owned by this process.

        Raises: SegmentInUseError, ShmError.
        """
        if not 1 <= workers <= MAX_WORKERS:
            raise ShmError(f"workers: {workers} is not in 1 to {MAX_WORKERS}")
        size = _SLOTS_OFFSET + workers * _SLOT_BYTES
        segment = Segment.create(segment_name(instance, KIND.name), KIND, size, (workers, 0, 0, 0))
        table = cls(instance, segment, fresh=True)
        table._words[_OLDEST] = 1
        segment.seal()
        return table

    @classmethod
    def attach(cls, instance: str) -> Self:
        """A running instance's table. Raises: SegmentMissingError, SegmentRefusedError."""
        segment = Segment.attach(segment_name(instance, KIND.name), KIND)
        return cls(instance, segment, fresh=False)

    @property
    def generation(self) -> int:
        """The newest announced generation; 0 before the first. Takes no lock."""
        return self._generation[0]

    @property
    def recoveries(self) -> int:
        """How often the lock was recovered from a dead holder."""
        return self._lock.recoveries

    def verify(self) -> None:
        """Check the segment once more. Raises: SegmentRefusedError."""
        self._segment.verify()

    def publish(self, data: bytes) -> int:
        """Make `data` the current snapshot and give its generation. Wake the workers afterwards.

        Raises: ShmError when there is no room, or another process publishes at the same time (C2);
        nothing is announced then.
        """
        generation = self.generation + 1
        name = self._snapshot_name(generation)
        unlink(name)  # C3: left by a publisher that died
        self._write_snapshot(name, generation, data)
        with self._lock:
            if self.generation != generation - 1:
                raise ShmError(f"{name}: another process published generation {self.generation}")
            offset = _ANNOUNCEMENTS_OFFSET + generation % 2 * _ANNOUNCEMENT.size
            _ANNOUNCEMENT.pack_into(self._segment.body, offset, name.encode(), len(data))
            self._generation[0] = generation  # C1
            # It is published, whatever becomes of the older ones: the next prune tries again.
            with contextlib.suppress(OSError, posix_ipc.Error):
                self._unlink_superseded()
        return generation

    def _write_snapshot(self, name: str, generation: int, data: bytes) -> None:
        parameters = (len(data), zlib.crc32(data), generation, 0)
        Segment.create(name, SNAPSHOT_KIND, len(data), parameters, data).seal()

    def read(self, generation: int) -> memoryview:
        """The snapshot's bytes, read-only; they stay mapped while the view lives.

        Raises: SnapshotGoneError when it was unlinked or never announced; SegmentRefusedError when
        it is damaged.
        """
        if not 1 <= generation <= self.generation:
            raise SnapshotGoneError(f"generation {generation} was never published")
        name = self._snapshot_name(generation)
        try:
            segment = Segment.attach(name, SNAPSHOT_KIND, read_only=True)
        except SegmentMissingError as exc:
            raise SnapshotGoneError(f"generation {generation} is gone") from exc
        size, crc, stored, _ = segment.header.parameters
        if (size, stored) != (len(segment.body), generation) or zlib.crc32(segment.body) != crc:
            raise SegmentRefusedError(f"{name}: corrupt snapshot (checksum or size differs)")
        return segment.body

    def read_current(self) -> tuple[int, memoryview]:
        """The current generation and its bytes.

        Raises: SnapshotGoneError when nothing was published yet, or the snapshot is missing.
        """
        while True:
            generation = self.generation
            try:
                return generation, self.read(generation)
            except SnapshotGoneError:
                if generation == self.generation:
                    raise

    def announced(self) -> tuple[int, str, int]:
        """The current generation, its segment's name and payload bytes; (0, "", 0) before it."""
        with self._lock:
            generation = self.generation
            offset = _ANNOUNCEMENTS_OFFSET + generation % 2 * _ANNOUNCEMENT.size
            name, size = _ANNOUNCEMENT.unpack_from(self._segment.body, offset)
        return generation, name.rstrip(b"\0").decode(), size

    def join(self, worker: int) -> None:
        """Take a worker's slot for this process: STARTING, nothing applied.

        Raises: ShmError when the index is out of range or its last holder still lives.
        """
        me = Identity.of_self()
        with self._lock:
            base = self._base(worker)
            holder = self._words[base + _PID]
            if holder != me.pid and self._is_alive(base):
                raise ShmError(f"worker slot {worker} is held by process {holder}")
            self._words[base + _STATE] = WorkerState.STARTING
            self._words[base + _APPLIED] = 0
            self._words[base + _REFUSED] = 0
            self._words[base + _TEXT_BYTES] = 0
            self._words[base + _ID] = worker
            self._words[base + _STARTED] = time.time_ns()
            self._words[base + _START] = me.start_ticks
            self._words[base + _PID] = me.pid

    def report(self, worker: int, generation: int, error: str = "") -> None:
        """Say that this worker applied a generation, or why it did not (cut to 512 bytes).

        A STARTING worker that applied its first generation is SERVING.
        """
        text = error.encode("utf-8", "replace")[:MAX_ERROR_BYTES]
        with self._lock:
            base = self._base(worker)
            self._words[base + _TEXT_BYTES] = 0  # C4
            if text:
                start = base * 8 + _TEXT_OFFSET
                self._segment.body[start : start + len(text)] = text
            else:
                self._words[base + _APPLIED] = generation
                if self._words[base + _STATE] == WorkerState.STARTING:
                    self._words[base + _STATE] = WorkerState.SERVING
            self._words[base + _REFUSED] = generation if text else 0
            self._words[base + _TEXT_BYTES] = len(text)

    def set_state(self, worker: int, state: WorkerState) -> None:
        """Say where this worker is in its life."""
        with self._lock:
            self._words[self._base(worker) + _STATE] = state

    def statuses(self) -> list[WorkerStatus]:
        """Every slot ever used, in order, each consistent in itself."""
        with self._lock:
            raw = [(base, bytes(self._slot(base))) for base in self._used_bases()]
            alive = [self._is_alive(base) for base, _ in raw]
        return [_status(slot, is_alive) for (_, slot), is_alive in zip(raw, alive, strict=True)]

    def prune(self) -> int:
        """Unlink the snapshots nobody can want any more (C5); how many."""
        with self._lock:
            return self._unlink_superseded()

    def _unlink_superseded(self) -> int:
        """Under the lock."""
        oldest = self._words[_OLDEST]
        seen = [
            max(self._words[base + _APPLIED], self._words[base + _REFUSED])
            for base in self._used_bases()
            if self._is_alive(base)
        ]
        keep_from = min([self.generation, *seen])
        removed = sum(unlink(self._snapshot_name(g)) for g in range(oldest, keep_from))
        self._words[_OLDEST] = max(oldest, keep_from)
        return removed

    def close(self) -> None:
        """In the owner: remove the table and every snapshot. Elsewhere: let go. Takes no lock."""
        if self._segment.owner == Identity.of_self():
            for generation in range(self._words[_OLDEST], self.generation + 2):  # C3
                unlink(self._snapshot_name(generation))
        self._segment.close()

    def _snapshot_name(self, generation: int) -> str:
        return segment_name(self._instance, f"s{generation:x}")

    def _base(self, worker: int) -> int:
        """The index of a slot's first word."""
        if not 0 <= worker < self.workers:
            raise ShmError(f"worker slot {worker} is not in 0 to {self.workers - 1}")
        return (_SLOTS_OFFSET + worker * _SLOT_BYTES) // 8

    def _slot(self, base: int) -> memoryview:
        return self._segment.body[base * 8 : base * 8 + _SLOT_BYTES]

    def _used_bases(self) -> list[int]:
        bases = (self._base(worker) for worker in range(self.workers))
        return [base for base in bases if self._words[base + _PID]]

    def _is_alive(self, base: int) -> bool:
        return Identity(self._words[base + _PID], self._words[base + _START], 0).is_alive()

    def _repair(self) -> None:
        for worker in range(self.workers):
            base = self._base(worker)
            if self._words[base + _TEXT_BYTES] > MAX_ERROR_BYTES:
                raise SegmentRefusedError(f"{self._segment.name}: error length out of range (C4)")
            if self._words[base + _STATE] > WorkerState.DRAINING:
                raise SegmentRefusedError(f"{self._segment.name}: worker state out of range")
        if not 1 <= self._words[_OLDEST] <= self.generation + 1:
            raise SegmentRefusedError(f"{self._segment.name}: oldest generation out of range (C3)")


def _status(slot: bytes, is_alive: bool) -> WorkerStatus:
    words = memoryview(slot)[:_TEXT_OFFSET].cast("Q")
    text = slot[_TEXT_OFFSET : _TEXT_OFFSET + words[_TEXT_BYTES]]
    return WorkerStatus(
        worker=words[_ID],
        pid=words[_PID],
        state=WorkerState(words[_STATE]),
        is_alive=is_alive,
        applied_generation=words[_APPLIED],
        refused_generation=words[_REFUSED],
        error=text.decode("utf-8", "ignore"),  # a character cut at the limit is left out
        started_ns=words[_STARTED],
    )
