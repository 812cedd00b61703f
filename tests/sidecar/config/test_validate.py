"""What is wrong across fields: each table entry is a document and the problems it must give."""

from __future__ import annotations

import pytest
import yaml

from sidecar.config.normalise import normalise
from sidecar.errors import ConfigError
from tests.support.certificates import make_pair

PAIR = make_pair("a.test")


def problems_of(text: str) -> list[str]:
    problems: list[ConfigError] = []
    document = yaml.safe_load(text) or {}
    normalise(document, problems, read_file=lambda _: PAIR.any(), env={})
    return [str(problem) for problem in problems]


ROUTE = "gateways: {default: {port: 80}}\nroutes: [%s]"
LISTENER = "binds: [{port: 80, listeners: [%s]}]"
POLICY = "policies: [{name: {name: p, namespace: n}, %s}]"
GATEWAY = "target: {gateway: {gatewayName: default, gatewayNamespace: default%s}}"
NAMED = "backends: [{name: b, host: 'a:80'}]\n"
BACKEND = "target: {backend: {backend: {name: b, namespace: ''}}}"

CASES: dict[str, tuple[str, list[str]]] = {
    # binds
    "bind without port": (
        "binds: [{listeners: []}]",
        ["binds[0]: a bind without a port must set mode: internal"],
    ),
    "bind on port 0": (
        "binds: [{port: 0, listeners: []}]",
        ["binds[0].port: port 0 is only possible with mode: internal"],
    ),
    "two wildcard binds": (
        "binds: [{mode: internal, listeners: []}, {port: 0, mode: internal, listeners: []}]",
        [
            "binds[1]: at most one wildcard bind (an internal bind without a numeric port) is"
            " allowed, but found 2: binds[0], binds[1]"
        ],
    ),
    "port twice in binds": (
        "binds: [{port: 80, listeners: []}, {port: 80, listeners: []}]",
        ["binds[1].port: port 80 is configured by both binds[0] and binds[1]; binds, llm, and mcp"],
    ),
    "port of bind and gateway": (
        "binds: [{port: 80, listeners: []}]\ngateways: {a: {port: 80}}",
        ["gateways.a.port: port 80 is configured by both binds[0] and gateways.a;"],
    ),
    # listeners of binds
    "both kinds of routes": (
        LISTENER % "{routes: [], tcpRoutes: []}",
        ["binds[0].listeners[0]: only 'routes' or 'tcpRoutes' may be set"],
    ),
    "HTTP without routes": (
        LISTENER % "{}",
        ["binds[0].listeners[0]: protocol HTTP requires 'routes'"],
    ),
    "TCP without tcpRoutes": (
        LISTENER % "{protocol: TCP}",
        ["binds[0].listeners[0]: protocol TCP requires 'tcpRoutes'"],
    ),
    "TLS without tcpRoutes": (
        LISTENER % "{protocol: TLS, routes: []}",
        ["binds[0].listeners[0]: protocol TLS requires 'tcpRoutes'"],
    ),
    "HTTPS without routes and tls": (
        LISTENER % "{protocol: HTTPS}",
        [
            "binds[0].listeners[0]: protocol HTTPS requires 'routes'",
            "binds[0].listeners[0]: HTTPS listener requires 'tls'",
        ],
    ),
    "HTTP with tls": (
        LISTENER % "{routes: [], tls: {cert: cert.pem, key: key.pem}}",
        ["binds[0].listeners[0].tls: protocol HTTP cannot set tls"],
    ),
    "HBONE listener": (
        LISTENER % "{protocol: HBONE, routes: []}",
        [
            "binds[0].listeners[0].protocol: HBONE needs tunnelProtocol hboneWaypoint or"
            " hboneGateway"
        ],
    ),
    "TLS and plaintext on a bind": (
        LISTENER % "{routes: []}, {protocol: TLS, hostname: a.test, tcpRoutes: []}",
        ["binds[0]: bind listeners on port 80 cannot mix TLS and plaintext"],
    ),
    "two TCP listeners": (
        LISTENER % "{protocol: TCP, tcpRoutes: []}, {protocol: TCP, hostname: a.b, tcpRoutes: []}",
        ["binds[0]: bind listeners on port 80: nothing tells two TCP listeners apart"],
    ),
    "one hostname twice on a port": (
        LISTENER % "{routes: []}, {hostname: A.b, routes: []}, {hostname: a.B, routes: []}",
        [
            "binds[0].listeners[2].hostname: listener default/default/bind/80/listener1 of this"
            " port has the hostname a.b already"
        ],
    ),
    "one hostname twice on a gateway": (
        "gateways: {g: {port: 1, listeners: [{}, {hostname: '*'}]}}",
        ["gateways.g.listeners[1].hostname: listener gateway/g/listener0 of this port has the"],
    ),
    "bad hostname of a listener": (
        LISTENER % "{routes: [], hostname: 'a b'}",
        ["binds[0].listeners[0].hostname: invalid hostname `a b`"],
    ),
    # gateways
    "gateway without port": ("gateways: {a: {}}", ["gateways.a: gateways.a.port is required"]),
    "gateway with dots in its name": (
        "gateways: {a.b: {}}",
        ['gateways["a.b"]: gateways.a.b.port is required'],
    ),
    "gateway with listeners and more": (
        "gateways: {a: {port: 1, protocol: HTTP, listeners: [{}]}}",
        [
            "gateways.a: gateways.a cannot set protocol, tls, or policy fields"
            " when listeners are configured"
        ],
    ),
    "gateway with listeners and policies": (
        "gateways: {a: {port: 1, cors: {}, listeners: [{}]}}",
        ["gateways.a: gateways.a cannot set protocol, tls, or policy fields"],
    ),
    "gateway HTTPS without tls": (
        "gateways: {a: {port: 1, protocol: HTTPS}}",
        ["gateways.a: HTTPS gateway listener requires 'tls'"],
    ),
    "gateway TCP with tls": (
        "gateways: {a: {port: 1, listeners: "
        "[{protocol: TCP, tls: {cert: cert.pem, key: key.pem}}]}}",
        ["gateways.a.listeners[0].tls: protocol TCP cannot set tls"],
    ),
    "gateway of HTTP and TCP": (
        "gateways: {a: {port: 1, listeners: [{}, {hostname: a.b, protocol: TCP}]}}",
        ["gateways.a: gateway listeners on port 1 cannot mix HTTP and TCP protocols"],
    ),
    "gateway of TLS and plaintext": (
        "gateways: {a: {port: 1, listeners: [{}, {hostname: a.b, protocol: TLS}]}}",
        ["gateways.a: gateway listeners on port 1 cannot mix TLS and plaintext"],
    ),
    # attachment
    "no gateway to attach to": (
        "routes: [{name: r}, {}]\ntcpRoutes: [{name: t}]",
        [
            "routes[0].gateways: routes.r must set gateways",
            "routes[1].gateways: routes.<unnamed> must set gateways",
            "tcpRoutes[0].gateways: tcpRoutes.t must set gateways",
        ],
    ),
    "default gateway of the other kind": (
        "gateways: {default: {port: 1, protocol: TCP}}\nroutes: [{}]",
        ["routes[0].gateways: routes.<unnamed> must set gateways"],
    ),
    "unknown gateway": (
        ROUTE % "{gateways: [nope, default/nope]}",
        [
            "routes[0].gateways: unknown gateway reference nope",
            "routes[0].gateways: unknown gateway reference default/nope",
        ],
    ),
    "gateway of the other kind": (
        "gateways: {a: {port: 1, protocol: TCP}, b: {port: 2}}\n"
        "routes: [{gateways: a}]\ntcpRoutes: [{gateways: b}]",
        [
            "routes[0].gateways: gateway reference a has no HTTP listeners",
            "tcpRoutes[0].gateways: gateway reference b has no TCP listeners",
        ],
    ),
    "one fault on two listeners": (
        "gateways: {a: {port: 1}, b: {port: 2}}\nroutes: [{gateways: [a, b], hostnames: ['*a']}]",
        ["routes[0].hostnames[0]: invalid hostname `*a`"],
    ),
    # routes
    "bad regexes": (
        ROUTE % "{matches: [{path: {regex: '('}, headers: [{name: a, value: {regex: '[' }}]}]}",
        [
            "routes[0].matches[0].headers[0].value.regex: invalid regex",
            "routes[0].matches[0].path.regex: invalid regex",
        ],
    ),
    "a regex that RE2 has not": (
        ROUTE % "{matches: [{path: {regex: '(a)\\1'}}]}",
        ["routes[0].matches[0].path.regex: invalid regex"],
    ),
    "bad header name": (
        ROUTE % "{matches: [{headers: [{name: 'a b', value: {exact: v}}]}]}",
        ["routes[0].matches[0].headers[0].name: invalid header name `a b`"],
    ),
    "the match `invalid`": (
        ROUTE % "{matches: [{path: invalid}]}",
        ["routes[0].matches[0].path: `invalid` is not a match"],
    ),
    "bad hostnames": (
        ROUTE % "{hostnames: ['a.*.b', '*b', 'ok.test', 'a:80', 'a/b']}",
        [
            "routes[0].hostnames[0]: invalid hostname `a.*.b`",
            "routes[0].hostnames[1]: invalid hostname `*b`",
            "routes[0].hostnames[3]: invalid hostname `a:80`",
            "routes[0].hostnames[4]: invalid hostname `a/b`",
        ],
    ),
    "hostnames on plain TCP": (
        "gateways: {default: {port: 1, protocol: TCP}}\ntcpRoutes: [{hostnames: [a.test]}]",
        ["tcpRoutes[0].hostnames: must be empty on a plain TCP listener: it has no SNI"],
    ),
    "bad hosts": (
        ROUTE % "{backends: [{host: a}, {host: 'a:0'}, {host: 'http://a:80'}, {host: 'unix:s'}]}",
        [
            "routes[0].backends[0].host: invalid host:port `a`",
            "routes[0].backends[1].host: invalid host:port `a:0`",
            "routes[0].backends[2].host: invalid host:port `http://a:80`",
            "routes[0].backends[3].host: invalid unix socket path `s`",
        ],
    ),
    "bad service, internal and kind": (
        ROUTE % "{backends: [{service: {name: a, port: 1}}, {internal: x}]}",
        [
            "routes[0].backends[0].service.name: invalid service name `a`",
            "routes[0].backends[1].internal: invalid internal backend `x`",
        ],
    ),
    "bad references of policies": (
        ROUTE % "{policies: {requestMirror: {backend: {host: 'a:b'}, percentage: 1},"
        " backendTunnel: {proxy: {host: 'ftp://a'}}}}",
        [
            "routes[0].policies.requestMirror.backend.host: invalid host:port `a:b`",
            "routes[0].policies.backendTunnel.proxy.host: invalid host:port `ftp://a`",
        ],
    ),
    "policies that need a service": (
        "backends: [{name: b, host: 'a:1', policies: {inferenceRouting: {}}}]\n"
        + ROUTE % "{backends: [{host: 'a:1', policies: {sessionAffinity: {}}}]}",
        [
            "routes[0].backends[0].policies.sessionAffinity: sessionAffinity is only supported on"
            " service route backends",
            "backends[0].policies.inferenceRouting: inferenceRouting is only supported on service"
            " route backends, not named backends",
        ],
    ),
    "problems in a group": (
        "routeGroups: [{name: g, routes: [{backends: [{host: x}]}]}, {name: g, routes: []}]",
        [
            "routeGroups[0].routes[0].backends[0].host: invalid host:port `x`",
            "routeGroups[1].name: route group g is defined twice",
        ],
    ),
    # conditional policies
    "no condition at all": (
        ROUTE % "{policies: {directResponse: {conditional: []}}}",
        [
            "routes[0].policies.directResponse.conditional: conditional policies must have at"
            " least one entry"
        ],
    ),
    "unconditional entry before the end": (
        ROUTE % "{policies: {directResponse: {conditional: [{status: 1}, {status: 2}]}}}",
        [
            "routes[0].policies.directResponse.conditional[0]: conditional policy entries without"
            " condition must be last"
        ],
    ),
    "too many conditions": (
        ROUTE % f"{{policies: {{transformations: {{conditional: [{'{condition: a}, ' * 65}]}}}}}}",
        [
            "routes[0].policies.transformations.conditional: conditional policies may have at most"
            " 64 entries"
        ],
    ),
    "conditional on a gateway": (
        "gateways: {a: {port: 1, transformations: {conditional: []}}}",
        ["gateways.a.transformations.conditional: conditional policies must have at least one"],
    ),
    # targeted policies
    "no policy": (
        POLICY % f"{GATEWAY % ''}, policy: {{cors: null}}",
        ["policies[0].policy: 'policies' must contain exactly 1 policy"],
    ),
    "two policies": (
        POLICY % f"{GATEWAY % ''}, policy: {{cors: {{}}, timeout: {{}}}}",
        ["policies[0].policy: 'policies' must contain exactly 1 policy"],
    ),
    "listener and port": (
        POLICY % f"{GATEWAY % ', listenerName: l, port: 80'}, policy: {{cors: {{}}}}",
        ["policies[0].target.gateway: only one of listenerName or port may be set"],
    ),
    "gateway phase of a late policy": (
        POLICY % f"{GATEWAY % ''}, phase: gateway, policy: {{timeout: {{}}}}",
        ["policies[0].policy.timeout: timeout cannot run in the gateway phase"],
    ),
    "gateway phase on a route": (
        POLICY % "target: {route: {name: r, namespace: n}}, phase: gateway, policy: {cors: {}}",
        ["policies[0].phase: the gateway phase needs a gateway as its target"],
    ),
    "conditional on a backend": (
        NAMED + POLICY % f"{BACKEND}, policy: {{transformations: {{conditional: [{{}}]}}}}",
        [
            "policies[0].policy.transformations: conditional transformations are not supported on"
            " backend-targeted policies"
        ],
    ),
    "conditional extAuthz on a backend": (
        NAMED + POLICY % f"{BACKEND}, policy: {{extAuthz: {{conditional: [{{host: 'a:1'}}]}}}}",
        ["policies[0].policy.extAuthz: conditional extAuthz is not supported on backend-targeted"],
    ),
    "route policy on a backend": (
        NAMED + POLICY % f"{BACKEND}, policy: {{cors: {{}}}}",
        ["policies[0].policy.cors: cors is not supported on backend-targeted policies"],
    ),
    # frontend
    "deprecated and new": (
        "config: {logging: {filter: 'true'}, tracing: {otlpEndpoint: 'a:1'}}\n"
        "frontendPolicies: {accessLog: {}, tracing: {host: 'a:1'}}",
        [
            "config.logging: cannot use deprecated config.logging together with"
            " frontendPolicies.accessLog",
            "config.tracing: cannot use deprecated config.tracing together with"
            " frontendPolicies.tracing",
        ],
    ),
    "tracing endpoint": (
        "config: {tracing: {otlpEndpoint: 'ftp://a'}}",
        [
            "config.tracing.otlpEndpoint: failed parsing tracing endpoint: ftp://a:"
            " unsupported tracing endpoint scheme: ftp"
        ],
    ),
    "network ext_authz by gRPC": (
        "frontendPolicies: {networkExtAuthz: {host: 'a:1'}}",
        ["frontendPolicies.networkExtAuthz only supports protocol.http"],
    ),
    # discovery
    "services": (
        "services: [{name: a}, {name: a, namespace: n, hostname: h, vips: [x], ports: {0: 1},"
        " color: red}]",
        [
            "services[0]: missing field `namespace`",
            "services[0]: missing field `hostname`",
            "services[1].color: unknown field `color`",
            "services[1].vips[0]: invalid vip `x`: network/ip",
            "services[1].ports: invalid ports: 0 to 1",
        ],
    ),
    "workloads": (
        "workloads: [{uid: w}, {uid: v, namespace: n, workloadIps: [x], protocol: UDP,"
        " capacity: -1}]",
        [
            "workloads[0]: missing field `namespace`",
            "workloads[1].capacity: invalid capacity `-1`",
            "workloads[1].protocol: invalid protocol `UDP`: HBONE, TCP or LEGACY_ISTIO_MTLS",
            "workloads[1].workloadIps[0]: invalid address `x`",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_problems(name: str) -> None:
    text, expected = CASES[name]
    found = problems_of(text)
    assert len(found) == len(expected), found
    for one, wanted in zip(found, expected, strict=True):
        assert wanted in one


def test_every_problem_is_found_at_once() -> None:
    text = "binds: [{listeners: []}, {port: 81, listeners: [{protocol: HTTPS, routes: []}]}]\n"
    text += "gateways: {a: {}}\nroutes: [{gateways: x, backends: [{host: y}]}]"
    assert [one.split(":")[0] for one in problems_of(text)] == [
        "binds[0]",
        "gateways.a",
        "binds[1].listeners[0]",
        "routes[0].gateways",
        "routes[0].backends[0].host",
    ]
