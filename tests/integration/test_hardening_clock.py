"""The wall clock steps an hour back or forward while requests run: only dates may notice.

Source: spec hardening section 4.3 F 56. A kept connection, a timeout, a drain and the restart of a
process run on the monotonic clock. The clock is stepped for the gateway alone, in its own process.
"""

from __future__ import annotations

import ast
import email.utils
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import fetch
from tests.support.gateway import ROOT, GatewayProcess, free_ports, proxy_config
from tests.support.hostile_http1 import get
from tests.support.load import Load
from tests.support.origin import Client
from tests.support.processes import wait_until
from tests.support.upstream import Answer, Seen, Upstream

HOUR = 3600
END = threading.Event()
"""Set when nobody waits for the upstream's answer any more."""
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
DATES = {
    "hbone/aio/validity.py": "until when a certificate is valid",
    "istio/clock.py": "from when and until when a certificate is valid",
    "shm/config.py": "when a process started, to be shown",
    "shm/lock.py": "the longest that a wait may take, which its call asks for in that clock",
    "shm/segment.py": "compared with dates of files and of earlier instances",
    "sidecar/admin/logs.py": "which of the logged requests are asked for, by their dates",
    "sidecar/echo.py": "the Date field",
    "sidecar/gateway/admin_servers.py": "windows of budgets, which follow the calendar",
    "sidecar/gateway/expressions.py": "timestamps in expressions",
    "sidecar/gateway/tending.py": "windows of budgets, which follow the calendar",
    "sidecar/gateway/worker.py": "the Date field",
    "sidecar/llm/credentials/aws.py": "when a role's credentials end",
    "sidecar/llm/credentials/azure.py": "when a token ends",
    "sidecar/llm/credentials/gcp.py": "when a token ends",
    "sidecar/net/minting.py": "from when and until when a certificate is valid",
    "sidecar/state/budgets.py": "windows of budgets, which follow the calendar",
    "sidecar/state/tables.py": "windows of budgets, which follow the calendar",
    "sidecar/telemetry/clock.py": "the one source of dates",
}
"""Who may ask for the wall clock, and what for; nothing of it measures time."""


class Clock:
    """The gateway's wall clock, as far off as `step` says."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "offset"
        self.step(0)
        self.env = {
            "WALL_CLOCK_OFFSET_FILE": str(self._path),
            "PYTHONPATH": f"{ROOT / 'tests' / 'support' / 'wall_clock'}:{ROOT}",
        }

    def step(self, seconds: float) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(seconds))
        os.replace(fresh, self._path)


def answer(seen: Seen) -> Answer:
    def slowly() -> Iterator[bytes]:
        for _ in range(5):
            time.sleep(0.1)  # an upstream that is slow, so that the step falls into the answer
            yield b"x"

    if seen.target == "/never":
        END.wait(20)
    return Answer(200, body=slowly() if seen.target == "/slow" else b"ok")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(answer) as made:
        yield made
        END.set()


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
def test_56_requests_do_not_notice_a_step(step: int, clock: Clock, upstream: Upstream) -> None:
    [port] = free_ports(1)
    config = proxy_config(port, upstream.address, policies={"timeout": {"requestTimeout": "5s"}})
    with GatewayProcess(config, workers=2, env=clock.env) as gateway:
        with Load(port, 4) as load, Client(port) as kept:
            load.wait_answered(50)
            before = kept.ask(get())
            kept.send(get(line=b"GET /slow HTTP/1.1"))
            clock.step(step)
            slow = kept.read()
            assert (slow.status, slow.body) == (200, b"xxxxx")
            after = kept.ask(get())
            assert abs(_date(after.value("date")) - _date(before.value("date")) - step) < 60
            load.wait_answered(200)
        assert load.failures == []
        assert sum(one.resent for one in load.tallies) == 0
        # Connections to the upstream are as fresh as they were: none was made anew.
        gateway.wait_metric("agentgateway_requests_total", load.answered + 3)
        assert gateway.metric("agentgateway_request_duration_seconds_sum") < HOUR / 2
        assert gateway.stop() == 0


def _date(value: str | None) -> float:
    assert value is not None
    return email.utils.parsedate_to_datetime(value).timestamp()


@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
def test_56_a_step_ends_no_wait_early_and_none_late(
    step: int, clock: Clock, upstream: Upstream
) -> None:
    [port] = free_ports(1)
    routes = [
        {
            "matches": [{"path": {"exact": "/never"}}],
            "policies": {"timeout": {"requestTimeout": "300ms"}},
            "backends": [{"host": upstream.address}],
        },
        {"policies": {"delay": {"duration": "300ms"}}, "backends": [{"host": upstream.address}]},
    ]
    config = {"binds": [{"port": port, "listeners": [{"routes": routes}]}]}
    with GatewayProcess(config, env=clock.env) as gateway, Client(port) as client:
        client.send(get())
        clock.step(step)
        began = time.monotonic()
        assert client.read().status == 200
        client.send(get(line=b"GET /never HTTP/1.1"))
        clock.step(0)
        assert client.read().status == 504
        assert time.monotonic() - began < 18  # the client's own patience is 20
        assert gateway.is_ready()


@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
def test_56_reloads_and_replacements_go_on(step: int, clock: Clock, upstream: Upstream) -> None:
    [port] = free_ports(1)
    config = proxy_config(port, upstream.address)
    with GatewayProcess(config, env=clock.env) as gateway:
        clock.step(step)
        gateway.reload(proxy_config(port, upstream.address, name="stepped"))
        old = gateway.worker_pids()
        os.kill(old[0], signal.SIGKILL)
        gateway.wait_replaced(old)
        control = gateway.control_pid()
        os.kill(control, signal.SIGKILL)
        wait_until(lambda: gateway.is_ready() and gateway.control_pid() != control)
        assert fetch(port).status == 200
        assert gateway.stop() == 0


def _asked_of(tree: ast.AST) -> set[str]:
    """The wall clocks that a module names."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_56_who_asks_for_the_wall_clock() -> None:
    asking = set()
    for package in ("sidecar", "shm", "hbone", "istio"):
        for path in (ROOT / package).rglob("*.py"):
            names = _asked_of(ast.parse(path.read_text()))
            if any(name.endswith(clock) for name in names for clock in CLOCKS):
                asking.add(str(path.relative_to(ROOT)))
    assert asking <= DATES.keys(), "what measures time takes the monotonic clock; else say why"
