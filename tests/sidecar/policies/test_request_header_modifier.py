"""requestHeaderModifier: the folded steps, the authority, twins, and what is refused."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from tests.support.messages import policy, request, text_of

CHANGES = {
    "add keeps what is there": ({"add": {"x": "2"}}, [("x", "1")], ["x: 1", "x: 2"]),
    "set replaces all of the name": (
        {"set": {"x": "3"}},
        [("x", "1"), ("y", "0"), ("x", "2")],
        ["y: 0", "x: 3"],
    ),
    "set appends when absent": ({"set": {"x": "3"}}, [("y", "0")], ["y: 0", "x: 3"]),
    "remove drops all of the name": ({"remove": ["X"]}, [("x", "1"), ("y", "0")], ["y: 0"]),
    "set overrules add": ({"add": {"x": "1"}, "set": {"x": "2"}}, [], ["x: 2"]),
    "remove overrules both": (
        {"add": {"x": "1"}, "set": {"y": "2"}, "remove": ["x", "y"]},
        [("x", "0")],
        [],
    ),
    "values are trimmed": ({"set": {"x": " a b\t"}}, [], ["x: a b"]),
    "nothing configured": ({}, [("x", "1")], ["x: 1"]),
    "38 set shadows an underscore twin": (
        {"set": {"x-user": "ann"}},
        [("x_user", "root"), ("x-user", "root")],
        ["x-user: ann"],
    ),
    "38 remove drops an underscore twin": (
        {"remove": ["x-user-id"]},
        [("x_user-id", "root"), ("x-user_id", "root"), ("y", "1")],
        ["y: 1"],
    ),
    "38 the dashed one survives its twin": (
        {"remove": ["x_user"]},
        [("x_user", "root"), ("x-user", "ann")],
        ["x-user: ann"],
    ),
    "39 a forged x-forwarded-for is replaced": (
        {"set": {"X-Forwarded-For": "10.0.0.9"}},
        [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")],
        ["x-forwarded-for: 10.0.0.9"],
    ),
}


@pytest.mark.parametrize(("config", "before", "after"), CHANGES.values(), ids=CHANGES.keys())
def test_changes(config, before, after):
    message = request(headers=before)
    assert policy("requestHeaderModifier", config).on_request(message) is None
    assert text_of(message.headers) == after


AUTHORITIES = {
    "set": ({"set": {"Host": "Api.Example:8080"}}, "api.example:8080"),
    "add": ({"add": {"host": "api.example"}}, "api.example"),
    "set overrules add": (
        {"add": {"host": "a.example"}, "set": {"host": "b.example"}},
        "b.example",
    ),
    "neither": ({"set": {"x": "1"}}, "shop.example"),
}


@pytest.mark.parametrize(("config", "authority"), AUTHORITIES.values(), ids=AUTHORITIES.keys())
def test_host_is_the_authority(config, authority):
    message = request()
    policy("requestHeaderModifier", config).on_request(message)
    assert message.authority == authority
    assert not message.headers.has(b"host")


REFUSED = {
    "CR LF in a value": ({"set": {"x": "a\r\nevil: 1"}}, "requestHeaderModifier.set.x"),
    "NUL in a value": ({"add": {"x": "a\0"}}, "requestHeaderModifier.add.x"),
    "space in a name": ({"add": {"x y": "a"}}, "requestHeaderModifier.add.x y"),
    "empty name": ({"set": {"": "a"}}, "requestHeaderModifier.set."),
    "colon in a name": ({"remove": ["x:"]}, "requestHeaderModifier.remove[0]"),
    "17 connection": (
        {"set": {"Connection": "authorization"}},
        "requestHeaderModifier.set.Connection",
    ),
    "content-length": (
        {"set": {"content-length": "0"}},
        "requestHeaderModifier.set.content-length",
    ),
    "transfer-encoding": (
        {"add": {"transfer-encoding": "chunked"}},
        "requestHeaderModifier.add.transfer-encoding",
    ),
    "36 host that is no authority": (
        {"set": {"host": "a/#@b"}},
        "requestHeaderModifier.set.host",
    ),
    "host removed": ({"remove": ["host"]}, "requestHeaderModifier.remove[0]"),
    "one name twice": ({"set": {"x": "1", "X": "2"}}, "requestHeaderModifier.set.X"),
    "number as value": ({"set": {"x": 1}}, "requestHeaderModifier.set.x"),
}


@pytest.mark.parametrize(("config", "path"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(config, path):
    with pytest.raises(ConfigError) as caught:
        policy("requestHeaderModifier", config)
    assert caught.value.path == path
