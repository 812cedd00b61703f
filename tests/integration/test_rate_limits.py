"""Rate limits over real workers: exact under load, through kills, reloads and restarts."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shm.segment import segment_name
from sidecar.state.tables import kept_instance
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.upstream import Answer, Seen, Upstream

HOUR = {"tokensPerFill": 1, "fillInterval": "1h"}
CLIENTS = 12


def script(seen: Seen) -> Answer:
    return Answer(200, [("x-tokens", seen.get("x-ask") or "0")], b"ok")


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(script) as made:
        yield made


def config(port: int, up: Upstream, buckets: Any, *more: dict[str, Any]) -> dict[str, Any]:
    route = {
        "name": "limited",
        "matches": [{"path": {"pathPrefix": "/limited"}}],
        "policies": {"localRateLimit": buckets},
        "backends": [{"host": up.address}],
    }
    return {"gateways": {"default": {"port": port}}, "routes": [route, *more]}


class Client:
    """One connection at a time; what came of each request is counted, "failed" among it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None
        self.outcomes: Counter[int | str] = Counter()

    def ask(self, headers: dict[str, str] | None = None) -> int | str:
        outcome: int | str
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            self._connection.request("GET", "/limited", headers=headers or {})
            answer = self._connection.getresponse()
            answer.read()
            outcome = answer.status
            self.headers = dict(answer.getheaders())
        except (OSError, http.client.HTTPException):
            outcome = "failed"
            self.close()
        self.outcomes[outcome] += 1
        return outcome

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def statuses(port: int, count: int) -> list[int | str]:
    """Of requests on a connection each."""
    found = []
    for _ in range(count):
        client = Client(port)
        found.append(client.ask())
        client.close()
    return found


def storm(
    port: int, each: int, headers: Callable[[int], dict[str, str]] = lambda number: {}
) -> list[Counter[int | str]]:
    """Many clients at once, each so many requests; what came of them, client by client."""
    clients = [Client(port) for _ in range(CLIENTS)]
    start = threading.Barrier(CLIENTS)

    def run(number: int) -> None:
        start.wait()
        for turn in range(each):
            clients[number].ask(headers(number))
            if turn % 5 == 4:
                clients[number].close()  # the next connection may be another worker's
        clients[number].close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [client.outcomes for client in clients]


def test_a_limit_is_exact_over_workers(up: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(config(port, up, [{"maxTokens": 100, **HOUR}]), workers=4) as gateway:
        outcomes = sum(storm(port, 40), Counter[int | str]())
        assert outcomes == {200: 100, 429: CLIENTS * 40 - 100}
        gateway.wait_metric("agentgateway_requests_total", 100, status="200")
        refused = CLIENTS * 40 - 100
        gateway.wait_metric(
            "agentgateway_requests_total", refused, status="429", reason="RateLimit"
        )
        assert gateway.metric("agentgateway_shm_slots_used", table="rates") == 1


def test_each_key_has_its_own_limit(up: Upstream) -> None:
    [port] = free_ports(1)
    bucket = {"maxTokens": 10, **HOUR, "key": 'request.headers["x-user"]'}
    with GatewayProcess(config(port, up, [bucket]), workers=4) as gateway:
        outcomes = storm(port, 20, lambda number: {"x-user": f"u{number % 4}"})
        for user in range(4):
            of_user = sum(outcomes[user::4], Counter[int | str]())
            assert of_user == {200: 10, 429: CLIENTS // 4 * 20 - 10}
        gateway.wait_metric("agentgateway_shm_slots_used", 4, table="rates")


def test_a_killed_worker_neither_adds_nor_blocks(up: Upstream) -> None:
    [port] = free_ports(1)
    limit = 1500
    with GatewayProcess(config(port, up, [{"maxTokens": limit, **HOUR}]), workers=4) as gateway:
        total: Counter[int | str] = Counter()
        is_over = threading.Event()

        def load() -> None:
            while not is_over.is_set() or not total[429]:
                total.update(sum(storm(port, 10), Counter[int | str]()))

        loading = threading.Thread(target=load)
        loading.start()
        try:
            for _ in range(4):
                victim = gateway.worker_pids()[0]
                os.kill(victim, signal.SIGKILL)
                gateway.wait_replaced([victim])
        finally:
            is_over.set()
            loading.join()
        # What a killed worker took for a request that it could not answer any more is spent.
        assert limit - total["failed"] <= total[200] <= limit
        assert set(total) <= {200, 429, "failed"}


def test_a_reload_of_another_route_keeps_the_bucket(up: Upstream) -> None:
    [port] = free_ports(1)
    buckets = [{"maxTokens": 5, **HOUR}]
    other = {"matches": [{"path": {"exact": "/x"}}], "backends": [{"host": up.address}]}
    with GatewayProcess(config(port, up, buckets), workers=2) as gateway:
        assert statuses(port, 3) == [200] * 3
        gateway.reload(config(port, up, buckets, other))
        assert statuses(port, 3) == [200, 200, 429]


def test_tokens_by_a_response_header(up: Upstream) -> None:
    [port] = free_ports(1)
    bucket = {
        **HOUR,
        "maxTokens": 10,
        "type": "tokens",
        "cost": 'int(response.headers["x-tokens"])',
    }
    with GatewayProcess(config(port, up, [bucket]), workers=2):
        left = []
        for cost, status in (("4", 200), ("5", 200), ("7", 200), ("1", 429)):
            client = Client(port)
            assert client.ask({"x-ask": cost}) == status
            left.append(client.headers["x-ratelimit-remaining"])
            client.close()
        assert left == ["10", "6", "1", "0"]
        # 6 tokens of debt and the one that is asked for: the seventh fill.
        assert 6 * 3600 < int(client.headers["retry-after"]) <= 7 * 3600


def forget(instance: str) -> None:
    """Remove kept tables, which the next start would take over."""
    prefix = segment_name(instance, "x", kept=True).removesuffix("x").removeprefix("/")
    for path in Path("/dev/shm").glob(prefix + "*"):
        path.unlink()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["clean", "killed"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_restart_keeps_what_it_is_told_to(up: Upstream, keep: bool, end: signal.Signals) -> None:
    [port] = free_ports(1)
    document = config(port, up, [{"maxTokens": 3, **HOUR}])
    document["config"] = {"state": {"keep": keep, "rateKeys": 100}}
    with GatewayProcess(document, workers=2) as gateway:
        assert statuses(port, 2) == [200, 200]
        gateway.process.send_signal(end)
        gateway.process.wait(20)
        gateway.start()
        expected = [200, 429, 429, 429] if keep else [200, 200, 200, 429]
        assert statuses(port, 4) == expected
        gateway.stop()
        forget(kept_instance(gateway.path))


def test_the_room_for_keys_is_what_was_asked_for(up: Upstream) -> None:
    [port] = free_ports(1)
    bucket = {"maxTokens": 1, **HOUR, "key": 'request.headers["x-user"]'}
    document = config(port, up, [bucket])
    with GatewayProcess(document, env={"STATE_RATE_KEYS": "50"}) as gateway:
        client = Client(port)
        outcomes = Counter(client.ask({"x-user": str(number)}) for number in range(1500))
        client.close()
        assert set(outcomes) == {200, 500}
        assert outcomes[200] >= 50
        slots = gateway.metric("agentgateway_shm_slots", table="rates")
        assert outcomes[200] <= slots
        assert gateway.metric("agentgateway_shm_refusals_total", table="rates") == outcomes[500]
        assert gateway.log().count("the table of rate limits is full") == 1
