"""Budgets of a real gateway: one for all workers, charged afterwards, and never lost.

Source: spec llm section 4.5 (its worked example); issue of shared state, part 3.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from shm.budgets import BudgetRow
from shm.segment import segment_name, unlink
from sidecar.state.journal import read
from sidecar.state.tables import kept_instance
from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config, run_until_exit
from tests.support.processes import wait_gone
from tests.support.upstream import Answer, Seen, Upstream

WAIT_SECONDS = 20.0


def budget(**changes: Any) -> dict[str, Any]:
    """Tokens, told by the answer's `x-tokens`, in windows so long that none ends in a test."""
    return {
        "name": "b",
        "limit": {"unit": "Tokens", "amount": 1_000_000},
        "window": {"rolling": "36500d"},
        "cost": 'int(response.headers["x-tokens"])',
        **changes,
    }


def config(port: int, upstream: str, *budgets: dict[str, Any], **state: Any) -> dict[str, Any]:
    return {
        **proxy_config(port, upstream, policies={"budgets": list(budgets)}),
        "config": {"state": state} if state else {},
    }


def costing(tokens: object) -> Callable[[Seen], Answer]:
    return lambda seen: Answer(200, [("x-tokens", str(tokens))], b"ok")


def standings(gateway: GatewayProcess) -> dict[str, str]:
    """What `/api/budgets/status` says was used, by the key's value."""
    return {one["apiKeyName"]: one["usage"]["used"] for one in status(gateway)["budgets"]}


def status(gateway: GatewayProcess, query: str = "") -> dict[str, Any]:
    url = f"http://127.0.0.1:{gateway.admin_port}/api/budgets/status{query}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return dict(json.load(answer))


def wait_used(gateway: GatewayProcess, value: str, name: str = "") -> None:
    """A charge comes right after the answer's last octet."""
    until = time.monotonic() + WAIT_SECONDS
    while (found := standings(gateway).get(name)) != value:
        assert time.monotonic() < until, (found, value, gateway.log())
        time.sleep(0.01)


def wait_nothing_held(gateway: GatewayProcess) -> None:
    """An estimate is given back right after the answer's last octet."""
    url = f"http://127.0.0.1:{gateway.admin_port}/state/budgets"
    until = time.monotonic() + WAIT_SECONDS
    while True:
        with urllib.request.urlopen(url, timeout=20) as answer:
            held = [row["reserved"] for row in json.load(answer)["rows"]]
        if held == ["0"]:
            return
        assert time.monotonic() < until, (held, gateway.log())
        time.sleep(0.01)


@contextlib.contextmanager
def serving(
    upstream: Upstream, *budgets: dict[str, Any], workers: int = 1, **state: Any
) -> Iterator[tuple[GatewayProcess, int]]:
    (port,) = free_ports(1)
    setting = config(port, upstream.address, *budgets, **state)
    with upstream, GatewayProcess(setting, workers=workers) as gateway:
        yield gateway, port


def assert_refused(got: Got) -> None:
    assert got.status == 429
    assert json.loads(got.body) == {
        "error": {
            "message": "Budget exceeded",
            "type": "rate_limit_error",
            "code": "budget_exceeded",
        }
    }


def test_the_crossing_request_completes_and_the_next_is_refused() -> None:
    # The documentation's example: 0.00301 USD a request, 0.008 USD to spend.
    usd = budget(limit={"unit": "USD", "amount": 0.008}, cost='response.headers["x-tokens"]')
    with serving(Upstream(costing("0.00301")), usd, workers=2) as (gateway, port):
        for number in range(1, 4):
            assert fetch(port).status == 200
            wait_used(gateway, str(0.00301 * number)[:7])
        assert_refused(fetch(port))
        assert int(fetch(port).get("retry-after") or 0) > 0
        assert standings(gateway) == {"": "0.00903"}
        gateway.wait_metric("agentgateway_requests_total", 2, status="429", reason="BudgetExceeded")
        (one,) = status(gateway)["budgets"]
        assert one["usage"] == {"used": "0.00903", "remaining": "0", "exceeded": True}
        assert one["limit"] == {"unit": "USD", "amount": "0.008"}
        assert one["onBudgetExceeded"] == "Block"
        gateway.wait_line("used=0.00903 limit_unit=USD limit_amount=0.008 exceeded=true")


def test_audit_lets_pass_and_reports() -> None:
    audited = budget(limit={"unit": "Tokens", "amount": 250}, onBudgetExceeded="Audit")
    with serving(Upstream(costing(101)), audited) as (gateway, port):
        for _ in range(4):
            assert fetch(port).status == 200
        wait_used(gateway, "404")
        (one,) = status(gateway)["budgets"]
        assert one["usage"]["exceeded"]
        # Once: by the request that crossed the limit.
        gateway.wait_line("limit_amount=250 exceeded=true")
        assert gateway.log().count("limit_amount=250 exceeded=true") == 1


def test_each_key_has_its_own_budget() -> None:
    mine = budget(limit={"unit": "Tokens", "amount": 10}, key='request.headers["x-user"]')
    with serving(Upstream(costing(10)), mine) as (gateway, port):
        assert fetch(port, headers={"x-user": "ada"}).status == 200
        wait_used(gateway, "10", "ada")
        assert_refused(fetch(port, headers={"x-user": "ada"}))
        assert fetch(port, headers={"x-user": "bob"}).status == 200
        wait_used(gateway, "10", "bob")
        only = status(gateway, "?apiKeyName=ada")["budgets"]
        assert [one["apiKeyName"] for one in only] == ["ada"]


def test_several_budgets_are_charged_independently() -> None:
    large = budget(name="large")
    small = budget(name="small", limit={"unit": "Tokens", "amount": 5}, cost="1")
    with serving(Upstream(costing(7)), large, small) as (gateway, port):
        for _ in range(5):
            assert fetch(port).status == 200
        until = time.monotonic() + WAIT_SECONDS
        used: dict[str, str] = {}
        while used != {"large": "35", "small": "5"}:
            assert time.monotonic() < until, used
            used = {one["name"]: one["usage"]["used"] for one in status(gateway)["budgets"]}
        assert_refused(fetch(port))


def test_an_estimate_is_held_while_a_request_runs() -> None:
    release = threading.Event()

    def slow(seen: Seen) -> Answer:
        assert release.wait(WAIT_SECONDS)
        return Answer(200, [("x-tokens", "4")])

    held = budget(limit={"unit": "Tokens", "amount": 10}, estimate=6)
    with serving(Upstream(slow), held, workers=2) as (gateway, port):
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(fetch, port)
            until = time.monotonic() + WAIT_SECONDS
            while not status(gateway)["budgets"]:
                assert time.monotonic() < until
                time.sleep(0.01)
            assert_refused(fetch(port))  # 6 of 10 are held
            release.set()
            assert first.result().status == 200
        wait_used(gateway, "4")
        assert fetch(port).status == 200
        wait_used(gateway, "8")
        assert_refused(fetch(port))


@pytest.mark.parametrize("failure", ["upstream", "no usage"])
def test_what_has_no_cost_is_not_charged(failure: str) -> None:
    def script(seen: Seen) -> Answer:
        return Answer(drop=True) if failure == "upstream" else Answer(200, [], b"ok")

    held = budget(limit={"unit": "Tokens", "amount": 10}, estimate=10)
    with serving(Upstream(script), held) as (gateway, port):
        for _ in range(3):  # each would be refused, were the last one's estimate not given back
            assert fetch(port, method="POST").status == (503 if failure == "upstream" else 200)
            wait_nothing_held(gateway)
        assert standings(gateway) == {"": "0"}


def test_a_client_that_leaves_is_charged_for_what_was_answered() -> None:
    sent = threading.Event()

    def endless(seen: Seen) -> Answer:
        def chunks() -> Iterator[bytes]:
            while not sent.is_set():
                yield b"x" * 1000
                time.sleep(0.001)  # the upstream's own pace

        return Answer(200, [("x-tokens", "9")], chunks())

    with serving(Upstream(endless), budget(estimate=100)) as (gateway, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        try:
            wait_used(gateway, "9")
        finally:
            sent.set()


def test_a_killed_worker_gives_its_holds_back() -> None:
    release = threading.Event()

    def slow(seen: Seen) -> Answer:
        release.wait(WAIT_SECONDS)
        return Answer(200, [("x-tokens", "1")])

    all_of_it = budget(limit={"unit": "Tokens", "amount": 10}, estimate=10)
    with serving(Upstream(slow), all_of_it) as (gateway, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            until = time.monotonic() + WAIT_SECONDS
            while not status(gateway)["budgets"]:
                assert time.monotonic() < until
                time.sleep(0.01)
            pids = gateway.worker_pids()
            os.kill(pids[0], signal.SIGKILL)
            gateway.wait_replaced(pids)
        release.set()
        until = time.monotonic() + WAIT_SECONDS
        while fetch(port).status != 200:  # control returns them within two seconds
            assert time.monotonic() < until
            time.sleep(0.05)
        wait_used(gateway, "1")


def test_spend_is_the_sum_of_all_costs_over_four_workers() -> None:
    def script(seen: Seen) -> Answer:
        return Answer(200, [("x-tokens", seen.target.rpartition("/")[2])])

    rounds, clients = 150, 8
    expected = sum(range(rounds)) * clients
    with serving(
        Upstream(script), budget(limit={"unit": "Tokens", "amount": 10**9}, estimate=50), workers=4
    ) as (gateway, port):

        def spend(_: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
            with contextlib.closing(connection):
                for number in range(rounds):
                    connection.request("GET", f"/{number}")
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 200

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(spend, range(clients)))
        wait_used(gateway, str(expected))


def test_no_restart_and_no_kill_loses_spend(tmp_path: Path) -> None:
    journal = tmp_path / "spend.db"
    (port,) = free_ports(1)
    with Upstream(costing(7)) as upstream:
        setting = config(port, upstream.address, budget(), journal=str(journal))
        gateway = GatewayProcess(setting)
        with gateway:
            assert fetch(port).status == 200
            wait_used(gateway, "7")
            os.kill(gateway.process.pid, signal.SIGKILL)
            gateway.process.wait()
            # Not written yet, perhaps: what the dead left in shared memory is taken over.
            gateway.start()
            assert standings(gateway) == {"": "7"}
            assert fetch(port).status == 200
            wait_used(gateway, "14")
            assert gateway.stop() == 0
            gateway.start()  # from the journal alone: a clean end removes the table
            assert standings(gateway) == {"": "14"}


def test_a_reboot_loses_at_most_the_last_second(tmp_path: Path) -> None:
    journal = tmp_path / "spend.db"
    (port,) = free_ports(1)
    with Upstream(costing(7)) as upstream:
        setting = config(port, upstream.address, budget(), journal=str(journal))
        with GatewayProcess(setting) as gateway:
            assert fetch(port).status == 200
            gateway.wait_metric("agentgateway_budget_journal_rows_total", 1)
            os.kill(gateway.process.pid, signal.SIGKILL)
            gateway.process.wait()
            # As a reboot does.
            assert unlink(segment_name(kept_instance(journal), "budgets", kept=True))
            gateway.start()
            assert standings(gateway) == {"": "7"}


def test_what_is_spent_while_the_gateway_drains_is_written(tmp_path: Path) -> None:
    journal = tmp_path / "spend.db"
    with Upstream(costing(7)) as upstream:
        (port,) = free_ports(1)
        setting = config(port, upstream.address, budget(), journal=str(journal))
        setting["config"]["connectionMinTerminationDeadline"] = "1m"
        setting["config"]["connectionTerminationDeadline"] = "2m"
        with GatewayProcess(setting) as gateway:
            assert fetch(port).status == 200
            gateway.wait_metric("agentgateway_budget_journal_rows_total", 1)
            gateway.process.send_signal(signal.SIGTERM)
            gateway.wait_not_ready()
            assert fetch(port).status == 200
            until = time.monotonic() + WAIT_SECONDS
            while [row.spent for row in written(journal)] != [14]:
                assert time.monotonic() < until, gateway.log()
                time.sleep(0.05)
            gateway.process.send_signal(signal.SIGTERM)  # at once


def written(journal: Path) -> Sequence[BudgetRow]:
    contents = read(journal)
    assert contents is not None
    return contents.rows


def test_a_damaged_journal_is_refused_with_its_path(tmp_path: Path) -> None:
    journal = tmp_path / "spend.db"
    journal.write_bytes(b"something else")
    (port,) = free_ports(1)
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(config(port, "127.0.0.1:1", budget(), journal=str(journal))))
    ended = run_until_exit(path)
    assert ended.returncode == 1
    assert f"error: config.state.journal: {journal} is damaged" in ended.stderr
    assert journal.read_bytes() == b"something else"


def test_a_journal_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    journal = folder / "spend.db"
    with serving(Upstream(costing(7)), budget(), journal=str(journal)) as (gateway, port):
        folder.rename(tmp_path / "gone")
        for _ in range(3):
            assert fetch(port).status == 200
        wait_used(gateway, "21")
        until = time.monotonic() + WAIT_SECONDS
        while gateway.metric("agentgateway_budget_journal_failures_total") < 2:
            assert time.monotonic() < until, gateway.log()
            time.sleep(0.02)
        gateway.wait_line("budgets are not written")  # the metric comes before the line
        assert gateway.log().count("budgets are not written") == 1
        (tmp_path / "gone").rename(folder)
        gateway.wait_line("budgets are written again")
        assert gateway.metric("agentgateway_budget_journal_rows_total") == 1
        contents = read(journal)
        assert contents is not None
        assert [row.spent for row in contents.rows] == [21]


def test_a_flush_that_waits_blocks_no_request(tmp_path: Path) -> None:
    journal = tmp_path / "spend.db"
    with serving(Upstream(costing(1)), budget(), journal=str(journal)) as (gateway, port):
        assert fetch(port).status == 200
        gateway.wait_metric("agentgateway_budget_journal_rows_total", 1)
        other = sqlite3.connect(journal, isolation_level=None)
        with contextlib.closing(other):
            other.execute("BEGIN EXCLUSIVE")
            count = 1
            while not gateway.metric("agentgateway_budget_journal_failures_total"):
                assert fetch(port).status == 200
                count += 1
            other.execute("ROLLBACK")
        assert count > 10  # a writer waits two seconds for the lock
        wait_used(gateway, str(count))


def test_an_upgrade_shares_the_budgets(tmp_path: Path) -> None:
    journal = tmp_path / "spend.db"
    with serving(Upstream(costing(7)), budget(), journal=str(journal)) as (gateway, port):
        assert fetch(port).status == 200
        wait_used(gateway, "7")
        new = 0
        try:
            gateway.process.send_signal(signal.SIGUSR2)
            assert gateway.process.wait(WAIT_SECONDS) == 0, gateway.log()
            stat = Path(f"/proc/{gateway.control_pid()}/stat").read_text()
            new = int(stat.rpartition(")")[2].split()[1])  # its parent, the supervisor
            assert standings(gateway) == {"": "7"}
            assert fetch(port).status == 200
            wait_used(gateway, "14")
        finally:
            if new:
                os.kill(new, signal.SIGTERM)
                wait_gone(new)
    contents = read(journal)
    assert contents is not None
    assert [row.spent for row in contents.rows] == [14]
    # A start that took over leaves the table, in case it was not to be the last one.
    assert unlink(segment_name(kept_instance(journal), "budgets", kept=True))
