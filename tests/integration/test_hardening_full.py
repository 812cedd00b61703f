"""Nothing left to write to, nobody left to ask: the gateway serves on and says so.

Source: spec hardening section 4.3 F 57 and 58; the case's number is in the name.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import fetch
from tests.support.gateway import ROOT, START_SECONDS, GatewayProcess, free_ports, proxy_config
from tests.support.octets import TcpUpstream
from tests.support.processes import descendants, hello, wait_until
from tests.support.upstream import Answer, Seen, Upstream

FULL_DISK = ("sh", "-c", 'exec "$@" >/dev/full 2>/dev/full', "sh")
MIB = 1024 * 1024


def shared_memory_of(size_bytes: int) -> tuple[str, ...]:
    """A launcher that gives the command a /dev/shm of its own, so large."""
    mount = f'mount -t tmpfs -o size={size_bytes} tmpfs /dev/shm && exec "$@"'
    return ("unshare", "-m", "sh", "-c", mount, "sh")


def _can_unshare() -> bool:
    try:
        command = [*shared_memory_of(MIB), "true"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mounts = pytest.mark.skipif(not _can_unshare(), reason="needs the right to mount (unshare)")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(lambda seen: Answer(200, body=b"ok")) as made:
        yield made


def test_58_logs_that_go_to_a_full_disk(upstream: Upstream) -> None:
    [port] = free_ports(1)
    config = proxy_config(port, upstream.address)
    with GatewayProcess(config, workers=2, launcher=FULL_DISK) as gateway:
        for number in range(100):
            assert fetch(port, f"/{number}").status == 200
        # The log cannot say it, so the metrics do.
        wait_until(lambda: gateway.metric("agentgateway_telemetry_dropped_total", kind="log") >= 90)
        gateway.write({"binds": "nonsense"})
        gateway.wait_metric("agentgateway_config_synchronized", 0)
        assert fetch(port).status == 200
        gateway.reload({"binds": [hello(port, "new")]})
        assert fetch(port).text == "new"
        assert gateway.stop() == 0


class Shm:
    """The /dev/shm of a running gateway, which is its own."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.folder = Path("/proc", str(gateway.process.pid), "root", "dev", "shm")
        self._ballast = self.folder / "ballast"

    def fill(self) -> None:
        """To the last page."""
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(64 * 1024))
            except OSError:
                pass
        left = os.statvfs(self.folder)
        with self._ballast.open("ab", buffering=0) as file:
            for _ in range(left.f_bfree):
                file.write(bytes(left.f_bsize))

    def clear(self) -> None:
        self._ballast.unlink()


def large(port: int, body: str) -> dict[str, Any]:
    """A configuration whose snapshot needs pages of its own."""
    return {"binds": [hello(port, body + " " * 100_000)]}


@needs_mounts
def test_58_a_reload_into_full_shared_memory() -> None:
    [port] = free_ports(1)
    with GatewayProcess(large(port, "old"), launcher=shared_memory_of(64 * MIB)) as gateway:
        shm = Shm(gateway)
        revision = gateway.dump()["revision"]
        shm.fill()
        gateway.write(large(port, "new"))
        gateway.wait_metric("agentgateway_config_synchronized", 0)
        dump = gateway.dump()
        assert dump["revision"] == revision
        assert "no room" in dump["lastError"]
        assert "/dev/shm" in dump["lastError"]
        assert fetch(port).text.strip() == "old"
        wait_until(lambda: "configuration refused" in gateway.log())
        assert gateway.log().count("no room") == 1
        told = fetch(gateway.admin_port, "/logging?level=debug", "POST", host="localhost")
        assert (told.status, "no room" in told.text) == (503, True)
        # Processes that die meanwhile come back on what is in force.
        for pid in (*gateway.worker_pids(), gateway.control_pid()):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gateway.is_ready() and _text(port) == "old")
        shm.clear()
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: _text(port) == "new")
        gateway.wait_metric("agentgateway_config_synchronized", 1)
        assert "Traceback" not in gateway.log()
        assert "SIGBUS" not in gateway.log()
        assert "\tdebug\t" not in gateway.log()  # what was refused went out with nothing else


def _text(port: int) -> str:
    try:
        return fetch(port).text.strip()
    except OSError:
        return ""


@needs_mounts
def test_58_no_room_in_shared_memory_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("binds: []\n")
    ended = subprocess.run(
        [*shared_memory_of(MIB), sys.executable, "-m", "sidecar", "-f", str(path)],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ended.returncode == 1
    assert "no room" in ended.stderr
    assert "Traceback" not in ended.stderr


def traced(config: dict[str, Any], collector: str) -> dict[str, Any]:
    policy = {"host": collector, "protocol": "grpc", "randomSampling": "true"}
    return {**config, "frontendPolicies": {"tracing": policy}}


def swallow(sock: socket.socket) -> None:
    """Take what comes and say nothing."""
    while sock.recv(65536):
        pass


def test_58_a_collector_that_never_answers(upstream: Upstream) -> None:
    """Requests do not wait for it, its spans are counted as lost, and a drain is not held up."""
    [port] = free_ports(1)
    with TcpUpstream(swallow) as stuck:
        config = traced(proxy_config(port, upstream.address), stuck.address)
        with GatewayProcess(config) as gateway:
            began = time.monotonic()
            for _ in range(200):
                assert fetch(port).status == 200
            assert time.monotonic() - began < 60  # 0.3 s a request
            assert gateway.stop() == 0


def test_57_a_collector_that_is_down(upstream: Upstream) -> None:
    port, nobody = free_ports(2)
    config = traced(proxy_config(port, upstream.address), f"127.0.0.1:{nobody}")
    with GatewayProcess(config) as gateway:
        for _ in range(20):
            assert fetch(port).status == 200
        assert gateway.is_ready()


def test_57_an_upstream_that_comes_later() -> None:
    """It is not the gateway's to be unready for: one route's backend is down, others serve."""
    port, later = free_ports(2)
    with GatewayProcess(proxy_config(port, f"127.0.0.1:{later}")) as gateway:
        assert gateway.is_ready()
        refused = fetch(port)
        assert refused.status == 503
        assert "upstream call failed" in refused.text
        with socket.create_server(("127.0.0.1", later)) as server:

            def answer() -> None:
                sock, _ = server.accept()
                with sock:
                    sock.recv(65536)
                    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

            thread = threading.Thread(target=answer)
            thread.start()
            assert fetch(port).text == "ok"
            thread.join()


def test_57_a_name_that_does_not_resolve() -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, "nowhere.invalid:80")) as gateway:
        assert gateway.is_ready()
        assert fetch(port).status == 503


@pytest.mark.parametrize("missing", ["cert", "key"])
def test_57_a_file_that_is_missing_refuses_the_start(missing: str, tmp_path: Path) -> None:
    [port] = free_ports(1)
    tls = {"cert": "/nonexistent/tls.crt", "key": "/nonexistent/tls.key"}
    listener = {"protocol": "HTTPS", "tls": tls, **hello(port)["listeners"][0]}
    config = {"binds": [{"port": port, "listeners": [listener]}]}
    with pytest.raises(AssertionError, match=f"tls.{missing}"), GatewayProcess(config):
        pytest.fail("it started")


def test_57_without_a_worker_it_is_not_ready() -> None:
    """What readiness depends on is somebody who serves."""
    [port] = free_ports(1)
    with GatewayProcess({"binds": [hello(port)]}) as gateway:
        supervisor = gateway.process.pid
        [worker] = gateway.worker_pids()
        assert worker in descendants(supervisor)
        os.kill(supervisor, signal.SIGSTOP)  # so that nobody replaces it yet
        try:
            os.kill(worker, signal.SIGKILL)
            gateway.wait_not_ready()
            status = fetch(gateway.readiness_port, "/healthz/ready")
            assert status.status == 500
            assert "workers" in status.text
        finally:
            os.kill(supervisor, signal.SIGCONT)
        wait_until(gateway.is_ready)
        assert fetch(port).status == 200


def test_a_worker_with_enough_under_way_refuses_more() -> None:
    [port] = free_ports(1)
    came, released = threading.Event(), threading.Event()

    def script(seen: Seen) -> Answer:
        if seen.target == "/held":
            came.set()
            assert released.wait(START_SECONDS)
        return Answer(200, body=b"ok")

    with Upstream(script) as slow:
        config = {**proxy_config(port, slow.address), "config": {"maxRequestsInFlight": 1}}
        with GatewayProcess(config), ThreadPoolExecutor(1) as pool:
            held = pool.submit(fetch, port, "/held")
            try:
                assert came.wait(START_SECONDS)
                refused = fetch(port)
                assert (refused.status, refused.get("retry-after")) == (503, "1")
            finally:
                released.set()
            assert held.result(START_SECONDS).status == 200
            assert fetch(port).status == 200
