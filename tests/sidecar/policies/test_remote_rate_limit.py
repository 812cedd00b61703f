"""What is asked, what is made of the answer, and what is told afterwards; nothing is sent here.

Source: spec/config.md section 3.10; spec/llm.md section 4.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.http.message import Request, Response
from sidecar.policies import ratelimit
from sidecar.policies._pb import ratelimit_pb2 as pb
from sidecar.policies.base import Anticipating
from sidecar.policies.callouts import Callout
from sidecar.policies.order import REQUEST_ORDER, RESPONSE_ORDER, make
from tests.support.messages import request, response, services
from tests.support.rls import Answer, Asked, Question, asked_of

BASE: dict[str, Any] = {"domain": "d", "host": "127.0.0.1:1"}
GRPC = {"content-type": "application/grpc"}


class Service:
    """Callouts and Callout in one: answers from memory."""

    label = "rls.test:81"

    def __init__(self, answer: Answer | Exception | None = None, *, has_room: bool = True) -> None:
        self.answer = answer or Answer()
        self.has_room = has_room
        self.asked: list[Question] = []
        self.later: list[Question] = []
        self.references: list[Mapping[str, Any]] = []

    def resolve(
        self, reference: Mapping[str, Any], policies: Mapping[str, Any], subtype: str
    ) -> Callout:
        assert subtype == "RateLimit"
        self.references.append(reference)
        return self

    async def send(
        self, request: Request, timeout_seconds: float, limit_bytes: int = 0
    ) -> Response:
        raise AssertionError("a rate limit service speaks gRPC")

    async def unary(
        self,
        path: str,
        message: bytes,
        timeout_seconds: float,
        of: Request,
        metadata: tuple[tuple[bytes, bytes], ...] = (),
    ) -> bytes:
        assert path == "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
        self.asked.append(asked_of(message))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer.encoded()

    def unary_later(self, path: str, message: bytes, timeout_seconds: float, of: Request) -> bool:
        assert path == ratelimit.PATH
        if self.has_room:
            self.later.append(asked_of(message))
        return self.has_room


def limiter(service: Service, payload: dict[str, Any]) -> Any:
    return make("remoteRateLimit", payload, replace(services(), callouts=service))


def by(*entries: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"entries": [{"key": key, "value": value} for key, value in entries], **more}


def limits(*descriptors: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**BASE, "descriptors": list(descriptors), **more}


async def ask(
    payload: dict[str, Any], made: Request, answer: Answer | Exception | None = None
) -> Service:
    service = Service(answer)
    assert await limiter(service, payload).on_request(made) is None
    return service


def end(made: Request, answer: Response | None) -> None:
    """As the pipeline ends an exchange."""
    endings, made.endings = made.endings, ()
    for one in endings:
        one(made, answer)


# --- the question -------------------------------------------------------------------------


async def test_descriptors_are_asked_for_in_one_call():
    payload = limits(
        by(("method", "request.method"), ("user", "request.headers['x-user']")),
        by(("static", "'s'"), cost="2", limitOverride="{'unit': 'hour', 'requestsPerUnit': 7}"),
        by(("t", "request.path"), type="tokens"),
    )
    service = await ask(payload, request("PUT", "/a?b", {"x-user": "ann"}))
    (asked,) = service.asked
    assert asked == Question(
        "d",
        (
            Asked((("method", "PUT"), ("user", "ann"))),
            Asked((("static", "s"),), 2, (3, 7)),
            Asked((("t", "/a"),), 0),
        ),
    )


async def test_a_descriptor_without_a_value_is_left_out():
    payload = limits(
        by(("method", "request.method"), ("user", "request.headers['x-user']")),
        by(("n", "null")),
        by(("path", "request.path")),
    )
    service = await ask(payload, request())
    assert [one.entries for one in service.asked[0].descriptors] == [(("path", "/"),)]


async def test_without_any_descriptor_nobody_is_asked():
    service = await ask(limits(by(("u", "request.headers['x-user']"))), request())
    assert service.asked == []


async def test_octets_that_are_no_text_do_not_escape_the_limit():
    payload = limits(by(("u", "request.headers['x-user']")))
    service = await ask(payload, request(headers={"x-user": "a\xffb"}))
    assert len(service.asked[0].descriptors) == 1


@pytest.mark.parametrize(
    ("cost", "hits"),
    [
        ("int(request.headers['x-n'])", 5),
        ("0", 0),
        ("1.5", 2),
        ("-1", None),
        ("'many'", None),
        ("request.headers['x-none']", None),
    ],
)
async def test_cost_of_requests_is_the_default_when_it_is_no_amount(cost, hits):
    payload = limits(by(("a", "'b'"), cost=cost))
    service = await ask(payload, request(headers={"x-n": "5"}))
    assert service.asked[0].descriptors[0].hits == hits


async def test_an_override_that_is_no_limit_leaves_the_services_own():
    payload = limits(by(("a", "'b'"), limitOverride="request.headers['x-none']"))
    service = await ask(payload, request())
    assert service.asked[0].descriptors[0].override is None


async def test_a_body_may_be_counted_by():
    payload = limits(by(("size", "string(size(request.body))")))
    policy = limiter(Service(), payload)
    assert policy.needs_request_body
    service = await ask(payload, request("POST", body=b"abc"))
    assert service.asked[0].descriptors[0].entries == (("size", "3"),)


async def test_the_first_alternative_that_applies_is_asked():
    def entry(host: str, condition: str | None = None) -> dict[str, Any]:
        own = {"condition": condition} if condition else {}
        return {**own, "domain": host, "host": f"{host}:1", "descriptors": [by(("a", "'b'"))]}

    service = Service()
    alternatives = [entry("put", "request.method == 'PUT'"), entry("x", "request.nonsense == 1")]
    policy = limiter(service, {"conditional": alternatives})
    await policy.on_request(request("GET"))
    assert service.asked == []
    await policy.on_request(request("PUT"))
    assert [one.domain for one in service.asked] == ["put"]
    policy = limiter(service, {"conditional": [*alternatives, entry("rest")]})
    await policy.on_request(request("GET"))
    assert [one.domain for one in service.asked] == ["put", "rest"]
    assert {"host": "put:1"} in service.references


# --- the answer ---------------------------------------------------------------------------


async def test_ok_tells_the_client_where_it_stands():
    made = request(headers={"x-tier": "gold", "x_tier": "gold", "x-other": "1"})
    answer = Answer(
        statuses=[(100, 50, 60), (10, 3, 7)],
        response_headers=[("X-Told", "yes")],
        request_headers=[("x-tier", "free"), ("x-tier", "second")],
    )
    await ask(limits(by(("a", "'b'"))), made, answer)
    assert made.response_headers == [
        (b"x-told", b"yes"),
        (b"x-ratelimit-limit", b"10"),
        (b"x-ratelimit-remaining", b"3"),
        (b"x-ratelimit-reset", b"7"),
    ]
    # What the client called itself is gone, in both spellings.
    assert list(made.headers) == [
        (b"x-other", b"1"),
        (b"x-tier", b"free"),
        (b"x-tier", b"second"),
    ]


@pytest.mark.parametrize(("local", "told"), [(b"2", b"2"), (b"4", b"3"), (b"3", b"3")])
async def test_the_tighter_of_two_limits_is_told(local, told):
    made = request()
    made.response_headers += [
        (b"x-ratelimit-limit", b"99"),
        (b"x-ratelimit-remaining", local),
        (b"x-ratelimit-reset", b"1"),
    ]
    await ask(limits(by(("a", "'b'"))), made, Answer(statuses=[(10, 3, 7)]))
    assert len(made.response_headers) == 3
    assert dict(made.response_headers)[b"x-ratelimit-remaining"] == told


async def test_the_services_own_headers_go_before_ours():
    made = request()
    own = [("x-ratelimit-remaining", "mine")]
    await ask(limits(by(("a", "'b'"))), made, Answer(statuses=[(10, 3, 7)], response_headers=own))
    assert made.response_headers == [(b"x-ratelimit-remaining", b"mine")]


async def test_over_limit_is_429():
    made = request()
    over = Answer(pb.RateLimitResponse.OVER_LIMIT, [(10, 0, 7)], [("x-why", "plan")])
    policy = limiter(Service(over), limits(by(("a", "'b'"))))
    with pytest.raises(RequestError) as caught:
        await policy.on_request(made)
    assert (caught.value.status, caught.value.code) == (429, "RateLimit")
    assert caught.value.message == "rate limit exceeded"
    told = dict(made.response_headers)
    assert told[b"x-why"] == b"plan"
    assert told[b"x-ratelimit-remaining"] == b"0"
    assert told[b"retry-after"] == b"7"


async def test_over_limit_in_the_services_words():
    body = b'{"error": "slow down"}'
    over = Answer(pb.RateLimitResponse.OVER_LIMIT, body=body)
    policy = limiter(Service(over), limits(by(("a", "'b'"))))
    answer = await policy.on_request(request())
    assert (answer.status, answer.reason) == (429, "RateLimit")
    assert await answer.body.read() == body
    # A gRPC client reads a status, not a body.
    with pytest.raises(RequestError):
        await policy.on_request(request(headers=GRPC))


FAILURES: dict[str, Answer | Exception] = {
    "failed": UpstreamError(503, "UpstreamFailure", "upstream call failed: no"),
    "undecided": Answer(code=0),
    "no-message": Answer(raw=b"\xff\xff"),
}


@pytest.mark.parametrize("mode", [None, "failClosed", "FailClosed"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_failing_closed_is_the_default(mode, failure):
    own = {"failureMode": mode} if mode else {}
    policy = limiter(Service(failure), limits(by(("a", "'b'"), type="tokens", cost="1"), **own))
    made = request()
    with pytest.raises(RequestError) as caught:
        await policy.on_request(made)
    assert (caught.value.status, caught.value.code) == (500, "RateLimit")
    assert caught.value.message == "rate limit failed"
    assert made.endings == ()


@pytest.mark.parametrize("mode", ["failOpen", "FailOpen"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_failing_open_lets_pass(mode, failure):
    made = request()
    await ask(limits(by(("a", "'b'")), failureMode=mode), made, failure)
    assert made.response_headers == []


async def test_a_service_that_is_down_does_not_fill_the_log(caplog):
    failure = UpstreamError(503, "UpstreamFailure", "connection refused")
    policy = limiter(Service(failure), limits(by(("a", "'b'")), failureMode="failOpen"))
    for _ in range(5):
        await policy.on_request(request())
    (record,) = caplog.records
    assert "rls.test:81" in record.getMessage()
    assert "connection refused" in record.getMessage()


# --- what is told afterwards --------------------------------------------------------------


async def test_tokens_are_told_once_at_the_end():
    made = request()
    cost = "llm.outputTokens * 1000 + llm.inputTokens"
    token = by(("t", "'x'"), type="tokens", cost=cost, limitOverride="{'unit': 'day', 'n': 1}")
    service = await ask(limits(token, by(("r", "'y'"))), made)
    made.state["llm"] = {"inputTokens": 17, "outputTokens": 23}
    assert service.later == []
    end(made, response())
    end(made, response())
    assert service.later == [Question("d", (Asked((("t", "x"),), 23017),))]


async def test_tokens_default_to_the_total():
    made = request()
    service = await ask(limits(by(("t", "'x'"), type="tokens")), made)
    made.state["llm"] = {"totalTokens": 40}
    end(made, None)
    assert service.later[0].descriptors[0].hits == 40


@pytest.mark.parametrize("cost", ["0", "-5", "llm.totalTokens", "response.code"])
async def test_nothing_used_is_nothing_told(cost):
    made = request()
    service = await ask(limits(by(("t", "'x'"), type="tokens", cost=cost)), made)
    end(made, None)
    assert service.later == []


async def test_a_cost_in_the_response_is_read_before_policies_change_it():
    payload = limits(
        by(("t", "'x'"), type="tokens", cost="int(response.headers['x-cost'])"),
        by(("late", "'y'"), type="tokens", cost="3"),
    )
    service = Service()
    policy = limiter(service, payload)
    made, answer = request(), response(headers={"x-cost": "9"})
    await policy.on_request(made)
    policy.on_response(made, answer)
    answer.headers.remove_all(b"x-cost")
    end(made, answer)
    assert [one.hits for one in service.later[0].descriptors] == [9, 3]


async def test_a_cost_in_the_body_holds_it():
    payload = limits(by(("t", "'x'"), type="tokens", cost="json(response.body).usage"))
    service = Service()
    policy = limiter(service, payload)
    assert policy.needs_response_body
    made, answer = request(), response(body=b'{"usage": 12}')
    await policy.on_request(made)
    policy.on_response(made, answer)
    end(made, answer)
    assert service.later[0].descriptors[0].hits == 12


async def test_who_is_refused_has_used_nothing():
    service = Service(Answer(pb.RateLimitResponse.OVER_LIMIT))
    policy = limiter(service, limits(by(("t", "'x'"), type="tokens", cost="1")))
    made = request()
    with pytest.raises(RequestError):
        await policy.on_request(made)
    end(made, response())
    assert service.later == []


async def test_who_passed_a_service_that_failed_is_told_of():
    failure = UpstreamError(503, "UpstreamFailure", "no")
    payload = limits(by(("t", "'x'"), type="tokens", cost="1"), failureMode="failOpen")
    made = request()
    service = await ask(payload, made, failure)
    end(made, response())
    assert len(service.later) == 1


async def anticipate(made: Request) -> list[Response | None]:
    """As the gateway does for a model that counts prompts."""
    return [
        await ending.anticipate(made) for ending in made.endings if isinstance(ending, Anticipating)
    ]


async def test_an_estimate_is_asked_for_and_the_rest_is_told():
    made = request()
    service = await ask(limits(by(("t", "'x'"), type="tokens"), by(("r", "'y'"))), made)
    made.state["llm"] = {"totalTokens": 9}
    assert await anticipate(made) == [None]
    assert service.asked[1] == Question("d", (Asked((("t", "x"),), 9),))
    # Another provider is asked: it was taken already.
    assert await anticipate(made) == [None]
    assert len(service.asked) == 2
    made.state["llm"] = {"totalTokens": 40}
    end(made, response())
    assert service.later == [Question("d", (Asked((("t", "x"),), 31),))]


async def test_an_estimate_that_was_too_high_stays_counted():
    made = request()
    service = await ask(limits(by(("t", "'x'"), type="tokens")), made)
    made.state["llm"] = {"totalTokens": 9}
    await anticipate(made)
    made.state["llm"] = {"totalTokens": 4}
    end(made, response())
    assert service.later == []


async def test_an_estimate_above_what_is_left_is_refused():
    made = request()
    service = await ask(limits(by(("t", "'x'"), type="tokens")), made)
    made.state["llm"] = {"totalTokens": 9}
    service.answer = Answer(pb.RateLimitResponse.OVER_LIMIT)
    with pytest.raises(RequestError) as caught:
        await anticipate(made)
    assert caught.value.status == 429
    made.state["llm"] = {}
    end(made, None)
    assert service.later == []


async def test_a_service_that_failed_has_taken_no_estimate():
    made = request()
    payload = limits(by(("t", "'x'"), type="tokens"), failureMode="failOpen")
    service = await ask(payload, made)
    made.state["llm"] = {"totalTokens": 9}
    service.answer = UpstreamError(503, "UpstreamFailure", "no")
    assert await anticipate(made) == [None]
    end(made, response())
    assert service.later == [Question("d", (Asked((("t", "x"),), 9),))]


async def test_a_full_queue_is_logged(caplog):
    service = Service(has_room=False)
    policy = limiter(service, limits(by(("t", "'x'"), type="tokens", cost="1")))
    for _ in range(3):
        made = request()
        await policy.on_request(made)
        end(made, response())
    (record,) = caplog.records
    assert "tokens go uncounted" in record.getMessage()


def test_only_costs_of_the_response_need_a_response_hook():
    assert limiter(Service(), limits(by(("a", "'b'")))).on_response is None
    token = by(("a", "'b'"), type="tokens")
    assert limiter(Service(), limits(token)).on_response is None
    token["cost"] = "response.code"
    assert limiter(Service(), limits(token)).on_response is not None


# --- what is refused at load --------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (limits(by(("a", "request."))), "descriptors[0].entries[0].value"),
        (limits(by(("a", "'b'")), by(("a", "'b'"), cost="1 +")), "descriptors[1].cost"),
        (limits(by(("a", "'b'"), limitOverride="{")), "descriptors[0].limitOverride"),
        (limits(by(("a", "'b'"), cost="response.code")), "descriptors[0].cost"),
        (limits(by(("a", "response.code"))), "descriptors[0].entries[0].value"),
        (
            limits(by(("a", "'b'"), type="tokens", cost="size(response.body) + llm.totalTokens")),
            "descriptors[0].cost",
        ),
        (limits(by(("a", "'b'"), type="tokens", cost="size(request.body)")), "descriptors[0].cost"),
        (limits(by(("a", "'b'"), type="words")), "descriptors[0].type"),
        (limits(by()), "descriptors[0].entries"),
        (limits(by(("", "'b'"))), "descriptors[0].entries[0].key"),
        (limits(), "descriptors"),
        (limits(by(("a", "'b'")), domain=""), "domain"),
        (limits(by(("a", "'b'")), failureMode="maybe"), "failureMode"),
        (limits(by(("a", "'b'")), backend="both"), ""),
        ({"domain": "d", "descriptors": [by(("a", "'b'"))]}, ""),
        ({"conditional": []}, "conditional"),
        (
            {"conditional": [{**limits(by(("a", "1 +"))), "condition": "true"}]},
            "conditional[0].descriptors[0].entries[0].value",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_its_path(payload, path):
    with pytest.raises(ConfigError) as caught:
        limiter(Service(), payload)
    assert caught.value.path == f"remoteRateLimit.{path}".strip(".")


def test_it_runs_after_the_local_limit_and_sees_the_backends_own_response():
    route = REQUEST_ORDER["route"]
    order = [route.index(key) for key in ("authorization", "retry", "localRateLimit")]
    assert max(order) < route.index("remoteRateLimit") < route.index("buffer")
    responses = [key for phase, key in RESPONSE_ORDER if phase == "route"]
    assert responses.index("remoteRateLimit") < responses.index("responseHeaderModifier")
