"""The command `state`: whom it asks, what it prints, how it fails."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest
from starlette.applications import Starlette

from shm.budget_slots import BudgetLimit
from shm.budgets import BudgetTable
from shm.endpoints import EndpointTable
from shm.rates import Ask, Limit, RateTable
from shm.sessions import Owner, SessionTable
from shm.standing import Standing
from sidecar.admin.server import AdminServer, parse_address
from sidecar.admin.show import StateError, Target, lines
from sidecar.admin.state import state_routes
from sidecar.cli import main
from sidecar.policies.amounts import UNITS
from sidecar.policies.amounts import shown as shown_amount
from sidecar.state.report import (
    Amounts,
    BudgetsView,
    EndpointsView,
    RatesView,
    Report,
    SessionsView,
)
from tests.support.endpoints import slot, table

SECOND = 1_000_000_000
NOW = 1_000 * SECOND
WALL = 1_790_000_000 * SECOND


class Clock:
    """A clock that stands still."""

    def monotonic_ns(self) -> int:
        return NOW

    def time_ns(self) -> int:
        return WALL


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("localhost:15000", Target("localhost", 15000)),
        ("http://h.test:1/", Target("h.test", 1)),
        ("http://[::1]:8", Target("::1", 8)),
        ("h.test", Target("h.test", 80)),
        ("unix:/run/a.sock", Target(path="/run/a.sock")),
    ],
)
def test_target(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@pytest.mark.parametrize(
    "text", ["", "https://h", "http://h/x", "http://h?x", "h:port", "h:70000", "unix:x"]
)
def test_no_target(text: str) -> None:
    with pytest.raises(StateError):
        Target.parse(text)


def test_lines() -> None:
    rows: list[dict[str, object]] = [
        {"label": "a", "n": 1, "f": 0.25, "none": None, "list": [1, 2], "yes": True},
        {"label": "lo\x1b[31mng\n", "n": 20, "f": 1.0, "none": 3, "list": [], "yes": False},
    ]
    assert lines(rows) == [
        "label            n      f  none  list  yes",
        "a                1  0.250     -  1,2   yes",
        "lo\\x1b[31mng\\n  20  1.000     3         no",
    ]


@pytest.fixture
def endpoints() -> Iterator[EndpointTable]:
    with table() as made:
        yield made


def named() -> str:
    return f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def test_rates_are_shown() -> None:
    made = RateTable.create(named(), 100)
    try:
        key = made.key(b"a")
        made.take(Ask(key, b"default/default/r", Limit(100, 10, SECOND), 30), NOW - 5 * SECOND)
        view = RatesView(made, Clock())
        (item,) = view.items()
        assert (item.key, item.label) == (key, "default/default/r")
        assert item.is_like("default/d")
        assert item.is_like(key.hex()[:4])
        assert not item.is_like("x")
        assert item.show() == {
            "key": key.hex(),
            "label": "default/default/r",
            "tokens": 100,
            "capacity": 100,
            "refill": 10,
            "intervalSeconds": 1.0,
            "debt": "carry",
            "idleSeconds": 5,
        }
        assert asyncio.run(view.reset(key))
        assert list(view.items()) == []
    finally:
        made.close()


def test_budgets_are_shown() -> None:
    made = BudgetTable.create(named(), 100)
    try:
        key = made.key(b"a")
        limit = BudgetLimit(1000, 3600 * SECOND, True, UNITS.index("USD"))
        held = made.reserve(key, b"team", limit, 100, WALL, SECOND)
        assert held is not None
        made.commit(held, 70, WALL)
        made.reserve(key, b"team", limit, 5, WALL, SECOND)
        view = BudgetsView(made, Clock(), Amounts(UNITS, shown_amount))
        (item,) = view.items()
        shown = item.show()
        assert (shown["label"], shown["unit"], shown["limit"]) == ("team", "USD", "0.000001")
        assert (shown["spent"], shown["reserved"]) == ("0.00000007", "0.000000005")
        assert (shown["remaining"], shown["onExceeded"]) == ("0.000000925", "Block")
        assert shown["windowStart"] == "2026-09-21T14:00:00+00:00"
        assert shown["windowEnd"] == "2026-09-21T15:00:00+00:00"
        assert asyncio.run(view.reset(key))
        assert next(iter(view.items())).show()["spent"] == "0"
    finally:
        made.close()


def test_sessions_are_shown() -> None:
    made = SessionTable.create(named(), 100)
    try:
        key = made.key(b"id")
        owner = Owner.of_self(3)
        made.begin(key, owner, b"value", 60 * SECOND, NOW - 9 * SECOND, made.key(b"user"))
        view = SessionsView(made, Clock())
        (item,) = view.items()
        shown = item.show()
        assert (shown["worker"], shown["workerAlive"]) == (3, True)
        assert (shown["ageSeconds"], shown["ttlSeconds"]) == (9.0, 60.0)
        assert shown["principal"] == made.key(b"user").hex()
        assert "value" not in shown
        assert asyncio.run(view.reset(key))
    finally:
        made.close()


def test_endpoints_are_shown(endpoints: EndpointTable) -> None:
    one = slot(endpoints.column(1), "e")
    one.begin()
    one.latency_seconds = 0.125
    one.update(lambda _: Standing(0.5, 2, 1, NOW + 3 * SECOND))
    view = EndpointsView(endpoints, Clock())
    (item,) = view.items()
    assert item.show() == {
        "key": one.key.hex(),
        "label": "e",
        "inFlight": 1,
        "inFlightByWorker": [0, 1],
        "health": 0.5,
        "latencySeconds": 0.125,
        "failures": 2,
        "timesEjected": 1,
        "ejectedForSeconds": 3.0,
        "workers": 1,
    }
    assert asyncio.run(view.reset(one.key))
    assert not one.is_troubled
    assert Report([view]).overview() == {
        "tables": [
            {
                "name": "endpoints",
                "used": 1,
                "slots": endpoints.stats().slots,
                "fillPercent": round(100 / endpoints.stats().slots, 1),
                "sizeBytes": endpoints.stats().size_bytes,
                "evictions": 0,
                "refusals": 0,
                "repairs": 0,
                "damaged": 0,
                "lockWaits": 0,
                "lockTimeouts": 0,
            }
        ]
    }


@pytest.fixture(params=["tcp", "unix"])
async def address(
    request: pytest.FixtureRequest, endpoints: EndpointTable, tmp_path: Path
) -> AsyncIterator[str]:
    """Where an admin API with a table of two endpoints is."""
    column = endpoints.column(0)
    for name in ("one", "two"):
        slot(column, name).update(lambda _: Standing(0.5, 2, 1))
    text = "localhost:0" if request.param == "tcp" else f"unix:{tmp_path}/s"
    where = parse_address(text, "a")
    assert where is not None
    app = Starlette(routes=state_routes(Report([EndpointsView(endpoints, Clock())])))
    server = AdminServer(app, where, "a")
    await server.start()
    yield str(server.address)
    await server.stop()


async def command(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["state", *arguments])


async def test_the_command_asks_and_prints(
    address: str, endpoints: EndpointTable, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command("--admin", address) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["endpoints", "2"]
    assert await command("endpoints", "--admin", address, "--limit", "1") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err == "more than 1; --limit shows more, --prefix others\n"
    assert await command("endpoints", "--admin", address, "--prefix", "two", "--json") == 0
    (row,) = orjson.loads(capsys.readouterr().out)["rows"]
    assert (row["label"], row["health"]) == ("two", 0.5)
    assert await command("endpoints", "--admin", address, "--reset", row["key"]) == 0
    assert capsys.readouterr().out == f"endpoints: reset {row['key']}\n"
    assert {one.label: one.standing.health for one in endpoints.rows()} == {b"one": 0.5, b"two": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rates"], "no such table; there are endpoints"),
        (["endpoints", "--reset", "ab" * 16], "no key abab"),
    ],
)
async def test_what_the_gateway_refuses(
    address: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command(*arguments, "--admin", address) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "--admin", f"unix:{tmp_path}/none"]) == 1
    assert "does the gateway run?" in capsys.readouterr().err


def test_where_the_configuration_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = f'config: {{adminAddr: "unix:{tmp_path}/none"}}'
    for argv in (["-c", document, "state"], ["state", "-c", document]):
        assert main(argv) == 1
        assert f"unix:{tmp_path}/none" in capsys.readouterr().err
    assert main(["state", "-c", "config: {adminAddr: off}"]) == 1
    assert "adminAddr is off" in capsys.readouterr().err
    assert main(["state", "-c", "config: {adminAdr: off}"]) == 1
    assert "adminAdr" in capsys.readouterr().err
    monkeypatch.setenv("ADMIN_ADDR", f"unix:{tmp_path}/env")
    assert main(["state"]) == 1
    assert f"unix:{tmp_path}/env" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "invalid choice"),
        (["--limit", "0"], "--limit: expected"),
        (["--limit", "x"], "invalid int"),
        (["--reset", "00" * 16], "--reset: which table?"),
        (["endpoints", "--reset", "xy/../z"], "32 hexadecimal digits"),
        (["--admin", "https://h"], "--admin: 'https://h'"),
        (["-f", "x", "-c", "y"], "only one of --config or --file"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", *arguments]) == 2
    assert said in capsys.readouterr().err
