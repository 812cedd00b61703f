"""The difference of two snapshots is that of their resources, wherever the index has what."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.snapshot import Resource, Snapshot, encode, read_record
from sidecar.config.snapshot_diff import Difference, Index, diff
from sidecar.errors import ConfigError

Resources = dict[str, Resource]


def resources_of(data: dict[str, object]) -> Resources:
    return {f"route/{name}": Resource.of("route", name, {"v": v}) for name, v in data.items()}


def run_to_end(old: Index, buffer: bytes, every: int = 256) -> tuple[Difference, int]:
    """The difference, and the number of pauses on the way to it."""
    steps = diff(old, buffer, every)
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: Difference = stop.value
            return result, pauses
        pauses += 1


def applied(old: Index, resources: Resources) -> Difference:
    return run_to_end(old, encode(Snapshot(resources), 1))[0]


SAMPLE = resources_of({f"r{index}": index for index in range(10)})


def test_the_difference() -> None:
    index = applied((), SAMPLE).index
    resources = dict(SAMPLE)
    del resources["route/r4"]
    resources |= resources_of({"r2": "changed", "new": 1})
    buffer = encode(Snapshot(resources), 2)
    difference, pauses = run_to_end(index, buffer, every=3)
    assert [record.key for record in difference.changed] == ["route/r2", "route/new"]
    assert difference.removed == ("route/r4",)
    assert pauses == 5  # after the check of the index too, and after a block that is gone
    assert read_record(buffer, difference.changed[0]) == {"v": "changed"}


def test_nothing_changed() -> None:
    index = applied((), SAMPLE).index
    assert run_to_end(index, encode(Snapshot(SAMPLE), 9)) == (Difference((), ()), 1)


def test_of_many_only_the_neighbours_of_what_changed_are_read() -> None:
    many = resources_of({f"r{number}": number for number in range(5000)})
    index = applied((), many).index
    del many["route/r700"]
    many |= resources_of({"r3000": "changed", "new": 1})
    _, pauses = run_to_end(index, encode(Snapshot(many), 2), every=1)
    assert pauses < 600


def changed(resources: Resources, dice: random.Random) -> Resources:
    """Some gone, changed, moved or new, here and there or in a row."""
    data: dict[str, object] = {
        key.removeprefix("route/"): one.data["v"] for key, one in resources.items()
    }
    for _ in range(dice.randint(1, 4)):
        names = list(data)
        start = dice.randrange(len(names))
        row = names[start : start + dice.choice((1, 1, 3, 200))]
        what = dice.choice(("remove", "change", "move", "insert"))
        if what == "change":
            data |= dict.fromkeys(row, dice.choice(("short", "x" * 300)))
        elif what == "insert":
            fresh: dict[str, object] = {f"n{dice.random()}": 1 for _ in row}
            head = {name: data[name] for name in names[:start]}
            data = head | fresh | {name: data[name] for name in names[start:]}
        elif len(row) < len(names):
            gone = {name: data.pop(name) for name in row}
            data |= gone if what == "move" else {}
    return resources_of(data)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_it_is_the_same_as_comparing_everything(seed: int) -> None:
    dice = random.Random(seed)
    old = resources_of({f"r{number}": number for number in range(600)})
    index = applied((), old).index
    for _ in range(3):
        new = changed(old, dice)
        buffer = encode(Snapshot(new), 1)
        difference, _ = run_to_end(index, buffer)
        wanted = [key for key, one in new.items() if old.get(key) != one]
        assert [one.key for one in difference.changed] == wanted
        for record in difference.changed:
            assert read_record(buffer, record) == new[record.key].data
        assert set(difference.removed) == old.keys() - new.keys()
        octets = b"".join([block.octets for block in difference.index])
        assert octets == b"".join([one.entry for one in new.values()])
        assert sum(block.count for block in difference.index) == len(new)
        old, index = new, difference.index


def test_a_key_that_holds_an_entry_is_no_entry() -> None:
    def is_text(entry: bytes) -> bool:
        try:
            entry.decode()
        except UnicodeDecodeError:
            return False
        return True

    made = (Resource.of("route", "a", {"v": number}) for number in range(10**7))
    one = next(one for one in made if is_text(one.entry))
    index = applied((), {one.key: one}).index
    other = Resource.of("route", one.entry.decode(), {})
    difference = applied(index, {other.key: other})
    assert [record.key for record in difference.changed] == [other.key]
    assert difference.removed == (one.key,)


def test_damage_is_refused() -> None:
    buffer = bytearray(encode(Snapshot(SAMPLE), 1))
    buffer[70] ^= 1
    with pytest.raises(ConfigError, match="index"):
        run_to_end((), bytes(buffer))
