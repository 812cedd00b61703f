"""directResponse: constants, expressions, alternatives."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from tests.support.messages import policy, request, text_of


async def answer(config, made=None):
    result = policy("directResponse", config).on_request(made or request())
    if result is None:
        return None
    return result.status, text_of(result.headers), await result.body.read()


ANSWERS = {
    "status alone": ({"status": 204}, (204, [], b"")),
    "text": ({"status": 200, "body": "hellö"}, (200, [], "hellö".encode())),
    "octets": ({"status": 200, "body": [104, 0, 255]}, (200, [], b"h\x00\xff")),
    "expression": (
        {"status": 418, "bodyExpression": "request.method + ' ' + request.path"},
        (418, [], b"GET /tea"),
    ),
    "failing expression": ({"status": 200, "bodyExpression": "jwt.sub"}, (200, [], b"")),
    "headers": (
        {"status": 200, "headers": {"X-A": "'1'", "x-n": "2", "x-gone": "jwt.sub"}},
        (200, ["x-a: 1", "x-n: 2"], b""),
    ),
    "computed line end": (
        {"status": 200, "headers": {"x": "'a\\r\\nevil: 1'", "y": "'ok'"}},
        (200, ["y: ok"], b""),
    ),
}


@pytest.mark.parametrize(("config", "expected"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_answers(config, expected):
    assert await answer(config, request(target="/tea")) == expected


async def test_an_answer_can_be_given_twice():
    direct = policy("directResponse", {"status": 200, "body": "x"})
    bodies = [await direct.on_request(request()).body.read() for _ in range(2)]
    assert bodies == [b"x", b"x"]


CONDITIONAL = {
    "conditional": [
        {"condition": "jwt.sub == 'a'", "status": 500},
        {"condition": "request.method == 'GET'", "status": 501, "body": "first"},
        {"condition": "true", "status": 502},
    ]
}


async def test_first_true_condition_answers():
    assert await answer(CONDITIONAL) == (501, [], b"first")
    assert await answer(CONDITIONAL, request("PUT")) == (502, [], b"")


async def test_no_true_condition_goes_on():
    config = {"conditional": [{"condition": "request.method == 'PUT'", "status": 500}]}
    assert await answer(config) is None


async def test_fallback():
    config = {"conditional": [{"condition": "false", "status": 500}, {"status": 200}]}
    assert await answer(config) == (200, [], b"")


REFUSED = {
    "no entries": (
        {"conditional": []},
        "conditional policies must have at least one entry",
        "directResponse.conditional",
    ),
    "too many entries": (
        {"conditional": [{"condition": "true", "status": 200}] * 65},
        "conditional policies may have at most 64 entries",
        "directResponse.conditional",
    ),
    "fallback in the middle": (
        {"conditional": [{"status": 200}, {"condition": "true", "status": 200}]},
        "conditional policy entries without condition must be last",
        "directResponse.conditional[0]",
    ),
    "broken condition": (
        {"conditional": [{"condition": "1 +", "status": 200}]},
        "",
        "directResponse.conditional[0].condition",
    ),
    "condition on a response": (
        {"conditional": [{"condition": "response.code == 1", "status": 200}]},
        "`response` is not known yet",
        "directResponse.conditional[0].condition",
    ),
    "unknown key in an entry": (
        {"conditional": [{"status": 200, "bodi": "x"}]},
        "unknown field `bodi`",
        "directResponse.conditional[0].bodi",
    ),
    "both bodies": (
        {"status": 200, "body": "a", "bodyExpression": "'b'"},
        "only one of",
        "directResponse",
    ),
    "no status": ({"body": "x"}, "missing field `status`", "directResponse.status"),
    "interim status": ({"status": 101}, "greater than or equal to 200", "directResponse.status"),
    "204 with a body": ({"status": 204, "body": "x"}, "has no body", "directResponse"),
    "octet out of range": ({"status": 200, "body": [256]}, "", "directResponse.body[0]"),
    "header that frames": (
        {"status": 200, "headers": {"content-length": "'1'"}},
        "written by the gateway",
        "directResponse.headers.content-length",
    ),
}


@pytest.mark.parametrize(("config", "text", "path"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(config, text, path):
    with pytest.raises(ConfigError) as caught:
        policy("directResponse", config)
    assert text in caught.value.message
    assert caught.value.path == path
