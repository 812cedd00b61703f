"""Descriptors: the values that name a counter, and which of them may be shown."""

from __future__ import annotations

import pytest

from sidecar.cel.engine import Engine
from sidecar.errors import ConfigError
from sidecar.policies.descriptors import Descriptor, reads_secret
from tests.support.messages import request, services

PUBLIC = [
    "source.address",
    "source.identity.namespace",
    "request.method + request.path",
    'request.headers["x-user"]',
    "request.headers.host",
    "jwt.sub",
    "jwt.groups[0]",
    "apiKey.team",
    "basicAuth.username",
    "proxy.route.name",
    "'constant'",
]
SECRET = [
    "request",
    "request.headers",
    'request.headers["Authorization"]',
    'request.headers["cookie"]',
    'request.headers["x-api-key"]',
    'request.headers["x-session-id"]',
    'request.headers["cf-access-jwt-assertion"]',
    'request.headers["x-hub-signature-256"]',
    'request.headers["x-internal"]',
    'request.headers["x-" + request.method]',
    "request.headers.map(name, name)",
    "request.uri",
    "request.pathAndQuery",
    "request.body",
    "jwt",
    "jwt.rawToken",
    "apiKey",
    "apiKey.key",
    "basicAuth",
    "source.connectHeaders",
    "variables()",
    'has(jwt.sub) ? jwt.sub : request.headers["authorization"]',
]
ENGINE = Engine(sensitive_headers=["X-Internal"])


@pytest.mark.parametrize("source", PUBLIC)
def test_what_may_be_shown(source):
    assert not reads_secret(ENGINE.compile(source))


@pytest.mark.parametrize("source", SECRET)
def test_what_may_not(source):
    assert reads_secret(ENGINE.compile(source))


VALUES = {
    "text": ("'a'", (b"a",)),
    "number": ("1 + 1", (b"2",)),
    "bytes": ("b'\\xff'", (b"\xff",)),
    "map": ("{'a': 1}", (b'{"a":1}',)),
    "null": ("null", None),
    "error": ("jwt.sub", None),
    "empty text is a value": ("''", (b"",)),
}


@pytest.mark.parametrize(("source", "expected"), VALUES.values(), ids=VALUES.keys())
def test_values(source, expected):
    assert Descriptor([source], services(), "key").values(request()) == expected


def test_of_several_each_must_be_there():
    descriptor = Descriptor(["'a'", 'request.headers["x"]'], services(), "key")
    assert descriptor.values(request()) is None
    assert descriptor.values(request(headers={"x": "b"})) == (b"a", b"b")


def test_shown():
    digest = bytes(range(16))
    shown = Descriptor(["'a'", "'b'"], services(), "key").shown
    assert shown((b"a", b"b\n\xff"), digest) == "a,b\ufffd\ufffd".encode()
    secret = Descriptor(["request.headers.cookie"], services(), "key").shown
    assert secret((b"s3cret",), digest) == b"#00010203"


@pytest.mark.parametrize("count", [0, 9])
def test_too_few_and_too_many(count):
    with pytest.raises(ConfigError) as caught:
        Descriptor(["'a'"] * count, services(), "key")
    assert caught.value.path == "key"
