"""The parent of all processes: forks control and workers, replaces the dead, drains and upgrades.

Source: design section 1; spec config section 10.2 (draining); hardening cases 52 and 54 to 60.

It opens no socket and starts no thread, so that it can fork at any time. It sleeps in poll(2);
signals come in as bytes through a wake-up pipe. States:

    running → stopping      SIGTERM, SIGINT, or an upgrade's new instance is ready: SIGTERM to all
    running → killing       the first configuration failed to load, or shared memory is damaged
    stopping → killing      the drain's deadline has passed, or a second SIGTERM or SIGINT
    stopping, killing → end no child is left

Invariants:
    P1  Signals are blocked from before a fork until the child has dropped our handlers: none is
        handled by a copy of us, and no child writes to our wake-up pipe.
    P2  A status record is read before the death of its sender is looked at.
    P3  Wake-up and report pipes belong to the slot, not the process: a replacement inherits them.
    P4  A child is replaced only while running; backoff doubles from first to last, and begins anew
        after `healthy_seconds` of life.
"""

from __future__ import annotations

import enum
import gc
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, final

import multiprocess

from shm.errors import ShmError
from sidecar.errors import SidecarError
from sidecar.gateway.process import (
    SUPERVISED_SIGNALS,
    Channel,
    ControlContext,
    ProcessSpec,
    Record,
    Role,
    Status,
    WorkerContext,
    child_main,
    parse_records,
    tell,
)
from sidecar.gateway.upgrade import Predecessor, Upgrade

_log = logging.getLogger(__name__)
_processes = multiprocess.get_context("fork")


class _State(enum.Enum):
    RUNNING = enum.auto()
    STOPPING = enum.auto()
    KILLING = enum.auto()


@final
@dataclass(slots=True, eq=False)
class _Child:
    """One place in the tree and the process that holds it, if any."""

    role: Role
    slot: int
    process: Any = None
    """A multiprocess Process (the package has no types)."""
    serial: int = 0
    started: float = 0.0
    failures: int = 0
    due: float | None = None
    """When to start a process here, monotonic seconds."""
    is_ready: bool = False
    failure: str = ""

    @property
    def title(self) -> str:
        return self.role if self.role is Role.CONTROL else f"{self.role} {self.slot}"

    def signal(self, number: int) -> None:
        if self.process is not None:
            os.kill(self.process.pid, number)  # not reaped yet, so the pid is still its own


@final
@dataclass(frozen=True, slots=True)
class _Pipe:
    reader: int
    writer: int

    @classmethod
    def open(cls) -> _Pipe:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        return cls(reader, writer)


@final
class Supervisor:
    """Runs the process tree of one gateway. One in a process, in its main thread."""

    def __init__(self, spec: ProcessSpec) -> None:
        if spec.workers < 1:
            raise ValueError("workers: at least 1")
        self._spec = spec
        self._state = _State.RUNNING
        self._exit_code = 0
        self._deadline: float | None = None
        self._serial = 0
        self._was_loaded = False
        self._was_ready = False
        self._control = _Child(Role.CONTROL, 0)
        self._workers = [_Child(Role.WORKER, slot) for slot in range(spec.workers)]
        self._children = [self._control, *self._workers]
        self._rest = b""
        self._upgrade = Upgrade(spec.upgrade_argv, spec.folder)

    def run(self) -> int:
        """Start all, stay until all have ended, and give the exit code.

        0: drained. 1: the first load failed, shared memory is damaged, or a child had to be killed
        at the drain's deadline. 128 + n: ended at once by a second signal n.
        """
        self._predecessor = Predecessor()
        self._open_pipes()
        gc.enable()
        gc.collect()
        gc.freeze()  # what is imported by now stays shared: no collection writes to its pages
        try:
            with _signals_to(self._signals.writer):
                self._start_all()
                while self._is_running() or self._living():
                    self._wait()
        finally:
            self._kill_all()
            self._close_pipes()
        return self._exit_code

    def _open_pipes(self) -> None:
        self._signals = _Pipe.open()
        self._statuses = _Pipe.open()
        os.set_blocking(self._statuses.writer, True)  # a child's last words must not be lost
        self._reports = _Pipe.open()
        self._wakes = [_Pipe.open() for _ in self._workers]

    def _close_pipes(self) -> None:
        for descriptor in self._descriptors():
            os.close(descriptor)

    def _descriptors(self) -> set[int]:
        pipes = (self._signals, self._statuses, self._reports, *self._wakes)
        descriptors = {end for pipe in pipes for end in (pipe.reader, pipe.writer)}
        others = (self._upgrade.reader, self._predecessor.descriptor)
        return descriptors.union(end for end in others if end is not None)

    def _is_running(self) -> bool:
        return self._state is _State.RUNNING

    def _living(self) -> list[_Child]:
        return [child for child in self._children if child.process is not None]

    # Waiting

    def _wait(self) -> None:
        """Sleep until a signal, a status, or the next time something is due, and deal with it."""
        poll = select.poll()
        for descriptor in (self._signals.reader, self._statuses.reader, self._upgrade.reader):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        events = {descriptor for descriptor, _ in poll.poll(self._sleep_ms())}
        numbers = os.read(self._signals.reader, 4096) if self._signals.reader in events else b""
        self._read_statuses()  # P2
        if signal.SIGCHLD in numbers:
            self._reap()
        if self._upgrade.reader in events and self._upgrade.finish() and self._is_running():
            self._stop()
        for number in numbers:
            self._on_signal(number)
        self._on_time(time.monotonic())

    def _sleep_ms(self) -> float | None:
        times = [child.due for child in self._children if child.due is not None]
        if self._deadline is not None:
            times.append(self._deadline)
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None

    def _on_time(self, now: float) -> None:
        for child in self._children:
            if child.due is not None and child.due <= now:
                self._start(child)
        if self._deadline is not None and self._deadline <= now:
            names = ", ".join(child.title for child in self._living())
            _log.error("drain deadline passed; killing %s", names)
            self._exit_code = max(self._exit_code, 1)
            self._kill()

    # Starting

    def _start_all(self) -> None:
        for child in self._children:
            if self._is_running():
                self._start(child)

    def _start(self, child: _Child) -> None:
        child.due = None
        if not self._verify():
            return
        self._serial += 1
        child.serial, child.is_ready, child.failure = self._serial, False, ""
        channel = Channel(self._statuses.writer, child.serial)
        run, kept = self._assignment(child, channel)
        foreign = self._descriptors() - kept - {channel.descriptor}
        arguments = (run, channel, os.getpid(), foreign)
        process = _processes.Process(target=child_main, args=arguments, name=child.title)
        child.started = time.monotonic()
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED_SIGNALS)  # P1
            process.start()
        except OSError as exc:
            _log.error("%s: cannot fork: %s", child.title, exc)
            self._schedule(child)
        else:
            child.process = process
            # Its two pipes are of no use to us, and every later sibling would inherit them.
            process._popen.close()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISED_SIGNALS)

    def _assignment(self, child: _Child, channel: Channel) -> tuple[Callable[[], None], set[int]]:
        """What a child runs, and which of our descriptors it needs for it."""
        spec = self._spec
        if child.role is Role.CONTROL:
            wakes = tuple(pipe.writer for pipe in self._wakes)
            control = ControlContext(
                workers=spec.workers,
                is_first=not self._was_loaded,
                wake_fds=wakes,
                report_fd=self._reports.reader,
                drain_seconds=spec.drain_seconds,
                supervisor_pid=os.getpid(),
                channel=channel,
                shares_ports=self._predecessor.descriptor is not None,
            )
            return partial(spec.control_main, control), {*wakes, self._reports.reader}
        wake = self._wakes[child.slot].reader
        worker = WorkerContext(
            worker=child.slot,
            worker_id=child.serial,
            wake_fd=wake,
            report_fd=self._reports.writer,
            drain_seconds=spec.drain_seconds,
            channel=channel,
            predecessor=self._predecessor.folder,
        )
        return partial(spec.worker_main, worker), {wake, self._reports.writer}

    def _verify(self) -> bool:
        """Whether a process may be forked into the shared memory as it is."""
        if self._spec.verify is None:
            return True
        try:
            self._spec.verify()
        except (SidecarError, ShmError) as exc:
            self._fail(str(exc))
            return False
        return True

    # Statuses and deaths

    def _read_statuses(self) -> None:
        try:
            while data := os.read(self._statuses.reader, 65536):
                records, self._rest = parse_records(self._rest + data)
                for record in records:
                    self._on_record(record)
        except BlockingIOError:
            return  # all read

    def _on_record(self, record: Record) -> None:
        for child in self._children:
            if child.serial == record.serial and record.status is Status.FAILED:
                child.failure = record.text
            elif child.serial == record.serial:
                child.is_ready = True
        self._was_loaded = self._was_loaded or self._control.is_ready
        if not self._was_ready and all(child.is_ready for child in self._children):
            self._was_ready = True
            _log.info("ready: control and %d workers", len(self._workers))
            self._predecessor.tell()

    def _reap(self) -> None:
        for child in self._living():
            code = child.process.exitcode
            if code is not None:
                child.process.close()
                child.process = None
                self._on_death(child, code)
        self._reap_strangers()

    def _reap_strangers(self) -> None:
        """As process 1 we inherit orphans, and the new instance of an upgrade may fail."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        ours = {child.process.pid for child in self._living()}
        try:
            while (found := os.waitid(os.P_ALL, 0, flags)) and found.si_pid not in ours:
                os.waitpid(found.si_pid, 0)
                self._upgrade.on_reaped(found.si_pid)
        except ChildProcessError:
            return  # none at all

    def _on_death(self, child: _Child, code: int) -> None:
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        if not self._is_running():
            _log.info("%s %s", child.title, how)
        elif child is self._control and not self._was_loaded:
            self._fail(child.failure or f"control {how} before a configuration was loaded")
        elif child.failure and not self._was_ready:
            # What failed at the start would fail again: that is for the operator to see, now.
            self._fail(child.failure)
        else:
            _log.error("%s %s%s", child.title, how, f": {child.failure}" if child.failure else "")
            self._schedule(child)

    def _schedule(self, child: _Child) -> None:
        """Have a process started in the child's place after the backoff (P4)."""
        now = time.monotonic()
        if now - child.started >= self._spec.healthy_seconds:
            child.failures = 0
        delay = self._spec.backoff_first_seconds * 2.0 ** min(child.failures, 30)
        child.failures += 1
        child.due = now + min(delay, self._spec.backoff_last_seconds)

    # Signals and the end

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._is_running():
                self._stop()
            elif self._state is _State.STOPPING:
                self._exit_code = 128 + number
                self._kill()
        elif number == signal.SIGHUP and self._is_running():
            self._control.signal(signal.SIGHUP)
        elif number == signal.SIGUSR2 and self._is_running():
            self._upgrade.start()

    def _stop(self) -> None:
        """Ask all to drain, an unready new instance to give up, and set the deadline."""
        self._state = _State.STOPPING
        self._deadline = time.monotonic() + self._spec.drain_seconds + self._spec.kill_grace_seconds
        if self._upgrade.pid:
            os.kill(self._upgrade.pid, signal.SIGTERM)
        for child in self._children:
            child.due = None
            child.signal(signal.SIGTERM)

    def _fail(self, message: str) -> None:
        """End with exit code 1 and a message; nothing has been served that is worth draining."""
        tell(f"error: {message}")
        self._exit_code = 1
        self._kill()

    def _kill(self) -> None:
        self._state = _State.KILLING
        self._deadline = None
        for child in self._children:
            child.due = None
            child.signal(signal.SIGKILL)

    def _kill_all(self) -> None:
        """Leave nobody behind, whatever ended `run`."""
        self._kill()
        for child in self._living():
            child.process.join()
            child.process = None


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """The byte in the wake-up pipe says it all."""


@contextmanager
def _signals_to(descriptor: int) -> Iterator[None]:
    """Turn our signals into bytes while the block runs."""
    before = {number: signal.signal(number, _do_nothing) for number in SUPERVISED_SIGNALS}
    previous = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
