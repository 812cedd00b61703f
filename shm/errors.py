"""What goes wrong with shared memory: one root, and a class for each answer a caller may give."""

from __future__ import annotations


class ShmError(Exception):
    """Root of every error this package raises on purpose."""


class SegmentMissingError(ShmError):
    """No segment of that name exists; its creator has not started or has gone."""


class SegmentInUseError(ShmError):
    """A living process owns the segment of that name."""


class SegmentRefusedError(ShmError):
    """The segment is foreign, truncated, corrupt or of another layout; never reinterpreted."""


class LockBrokenError(ShmError):
    """The table behind a lock could not be repaired; its segment must be created anew."""


class LockTimeoutError(ShmError):
    """A living process holds the lock and does not go on."""


class SnapshotGoneError(ShmError):
    """The snapshot of that generation is not there any more; read the current one."""


class TableFullError(ShmError):
    """No room for another key, and every slot is live; nothing has changed."""


class ValueTooLongError(ShmError):
    """The value does not fit into a slot; nothing has changed."""
