"""localRateLimit on a real table: what passes, what the client is told, what is charged when."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shm.rates import RateTable
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request
from sidecar.policies.order import make
from tests.support.clock import HeldClock
from tests.support.messages import request, response, services

SECOND = {"maxTokens": 2, "tokensPerFill": 1, "fillInterval": "1s"}
CALLER = 'request.headers["x-user"]'


class Limits:
    """Policies over one table and one clock."""

    def __init__(self, table: RateTable) -> None:
        self.table = table
        self.clock = HeldClock()

    def policy(self, payload: object, place: str = "route/a") -> Any:
        made = services(rates=self.table, clock=self.clock, attachment=place)
        return make("localRateLimit", payload, made)

    def labels(self) -> list[str]:
        return sorted(row.label.decode() for row in self.table.rows(self.clock.monotonic_ns()))

    def level(self) -> int:
        (row,) = self.table.rows(self.clock.monotonic_ns())
        return row.level


@pytest.fixture
def limits() -> Iterator[Limits]:
    table = RateTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", 1000)
    yield Limits(table)
    table.close()


def refusal(policy: Any, made: Request | None = None) -> RequestError | None:
    try:
        assert policy.on_request(made or request()) is None
    except RequestError as error:
        return error
    return None


def passes(policy: Any, made: Request | None = None) -> bool:
    error = refusal(policy, made)
    if error is not None:
        assert (error.status, error.code) == (429, "RateLimit")
        assert error.message == "rate limit exceeded"
    return error is None


def told(made: Request) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in made.response_headers}


def by(user: str) -> Request:
    return request(headers={"x-user": user})


def end(made: Request, answer: object = None) -> None:
    """What the exchange does when it is over."""
    endings, made.endings = made.endings, ()
    for one in endings:
        one(made, answer)  # type: ignore[arg-type]


# --- requests ---------------------------------------------------------------------------------


def test_as_many_pass_as_the_bucket_holds_and_each_fill_lets_more_in(limits):
    policy = limits.policy([SECOND])
    assert [passes(policy) for _ in range(3)] == [True, True, False]
    limits.clock.pass_seconds(1)
    assert [passes(policy) for _ in range(2)] == [True, False]
    limits.clock.pass_seconds(60)
    assert [passes(policy) for _ in range(3)] == [True, True, False]


def test_headers_tell_what_is_left(limits):
    policy = limits.policy([{**SECOND, "maxTokens": 5}])
    first = request()
    policy.on_request(first)
    assert told(first) == {
        "x-ratelimit-limit": "5",
        "x-ratelimit-remaining": "4",
        "x-ratelimit-reset": "1",
    }


def test_reset_is_rounded_up_so_that_who_waits_has_waited_long_enough(limits):
    policy = limits.policy([{**SECOND, "fillInterval": "10s"}])
    passes(policy)
    limits.clock.pass_seconds(2.5)
    made = request()
    policy.on_request(made)
    assert told(made)["x-ratelimit-reset"] == "8"
    limits.clock.pass_seconds(8)
    assert passes(policy)


def test_a_refusal_says_when_to_come_again(limits):
    policy = limits.policy([{**SECOND, "fillInterval": "10s", "cost": "2"}])
    assert passes(policy)
    refused = request()
    with pytest.raises(RequestError) as caught:
        policy.on_request(refused)
    # One token comes in 10 s, the second 10 s later.
    assert caught.value.headers == ((b"retry-after", b"20"),)
    assert told(refused) == {
        "x-ratelimit-limit": "2",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "20",
    }


def test_all_buckets_give_or_none_does(limits):
    tight = {**SECOND, "maxTokens": 1, "fillInterval": "1h"}
    policy = limits.policy([{**SECOND, "maxTokens": 3, "fillInterval": "1h"}, tight])
    assert [passes(policy) for _ in range(9)] == [True] + [False] * 8
    # The roomy one lost a token to the one request that passed, and to no other.
    assert sorted(row.level for row in limits.table.rows(limits.clock.monotonic_ns())) == [0, 2]


def test_headers_are_those_of_the_most_constrained_bucket(limits):
    day = {"maxTokens": 1000, "tokensPerFill": 1000, "fillInterval": "24h"}
    policy = limits.policy([day, {**SECOND, "maxTokens": 10}])
    made = request()
    policy.on_request(made)
    assert told(made)["x-ratelimit-limit"] == "10"
    policy = limits.policy([{**day, "maxTokens": 1, "tokensPerFill": 1}, SECOND], "route/b")
    passes(policy)
    refused = request()
    assert not passes(policy, refused)
    assert told(refused)["x-ratelimit-limit"] == "1"


def test_a_tighter_limit_told_before_is_not_hidden(limits):
    made = request()
    made.response_headers.append((b"x-ratelimit-remaining", b"0"))
    limits.policy([SECOND]).on_request(made)
    assert told(made) == {"x-ratelimit-remaining": "0"}
    made = request()
    made.response_headers += [(b"x-ratelimit-remaining", b"900"), (b"x-other", b"1")]
    limits.policy([SECOND]).on_request(made)
    assert told(made)["x-ratelimit-remaining"] == "0"
    assert made.response_headers[0] == (b"x-other", b"1")


COSTS = {
    "number": ('int(request.headers["x-n"])', {"x-n": "3"}, 7),
    "fraction": ("2.2", {}, 7),
    "zero": ("0", {}, 10),
    "negative counts as one": ("-5", {}, 9),
    "text counts as one": ("'7'", {}, 9),
    "error counts as one": ('int(request.headers["x-n"])', {"x-n": "many"}, 9),
    "boolean counts as one": ("true", {}, 9),
    "infinite counts as one": ("1.0 / 0.0", {}, 9),
}


@pytest.mark.parametrize(("cost", "headers", "left"), COSTS.values(), ids=COSTS.keys())
def test_cost_of_requests(limits, cost, headers, left):
    policy = limits.policy([{**SECOND, "maxTokens": 10, "cost": cost}])
    made = request(headers=headers)
    policy.on_request(made)
    assert told(made)["x-ratelimit-remaining"] == str(left)


def test_what_costs_more_than_the_bucket_holds_is_not_told_to_come_again(limits):
    policy = limits.policy([{**SECOND, "cost": "3"}])
    with pytest.raises(RequestError) as caught:
        policy.on_request(request())
    assert caught.value.headers == ()
    assert passes(limits.policy([SECOND]))


# --- keys -------------------------------------------------------------------------------------


def test_each_value_has_its_bucket(limits):
    policy = limits.policy([{**SECOND, "key": CALLER}])
    for user in ("ann", "bob"):
        assert [passes(policy, by(user)) for _ in range(3)] == [True, True, False]
    assert limits.labels() == ["route/a[0] ann", "route/a[0] bob"]


def test_values_of_several_expressions_do_not_run_together(limits):
    policy = limits.policy([{**SECOND, "key": [CALLER, 'request.headers["x-team"]']}])
    for user, team in (("a", "bc"), ("ab", "c")):
        made = request(headers={"x-user": user, "x-team": team})
        policy.on_request(made)
        assert told(made)["x-ratelimit-remaining"] == "1"


MISSING = {
    "shared": [True, True, False],
    "reject": [False, False, False],
    "skip": [True, True, True],
}


@pytest.mark.parametrize(("mode", "expected"), MISSING.items())
def test_requests_without_a_key(limits, mode, expected):
    policy = limits.policy([{**SECOND, "key": CALLER, "onMissingKey": mode}])
    assert [passes(policy) for _ in range(3)] == expected
    assert passes(policy, by("ann"))


def test_without_a_key_all_share_one_bucket_unless_told_otherwise(limits):
    policy = limits.policy([{**SECOND, "key": [CALLER, "jwt.sub"]}])
    assert [passes(policy, by(user)) for user in "abc"] == [True, True, False]
    assert limits.labels() == ["route/a[0] (no key)"]


@pytest.mark.parametrize("size", [10, 4000])
def test_long_values_are_told_apart(limits, size):
    policy = limits.policy([{**SECOND, "key": CALLER}])
    assert [passes(policy, by("x" * size + end)) for end in "aaabbb"] == [True, True, False] * 2


SECRETS = {
    "authorization": ('request.headers["authorization"]', {"authorization": "s3cret"}),
    "letter case": ('request.headers["X-API-Key"]', {"x-api-key": "s3cret"}),
    "cookie": ('request.headers["cookie"]', {"cookie": "s3cret"}),
    "computed name": ('request.headers["x-" + "user"]', {"x-user": "s3cret"}),
    "query": ("request.uri", {}),
}


@pytest.mark.parametrize(("key", "headers"), SECRETS.values(), ids=SECRETS.keys())
def test_a_credential_is_stored_as_a_hash(limits, key, headers):
    policy = limits.policy([{**SECOND, "key": key}], place="r")
    assert passes(policy, request(target="/?token=s3cret", headers=headers))
    (label,) = limits.labels()
    assert "s3cret" not in label
    assert label.startswith("r[0] #")
    assert len(label) == len("r[0] #") + 8


def test_a_label_holds_no_control_characters(limits):
    policy = limits.policy([{**SECOND, "key": "'a\\n\\x1b[31mb'"}], place="r")
    assert passes(policy)
    assert all(label.isprintable() for label in limits.labels())


# --- identity ---------------------------------------------------------------------------------


def test_the_same_place_has_the_same_bucket_and_another_place_another(limits):
    assert [passes(limits.policy([SECOND])) for _ in range(3)] == [True, True, False]
    assert passes(limits.policy([SECOND], "route/b"))


CHANGES = {
    # What is left of the old bucket after 4 of 10 were taken, under the new limit.
    "more": ({"maxTokens": 20}, 6),
    "less": ({"maxTokens": 3}, 3),
    "faster": ({"tokensPerFill": 5}, 6),
    "interval": ({"fillInterval": "10s"}, 6),
}


@pytest.mark.parametrize(("change", "left"), CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_limit_keeps_the_level(limits, change, left):
    hour = {"maxTokens": 10, "tokensPerFill": 1, "fillInterval": "1h"}
    old = limits.policy([hour])
    assert [passes(old) for _ in range(4)] == [True] * 4
    new = limits.policy([{**hour, **change}])
    assert [passes(new) for _ in range(left + 1)] == [True] * left + [False]


def test_a_full_bucket_stays_full_under_another_limit(limits):
    old = limits.policy([SECOND])
    assert passes(old)
    limits.clock.pass_seconds(5)
    new = limits.policy([{**SECOND, "maxTokens": 5}])
    assert [passes(new) for _ in range(6)] == [True] * 5 + [False]


# --- alternatives -----------------------------------------------------------------------------


def test_the_first_alternative_whose_condition_is_true_acts(limits):
    entries = [
        {"condition": f"{CALLER} == 'ann'", **SECOND, "maxTokens": 1},
        {"condition": f"{CALLER} == 'bob'", **SECOND, "maxTokens": 2},
    ]
    policy = limits.policy({"conditional": entries})
    assert [passes(policy, by("ann")) for _ in range(2)] == [True, False]
    assert [passes(policy, by("bob")) for _ in range(3)] == [True, True, False]
    assert all(passes(policy, by("eve")) for _ in range(5))


# --- tokens -----------------------------------------------------------------------------------

TOKENS = {"maxTokens": 10, "tokensPerFill": 10, "fillInterval": "1m", "type": "tokens"}
BY_HEADER = {**TOKENS, "cost": 'int(response.headers["x-tokens"])'}


def answered(policy: Any, used: str) -> bool:
    made = request()
    if not passes(policy, made):
        return False
    answer = response(headers={"x-tokens": used})
    policy.on_response(made, answer)
    end(made, answer)
    return True


def test_tokens_are_charged_after_the_response(limits):
    policy = limits.policy([BY_HEADER])
    assert answered(policy, "4")
    assert limits.level() == 6
    assert answered(policy, "6")
    assert not answered(policy, "1")


def test_debt_is_carried(limits):
    policy = limits.policy([BY_HEADER])
    assert answered(policy, "25")
    assert limits.level() == -15
    limits.clock.pass_seconds(60)
    assert not passes(policy)
    limits.clock.pass_seconds(60)
    assert passes(policy)


def test_debt_is_forgiven_where_it_is_to_be(limits):
    policy = limits.policy([{**BY_HEADER, "debt": "forgive"}])
    assert answered(policy, "25")
    assert limits.level() == 0
    limits.clock.pass_seconds(60)
    assert passes(policy)


def test_usage_of_a_model_is_charged_at_the_end_and_once(limits):
    policy = limits.policy([TOKENS])
    assert policy.on_response is None
    made = request()
    assert passes(policy, made)
    (ending,) = made.endings
    made.state["llm"] = {"totalTokens": 4}
    end(made, response())
    assert limits.level() == 6
    ending(made, response())
    assert limits.level() == 6


def test_usage_is_charged_also_when_the_client_has_left(limits):
    made = request()
    assert passes(limits.policy([TOKENS]), made)
    made.state["llm"] = {"totalTokens": 4}
    end(made, None)
    assert limits.level() == 6


def test_a_response_without_a_cost_is_not_charged(limits):
    policy = limits.policy([BY_HEADER])
    for used in ("many", "-5", ""):
        assert answered(policy, used)
    made = request()
    assert passes(policy, made)
    end(made, None)
    assert limits.level() == 10


def test_cost_by_the_body_asks_for_it(limits):
    policy = limits.policy([{**TOKENS, "cost": "json(response.body).usage"}])
    assert policy.needs_response_body
    made = request()
    assert passes(policy, made)
    policy.on_response(made, response(body=b'{"usage": 3}'))
    assert limits.level() == 7


def test_requests_and_tokens_side_by_side(limits):
    policy = limits.policy([{**SECOND, "fillInterval": "1h"}, BY_HEADER])
    assert answered(policy, "10")
    assert not answered(policy, "0")
    levels = sorted(row.level for row in limits.table.rows(limits.clock.monotonic_ns()))
    assert levels == [0, 1]


def test_only_policies_without_a_response_hook_are_guards(limits):
    assert limits.policy([SECOND]).is_guard
    assert limits.policy([TOKENS]).is_guard
    assert not limits.policy([BY_HEADER]).is_guard
    assert not limits.policy([{**SECOND, "key": "request.body"}]).is_guard


# --- a full table -----------------------------------------------------------------------------


def full(limits: Limits, policy: Any) -> str:
    """A user for whom there is no room any more."""
    for number in range(20_000):
        error = refusal(policy, by(f"u{number}"))
        if limits.table.stats().refusals:
            assert passes(policy, by("u0"))
            if error is not None:
                assert (error.status, error.code) == (500, "RateLimit")
                assert error.message == "rate limit failed"
            return f"u{number}"
    raise AssertionError("the table has no end")


def test_a_full_table_refuses_new_keys_and_keeps_old_ones(limits, caplog):
    policy = limits.policy([{**SECOND, "fillInterval": "1h", "key": CALLER}])
    with caplog.at_level(logging.ERROR):
        user = full(limits, policy)
        for _ in range(3):
            with pytest.raises(RequestError):
                policy.on_request(by(user))
    assert [record.message for record in caplog.records] == [
        "the table of rate limits is full (config.state.rateKeys)"
    ]
    assert not passes(policy, by("u0"))


def test_open_failure_mode_lets_new_keys_through_but_not_past_other_buckets(limits):
    hour = {**SECOND, "fillInterval": "1h"}
    keyed = {**hour, "key": CALLER, "failureMode": "failOpen"}
    both = limits.policy([keyed, hour])
    assert passes(both, by("early"))
    alone = limits.policy([keyed])
    user = full(limits, alone)
    assert all(passes(alone, by(user)) for _ in range(9))
    assert [passes(both, by(user)) for _ in range(2)] == [True, False]


@contextmanager
def held(table: RateTable) -> Iterator[None]:
    """A process that was stopped while it held every lock of the table."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        for stripe in table.table.stripes:
            stripe.lock.__enter__()
        os.write(writer, b"x")
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.read(reader, 1)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_a_table_that_does_not_answer_is_a_matter_of_the_failure_mode(limits):
    closed = limits.policy([SECOND])
    opened = limits.policy([{**SECOND, "failureMode": "failOpen"}])
    with held(limits.table):
        with pytest.raises(RequestError) as caught:
            closed.on_request(request())
        assert passes(opened)
    assert (caught.value.status, caught.value.message) == (500, "rate limit failed")
    # Who held the locks is dead: they are taken over.
    assert [passes(closed) for _ in range(3)] == [True, True, False]


# --- configuration ----------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, str]] = {
    "no bucket": ([], "localRateLimit"),
    "too many": ([SECOND] * 17, "localRateLimit"),
    "fill above capacity": ([{**SECOND, "tokensPerFill": 3}], "localRateLimit[0]"),
    "no capacity": ([{**SECOND, "maxTokens": 0}], "localRateLimit[0].maxTokens"),
    "no fill": ([SECOND, {**SECOND, "tokensPerFill": 0}], "localRateLimit[1].tokensPerFill"),
    "too much": ([{**SECOND, "maxTokens": 2**53 + 1}], "localRateLimit[0].maxTokens"),
    "no time": ([{**SECOND, "fillInterval": "0s"}], "localRateLimit[0].fillInterval"),
    "bad time": ([{**SECOND, "fillInterval": "soon"}], "localRateLimit[0].fillInterval"),
    "bad key": ([{**SECOND, "key": "1 +"}], "localRateLimit[0].key"),
    "no key": ([{**SECOND, "key": []}], "localRateLimit[0].key"),
    "response in key": ([{**SECOND, "key": "response.code"}], "localRateLimit[0].key"),
    "response in cost of requests": (
        [{**SECOND, "cost": "response.code"}],
        "localRateLimit[0].cost",
    ),
    "body beside usage": (
        [{**TOKENS, "cost": "llm.totalTokens + size(response.body)"}],
        "localRateLimit[0].cost",
    ),
    "debt of requests": ([{**SECOND, "debt": "carry"}], "localRateLimit[0]"),
    "bad condition": (
        {"conditional": [{"condition": "1 +", **SECOND}]},
        "localRateLimit.conditional[0].condition",
    ),
    "bad key of an alternative": (
        {"conditional": [{"condition": "true", **SECOND, "key": "1 +"}]},
        "localRateLimit.conditional[0].key",
    ),
}


@pytest.mark.parametrize(("payload", "path"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_its_path(payload, path):
    with pytest.raises(ConfigError) as caught:
        make("localRateLimit", payload, services())
    assert caught.value.path == path


def known(name: object) -> Request:
    made = request()
    made.state["apiKey"] = {"name": name}
    return made


def test_buckets_of_one_key_are_those_of_its_values(limits: Limits) -> None:
    both = [
        SECOND | {"key": "apiKey.name"},
        SECOND | {"key": "apiKey.name", "type": "tokens", "maxTokens": 9},
    ]
    policy = limits.policy(both)
    for name in ("a", "a", "b", 1, 1.0, "1"):
        assert passes(policy, known(name)), name
    assert limits.labels() == [
        *("route/a[0] 1", "route/a[0] 1.0", "route/a[0] a", "route/a[0] b"),
        *("route/a[1] 1", "route/a[1] 1.0", "route/a[1] a", "route/a[1] b"),
    ]
    assert not passes(policy, known("a"))
    assert passes(policy, known("b"))


def test_what_a_key_misses_is_each_buckets_own_matter(limits: Limits) -> None:
    both = [
        SECOND | {"key": "apiKey.name", "onMissingKey": "skip"},
        SECOND | {"key": "apiKey.name", "type": "tokens"},
    ]
    policy = limits.policy(both)
    assert passes(policy, request())
    assert limits.labels() == ["route/a[1] (no key)"]
    assert passes(policy, known("a"))
    assert limits.labels() == ["route/a[0] a", "route/a[1] (no key)", "route/a[1] a"]
