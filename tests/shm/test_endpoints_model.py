"""The endpoint table against a dictionary, through reloads, deaths of workers and damage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shm.endpoints import Column, EndpointTable, Slot
from shm.standing import FRESH, Standing
from tests.support.endpoints import slot, table

COLUMNS = 3
NAMES = [f"e{number}" for number in range(6)]
NO_PROCESS = 2**22 + 1
"""Above what the kernel gives out."""

columns = st.integers(0, COLUMNS - 1)
names = st.sampled_from(NAMES)
standings = st.builds(
    Standing,
    st.floats(0, 1),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 2**63 - 1),
    st.none() | st.floats(0, 1),
)


@dataclass
class Known:
    """What the model has of one endpoint."""

    standing: Standing = FRESH
    latency: float = 0.0
    flights: list[int] = field(default_factory=lambda: [0] * COLUMNS)
    users: set[int] = field(default_factory=set)


class Model(RuleBasedStateMachine):
    @initialize()
    def create(self) -> None:
        self._context = table(endpoints=16, columns=COLUMNS)
        self.table: EndpointTable = self._context.__enter__()
        self.columns: list[Column] = [self.table.column(n) for n in range(COLUMNS)]
        self.slots: list[dict[str, Slot]] = [{} for _ in range(COLUMNS)]
        self.known: dict[str, Known] = {}

    @rule(column=columns, name=names)
    def open(self, column: int, name: str) -> None:
        self.slots[column][name] = slot(self.columns[column], name)
        self.known.setdefault(name, Known()).users.add(column)

    @rule(column=columns, keep=st.sets(names))
    def retain(self, column: int, keep: set[str]) -> None:
        mine = self.slots[column]
        gone = {name for name, one in self.known.items() if column in one.users}
        gone -= keep & mine.keys()
        kept = [one for name, one in mine.items() if name in keep]
        assert self.columns[column].retain(kept) == len(gone)
        for name in gone:
            mine.pop(name, None)
            one = self.known[name]
            one.users.discard(column)
            one.flights[column] = 0
            if not one.users:
                del self.known[name]

    @rule(column=columns, data=st.data())
    def begin(self, column: int, data: st.DataObject) -> None:
        if self.slots[column]:
            name = data.draw(st.sampled_from(sorted(self.slots[column])))
            self.slots[column][name].begin()
            self.known[name].flights[column] += 1

    @rule(column=columns, data=st.data())
    def end(self, column: int, data: st.DataObject) -> None:
        busy = [name for name in self.slots[column] if self.known[name].flights[column]]
        if busy:
            name = data.draw(st.sampled_from(sorted(busy)))
            self.slots[column][name].end()
            self.known[name].flights[column] -= 1

    @rule(column=columns, data=st.data(), standing=standings, latency=st.floats(0, 100))
    def update(self, column: int, data: st.DataObject, standing: Standing, latency: float) -> None:
        if self.slots[column]:
            name = data.draw(st.sampled_from(sorted(self.slots[column])))
            one = self.slots[column][name]
            assert one.update(lambda _: standing) == (self.known[name].standing, standing)
            one.latency_seconds = latency
            self.known[name].standing = standing
            self.known[name].latency = latency

    @rule(name=names)
    def reset(self, name: str) -> None:
        assert self.table.reset(self.table.key(name.encode())) == (name in self.known)
        if name in self.known:
            self.known[name].standing = FRESH
            self.known[name].latency = 0.0

    @rule(column=columns, swept=st.booleans())
    def worker_dies(self, column: int, swept: bool) -> None:
        """Control finds out, or the successor does; it knows nothing of what was open."""
        self.table.load._hold(column, NO_PROCESS, 1)
        count = sum(one.flights[column] for one in self.known.values())
        if swept:
            assert self.table.release_dead() == count
        self.columns[column] = self.table.column(column)
        self.slots[column] = {}
        for one in self.known.values():
            one.flights[column] = 0

    @rule(column=columns, data=st.data(), offset=st.integers(0, 51), bit=st.integers(0, 7))
    def damage(self, column: int, data: st.DataObject, offset: int, bit: int) -> None:
        if self.slots[column]:
            name = data.draw(st.sampled_from(sorted(self.slots[column])))
            one = self.slots[column][name]
            self.table._table.segment.file[one.at + offset] ^= 1 << bit
            assert one.update(lambda standing: standing) == (FRESH, FRESH)
            self.known[name].standing = FRESH

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "table"):
            return
        seen: dict[str, Any] = {}
        for row in self.table.rows():
            seen[row.label.decode()] = Known(
                row.standing, row.latency_seconds, list(row.in_flight), set(range(row.users))
            )
        assert seen.keys() == self.known.keys()
        for name, one in self.known.items():
            got = seen[name]
            assert (got.standing, got.latency, got.flights) == (
                one.standing,
                one.latency,
                one.flights,
            )
            assert len(got.users) == len(one.users)
        for mine in self.slots:
            for name, held in mine.items():
                standing = self.known[name].standing
                assert held.load() == (
                    standing.health,
                    self.known[name].latency,
                    sum(self.known[name].flights),
                )
                assert held.ejected_until_ns == standing.ejected_until_ns
                assert held.is_troubled == standing.is_troubled

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self._context.__exit__(None, None, None)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
