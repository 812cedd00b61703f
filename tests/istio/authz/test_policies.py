"""Which policies bind whom, stage by stage; changes; and that the index changes no decision."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.wire.identity import Identity
from istio.authz import Connection, Policies, Request, Subject, check
from istio.authz.compiled import Rule, Stage, rules_of
from sidecar.errors import ConfigError

Data = dict[str, Any]

ANYBODY = [[]]
CALLER = Connection(Identity("td", "web", "front"), "10.0.0.1", "10.0.0.2", 80)
PLAIN = Connection(None, "10.0.0.1", "10.0.0.2", 80)
WEB = [[[{"namespaces": [{"exact": "web"}]}]]]
OTHER = [[[{"namespaces": [{"exact": "other"}]}]]]
GET = [[[{"methods": [{"exact": "GET"}]}]]]
SNI = [[[{"connectionSni": [{"exact": "a.example"}]}]]]


def policy(name: str, rules: Any = ANYBODY, action: str = "DENY", **more: Any) -> Data:
    made = {"name": name, "namespace": "app", "scope": "NAMESPACE", "action": action}
    return {**made, "dryRun": False, "rules": rules, **more}


def holding(*all_of: Data) -> Policies:
    made = Policies()
    made.apply({f"authorization/{one['namespace']}/{one['name']}": one for one in all_of}, ())
    return made


def request(method: str = "GET", **more: Any) -> Request:
    return Request(method, "/", "a.example", lambda _: (), **more)


SUBJECT = Subject("app")
SCOPES: dict[str, tuple[Data, Subject, bool]] = {
    "the mesh's": (policy("p", scope="GLOBAL"), Subject("else"), True),
    "its name space's": (policy("p"), Subject("app"), True),
    "another name space's": (policy("p"), Subject("else"), False),
    "not listed": (policy("p", scope="WORKLOAD_SELECTOR"), Subject("app"), False),
    "listed": (policy("p", scope="WORKLOAD_SELECTOR"), Subject("app", ("app/p",)), True),
    "listed and unknown": (policy("p", scope="WORKLOAD_SELECTOR"), Subject("app", ("x/y",)), False),
    "labels that fit": (
        policy("p", scope="WORKLOAD_SELECTOR", selector={"a": "1"}),
        Subject("app", labels=frozenset({("a", "1"), ("b", "2")})),
        True,
    ),
    "labels that do not": (
        policy("p", scope="WORKLOAD_SELECTOR", selector={"a": "1", "b": "1"}),
        Subject("app", labels=frozenset({("a", "1"), ("b", "2")})),
        False,
    ),
    "labels in any name space": (
        policy("p", scope="WORKLOAD_SELECTOR", selector={"a": "1"}, anyNamespace=True),
        Subject("else", labels=frozenset({("a", "1")})),
        True,
    ),
    "labels of another name space": (
        policy("p", scope="WORKLOAD_SELECTOR", selector={"a": "1"}),
        Subject("else", labels=frozenset({("a", "1")})),
        False,
    ),
    "a service": (
        policy("p", scope="TARGETS", targets=[{"kind": "Service", "name": "s"}]),
        Subject.behind("app", service="s"),
        True,
    ),
    "a service entry": (
        policy("p", scope="TARGETS", targets=[{"kind": "ServiceEntry", "name": "s"}]),
        Subject.behind("app", service="s"),
        True,
    ),
    "another service": (
        policy("p", scope="TARGETS", targets=[{"kind": "Service", "name": "s"}]),
        Subject.behind("app", service="t"),
        False,
    ),
    "a service of that name elsewhere": (
        policy("p", scope="TARGETS", targets=[{"kind": "Service", "name": "s"}]),
        Subject.behind("else", service="s"),
        False,
    ),
    "the gateway": (
        policy("p", scope="TARGETS", targets=[{"kind": "Gateway", "name": "w"}]),
        Subject.behind("else", service="t", gateway=("app", "w")),
        True,
    ),
    "its class": (
        policy("p", scope="TARGETS", targets=[{"kind": "GatewayClass", "name": "c"}]),
        Subject.behind("else", service="t", gateway_class="c"),
        True,
    ),
    "a name space's, behind a waypoint": (policy("p"), Subject.behind("app", service="s"), True),
}


@pytest.mark.parametrize("name", SCOPES)
def test_scopes(name: str) -> None:
    data, subject, is_bound = SCOPES[name]
    decision = holding(data).decide(subject, CALLER)
    assert decision.allowed is not is_bound
    assert decision.policy == ("app/p" if is_bound else "")


def test_both_kinds_must_allow_behind_a_waypoint() -> None:
    target = {"scope": "TARGETS", "targets": [{"kind": "Service", "name": "s"}]}
    subject = Subject.behind("app", service="s")
    by_target = policy("t", WEB, "ALLOW", **target)
    by_namespace = policy("n", WEB, "ALLOW")
    assert holding(by_target, by_namespace).decide(subject, CALLER).allowed
    # One that allows everybody does not widen the other kind.
    wide = policy("w", ANYBODY, "ALLOW")
    assert not holding(policy("t", OTHER, "ALLOW", **target), wide).decide(subject, CALLER).allowed
    assert not holding(by_target, policy("n", OTHER, "ALLOW")).decide(subject, CALLER).allowed


# rules, action → allowed at connect, tcp, a GET, a POST
STAGES: dict[str, tuple[Any, str, tuple[bool, bool, bool, bool]]] = {
    "allow a method": (GET, "ALLOW", (True, False, True, False)),
    "deny a method": (GET, "DENY", (True, False, False, True)),
    "allow a method to others": (
        [[OTHER[0][0], GET[0][0]]],
        "ALLOW",
        (False, False, False, False),
    ),
    "deny a method to others": ([[OTHER[0][0], GET[0][0]]], "DENY", (True, True, True, True)),
    "deny a method to it": ([[WEB[0][0], GET[0][0]]], "DENY", (True, False, False, True)),
    "allow all but a method": (
        [[[{"notMethods": [{"exact": "GET"}]}]]],
        "ALLOW",
        (True, False, False, True),
    ),
    "allow it": (WEB, "ALLOW", (True, True, True, True)),
    "deny it": (WEB, "DENY", (False, False, False, False)),
    "allow either": (
        [[[WEB[0][0][0], GET[0][0][0]]]],
        "ALLOW",
        (True, False, True, True),
    ),
    "allow nothing": ([], "ALLOW", (False, False, False, False)),
    "deny nothing": ([], "DENY", (True, True, True, True)),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages(name: str) -> None:
    rules, action, expected = STAGES[name]
    policies = holding(policy("p", rules, action))
    found = (
        policies.decide(SUBJECT, CALLER, stage="connect").allowed,
        policies.decide(SUBJECT, CALLER, stage="tcp").allowed,
        policies.decide(SUBJECT, CALLER, request("GET")).allowed,
        policies.decide(SUBJECT, CALLER, request("POST")).allowed,
    )
    assert found == expected


def test_server_names_are_known_after_the_connect() -> None:
    policies = holding(policy("p", SNI, "ALLOW"))
    named = Connection(None, "10.0.0.1", "10.0.0.2", 443, sni="A.example")
    assert policies.decide(SUBJECT, PLAIN, stage="connect").allowed
    assert not policies.decide(SUBJECT, PLAIN, stage="tcp").allowed
    assert policies.decide(SUBJECT, named, stage="tcp").allowed
    assert not holding(policy("p", SNI)).decide(SUBJECT, named, stage="tcp").allowed


def test_several_targets() -> None:
    targets = [{"kind": "Service", "name": name} for name in ("s", "t")]
    policies = holding(policy("p", WEB, scope="TARGETS", targets=targets))
    for name in ("s", "t"):
        assert not policies.decide(Subject.behind("app", service=name), CALLER).allowed
    policies.drop("app/p")
    assert policies.decide(Subject.behind("app", service="t"), CALLER).allowed


def test_audited() -> None:
    decision = holding(policy("p", WEB, "AUDIT")).decide(SUBJECT, CALLER)
    assert decision.allowed
    assert decision.lines == ("audit: policy match app/p",)


PEER = {"group": "peerAuthentication", "action": "DENY"}
STRICT = [[[{"notPrincipals": [{"presence": {}}]}]]]


def test_the_most_specific_peer_authentication_counts() -> None:
    mesh = policy("mesh", STRICT, scope="GLOBAL", group="peerAuthentication")
    mesh["namespace"] = "istio-system"
    lax = policy("lax", [], group="peerAuthentication")
    own = policy("own", STRICT, scope="WORKLOAD_SELECTOR", selector={"a": "1"}, group=PEER["group"])
    policies = holding(mesh, lax, own)
    labelled = Subject("app", labels=frozenset({("a", "1")}))
    assert not policies.decide(Subject("else"), PLAIN).allowed
    assert policies.decide(Subject("else"), CALLER).allowed
    assert policies.decide(Subject("app"), PLAIN).allowed
    assert not policies.decide(labelled, PLAIN).allowed
    policies.drop("app/own")
    assert policies.decide(labelled, PLAIN).allowed
    policies.apply({}, ["authorization/app/lax"])
    assert not policies.decide(labelled, PLAIN).allowed


def test_changes_hold_at_once() -> None:
    policies = holding(policy("p"))
    before = policies.generation
    assert not policies.decide(SUBJECT, CALLER).allowed
    policies.apply({"authorization/app/p": policy("p", OTHER)}, ())
    assert policies.decide(SUBJECT, CALLER).allowed
    policies.apply({"authorization/app/q": policy("q", OTHER, "ALLOW"), "route/x": {}}, ())
    assert not policies.decide(SUBJECT, CALLER).allowed
    policies.apply({}, ["authorization/app/q", "authorization/app/none", "service/a/b"])
    assert policies.decide(SUBJECT, CALLER).allowed
    assert policies.generation > before
    assert len(policies) == 1


BROKEN: dict[str, Data] = {
    "action": policy("p", action="MAYBE"),
    "network": policy("p", [[[{"sourceIps": ["10.0.0.0/33"]}]]]),
    "template": policy("p", [[[{"paths": [{"template": "/{**}/{**}"}]}]]]),
    "field": policy("p", [[[{"principal": [{"exact": "x"}]}]]]),
    "path": policy("p", [[[{"paths": [{"exact": "/../a"}]}]]]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_that_means_nothing_lets_nothing_pass(name: str) -> None:
    with pytest.raises(ConfigError):
        check("app/p", BROKEN[name])
    policies = Policies()
    changed = {"authorization/app/p": BROKEN[name], "authorization/app/q": policy("q", OTHER)}
    with pytest.raises(ConfigError, match="authorization/app/p"):
        policies.apply(changed, ())
    assert not policies.decide(SUBJECT, CALLER).allowed
    assert policies.decide(Subject("else"), CALLER).allowed
    assert len(policies) == 2
    policies.apply({"authorization/app/p": policy("p", OTHER)}, ())
    assert policies.decide(SUBJECT, CALLER).allowed


def test_a_scope_that_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        check("app/p", policy("p", scope="EVERYWHERE"))
    with pytest.raises(ConfigError):
        check("app/p", policy("p", scope="TARGETS"))
    policies = holding(policy("p", OTHER))
    with pytest.raises(ConfigError):
        policies.put("app/p", {"name": "p", "action": "DENY"})
    # Whom it would bind is not known: the one before goes on.
    assert len(policies) == 1
    assert policies.decide(SUBJECT, CALLER).allowed


# The index.

_NAMES = st.sampled_from(["a", "ab", "b", "ba"])
_TEXTS = st.one_of(
    _NAMES.map(lambda name: {"exact": name}),
    _NAMES.map(lambda name: {"prefix": name}),
    _NAMES.map(lambda name: {"suffix": name}),
    st.just({"presence": {}}),
)
_NETS = st.sampled_from(["10.0.0.0/8", "10.0.0.1/32", "10.0.0.0/31", "::/0", "fd00::1"])
_MATCH = st.fixed_dictionaries(
    {},
    optional={
        "namespaces": st.lists(_TEXTS, max_size=2),
        "notNamespaces": st.lists(_TEXTS, max_size=1),
        "principals": st.lists(
            _NAMES.map(lambda name: {"exact": f"td/ns/{name}/sa/s"}), max_size=2
        ),
        "sourceIps": st.lists(_NETS, max_size=2),
        "notSourceIps": st.lists(_NETS, max_size=1),
        "destinationIps": st.lists(_NETS, max_size=1),
        "destinationPorts": st.lists(st.sampled_from([80, 81]), max_size=2),
        "serviceAccounts": st.lists(
            _NAMES.map(lambda name: {"namespace": name, "serviceAccount": "s"}), max_size=2
        ),
        "methods": st.lists(st.just({"exact": "GET"}), max_size=1),
    },
)
_RULES = st.lists(st.lists(st.lists(_MATCH, max_size=2), max_size=2), max_size=3)
_CONNECTIONS = st.builds(
    Connection,
    st.one_of(st.none(), _NAMES.map(lambda name: Identity("td", name, "s"))),
    st.sampled_from(["10.0.0.1", "10.0.0.2", "11.0.0.1", "fd00::1"]),
    st.sampled_from(["10.0.0.1", "fd00::1"]),
    st.sampled_from([80, 81]),
)
_POLICIES = st.lists(st.tuples(_RULES, st.sampled_from(["ALLOW", "DENY"])), max_size=4)


def in_order(all_of: list[tuple[Any, str]], connection: Connection, stage: Stage) -> bool:
    """Every rule of every policy, one after the other."""
    made: list[tuple[str, list[Rule]]] = [
        (action, [rule for rule, _ in rules_of("p", rules, is_deny=action == "DENY")])
        for rules, action in all_of
    ]
    get = request("GET") if stage == "request" else None

    def holds(action: str) -> bool:
        rules = [rule for of, found in made if of == action for rule in found]
        return any(rule.holds(stage, connection, get) for rule in rules)

    has_allow = any(action == "ALLOW" for action, _ in made)
    return not holds("DENY") and (not has_allow or holds("ALLOW"))


@settings(max_examples=150, deadline=None)
@given(_POLICIES, _CONNECTIONS, st.sampled_from(["connect", "tcp", "request"]))
def test_the_index_changes_no_decision(
    all_of: list[tuple[Any, str]], connection: Connection, stage: Stage
) -> None:
    policies = holding(
        *(policy(f"p{index}", rules, action) for index, (rules, action) in enumerate(all_of))
    )
    get = request("GET") if stage == "request" else None
    decision = policies.decide(SUBJECT, connection, get, stage)
    assert decision.allowed is in_order(all_of, connection, stage)
    for index in range(len(all_of)):
        policies.drop(f"app/p{index}")
    assert policies.decide(SUBJECT, connection, get, stage).allowed
    assert policies._scopes == {}
