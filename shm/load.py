"""Rows that are read without a lock: what each worker has under way at each endpoint, and copies.

Source: design section 5 (`endpoints`); the invariants are in `shm.endpoints`.

Body, behind the header; columns C, rows and bytes a row are the header's parameters 0 to 2:

    offset  size  type  field                        written by             seen torn
    0       64    lock  claims lock                  `lock`
    64      64*C  -     column claims:
      +0    8     u64   pid, 0: free                 the claimant, locked   no: one word
      +8    8     u64   start, ticks since boot      the claimant, locked   no: one word
    64+64*C       rows, one each, of a multiple of 64 bytes:
      +0    16    -     key                          stripe's lock          only without the lock
      +16   8     f64   health, a copy               stripe's lock          no: one word
      +24   8     u64   ejected until, a copy        stripe's lock          no: one word
      +32   8     u64   1: something to forgive      stripe's lock          no: one word
      +40   8     f64   latency, seconds, average    any user, no lock      no: one word
      +48   8     -     zero
      +56   72    -     label, UTF-8, zero-padded    stripe's lock          only without the lock
      +128  4*C   u32   in flight, a column          the column's holder    no: one word
      +...  C     u8    1: the column uses the row   stripe's lock          no: one byte

`stripe's lock` is that of the slot which the row belongs to. Words that are read together may be of
different moments: a score is then that of a moment that never was, one pick is a little worse, and
nothing is kept of it.
"""

from __future__ import annotations

from array import array
from typing import Final, Self, final

from shm.errors import SegmentRefusedError, ShmError
from shm.layout import LINE_BYTES, Kind, aligned
from shm.lock import LOCK_BYTES, RobustLock
from shm.segment import Identity, Segment

KIND: Final = Kind("load", 1)
MAX_COLUMNS: Final = 1024
MAX_LABEL_BYTES: Final = 72
HEALTH, EJECTED, TROUBLED, LATENCY = range(4)
"""The words of a row, as `views` gives them."""

_CLAIMS_OFFSET: Final = LOCK_BYTES
_PID, _START = range(2)
_KEY_BYTES: Final = 16
_LABEL_OFFSET: Final = 56
_CELLS_OFFSET: Final = 128

assert _LABEL_OFFSET + MAX_LABEL_BYTES == _CELLS_OFFSET, "design note"


def row_bytes(columns: int) -> int:
    """What a row takes."""
    return aligned(_CELLS_OFFSET + 5 * columns)


@final
class LoadRows:
    """The segment, in the process that created it and, over fork, in its children."""

    __slots__ = (
        "_body",
        "_cells",
        "_lock",
        "_reals",
        "_row_bytes",
        "_rows_offset",
        "_words",
        "columns",
        "rows",
        "segment",
    )

    def __init__(self, segment: Segment, *, fresh: bool) -> None:
        self.columns, self.rows, self._row_bytes, _ = segment.header.parameters
        self._rows_offset = _CLAIMS_OFFSET + self.columns * LINE_BYTES
        expected = self._rows_offset + self.rows * self._row_bytes
        if self._row_bytes != row_bytes(self.columns) or len(segment.body) != expected:
            raise SegmentRefusedError(f"{segment.name}: size does not fit its rows and columns")
        self.segment = segment
        self._body = segment.body
        self._words = segment.body.cast("Q")
        self._reals = segment.body.cast("d")
        self._cells = segment.body.cast("I")
        make_lock = RobustLock.create if fresh else RobustLock
        self._lock = make_lock(segment.body[:LOCK_BYTES], _nothing)

    @classmethod
    def create(cls, name: str, columns: int, rows: int) -> Self:
        """Rows of zeros, owned by this process. Raises: SegmentInUseError, ShmError."""
        if not 1 <= columns <= MAX_COLUMNS:
            raise ShmError(f"endpoints: {columns} columns are out of range")
        size = _CLAIMS_OFFSET + columns * LINE_BYTES + rows * row_bytes(columns)
        segment = Segment.create(name, KIND, size, (columns, rows, row_bytes(columns), 0))
        made = cls(segment, fresh=True)
        segment.seal()
        return made

    @classmethod
    def attach(cls, name: str) -> Self:
        """Those of a running instance. Raises: SegmentMissingError, SegmentRefusedError."""
        return cls(Segment.attach(name, KIND), fresh=False)

    # --- columns ----------------------------------------------------------------------------

    def claim(self, column: int) -> None:
        """Take a column for this process, all zero. Raises: ShmError when its holder lives."""
        if not 0 <= column < self.columns:
            raise ShmError(f"endpoints column {column} is not in 0 to {self.columns - 1}")
        me = Identity.of_self()
        with self._lock:
            holder = self._holder(column)
            if holder.pid != me.pid and holder.is_alive():
                raise ShmError(f"endpoints column {column} is held by process {holder.pid}")
            self._zero(column)
            self._hold(column, me.pid, me.start_ticks)

    def release_dead(self) -> int:
        """Zero the cells of dead holders; how many calls they had under way."""
        count = 0
        with self._lock:
            for column in range(self.columns):
                holder = self._holder(column)
                if holder.pid and not holder.is_alive():
                    count += self._zero(column)
                    self._hold(column, 0, 0)
        return count

    def _holder(self, column: int) -> Identity:
        base = (_CLAIMS_OFFSET + column * LINE_BYTES) // 8
        return Identity(self._words[base + _PID], self._words[base + _START], 0)

    def _hold(self, column: int, pid: int, start_ticks: int) -> None:
        base = (_CLAIMS_OFFSET + column * LINE_BYTES) // 8
        self._words[base + _START] = start_ticks
        self._words[base + _PID] = pid

    def _zero(self, column: int) -> int:
        first = (self._rows_offset + _CELLS_OFFSET) // 4 + column
        cells = self._cells[first :: self._row_bytes // 4]
        count = sum(cells)
        if count:
            cells[:] = memoryview(array("I", bytes(4 * len(cells))))
        return count

    # --- rows -------------------------------------------------------------------------------

    def views(self, row: int) -> tuple[memoryview, memoryview[float], memoryview]:
        """Of a row: the words, the same as float64, and the in-flight cells."""
        start = self._start(row)
        first = (start + _KEY_BYTES) // 8
        cells = (start + _CELLS_OFFSET) // 4
        return (
            self._words[first : first + 4],
            self._reals[first : first + 4],
            self._cells[cells : cells + self.columns],
        )

    def publish(self, row: int, health: float, ejected_until_ns: int, troubled: bool) -> None:
        """Store the copies."""
        first = (self._start(row) + _KEY_BYTES) // 8
        self._reals[first + HEALTH] = health
        self._words[first + TROUBLED] = troubled
        self._words[first + EJECTED] = ejected_until_ns

    def name(self, row: int, key: bytes, label: bytes) -> None:
        """Give a row to an endpoint nobody uses yet."""
        start = self._start(row)
        cut = label[:MAX_LABEL_BYTES].decode("utf-8", "ignore").encode()
        label_bytes = cut.ljust(MAX_LABEL_BYTES, b"\0")
        self._body[start + _LABEL_OFFSET : start + _CELLS_OFFSET] = label_bytes
        self._body[start : start + _KEY_BYTES] = key
        self._reals[(start + _KEY_BYTES) // 8 + LATENCY] = 0.0

    def key(self, row: int) -> bytes:
        """Of the endpoint that the row was last given to."""
        start = self._start(row)
        return bytes(self._body[start : start + _KEY_BYTES])

    def label(self, row: int) -> bytes:
        """For people."""
        start = self._start(row)
        return bytes(self._body[start + _LABEL_OFFSET : start + _CELLS_OFFSET]).rstrip(b"\0")

    def use(self, row: int, column: int) -> None:
        """A column begins to use a row."""
        self._body[self._uses(row) + column] = 1

    def let_go(self, row: int, column: int) -> None:
        """A column ends using a row, its in-flight cell 0 with it."""
        self._cells[(self._start(row) + _CELLS_OFFSET) // 4 + column] = 0
        self._body[self._uses(row) + column] = 0

    def users(self, row: int) -> int:
        """How many columns use a row."""
        first = self._uses(row)
        return sum(self._body[first : first + self.columns])

    def used_by(self, column: int) -> list[int]:
        """The rows that a column uses."""
        uses = bytes(self._body[self._uses(0) + column :: self._row_bytes])
        return [row for row, used in enumerate(uses) if used]

    def _start(self, row: int) -> int:
        return self._rows_offset + row * self._row_bytes

    def _uses(self, row: int) -> int:
        return self._start(row) + _CELLS_OFFSET + 4 * self.columns


def _nothing() -> None:
    """The claims are words that mean something one by one, so a death leaves nothing to repair."""
