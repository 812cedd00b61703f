"""apiKey: whose key it is, who is refused with what, and what a key is worth."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from shm.budgets import BudgetTable
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request, Response
from sidecar.llm.names import ALLOWED, AllowedModels, NamePattern
from sidecar.policies.amounts import names_in
from sidecar.policies.expressions import Expression
from sidecar.policies.order import make
from tests.support.clock import HeldClock
from tests.support.messages import request, response, services

MISSING = "api key authentication failure: no API Key found"
INVALID = "api key authentication failure: invalid credentials"
ADA = {"key": "k-ada", "metadata": {"name": "ada", "team": {"id": 7}}}
LONG = "k" * 10_240
LIMIT = {"name": "day", "limit": {"unit": "Tokens", "amount": 10}, "window": {"rolling": "1d"}}


def digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def policy(*keys: dict[str, Any], **more: Any) -> Any:
    return make("apiKey", {"keys": list(keys), **more}, services())


def bearer(*values: str) -> Request:
    return request(headers=[("authorization", value) for value in values])


def told(made: Any, asked: Request) -> str:
    """The refusal, or whose key it was ("-": nobody's)."""
    try:
        made.on_request(asked)
    except RequestError as refusal:
        is_ours = (refusal.status, refusal.code) == (401, "APIKeyAuth")
        return refusal.message if is_ours else repr(refusal)
    known = asked.state.get("apiKey")
    return known["name"] if isinstance(known, dict) else "-"


HOSTILE = [
    pytest.param(["Bearer k-ada"], "ada", id="right"),
    pytest.param(["bearer k-ada"], "ada", id="prefix in lower case"),
    pytest.param(["Bearer K-ADA"], INVALID, id="letter case of the key"),
    pytest.param(["Bearer k-ada "], INVALID, id="blank behind"),
    pytest.param(["Bearer  k-ada"], INVALID, id="two blanks"),
    pytest.param(["Bearer k-ad"], INVALID, id="part of the key"),
    pytest.param(["Bearer " + digest("k-ada")], INVALID, id="the hash is no key"),
    pytest.param(["Basic k-ada"], MISSING, id="wrong prefix"),
    pytest.param(["k-ada"], MISSING, id="no prefix"),
    pytest.param(["Bearer"], MISSING, id="prefix alone"),
    pytest.param(["Bearer "], MISSING, id="empty"),
    pytest.param([], MISSING, id="absent"),
    pytest.param(["Bearer k-ada", "Bearer k-ada"], INVALID, id="two headers"),
    pytest.param(["Bearer k-no", "Bearer k-ada"], INVALID, id="two headers, the wrong one first"),
    pytest.param(["Bearer k-ada, Bearer k-ada"], INVALID, id="two in one header"),
    pytest.param(["Bearer " + LONG], "long", id="10 KiB"),
    pytest.param(["Bearer " + LONG + "k"], INVALID, id="10 KiB and one"),
    pytest.param(["Bearer " + "schlüssel".encode().decode("latin-1")], "umlaut", id="UTF-8"),
    pytest.param(["Bearer schlüssel"], INVALID, id="Latin-1"),
    pytest.param(["Bearer \xff\x00"], INVALID, id="octets"),
]


@pytest.mark.parametrize(("values", "outcome"), HOSTILE)
@pytest.mark.parametrize("mode", ["strict", "optional", "permissive"])
def test_hostile_requests(values: list[str], outcome: str, mode: str) -> None:
    made = policy(
        ADA,
        {"keyHash": digest(LONG).upper().replace("SHA256", "sha256"), "metadata": {"name": "long"}},
        {"key": "schlüssel", "metadata": {"name": "umlaut"}},
        mode=mode,
    )
    if (mode != "strict" and outcome == MISSING) or (mode == "permissive" and outcome == INVALID):
        outcome = "-"
    asked = bearer(*values)
    assert told(made, asked) == outcome
    # Only a key that was recognised is taken away.
    is_known = outcome in ("ada", "long", "umlaut")
    assert asked.headers.get_all(b"authorization") == (
        [] if is_known else [one.encode("latin-1") for one in values]
    )


def test_optional_is_the_default() -> None:
    made = policy(ADA)
    assert told(made, request()) == "-"
    assert told(made, bearer("Bearer x")) == INVALID


def test_no_keys_at_all() -> None:
    assert told(policy(mode="strict"), bearer("Bearer x")) == INVALID


def test_what_expressions_see() -> None:
    asked = bearer("Bearer k-ada")
    policy(ADA).on_request(asked)
    made = services()
    assert Expression("apiKey.team.id", made, "x").value(asked) == 7
    assert Expression('apiKey.key == "k-ada"', made, "x").truth(asked) is False
    assert Expression('apiKey.key.unredacted() == "k-ada"', made, "x").truth(asked)


def test_a_key_without_metadata() -> None:
    asked = bearer("Bearer k")
    policy({"key": "k"}).on_request(asked)
    assert asked.state["apiKey"] == {}


@pytest.mark.parametrize("metadata", ["x", 7, 1.5, True, ["a"], None])
def test_metadata_that_is_no_mapping_has_no_fields(metadata: object) -> None:
    asked = bearer("Bearer k")
    policy({"key": "k", "metadata": metadata}).on_request(asked)
    assert asked.state["apiKey"] == {}


def test_two_phases_allow_what_both_allow() -> None:
    gateway = policy({"key": "k-ada", "allowedModels": ["gpt-*", "claude-1"]})
    route = policy(
        {"key": "k-bob", "allowedModels": ["gpt-4", "claude-*"]},
        location={"header": {"name": "x-api-key"}},
    )
    asked = request(headers={"authorization": "Bearer k-ada", "x-api-key": "k-bob"})
    gateway.on_request(asked)
    route.on_request(asked)
    allowed = asked.state[ALLOWED]
    assert isinstance(allowed, AllowedModels)
    names = ("gpt-4", "gpt-5", "claude-1", "claude-2", "other")
    assert [name for name in names if allowed.allows(name)] == ["gpt-4", "claude-1"]
    shown = [one for name in ("*", *names) for one in allowed.shown(NamePattern.parse(name))]
    assert sorted(set(shown)) == ["claude-1", "gpt-4"]


@pytest.mark.parametrize(
    ("location", "target", "headers"),
    [
        ({"queryParameter": {"name": "key"}}, "/?a=1&key=k%2dada", {}),
        ({"cookie": {"name": "key"}}, "/?a=1", {"cookie": "key=k-ada; b=2"}),
        ({"header": {"name": "X-API-Key"}}, "/?a=1", {"x-api-key": "k-ada"}),
        ({"expression": 'request.headers["x-a"].split(":")[1]'}, "/?a=1", {"x-a": "a:k-ada"}),
    ],
)
def test_locations(location: dict[str, Any], target: str, headers: dict[str, str]) -> None:
    made = policy(ADA, mode="strict", location=location)
    asked = request(target=target, headers=headers)
    assert told(made, asked) == "ada"
    assert asked.target == "/?a=1"
    assert asked.headers.get(b"x-api-key") is None
    assert asked.headers.get(b"cookie") in (None, b"b=2")
    # On the direct way the target is fixed already.
    assert made.is_guard == ("queryParameter" not in location)


def test_allowed_models_are_noted() -> None:
    asked = bearer("Bearer k")
    policy({"key": "k", "allowedModels": ["gpt-*"]}).on_request(asked)
    allowed = asked.state[ALLOWED]
    assert isinstance(allowed, AllowedModels)
    assert (allowed.allows("gpt-5"), allowed.allows("claude")) == (True, False)
    asked = bearer("Bearer k-ada")
    policy(ADA).on_request(asked)
    assert ALLOWED not in asked.state


@pytest.mark.parametrize(
    ("payload", "path", "message"),
    [
        ({"keys": [ADA, {"keyHash": digest("k-ada")}]}, "keys[1]", "keys[0] is the same key"),
        ({"keys": [{"key": ""}]}, "keys[0].key", "at least 1 character"),
        ({"keys": [{"keyHash": digest("")}]}, "keys[0].keyHash", "no key at all"),
        ({"keys": [{"keyHash": "abc"}]}, "keys[0].keyHash", "64 hexadecimal digits"),
        ({"keys": [{"keyHash": "sha256:" + "g" * 64}]}, "keys[0].keyHash", "64 hexadecimal"),
        ({"keys": [{"keyHash": digest("x")[:-2]}]}, "keys[0].keyHash", "64 hexadecimal"),
        ({"keys": [{"key": "a", "keyHash": digest("b")}]}, "keys[0]", "exactly one of"),
        ({"keys": [{"metadata": {}}]}, "keys[0]", "exactly one of"),
        (
            {"keys": [{"key": "a", "metadata": ["ada"], "budgets": [LIMIT]}]},
            "keys[0].metadata",
            "metadata.name",
        ),
        ({"keys": [{"key": "a", "allowedModels": ["a*b"]}]}, "keys[0].allowedModels", "beginning"),
        ({"keys": [{"key": "a", "budgets": [LIMIT]}]}, "keys[0].metadata", "metadata.name"),
        ({"keys": [], "location": {"cookie": {"name": ""}}}, "location.cookie.name", "name"),
        ({"keys": [], "mode": "lax"}, "mode", "'strict', 'optional' or 'permissive'"),
    ],
)
def test_refused_configurations(payload: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make("apiKey", payload, services())
    assert caught.value.path == f"apiKey.{path}"
    assert message in caught.value.message
    assert "k-ada" not in str(caught.value)


# --- budgets ----------------------------------------------------------------------------------


@pytest.fixture
def table() -> Iterator[BudgetTable]:
    made = BudgetTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", 1000)
    yield made
    made.close()


def spender(table: BudgetTable, *keys: dict[str, Any], place: str = "") -> Any:
    made = services(budgets=table, clock=HeldClock(), attachment=place)
    return make("apiKey", {"keys": list(keys)}, made)


def spend(made: Any, key: str, tokens: int) -> Response | None:
    asked = bearer(f"Bearer {key}")
    refusal = made.on_request(asked)
    assert refusal is None or isinstance(refusal, Response)
    if refusal is None:
        asked.state["llm"] = {"totalTokens": tokens}
        for ending in asked.endings:
            ending(asked, response())
    return refusal


def test_a_budget_of_a_key(table: BudgetTable) -> None:
    bob = {"key": "k-bob", "metadata": {"name": "bob"}, "budgets": [LIMIT]}
    made = spender(table, {**ADA, "budgets": [LIMIT]}, bob)
    assert made.is_guard
    assert spend(made, "k-ada", 11) is None
    refusal = spend(made, "k-ada", 1)
    assert refusal is not None
    assert (refusal.status, refusal.reason) == (429, "BudgetExceeded")
    assert spend(made, "k-bob", 3) is None
    rows = {names_in(row.label): row.spent for row in table.rows()}
    assert rows == {("day", "ada"): 11, ("day", "bob"): 3}


def test_a_budget_is_the_names_wherever_its_keys_are(table: BudgetTable) -> None:
    second = {**ADA, "key": "k-ada-2", "budgets": [LIMIT]}
    first = spender(table, {**ADA, "budgets": [LIMIT]}, second, place="route/a")
    assert spend(first, "k-ada", 6) is None
    assert spend(first, "k-ada-2", 6) is None
    assert spend(spender(table, second, place="route/b"), "k-ada-2", 1) is not None


def test_keys_of_one_name_have_the_same_budgets() -> None:
    other = {**LIMIT, "limit": {"unit": "Tokens", "amount": 11}}
    keys = [{**ADA, "budgets": [LIMIT]}, {**ADA, "key": "k-2", "budgets": [other]}]
    with pytest.raises(ConfigError, match=r"keys\[0\] has the same metadata.name"):
        policy(*keys)


def test_two_budgets_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        policy({**ADA, "budgets": [LIMIT, LIMIT]})
    assert caught.value.path == "apiKey.keys[0].budgets[1].name"
