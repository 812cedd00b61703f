"""Istio's policies from files: what becomes of each field, and what is refused where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.local import Source, load
from sidecar.config.normalise import normalise
from sidecar.errors import ConfigError

Json = dict[str, Any]


def read(text: str, tmp_path: Path, **istio: Any) -> tuple[Json, list[str]]:
    """Resources by name, and problems without the file's directory."""
    (tmp_path / "p.yaml").write_text(text)
    problems: list[ConfigError] = []
    config = {"config": {"istio": {"policyFiles": [f"{tmp_path}/*.yaml"], **istio}}}
    snapshot = normalise(config, problems)
    found = {
        key.removeprefix("authorization/"): resource.data
        for key, resource in snapshot.resources.items()
        if resource.kind == "authorization"
    }
    return found, [str(problem).replace(f"{tmp_path}/", "") for problem in problems]


def policy(spec: Any, name: str = "p", namespace: str = "ns", **meta: Any) -> Json:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace, **meta},
        "spec": spec,
    }


def made(spec: Any, tmp_path: Path, **meta: Any) -> Json:
    found, problems = read(yaml.safe_dump(policy(spec, **meta)), tmp_path)
    assert problems == []
    (data,) = found.values()
    return data


def rules(tmp_path: Path, *all_of: Any) -> Any:
    return made({"rules": list(all_of)}, tmp_path)["rules"]


def source(**fields: Any) -> Json:
    return {"from": [{"source": fields}]}


def operation(**fields: Any) -> Json:
    return {"to": [{"operation": fields}]}


def when(key: str, **values: Any) -> Json:
    return {"when": [{"key": key, **values}]}


FIELDS: dict[str, tuple[Json, Json]] = {
    "principals": (
        source(principals=["td/ns/n/sa/s", "*/sa/s", "td/*", "*"]),
        {
            "principals": [
                {"exact": "td/ns/n/sa/s"},
                {"suffix": "/sa/s"},
                {"prefix": "td/"},
                {"presence": {}},
            ]
        },
    ),
    "not": (source(notNamespaces=["a"]), {"notNamespaces": [{"exact": "a"}]}),
    "tokens": (
        source(requestPrincipals=["i/s"], notRequestPrincipals=["*"]),
        {"requestPrincipals": [{"exact": "i/s"}], "notRequestPrincipals": [{"presence": {}}]},
    ),
    "accounts": (
        source(serviceAccounts=["a", "other/b"]),
        {
            "serviceAccounts": [
                {"namespace": "ns", "serviceAccount": "a"},
                {"namespace": "other", "serviceAccount": "b"},
            ]
        },
    ),
    "networks": (
        source(ipBlocks=["10.0.0.1/8", "::1"], notRemoteIpBlocks=["192.0.2.1"]),
        {"sourceIps": ["10.0.0.0/8", "::1/128"], "notRemoteIps": ["192.0.2.1/32"]},
    ),
    "operations": (
        operation(hosts=["*.x"], ports=["80"], methods=["GET"], notPaths=["/a/*", "/b/{*}"]),
        {
            "hosts": [{"suffix": ".x"}],
            "destinationPorts": [80],
            "methods": [{"exact": "GET"}],
            "notPaths": [{"prefix": "/a/"}, {"template": "/b/{*}"}],
        },
    ),
    "a header": (
        when("request.headers[X-Token]", values=["a"], notValues=["b*"]),
        {
            "headers": [
                {"name": "x-token", "values": [{"exact": "a"}], "notValues": [{"prefix": "b"}]}
            ]
        },
    ),
    "a claim": (
        when("request.auth.claims[realm][roles]", values=["admin"]),
        {"claims": [{"path": ["realm", "roles"], "values": [{"exact": "admin"}]}]},
    ),
    "audiences": (
        when("request.auth.audiences", values=["a"]),
        {"claims": [{"path": ["aud"], "values": [{"exact": "a"}]}]},
    ),
    "presenter": (
        when("request.auth.presenter", notValues=["a"]),
        {"claims": [{"path": ["azp"], "notValues": [{"exact": "a"}]}]},
    ),
    "conditions of connections": (
        when("source.ip", values=["10.0.0.1"], notValues=["10.0.0.2"]),
        {"sourceIps": ["10.0.0.1/32"], "notSourceIps": ["10.0.0.2/32"]},
    ),
    "remote.ip": (when("remote.ip", values=["::1"]), {"remoteIps": ["::1/128"]}),
    "source.namespace": (
        when("source.namespace", notValues=["a"]),
        {"notNamespaces": [{"exact": "a"}]},
    ),
    "source.principal": (
        when("source.principal", values=["*"]),
        {"principals": [{"presence": {}}]},
    ),
    "destination": (when("destination.port", values=["8080"]), {"destinationPorts": [8080]}),
    "destination.ip": (when("destination.ip", values=["::/0"]), {"destinationIps": ["::/0"]}),
    "connection.sni": (
        when("connection.sni", values=["a.x"]),
        {"connectionSni": [{"exact": "a.x"}]},
    ),
    "request.auth.principal": (
        when("request.auth.principal", values=["i/*"]),
        {"requestPrincipals": [{"prefix": "i/"}]},
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str, tmp_path: Path) -> None:
    rule, expected = FIELDS[name]
    assert rules(tmp_path, rule) == [[[expected]]]


def test_rules_are_clauses(tmp_path: Path) -> None:
    two = {
        "from": [{"source": {"namespaces": ["a"]}}, {"source": {"namespaces": ["b"]}}],
        "to": [{"operation": {"methods": ["GET"]}}],
        "when": [
            {"key": "source.ip", "values": ["10.0.0.1"]},
            {"key": "source.ip", "values": ["10.0.0.2"]},
        ],
    }
    assert rules(tmp_path, two, {}) == [
        [
            [{"namespaces": [{"exact": "a"}]}, {"namespaces": [{"exact": "b"}]}],
            [{"methods": [{"exact": "GET"}]}],
            [{"sourceIps": ["10.0.0.1/32"]}],
            [{"sourceIps": ["10.0.0.2/32"]}],
        ],
        [],
    ]


SCOPES: dict[str, tuple[Json, str, Json]] = {
    "name space": ({}, "ns", {"scope": "NAMESPACE"}),
    "mesh": ({}, "istio-system", {"scope": "GLOBAL"}),
    "an empty selector": ({"selector": {}}, "ns", {"scope": "NAMESPACE"}),
    "labels": (
        {"selector": {"matchLabels": {"a": "b"}}},
        "ns",
        {"scope": "WORKLOAD_SELECTOR", "selector": {"a": "b"}},
    ),
    "labels anywhere": (
        {"selector": {"matchLabels": {"a": "b"}}},
        "istio-system",
        {"scope": "WORKLOAD_SELECTOR", "selector": {"a": "b"}, "anyNamespace": True},
    ),
    "targets": (
        {
            "targetRefs": [
                {"kind": "Service", "group": "", "name": "s"},
                {"kind": "ServiceEntry", "group": "networking.istio.io", "name": "e"},
                {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "g"},
            ]
        },
        "ns",
        {
            "scope": "TARGETS",
            "targets": [
                {"kind": "Service", "name": "s"},
                {"kind": "ServiceEntry", "name": "e"},
                {"kind": "Gateway", "name": "g"},
            ],
        },
    ),
    "a class": (
        {
            "targetRef": {
                "kind": "GatewayClass",
                "group": "gateway.networking.k8s.io",
                "name": "c",
            }
        },
        "istio-system",
        {"scope": "TARGETS", "targets": [{"kind": "GatewayClass", "name": "c"}]},
    ),
}


@pytest.mark.parametrize("name", SCOPES)
def test_scopes(name: str, tmp_path: Path) -> None:
    spec, namespace, expected = SCOPES[name]
    data = made(spec, tmp_path, namespace=namespace)
    assert {key: data[key] for key in expected} == expected
    assert (data["action"], data["rules"], data["dryRun"]) == ("ALLOW", [], False)


def test_actions_and_dry_run(tmp_path: Path) -> None:
    dry = {"istio.io/dry-run": "true"}
    data = made({"action": "DENY"}, tmp_path, annotations=dry)
    assert (data["action"], data["dryRun"]) == ("DENY", True)
    assert made({"action": "AUDIT"}, tmp_path)["action"] == "AUDIT"


WRONG: dict[str, tuple[Any, str]] = {
    "custom": (
        {"action": "CUSTOM", "provider": {"name": "x"}},
        "spec.action: CUSTOM is not supported: an extAuthz policy asks another service",
    ),
    "action": ({"action": "deny"}, "spec.action: unknown action `deny`"),
    "provider": ({"provider": {}}, "spec.provider: is for CUSTOM only"),
    "field": ({"rule": []}, "spec.rule: unknown field `rule`"),
    "rules": ({"rules": {}}, "spec.rules: expected a list"),
    "rule": ({"rules": [{"form": []}]}, "spec.rules[0]: expected from, to and when"),
    "source": ({"rules": [{"from": [{}]}]}, "from[0]: expected source with at least one field"),
    "source field": (
        {"rules": [source(principal=["x"])]},
        "from[0].source.principal: unknown field `principal`",
    ),
    "operation of a source": (
        {"rules": [source(paths=["/x"])]},
        "from[0].source.paths: unknown field `paths`",
    ),
    "values": (
        {"rules": [operation(methods=[])]},
        "to[0].operation.methods: expected a list with at least one value",
    ),
    "no text": (
        {"rules": [operation(ports=[80])]},
        "to[0].operation.ports: expected texts that are not empty",
    ),
    "port": ({"rules": [operation(ports=["0"])]}, "to[0].operation.ports: `0` is no port"),
    "spiffe": (
        {"rules": [source(principals=["spiffe://td/ns/n/sa/s"])]},
        "write it without spiffe://, or it never matches",
    ),
    "star": (
        {"rules": [source(principals=["a*b"])]},
        "`a*b`: a * may stand at the beginning or at the end",
    ),
    "network": (
        {"rules": [source(ipBlocks=["10.0.0.0/33"])]},
        "`10.0.0.0/33` is no address and no network",
    ),
    "account": (
        {"rules": [source(serviceAccounts=["a/b/c"])]},
        "`a/b/c`: expected `account` or `namespace/account`",
    ),
    "path": ({"rules": [operation(paths=["x"])]}, "`x`: a path begins with / or *"),
    "dots": ({"rules": [operation(paths=["/a/../b"])]}, "no request's path can match this"),
    "query": ({"rules": [operation(paths=["/a?b"])]}, "no request's path can match this"),
    "template": (
        {"rules": [operation(paths=["/a{*}"])]},
        "{*} and {**} stand for whole segments of a path",
    ),
    "template's end": (
        {"rules": [operation(paths=["/{**}/{*}"])]},
        "{**} must be the last operator",
    ),
    "key": (
        {"rules": [when("request.header[x]", values=["a"])]},
        "when[0].key: unknown key `request.header[x]`",
    ),
    "experimental": (
        {"rules": [when("experimental.envoy.filters.a[b]", values=["a"])]},
        "when[0].key: unknown key `experimental.envoy.filters.a[b]`",
    ),
    "no values": (
        {"rules": [when("source.ip")]},
        "when[0]: expected values or notValues",
    ),
    "two scopes": (
        {
            "selector": {"matchLabels": {"a": "b"}},
            "targetRefs": [{"kind": "Service", "name": "s"}],
        },
        "spec.selector: only one of selector and targetRefs may be set",
    ),
    "target": (
        {"targetRefs": [{"kind": "Deployment", "group": "apps", "name": "s"}]},
        "spec.targetRefs[0]: cannot target `apps/Deployment`",
    ),
    "target elsewhere": (
        {"targetRefs": [{"kind": "Service", "name": "s", "namespace": "x"}]},
        "spec.targetRefs[0].namespace: another name space cannot be targeted",
    ),
    "class from elsewhere": (
        {
            "targetRef": {
                "kind": "GatewayClass",
                "group": "gateway.networking.k8s.io",
                "name": "c",
            }
        },
        "a GatewayClass is targeted from the name space istio-system only",
    ),
    "expressions": (
        {"selector": {"matchExpressions": []}},
        "spec.selector: expected matchLabels",
    ),
    "spec": ([], "spec: expected a map"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    spec, expected = WRONG[name]
    _, problems = read(yaml.safe_dump(policy(spec)), tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith("config.istio.policyFiles[0]: p.yaml:1: spec")
    assert problems[0].endswith(expected)


OBJECTS: dict[str, tuple[str, list[str]]] = {
    "nothing": ("", []),
    "comments": ("# only\n---\n# this\n", []),
    "another kind": (
        "apiVersion: v1\nkind: ConfigMap\n",
        ["p.yaml:1: `v1` `ConfigMap`: only AuthorizationPolicy and PeerAuthentication are read"],
    ),
    "authentication": (
        "{}\n---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\n",
        [
            "p.yaml:1: `None` `None`: only AuthorizationPolicy and PeerAuthentication are read",
            "p.yaml:2: `security.istio.io/v1` `RequestAuthentication`:"
            " use a jwtAuth policy of a route or a listener",
        ],
    ),
    "no map": ("- x", ["p.yaml:1: expected an object"]),
    "no name": (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {}\n",
        ["p.yaml:1: metadata.name: expected a name in lower case"],
    ),
    "a key twice": (
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        "metadata: {name: a}\nspec: {}\nspec: {action: DENY}\n",
        ["p.yaml:6: duplicate key `spec`, first given at 5:1"],
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects(name: str, tmp_path: Path) -> None:
    text, expected = OBJECTS[name]
    found, problems = read(text, tmp_path)
    assert found == {}
    assert problems == [f"config.istio.policyFiles[0]: {one}" for one in expected]


def test_lists_several_documents_and_a_name_twice(tmp_path: Path) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [policy({}, "a"), policy({}, "b")]}
    text = yaml.safe_dump_all([listed, policy({}, "c"), policy({}, "a", "x"), policy({}, "a")])
    found, problems = read(text, tmp_path)
    assert sorted(found) == ["ns/a", "ns/b", "ns/c", "x/a"]
    (problem,) = problems
    assert problem.endswith("metadata.name: there is another policy `ns/a`")


def peer(name: str, mode: str = "", namespace: str = "ns", **spec: Any) -> Json:
    given = {**({"mtls": {"mode": mode}} if mode else {}), **spec}
    return {**policy(given, name, namespace), "kind": "PeerAuthentication"}


NOBODY = {"notPrincipals": [{"presence": {}}]}
APP = {"matchLabels": {"app": "w"}}


def test_peer_authentication(tmp_path: Path) -> None:
    ports = {"9090": {"mode": "PERMISSIVE"}, "9091": {"mode": "UNSET"}}
    text = yaml.safe_dump_all(
        [
            peer("mesh", "STRICT", "istio-system"),
            peer("lax", "PERMISSIVE"),
            peer("own", "STRICT", selector=APP, portLevelMtls=ports),
            peer("inherits", selector=APP, portLevelMtls={"9090": {"mode": "STRICT"}}),
            peer("unset", "UNSET", "other"),
        ]
    )
    found, problems = read(text, tmp_path)
    assert problems == []
    name = "converted_peer_authentication_"
    short = {key.replace(name, ""): (data["scope"], data["rules"]) for key, data in found.items()}
    assert short == {
        "istio-system/mesh": ("GLOBAL", [[[NOBODY]]]),
        "ns/lax": ("NAMESPACE", []),
        "ns/own": ("WORKLOAD_SELECTOR", [[[NOBODY], [{"notDestinationPorts": [9090]}]]]),
        "ns/inherits": ("WORKLOAD_SELECTOR", [[[{"destinationPorts": [9090], **NOBODY}]]]),
    }
    assert {data["action"] for data in found.values()} == {"DENY"}
    assert {data["group"] for data in found.values()} == {"peerAuthentication"}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (peer("p", "DISABLE"), "DISABLE cannot be kept: PERMISSIVE lets plaintext in"),
        (peer("p", "strict"), "spec.mtls: expected mode: UNSET, PERMISSIVE, STRICT"),
        (peer("p", portLevelMtls={"80": {"mode": "STRICT"}}), "portLevelMtls: needs a selector"),
        (peer("p", selector=APP, portLevelMtls={"x": {}}), "spec.portLevelMtls.x: is no port"),
        (peer("p", mode="", action="DENY"), "spec.action: unknown field `action`"),
    ],
)
def test_peer_authentication_that_is_refused(one: Json, expected: str, tmp_path: Path) -> None:
    _, problems = read(yaml.safe_dump(one), tmp_path)
    assert len(problems) == 1
    assert problems[0].endswith(expected)


def test_another_root_name_space(tmp_path: Path) -> None:
    found, _ = read(yaml.safe_dump(policy({}, "a", "mesh")), tmp_path, rootNamespace="mesh")
    assert found["mesh/a"]["scope"] == "GLOBAL"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    problems: list[ConfigError] = []
    files = [f"{tmp_path}/none.yaml", f"{tmp_path}/*.yaml", f"{tmp_path}/none/*.yaml"]
    snapshot = normalise({"config": {"istio": {"policyFiles": files}}}, problems)
    assert [str(problem).replace(str(tmp_path), "") for problem in problems] == [
        "config.istio.policyFiles[0]: cannot read `/none.yaml`: No such file or directory",
        "config.istio.policyFiles[2]: `/none` is no directory",
    ]
    (warning,) = snapshot.warnings
    assert str(warning).endswith("/*.yaml` matches no file")


def test_directories_are_watched(tmp_path: Path) -> None:
    files = [f"{tmp_path}/a.yaml", f"{tmp_path}/b/*.yaml", "*.yaml"]
    text = yaml.safe_dump({"config": {"istio": {"policyFiles": files}}})
    loaded = load(Source("c", None, text), {})
    assert loaded.files == [f"{tmp_path}/a.yaml", f"{tmp_path}/b", "."]


def test_a_selector_of_nobody(tmp_path: Path) -> None:
    labels = {"selector": {"matchLabels": {"app": "w"}}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(policy(labels)))
    config: Json = {"config": {"istio": {"policyFiles": [f"{tmp_path}/p.yaml"]}}}

    def warnings(**workload: Any) -> list[str]:
        given = {"uid": "w", "namespace": "ns", **workload}
        snapshot = normalise({**config, "workloads": [given]}, [])
        return [str(warning) for warning in snapshot.warnings]

    assert warnings(labels={"app": "w", "v": "1"}) == []
    assert warnings(authorizationPolicies=["ns/p"]) == []
    (warning,) = warnings(labels={"app": "x"})
    assert "policy `ns/p` selects no workload of the file" in warning
