"""A real gateway process for tests: own ports, own configuration file, stopped at the end."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from weakref import WeakSet

import orjson
import yaml

from shm.config import ConfigTable, WorkerState

START_SECONDS = 60.0
STOP_SECONDS = 20.0
_TAIL_LINES = 30
ROOT = Path(__file__).resolve().parents[2]
_PORTS = range(10_000, 32_500)
"""Below those that Linux gives to outgoing connections, which could else take one in between."""


def _own_ports() -> Iterator[int]:
    """All of them in any order, over and over. TEST_PORTS=10000-19999: only those, so that two
    runs side by side never choose the same one.
    """
    first, _, last = os.environ.get("TEST_PORTS", f"{_PORTS.start}-{_PORTS.stop - 1}").partition(
        "-"
    )
    ports = list(range(int(first), int(last) + 1))
    random.SystemRandom().shuffle(ports)
    return itertools.cycle(ports)


_ports = _own_ports()


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different; none comes again before all others did."""
    ports: list[int] = []
    for port in itertools.islice(_ports, len(_PORTS)):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"no {count} free ports in {_PORTS}")


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Of a gateway process. It may keep its byte code, as an installed one has it: to compile the
    source at every start would take as long as the start itself."""
    own = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**own, "PYTHONPATH": str(ROOT), **more}


class GatewayProcess:
    """`with GatewayProcess(config) as gateway:` serves until the block ends.

    `config`: a document without `config` addresses; they are filled in with free ports.
    `launcher`: a command that executes the one given to it as its arguments.
    """

    running: ClassVar[WeakSet[GatewayProcess]] = WeakSet()
    """All that were started and not ended."""

    def __init__(
        self,
        config: dict[str, Any],
        *,
        workers: int = 1,
        env: dict[str, str] | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        self.admin_port, self.stats_port, self.readiness_port = free_ports(3)
        self._static = {
            "adminAddr": f"127.0.0.1:{self.admin_port}",
            "statsAddr": f"127.0.0.1:{self.stats_port}",
            "readinessAddr": f"127.0.0.1:{self.readiness_port}",
            "workerThreads": workers,
        }
        self._env = env or {}
        self._launcher = launcher
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name) / "gateway.yaml"
        self.log_path = Path(self._folder.name) / "log"
        self.write(config)
        self.process: subprocess.Popen[bytes]

    def write(self, config: dict[str, Any]) -> None:
        """Put a configuration in the file, atomically; a running gateway will see it."""
        document = {**config, "config": {**self._static, **config.get("config", {})}}
        fresh = self.path.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(document, sort_keys=False))
        os.replace(fresh, self.path)

    def start(self) -> Self:
        """Start and wait until it is ready."""
        self.running.add(self)
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*self._launcher, sys.executable, "-m", "sidecar", "-f", str(self.path)],
                stdout=log,
                stderr=log,
                cwd=self._folder.name,
                env=environment(self._env),
            )
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Until the readiness port says so; fails with the log when the process ends first."""
        until = time.monotonic() + START_SECONDS
        while not self.is_ready():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.02)

    def wait_not_ready(self) -> None:
        """Until the readiness port says no, or is gone: the drain has begun."""
        until = time.monotonic() + STOP_SECONDS
        while self.is_ready():
            assert time.monotonic() < until, self.log()
            time.sleep(0.01)

    def wait_draining(self) -> None:
        """Until every worker has told its connections that it ends; control is often sooner."""
        with closing(ConfigTable.attach(f"agw{self.process.pid}")) as configs:
            until = time.monotonic() + STOP_SECONDS
            while any(
                one.is_alive and one.state < WorkerState.DRAINING for one in configs.statuses()
            ):
                assert time.monotonic() < until, self.log()
                time.sleep(0.01)

    def is_ready(self) -> bool:
        """What `/healthz/ready` says."""
        try:
            return self._get(self.readiness_port, "/healthz/ready")[0] == 200
        except OSError:
            return False

    def _get(self, port: int, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def dump(self) -> dict[str, Any]:
        """`/config_dump`."""
        return dict(orjson.loads(self._get(self.admin_port, "/config_dump")[1]))

    def metrics(self) -> str:
        """`/metrics`."""
        return self._get(self.stats_port, "/metrics")[1].decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of a metric that have these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            if line.startswith((name + "{", name + " ")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def wait_metric(self, name: str, value: float, **labels: str) -> None:
        """Until the sum over the series is that value."""
        until = time.monotonic() + START_SECONDS
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < until, (name, labels, found, self.log())
            time.sleep(0.02)

    def wait_metric_above(self, name: str, value: float, **labels: str) -> None:
        """Until the sum over the series is greater."""
        until = time.monotonic() + START_SECONDS
        while (found := self.metric(name, **labels)) <= value:
            assert time.monotonic() < until, (name, labels, found, self.log())
            time.sleep(0.02)

    def wait_line(self, text: str) -> str:
        """The first line of the log that holds this text, once it is there."""
        until = time.monotonic() + START_SECONDS
        while True:
            found = [line for line in self.log().splitlines() if text in line]
            if found:
                return found[0]
            assert time.monotonic() < until, (text, self.log())
            time.sleep(0.02)

    def wait_replaced(self, pids: list[int]) -> None:
        """Until none of these workers runs, and the gateway is ready all the same."""
        until = time.monotonic() + START_SECONDS
        while not (self.is_ready() and set(pids).isdisjoint(now := self.worker_pids()) and now):
            assert time.monotonic() < until, (pids, self.log())
            time.sleep(0.02)

    def worker_pids(self) -> list[int]:
        """Of the workers that run now."""
        return [p["pid"] for p in self.dump()["processes"] if p["role"].startswith("worker")]

    def control_pid(self) -> int:
        """Of the control process that answers."""
        return int(next(p["pid"] for p in self.dump()["processes"] if p["role"] == "control"))

    def wait_applied(self, revision: int) -> None:
        """Until every worker runs this revision or a later one."""
        until = time.monotonic() + START_SECONDS
        while True:
            processes = self.dump()["processes"]
            if all(p["generation"] >= revision for p in processes):
                return
            assert time.monotonic() < until, (processes, self.log())
            time.sleep(0.02)

    def reload(self, config: dict[str, Any]) -> None:
        """Write a configuration and wait until it is in force everywhere."""
        revision = self.dump()["revision"] + 1
        self.write(config)
        until = time.monotonic() + START_SECONDS
        while self.dump()["revision"] < revision:
            assert time.monotonic() < until, self.log()
            time.sleep(0.02)
        self.wait_applied(revision)

    def log(self) -> str:
        """All it has printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self) -> str:
        """The last of it, for a failure's report."""
        return "\n".join(self.log().splitlines()[-_TAIL_LINES:])

    def stop(self) -> int:
        """SIGTERM and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._end()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(f"{self!r} said last:\n{self.tail()}")
        self._end()

    def __repr__(self) -> str:
        process = getattr(self, "process", None)
        state = "not started" if process is None else f"pid {process.pid}, exit {process.poll()}"
        return f"<{type(self).__name__} {state}>"

    def _end(self) -> None:
        self.running.discard(self)
        if getattr(self, "process", None) is not None and self.process.poll() is None:
            self.stop()
        self._folder.cleanup()


def run_until_exit(
    path: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A gateway that is expected not to start."""
    return subprocess.run(
        [sys.executable, "-m", "sidecar", "-f", str(path)],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        cwd=path.parent,
        env=environment(env or {}),
        check=False,
    )


def proxy_config(port: int, upstream: str, **route: Any) -> dict[str, Any]:
    """One listener, one route, one backend."""
    return {
        "binds": [
            {
                "port": port,
                "listeners": [{"routes": [{"backends": [{"host": upstream}], **route}]}],
            }
        ]
    }
