"""Gateway processes as the kernel shows them, and waiting for what becomes of them."""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess

PATIENCE_SECONDS = 20.0


def wait_until(is_true: Callable[[], bool], what: object = "") -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < until, what
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_gone(pid: int) -> None:
    """Until the process has ended, reaped or not."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            assert select.select([handle], [], [], PATIENCE_SECONDS)[0], pid
        finally:
            os.close(handle)


def client_ports_of(pid: int, port: int) -> set[int]:
    """The clients' side of the connections to `port` that a process holds."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{name}"))
            if found:
                inodes.add(found[1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[9] in inodes:
                ports.add(int(fields[2].rpartition(":")[2], 16))
    return ports - {0}


def wait_text(port: int, text: str) -> None:
    """Until the gateway answers so."""
    wait_until(lambda: fetch(port).text == text, text)


def wait_revision(gateway: GatewayProcess, revision: int) -> None:
    """Until this one, or a later, is published."""
    wait_until(lambda: gateway.dump()["revision"] >= revision, revision)


def hello(port: int, body: str = "hi") -> dict[str, Any]:
    """A bind that answers by itself."""
    route = {"policies": {"directResponse": {"status": 200, "body": body}}}
    return {"port": port, "listeners": [{"routes": [route]}]}


def descendants(pid: int) -> set[int]:
    """The processes below this one, as the kernel has them."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in (task / "children").read_text().split():
                found |= {int(child)} | descendants(int(child))
    return found


def resident_bytes(pid: int) -> int:
    """What of the process is in memory, its share of what others have too (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss")


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))
