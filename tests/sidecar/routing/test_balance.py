"""Picks of endpoints and backends, with chance and time held in hand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.routing.balance import (
    Endpoint,
    Group,
    RoundRobin,
    WeightedChoice,
    pick,
    rendezvous,
    smoothed,
)
from tests.support.endpoints import Make, maker, slot, stand, table


@pytest.fixture(params=["local", "shared"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    with maker(request.param) as made:
        yield made


def draws(*values: float) -> Iterator[float]:
    return iter(values)


def group(*endpoints: Endpoint) -> Group:
    return Group(endpoints)


@pytest.mark.parametrize(
    ("health", "latency", "in_flight", "score"),
    [
        (1.0, 0.0, 0, 1.0),
        (1.0, 0.0, 50, 1.0),
        (1.0, 1.0, 0, 0.5),
        (1.0, 1.0, 10, 1 / 3),
        (0.5, 0.25, 0, 0.4),
        (0.0, 0.0, 0, 0.0),
    ],
)
def test_score(make: Make, health: float, latency: float, in_flight: int, score: float) -> None:
    endpoint = make("e")
    stand(endpoint, health=health, latency=latency, in_flight=in_flight)
    assert endpoint.score() == pytest.approx(score)


def test_smoothed() -> None:
    assert smoothed(0.0, 7.0) == 7.0
    assert smoothed(1.0, 0.0) == pytest.approx(0.7)
    assert smoothed(0.7, 1.0) == pytest.approx(0.79)


def test_the_better_of_two_draws_wins(make: Make) -> None:
    slow, quick, broken = make("slow"), make("quick"), make("broken")
    stand(slow, latency=1.0)
    stand(quick, latency=0.1)
    stand(broken, health=0.01)
    three = group(slow, quick, broken)
    for first, second, expected in [
        (0.0, 0.4, quick),
        (0.4, 0.0, quick),
        (0.0, 0.9, slow),
        (0.9, 0.9, broken),
        (0.99, 0.4, quick),
    ]:
        chance = draws(first, second)
        assert three.pick(0, lambda chance=chance: next(chance)) is expected


def test_what_other_workers_have_in_flight_counts() -> None:
    with table() as shared:
        mine, other = shared.column(0), shared.column(1)
        busy, idle = (Endpoint(name, state=slot(mine, name)) for name in ("busy", "idle"))
        for endpoint in (busy, idle):
            stand(endpoint, latency=0.1)
        two = group(busy, idle)
        assert two.pick(0, partial(next, draws(0.0, 0.9))) is busy
        elsewhere = slot(other, "busy")
        elsewhere.begin()
        assert (busy.state.in_flight, idle.state.in_flight) == (1, 0)
        assert two.pick(0, partial(next, draws(0.0, 0.9))) is idle
        elsewhere.end()
        assert two.pick(0, partial(next, draws(0.0, 0.9))) is busy


def test_draws_are_with_replacement_and_uniform(make: Make) -> None:
    four = group(*(make(f"e{n}") for n in range(4)))
    best = four.endpoints[3]
    for other in four.endpoints[:3]:
        stand(other, health=0.5)
    chance = random.Random(3).random
    counts = Counter(four.pick(0, chance) for _ in range(8000))
    # At least one of two draws is the best one: 1 - (3/4)^2.
    assert counts[best] / 8000 == pytest.approx(7 / 16, abs=0.02)


def test_capacity_weighs_the_draws(make: Make) -> None:
    small, big, drained = make("s", 1), make("b", 3), make("d", 0)
    three = group(small, big, drained)
    assert three.endpoints == (small, big)
    chance = random.Random(3).random
    counts = Counter(three.pick(0, chance) for _ in range(8000))
    assert counts[small] / 8000 == pytest.approx(0.25, abs=0.02)
    assert group(make("d", 0)).pick(0, chance) is None
    assert pick([group(make("d", 0))], 0, chance) is None


# Every input sets all that it reads, so it does not matter that slots outlive an input.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3), max_size=6), st.randoms(use_true_random=False))
def test_an_ejected_endpoint_is_not_picked_while_another_is_active(
    make: Make, capacities: list[int], rng: random.Random
) -> None:
    endpoints = [make(f"e{n}", capacity) for n, capacity in enumerate(capacities)]
    for endpoint in endpoints:
        stand(endpoint, ejected_until_ns=rng.choice([0, 5, 20]))
    active = {e for e in endpoints if e.capacity and e.state.ejected_until_ns <= 10}
    found = pick([Group(endpoints)], 10, rng.random)
    if active:
        assert found in active
    elif any(capacities):
        assert found is not None
        assert found.capacity
    else:
        assert found is None


def test_ejection_ends_and_health_is_restored(make: Make) -> None:
    endpoint = make("e")
    stand(endpoint, ejected_until_ns=10, health=0.1, restore_health=0.6)
    assert endpoint.is_ejected(9)
    assert endpoint.state.load()[0] == 0.1
    assert not endpoint.is_ejected(10)
    assert (endpoint.state.load()[0], endpoint.state.ejected_until_ns) == (0.6, 0)
    stand(endpoint, health=0.9)
    assert not endpoint.is_ejected(11)
    assert endpoint.state.load()[0] == 0.9
    other = make("o")
    stand(other, ejected_until_ns=10, health=0.1)
    assert not other.is_ejected(10)
    assert other.state.load()[0] == 0.1


def test_groups_are_taken_in_order_and_the_first_serves_when_all_are_out(make: Make) -> None:
    first, second = make("1"), make("2")
    groups = [group(first), group(second)]
    assert pick(groups, 0, lambda: 0.0) is first
    stand(first, ejected_until_ns=100)
    assert pick(groups, 0, lambda: 0.0) is second
    stand(second, ejected_until_ns=100)
    assert pick(groups, 0, lambda: 0.0) is first
    assert pick([group(), group(second)], 0, lambda: 0.0) is second
    assert pick([], 0, lambda: 0.0) is None
    assert pick(groups, 100, lambda: 0.0) is first


def test_rendezvous_moves_only_what_it_must(make: Make) -> None:
    endpoints = [make(f"10.0.0.{n}:80") for n in range(8)]
    values = [f"user-{n}".encode() for n in range(2000)]
    before = {value: rendezvous([Group(endpoints)], value, 0) for value in values}
    shares = Counter(before.values())
    assert min(shares.values()) > 150
    gone = endpoints[3]
    stand(gone, ejected_until_ns=10)
    for value, owner in before.items():
        now = rendezvous([Group(endpoints)], value, 0)
        assert now is not gone
        assert owner is gone or now is owner
    assert rendezvous([Group(endpoints)], values[0], 10) is before[values[0]]
    alone = [group(gone), group(endpoints[0])]
    stand(gone, ejected_until_ns=10)
    assert rendezvous(alone, b"v", 0) is endpoints[0]
    stand(endpoints[0], ejected_until_ns=10)
    assert rendezvous(alone, b"v", 0) is gone
    assert rendezvous([], b"v", 0) is None


def test_rendezvous_does_not_depend_on_the_process_or_the_order(make: Make) -> None:
    endpoints = [make(key) for key in ("a", "b", "c")]
    for value in (b"x", b"", b"long" * 100):
        one = rendezvous([Group(endpoints)], value, 0)
        other = rendezvous([Group([make(key) for key in ("c", "a", "b")])], value, 0)
        assert one is not None
        assert other is not None
        assert one.key == other.key


def test_round_robin(make: Make) -> None:
    a, b, c = (make(key) for key in "abc")
    turn = RoundRobin([a, b, c])
    assert [turn.pick(0) for _ in range(4)] == [a, b, c, a]
    stand(b, ejected_until_ns=10)
    assert [turn.pick(0) for _ in range(4)] == [c, a, c, a]
    stand(a, ejected_until_ns=10)
    stand(c, ejected_until_ns=10)
    assert [turn.pick(0) for _ in range(4)] == [b, c, a, b]
    assert [turn.pick(10) for _ in range(3)] == [c, a, b]
    assert RoundRobin([]).pick(0) is None
    assert RoundRobin([a, b], start=1).pick(10) is b


@pytest.mark.parametrize(
    ("weights", "draw", "expected"),
    [
        ([1], 0.99, 0),
        ([1, 1], 0.0, 0),
        ([1, 1], 0.49, 0),
        ([1, 1], 0.5, 1),
        ([1, 3], 0.24, 0),
        ([1, 3], 0.25, 1),
        ([0, 3], 0.0, 1),
        ([3, 0, 1], 0.75, 2),
        ([3, 0, 1], 0.999999999, 2),
        ([0, 0], 0.5, None),
        ([], 0.5, None),
    ],
)
def test_weighted(weights: list[int], draw: float, expected: int | None) -> None:
    assert WeightedChoice(list(enumerate(weights))).pick(lambda: draw) == expected


@given(st.lists(st.integers(0, 2**31), max_size=8))
def test_weighted_never_picks_a_zero(weights: list[int]) -> None:
    choice = WeightedChoice(list(enumerate(weights)))
    for draw in (0.0, 0.5, 1 - 2**-53):
        found = choice.pick(lambda draw=draw: draw)
        assert (found is None) == (sum(weights) == 0)
        assert found is None or weights[found] > 0
