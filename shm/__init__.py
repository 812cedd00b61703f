"""State that all processes of a gateway share, in shared memory; standard library and posix_ipc."""

from shm.cells import Cell, Histogram, HistogramValue, Series, SeriesKind
from shm.config import ConfigTable, WorkerState, WorkerStatus
from shm.errors import (
    LockBrokenError,
    LockTimeoutError,
    SegmentInUseError,
    SegmentMissingError,
    SegmentRefusedError,
    ShmError,
    SnapshotGoneError,
)
from shm.lock import RobustLock
from shm.metrics import MetricsTable, Writer
from shm.segment import Segment, segment_name, sweep

__all__ = [
    "Cell",
    "ConfigTable",
    "Histogram",
    "HistogramValue",
    "LockBrokenError",
    "LockTimeoutError",
    "MetricsTable",
    "RobustLock",
    "Segment",
    "SegmentInUseError",
    "SegmentMissingError",
    "SegmentRefusedError",
    "Series",
    "SeriesKind",
    "ShmError",
    "SnapshotGoneError",
    "WorkerState",
    "WorkerStatus",
    "Writer",
    "segment_name",
    "sweep",
]
