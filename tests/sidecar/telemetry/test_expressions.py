from __future__ import annotations

from datetime import timedelta

import pytest

from sidecar.errors import ConfigError
from sidecar.telemetry.fields import AccessEntry
from tests.sidecar.telemetry.entries import compiler, connection, entry, request


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("request.method", "GET"),
        ("response.code", 200),
        ("source.address", "10.0.0.1"),
        ("jwt.sub", "alice"),
        ("proxy.bind", "bind/8080"),
        ("proxy.gateway.namespace + '/' + proxy.gateway.name", "default/default"),
        ("proxy.route.name", "route0"),
        ("proxy.upstreamDuration", timedelta(milliseconds=2)),
        ("proxy.requestProcessingDuration", None),
        ('request.headers["absent"]', None),
    ],
)
def test_values(source, value):
    made = request()
    made.state["jwt"] = {"sub": "alice"}
    finished = entry(made, upstream_ns=2_000_000)
    assert compiler().expression(source, "p").value(finished) == value


def test_a_connection_has_no_request():
    finished = AccessEntry(connection())
    assert compiler().expression("source.port", "p").value(finished) == 40774
    assert compiler().expression("request.method", "p").value(finished) is None
    assert compiler().expression("response.code", "p").value(finished) is None


def test_the_status_is_known_without_a_response():
    finished = AccessEntry(connection(), request(), status=404)
    assert compiler().expression("response.code == 404", "p").is_true(finished)


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("request.method", [("x", "GET")]),
        ("flatten({'a': 1, 'b': {'c': [2]}})", [("x.a", 1), ("x.b", {"c": [2]})]),
        (
            "flattenRecursive({'a': 1, 'b': {'c': [2, 3]}})",
            [("x.a", 1), ("x.b.c.0", 2), ("x.b.c.1", 3)],
        ),
        ("request.nothing", []),
    ],
)
def test_fields(source, fields):
    expression = compiler().expression(source, "p")
    assert list(expression.fields("x", entry())) == fields


@pytest.mark.parametrize("source", ["a b", 5, None])
def test_what_cannot_be_honoured_is_refused(source):
    with pytest.raises(ConfigError) as caught:
        compiler().expression(source, "some.path")
    assert caught.value.path == "some.path"
