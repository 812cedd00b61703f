from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shm.sessions import NO_PRINCIPAL, Owner, SessionTable
from sidecar.mcp.sessions import RESUMABLE_SECONDS, Sessions, SessionsFullError, principal_of
from sidecar.mcp.token import Sealer, Upstream
from sidecar.mcp.upstream.base import Held
from tests.support.clock import HeldClock

KEY = bytes(range(32))
BACKEND, OTHER = b"b" * 16, b"o" * 16
SOMEBODY = b"s" * 16
UPSTREAMS = (Upstream("one", "id1", "2025-11-25", "", 7), Upstream("two"))


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def table() -> Iterator[SessionTable]:
    made = SessionTable.create(f"test{os.getpid()}", 64)
    yield made
    made.close()


def sessions(
    table: SessionTable, clock: HeldClock, *, given: bool = False, worker: int = 0
) -> Sessions:
    return Sessions(table, Sealer(KEY), Owner.of_self(worker), 60.0, clock, is_key_given=given)


def begin(made: Sessions, uuid: bytes = b"u" * 16) -> str:
    return made.begin(uuid, BACKEND, SOMEBODY, "2025-11-25", UPSTREAMS, None).text


def test_any_worker_opens_it(table: SessionTable, clock: HeldClock) -> None:
    text = begin(sessions(table, clock))
    live = sessions(table, clock, worker=1).open(text, BACKEND, SOMEBODY)
    assert live is not None
    assert live.held("one") == Held("id1", "2025-11-25", "")
    assert live.row.owner.worker == 0
    assert live.shown not in text


def test_45_of_another_backend_or_principal(table: SessionTable, clock: HeldClock) -> None:
    made = sessions(table, clock)
    text = begin(made)
    assert made.open(text, OTHER, SOMEBODY) is None
    assert made.open(text, BACKEND, NO_PRINCIPAL) is None
    assert made.open(text, BACKEND, b"t" * 16) is None


def test_idle_session_ends(table: SessionTable, clock: HeldClock) -> None:
    made = sessions(table, clock)
    text = begin(made)
    for _ in range(3):
        clock.pass_seconds(50)
        assert made.open(text, BACKEND, SOMEBODY) is not None
    clock.pass_seconds(61)
    assert made.open(text, BACKEND, SOMEBODY) is None


def test_deleted_stays_deleted(table: SessionTable, clock: HeldClock) -> None:
    made = sessions(table, clock, given=True)
    text = begin(made)
    live = made.open(text, BACKEND, SOMEBODY)
    assert live is not None
    assert made.delete(live)
    assert not made.delete(live)
    assert made.open(text, BACKEND, SOMEBODY) is None
    clock.pass_seconds(RESUMABLE_SECONDS - 10)
    assert made.open(text, BACKEND, SOMEBODY) is None
    clock.pass_seconds(20)
    assert made.open(text, BACKEND, SOMEBODY) is None


@pytest.mark.parametrize("given", [True, False])
def test_after_a_restart(table: SessionTable, clock: HeldClock, given: bool) -> None:
    text = begin(sessions(table, clock, given=given))
    fresh = SessionTable.create(f"test{os.getpid()}b", 64)
    try:
        live = sessions(fresh, clock, given=given).open(text, BACKEND, SOMEBODY)
        assert (live is not None) == given
        clock.pass_seconds(RESUMABLE_SECONDS + 1)
        assert sessions(fresh, clock, given=given).open(text, BACKEND, SOMEBODY) is None
    finally:
        fresh.close()


def test_moved_upstream_is_seen_by_all(table: SessionTable, clock: HeldClock) -> None:
    first, second = sessions(table, clock), sessions(table, clock, worker=1)
    text = begin(first)
    live = first.open(text, BACKEND, SOMEBODY)
    late = second.open(text, BACKEND, SOMEBODY)
    assert live is not None
    assert late is not None
    assert first.move(live, "one", Held("id2", "2025-11-25", "10.0.0.1:80"))
    again = second.open(text, BACKEND, SOMEBODY)
    assert again is not None
    assert again.held("one") == Held("id2", "2025-11-25", "10.0.0.1:80")
    # Who comes too late learns what the first one was given.
    assert second.move(late, "one", Held("id3", "2025-11-25", ""))
    assert late.held("one").upstream_id == "id2"


def test_no_room_for_what_changed(table: SessionTable, clock: HeldClock) -> None:
    made = sessions(table, clock)
    live = made.open(begin(made), BACKEND, SOMEBODY)
    assert live is not None
    assert not made.move(live, "one", Held("x" * 600, "2025-11-25", ""))


def test_claim(table: SessionTable, clock: HeldClock) -> None:
    first, second = sessions(table, clock), sessions(table, clock, worker=1)
    live = second.open(begin(first), BACKEND, SOMEBODY)
    assert live is not None
    assert second.claim(live)
    assert live.row.owner.worker == 1


def fill(made: Sessions) -> None:
    for n in range(10_000):
        begin(made, n.to_bytes(16, "big"))


def test_full(clock: HeldClock) -> None:
    small = SessionTable.create(f"test{os.getpid()}c", 1)
    try:
        made = sessions(small, clock)
        with pytest.raises(SessionsFullError):
            fill(made)
    finally:
        small.close()


def test_principals() -> None:
    one = principal_of(KEY, {"jwt": "a", "mtls": "b"})
    assert one == principal_of(KEY, {"mtls": "b", "jwt": "a"})
    others = [{}, {"jwt": "a"}, {"jwt": "ab"}, {"jwt": "", "mtls": "ab"}, {"apiKey": "a"}]
    assert len({one, *(principal_of(KEY, who) for who in others)}) == 6
    assert principal_of(bytes(32), {"jwt": "a"}) != principal_of(KEY, {"jwt": "a"})
