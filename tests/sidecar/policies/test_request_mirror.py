"""requestMirror: the sampling decision and the copy."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from tests.support.messages import policy, request, text_of


def mirror(percentage: float):
    return policy("requestMirror", {"backend": {"host": "m:80"}, "percentage": percentage})


@pytest.mark.parametrize(
    ("percentage", "draw", "sampled"),
    [(0.5, 0.49, True), (0.5, 0.5, False), (0, 0.0, False), (1, 0.999999, True), (1.0, 0.0, True)],
)
def test_sampling(percentage, draw, sampled):
    assert mirror(percentage).is_sampled(draw) is sampled


def test_the_copy_has_no_body_and_shares_nothing():
    original = request("POST", "/a?b", {"content-length": "3", "x": "1"}, body=b"abc")
    copy = mirror(1).copied(original)
    assert text_of(copy.headers) == ["x: 1"]
    assert (copy.method, copy.authority, copy.target) == ("POST", "shop.example", "/a?b")
    assert copy.body.length == 0
    copy.headers.set(b"x", b"2")
    copy.state["a"] = 1
    assert original.headers.get(b"x") == b"1"
    assert "a" not in original.state
    assert original.body.length == 3


def test_backend_is_kept_for_the_pipeline():
    config = {"backend": {"service": {"name": "ns/a.b", "port": 1}}, "percentage": 1}
    assert policy("requestMirror", config).backend.service.name == "ns/a.b"


@pytest.mark.parametrize(
    "config",
    [
        {"backend": {"host": "m:80"}, "percentage": 1.1},
        {"backend": {"host": "m:80"}, "percentage": float("nan")},
        {"backend": {"host": "m:80", "backend": "b"}, "percentage": 1},
        {"backend": {}, "percentage": 1},
        {"backend": {"host": "m:80"}},
    ],
)
def test_refused(config):
    with pytest.raises(ConfigError):
        policy("requestMirror", config)
