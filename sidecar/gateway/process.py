"""A child of the supervisor: what it is started from, what it is given, and how it begins.

Source: design section 1; prctl(2), PR_SET_PDEATHSIG; hardening case 60 (identity after a fork).
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import os
import random
import signal
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import NamedTuple, final

from shm.errors import ShmError
from sidecar.errors import SidecarError

SUPERVISED_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR2,
    signal.SIGCHLD,
)
_PR_SET_PDEATHSIG = 1
_RECORD = struct.Struct("=IBH")
_MAX_TEXT_BYTES = 2048
"""With its head a record stays below PIPE_BUF, so the kernel writes it whole or not at all."""


class Role(enum.StrEnum):
    """What a child does."""

    CONTROL = "control"
    WORKER = "worker"


class Status(enum.IntEnum):
    """What a child tells the supervisor."""

    READY = 1
    FAILED = 2


class Record(NamedTuple):
    """One status message. `serial` is that of the child; `text` the reason of a failure."""

    serial: int
    status: Status
    text: str


@final
@dataclass(frozen=True, slots=True)
class Channel:
    """A child's way to tell the supervisor how it fares."""

    descriptor: int
    serial: int

    def send(self, status: Status, text: str = "") -> None:
        """Write one record (whole: see `_MAX_TEXT_BYTES`)."""
        data = text.encode("utf-8", "replace")[:_MAX_TEXT_BYTES]
        os.write(self.descriptor, _RECORD.pack(self.serial, status, len(data)) + data)


@final
@dataclass(frozen=True, slots=True)
class ControlContext:
    """What the control process gets. Its descriptors do not block."""

    workers: int
    is_first: bool
    """No configuration was loaded yet: failing now ends the gateway with exit code 1."""
    wake_fds: tuple[int, ...]
    """By worker slot: a byte wakes the worker to look at the configuration's generation."""
    report_fd: int
    """Readable when a worker has written to its slot; what the bytes are means nothing."""
    drain_seconds: float
    supervisor_pid: int
    channel: Channel
    shares_ports: bool = False
    """An older instance, which we take over from, still listens on our addresses."""

    def ready(self) -> None:
        """The configuration is loaded and published."""
        self.channel.send(Status.READY)

    def wake_workers(self) -> None:
        """Let every worker look at the generation. Never waits: a full pipe wakes just as well."""
        for descriptor in self.wake_fds:
            poke(descriptor)

    def stop_gateway(self) -> None:
        """Drain and end the whole gateway, as SIGTERM to the supervisor does."""
        os.kill(self.supervisor_pid, signal.SIGTERM)


@final
@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker gets. Its descriptors do not block."""

    worker: int
    """The slot, 0 to N-1: the same for a replacement. Columns and slots in tables go by it."""
    worker_id: int
    """Never used twice by one supervisor."""
    wake_fd: int
    """Readable when the configuration's generation may have changed; see `clear`."""
    report_fd: int
    drain_seconds: float
    channel: Channel
    predecessor: str = ""
    """The folder of an older instance that we take over from, and that serves still."""

    def ready(self) -> None:
        """The worker serves."""
        self.channel.send(Status.READY)

    def report(self) -> None:
        """Let control look at this worker's slot."""
        poke(self.report_fd)


@final
@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What the supervisor runs. The mains return to end with code 0, after a drain on SIGTERM.

    A SidecarError or ShmError that leaves a main is its failure, said on stderr.
    """

    control_main: Callable[[ControlContext], None]
    worker_main: Callable[[WorkerContext], None]
    workers: int
    drain_seconds: float = 5.0
    """How long children may take to end after SIGTERM (spec config section 10.2)."""
    kill_grace_seconds: float = 1.0
    """SIGKILL comes this long after the drain should have ended."""
    backoff_first_seconds: float = 0.1
    backoff_last_seconds: float = 10.0
    healthy_seconds: float = 10.0
    """A child that lived this long begins again with the first backoff."""
    verify: Callable[[], None] | None = None
    """Called before each fork; what it raises ends the gateway, instead of a crash loop on damaged
    shared memory (hardening case 54)."""
    upgrade_argv: tuple[str, ...] = field(default=())
    """What SIGUSR2 executes; empty: the command line of this process."""
    folder: str = ""
    """Where workers hand over their sockets at an upgrade (`handover`)."""


def tell(text: str) -> None:
    """A line on standard error, if it takes one: a full disk ends nothing (hardening case 58)."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def poke(descriptor: int) -> None:
    """Make the other end readable. A full pipe is readable already."""
    with contextlib.suppress(BlockingIOError):
        os.write(descriptor, b"\0")


def clear(descriptor: int) -> None:
    """Take all bytes that have come in, so that only new ones make the descriptor readable."""
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            continue


def parse_records(data: bytes) -> tuple[list[Record], bytes]:
    """The records in `data`, and the incomplete rest (a read may end inside a record)."""
    records, offset = [], 0
    while len(data) - offset >= _RECORD.size:
        serial, status, size = _RECORD.unpack_from(data, offset)
        start = offset + _RECORD.size
        if len(data) < start + size:
            break
        text = data[start : start + size].decode("utf-8", "replace")
        records.append(Record(serial, Status(status), text))
        offset = start + size
    return records, data[offset:]


def child_main(
    run: Callable[[], None], channel: Channel, parent_pid: int, foreign_fds: Iterable[int]
) -> None:
    """The whole of a child: settle in, run, report a failure. Called with the signals blocked."""
    _die_with_parent(parent_pid)
    _reset_signals()
    for descriptor in foreign_fds:
        os.close(descriptor)
    random.seed()  # no two children may draw the same jitter or session ids
    try:
        run()
    except (SidecarError, ShmError) as exc:
        channel.send(Status.FAILED, str(exc))
        raise SystemExit(1) from exc
    except Exception as exc:
        # Our own bug: the traceback goes to stderr, and at the start it ends the gateway too.
        channel.send(Status.FAILED, f"{type(exc).__name__}: {exc}")
        raise


def _die_with_parent(parent_pid: int) -> None:
    """Be killed when the supervisor ends, also if that happened before we could ask for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def _reset_signals() -> None:
    """Forget the supervisor's handlers; then let in what came since the fork.

    A terminal sends SIGINT and SIGHUP to the whole group, but only the supervisor decides: children
    take no notice. They do so by a handler, because SIG_IGN would be inherited over exec by the MCP
    servers they start.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, _take_no_notice)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISED_SIGNALS)


def _take_no_notice(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing, see `_reset_signals`."""
