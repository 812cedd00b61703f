"""authorization: the three effects, errors, levels, and what it must not name."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError, RequestError
from sidecar.policies.merge import merge
from tests.support.messages import policy, request

TRUE, FALSE, ERROR = "request.method == 'GET'", "request.method == 'PUT'", "jwt.sub == 'a'"

VERDICTS = {
    "no rules": ([], True),
    "allow": ([TRUE], True),
    "no allow true": ([FALSE, ERROR], False),
    "one allow true": ([FALSE, {"allow": TRUE}], True),
    "deny": ([{"deny": TRUE}], False),
    "deny beats allow": ([TRUE, {"deny": TRUE}], False),
    "deny false alone passes": ([{"deny": FALSE}], True),
    "an error does not deny": ([{"deny": ERROR}], True),
    "require": ([{"require": TRUE}], True),
    "require false": ([{"require": FALSE}, TRUE], False),
    "an error does not satisfy": ([{"require": ERROR}], False),
    "every require": ([{"require": TRUE}, {"require": FALSE}], False),
    "require true, no allow true": ([{"require": TRUE}, FALSE], False),
    "not a boolean": (["'yes'"], False),
}


def passes(rules, made=None) -> bool:
    authorize = policy("authorization", {"rules": rules}).on_request
    try:
        authorize(made or request())
    except RequestError:
        return False
    return True


def test_refusal():
    with pytest.raises(RequestError, match=r"^authorization failed$") as caught:
        policy("authorization", {"rules": [FALSE]}).on_request(request())
    assert (caught.value.status, caught.value.code) == (403, "Authorization")


@pytest.mark.parametrize(("rules", "verdict"), VERDICTS.values(), ids=VERDICTS.keys())
def test_verdicts(rules, verdict):
    assert passes(rules) is verdict


def test_what_authentication_found():
    made = request()
    made.state["jwt"] = {"sub": "a"}
    assert passes([ERROR], made)


def test_levels_are_one_set():
    gateway = {"authorization": {"rules": [{"deny": "request.path == '/x'"}]}}
    listener = {"authorization": {"rules": [{"require": "request.method == 'GET'"}]}}
    route = {"authorization": {"rules": ["request.path == '/x' || request.path == '/y'"]}}
    rules = merge([gateway, listener, route])["authorization"]["rules"]
    assert [passes(rules, request(target=path)) for path in ("/x", "/y", "/z")] == [
        False,
        True,
        False,
    ]
    assert not passes(rules, request("PUT", "/y"))


def test_47_a_rule_on_the_body_asks_for_it():
    assert policy("authorization", {"rules": ["request.body == b'x'"]}).needs_request_body
    assert not policy("authorization", {"rules": [TRUE]}).needs_request_body


@pytest.mark.parametrize(
    ("rules", "path"),
    [
        (["1 +"], "authorization.rules[0]"),
        ([TRUE, {"deny": "("}], "authorization.rules[1].deny"),
        (["response.code == 200"], "authorization.rules[0]"),
        ([{"allow": TRUE, "deny": TRUE}], "authorization.rules[0]"),
        ([{}], "authorization.rules[0]"),
        ([{"permit": TRUE}], "authorization.rules[0].permit"),
        ([1], "authorization.rules[0]"),
    ],
)
def test_refused(rules, path):
    with pytest.raises(ConfigError) as caught:
        policy("authorization", {"rules": rules})
    assert caught.value.path == path


def test_a_deny_rule_that_names_no_variable_of_ours_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        policy("authorization", {"rules": [{"deny": 'reqest.path == "/admin"'}]})
    assert caught.value.path == "authorization.rules[0].deny"
    assert "unknown variable `reqest`" in caught.value.message
