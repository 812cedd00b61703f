"""The way to Redis: verified TLS, a password of the environment; and both it and a journal lost."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from shm.segment import segment_name, unlink
from sidecar.cli import main
from sidecar.state.tables import kept_instance
from tests.support.certificates import make_pair
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config, run_until_exit
from tests.support.programs import needs_program
from tests.support.redis_server import RedisServer
from tests.support.upstream import Answer, Seen, Upstream

pytestmark = needs_program("redis-server")
WAIT_SECONDS = 20.0
CONNECTED = "agentgateway_state_redis_connected"
BUCKET = {"maxTokens": 100, "tokensPerFill": 1, "fillInterval": "1h"}
BUDGET = {
    "name": "b",
    "limit": {"unit": "Tokens", "amount": 1000},
    "window": {"rolling": "36500d"},
    "cost": "10",
}


def ok(seen: Seen) -> Answer:
    return Answer(200, [], b"ok")


def config(port: int, upstream: str, **state: Any) -> dict[str, Any]:
    policies = {"localRateLimit": [BUCKET], "budgets": [BUDGET]}
    made = proxy_config(port, upstream, policies=policies)
    return {**made, "config": {"state": {"redisWait": "2s", **state}}}


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main(["state", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_tls_a_password_of_the_environment_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "correct")
    pair = make_pair("localhost")
    authorities = tmp_path / "ca.pem"
    authorities.write_text(pair.cert)
    (port,) = free_ports(1)
    with RedisServer(pair=pair, password="correct") as redis, Upstream(ok) as up:
        url = f"rediss://:$REDIS_PASSWORD@localhost:{redis.tls_port}/0?ssl_ca_certs={authorities}"
        setting = config(port, up.address, redis=url)
        with GatewayProcess(setting) as gateway:
            gateway.wait_metric(CONNECTED, 1)
            assert [fetch(port).status for _ in range(30)] == [200] * 30
            assert "correct" not in json.dumps(gateway.dump()) + gateway.log()

            # The command asks the gateway whose file it is given.
            of = ("-f", str(gateway.path))
            rows = {row["of"]: row for row in shown(capsys, "leases", *of)["rows"]}
            assert (rows["bucket"]["limit"], rows["bucket"]["taken"]) == (100, 30)
            assert rows["budget"]["limit"] == 1000
            for row in rows.values():
                shown(capsys, "leases", *of, "--reset", row["key"])
            (budget,) = shown(capsys, "budgets", *of)["rows"]
            assert budget["spent"] == "0"
            # Full again, but for what was leased and is not here any more, which load decides:
            # without the reset 70 would be left.
            came = [fetch(port).status for _ in range(102)]
            assert 70 < came.count(200) <= 101


@pytest.mark.parametrize("flaw", ["authority", "name", "password"])
def test_what_cannot_be_trusted_is_not_used(tmp_path: Path, flaw: str) -> None:
    pair = make_pair("localhost")
    authorities = tmp_path / "ca.pem"
    authorities.write_text((make_pair("localhost") if flaw == "authority" else pair).cert)
    (port,) = free_ports(1)
    with RedisServer(pair=pair, password="correct") as redis, Upstream(ok) as up:
        host = "127.0.0.1" if flaw == "name" else "localhost"
        word = "wrong" if flaw == "password" else "correct"
        url = f"rediss://:{word}@{host}:{redis.tls_port}/0?ssl_ca_certs={authorities}"
        setting = config(port, up.address, redis=url, redisFailureMode="failClosed")
        with GatewayProcess(setting) as gateway:
            assert fetch(port).status == 503
            assert gateway.metric(CONNECTED) == 0
            gateway.wait_line("cannot be used")
            assert word not in gateway.log()


def test_what_would_undo_the_verification_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        yaml.safe_dump({"config": {"state": {"redis": "rediss://h/0?ssl_cert_reqs=none"}}})
    )
    ended = run_until_exit(file)
    assert ended.returncode == 1
    assert "behind ? only: db, ssl_ca_certs" in ended.stderr


def test_a_budget_survives_a_reboot_and_an_empty_redis(tmp_path: Path) -> None:
    journal = tmp_path / "spend.db"
    (port,) = free_ports(1)
    with RedisServer() as redis, Upstream(ok) as up:
        setting = config(port, up.address, redis=redis.url, journal=str(journal))
        with GatewayProcess(setting) as gateway:
            assert [fetch(port).status for _ in range(3)] == [200] * 3
            until = time.monotonic() + WAIT_SECONDS
            while (found := spent_in(redis)) != 30:
                assert time.monotonic() < until, (found, gateway.log())
                time.sleep(0.05)
            gateway.wait_metric("agentgateway_budget_journal_rows_total", 1)
            os.kill(gateway.process.pid, signal.SIGKILL)
            gateway.process.wait()
            redis.kill()
            for table in ("budgets", "leases"):
                assert unlink(segment_name(kept_instance(journal), table, kept=True))
            redis.start()
            gateway.start()
            assert fetch(port).status == 200
            while (found := spent_in(redis)) != 40:
                assert time.monotonic() < until, (found, gateway.log())
                time.sleep(0.05)
    # What is left for the next start, a day at most.
    unlink(segment_name(kept_instance(journal), "leases", kept=True))


def spent_in(redis: RedisServer) -> int:
    """What Redis knows to be spent, over all members."""
    names = [
        word
        for word in redis.command("KEYS", "agw:b:*").decode().split("\r\n")
        if word.startswith("agw:b:")
    ]
    total = 0
    for name in names:
        words = redis.command("HGETALL", name).decode().split("\r\n")[2::2]
        pairs = zip(words[::2], words[1::2], strict=False)
        total += sum(int(value) for field, value in pairs if field.startswith("u:"))
    return total
