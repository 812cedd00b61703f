"""networkAuthorization: judged by the connection alone."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from tests.support.messages import policy, request

RULES = {
    "no rules": ([], True),
    "allowed": (["source.address == '10.0.0.9'"], True),
    "not allowed": (["source.address == '10.0.0.8'"], False),
    "denied": ([{"deny": "source.address.startsWith('10.')"}], False),
    "an error does not satisfy": ([{"require": "source.nothing == 'a'"}], False),
}


@pytest.mark.parametrize(("rules", "verdict"), RULES.values(), ids=RULES.keys())
def test_verdicts(rules, verdict):
    rule_set = policy("networkAuthorization", {"rules": rules})
    assert rule_set.permits(request(peer="10.0.0.9").connection) is verdict


@pytest.mark.parametrize(
    "name", ["request.method == 'GET'", "jwt.sub == 'a'", "response.code == 1"]
)
def test_other_variables_are_refused(name):
    with pytest.raises(ConfigError) as caught:
        policy("networkAuthorization", {"rules": [{"allow": name}]})
    assert caught.value.path == "networkAuthorization.rules[0].allow"
