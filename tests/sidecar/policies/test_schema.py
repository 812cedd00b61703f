"""How a problem of a payload reads."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from sidecar.policies.schema import child, dotted, nested
from tests.support.messages import policy

PATHS = {
    "nothing": ([], ""),
    "keys": (["a", "b"], "a.b"),
    "index": (["rules", 0, "allow"], "rules[0].allow"),
    "40 line end": (["a", "b\nc"], "a['b\\nc']"),
}


@pytest.mark.parametrize(("location", "path"), PATHS.values(), ids=PATHS.keys())
def test_dotted(location, path):
    assert dotted(location) == path


def test_child_of_the_document():
    assert child("", "a") == "a"


@pytest.mark.parametrize(("inner", "path"), [("", "a"), ("b", "a.b"), ("[0].b", "a[0].b")])
def test_nested(inner, path):
    problem = nested("a", ConfigError(inner, "why"))
    assert (problem.path, problem.message) == (path, "why")


MESSAGES = {
    "type": ("timeout", {"requestTimeout": 1}, "invalid type: expected a duration"),
    "missing": ("retry", {}, "missing field `codes`"),
    "unknown": ("cors", {"origins": []}, "unknown field `origins`"),
    "no coercion": ("cors", {"allowCredentials": "yes"}, "valid boolean"),
    "one of": ("urlRewrite", {"path": {}}, "must set exactly one of `full`, `prefix`"),
}


@pytest.mark.parametrize(("key", "payload", "text"), MESSAGES.values(), ids=MESSAGES.keys())
def test_messages(key, payload, text):
    with pytest.raises(ConfigError) as caught:
        policy(key, payload)
    assert text in caught.value.message
