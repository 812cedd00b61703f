"""Rules over HTTP at a pod's sidecar, which sees connections alone: what cannot be looked at never
lets anybody in that a rule was to keep out.

Source: spec istio section 4.4: of ALLOW the whole rule is dropped, of DENY its HTTP part alone.
"""

from __future__ import annotations

from typing import Any

import pytest

from hbone.wire.authority import make_authority
from hbone.wire.identity import parse_identity
from istio.authz import Policies
from istio.sidecar.decisions import Decisions
from istio.sidecar.ways import Arrival, Entry, Refused
from istio.workload import Place, Store
from sidecar.config.authorization_policy import authorization
from tests.hbone.pki import spiffe

OWN = "10.0.0.1"
CLIENT, OTHER = "cluster.local/ns/default/sa/client", "cluster.local/ns/default/sa/other"
FROM: dict[str, Any] = {"from": [{"source": {"principals": [CLIENT]}}]}
NOBODY, CLIENT_ALONE, ALL_BUT_CLIENT, ALL = "---", "c--", "-op", "cop"


def to(**operation: Any) -> dict[str, Any]:
    return {"to": [{"operation": operation}]}


def when(key: str, *values: str) -> dict[str, Any]:
    return {"when": [{"key": key, "values": list(values)}]}


OF_REQUESTS: dict[str, dict[str, Any]] = {
    "methods": to(methods=["GET"]),
    "not methods": to(notMethods=["GET"]),
    "paths": to(paths=["/public/*"]),
    "not paths": to(notPaths=["/admin"]),
    "path templates": to(paths=["/a/{*}/b"]),
    "hosts": to(hosts=["shop.test"]),
    "not hosts": to(notHosts=["admin.test"]),
    "any path": to(paths=["*"]),
    "header": when("request.headers[x-role]", "admin"),
    "token": when("request.auth.principal", "*"),
    "audience": when("request.auth.audiences", "shop"),
    "presenter": when("request.auth.presenter", "app"),
    "claim": when("request.auth.claims[group]", "admin"),
    "whose token": {"from": [{"source": {"requestPrincipals": ["*"]}}]},
    "whose token not": {"from": [{"source": {"notRequestPrincipals": ["https://i/me"]}}]},
}
"""Rules that say nothing of the connection."""


def decided(*specs: dict[str, Any]) -> str:
    """Who is let in: c the client, o another account, p plaintext."""
    problems: list[str] = []
    policies = Policies()
    for index, spec in enumerate(specs):
        meta = {"name": f"p{index}", "namespace": "default"}
        data = authorization(meta, spec, "istio-system", lambda path, why: problems.append(why))
        policies.apply({f"authorization/default/p{index}": data}, ())
    assert problems == []
    store = Store("", "cluster.local")
    own = {"name": "own", "namespace": "default", "ips": [OWN], "service_account": "own"}
    store.apply({"workload/own": {**own, "protocol": "HBONE"}}, ())
    judge = Decisions(store, policies, Place(), "default")
    return "".join(
        letter if _is_let_in(judge, account) else "-"
        for letter, account in (("c", "client"), ("o", "other"), ("p", None))
    )


def _is_let_in(judge: Decisions, account: str | None) -> bool:
    called = None if account is None else make_authority(OWN, 8080)
    identity = None if account is None else parse_identity(spiffe(account))
    arrival = Arrival(called, identity, (OWN, 8080), ("10.0.0.9", 1234))
    found = judge.inbound(arrival)
    assert isinstance(found, Entry) is judge.allows(arrival)
    assert isinstance(found, Entry) or (isinstance(found, Refused) and found.status == 401)
    return isinstance(found, Entry)


@pytest.mark.parametrize("name", OF_REQUESTS)
def test_what_is_allowed_by_a_request_is_nobodys(name: str) -> None:
    rule = OF_REQUESTS[name]
    assert decided({"action": "ALLOW", "rules": [rule]}) == NOBODY
    # Nor is it anybody's who would be allowed the request.
    if "from" not in rule:
        assert decided({"action": "ALLOW", "rules": [{**FROM, **rule}]}) == NOBODY
    # What a rule beside it allows stays so.
    assert decided({"action": "ALLOW", "rules": [rule, FROM]}) == CLIENT_ALONE
    assert decided({"rules": [rule]}, {"rules": [FROM]}) == CLIENT_ALONE


@pytest.mark.parametrize("name", OF_REQUESTS)
def test_what_is_denied_by_a_request_is_denied_without_one(name: str) -> None:
    rule = OF_REQUESTS[name]
    assert decided({"action": "DENY", "rules": [rule]}) == NOBODY
    if "from" not in rule:
        # The part that a connection shows still says whom it is about.
        assert decided({"action": "DENY", "rules": [{**FROM, **rule}]}) == ALL_BUT_CLIENT
    # A permission takes nothing back.
    assert decided({"action": "DENY", "rules": [rule]}, {"rules": [{}]}) == NOBODY


VECTORS: dict[str, tuple[tuple[dict[str, Any], ...], str]] = {
    "no policy": ((), ALL),
    "a port and a path are allowed": (({"rules": [to(ports=["8080"], paths=["/"])]},), NOBODY),
    "a port is allowed": (({"rules": [to(ports=["8080"])]},), ALL),
    "a path on this port is denied": (
        ({"action": "DENY", "rules": [to(ports=["8080"], paths=["/admin"])]},),
        NOBODY,
    ),
    "a path on another port is denied": (
        ({"action": "DENY", "rules": [to(ports=["9090"], paths=["/admin"])]},),
        ALL,
    ),
    "a path, or whoever it is": (({"rules": [{**FROM, **to(paths=["/"])}, FROM]},), CLIENT_ALONE),
    "of two operations one is of the connection": (
        (
            {
                "rules": [
                    {
                        "to": [
                            {"operation": {"paths": ["/"]}},
                            {"operation": {"ports": ["8080"]}},
                        ]
                    }
                ]
            },
        ),
        NOBODY,  # the whole rule goes, as istiod drops it
    ),
    "of two sources one is a token's": (
        (
            {
                "rules": [
                    {
                        "from": [
                            {"source": {"requestPrincipals": ["*"]}},
                            {"source": {"principals": [CLIENT]}},
                        ]
                    }
                ]
            },
        ),
        NOBODY,
    ),
    "a token and an account in one source": (
        (
            {
                "rules": [
                    {"from": [{"source": {"requestPrincipals": ["*"], "principals": [CLIENT]}}]}
                ]
            },
        ),
        NOBODY,
    ),
    "a token and an account in one source, denied": (
        (
            {
                "action": "DENY",
                "rules": [
                    {"from": [{"source": {"requestPrincipals": ["*"], "principals": [CLIENT]}}]}
                ],
            },
        ),
        ALL_BUT_CLIENT,
    ),
    "a method that is looked at alone": (
        ({"action": "AUDIT", "rules": [to(methods=["GET"])]},),
        ALL,
    ),
    "another is denied a path, the client is allowed": (
        (
            {
                "action": "DENY",
                "rules": [{"from": [{"source": {"principals": [OTHER]}}], **to(paths=["/admin"])}],
            },
            {"rules": [FROM]},
        ),
        CLIENT_ALONE,
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    specs, expected = VECTORS[name]
    assert decided(*specs) == expected
