"""responseHeaderModifier: the same folding on the way back."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from tests.support.messages import policy, request, response, text_of

CHANGES = {
    "add": ({"add": {"X-A": "2"}}, {"x-a": "1"}, ["x-a: 1", "x-a: 2"]),
    "set": ({"set": {"server": "gate"}}, {"server": "old", "y": "0"}, ["y: 0", "server: gate"]),
    "remove": ({"remove": ["Server"]}, {"server": "old", "y": "0"}, ["y: 0"]),
    "remove comes last": ({"set": {"x": "1"}, "remove": ["x"]}, {}, []),
    "twins are the backend's business": ({"set": {"x-a": "1"}}, {"x_a": "0"}, ["x_a: 0", "x-a: 1"]),
}


@pytest.mark.parametrize(("config", "before", "after"), CHANGES.values(), ids=CHANGES.keys())
def test_changes(config, before, after):
    message = response(headers=before)
    policy("responseHeaderModifier", config).on_response(request(), message)
    assert text_of(message.headers) == after


def test_has_no_request_hook():
    assert not hasattr(policy("responseHeaderModifier", {}), "on_request")


def test_injection_is_refused():
    with pytest.raises(ConfigError, match="control characters"):
        policy("responseHeaderModifier", {"add": {"x": "a\nset-cookie: b"}})
