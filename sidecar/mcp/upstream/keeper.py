"""The process that starts MCP servers for a worker and sees to it that none outlives its use.

Run as a script, with the standard library alone: one a worker, started with the first stdio server.

Design. A worker is big, runs an event loop and may be killed at any moment, so that it is no good
parent: forking it with a Python hook is slow and not safe beside threads, and what its children's
children become nobody would see. `npx` and `uvx` start the server as their child, so that
PR_SET_PDEATHSIG alone, which holds for one generation, leaks. Therefore

    worker ── keeper ── monitor (one a server, a fork of the keeper) ── server ── its children

The keeper forks on request, and is small and single-threaded when it does. A monitor is the
subreaper of everything below it, and holds one end of a socket whose other end only the worker has:

    K1  The kernel closes the worker's end however the worker dies. The monitor then kills all below
        it, and ends. There is no moment at which a server runs and this does not hold, for the
        socket is handed over before the server is forked.
    K2  A server whose monitor dies is killed by the kernel (PR_SET_PDEATHSIG).
    K3  When the server ends, what it left behind is killed: processes of its group, and those that
        left the group, which the kernel gives to the monitor as their subreaper.
    K4  Every process is reaped: by its monitor, and monitors by the kernel (SIGCHLD is ignored in
        the keeper).

Keeper socket (SOCK_SEQPACKET), worker → keeper: JSON `{"argv", "env", "cwd"}` with descriptors of
stdin, stdout, stderr and the monitor's socket. The keeper ends when the worker's end closes.

Monitor socket (SOCK_SEQPACKET), monitor → worker: `started PID`, or `failed TEXT` and the end;
later `ended STATUS` (an exit code, or minus a signal) and the end, when nothing is left below it.
Worker → monitor: `term` sends SIGTERM to the server's group, `kill` or the end kills all.

Source: prctl(2), PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG; spec/mcp_a2a.md section 5.2 (7, 19).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

MAX_REQUEST_BYTES = 160 * 1024
"""A packet must fit into a socket's buffer, 208 KiB by default."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_DESCRIPTORS = 4
_KILL_PAUSE_SECONDS = 0.002
_libc = ctypes.CDLL(None, use_errno=True)


def main(descriptor: int) -> None:
    """Serve the worker behind the socket until its end closes."""
    os.setsid()  # a terminal's Ctrl+C is for the supervisor, which decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as worker:
        while True:
            raw, descriptors, flags, _ = socket.recv_fds(worker, MAX_REQUEST_BYTES, _DESCRIPTORS)
            if not raw:
                return
            for received in descriptors:
                os.set_inheritable(received, False)
            if len(descriptors) == _DESCRIPTORS and not flags & socket.MSG_TRUNC:
                _fork_monitor(worker, json.loads(raw), descriptors)
            for received in descriptors:
                os.close(received)


def _fork_monitor(worker: socket.socket, order: dict[str, Any], descriptors: list[int]) -> None:
    if os.fork():
        return
    status = 1
    try:
        worker.close()
        with socket.socket(fileno=descriptors[3]) as control:
            _monitor(control, order, descriptors[:3])
        status = 0
    finally:
        os._exit(status)


def _monitor(control: socket.socket, order: dict[str, Any], streams: list[int]) -> None:
    """The whole of a monitor."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    told, teller = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(teller, warn_on_full_buffer=False)
    try:
        pid = _start(order, streams)
    except OSError as error:
        _tell(control, f"failed {error.strerror}")
        return
    finally:
        for number in streams:
            os.close(number)
    _tell(control, f"started {pid}")
    status = _watched(control, told, pid)
    _kill_group(pid, signal.SIGKILL)
    left = _kill_all()
    _tell(control, f"ended {status if status is not None else left.get(pid, -9)}")


def _watched(control: socket.socket, told: int, pid: int) -> int | None:
    """Until the server ends: its status; None when it is to be killed."""
    while True:
        # Asked before each wait: a child that ended earlier than the handler was set tells nobody.
        ended = _reap()
        if pid in ended:
            return ended[pid]
        readable, _, _ = select.select([control.fileno(), told], [], [])
        if told in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(told, 4096)
        if control.fileno() in readable:
            try:
                word = control.recv(16)
            except ConnectionResetError:
                word = b""
            if word != b"term":
                return None
            _kill_group(pid, signal.SIGTERM)


def _start(order: dict[str, Any], streams: list[int]) -> int:
    """Fork and execute the server. Raises: OSError when it cannot be executed."""
    failed, failing = os.pipe2(os.O_CLOEXEC)
    monitor = os.getpid()
    pid = os.fork()
    if not pid:
        _become(order, streams, monitor, failing)
    os.close(failing)
    with os.fdopen(failed, "rb") as reader:
        number = reader.read()
    if number:
        os.waitpid(pid, 0)
        raise OSError(int(number), os.strerror(int(number)))
    return pid


def _become(order: dict[str, Any], streams: list[int], monitor: int, failing: int) -> NoReturn:
    """Turn into the server; the number of an error goes to the monitor."""
    number = 0
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != monitor:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        # What is ignored stays so over exec, and Python ignores SIGPIPE.
        for ignored in (
            signal.SIGCHLD,
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGTERM,
            signal.SIGPIPE,
            signal.SIGXFSZ,
        ):
            signal.signal(ignored, signal.SIG_DFL)
        # Above the first three: to copy over one that is still needed would lose it.
        copies = [os.dup(descriptor) for descriptor in streams]
        for wanted, descriptor in enumerate(copies):
            os.dup2(descriptor, wanted)
        if order["cwd"]:
            os.chdir(order["cwd"])
        os.execvpe(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - no shell wanted
    except OSError as error:
        number = error.errno or errno.EINVAL
    except Exception:
        # A zero byte in an argument, or the like. Nothing may return from here into the monitor.
        number = errno.EINVAL
    os.write(failing, str(number).encode())
    os._exit(127)


def _reap() -> dict[int, int]:
    """Those below us that have ended, with their statuses."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _kill_all() -> dict[int, int]:
    """Kill and reap until nothing is below us: the orphans of whom we kill become our children."""
    ended: dict[int, int] = {}
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended |= _reap()
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        # Not a wait without end: an orphan may have come after the look at the table.
        time.sleep(_KILL_PAUSE_SECONDS)


def _children() -> list[int]:
    """Our children, from the process table."""
    me = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
            if int(stat.read().rpartition(b")")[2].split()[1]) == me:
                found.append(int(name))
    return found


def _tell(control: socket.socket, text: str) -> None:
    """A word to the worker, if it is still there."""
    with contextlib.suppress(OSError):
        control.send(text.encode(), socket.MSG_DONTWAIT)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


if __name__ == "__main__":
    main(int(sys.argv[1]))
