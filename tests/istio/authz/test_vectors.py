"""Every vector of the specification: spec istio section 4.5, and the edges of 4.3."""

from __future__ import annotations

from typing import Any

import pytest

from hbone.wire.identity import Identity
from istio.authz import Connection, Policies, Subject

Match = dict[str, Any]

P = Connection(None, "127.0.0.1", "127.0.0.2", 8080)
T = Connection(Identity("td", "namespace", "account"), "127.0.0.1", "127.0.0.2", 8080)
A = Connection(Identity("td-alt", "ns-alt", "sa=alt"), "127.0.0.3", "127.0.0.4", 9090)

ACCOUNT = {"namespace": "namespace", "serviceAccount": "account"}
PRESENCE: Match = {"presence": {}}

FIELDS: dict[str, tuple[Match, str]] = {
    "1 namespaces": ({"namespaces": [{"exact": "namespace"}]}, "FTF"),
    "2 not namespaces": ({"notNamespaces": [{"exact": "namespace"}]}, "TFT"),
    "3 service accounts": ({"serviceAccounts": [ACCOUNT]}, "FTF"),
    "4 not service accounts": ({"notServiceAccounts": [ACCOUNT]}, "TFT"),
    "5 principals": ({"principals": [{"exact": "td/ns/namespace/sa/account"}]}, "FTF"),
    "6 not principals": ({"notPrincipals": [{"exact": "td/ns/namespace/sa/account"}]}, "TFT"),
    "7 source ips": ({"sourceIps": ["127.0.0.1/32"]}, "TTF"),
    "8 not source ips": ({"notSourceIps": ["127.0.0.1/32"]}, "FFT"),
    "9 destination ips": ({"destinationIps": ["127.0.0.2/32"]}, "TTF"),
    "10 not destination ips": ({"notDestinationIps": ["127.0.0.2/32"]}, "FFT"),
    "11 host bits": ({"destinationIps": ["127.0.0.1/24"]}, "TTT"),
    "12 ports": ({"destinationPorts": [8080]}, "TTF"),
    "13 not ports": ({"notDestinationPorts": [8080]}, "FFT"),
    "14 with the scheme": (
        {"principals": [{"exact": "spiffe://td/ns/namespace/sa/account"}]},
        "FFF",
    ),
    "15 presence": ({"principals": [PRESENCE]}, "FTT"),
    "16 not presence": ({"notPrincipals": [PRESENCE]}, "TFF"),
    "17 two fields": (
        {"namespaces": [{"exact": "namespace"}], "destinationPorts": [8080]},
        "FTF",
    ),
    "presence of a namespace": ({"namespaces": [PRESENCE]}, "FTT"),
    "IPv4 in IPv6": ({"sourceIps": ["::ffff:127.0.0.1/128"]}, "TTF"),
    "everything of IPv4": ({"sourceIps": ["0.0.0.0/0"]}, "TTT"),
    "everything of IPv6": ({"sourceIps": ["::/0"]}, "FFF"),
}


def policy(rules: Any, action: str = "ALLOW", name: str = "p", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "ns1",
        "scope": "NAMESPACE",
        "action": action,
        "dryRun": False,
        "rules": rules,
        **more,
    }


def holding(*all_of: dict[str, Any]) -> Policies:
    made = Policies()
    made.apply({f"authorization/{one['namespace']}/{one['name']}": one for one in all_of}, ())
    return made


HERE = Subject("ns1")


def matches(rules: Any, connection: Connection) -> bool:
    """By an ALLOW policy, and by a DENY policy, which must agree."""
    allowed = holding(policy(rules)).decide(HERE, connection).allowed
    denied = not holding(policy(rules, "DENY")).decide(HERE, connection).allowed
    assert allowed == denied
    return allowed


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    match, expected = FIELDS[name]
    found = "".join("FT"[matches([[[match]]], connection)] for connection in (P, T, A))
    assert found == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [([], False), ([[]], True), ([[[]]], True), ([[[{}]]], False), ([[[{}], []]], False)],
)
def test_edges(rules: Any, expected: bool) -> None:
    assert matches(rules, T) is expected
    assert matches(rules, P) is expected


TEXTS: dict[str, tuple[Match, dict[str, bool]]] = {
    "exact": ({"exact": "foo"}, {"foo": True, "not": False, "": False}),
    "prefix": ({"prefix": "foo"}, {"foobar": True, "foo": True, "notfoo": False, "": False}),
    "suffix": ({"suffix": "foo"}, {"barfoo": True, "foo": True, "foonot": False, "": False}),
    "presence": (PRESENCE, {"foo": True, "": False}),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str) -> None:
    match, cases = TEXTS[name]
    for text, expected in cases.items():
        who = Identity("td", text, "sa") if text else None
        connection = Connection(who, "10.0.0.1", "10.0.0.2", 80)
        assert matches([[[{"namespaces": [match]}]]], connection) is expected, text


def from_namespace(namespace: str, port: int = 80) -> Connection:
    return Connection(Identity("td", namespace, "sa"), "10.0.0.1", "10.0.0.2", port)


def test_nesting() -> None:
    either = [{"namespaces": [{"exact": "a"}]}, {"namespaces": [{"exact": "b"}]}]
    rules = [[either, [{"destinationPorts": [80]}]]]
    assert matches(rules, from_namespace("a"))
    assert matches(rules, from_namespace("b"))
    assert not matches(rules, from_namespace("bad"))
    assert not matches(rules, from_namespace("b", 12345))


def test_several_rules() -> None:
    rules = [[[{"namespaces": [{"exact": name}]}]] for name in ("a", "b")]
    assert matches(rules, from_namespace("a"))
    assert matches(rules, from_namespace("b"))
    assert not matches(rules, from_namespace("bad"))


def default_account(name: str) -> Connection:
    return Connection(Identity("cluster.local", "default", name), "10.0.0.1", "10.0.0.2", 80)


def principal(name: str) -> list[list[list[Match]]]:
    return [[[{"principals": [{"exact": f"cluster.local/ns/default/sa/{name}"}]}]]]


def decisions() -> Policies:
    anybody = [[[{"principals": [PRESENCE]}]]]
    return holding(
        policy(principal("defaultacct"), name="allow"),
        policy(principal("denyacct"), "DENY", "deny"),
        policy(anybody, name="dry-allow", dryRun=True),
        policy(anybody, "DENY", "dry-deny", dryRun=True),
    )


def test_decisions() -> None:
    policies = decisions()
    elsewhere = policies.decide(Subject("ns2"), default_account("other"))
    assert elsewhere.allowed
    assert elsewhere.lines == ()
    allowed = policies.decide(HERE, default_account("defaultacct"))
    assert (allowed.allowed, allowed.policy) == (True, "ns1/allow")
    neither = policies.decide(HERE, default_account("not-defaultacct"))
    assert (neither.allowed, neither.policy) == (False, "")
    denied = policies.decide(HERE, default_account("denyacct"))
    assert (denied.allowed, denied.policy) == (False, "ns1/deny")


def test_dry_runs_are_told_and_do_not_count() -> None:
    decision = decisions().decide(HERE, default_account("defaultacct"))
    assert decision.allowed
    assert decision.lines == (
        "dry-run: deny policy match ns1/dry-deny",
        "dry-run: allow policy match ns1/dry-allow",
    )
    alone = holding(policy(principal("nobody"), name="dry", dryRun=True))
    assert alone.decide(HERE, default_account("x")).allowed  # no ALLOW that is enforced


STRICT: Match = {"notPrincipals": [PRESENCE]}
PEERS = {
    "strict but 9090": (
        [[[STRICT], [{"notDestinationPorts": [9090]}]]],
        {(False, 8080): False, (False, 9090): True, (True, 8080): True, (True, 9090): True},
    ),
    "permissive but 9090": (
        [[[{"destinationPorts": [9090], **STRICT}]]],
        {(False, 9090): False, (False, 8080): True, (True, 9090): True, (True, 8080): True},
    ),
    "strict": ([[[STRICT]]], {(False, 80): False, (True, 80): True}),
}


@pytest.mark.parametrize("name", PEERS)
def test_peer_authentication(name: str) -> None:
    rules, cases = PEERS[name]
    policies = holding(policy(rules, "DENY"))
    for (has_identity, port), expected in cases.items():
        who = Identity("td", "n", "s") if has_identity else None
        connection = Connection(who, "10.0.0.1", "10.0.0.2", port)
        assert policies.decide(HERE, connection).allowed is expected
