"""Sample data, and what an expression makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.cel.context import Context
from sidecar.cel.engine import Engine
from sidecar.cel.explain import MAX_STEPS, explain
from sidecar.cel.sample import DEFAULT, variables
from sidecar.errors import ConfigError

ENGINE = Engine(
    "team() { request.headers['x-team'] }", {"x-key"}, context=Context({"podName": "p"})
)

SAMPLE: dict[str, Any] = {
    "request": {
        "method": "PUT",
        "uri": "https://shop.example:8443/api/a?q=1&q=2",
        "headers": {
            "X-Team": "red",
            "multi": ["a", "b"],
            "x-key": "k",
            "authorization": "Bearer t",
        },
        "body": {"n": 1},
        "startTime": "2026-01-02T03:04:05Z",
    },
    "response": {"code": 503, "grpcStatus": 14, "headers": {}, "body": "text"},
    "jwt": {"sub": "u", "rawToken": "secret-token"},
    "apiKey": {"name": "n", "key": "secret-key"},
    "llm": {"timeToFirstToken": "1.5s"},
    "source": {"address": "10.0.0.1", "connectHeaders": {"x-outer": "1"}},
}
VALUES: list[tuple[str, object]] = [
    ("request.method", "PUT"),
    ("request.scheme + ' ' + request.host + ' ' + request.path", "https shop.example /api/a"),
    ("request.pathAndQuery.query('q')", ["1", "2"]),
    ("request.uri", "https://shop.example:8443/api/a?q=1&q=2"),
    ("request.version", "HTTP/1.1"),
    ("team()", "red"),
    ("request.headers['MULTI']", ["a", "b"]),
    ("request.headers.redacted()['authorization']", "<redacted>"),
    ("request.headers.redacted()['x-key']", "<redacted>"),
    ("json(request.body).n + json(request.bodyPrefix).n", 2),
    ("request.startTime.getFullYear()", 2026),
    ("response.code + response.grpcStatus", 517),
    ("string(response.body)", "text"),
    ("jwt.rawToken", "<redacted>"),
    ("apiKey.key.unredacted()", "secret-key"),
    ("llm.timeToFirstToken", "1.500s"),
    ("source.connectHeaders['X-Outer']", "1"),
    ("env.podName", "p"),
]


@pytest.mark.parametrize(("source", "value"), VALUES)
def test_value(source: str, value: object) -> None:
    found = explain(ENGINE, source, variables(SAMPLE, ENGINE.context, ENGINE.sensitive_headers))
    assert (found.error, found.result) == ("", value)


@pytest.mark.parametrize(
    ("given", "uri", "path"),
    [
        ({}, "http://localhost/", "/"),
        ({"path": "/a"}, "http://localhost/a", "/a"),
        ({"host": "h:1", "pathAndQuery": "/a?b"}, "http://h:1/a?b", "/a"),
        ({"uri": "/only?x"}, "http://localhost/only?x", "/only"),
        ({"uri": "https://h"}, "https://h", "/"),
    ],
)
def test_what_follows_need_not_be_said(given: dict[str, Any], uri: str, path: str) -> None:
    request: Any = variables({"request": given}, Context())["request"]
    assert (str(request["uri"]), request["path"]) == (uri, path)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"reqest": {}}, "reqest"),
        ({"request": []}, "request"),
        ({"request": {"header": {}}}, "request.header"),
        ({"request": {"headers": {"a": {}}}}, "request.headers.a"),
        ({"request": {"startTime": "yesterday"}}, "request.startTime"),
        ({"request": {"pathAndQuery": "/a/../b"}}, "request.pathAndQuery"),
        ({"response": {"status": 1}}, "response.status"),
        ({"llm": {"timeToFirstToken": 3}}, "llm.timeToFirstToken"),
    ],
)
def test_what_no_gateway_has_is_said(data: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        variables(data, Context())
    assert caught.value.path == path


def test_the_default_has_what_it_names() -> None:
    found = explain(
        ENGINE, "json(request.body).model + jwt.sub + backend.type", variables(DEFAULT, Context())
    )
    assert found.result == "gpt-4ouser-1ai"


def test_steps() -> None:
    source = "jwt.sub == 'u' && [1, 2].exists(x, x > math.ceil(jwt.n)) || apiKey.name in ['a']"
    found = explain(ENGINE, source, variables({"jwt": {"sub": "u"}}, Context()))
    assert found.result is False or found.error
    assert [(one.expression, one.value, one.error) for one in found.steps] == [
        (
            '(jwt.sub == "u") && [1, 2].exists(x, x > math.ceil(jwt.n))',
            None,
            "no such key: n",
        ),
        ('jwt.sub == "u"', True, ""),
        ("jwt.sub", "u", ""),
        ("[1, 2].exists(x, x > math.ceil(jwt.n))", None, "no such key: n"),
        ('apiKey.name in ["a"]', None, "no such key: apiKey"),
        ("apiKey.name", None, "no such key: apiKey"),
    ]
    assert found.variables == ["apiKey.name", "jwt.n", "jwt.sub"]
    assert found.absent == ["apiKey"]
    assert found.reads == []


def test_an_expression_that_is_wrong() -> None:
    found = explain(ENGINE, "request.methd ==", {})
    assert "line 1, column 17" in found.error
    assert found.to_json()["result"] is None


def test_bodies_that_are_held_back() -> None:
    found = explain(ENGINE, "request.body == response.body", {})
    assert found.reads == ["request.body", "response.body"]


def test_a_long_expression_is_not_explained_without_end() -> None:
    source = " && ".join(f"jwt.a{n} == {n}" for n in range(300))
    assert len(explain(ENGINE, source, {}).steps) == MAX_STEPS


def test_a_costly_one_ends() -> None:
    items = list(range(2000))
    found = explain(
        ENGINE, "metadata.a.all(x, metadata.a.all(y, x <= x))", {"metadata": {"a": items}}
    )
    assert "steps" in found.error
