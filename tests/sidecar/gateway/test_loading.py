"""Loading: problems of all stages in one run, each once, and none that follows from another."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli import main
from sidecar.config.local import Source
from sidecar.config.problems import InvalidConfigError, Problem
from sidecar.config.text import resolve
from sidecar.gateway.loading import Loader
from tests.hbone.pki import Pki

MANY = """\
config:
  customFunctions: "twice(x) { x + }"
gateways:
  web: {port: 8080}
  again: {port: 8080}
  bare: {port: 8443, protocol: HTTPS}
backends:
- name: broken
  host: 5
routes:
- name: first
  gateways: web
  policies:
    cors: {allowOrgins: ["*"]}
    authorization:
      rules: ["twice(1) == 2", "request.path ==", "1 +"]
  backends:
  - backend: broken
  - backend: missing
- name: second
  gateways: nowhere
  matches:
  - path: {regex: "("}
  policies:
    extProc: {host: [1]}
    timeout: {requestTimeout: [1]}
    transformations: {request: {set: {x-a: "1 +", x-b: "2 +"}}}
    urlRewrite: {authority: {auto: true, full: a}}
    directResponse: {conditional: [{status: 200}, {status: 201, condition: "true"}]}
  backends: [{host: "a:1", weight: -1}]
"""
MANY_PROBLEMS = [
    (2, 20, "config.customFunctions", "CEL line 1, column 16"),
    (5, 17, "gateways.again.port", "port 8080 is configured by both"),
    (6, 9, "gateways.bare", "HTTPS gateway listener requires 'tls'"),
    (9, 9, "backends[0].host", "invalid type: integer `5`, expected a string"),
    (14, 12, "routes[0].policies.cors.allowOrgins", "unknown field `allowOrgins`"),
    (16, 32, "routes[0].policies.authorization.rules[1]", "CEL line 1, column 16"),
    (16, 51, "routes[0].policies.authorization.rules[2]", "CEL line 1, column 4"),
    (21, 13, "routes[1].gateways", "unknown gateway reference nowhere"),
    (23, 19, "routes[1].matches[0].path.regex", "invalid regex"),
    (25, 21, "routes[1].policies.extProc.host", "invalid type"),
    (26, 31, "routes[1].policies.timeout.requestTimeout", "invalid type: sequence"),
    (27, 44, "routes[1].policies.transformations.request.set.x-a", "CEL line 1"),
    (27, 56, "routes[1].policies.transformations.request.set.x-b", "CEL line 1"),
    (28, 30, "routes[1].policies.urlRewrite.authority.auto", "unknown field"),
    (29, 21, "routes[1].policies.directResponse", "conditional policy entries without"),
    (30, 36, "routes[1].backends[0].weight", "invalid value: integer `-1`"),
]
"""Line, column, path and the beginning of what is said, in the order of the file."""


SIGN = {"signingKey": Pki().leaf().key.decode(), "alg": "ES256", "ttl": "60s"}


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    return str(path)


def problems_of(document: object, loader: Loader | None = None) -> tuple[Problem, ...]:
    """What is wrong with plain data; nothing when it loads."""
    text = document if isinstance(document, str) else json.dumps(document)
    loader = loader or Loader(Source("f"), {})
    loader.source = Source("f", content=text)
    try:
        loader.load()
    except InvalidConfigError as error:
        return error.problems
    return ()


def test_all_stages_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, MANY)
    assert main(["-f", file, "--validate-only"]) == 1
    out, err = capsys.readouterr()
    *lines, warning = err.splitlines()
    assert out == ""
    assert len(lines) == len(MANY_PROBLEMS), err
    for line, (row, column, path, said) in zip(lines, MANY_PROBLEMS, strict=True):
        assert line.startswith(f"{file}:{row}:{column}: {path}: {said}")
    assert lines[4].endswith("; did you mean 'allowOrigins'?")
    assert warning.startswith(f"warning: {file}:19:14: routes[0].backends[1].backend: unknown")


def test_all_stages_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, MANY)
    assert main(["-f", file, "--validate-only", "--output", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is False
    found = [(one["line"], one["column"], one["path"]) for one in report["problems"]]
    assert found == [case[:3] for case in MANY_PROBLEMS]
    assert {one["file"] for one in report["problems"]} == {file}
    assert report["problems"][4]["hint"] == "allowOrigins"
    assert [one["line"] for one in report["warnings"]] == [19]


def test_what_a_policy_of_its_own_says_of_backends() -> None:
    """It is checked like what stands at a backend: else only a worker would refuse it."""
    policy = {"backendAuth": {"jwtSign": {**SIGN, "claimExpressions": {"sub": "1 +"}}}}
    place = "backendAuth.jwtSign.claimExpressions.sub"
    route = {"name": "r", "backends": [{"host": "a:1", "policies": policy}]}
    inline = problems_of({"binds": [{"port": 80, "listeners": [{"routes": [route]}]}]})
    apart = problems_of(
        {
            "policies": [
                {
                    "name": {"name": "x", "namespace": "d"},
                    "target": {"route": {"name": "r", "namespace": ""}},
                    "policy": policy,
                }
            ]
        }
    )
    assert [(one.path, one.message) for one in apart] == [
        (f"policies[0].policy.{place}", one.message) for one in inline
    ]
    assert len(inline) == 1


def test_a_start_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, MANY)
    assert main(["-f", file]) == 1
    started = capsys.readouterr().err
    assert main(["-f", file, "--validate-only"]) == 1
    assert capsys.readouterr().err == started


ALONE = {
    "a backend that is not sound exists": (
        "backends: [{name: b, host: 5}]\n"
        "gateways: {default: {port: 80}}\nroutes: [{backends: [{backend: b}]}]",
        ["backends[0].host"],
    ),
    "a list of backends that is misspelt may hold any": (
        "backend: [{name: b, host: 'a:1'}]\n"
        "gateways: {default: {port: 80}}\nroutes: [{backends: [{backend: b}]}]",
        ["backend"],
    ),
    "a group that is not sound exists": (
        "routeGroups: [{name: g, routes: 5}]\n"
        "gateways: {default: {port: 80}}\nroutes: [{backends: [{routeGroup: g}]}]",
        ["routeGroups[0].routes"],
    ),
    "a gateway that is not sound exists": (
        "gateways: {a: 5}\nroutes: [{gateways: a}, {gateways: a/b}]",
        ["gateways.a"],
    ),
    "the default gateway is not sound": (
        "gateways: {default: 5}\nroutes: [{}]",
        ["gateways.default"],
    ),
    "gateways are misspelt": ("gatways: {a: {port: 1}}\nroutes: [{gateways: a}, {}]", ["gatways"]),
    "a protocol that is not known": (
        "gateways: {a: {port: 1, protocol: HTPS, tls: {cert: c, key: k}}}",
        ["gateways.a.protocol", "gateways.a.tls.cert", "gateways.a.tls.key"],
    ),
    "tls that is not sound is there": (
        "gateways: {a: {port: 1, protocol: HTTPS, tls: 5}}\n",
        ["gateways.a.tls"],
    ),
    "a port that is not sound is there": ("gateways: {a: {port: x}}", ["gateways.a.port"]),
    "a mode that is not known": (
        "binds: [{port: 0, mode: internl, listeners: [{routes: []}]}]",
        ["binds[0].mode"],
    ),
    "a host name that is not sound is not every name": (
        "gateways: {a: {port: 1, listeners: [{name: x, hostname: 5}, {name: y}]}}",
        ["gateways.a.listeners[0].hostname"],
    ),
    "a TCP listener of a misspelt protocol": (
        "gateways: {a: {port: 1, protocol: TPC}}\ntcpRoutes: [{gateways: a}]",
        ["gateways.a.protocol"],
    ),
    "functions that are not sound are called": (
        "config: {customFunctions: 'f(x) {'}\ngateways: {default: {port: 80}}\n"
        "routes: [{policies: {authorization: {rules: ['f(1) == 1']}}}]",
        ["config.customFunctions"],
    ),
    "functions of the wrong type are called": (
        "config: {customFunctions: 5}\ngateways: {default: {port: 80}}\n"
        "routes: [{policies: {authorization: {rules: ['f(1) == 1', '1.f() == 1']}}}]",
        ["config.customFunctions"],
    ),
    "a bad regex is said once": (
        "gateways: {default: {port: 80}}\n"
        "routes: [{matches: [{headers: [{name: a, value: {regex: '('}}]}]}]",
        ["routes[0].matches[0].headers[0].value.regex"],
    ),
    "a name is misspelt": (
        "backends: [{nmae: b, host: 'a:1'}]\n"
        "gateways: {default: {port: 80}}\nroutes: [{backends: [{backend: b}]}]",
        ["backends[0].nmae"],
    ),
    "what was chosen is not known": (
        "gateways: {default: {port: 80}}\n"
        "routes: [{policies: {requestRedirect: {path: {fulll: /}}}}]",
        ["routes[0].policies.requestRedirect.path.fulll"],
    ),
    "a file that is missing": (
        "gateways: {a: {port: 1, protocol: HTTPS, tls: {cert: /none/c, key: /none/k}}}",
        ["gateways.a.tls.cert", "gateways.a.tls.key"],
    ),
    "an unattached route is looked at": (
        "gateways: {a: {port: 1}}\n"
        "routes: [{gateways: b, policies: {authorization: {rules: ['1 +']}}}]",
        ["routes[0].gateways", "routes[0].policies.authorization.rules[0]"],
    ),
    "both of two binds are looked at": (
        "binds:\n"
        "- {port: 1, listeners: [{routes: [{policies: {authorization: {rules: ['1 +']}}}]}]}\n"
        "- {port: 1, listeners: [{routes: [{policies: {authorization: {rules: ['2 +']}}}]}]}",
        [
            "binds[0].listeners[0].routes[0].policies.authorization.rules[0]",
            "binds[1].port",
            "binds[1].listeners[0].routes[0].policies.authorization.rules[0]",
        ],
    ),
    "after a faulty entry the others keep their places": (
        "gateways: {default: {port: 80}}\n"
        "routes: [5, {hostnames: [5, 'a b']}, 6, {policies: {authorization: {rules: ['1 +']}}}]",
        [
            "routes[0]",
            "routes[1].hostnames[0]",
            "routes[1].hostnames[1]",
            "routes[2]",
            "routes[3].policies.authorization.rules[0]",
        ],
    ),
    "a variable that is not set hides nothing else": (
        "gateways: {default: {port: $PORT_OF_MINE}, b: {port: 1, protocol: HTTPS}}\n"
        "backends: [{name: 'x$NAME_OF_MINE', host: 'a:1'}]\n"
        "routes: [{backends: [{backend: xy}], policies: {cors: {allowOrgins: [a]}}}]",
        ["", "gateways.b", "", "routes[0].policies.cors.allowOrgins"],
    ),
    "a key given twice hides nothing else": (
        "gateways:\n  default: {port: x}\n  default: {port: y}\n"
        "routes: [{policies: {authorization: {rules: ['1 +']}}}]",
        ["", "gateways.default.port", "routes[0].policies.authorization.rules[0]"],
    ),
    "keys of which only variables are known may differ": (
        "gateways: {'$ONE_OF_MINE': {port: 1}, '$TWO_OF_MINE': {port: 2}}",
        ["", ""],
    ),
    "a second look finds what spans fields": (
        "gateways: {default: {port: 80}}\n"
        "routes: [{backends: [{host: 'a:1', backend: b, weight: x}]}]",
        ["routes[0].backends[0].weight"],
    ),
}


@pytest.mark.parametrize(("text", "paths"), ALONE.values(), ids=ALONE.keys())
def test_nothing_follows_from_another(text: str, paths: list[str]) -> None:
    assert [problem.path for problem in problems_of(text)] == paths


PAIRS = {
    "schema": ("backends", [{"name": "b", "host": 5}], "backends[0].host"),
    "unbuilt": ("config", {"storage": {"mode": "hybrid"}}, "config.storage"),
    "reference": ("tcpRoutes", [{"gateways": "gone"}], "tcpRoutes[0].gateways"),
    "port": ("binds", [{"port": 80, "listeners": [{"routes": []}]}], "gateways.default.port"),
    "expression": (
        "policies",
        [
            {
                "name": {"name": "p", "namespace": "n"},
                "target": {"gateway": {"gatewayName": "default", "gatewayNamespace": "default"}},
                "policy": {"authorization": {"rules": ["1 +"]}},
            }
        ],
        "policies[0].policy.authorization.rules[0]",
    ),
    "regex": (
        "routes",
        [{"matches": [{"path": {"regex": "("}}]}],
        "routes[0].matches[0].path.regex",
    ),
    "setting": (
        "frontendPolicies",
        {"accessLog": {"filter": "1 +"}},
        "frontendPolicies.accessLog.filter",
    ),
}
"""A fault of each stage, in a section of its own."""


@pytest.mark.parametrize("first", PAIRS)
@pytest.mark.parametrize("second", PAIRS)
def test_every_pair(first: str, second: str) -> None:
    document: dict[str, Any] = {"gateways": {"default": {"port": 80}}}
    for name in {first, second}:
        section, value, _ = PAIRS[name]
        document[section] = value
    found = {problem.path for problem in problems_of(document)}
    assert found == {PAIRS[first][2], PAIRS[second][2]}


def test_a_reload_after_a_refused_one() -> None:
    """What a refused load left in caches does not reach the next one."""
    good = (
        "gateways: {default: {port: 80}}\nbackends: [{name: b, host: 'a:1'}]\n"
        "routes: [{name: one, backends: [{backend: b}]}]\n"
    )
    loader = Loader(Source("f", content=good), {})
    expected = loader.load().snapshot.resources
    loader.source = Source("f", content=good.replace("'a:1'", "5").replace("[{name", "[7, {name"))
    with pytest.raises(InvalidConfigError):
        loader.load()
    loader.source = Source("f", content=good.replace("name: b", "name: c"))
    assert "unknown backend b" in loader.load().warnings[0].message
    loader.source = Source("f", content=good)
    again = loader.load().snapshot.resources
    assert {key: one.digest for key, one in again.items()} == {
        key: one.digest for key, one in expected.items()
    }


def test_the_place_of_a_fault_moves_with_it() -> None:
    text = "gateways: {default: {port: 80}}\n"
    text += "routes: [{name: a, policies: {authorization: {rules: ['+']}}}]"
    loader = Loader(Source("f", content=text), {})
    with pytest.raises(InvalidConfigError):
        loader.load()
    loader.source = Source("f", content=text.replace("[{name: a", "[{name: b}, {name: a"))
    with pytest.raises(InvalidConfigError, match=r"routes\[1\]\.policies"):
        loader.load()


WHOLE = """\
config:
  logging: {level: info, filter: "true"}
  customFunctions: "twice(x) { x + x }"
  metrics: {fields: {add: {who: "request.host"}}}
gateways:
  default: {port: 80, cors: {allowOrigins: ["*"]}}
  other:
    port: 81
    listeners:
    - {name: x, hostname: x.example, protocol: HTTP}
    - {name: y, hostname: y.example, protocol: HTTP, authorization: {rules: ["true"]}}
  tcp: {port: 82, protocol: TCP}
binds:
- port: 83
  listeners:
  - name: l
    hostname: l.example
    routes:
    - {name: r, backends: [{backend: b, weight: 2}]}
- port: 84
  listeners:
  - protocol: TCP
    tcpRoutes: [{backends: [{host: "a:1"}]}]
backends:
- {name: b, host: "a:1", policies: {backendTLS: {hostname: a}}}
- {name: c, host: "a:2"}
services:
- {name: s, namespace: n, hostname: h, ports: {"80": 81}, vips: ["/10.0.0.1"]}
workloads:
- {uid: u, name: u, namespace: n, workloadIps: ["10.0.0.2"], services: {n/h: {"80": 81}}}
routeGroups:
- {name: g, routes: [{name: in, matches: [{path: {exact: /in}}], backends: [{backend: c}]}]}
routes:
- name: one
  hostnames: [one.example]
  gateways: [default, other/x]
  matches:
  - path: {pathPrefix: /one}
    method: GET
    headers: [{name: x-a, value: {regex: "a+"}}]
    query: [{name: q, value: {exact: "1"}}]
  policies:
    cors: {allowOrigins: ["*"]}
    authorization: {rules: ["twice(1) == 2", {deny: "false"}]}
    transformations: {request: {set: {x-a: "'a'"}}}
    timeout: {requestTimeout: 1s}
    retry: {attempts: 2, codes: [503]}
    urlRewrite: {path: {prefix: /two}}
    requestMirror: {backend: {backend: c}, percentage: 0.5}
  backends:
  - {backend: b, weight: 1}
  - {host: "a:3", policies: {health: {eviction: {duration: 1s}}}}
  - {service: {name: n/h, port: 80}}
  - {routeGroup: g}
- {name: two, gateways: other, policies: {directResponse: {status: 200, body: x}}}
tcpRoutes:
- {name: t, gateways: tcp, backends: [{backend: c}]}
policies:
- name: {name: p, namespace: n}
  target: {gateway: {gatewayName: default, gatewayNamespace: default, listenerName: other/x}}
  phase: gateway
  policy: {authorization: {rules: ["true"]}}
- name: {name: q, namespace: n}
  target: {route: {name: one, namespace: default}}
  policy: {delay: {duration: 1s}}
"""
"""Of everything something, and all of it sound."""
WRONG: tuple[object, ...] = ([[]], {"zzz": 1}, "\x01 (", -7)


def _places(node: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    children: Any = ()
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    for key, child in children:
        yield (*at, key)
        yield from _places(child, (*at, key))


def _with(document: Any, place: tuple[str | int, ...], value: object) -> Any:
    changed = copy.deepcopy(document)
    node = changed
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = value
    return changed


def test_the_whole_is_sound() -> None:
    assert problems_of(WHOLE) == ()


DOCUMENT = yaml.safe_load(WHOLE)


@pytest.mark.parametrize("section", DOCUMENT)
def test_whatever_is_wrong_is_found_where_it_is(section: str) -> None:
    """Each value in turn becomes nonsense: what is said is said of it, or of what holds it."""
    loader = Loader(Source("f"), {})
    places = [place for place in _places(DOCUMENT) if place[0] == section]
    for place in places:
        for value in WRONG if len(place) > 1 else WRONG[:1]:
            if isinstance(value, str) and place[-1] == "name":
                continue  # another name is sound, and those who use the old one are not
            changed = _with(DOCUMENT, place, value)
            for problem in problems_of(changed, loader):
                parts = resolve(problem.path, changed)
                length = min(len(parts), len(place))
                assert parts[:length] == place[:length], (place, value, problem)
