"""retry: which outcomes are repeated, how often, and how a repetition is marked."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.headers import Headers
from tests.support.messages import policy, request, response


def refused() -> UpstreamError:
    return UpstreamError(503, "UpstreamFailure", "connect refused", retryable=True, sent=False)


def broken() -> UpstreamError:
    return UpstreamError(503, "UpstreamFailure", "cut in the response", retryable=False)


OUTCOMES = {
    "listed code": ({"codes": [503]}, 0, {"response": response(503)}, True),
    "other code": ({"codes": [503]}, 0, {"response": response(500)}, False),
    "condition": (
        {"codes": [], "condition": "response.code == 500"},
        0,
        {"response": response(500)},
        True,
    ),
    "condition on a header": (
        {"codes": [], "condition": "response.headers['x-again'] == 'yes'"},
        0,
        {"response": response(200, {"x-again": "yes"})},
        True,
    ),
    "failing condition": (
        {"codes": [], "condition": "response.headers['x-again'] == 'yes'"},
        0,
        {"response": response(200)},
        False,
    ),
    "connect failure": ({"codes": []}, 0, {"error": refused()}, True),
    "failure in the response": ({"codes": []}, 0, {"error": broken()}, False),
    "attempts N make N + 1 calls": ({"attempts": 2, "codes": []}, 1, {"error": refused()}, True),
    "and no more": ({"attempts": 2, "codes": []}, 2, {"error": refused()}, False),
    "precondition holds": (
        {"codes": [503], "precondition": "request.method == 'GET'"},
        0,
        {"response": response(503)},
        True,
    ),
    "precondition fails": (
        {"codes": [503], "precondition": "request.method == 'PUT'"},
        0,
        {"response": response(503)},
        False,
    ),
    "precondition cannot be computed": (
        {"codes": [503], "precondition": "jwt.sub == 'a'"},
        0,
        {"response": response(503)},
        False,
    ),
}


@pytest.mark.parametrize(
    ("config", "attempt", "outcome", "again"), OUTCOMES.values(), ids=OUTCOMES.keys()
)
def test_outcomes(config, attempt, outcome, again):
    retry, made = policy("retry", config), request()
    if retry.on_request is not None:
        assert retry.on_request(made) is None
    assert retry.should_retry(made, attempt, **outcome) is again


def test_an_upgrade_is_never_repeated():
    made = request()
    made.upgrade = "websocket"
    assert not policy("retry", {"codes": [503]}).is_enabled(made)


def test_no_hook_without_precondition():
    assert policy("retry", {"codes": []}).on_request is None


def test_marks():
    headers, retry = Headers([(b"x-retry-attempt", b"7")]), policy("retry", {"codes": []})
    retry.mark(headers, 0)
    assert headers == []
    retry.mark(headers, 1)
    retry.mark(headers, 2)
    assert headers == [(b"x-retry-attempt", b"2")]


def test_settings():
    retry = policy("retry", {"codes": [1 + 499], "backoff": "50ms", "attempts": 3})
    assert (retry.attempts, retry.backoff_seconds) == (3, 0.05)
    assert policy("retry", {"codes": []}).backoff_seconds == 0


def test_bodies_are_asked_for():
    late = policy("retry", {"codes": [], "condition": "response.body == b'x'"})
    assert (late.needs_request_body, late.needs_response_body) == (False, True)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, "retry.codes"),
        ({"codes": [0]}, "retry.codes[0]"),
        ({"codes": [], "attempts": 0}, "retry.attempts"),
        ({"codes": [], "attempts": 256}, "retry.attempts"),
        ({"codes": [], "backoff": 1}, "retry.backoff"),
        ({"codes": [], "precondition": "response.code == 1"}, "retry.precondition"),
        ({"codes": [], "condition": "("}, "retry.condition"),
    ],
)
def test_refused(config, path):
    with pytest.raises(ConfigError) as caught:
        policy("retry", config)
    assert caught.value.path == path
