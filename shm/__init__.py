"""State that all processes of a gateway share, in shared memory; standard library and posix_ipc."""

from shm.budgets import BudgetLimit, BudgetRow, BudgetTable, Refused, Reservation
from shm.cells import Cell, Histogram, HistogramValue, Series, SeriesKind
from shm.config import ConfigTable, WorkerState, WorkerStatus
from shm.endpoints import EndpointTable
from shm.errors import (
    LockBrokenError,
    LockTimeoutError,
    SegmentInUseError,
    SegmentMissingError,
    SegmentRefusedError,
    ShmError,
    SnapshotGoneError,
    TableFullError,
    ValueTooLongError,
)
from shm.lock import RobustLock
from shm.metrics import MetricsTable, Writer
from shm.rates import Ask, Limit, RateTable, Row, Verdict
from shm.segment import Segment, segment_name, sweep
from shm.sessions import Owner, Session, SessionTable
from shm.table import TableStats

__all__ = [
    "Ask",
    "BudgetLimit",
    "BudgetRow",
    "BudgetTable",
    "Cell",
    "ConfigTable",
    "EndpointTable",
    "Histogram",
    "HistogramValue",
    "Limit",
    "LockBrokenError",
    "LockTimeoutError",
    "MetricsTable",
    "Owner",
    "RateTable",
    "Refused",
    "Reservation",
    "RobustLock",
    "Row",
    "Segment",
    "SegmentInUseError",
    "SegmentMissingError",
    "SegmentRefusedError",
    "Series",
    "SeriesKind",
    "Session",
    "SessionTable",
    "ShmError",
    "SnapshotGoneError",
    "TableFullError",
    "TableStats",
    "ValueTooLongError",
    "Verdict",
    "WorkerState",
    "WorkerStatus",
    "Writer",
    "segment_name",
    "sweep",
]
