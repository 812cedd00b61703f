"""Two gateways with four workers each hold one limit and one budget through Redis, under wrk.

`python -m tests.bench.redis_bench`: for each, how many requests were admitted, by how much that is
off, and what a request costs in CPU (gateway and Redis) against the same limit without Redis.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.bench.usage import cpu_seconds, descendants
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.redis_server import RedisServer

WORKERS, CONNECTIONS, SECONDS = 4, 16, 6
TOTAL = re.compile(r"(\d+) requests in")
REFUSED = re.compile(r"Non-2xx or 3xx responses: (\d+)")
AMPLE = 10**9
HOUR = {"tokensPerFill": 1, "fillInterval": "1h"}
ANSWER = {"directResponse": {"status": 200, "body": "ok"}}


@dataclass(frozen=True)
class Outcome:
    asked: int
    admitted: int
    gateway_us: float
    """CPU of the gateways a request."""
    redis_us: float


@contextmanager
def gateways(
    policies: dict[str, Any], url: str
) -> Iterator[tuple[list[GatewayProcess], list[int]]]:
    upstream, *ports = free_ports(3)
    answering = {
        "gateways": {"default": {"port": upstream}},
        "routes": [{"name": "answer", "policies": ANSWER}],
    }
    with ExitStack() as stack:
        stack.enter_context(GatewayProcess(answering, workers=1))
        made = []
        for port in ports:
            route = {
                "name": "shared",
                "policies": policies,
                "backends": [{"host": f"127.0.0.1:{upstream}"}],
            }
            config: dict[str, Any] = {
                "gateways": {"default": {"port": port}},
                "routes": [route],
                "config": {"state": {"redis": url} if url else {}},
            }
            made.append(stack.enter_context(GatewayProcess(config, workers=WORKERS)))
        yield made, ports


def wrk(port: int) -> subprocess.Popen[str]:
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", str(SECONDS)]
    url = f"http://127.0.0.1:{port}/"
    return subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True)


def run(policies: dict[str, Any], *, shared: bool) -> Outcome:
    with RedisServer() as redis, gateways(policies, redis.url if shared else "") as (made, ports):
        pids = [pid for one in made for pid in descendants(one.process.pid)]
        before, redis_before = cpu_seconds(pids), cpu_seconds([redis.process.pid])
        loads = [wrk(port) for port in ports]
        outputs = [load.communicate()[0] for load in loads]
        spent, redis_spent = cpu_seconds(pids) - before, cpu_seconds([redis.process.pid])
        asked = sum(int(found[1]) for text in outputs if (found := TOTAL.search(text)))
        refused = sum(int(found[1]) for text in outputs if (found := REFUSED.search(text)))
        assert asked, outputs
        redis_us = (redis_spent - redis_before) / asked * 1e6
        return Outcome(asked, asked - refused, spent / asked * 1e6, redis_us)


def bucket(tokens: int) -> dict[str, Any]:
    return {"localRateLimit": [{"maxTokens": tokens, **HOUR}]}


def budget(tokens: int) -> dict[str, Any]:
    window = {"rolling": "36500d"}
    limit = {"unit": "Tokens", "amount": tokens}
    one = {"name": "b", "limit": limit, "window": window, "cost": "10", "estimate": 10}
    return {"budgets": [one]}


def main() -> None:
    print(f"2 gateways x {WORKERS} workers, {2 * CONNECTIONS} connections, {SECONDS} s")
    print(f"{'':34}{'asked':>9}{'admitted':>10}{'limit':>10}{'over':>6}{'µs/req':>8}{'Redis':>7}")
    for name, policies, limit, shared in (
        ("limit of 2,000 over Redis", bucket(2000), 2000, True),
        ("limit of 20,000 over Redis", bucket(20_000), 20_000, True),
        ("budget of 2,000 requests over Redis", budget(20_000), 2000, True),
        ("limit never reached, over Redis", bucket(AMPLE), 0, True),
        ("limit never reached, each alone", bucket(AMPLE), 0, False),
        ("budget never reached, over Redis", budget(AMPLE), 0, True),
        ("budget never reached, each alone", budget(AMPLE), 0, False),
    ):
        found = run(policies, shared=shared)
        over = max(found.admitted - limit, 0) if limit else 0
        print(
            f"{name:<34}{found.asked:>9}{found.admitted:>10}{limit or '-':>10}{over:>6}"
            f"{found.gateway_us:>8.1f}{found.redis_us:>7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
