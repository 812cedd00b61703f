"""What an authorization service is asked by plain HTTP, and what its answers do.

Source: spec/config.md section 3.8; hardening cases 34 to 39.
"""

from __future__ import annotations

import pytest

from sidecar.http.message import FixedBody
from tests.support.authorizers import DOWN, Plain, ask, by_http, refusal
from tests.support.messages import request, response, text_of


async def test_by_http_the_request_is_asked_as_it_is():
    made = request("PUT", "/a?b", {"authorization": "Bearer t", "cookie": "c=1"}, body=b"abc")
    service = Plain()
    assert await ask(by_http(), made, service) is None
    ((asked, body, authority),) = service.requests
    assert (asked.method, asked.target, asked.authority) == ("PUT", "/a?b", "shop.example")
    assert text_of(asked.headers) == ["authorization: Bearer t"]
    assert (body, authority) == (b"", "")


async def test_by_http_the_question_can_be_another():
    made = request("PUT", "/a", {"x-in": "1", "x_in": "2", "x-own": "evil"}, body=b"abc")
    payload = {
        **by_http(
            path="'/check?p=' + request.path",
            body="'q=' + request.method",
            addRequestHeaders={
                ":method": "'POST'",
                ":authority": "'Auth.Example'",
                "X-Own": "source.address",
                "x-none": "request.headers['nope']",
                "x-cut": "'a\\nb'",
            },
        ),
        "includeRequestHeaders": ["X-In", "x-own", ":path"],
    }
    service = Plain()
    assert await ask(payload, made, service) is None
    ((asked, body, authority),) = service.requests
    assert (asked.method, asked.target) == ("POST", "/check?p=/a")
    assert text_of(asked.headers) == ["x-in: 1", "x-own: 10.0.0.9"]
    assert (body, authority) == (b"q=PUT", "auth.example")


async def test_by_http_a_body_goes_with_its_kind():
    made = request("POST", "/", {"content-type": "text/x", "x-envoy-auth-partial-body": "?"})
    made.body = FixedBody(b"abcdef")
    payload = {
        **by_http(),
        "includeRequestBody": {"maxRequestBytes": 4, "allowPartialMessage": True},
        "includeRequestHeaders": ["x-envoy-auth-partial-body"],
    }
    service = Plain()
    assert await ask(payload, made, service) is None
    ((asked, body, _),) = service.requests
    assert text_of(asked.headers) == ["content-type: text/x", "x-envoy-auth-partial-body: true"]
    assert body == b"abcd"
    assert await made.body.read() == b"abcdef"


async def test_by_http_2xx_allows_and_tells():
    made = request(headers={"x-user": "evil", "x_user": "evil", "x-level": "9", "cookie": "a=1"})
    answer = response(204, {"x-user": "ann", "x-other": "1", "content-type": "text/x"}, b'{"n":1}')
    payload = by_http(
        includeResponseHeaders=["X-User", "x-level", "cookie"],
        metadata={
            "n": "json(response.body).n",
            "user": "response.headers['x-user'] + request.path",
            "none": "response.headers['nope']",
        },
    )
    assert await ask(payload, made, Plain(answer)) is None
    # The level was the service's to tell, and it told none; a cookie is the client's own.
    assert text_of(made.headers) == ["cookie: a=1", "x-user: ann"]
    assert made.state["extauthz"] == {"n": 1, "user": "ann/"}


@pytest.mark.parametrize("status", [301, 401, 404, 500, 503])
async def test_by_http_anything_else_is_the_answer(status):
    answer = response(
        status, {"x-why": "x", "content-length": "7", "connection": "close"}, b"because"
    )
    got = await ask({**by_http(), "failureMode": "allow"}, request(), Plain(answer))
    assert got is not None
    assert (got.status, got.reason) == (status, "ExtAuth")
    assert text_of(got.headers) == ["x-why: x", "content-type: text/plain"]
    assert await got.body.read() == b"because"


@pytest.mark.parametrize(
    ("status", "redirect", "location"),
    [
        (401, "'/login?rd=' + request.path", "/login?rd=/a"),
        (403, "response.headers['x-where']", "https://idp.example/"),
        (404, "'/login'", None),
        (401, "request.headers['nope']", None),
        (401, "'/a\\r\\nset-cookie: b=1'", None),
    ],
)
async def test_by_http_a_denial_may_send_elsewhere(status, redirect, location):
    answer = response(status, {"x-where": "https://idp.example/"})
    got = await ask(by_http(redirect=redirect), request("GET", "/a"), Plain(answer))
    assert got is not None
    assert (got.status, got.headers.get(b"location")) == (
        (302, location.encode()) if location else (status, None)
    )


@pytest.mark.parametrize(
    "http",
    [
        {"path": "request.headers['nope']"},
        {"path": "'relative'"},
        {"path": "'/a/..%2f..%2fadmin'"},
        {"path": "'/a b'"},
        {"path": "'/a\\r\\nx: y'"},
        {"body": "request.headers['nope']"},
        {"addRequestHeaders": {":method": "'GET /x'"}},
        {"addRequestHeaders": {":method": "'CONNECT'"}},
        {"addRequestHeaders": {":authority": "'a/#@b'"}},
        {"addRequestHeaders": {":path": "request.headers['nope']"}},
    ],
    ids=str,
)
async def test_a_question_that_cannot_be_asked_is_a_denial_in_any_mode(http):
    service = Plain()
    error = await refusal({**by_http(**http), "failureMode": "allow"}, request(), service)
    assert (error.status, service.requests) == (403, [])


async def test_by_http_a_failure_is_one():
    error = await refusal(by_http(), request(), Plain(DOWN))
    assert error.status == 403
    made = request(headers={"x-user": "evil"})
    payload = {**by_http(includeResponseHeaders=["x-user"]), "failureMode": "allow"}
    assert await ask(payload, made, Plain(DOWN)) is None
    assert text_of(made.headers) == ["x-envoy-auth-failure-mode-allowed: true"]
