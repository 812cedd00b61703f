"""The configuration table against plain dicts, through any operations and a death at any line."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shm.config import MAX_ERROR_BYTES, ConfigTable, WorkerState
from shm.errors import SnapshotGoneError
from tests.shm.lines import killed_at

WORKERS = 3
NUMBERS = itertools.count()
SLOTS = st.integers(0, WORKERS - 1)
LINES = st.one_of(st.none(), st.integers(1, 120))
"""At which of its lines a process dies; None: it is this process, which lives."""
ERRORS = st.sampled_from(["", "no such key", "x" * (MAX_ERROR_BYTES + 9)])


@dataclass(frozen=True)
class Worker:
    state: WorkerState = WorkerState.STARTING
    applied: int = 0
    refused: int = 0
    error: str = ""
    is_alive: bool = True

    @property
    def seen(self) -> int:
        return max(self.applied, self.refused)


class ConfigMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = ConfigTable.create(f"test-config-{os.getpid()}-{next(NUMBERS)}", WORKERS)
        self.published: dict[int, bytes] = {}
        self.workers: dict[int, Worker] = {}
        self.oldest = 1

    def teardown(self) -> None:
        self.table.close()

    @property
    def current(self) -> int:
        return max(self.published, default=0)

    def is_cut(self, line: int | None, action: Callable[[], object]) -> bool:
        if line is None:
            action()
            return False
        return killed_at(line, action)

    def found(self) -> dict[int, Worker]:
        return {
            one.worker: Worker(
                one.state,
                one.applied_generation,
                one.refused_generation,
                one.error,
                one.is_alive,
            )
            for one in self.table.statuses()
        }

    def pruned(self) -> None:
        wanted = [one.seen for one in self.workers.values() if one.is_alive]
        self.oldest = max(self.oldest, min([self.current, *wanted]))

    @rule(data=st.binary(max_size=9), line=LINES)
    def publish(self, data: bytes, line: int | None) -> None:
        before = self.current
        is_cut = self.is_cut(line, lambda: self.table.publish(data))
        if not is_cut:
            assert self.table.generation == before + 1
        if self.table.generation > before:
            self.published[before + 1] = data
        if is_cut:
            self.table.prune()
        self.pruned()

    @rule(worker=SLOTS, line=LINES)
    def join(self, worker: int, line: int | None) -> None:
        before = self.workers.get(worker)
        if line is not None and before is not None and before.is_alive:
            return  # its holder is this process, which lives
        after = Worker(is_alive=line is None)
        self.change(worker, line, lambda: self.table.join(worker), before, after)

    @precondition(lambda self: self.workers and self.published)
    @rule(data=st.data(), error=ERRORS, line=LINES)
    def report(self, data: st.DataObject, error: str, line: int | None) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        generation = data.draw(st.integers(1, self.current))
        before = self.workers[worker]
        if error:
            after = replace(before, refused=generation, error=error[:MAX_ERROR_BYTES])
        else:
            is_first = before.state == WorkerState.STARTING
            state = WorkerState.SERVING if is_first else before.state
            after = Worker(state, generation, is_alive=before.is_alive)
        self.change(
            worker, line, lambda: self.table.report(worker, generation, error), before, after
        )

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), state=st.sampled_from(list(WorkerState)[1:]), line=LINES)
    def move(self, data: st.DataObject, state: WorkerState, line: int | None) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        before = self.workers[worker]
        after = replace(before, state=state)
        self.change(worker, line, lambda: self.table.set_state(worker, state), before, after)

    def change(
        self,
        worker: int,
        line: int | None,
        action: Callable[[], object],
        before: Worker | None,
        after: Worker,
    ) -> None:
        """Who dies has changed each field or not; an error is whole or empty (C4)."""
        if not self.is_cut(line, action):
            self.workers[worker] = after
            return
        got = self.found().get(worker)
        if got is None:
            assert before is None
            return
        old = before or Worker(WorkerState.EMPTY, is_alive=False)
        assert got.state in (old.state, after.state)
        assert got.applied in (old.applied, after.applied)
        assert got.refused in (old.refused, after.refused)
        assert got.error in ("", old.error, after.error)
        assert got.is_alive == old.is_alive or not got.is_alive
        self.workers[worker] = got

    @rule(line=LINES)
    def prune(self, line: int | None) -> None:
        if self.is_cut(line, self.table.prune):
            self.table.prune()
        self.pruned()

    @invariant()
    def agrees(self) -> None:
        assert self.table.generation == self.current
        assert self.found() == self.workers
        for generation, data in self.published.items():
            if generation < self.oldest:
                with pytest.raises(SnapshotGoneError):
                    self.table.read(generation)
            else:
                assert self.table.read(generation) == data
        if self.published:
            generation, snapshot = self.table.read_current()
            assert (generation, bytes(snapshot)) == (self.current, self.published[self.current])


TestConfig: Any = ConfigMachine.TestCase
TestConfig.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
