"""cors: preflights, marks on responses, and which origins match."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from tests.support.messages import policy, request, response, text_of

FULL = {
    "allowOrigins": ["https://a.example"],
    "allowMethods": ["GET", "PUT"],
    "allowHeaders": ["X-A", "x-b"],
    "exposeHeaders": ["x-c"],
    "allowCredentials": True,
    "maxAge": "1m30s500ms",
}
ORIGIN = {"origin": "https://a.example"}
ASKED = {"access-control-request-method": "PUT", "access-control-request-headers": "x-a,x-z"}

ANSWERS = {
    "preflight": (
        FULL,
        {**ORIGIN, **ASKED},
        [
            "access-control-allow-origin: https://a.example",
            "access-control-allow-methods: GET, PUT",
            "access-control-allow-headers: X-A, x-b",
            "access-control-allow-credentials: true",
            "access-control-expose-headers: x-c",
            "access-control-max-age: 90",
        ],
    ),
    "stars echo what is asked for": (
        {"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"]},
        {"origin": "https://b.example", **ASKED},
        [
            "access-control-allow-origin: https://b.example",
            "access-control-allow-methods: PUT",
            "access-control-allow-headers: x-a,x-z",
        ],
    ),
    "any OPTIONS of an allowed origin": (
        {"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"]},
        {"origin": "null"},
        ["access-control-allow-origin: null"],
    ),
    "preflight of another origin": (FULL, {"origin": "https://b.example", **ASKED}, []),
    "preflight with nobody allowed": ({}, {**ORIGIN, **ASKED}, []),
}


@pytest.mark.parametrize(("config", "headers", "expected"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_answered_by_the_gateway(config, headers, expected):
    answer = policy("cors", config).on_request(request("OPTIONS", headers=headers))
    assert answer.status == 200
    assert text_of(answer.headers) == expected
    assert await answer.body.read() == b""


MARKS = {
    "no origin": (FULL, "GET", {}, []),
    "OPTIONS without origin": (FULL, "OPTIONS", ASKED, []),
    "allowed": (
        FULL,
        "GET",
        ORIGIN,
        [
            "access-control-allow-origin: https://a.example",
            "access-control-allow-credentials: true",
            "access-control-expose-headers: x-c",
        ],
    ),
    "another origin": (FULL, "GET", {"origin": "https://b.example"}, []),
    "OPTIONS of another origin that is no preflight": (
        FULL,
        "OPTIONS",
        {"origin": "https://b.example", "access-control-request-method": ""},
        [],
    ),
}


@pytest.mark.parametrize(
    ("config", "method", "headers", "queued"), MARKS.values(), ids=MARKS.keys()
)
def test_goes_on(config, method, headers, queued):
    made = request(method, headers=headers)
    assert policy("cors", config).on_request(made) is None
    assert text_of(Headers(made.response_headers)) == queued


def test_two_origins_are_none():
    made = request(headers=[("origin", "https://a.example"), ("origin", "https://a.example")])
    assert policy("cors", FULL).on_request(made) is None
    assert made.response_headers == []


ORIGINS = {
    "exact": ("https://a.example", "https://a.example", True),
    "other scheme": ("https://a.example", "http://a.example", False),
    "other port": ("https://a.example", "https://a.example:444", False),
    "one label": ("https://*.a.example", "https://x.a.example", True),
    "two labels": ("https://*.a.example", "https://x.y.a.example", True),
    "no label": ("https://*.a.example", "https://.a.example", False),
    "the domain itself": ("https://*.a.example", "https://a.example", False),
    "suffix of another domain": ("https://*.a.example", "https://evila.example", False),
    "dot is a dot": ("https://*.a.example", "https://x.aXexample", False),
    "no path before the suffix": ("https://*.a.example", "https://evil.test/.a.example", False),
    "no port before the suffix": ("https://*.a.example", "https://evil.test:1.a.example", False),
    "no user before the suffix": ("https://*.a.example", "https://evil@x.a.example", False),
    "any port": ("http://localhost:*", "http://localhost:5173", True),
    "a port is digits": ("http://localhost:*", "http://localhost:x", False),
    "a port is there": ("http://localhost:*", "http://localhost", False),
    "no prefix of it": ("http://localhost:*", "http://localhost:1.evil.test", False),
}


@pytest.mark.parametrize(("pattern", "origin", "allowed"), ORIGINS.values(), ids=ORIGINS.keys())
def test_origins(pattern, origin, allowed):
    made = request(headers={"origin": origin})
    assert policy("cors", {"allowOrigins": [pattern]}).on_request(made) is None
    assert bool(made.response_headers) is allowed


VARY = {
    "no origin": ({}, {}, []),
    "absent": (ORIGIN, {}, ["vary: origin"]),
    "beside another": (ORIGIN, {"vary": "accept"}, ["vary: accept", "vary: origin"]),
    "already there": (ORIGIN, {"vary": "Accept, Origin"}, ["vary: Accept, Origin"]),
    "star": (ORIGIN, {"vary": "*"}, ["vary: *"]),
}


@pytest.mark.parametrize(("asked", "given", "expected"), VARY.values(), ids=VARY.keys())
def test_vary(asked, given, expected):
    made = response(headers=given)
    policy("cors", FULL).on_response(request(headers=asked), made)
    assert text_of(made.headers) == expected


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"allowOrigins": ["a\r\nb"]}, "cors.allowOrigins[0]"),
        ({"allowOrigins": [""]}, "cors.allowOrigins[0]"),
        ({"allowMethods": ["GET", "P T"]}, "cors.allowMethods[1]"),
        ({"allowHeaders": ["x\n"]}, "cors.allowHeaders[0]"),
        ({"maxAge": 5}, "cors.maxAge"),
    ],
)
def test_refused(config, path):
    with pytest.raises(ConfigError) as caught:
        policy("cors", config)
    assert caught.value.path == path
