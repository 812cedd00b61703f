"""Two gateways with two workers each hold one limit and one budget through a real Redis.

Source: design section 5; docs/redis.md, whose bounds are what is asserted here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from shm.segment import segment_name, unlink
from sidecar.state.tables import kept_instance
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, run_until_exit
from tests.support.models import openai
from tests.support.processes import wait_gone
from tests.support.programs import needs_program
from tests.support.redis_server import RedisServer
from tests.support.upstream import Answer, Seen, Upstream

pytestmark = needs_program("redis-server")
LIMIT = 200
LEASE = LIMIT // 10
CLIENTS = 8
WAIT_SECONDS = 20.0
BUCKET = {"maxTokens": LIMIT, "tokensPerFill": 1, "fillInterval": "1h"}
BUDGET = {
    "name": "b",
    "limit": {"unit": "Tokens", "amount": 1000},
    "window": {"rolling": "36500d"},
    "cost": "10",
}


def ok(seen: Seen) -> Answer:
    return Answer(200, [], b"ok")


def config(port: int, up: Upstream, policies: dict[str, Any], state: dict[str, Any]) -> Any:
    route = {"name": "shared", "policies": policies, "backends": [{"host": up.address}]}
    return {
        "gateways": {"default": {"port": port}},
        "routes": [route],
        "config": {"state": state},
    }


@contextlib.contextmanager
def two_gateways(
    url: str, policies: dict[str, Any], **state: Any
) -> Iterator[tuple[list[GatewayProcess], list[int]]]:
    # A long wait: how quick the machine is decides nothing.
    shared = {"redis": url, "redisWait": "2s", **state}
    ports = free_ports(2)
    with Upstream(ok) as up, contextlib.ExitStack() as stack:
        gateways = [
            stack.enter_context(GatewayProcess(config(port, up, policies, shared), workers=2))
            for port in ports
        ]
        yield gateways, ports


class Load:
    """Clients that ask all ports until they are told to end; what came is counted by port."""

    def __init__(self, ports: list[int]) -> None:
        self.came: dict[int, Counter[int | str]] = {port: Counter() for port in ports}
        self.refused: Counter[int] = Counter()
        """By port, how many answers in a row were 429."""
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(port,))
            for port in ports
            for _ in range(CLIENTS // len(ports))
        ]

    def _ask(self, port: int) -> None:
        while not self._stop.is_set():
            try:
                outcome: int | str = fetch(port).status
            except OSError:
                outcome = "failed"
            self.came[port][outcome] += 1
            self.refused[port] = self.refused[port] + 1 if outcome == 429 else 0

    def wait(self, is_enough: Callable[[Self], bool]) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while not is_enough(self):
            assert time.monotonic() < until, self.came
            time.sleep(0.005)

    def count(self, status: int | str) -> int:
        return sum(each[status] for each in self.came.values())

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def admitted(ports: list[int], each: int) -> Counter[int]:
    """Statuses of so many requests to each port, many at a time."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [ports[number % len(ports)] for number in range(each * len(ports))]
        return Counter(got.status for got in pool.map(fetch, asked))


def wait_until_none(port: int, most: int) -> int:
    """How many more pass, until none does for longer than leases stay unused."""
    passed, quiet = 0, time.monotonic()
    while time.monotonic() < quiet + 4:
        if fetch(port).status == 200:
            passed, quiet = passed + 1, time.monotonic()
            assert passed <= most
        else:
            time.sleep(0.02)
    return passed


def used(gateways: list[GatewayProcess]) -> int:
    total = 0
    for gateway in gateways:
        url = f"http://127.0.0.1:{gateway.admin_port}/api/budgets/status"
        with urllib.request.urlopen(url, timeout=20) as answer:
            total += sum(int(one["usage"]["used"]) for one in json.load(answer)["budgets"])
    return total


def test_one_limit_over_two_gateways() -> None:
    with (
        RedisServer() as redis,
        two_gateways(redis.url, {"localRateLimit": [BUCKET]}) as (gateways, ports),
    ):
        came = admitted(ports, 200)
        assert LIMIT - 2 * LEASE <= came[200] <= LIMIT
        assert came[200] + came[429] == 400
        # What lies unused in leases comes back, and then the limit is exact.
        assert came[200] + wait_until_none(ports[0], 2 * LEASE) == LIMIT
        for gateway in gateways:
            gateway.wait_metric("agentgateway_state_redis_connected", 1)
            # Counted once a second.
            gateway.wait_metric_above("agentgateway_state_redis_renewals_total", 0)


def test_one_budget_over_two_gateways() -> None:
    with (
        RedisServer() as redis,
        two_gateways(redis.url, {"budgets": [{**BUDGET, "estimate": 10}]}) as (gateways, ports),
    ):
        came = admitted(ports, 100)
        assert 80 <= came[200] <= 100
        assert came[200] + wait_until_none(ports[1], 20) in (99, 100)
        # What is left is less than an estimate on each side at most.
        until = time.monotonic() + WAIT_SECONDS
        while used(gateways) < 990:
            assert time.monotonic() < until, used(gateways)
            time.sleep(0.02)
        assert used(gateways) <= 1000


def test_the_budget_of_an_api_key_over_two_gateways(tmp_path: Path) -> None:
    """Each has a key of its own with the same name; calls of models spend 40 tokens each."""
    budget = {key: value for key, value in BUDGET.items() if key != "cost"}
    ports = free_ports(2)
    with RedisServer() as redis, Upstream(openai) as up, contextlib.ExitStack() as stack:
        params = {"baseUrl": f"http://{up.address}/v1"}
        gateways = []
        for port in ports:
            keys = [{"key": f"k-{port}", "metadata": {"name": "ada"}, "budgets": [budget]}]
            state = {"redis": redis.url, "redisWait": "2s", "journal": str(tmp_path / str(port))}
            llm = {
                "port": port,
                "models": [{"name": "m", "provider": "openAI", "params": params}],
                "policies": {"apiKey": {"keys": keys, "mode": "strict"}},
            }
            made = GatewayProcess({"config": {"state": state}, "llm": llm}, workers=2)
            gateways.append(stack.enter_context(made))

        def ask(port: int, key: str) -> int:
            headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
            body = b'{"model":"m","messages":[]}'
            got = fetch(port, "/v1/chat/completions", "POST", headers=headers, body=body)
            assert got.status != 429 or b"budget_exceeded" in got.body
            return got.status

        came: Counter[int] = Counter()
        until = time.monotonic() + WAIT_SECONDS
        # What lies unused in leases comes back, so that a refusal need not be the last word.
        while used(gateways) < 1000:
            came.update(ask(port, f"k-{port}") for port in ports)
            assert time.monotonic() < until, (came, used(gateways))
        assert {ask(port, f"k-{port}") for port in ports} == {429}
        assert ask(ports[0], f"k-{ports[1]}") == 401
        # The one that crosses the limit passes; asked one by one, there is one at each gateway.
        assert 25 <= came[200] <= 27
        assert used(gateways) == 40 * came[200]
    for port in ports:
        unlink(segment_name(kept_instance(tmp_path / str(port)), "leases", kept=True))


def test_estimates_of_prompts_over_two_gateways() -> None:
    """300 tokens are held for each call, of which 40 are spent: what is left decides at both."""
    policy = {key: value for key, value in BUDGET.items() if key != "cost"}
    ports = free_ports(2)
    asked = []

    def provider(seen: Seen) -> Answer:
        asked.append(seen)
        return openai(seen)

    with RedisServer() as redis, Upstream(provider) as up, contextlib.ExitStack() as stack:
        state = {"redis": redis.url, "redisWait": "2s"}
        gateways = []
        for port in ports:
            made = config(port, up, {"budgets": [policy]}, state)
            model = {"name": "m", "provider": {"openAI": {}}, "hostOverride": up.address}
            made["routes"][0]["backends"] = [{"ai": {**model, "tokenize": True}}]
            gateways.append(stack.enter_context(GatewayProcess(made)))
        turn = {"role": "user", "content": "word " * 292}
        body = json.dumps({"model": "m", "messages": [turn]}).encode()

        def ask(port: int) -> int:
            headers = {"content-type": "application/json"}
            return fetch(port, "/v1/chat/completions", "POST", headers=headers, body=body).status

        # One by one, each with an estimate of its own: 280 are left then, at either of them.
        for done in range(1, 19):
            assert ask(ports[0]) == 200
            # The answer is there before what was too much is given back.
            until = time.monotonic() + WAIT_SECONDS
            while used(gateways) < 40 * done:
                assert time.monotonic() < until, used(gateways)
        assert [ask(port) for port in ports] == [429] * 2
        assert (len(asked), used(gateways)) == (18, 18 * 40)


@pytest.mark.parametrize("way", ["kill", "hold"])
def test_open_without_redis_each_goes_on_alone(way: str) -> None:
    limited = {"localRateLimit": [BUCKET]}
    with (
        RedisServer() as redis,
        # However slow the machine is: no lease ends meanwhile, which would be taken once more.
        two_gateways(redis.url, limited, redisWait="200ms", redisLeaseTtl="10m") as (
            gateways,
            ports,
        ),
    ):
        with Load(ports) as load:
            load.wait(lambda one: one.count(200) >= 40)
            getattr(redis, way)()
            # Some are refused before it is known that nobody will answer; these come in between.
            load.wait(lambda one: all(one.refused[port] > 40 for port in ports))
        assert load.came[ports[0]]["failed"] == load.came[ports[1]]["failed"] == 0
        # Each took at most what Redis had left when it last answered, and its leases.
        assert load.count(503) == 0
        assert load.count(200) <= 2 * LIMIT
        for gateway in gateways:
            gateway.wait_metric("agentgateway_state_redis_connected", 0)
            # Said once each time; on a slow machine it may have been away before.
            said = re.findall("cannot be used|is shared over", gateway.log())
            assert said[-1] == "cannot be used"
            assert all(one != next_one for one, next_one in itertools.pairwise(said))
        if way == "hold":
            redis.go_on()
        else:
            redis.start()
        for gateway in gateways:
            gateway.wait_metric("agentgateway_state_redis_connected", 1)
        # What each took alone is charged by its first message, before anything is granted.
        assert [fetch(port).status for _ in range(10) for port in ports] == [429] * 20


def test_closed_without_redis_leases_serve_and_then_503() -> None:
    policies = {"localRateLimit": [{**BUCKET, "maxTokens": 100_000}]}
    closed = {"redisFailureMode": "failClosed", "redisWait": "200ms"}
    with (
        RedisServer() as redis,
        two_gateways(redis.url, policies, **closed) as (gateways, ports),
    ):
        assert [fetch(port).status for port in ports] == [200, 200]
        redis.kill()
        # Of the leases in hand.
        assert [fetch(port).status for port in ports for _ in range(20)] == [200] * 40
        until = time.monotonic() + WAIT_SECONDS
        while (got := fetch(ports[0])).status != 503:
            assert got.status == 200
            assert time.monotonic() < until
        assert "Redis cannot be reached" in got.text
        redis.start()
        for gateway in gateways:
            gateway.wait_metric("agentgateway_state_redis_connected", 1)
        until = time.monotonic() + WAIT_SECONDS
        while fetch(ports[0]).status != 200:
            assert time.monotonic() < until, gateways[0].log()


def test_a_budget_survives_an_empty_redis() -> None:
    with (
        RedisServer(on_port=True) as redis,
        two_gateways(redis.url, {"budgets": [BUDGET]}, redisFailureMode="failClosed") as (_, ports),
    ):
        assert all(fetch(port).status == 200 for port in ports for _ in range(40))
        redis.kill()
        redis.start()
        began = time.monotonic()
        with Load(ports) as load:
            # Until leases are given again, and used up.
            load.wait(lambda one: time.monotonic() > began + 12 and one.count(429) > 20)
        # Those that cross the limit, of so many clients, pass.
        assert 90 <= 80 + load.count(200) <= 100 + CLIENTS


def test_a_killed_gateways_leases_come_back() -> None:
    with (
        RedisServer() as redis,
        two_gateways(redis.url, {"localRateLimit": [BUCKET]}, redisLeaseTtl="1s") as (
            gateways,
            ports,
        ),
    ):
        assert fetch(ports[0]).status == 200
        pids = [*gateways[0].worker_pids(), gateways[0].control_pid()]
        gateways[0].process.kill()
        for pid in (*pids, gateways[0].process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        gateways[0].process.wait()
        for pid in pids:
            wait_gone(pid)
        came = admitted(ports[1:], 210)[200]
        came += wait_until_none(ports[1], LIMIT)
        # At most a lease is taken twice: what the dead one had taken of it was not reported.
        assert LIMIT - 1 <= came <= LIMIT


def test_leases_are_given_back_at_the_end() -> None:
    with (
        RedisServer() as redis,
        two_gateways(redis.url, {"localRateLimit": [BUCKET]}, redisLeaseTtl="10m") as (
            gateways,
            ports,
        ),
    ):
        assert fetch(ports[0]).status == 200
        assert gateways[0].stop() == 0
        assert admitted(ports[1:], 210)[200] == LIMIT - 1


class DroppingProxy:
    """Passes octets on to Redis, and the answers back but for one in `every`: then it hangs up."""

    def __init__(self, target: int, every: int) -> None:
        self._target = target
        self._every = every
        self._count = 0
        self._lock = threading.Lock()
        self.dropped = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._open: set[socket.socket] = {self._listener}
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        with self._lock:
            sockets, self._open = self._open, set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join()

    def _accept(self) -> None:
        threads: list[threading.Thread] = []
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                break
            with self._lock:
                self._open |= {client, server}
            for pair in ((client, server, False), (server, client, True)):
                threads.append(threading.Thread(target=self._pass, args=pair))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def _pass(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_answer and self._is_dropped(data):
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _is_dropped(self, data: bytes) -> bool:
        # Answers of scripts only: those are what was granted.
        if not data.startswith(b"*4"):
            return False
        with self._lock:
            self._count += 1
            if self._count % self._every:
                return False
            self.dropped += 1
        return True


@pytest.mark.parametrize("mode", ["failOpen", "failClosed"])
def test_lost_answers_spend_nothing_twice(mode: str) -> None:
    policies = {"budgets": [{**BUDGET, "estimate": 10}]}
    with (
        RedisServer(on_port=True) as redis,
        DroppingProxy(redis.port, 3) as proxy,
        two_gateways(proxy.url, policies, redisFailureMode=mode) as (gateways, ports),
    ):
        with Load(ports) as load:
            load.wait(lambda one: all(each[429] > 20 for each in one.came.values()))
        assert proxy.dropped > 3
        passed = load.count(200)
        if mode == "failClosed":
            assert passed <= 100
        # Redis and the gateways agree on what was spent, to the token.
        until = time.monotonic() + WAIT_SECONDS
        while True:
            (name,) = [
                word
                for word in redis.command("KEYS", "agw:b:*").decode().split("\r\n")
                if word.startswith("agw:b:")
            ]
            words = redis.command("HGETALL", name).decode().split("\r\n")[2::2]
            spent = sum(
                int(value)
                for field, value in zip(words[::2], words[1::2], strict=False)
                if field.startswith("u:")
            )
            if spent == used(gateways) == passed * 10:
                break
            assert time.monotonic() < until, (spent, used(gateways), passed)
            time.sleep(0.05)


def test_what_is_refused_at_the_start(tmp_path: Path) -> None:
    for state, place in (
        ({"redis": "http://:hidden@h"}, "config.state.redis"),
        ({"redis": "redis://h", "redisLeaseTtl": "1ms"}, "config.state.redisLeaseTtl"),
        ({"redis": "redis://h", "redisLeasePercent": 60}, "config.state.redisLeasePercent"),
    ):
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump({"config": {"state": state}, "binds": []}))
        ended = run_until_exit(file)
        assert ended.returncode == 1
        assert place in ended.stderr
        assert "hidden" not in ended.stderr


def test_the_password_is_not_shown() -> None:
    url = "redis://:hidden@127.0.0.1:1/0"
    with two_gateways(url, {"localRateLimit": [BUCKET]}, redisWait="10ms") as (gateways, ports):
        # Without any Redis, open: alone from the start.
        assert fetch(ports[0]).status == 200
        assert "hidden" not in json.dumps(gateways[0].dump())
        assert "hidden" not in gateways[0].log()
