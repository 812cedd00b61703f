"""An upgrade in place (SIGUSR2): nobody notices, and nothing of the old gateway stays."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.load import Load
from tests.support.processes import PATIENCE_SECONDS, is_gone, wait_gone, wait_until
from tests.support.upstream import Answer, Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(lambda seen: Answer(200, body=b"ok")) as made:
        yield made


@pytest.mark.parametrize("workers", [2, 1])
def test_an_upgrade_fails_no_request(upstream: Upstream, workers: int) -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway:
        old = [gateway.process.pid, gateway.control_pid(), *gateway.worker_pids()]
        listening = sockets_of(old, port)
        assert len(listening) == 2
        text = gateway.path.read_text()
        gateway.path.write_text(text.replace("workerThreads: 2", f"workerThreads: {workers}"))
        new = 0
        try:
            with Load(port, 4) as kept, Load(port, 2, fresh=True) as fresh:
                kept.wait_answered(50)
                gateway.process.send_signal(signal.SIGUSR2)
                code = gateway.process.wait(PATIENCE_SECONDS)
                wait_until(gateway.is_ready)
                new = supervisor_of(gateway.control_pid())
                assert code == 0, gateway.log()
                kept.wait_answered(50)
                fresh.wait_answered(10)
            assert kept.failures == []
            assert fresh.failures == []
            assert all(is_gone(pid) for pid in old)
            # The same sockets: closing one would reset who waits in it.
            assert len(gateway.worker_pids()) == workers
            assert sockets_of(gateway.worker_pids(), port) == listening
        finally:
            if new:
                os.kill(new, signal.SIGTERM)
                wait_gone(new)


def sockets_of(pids: list[int], port: int) -> set[str]:
    """The listening sockets of this port that the processes hold, as the kernel numbers them."""
    held = {name for pid in pids for name in files_of(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found & held


def files_of(pid: int) -> set[str]:
    names = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.add(os.readlink(path))
    return names


def test_an_upgrade_takes_over_a_unix_socket(upstream: Upstream, tmp_path: Path) -> None:
    [port] = free_ports(1)
    path = tmp_path / "admin.sock"
    document = {**proxy_config(port, upstream.address), "config": {"adminAddr": f"unix:{path}"}}
    with GatewayProcess(document) as gateway:
        new = 0
        try:
            old = supervisor_of(control_behind(path))
            assert old == gateway.process.pid
            gateway.process.send_signal(signal.SIGUSR2)
            code = gateway.process.wait(PATIENCE_SECONDS)
            assert code == 0, gateway.log()
            new = supervisor_of(control_behind(path))
            assert new != old
            assert fetch(port).status == 200
            assert os.listdir(tmp_path) == ["admin.sock"]
        finally:
            if new:
                os.kill(new, signal.SIGTERM)
                wait_gone(new)
    assert not path.exists()


def control_behind(path: Path) -> int:
    """The process that serves the admin API on a Unix socket, by what it says itself."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as http:
        dump = http.get("http://localhost/config_dump").json()
    [pid] = [int(one["pid"]) for one in dump["processes"] if one["role"] == "control"]
    return pid


def supervisor_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
