"""Endpoints: load by column, exact transitions, rows that are freed in time, death at any line."""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

from shm.endpoints import EndpointTable, Row
from shm.errors import SegmentMissingError, SegmentRefusedError, ShmError
from shm.load import MAX_LABEL_BYTES, LoadRows
from shm.segment import segment_name
from shm.standing import FRESH, Standing, packed, standing_of
from shm.stripe import Stripe
from tests.support.endpoints import slot, table

BAD = Standing(0.5, 3, 1, 10**12, 0.25)


@pytest.fixture
def endpoints() -> Iterator[EndpointTable]:
    with table(endpoints=64, columns=4) as made:
        yield made


def fork(action: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def rows(endpoints: EndpointTable) -> dict[bytes, Row]:
    return {row.label: row for row in endpoints.rows()}


def die_holding(stripe: Stripe) -> None:
    with stripe:
        os.kill(os.getpid(), signal.SIGKILL)


def failed(standing: Standing) -> Standing:
    return standing._replace(failures=standing.failures + 1)


def check(endpoints: EndpointTable) -> None:
    """Invariants E2, E4, E5 and E6."""
    load = endpoints.load
    seen = list(endpoints.rows())
    used = [row for row in range(load.rows) if load.users(row)]
    assert sorted(load.key(row) for row in used) == sorted(row.key for row in seen)
    assert endpoints.stats().used == len(seen)
    by_key = {row.key: row for row in seen}
    for row in range(load.rows):
        words, reals, cells = load.views(row)
        if row not in used:
            assert sum(cells) == 0
            continue
        standing = by_key[load.key(row)].standing
        assert reals[0] == standing.health
        assert tuple(words[1:3]) == (standing.ejected_until_ns, standing.is_troubled)


@pytest.mark.parametrize(
    "standing",
    [FRESH, BAD, Standing(0.0, 2**32 - 1, 2**32 - 1, 2**63 - 1, 0.0), Standing(restore_health=1.0)],
)
def test_a_slot_holds_a_standing(standing: Standing) -> None:
    assert standing_of(packed(b"k" * 16, standing) + b"crc.") == standing


def test_numbers_stop_at_their_ends() -> None:
    raw = packed(b"k" * 16, Standing(1.0, 2**40, 2**33, 2**80))
    assert standing_of(raw) == Standing(1.0, 2**32 - 1, 2**32 - 1, 2**63 - 1)


def test_two_workers_share_an_endpoint(endpoints: EndpointTable) -> None:
    one, other = (slot(endpoints.column(number), "e") for number in (0, 3))
    assert (one.row, one.load()) == (other.row, (1.0, 0.0, 0))
    one.begin()
    other.begin()
    other.begin()
    other.latency_seconds = 0.5
    assert one.load() == (1.0, 0.5, 3)
    one.end()
    assert (one.in_flight, other.in_flight) == (2, 2)
    assert one.update(lambda _: BAD) == (FRESH, BAD)
    assert (other.health, other.ejected_until_ns, other.is_troubled) == (0.5, 10**12, True)
    found = rows(endpoints)[b"e"]
    assert found == Row(one.key, b"e", BAD, 0.5, (0, 0, 0, 2), 2)
    assert endpoints.reset(one.key)
    assert (other.load(), other.is_troubled) == ((1.0, 0.0, 2), False)
    assert not endpoints.reset(b"?" * 16)
    check(endpoints)


def test_a_label_is_cut_between_characters(endpoints: EndpointTable) -> None:
    label = "é".encode() * 40
    column = endpoints.column(0)
    column.open(column.key(b"e"), b"x" + label)
    (found,) = endpoints.rows()
    assert found.label == b"x" + label[: MAX_LABEL_BYTES - 2]


def test_a_change_that_changes_nothing_writes_nothing(endpoints: EndpointTable) -> None:
    one = slot(endpoints.column(0), "e")
    assert one.update(lambda standing: standing) == (FRESH, FRESH)

    def fails(standing: Standing) -> Standing:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.update(fails)
    assert one.update(failed)[1].failures == 1


def test_a_full_table_refuses_and_keeps_what_it_has(endpoints: EndpointTable) -> None:
    column = endpoints.column(0)
    slots = endpoints.stats().slots
    opened = [column.open(column.key(b"%d" % n), b"%d" % n) for n in range(slots + 50)]
    stats = endpoints.stats()
    assert stats.used == sum(one is not None for one in opened) >= 64
    assert stats.refusals == opened.count(None) > 0
    assert stats.evictions == 0
    kept = [one for one in opened if one is not None]
    for one in kept:
        one.begin()
    check(endpoints)
    assert {one.in_flight for one in kept} == {1}


def test_a_slot_is_freed_when_no_column_uses_it(endpoints: EndpointTable) -> None:
    one, other = endpoints.column(0), endpoints.column(1)
    mine, shared, theirs = slot(one, "mine"), slot(one, "shared"), slot(other, "shared")
    shared.update(lambda _: BAD)
    mine.begin()
    shared.begin()
    assert shared.leave() == 1
    assert one.retain([mine]) == 1
    assert rows(endpoints)[b"shared"].users == 1
    assert (theirs.health, theirs.in_flight) == (0.5, 0)
    assert other.retain([]) == 1
    assert set(rows(endpoints)) == {b"mine"}
    assert one.retain([mine]) == 0
    # As good as new when it comes again.
    assert slot(other, "shared").load() == (1.0, 0.0, 0)
    check(endpoints)


def test_a_column_has_one_living_holder(endpoints: EndpointTable) -> None:
    with pytest.raises(ShmError, match="not in 0 to 3"):
        endpoints.column(4)
    endpoints.column(0)
    assert exit_code(fork(lambda: endpoints.column(0))) == 1
    assert exit_code(fork(lambda: endpoints.column(1))) == 0
    endpoints.column(1)


@pytest.mark.parametrize("successor", [False, True])
def test_what_a_killed_worker_had_in_flight_vanishes(
    endpoints: EndpointTable, successor: bool
) -> None:
    mine = slot(endpoints.column(0), "e")
    mine.begin()

    def work() -> None:
        theirs = slot(endpoints.column(1), "e")
        for _ in range(50):
            theirs.begin()
        theirs.update(lambda _: BAD)
        os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(fork(work)) == -signal.SIGKILL
    assert mine.in_flight == 51
    if successor:
        column = endpoints.column(1)
    else:
        assert endpoints.release_dead() == 50
        assert endpoints.release_dead() == 0
        column = endpoints.column(1)
    assert (mine.in_flight, mine.health) == (1, 0.5)
    # What the dead worker used stays in use until its successor says what it wants.
    assert rows(endpoints)[b"e"].users == 2
    assert column.retain([]) == 1
    assert rows(endpoints)[b"e"].users == 1
    check(endpoints)


def test_an_ejection_outlives_the_only_worker(endpoints: EndpointTable) -> None:
    def work() -> None:
        slot(endpoints.column(0), "e").update(lambda _: BAD)
        os.kill(os.getpid(), signal.SIGKILL)

    exit_code(fork(work))
    endpoints.release_dead()
    assert slot(endpoints.column(0), "e").ejected_until_ns == BAD.ejected_until_ns


@pytest.mark.parametrize("finder", ["update", "rows", "repair"])
def test_a_damaged_slot_is_made_anew(endpoints: EndpointTable, finder: str) -> None:
    column = endpoints.column(0)
    slots = [slot(column, f"e{n}") for n in range(20)]
    for one in slots:
        one.update(lambda _: BAD)
        one.begin()
    hurt = slots[7]
    for offset in (0, 20, 40, 51):
        hurt.update(lambda _: BAD)
        file = endpoints._table.segment.file
        file[hurt.at + offset] ^= 0x40
        if finder == "repair":
            stripe = endpoints._table.stripes[hurt.row // endpoints._stripe_slots]
            assert exit_code(fork(partial(die_holding, stripe))) == -signal.SIGKILL
        elif finder == "rows":
            list(endpoints.rows())
        before, _ = hurt.update(lambda standing: standing)
        assert before == FRESH
        check(endpoints)
        assert (hurt.in_flight, hurt.is_troubled) == (1, False)
    assert endpoints.stats().damaged == 4
    others = [one for one in slots if one is not hurt]
    assert all(one.update(lambda standing: standing)[0] == BAD for one in others)


def test_a_damaged_slot_in_use_is_given_to_nobody(endpoints: EndpointTable) -> None:
    column = endpoints.column(0)
    opened = [column.open(column.key(b"%d" % n), b"") for n in range(endpoints.stats().slots * 2)]
    kept = [one for one in opened if one is not None]
    for one in kept:
        endpoints._table.segment.file[one.at + 20] ^= 1
    for number in range(200):
        column.open(column.key(b"more", b"%d" % number), b"")
    assert {row.key for row in endpoints.rows()} >= {one.key for one in kept}
    check(endpoints)


def die_at(line: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that kills the process at that executed line of this package."""
    left = line

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if "/shm/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


OPERATIONS: dict[str, Callable[[EndpointTable], object]] = {
    "open": lambda t: slot(t.column(1), "new"),
    "open-known": lambda t: slot(t.column(1), "e"),
    "update": lambda t: slot(t.column(1), "e").update(lambda _: BAD),
    "let-go": lambda t: (slot(t.column(1), "new"), t.column(1).retain([])),
    "reset": lambda t: t.reset(t.key(b"e")),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_death_at_every_line(name: str) -> None:
    """Whatever line a process dies at: no lock stays taken, and all invariants hold."""
    operation = OPERATIONS[name]
    died = 0
    while True:
        with table(endpoints=4, columns=2) as endpoints:
            mine = slot(endpoints.column(0), "e")
            mine.begin()
            mine.update(lambda _: Standing(0.75))

            def work(endpoints: EndpointTable = endpoints, line: int = died + 1) -> None:
                sys.settrace(die_at(line))
                operation(endpoints)
                sys.settrace(None)

            code = exit_code(fork(work))
            assert code in (0, -signal.SIGKILL)
            endpoints.release_dead()
            for stripe in endpoints._table.stripes:
                with stripe:  # repairs what was left
                    pass
            check(endpoints)
            found = rows(endpoints)
            assert set(found) <= {b"e", b"new"}
            assert found[b"e"].standing in (Standing(0.75), BAD, FRESH)
            assert mine.in_flight == 1
            assert mine.update(lambda _: FRESH)[1] == FRESH
        if code == 0:
            break
        died += 1
    assert died > 20


def test_failures_of_all_processes_are_counted_exactly(endpoints: EndpointTable) -> None:
    mine = slot(endpoints.column(0), "e")

    def work(column: int) -> None:
        theirs = slot(endpoints.column(column), "e")
        for _ in range(2000):
            theirs.begin()
            theirs.update(failed)
            theirs.end()

    children = [fork(partial(work, number)) for number in (1, 2, 3)]
    for _ in range(2000):
        mine.update(failed)
    assert [exit_code(pid) for pid in children] == [0, 0, 0]
    assert mine.update(lambda standing: standing)[0].failures == 8000
    assert mine.in_flight == 0
    check(endpoints)


def test_killed_at_random_nothing_is_lost_or_invented(endpoints: EndpointTable) -> None:
    """Each child notes what it begins and what it has done, in memory of the test's own."""
    mine = slot(endpoints.column(0), "e")
    notes = memoryview(mmap.mmap(-1, 4096)).cast("Q")
    chance = random.Random(5)
    kills = 120

    def work() -> None:
        theirs = slot(endpoints.column(1), "e")
        notes[2] = 1
        while True:
            theirs.begin()
            notes[0] += 1
            theirs.update(failed)
            notes[1] += 1
            theirs.end()

    for _ in range(kills):
        notes[2] = 0
        pid = fork(work)
        while not notes[2]:
            pass
        at = notes[1] + chance.randrange(60)
        while notes[1] < at:
            pass
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
    endpoints.release_dead()
    failures = mine.update(lambda standing: standing)[0].failures
    assert notes[1] <= failures <= notes[0] <= notes[1] + kills
    assert mine.in_flight == 0
    check(endpoints)


def test_attaching(endpoints: EndpointTable) -> None:
    with pytest.raises(SegmentMissingError):
        EndpointTable.attach(f"nobody-{os.getpid()}")
    with pytest.raises(ShmError, match="columns are out of range"):
        EndpointTable.create(f"test-{os.getpid()}-none", 4, 0)
    with pytest.raises(SegmentMissingError):
        EndpointTable.attach(f"test-{os.getpid()}-none")


def test_another_process_attaches() -> None:
    name = f"test-endpoints-{os.getpid()}"
    made = EndpointTable.create(name, 16, 2)
    try:
        slot(made.column(0), "e").begin()
        (row,) = EndpointTable.attach(name).rows()
        assert row.in_flight == (1, 0)
    finally:
        made.close()


def test_rows_of_another_table_are_refused() -> None:
    name = f"test-endpoints-{os.getpid()}"
    made = EndpointTable.create(name, 16, 2)
    try:
        made.load.segment.close()
        other = LoadRows.create(segment_name(name, "load"), 2, made.load.rows + 1)
        try:
            with pytest.raises(SegmentRefusedError, match="does not fit"):
                EndpointTable.attach(name)
        finally:
            other.segment.close()
    finally:
        made.close()
