"""Tables as `config.state` asks for them: room, life, and who takes them over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shm.budget_slots import Ask as BudgetAsk
from shm.budget_slots import BudgetLimit
from shm.budgets import Refused
from shm.endpoints import EndpointTable
from shm.errors import SegmentInUseError, SegmentMissingError
from shm.leases import Answer, Spending
from shm.rates import Ask, Limit, RateTable
from shm.segment import segment_name
from sidecar.state.tables import Tables, kept_instance
from tests.support.gateway import ROOT

LIMIT = Limit(2, 1, 3_600_000_000_000)


@pytest.fixture
def name() -> str:
    return f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "gateway.yaml"
    file.touch()
    yield file
    prefix = segment_name(kept_instance(file), "x", kept=True).removesuffix("x")[1:]
    for left in Path("/dev/shm").glob(prefix + "*"):
        left.unlink()


def take(tables: Tables) -> bool:
    rates = tables.rates
    return rates.take(Ask(rates.key(b"a"), b"a", LIMIT, 1), 10**12).allowed


HOLDER = """
import sys
from pathlib import Path
from shm.rates import Ask, Limit
from sidecar.state.tables import Tables
tables = Tables.open({"rateKeys": 100, "keep": True}, sys.argv[1], Path(sys.argv[2]))
rates = tables.rates
ask = Ask(rates.key(b"a"), b"a", Limit(2, 1, 3_600_000_000_000), 1)
rates.take(ask, 10**12)
print("open", flush=True)
sys.stdin.read()
tables.close()
"""


@contextmanager
def predecessor(name: str, path: Path) -> Iterator[None]:
    """Another gateway that has taken one token, until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, name, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"open\n"
            yield
        finally:
            other.communicate()
    assert other.returncode == 0


def test_tables_end_with_their_instance(name: str) -> None:
    tables = Tables.open({}, name)
    tables.verify()
    tables.beat()
    assert take(tables)
    assert next(one for one in tables.stats() if one.name == "rates").slots >= 100_000
    tables.close()
    with pytest.raises(SegmentMissingError):
        RateTable.attach(name)


def test_as_much_room_as_was_asked_for(name: str) -> None:
    tables = Tables.open({"rateKeys": 5000}, name)
    slots = next(one for one in tables.stats() if one.name == "rates").slots
    tables.close()
    assert 5000 <= slots < 10_000


def test_kept_tables_are_found_by_the_next_start(name: str, path: Path) -> None:
    with predecessor(name, path):
        pass
    tables = Tables.open({"rateKeys": 100, "keep": True}, name + "b", path)
    assert not tables.refusals
    assert [take(tables), take(tables)] == [True, False]
    tables.beat()
    tables.close()


def test_a_link_to_the_file_is_the_same_gateway(path: Path) -> None:
    link = path.with_name("link.yaml")
    link.symlink_to(path)
    assert kept_instance(link) == kept_instance(path)
    assert kept_instance(path) != kept_instance(path.with_name("other.yaml"))
    assert kept_instance(None) != kept_instance(path)


def test_other_room_moves_what_is_kept_and_says_so(name: str, path: Path) -> None:
    with predecessor(name, path):
        pass
    tables = Tables.open({"rateKeys": 50_000, "keep": True}, name + "b", path)
    assert len(tables.refusals) == 1
    assert "1 entries were moved, 0 had no room" in tables.refusals[0]
    assert [take(tables), take(tables)] == [True, False]
    tables.close()


def test_two_gateways_cannot_keep_tables_for_one_file_but_in_an_upgrade(
    name: str, path: Path
) -> None:
    config = {"rateKeys": 100, "keep": True}
    with predecessor(name, path):
        with pytest.raises(SegmentInUseError):
            Tables.open(config, name + "b", path)
        tables = Tables.open(config, name + "b", path, from_living=True)
        assert take(tables)
    # The predecessor is gone and has left what is ours now.
    assert not take(tables)
    tables.close()


def test_endpoints_have_a_column_for_each_worker_and_are_never_kept(name: str, path: Path) -> None:
    tables = Tables.open({"keep": True, "endpoints": 100}, name, path, workers=3)
    try:
        assert tables.endpoints.stats().slots >= 100
        assert tables.endpoints.load.columns == 3
        assert "endpoints" in {stats.name for stats in tables.stats()}
    finally:
        tables.close()
    with pytest.raises(SegmentMissingError):
        EndpointTable.attach(name)


@pytest.mark.parametrize("way", ["nothing", "all is said", "something is owed", "others spent"])
def test_a_clean_end_with_a_journal_leaves_leases_that_say_more(tmp_path: Path, way: str) -> None:
    journal = tmp_path / "spend.db"
    config = {"journal": str(journal), "redis": "unix:///nowhere/redis.sock"}
    tables = Tables.open(config, "x", tmp_path / "gateway.yaml", workers=1)
    leases, budgets = tables.leases, tables.budgets.table
    assert leases is not None
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    times, secret = (now_ns, wall_ns), bytes(16)
    bucket = Ask(b"b" * 16, b"b", LIMIT, 1, secret)
    if way in ("all is said", "something is owed"):
        (taken,) = leases.take_all([bucket], now_ns, wall_ns, alone=True)
        assert taken.verdict.allowed
    if way == "all is said":
        message = leases.begin(bucket.key, (now_ns + 1, wall_ns), 1)
        assert message is not None
        leases.finish(message, Answer(1, 1, 1, 0, 1, 0), now_ns + 2)
    if way == "others spent":
        ask = BudgetAsk(budgets.key(b"m"), b"m", BudgetLimit(9, 0, blocks=True), 1, secret)
        made = budgets.reserve_all([ask], wall_ns, 1_000_000_000)
        assert not isinstance(made, Refused)
        budgets.commit(made[0], 1, wall_ns)
        assert leases.enroll(ask, 0, times)
        message = leases.begin(ask.key, times, 1, Spending(1, 1, 0, 0))
        assert message is not None
        leases.finish(message, Answer(1, 1, 1, 5, 1, 0), now_ns)
    tables.close()
    left = Path("/dev/shm") / segment_name(kept_instance(journal), "leases", kept=True)[1:]
    assert left.exists() == (way in ("something is owed", "others spent"))
    left.unlink(missing_ok=True)
