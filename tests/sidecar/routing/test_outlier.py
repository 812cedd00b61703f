"""Health, ejection and the hints of a peer about how long to stay away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm.standing import Standing
from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.routing.balance import Endpoint
from sidecar.routing.outlier import (
    DEFAULT_EJECTION_NS,
    Eviction,
    Outcome,
    Outliers,
    is_unhealthy,
    retry_hint_seconds,
)
from tests.support.endpoints import Make, maker, slot, table

SECOND = 1_000_000_000
WALL = 1_790_000_000 * SECOND


@pytest.fixture(params=["local", "shared"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    with maker(request.param) as made:
        yield made


def known(endpoint: Endpoint) -> Standing:
    return endpoint.state.update(lambda standing: standing)[0]


GOOD = Outcome(200, latency_seconds=0.2)
BAD = Outcome(503)


@pytest.mark.parametrize(
    ("outcome", "unhealthy"),
    [
        (Outcome(200), False),
        (Outcome(404), False),
        (Outcome(429), False),
        (Outcome(500), True),
        (Outcome(599), True),
        (Outcome(None), True),
        (Outcome(200, grpc_status=0), False),
        (Outcome(200, grpc_status=14), True),
    ],
)
def test_default_judgement(outcome: Outcome, unhealthy: bool) -> None:
    assert is_unhealthy(outcome) is unhealthy


def test_scores_change_without_eviction(make: Make) -> None:
    endpoint, outliers = make("e"), Outliers()
    assert not outliers.record(endpoint, GOOD, 0, WALL)
    assert (known(endpoint).health, endpoint.state.latency_seconds) == (1.0, 0.2)
    outliers.record(endpoint, Outcome(200, latency_seconds=0.4), 0, WALL)
    assert endpoint.state.latency_seconds == pytest.approx(0.26)
    for _ in range(20):
        assert not outliers.record(endpoint, Outcome(None, latency_seconds=9.0), 0, WALL)
    assert known(endpoint).health < 0.01
    assert endpoint.state.latency_seconds == pytest.approx(0.26)
    assert not endpoint.is_ejected(0)


def test_first_failure_ejects_when_nothing_is_set(make: Make) -> None:
    endpoint, outliers = make("e"), Outliers(Eviction())
    assert outliers.record(endpoint, BAD, 7, WALL)
    assert known(endpoint).ejected_until_ns == 7 + DEFAULT_EJECTION_NS
    assert known(endpoint).times_ejected == 1


def test_consecutive_failures(make: Make) -> None:
    endpoint, outliers = make("e"), Outliers(Eviction(SECOND, consecutive_failures=3))
    for outcome in (BAD, BAD, GOOD, BAD, BAD):
        assert not outliers.record(endpoint, outcome, 0, WALL)
    assert outliers.record(endpoint, BAD, 0, WALL)


def test_health_before_the_failure_is_compared(make: Make) -> None:
    endpoint, outliers = make("e"), Outliers(Eviction(SECOND, health_threshold=0.6))
    # Health before: 1.0, 0.7, 0.49.
    assert not outliers.record(endpoint, BAD, 0, WALL)
    assert not outliers.record(endpoint, BAD, 0, WALL)
    assert outliers.record(endpoint, BAD, 0, WALL)


def test_either_trigger_is_enough(make: Make) -> None:
    policy = Eviction(SECOND, consecutive_failures=2, health_threshold=0.1)
    endpoint, outliers = make("e"), Outliers(policy)
    assert not outliers.record(endpoint, BAD, 0, WALL)
    assert outliers.record(endpoint, BAD, 0, WALL)


def test_time_grows_with_each_ejection_until_a_success(make: Make) -> None:
    endpoint, outliers = make("e"), Outliers(Eviction(SECOND))
    now = 0
    for times in (1, 2, 3):
        assert outliers.record(endpoint, BAD, now, WALL)
        assert known(endpoint).ejected_until_ns == now + times * SECOND
        now = known(endpoint).ejected_until_ns
    outliers.record(endpoint, GOOD, now, WALL)
    assert (known(endpoint).times_ejected, known(endpoint).failures) == (0, 0)
    assert outliers.record(endpoint, BAD, now + 1, WALL)
    assert known(endpoint).ejected_until_ns == now + 1 + SECOND


def test_failures_of_an_ejected_endpoint_change_health_alone(make: Make) -> None:
    endpoint, outliers = make("e"), Outliers(Eviction(SECOND))
    assert outliers.record(endpoint, BAD, 0, WALL)
    health = known(endpoint).health
    assert not outliers.record(endpoint, BAD, 1, WALL)
    assert known(endpoint).health < health
    assert (known(endpoint).ejected_until_ns, known(endpoint).times_ejected) == (SECOND, 1)
    assert known(endpoint).failures == 1


def test_health_after_the_return(make: Make) -> None:
    endpoint, outliers = make("e"), Outliers(Eviction(SECOND, restore_health=0.5))
    assert outliers.record(endpoint, BAD, 0, WALL)
    assert endpoint.is_ejected(SECOND - 1)
    assert not endpoint.is_ejected(SECOND)
    assert known(endpoint).health == 0.5


def test_workers_count_failures_together() -> None:
    outliers = Outliers(Eviction(SECOND, 0.5, consecutive_failures=5))
    with table() as shared:
        one, other = (Endpoint("e", state=slot(shared.column(n), "e")) for n in range(2))
        for worker in (one, other, one):
            assert not outliers.record(worker, BAD, 0, WALL)
        outliers.record(other, GOOD, 0, WALL)
        assert known(one).failures == 0
        for worker in (one, other, one, other):
            assert not outliers.record(worker, BAD, 0, WALL)
        assert outliers.record(other, BAD, 0, WALL)
        assert one.is_ejected(SECOND - 1)
        assert other.is_ejected(SECOND - 1)
        assert not one.is_ejected(SECOND)
        # The first to see that its time is over brings it back, once for all.
        outliers.record(one, GOOD, SECOND, WALL)
        health = known(one).health
        assert health == pytest.approx(0.65)
        assert not other.is_ejected(SECOND)
        assert known(other).health == health


STEPS = st.tuples(
    st.integers(0, 1),
    st.sampled_from([GOOD, BAD, Outcome(None), Outcome(429), Outcome(200, latency_seconds=3.0)]),
    st.integers(0, 3 * SECOND),
    st.booleans(),
)


@given(
    st.builds(
        Eviction,
        st.none() | st.integers(0, 4 * SECOND),
        st.none() | st.floats(0, 1),
        st.none() | st.integers(1, 4),
        st.none() | st.floats(0, 1),
    ),
    st.lists(STEPS, max_size=30),
)
def test_two_workers_decide_as_one_process_does(
    eviction: Eviction, steps: list[tuple[int, Outcome, int, bool]]
) -> None:
    outliers = Outliers(eviction)
    alone = Endpoint("e")
    now = SECOND
    with table() as shared:
        workers = [Endpoint("e", state=slot(shared.column(n), "e")) for n in range(2)]
        for number, outcome, later_ns, looks in steps:
            now += later_ns
            worker = workers[number]
            if looks:
                assert worker.is_ejected(now) == alone.is_ejected(now)
            assert outliers.record(worker, outcome, now, WALL) == outliers.record(
                alone, outcome, now, WALL
            )
            for one in workers:
                assert known(one) == known(alone)
                assert one.state.load() == alone.state.load()
                assert one.state.is_troubled == alone.state.is_troubled
                assert one.state.ejected_until_ns == alone.state.ejected_until_ns


def test_a_whole_endpoint_takes_no_lock(make: Make) -> None:
    endpoint, outliers = make("e"), Outliers(Eviction(SECOND, consecutive_failures=3))
    outliers.record(endpoint, BAD, 0, WALL)
    assert endpoint.state.is_troubled
    for _ in range(60):
        outliers.record(endpoint, GOOD, 0, WALL)
    assert not endpoint.state.is_troubled
    assert known(endpoint) == Standing()


def test_own_judgement(make: Make) -> None:
    endpoint = make("e")
    outliers = Outliers(Eviction(), lambda outcome: outcome.status == 429)
    assert not outliers.record(endpoint, BAD, 0, WALL)
    hint = Headers([(b"retry-after", b"20")])
    assert outliers.record(endpoint, Outcome(429, hint), 0, WALL)
    assert known(endpoint).ejected_until_ns == 20 * SECOND


@pytest.mark.parametrize(
    ("eviction", "status", "backoff_ns", "expected_ns"),
    [
        pytest.param(Eviction(7), 429, 5, 7, id="configured"),
        pytest.param(Eviction(0), 429, 5, 0, id="configured-zero"),
        pytest.param(Eviction(), 429, 5, 20 * SECOND, id="hint"),
        pytest.param(Eviction(), 503, 5, 5, id="hint-counts-for-429-alone"),
        pytest.param(Eviction(), 503, None, DEFAULT_EJECTION_NS, id="default"),
    ],
)
def test_base_time(
    make: Make, eviction: Eviction, status: int, backoff_ns: int | None, expected_ns: int
) -> None:
    endpoint = make("e")
    outcome = Outcome(status, Headers([(b"retry-after", b"20")]))
    assert Outliers(eviction, lambda _: True).record(endpoint, outcome, 100, WALL, backoff_ns)
    assert known(endpoint).ejected_until_ns == 100 + expected_ns


HINTS: list[tuple[str, dict[str, str], float | None]] = [
    ("none", {}, None),
    ("seconds", {"retry-after": "20"}, 20),
    ("fraction", {"retry-after": "1.5"}, 1.5),
    ("date", {"retry-after": "Mon, 21 Sep 2026 14:14:20 GMT"}, 60),
    ("past-date", {"retry-after": "Mon, 01 Jan 2024 00:00:00 GMT"}, 0),
    ("milliseconds", {"retry-after-ms": "1500"}, 1.5),
    ("seconds-win", {"retry-after-ms": "1500", "retry-after": "3"}, 3),
    ("unreadable-falls-through", {"retry-after-ms": "1500", "retry-after": "soon"}, 1.5),
    ("reset-seconds", {"x-ratelimit-reset": "30"}, 30),
    ("reset-epoch", {"x-ratelimit-reset": "1790000030"}, 30),
    ("reset-epoch-past", {"x-ratelimit-reset": "1700000000"}, 0),
    ("requests", {"x-ratelimit-reset-requests": "1m30s"}, 90),
    ("least", {"x-ratelimit-reset-requests": "1m30.5s", "x-ratelimit-reset-tokens": "6ms"}, 0.006),
    ("bare", {"x-ratelimit-reset-tokens": "12"}, 12),
    ("day", {"x-ratelimit-reset-requests-day": "2h"}, 7200),
    ("minute", {"x-ratelimit-reset-tokens-minute": "33.5"}, 33.5),
    ("reset-wins", {"x-ratelimit-reset": "9", "x-ratelimit-reset-tokens": "1s"}, 9),
    ("after-the-last-date", {"retry-after": "Fri, 31 Dec 9999 23:59:59 -0100"}, None),
    ("negative", {"retry-after": "-5"}, None),
    ("nan", {"retry-after": "nan"}, None),
    ("infinite", {"retry-after": "inf"}, None),
    ("exponent", {"retry-after": "1e9"}, None),
    ("underscore", {"retry-after": "1_0"}, None),
    ("huge", {"retry-after": "9" * 18}, 366 * 24 * 3600),
    ("too-many-digits", {"retry-after": "9" * 400}, None),
    ("empty", {"retry-after": "", "x-ratelimit-reset-tokens": ""}, None),
    ("half-a-duration", {"x-ratelimit-reset-tokens": "1m x"}, None),
]


@pytest.mark.parametrize(
    ("headers", "expected"), [pytest.param(*row[1:], id=row[0]) for row in HINTS]
)
def test_retry_hint(headers: dict[str, str], expected: float | None) -> None:
    fields = Headers((name.encode(), value.encode()) for name, value in headers.items())
    assert retry_hint_seconds(fields, WALL) == (
        None if expected is None else pytest.approx(expected)
    )


@given(
    st.sampled_from([b"retry-after", b"x-ratelimit-reset", b"x-ratelimit-reset-tokens"]),
    st.binary(max_size=80) | st.text("0123456789 :,.+-MonJanGMT", max_size=40).map(str.encode),
)
def test_any_hint_is_bounded_or_none(name: bytes, value: bytes) -> None:
    hint = retry_hint_seconds(Headers([(name, value)]), WALL)
    assert hint is None or 0 <= hint <= 366 * 24 * 3600


def test_policy() -> None:
    payload = {"duration": "1m30s", "restoreHealth": 0.5, "consecutiveFailures": 2}
    assert Eviction.from_policy(payload, "p") == Eviction(90 * SECOND, 0.5, 2, None)
    assert Eviction.from_policy({"consecutiveFailures": 0}, "p") == Eviction()


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"duration": "soon"}, "p.duration"),
        ({"restoreHealth": 1.5}, "p.restoreHealth"),
        ({"healthThreshold": -0.1}, "p.healthThreshold"),
        ({"consecutiveFailures": -1}, "p.consecutiveFailures"),
    ],
)
def test_refused_policy(payload: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Eviction.from_policy(payload, "p")
    assert caught.value.path == path
