"""The journal of budgets: what was committed is there again, and nothing else ever is."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shm.budgets import BudgetLimit, BudgetRow, BudgetTable
from sidecar.errors import ConfigError
from sidecar.state import journal
from sidecar.state.budgets import open_budgets
from sidecar.state.journal import Journal, JournalError
from sidecar.state.keeper import BudgetKeeper

HOUR = 3600 * 10**9
NOW = 1_000_000 * HOUR
SECRET = bytes(range(32))
LIMIT = BudgetLimit(1000, 1_200_000 * HOUR, blocks=True, unit=1)


def steps(short: int) -> pytest.MarkDecorator:
    """Every so many octets, and each of them in the long run."""
    return pytest.mark.parametrize("step", [short, pytest.param(1, marks=pytest.mark.soak)])


def row(number: int, spent: int, **changes: object) -> BudgetRow:
    made = BudgetRow(bytes([number]) * 16, b"label %d" % number, LIMIT, spent, 0, 0, 1, NOW, 0)
    return replace(made, **changes)  # type: ignore[arg-type]


def spends(path: Path) -> dict[int, int]:
    contents = journal.read(path)
    assert contents is not None
    return {one.key[0]: one.spent for one in contents.rows}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "spend.db"
    journal.create(made, SECRET)
    return made


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert journal.read(tmp_path / "spend.db") is None


def test_what_is_written_is_read(path: Path) -> None:
    rows = [row(1, 10), row(2, 2**63 - 1, label=b"\xff\0|", resets=3, sequence=9)]
    with Journal(path, SECRET) as writer:
        writer.write(rows, NOW)
    contents = journal.read(path)
    assert contents is not None
    assert (contents.secret, list(contents.rows)) == (SECRET, rows)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_state_never_goes_back(path: Path) -> None:
    with Journal(path, SECRET) as writer:
        writer.write([row(1, 10), row(2, 10, resets=1), row(3, 10, window_start_ns=5)], NOW)
        writer.write([row(1, 9), row(2, 99), row(3, 99)], NOW)
        assert spends(path) == {1: 10, 2: 10, 3: 10}
        writer.write([row(1, 11), row(2, 0, resets=2), row(3, 0, window_start_ns=6)], NOW)
        assert spends(path) == {1: 11, 2: 0, 3: 0}


def test_windows_that_are_long_over_are_forgotten(path: Path) -> None:
    short = replace(LIMIT, window_ns=HOUR)
    with Journal(path, SECRET) as writer:
        writer.write([row(1, 1, limit=short, window_start_ns=NOW), row(2, 2)], NOW)
        writer.write([], NOW + 24 * HOUR)
        assert spends(path) == {1: 1, 2: 2}  # a clock may be set back
        writer.write([], NOW + 26 * HOUR)
        assert spends(path) == {2: 2}


@pytest.fixture
def cut_short(path: Path, tmp_path: Path) -> tuple[Path, list[dict[int, int]]]:
    """A journal as a power failure leaves it, WAL and all, and each state that was committed."""
    states: list[dict[int, int]] = [{}]
    writer = Journal(path, SECRET)
    folder = tmp_path / "copy"
    folder.mkdir()
    for number in range(1, 6):
        rows = [row(one, 10 * number + one) for one in range(1, number + 1)]
        writer.write(rows, NOW)
        states.append({one.key[0]: one.spent for one in rows})
    for name in ("spend.db", "spend.db-wal"):
        shutil.copy(path.with_name(name), folder / name)
    writer.close()
    return folder / "spend.db", states


@steps(211)
def test_power_loss_leaves_a_committed_state(
    cut_short: tuple[Path, list[dict[int, int]]], tmp_path: Path, step: int
) -> None:
    source, states = cut_short
    wal = source.with_name("spend.db-wal").read_bytes()
    assert spends_of_copy(source, wal, tmp_path) == states[-1]
    found = []
    for length in (*range(0, len(wal), step), len(wal) - 1):
        state = spends_of_copy(source, wal[:length], tmp_path)
        assert state in states, length
        found.append(states.index(state))
    assert found == sorted(found)  # the more of it there is, the later the state
    assert set(found) == set(range(len(states) - 1))


@steps(509)
def test_a_torn_end_of_the_wal_is_not_believed(
    cut_short: tuple[Path, list[dict[int, int]]], tmp_path: Path, step: int
) -> None:
    source, states = cut_short
    wal = bytearray(source.with_name("spend.db-wal").read_bytes())
    for at in range(0, len(wal), step):
        damaged = bytes(wal[:at]) + bytes((wal[at] ^ 0x55,)) + bytes(wal[at + 1 :])
        assert spends_of_copy(source, damaged, tmp_path) in states, at


def spends_of_copy(source: Path, wal: bytes, folder: Path) -> dict[int, int]:
    place = folder / "try.db"
    place.write_bytes(source.read_bytes())
    place.with_name("try.db-shm").unlink(missing_ok=True)
    place.with_name("try.db-wal").write_bytes(wal)
    return spends(place)


@steps(97)
def test_a_damaged_file_is_refused_and_never_taken_for_less(
    path: Path, tmp_path: Path, step: int
) -> None:
    with Journal(path, SECRET) as writer:
        writer.write([row(number, number) for number in range(1, 100)], NOW)
    whole, right = path.read_bytes(), spends(path)
    place = tmp_path / "damaged.db"
    for at in range(0, len(whole), step):
        for data in (whole[:at], whole[:at] + bytes((whole[at] ^ 0x55,)) + whole[at + 1 :]):
            place.write_bytes(data)
            assert refusal_of(place, right) in ("", "config.state.journal"), at


def refusal_of(path: Path, right: dict[int, int]) -> str:
    """The path that a refusal names; "" when what was read is right."""
    try:
        assert spends(path) == right
    except ConfigError as error:
        return error.path
    return ""


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database, but as long as one" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE budgets (key BLOB)")
    connection.close()


def later(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


def lost(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"x" * 100)
    path.unlink()


def edited(path: Path) -> None:
    with Journal(path, SECRET) as writer:
        writer.write([row(1, 10)], NOW)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE budgets SET spent = 0")
    connection.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_database, "is damaged: file is not a database"),
        (empty, "is empty"),
        (foreign, "is not a journal of budgets"),
        (later, "has version 2"),
        (lost, "its -wal file is there"),
        (edited, "checksum"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_what_is_no_journal_is_refused(path: Path, change: object, message: str) -> None:
    assert callable(change)
    change(path)
    with pytest.raises(ConfigError, match=message):
        journal.read(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        journal.create(tmp_path / "none" / "spend.db", SECRET)


def test_a_journal_of_another_is_not_written(path: Path) -> None:
    with Journal(path, b"\1" * 32) as writer, pytest.raises(JournalError, match="another journal"):
        writer.write([row(1, 1)], NOW)
    assert spends(path) == {}


def test_a_full_disk_is_told_and_tried_again(path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = [row(number, 7) for number in range(1, 250)]
    with Journal(path, SECRET) as writer:
        writer.write(rows[:1], NOW)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, before[1]))
        try:
            with pytest.raises(JournalError):
                writer.write(rows, NOW)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert spends(path) == {1: 7}
        writer.write(rows, NOW)
    assert len(spends(path)) == len(rows)


# --- the table and its journal ---------------------------------------------------------------


@pytest.fixture
def table() -> Iterator[BudgetTable]:
    made = BudgetTable.create(f"test-journal-{os.getpid()}", 100, SECRET)
    yield made
    made.close()


def spend(table: BudgetTable, amount: int) -> None:
    made = table.reserve(table.key(b"k"), b"k", LIMIT, 0, NOW, HOUR)
    assert made is not None
    table.commit(made, amount, NOW)


def keeper(table: BudgetTable, path: Path, said: list[str]) -> BudgetKeeper:
    return BudgetKeeper(
        table,
        Journal(path, table.secret),
        lambda: NOW,
        wrote=lambda count: said.append(f"wrote {count}"),
        failed=lambda count: said.append("failed"),
    )


def test_only_changes_are_written(table: BudgetTable, path: Path) -> None:
    said: list[str] = []
    keeping = keeper(table, path, said)
    spend(table, 5)
    assert keeping.flush()
    assert keeping.flush()
    spend(table, 5)
    assert keeping.flush()
    keeping.close()
    assert said == ["wrote 1", "wrote 1"]
    assert list(spends(path).values()) == [10]


def test_what_could_not_be_written_is_written_later(
    table: BudgetTable, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    keeping = keeper(table, path, said)
    spend(table, 5)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")  # whatever holds it: it cannot be written now
        assert not keeping.flush()
        assert not keeping.flush()
        other.execute("ROLLBACK")
    other.close()
    spend(table, 5)
    assert keeping.flush()
    keeping.close()
    assert said == ["failed", "failed", "wrote 1"]
    assert list(spends(path).values()) == [10]
    assert [one.levelname for one in caplog.records] == ["ERROR", "WARNING"]


def test_a_file_that_was_removed_is_written_anew_and_whole(table: BudgetTable, path: Path) -> None:
    keeping = keeper(table, path, [])
    spend(table, 5)
    assert keeping.flush()
    for name in (path.name, path.name + "-wal", path.name + "-shm"):
        path.with_name(name).unlink(missing_ok=True)
    assert keeping.flush()
    keeping.close()
    assert list(spends(path).values()) == [5]


def test_a_damaged_budget_comes_back_from_the_journal(table: BudgetTable, path: Path) -> None:
    keeping = keeper(table, path, [])
    spend(table, 50)
    assert keeping.flush()
    stripe = table.table.stripe(table.key(b"k"))
    with stripe:
        at = stripe.find(table.key(b"k"))
        table.table.segment.file[at + 20 : at + 22] = b"\xff\xff"
    spend(table, 1)  # finds it
    assert [one.spent for one in table.rows()] == [1]
    assert keeping.flush()
    assert [one.spent for one in table.rows()] == [50]
    spend(table, 1)
    assert keeping.flush()
    keeping.close()
    assert list(spends(path).values()) == [51]


def test_budgets_come_back_from_the_journal(tmp_path: Path) -> None:
    place = tmp_path / "spend.db"
    config = {"journal": str(place)}
    first = open_budgets(config, "x", f"test-open-{os.getpid()}")
    spend(first.table, 5)
    first.close()  # writes it, and removes the table
    second = open_budgets(config, "x", f"test-open-{os.getpid()}")
    assert [one.spent for one in second.table.rows()] == [5]
    spend(second.table, 1)
    second.close()
    assert list(spends(place).values()) == [6]


def test_the_table_stays_when_the_journal_lacks_some(tmp_path: Path) -> None:
    place = tmp_path / "folder" / "spend.db"
    place.parent.mkdir()
    config = {"journal": str(place)}
    first = open_budgets(config, "x", f"test-lack-{os.getpid()}")
    spend(first.table, 5)
    secret = first.table.secret
    shutil.move(place.parent, tmp_path / "away")
    first.close()
    shutil.move(tmp_path / "away", place.parent)
    second = BudgetTable.open(f"test-lack-{os.getpid()}", 10_000, secret, from_living=True)
    assert [one.spent for one in second.rows()] == [5]
    second.close()


async def test_the_dead_are_looked_for_and_changes_written(table: BudgetTable, path: Path) -> None:
    wrote = asyncio.Event()
    loop = asyncio.get_running_loop()
    keeping = BudgetKeeper(
        table,
        Journal(path, table.secret),
        lambda: NOW + 2 * HOUR,
        wrote=lambda count: loop.call_soon_threadsafe(wrote.set),
        failed=lambda count: None,
    )
    made = table.reserve(table.key(b"k"), b"k", LIMIT, 10, NOW, HOUR)
    spend(table, 5)
    running = asyncio.ensure_future(keeping.run())
    async with asyncio.timeout(20):
        await wrote.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert made is not None
    assert [one.reserved for one in table.rows()] == [0]  # past its deadline
    keeping.close()
    assert list(spends(path).values()) == [5]
