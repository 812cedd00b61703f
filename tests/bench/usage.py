"""What processes use: CPU time from /proc/PID/stat, memory as PSS, and who else is on the core.

Source: proc(5). One tick is 10 ms, so a figure needs seconds of load to mean something.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
PROXY_CORE, LOAD_CORE = 0, 1
_LOOK_SECONDS = 0.25


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes started inside stay on this core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _fields(pid: int) -> list[str]:
    # The name in parentheses may hold spaces.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes since they began."""
    total = 0
    for pid in pids:
        fields = _fields(pid)
        total += int(fields[11]) + int(fields[12])
    return total * TICK_SECONDS


def descendants(pid: int) -> list[int]:
    """The process and all that came of it."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parent = int(_fields(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return found


@dataclass(frozen=True, slots=True)
class Memory:
    """KiB of one process, or a sum."""

    rss: int
    pss: int
    private: int


def memory(pid: int) -> Memory:
    """From smaps_rollup."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0])
    return Memory(sizes["Rss"], sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"])


def pss_kib(pids: Iterable[int]) -> int:
    """The sum of PSS: pages that processes share are counted once."""
    return sum(memory(pid).pss for pid in pids)


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Ticks of one core since boot."""

    busy: int
    total: int

    @classmethod
    def now(cls, core: int) -> CoreTimes:
        """Read /proc/stat; steal counts as busy."""
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith(f"cpu{core} "):
                ticks = [int(one) for one in line.split()[1:9]]
                return cls(sum(ticks) - ticks[3] - ticks[4], sum(ticks))
        raise LookupError(f"no core {core}")


def wait_calm(share: float, patience_seconds: float) -> None:
    """Until less than this share of every core is in use, or for so long at most."""
    until = time.monotonic() + patience_seconds
    while time.monotonic() < until:
        before = [CoreTimes.now(core) for core in (PROXY_CORE, LOAD_CORE)]
        time.sleep(_LOOK_SECONDS)
        after = [CoreTimes.now(core) for core in (PROXY_CORE, LOAD_CORE)]
        if all(foreign_share(*pair, 0.0) < share for pair in zip(before, after, strict=True)):
            return


def foreign_share(before: CoreTimes, after: CoreTimes, own_seconds: float) -> float:
    """Which part of a core's time went to others than those that used `own_seconds` of it."""
    total = (after.total - before.total) * TICK_SECONDS
    busy = (after.busy - before.busy) * TICK_SECONDS
    return max(busy - own_seconds, 0.0) / total if total else 0.0
