"""kill -9 of each kind of process while requests run, and again and again.

Source: spec hardening section 4.3 F 52, 53; the case's number is in the name. What dies with a lock
held, store by store, is tests/shm/test_lock.py and its neighbours.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.load import Load
from tests.support.processes import (
    client_ports_of,
    descendants,
    is_gone,
    wait_gone,
    wait_until,
)
from tests.support.upstream import Answer, Upstream

REQUESTS = "agentgateway_requests_total"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(lambda seen: Answer(200, body=b"ok")) as made:
        yield made


def test_53_workers_killed_in_turn_under_load(upstream: Upstream) -> None:
    """Each costs its own connections; what was counted before stays counted."""
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway:
        lost = 0
        with Load(port, 8) as load:
            load.wait_answered(100)
            for _ in range(5):
                victim, other = gateway.worker_pids()
                lost += len(client_ports_of(victim, port))
                before = gateway.metric(REQUESTS)
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda gone=victim: len(set(gateway.worker_pids()) - {gone}) == 2)  # type: ignore[misc]
                assert other in gateway.worker_pids()
                assert gateway.metric(REQUESTS) >= before
                load.wait_answered(100)
            load.stop()
            assert load.failures == []
            # A client may meet a worker that dies before it has said anything, twice in a row.
            assert sum(one.resent for one in load.tallies) <= lost + 5
        assert gateway.is_ready()
        counted = gateway.metric(REQUESTS)
        assert abs(counted - load.answered) <= 2 * lost
        assert gateway.stop() == 0


def test_53_a_worker_is_replaced_soon(upstream: Upstream) -> None:
    """In 0.4 s, where the machine has nothing else to do; the last backoff is 10 s."""
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=1) as gateway:
        [victim] = gateway.worker_pids()
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: _serves(port), "served again")
        assert time.monotonic() - killed < 9.0


def _serves(port: int) -> bool:
    try:
        return fetch(port).status == 200
    except OSError:
        return False


def test_53_control_killed_three_times_under_load(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway:
        workers = gateway.worker_pids()
        with Load(port, 4) as load:
            for _ in range(3):
                load.wait_answered(50)
                pid = gateway.control_pid()
                os.kill(pid, signal.SIGKILL)
                wait_gone(pid)
                wait_until(gateway.is_ready)
            load.wait_answered(50)
        assert load.failures == []
        assert sum(one.resent for one in load.tallies) == 0
        assert gateway.worker_pids() == workers
        gateway.wait_metric(REQUESTS, load.answered)


def test_53_the_supervisor_killed_under_load_leaves_nothing(upstream: Upstream) -> None:
    """Its death takes all with it; the next gateway starts on the same ports and counts anew."""
    [port] = free_ports(1)
    config = proxy_config(port, upstream.address)
    with GatewayProcess(config, workers=2) as gateway:
        with Load(port, 4) as load:
            load.wait_answered(50)
            pids = descendants(gateway.process.pid)
            assert {gateway.control_pid(), *gateway.worker_pids()} <= pids
            gateway.process.kill()
            for pid in pids:
                wait_gone(pid)
        gateway.process.wait()
        assert all(is_gone(pid) for pid in pids)
        assert not _serves(port)
        gateway.start()
        assert fetch(port).status == 200
        gateway.wait_metric(REQUESTS, 1)
        # What the dead left in shared memory was found and removed, not taken over.
        assert "Traceback" not in gateway.log()


def test_53_all_workers_killed_at_once(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway:
        old = gateway.worker_pids()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        gateway.wait_replaced(old)
        assert fetch(port).status == 200
        assert gateway.metric("agentgateway_config_synchronized") == 1
