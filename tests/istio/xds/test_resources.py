"""Resources of a controller mean what the same words in a file mean."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from istio.xds._pb import resource_pb2 as pb
from istio.xds.resources import Applied, Translator
from sidecar.config.checker import Checker, ItemCache
from sidecar.config.normalise import normalise
from sidecar.config.snapshot import Resource
from sidecar.errors import ConfigError
from sidecar.gateway.levels import Levels
from tests.support.certificates import make_pair

Json = dict[str, Any]


def octets(text: str) -> str:
    """As JSON says bytes."""
    return b64encode(text.encode()).decode()


def message(data: Json) -> bytes:
    return ParseDict(data, pb.Resource()).SerializeToString()


def applied(*resources: Json, to: Translator | None = None, removed: Sequence[str] = ()) -> Applied:
    """Each under the name `kind:key`."""
    updates = {}
    for one in resources:
        ((kind, data),) = one.items()
        updates[f"{kind}:{data.get('key') or data.get('uid') or data.get('name')}"] = message(one)
    return (to or Translator()).apply(updates, removed)


def made(resource: Json) -> Any:
    result = applied(resource)
    assert result.refused == {}
    (one,) = result.changed.values()
    return one.data


def reason(resource: Json) -> str:
    result = applied(resource)
    assert not result.changed
    (text,) = result.refused.values()
    return text


def of_file(document: Json) -> dict[str, Json]:
    """Key to data, as a file makes them."""
    checker = Checker(ItemCache())
    data = checker.check(document)
    assert checker.findings == []
    problems: list[ConfigError] = []
    dump = normalise(data, problems, env={}).dump()
    assert problems == []
    return dump


def route_of_file(route: Json) -> Json:
    listeners = [{"name": "l", "routes": [{"name": "r", "namespace": "ns", **route}]}]
    document = {
        "binds": [{"port": 80, "listeners": listeners}],
        "backends": [{"name": "ns/b", "host": "1.2.3.4:5"}],
        "services": [{"name": "s", "namespace": "ns", "hostname": "s.ns", "ports": {"80": 80}}],
    }
    (found,) = (one for key, one in of_file(document).items() if key.startswith("route/"))
    return found


ROUTE: Json = {
    "key": "ns/r",
    "listenerKey": "l1",
    "name": {"name": "r", "namespace": "ns", "kind": "HTTPRoute"},
}


def same_route(message_part: Json, file_part: Json) -> None:
    ours = made({"route": {**ROUTE, **message_part}})
    theirs = route_of_file(file_part)
    names = [one["name"] for one in theirs["backends"]]
    for one, name in zip(ours["backends"], names, strict=True):
        one["name"] = name  # inline ones are called after the key of their route
    assert {**ours, "listener": None} == {**theirs, "listener": None}


def test_a_route() -> None:
    same_route(
        {
            "hostnames": ["A.example", "*.b"],
            "matches": [
                {
                    "path": {"pathPrefix": "/api/"},
                    "method": {"exact": "GET"},
                    "headers": [{"name": "X-A", "exact": "1"}, {"name": "x-b", "regex": "b.*"}],
                    "queryParams": [{"name": "q", "exact": "2"}],
                },
                {"path": {"exact": "/x"}},
                {"path": {"regex": "/y.*"}},
                {},
            ],
            "backends": [
                {"backend": {"backend": "ns/b"}, "weight": 3},
                {
                    "backend": {"service": {"namespace": "ns", "hostname": "s.ns"}, "port": 80},
                    "weight": 0,
                },
                {"backend": {"inline": {"hostname": "h.example", "port": 8080}}, "weight": 1},
                {"weight": 1},
            ],
        },
        {
            "hostnames": ["a.example", "*.b"],
            "matches": [
                {
                    "path": {"pathPrefix": "/api/"},
                    "method": "GET",
                    "headers": [
                        {"name": "X-A", "value": {"exact": "1"}},
                        {"name": "x-b", "value": {"regex": "b.*"}},
                    ],
                    "query": [{"name": "q", "value": {"exact": "2"}}],
                },
                {"path": {"exact": "/x"}},
                {"path": {"regex": "/y.*"}},
                {},
            ],
            "backends": [
                {"backend": "ns/b", "weight": 3},
                {"service": {"name": "ns/s.ns", "port": 80}, "weight": 0},
                {"host": "h.example:8080"},
                {"invalid": True},
            ],
        },
    )


POLICIES: dict[str, tuple[Json, Json]] = {
    "timeout": (
        {"timeout": {"request": "1.500s", "backendRequest": "2s"}},
        {"timeout": {"requestTimeout": "1500000000ns", "backendRequestTimeout": "2s"}},
    ),
    "retry": (
        {"retry": {"retryStatusCodes": [503], "attempts": 2, "backoff": "0.1s"}},
        {"retry": {"codes": [503], "attempts": 2, "backoff": "100000000ns"}},
    ),
    "rate limit": (
        {
            "localRateLimit": {
                "maxTokens": "10",
                "tokensPerFill": "1",
                "fillInterval": "1s",
                "type": "TOKEN",
                "rules": [{"maxTokens": "2", "tokensPerFill": "2", "fillInterval": "60s"}],
            }
        },
        {
            "localRateLimit": [
                {"maxTokens": 10, "tokensPerFill": 1, "fillInterval": "1s", "type": "tokens"},
                {"maxTokens": 2, "tokensPerFill": 2, "fillInterval": "60s", "type": "requests"},
            ]
        },
    ),
    "external authorization": (
        {
            "extAuthz": {
                "target": {"backend": "ns/b"},
                "http": {
                    "path": "'/check'",
                    "includeResponseHeaders": ["x-user"],
                    "addRequestHeaders": {"x-a": "'1'"},
                },
                "failureMode": "DENY_WITH_STATUS",
                "statusOnError": 503,
                "includeRequestHeaders": ["cookie"],
                "includeRequestBody": {"maxRequestBytes": 100, "allowPartialMessage": True},
                "cache": {"key": ["request.path"], "ttl": "duration('5s')", "maxEntries": 7},
            }
        },
        {
            "extAuthz": {
                "backend": "ns/b",
                "protocol": {
                    "http": {
                        "path": "'/check'",
                        "includeResponseHeaders": ["x-user"],
                        "addRequestHeaders": {"x-a": "'1'"},
                    }
                },
                "failureMode": {"denyWithStatus": 503},
                "includeRequestHeaders": ["cookie"],
                "includeRequestBody": {
                    "maxRequestBytes": 100,
                    "allowPartialMessage": True,
                    "packAsBytes": False,
                },
                "cache": {"key": ["request.path"], "ttl": "duration('5s')", "maxEntries": 7},
            }
        },
    ),
    "authorization": (
        {"authorization": {"allow": ["true"], "deny": ["false"], "require": ["1 == 1"]}},
        {"authorization": {"rules": [{"allow": "true"}, {"deny": "false"}, {"require": "1 == 1"}]}},
    ),
    "tokens": (
        {
            "jwt": {
                "mode": "STRICT",
                "providers": [
                    {
                        "issuer": "i",
                        "audiences": ["a"],
                        "inline": '{"keys": []}',
                        "jwtValidationOptions": {},
                    }
                ],
                "authorizationLocation": {"cookie": {"name": "t"}},
            }
        },
        {
            "jwtAuth": {
                "mode": "strict",
                "providers": [
                    {
                        "issuer": "i",
                        "audiences": ["a"],
                        "jwks": '{"keys": []}',
                        "jwtValidationOptions": {"requiredClaims": []},
                    }
                ],
                "location": {"cookie": {"name": "t"}},
            }
        },
    ),
    "transformation": (
        {
            "transformation": {
                "request": {
                    "set": [{"name": "x-a", "expression": "'1'"}],
                    "add": [{"name": "x-b", "expression": "'2'"}],
                    "remove": ["x-c"],
                    "body": {"expression": "'b'"},
                    "metadata": {"m": "'3'"},
                },
                "response": {"remove": ["server"]},
            }
        },
        {
            "transformations": {
                "request": {
                    "set": {"x-a": "'1'"},
                    "add": {"x-b": "'2'"},
                    "remove": ["x-c"],
                    "body": "'b'",
                    "metadata": {"m": "'3'"},
                },
                "response": {"remove": ["server"]},
            }
        },
    ),
    "remote rate limit": (
        {
            "remoteRateLimit": {
                "domain": "d",
                "descriptors": [
                    {"entries": [{"key": "k", "value": "'v'"}], "type": "TOKENS", "cost": "2u"}
                ],
                "target": {"service": {"namespace": "ns", "hostname": "s.ns"}, "port": 80},
                "failureMode": "FAIL_OPEN",
                "inlinePolicies": [{"backendTcp": {"connectTimeout": "3s"}}],
            }
        },
        {
            "remoteRateLimit": {
                "domain": "d",
                "descriptors": [
                    {"entries": [{"key": "k", "value": "'v'"}], "type": "tokens", "cost": "2u"}
                ],
                "service": {"name": "ns/s.ns", "port": 80},
                "failureMode": "failOpen",
                "policies": {"tcp": {"keepalives": {}, "connectTimeout": "3s"}},
            }
        },
    ),
    "csrf": (
        {"csrf": {"additionalOrigins": ["https://a"]}},
        {"csrf": {"additionalOrigins": ["https://a"]}},
    ),
    "request headers": (
        {
            "requestHeaderModifier": {
                "add": [{"name": "x-a", "value": "1"}],
                "set": [{"name": "x-b", "value": ""}],
                "remove": ["x-c"],
            }
        },
        {"requestHeaderModifier": {"add": {"x-a": "1"}, "set": {"x-b": ""}, "remove": ["x-c"]}},
    ),
    "redirect": (
        {"requestRedirect": {"scheme": "https", "host": "h", "status": 308, "prefix": "/p"}},
        {
            "requestRedirect": {
                "scheme": "https",
                "authority": {"host": "h"},
                "status": 308,
                "path": {"prefix": "/p"},
            }
        },
    ),
    "redirect to a port": (
        {"requestRedirect": {"host": "h", "port": 8443, "full": "/"}},
        {"requestRedirect": {"authority": {"full": "h:8443"}, "path": {"full": "/"}}},
    ),
    "rewrite": (
        {"urlRewrite": {"host": "h", "prefix": "/p"}},
        {"urlRewrite": {"authority": {"host": "h"}, "path": {"prefix": "/p"}}},
    ),
    "host rewrite": (
        {"hostRewrite": {"mode": "AUTO"}},
        {"urlRewrite": {"authority": "auto"}},
    ),
    "mirror": (
        {"requestMirror": {"mirrors": [{"backend": {"backend": "ns/b"}, "percentage": 0.5}]}},
        {"requestMirror": {"backend": {"backend": "ns/b"}, "percentage": 0.5}},
    ),
    "direct response": (
        {
            "directResponse": {
                "status": 418,
                "body": octets("tea"),
                "headers": [{"name": "x-a", "expression": "'1'"}],
            }
        },
        {"directResponse": {"status": 418, "body": "tea", "headers": {"x-a": "'1'"}}},
    ),
    "cors": (
        {"cors": {"allowCredentials": True, "allowOrigins": ["https://a"], "maxAge": "60s"}},
        {"cors": {"allowCredentials": True, "allowOrigins": ["https://a"], "maxAge": "60s"}},
    ),
    "basic authentication, strict unless said": (
        {"basicAuth": {"htpasswdContent": "u:$apr1$x", "realm": "r"}},
        {"basicAuth": {"htpasswd": "u:$apr1$x", "realm": "r", "mode": "strict"}},
    ),
    "keys, strict unless said": (
        {
            "apiKeyAuth": {
                "apiKeys": [
                    {"keyHash": f"sha256:{'0' * 64}", "metadata": {"a": 1}},
                    {"key": "secret"},
                ],
                "authorizationLocation": {"header": {"name": "x-key"}},
            }
        },
        {
            "apiKey": {
                "keys": [
                    {"keyHash": f"sha256:{'0' * 64}", "metadata": {"a": 1.0}},
                    {"key": "secret"},
                ],
                "location": {"header": {"name": "x-key"}},
                "mode": "strict",
            }
        },
    ),
    "buffer": (
        {"buffer": {"request": {"maxBytes": 10, "failureMode": "FAIL_OPEN"}}},
        {"buffer": {"request": {"maxBytes": 10, "failureMode": "failOpen"}}},
    ),
    "delay": (
        {"delay": {"duration": "duration('1s')"}},
        {"delay": {"duration": "duration('1s')"}},
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_of_a_route(name: str) -> None:
    ours, theirs = POLICIES[name]
    same_route({"trafficPolicies": [ours]}, {"policies": theirs})


PAIR = make_pair("b.example")
BACKEND_POLICIES: dict[str, tuple[Json, Json]] = {
    "http": (
        {"backendHttp": {"version": "HTTP2", "requestTimeout": "5s"}},
        {"http": {"version": "HTTP/2.0", "requestTimeout": "5s"}},
    ),
    "tcp": (
        {"backendTcp": {"keepalive": {"time": "10s", "retries": 3}, "connectTimeout": "2s"}},
        {"tcp": {"keepalives": {"time": "10s", "retries": 3}, "connectTimeout": "2s"}},
    ),
    "health": (
        {
            "health": {
                "unhealthyCondition": "response.code >= 500",
                "eviction": {"duration": "10s", "consecutiveFailures": 3},
            }
        },
        {
            "health": {
                "unhealthyExpression": "response.code >= 500",
                "eviction": {"duration": "10s", "consecutiveFailures": 3},
            }
        },
    ),
    "key": (
        {"auth": {"key": {"secret": "s", "authorizationLocation": {"header": {"name": "x"}}}}},
        {"backendAuth": {"key": {"value": "s", "location": {"header": {"name": "x"}}}}},
    ),
    "cloud": (
        {"auth": {"aws": {"region": "us-east-1", "implicit": {}}}},
        {"backendAuth": {"aws": {"region": "us-east-1"}}},
    ),
    "MCP rules": (
        {"mcpAuthorization": {"allow": ["mcp.tool.name == 'a'"]}},
        {"mcpAuthorization": {"rules": [{"allow": "mcp.tool.name == 'a'"}]}},
    ),
    "agents": ({"a2a": {}}, {"a2a": {}}),
    "models": (
        {
            "ai": {
                "defaults": {"temperature": "0.5", "user": "u"},
                "modelAliases": {"a": "b"},
                "routes": {"/v1/messages": "MESSAGES", "/c": "ANTHROPIC_TOKEN_COUNT"},
                "prompts": {"append": [{"role": "system", "content": "c"}]},
                "promptCaching": {"cacheSystem": False, "cacheMessages": True, "minTokens": 5},
                "promptGuard": {
                    "request": [
                        {
                            "regex": {
                                "action": "REJECT",
                                "rules": [{"builtin": "CREDIT_CARD"}, {"regex": "x+"}],
                            },
                            "rejection": {"status": 400, "body": octets("no")},
                            "scope": ["CONTENT_SCOPE_SYSTEM_PROMPT", "CONTENT_SCOPE_TOOL_INPUT"],
                        }
                    ],
                    "response": [
                        {
                            "webhook": {
                                "backend": {"backend": "ns/b"},
                                "forwardHeaderMatches": [{"name": "x-a", "exact": "1"}],
                                "failureMode": "FAIL_OPEN",
                            }
                        }
                    ],
                },
            }
        },
        {
            "ai": {
                "defaults": {"temperature": 0.5, "user": "u"},
                "modelAliases": {"a": "b"},
                "routes": {"/v1/messages": "messages", "/c": "anthropicTokenCount"},
                "prompts": {"append": [{"role": "system", "content": "c"}]},
                "promptCaching": {
                    "cacheSystem": False,
                    "cacheMessages": True,
                    "cacheTools": False,
                    "minTokens": 5,
                },
                "promptGuard": {
                    "streaming": "Disabled",
                    "request": [
                        {
                            "regex": {
                                "action": "reject",
                                "rules": [{"builtin": "creditCard"}, {"pattern": "x+"}],
                            },
                            "rejection": {"status": 400, "body": "no"},
                            "scope": ["systemPrompt", "toolInput"],
                        }
                    ],
                    "response": [
                        {
                            "webhook": {
                                "target": {"backend": "ns/b"},
                                "forwardHeaderMatches": [{"name": "x-a", "value": {"exact": "1"}}],
                                "failureMode": "failOpen",
                            }
                        }
                    ],
                },
            }
        },
    ),
    "transformation": (
        {"transformation": {"request": {"remove": ["x-c"]}}},
        {"transformations": {"request": {"remove": ["x-c"]}}},
    ),
}


@pytest.mark.parametrize("name", BACKEND_POLICIES)
def test_policies_of_a_backend(name: str) -> None:
    ours, theirs = BACKEND_POLICIES[name]
    reference: Json = {"backend": {"backend": "ns/b"}, "weight": 1}
    same_route(
        {"backends": [{**reference, "backendPolicies": [ours]}]},
        {"backends": [{"backend": "ns/b", "policies": theirs}]},
    )


@pytest.mark.parametrize("mode", ["FAIL_CLOSED", "FAIL_OPEN"])
def test_an_endpoint_picker(mode: str) -> None:
    own = {"failureMode": "failOpen"} if mode == "FAIL_OPEN" else {}
    picker = {"service": {"namespace": "ns", "hostname": "epp.ns"}, "port": 9002}
    given = {"inferenceRouting": {"endpointPicker": picker, "failureMode": mode}}
    pool = {"service": {"namespace": "ns", "hostname": "pool.ns"}, "port": 8000}
    wanted = {"endpointPicker": {"service": {"name": "ns/epp.ns", "port": 9002}}, **own}
    same_route(
        {"backends": [{"backend": pool, "weight": 1, "backendPolicies": [given]}]},
        {
            "backends": [
                {
                    "service": {"name": "ns/pool.ns", "port": 8000},
                    "policies": {"inferenceRouting": wanted},
                }
            ]
        },
    )


def test_tls_to_a_backend() -> None:
    tls = {
        "cert": octets(PAIR.cert),
        "key": octets(PAIR.key),
        "root": octets(PAIR.cert),
        "hostname": "b.example",
        "verifySubjectAltNames": ["c.example"],
        "alpn": {"protocols": ["h2"]},
        "keyExchangeGroups": ["P256", "X25519_MLKEM768"],
        "verification": "INSECURE_HOST",
    }
    static = {"host": "10.0.0.1", "port": 443}
    backend = {"key": "ns/b", "static": static, "inlinePolicies": [{"backendTls": tls}]}
    assert made({"backend": backend}) == {
        "target": {"host": {"address": "10.0.0.1", "port": 443}},
        "policies": {
            "backendTLS": {
                "cert": PAIR.cert,
                "key": PAIR.key,
                "root": PAIR.cert,
                "hostname": "b.example",
                "subjectAltNames": ["c.example"],
                "alpn": ["h2"],
                "keyExchangeGroups": ["P-256", "X25519_MLKEM768"],
                "insecureHost": True,
            }
        },
    }
    tls["key"] = octets(make_pair("other").key)
    text = reason({"backend": backend})
    assert "the private key does not belong to the certificate" in text
    assert "PRIVATE" not in text


BACKENDS: dict[str, tuple[Json, Json]] = {
    "socket": ({"static": {"unixPath": "/run/x"}}, {"host": "unix:/run/x"}),
    "IPv6": ({"static": {"host": "::1", "port": 80}}, {"host": "[::1]:80"}),
    "models": (
        {
            "ai": {
                "providerGroups": [
                    {
                        "providers": [
                            {
                                "name": "p1",
                                "openai": {"model": "m"},
                                "hostOverride": {"host": "h", "port": 8080},
                                "pathPrefix": "/x",
                                "inlinePolicies": [{"auth": {"key": {"secret": "s"}}}],
                            },
                            {"name": "p2", "bedrock": {"region": "r"}, "modelOverride": "n"},
                        ]
                    },
                    {"providers": [{"name": "p3", "anthropic": {}}]},
                ]
            }
        },
        {
            "ai": {
                "groups": [
                    {
                        "providers": [
                            {
                                "name": "p1",
                                "provider": {"openAI": {"model": "m"}},
                                "hostOverride": "h:8080",
                                "pathPrefix": "/x",
                                "policies": {"backendAuth": {"key": {"value": "s"}}},
                            },
                            {
                                "name": "p2",
                                "provider": {"bedrock": {"region": "r", "model": "n"}},
                            },
                        ]
                    },
                    {"providers": [{"name": "p3", "provider": {"anthropic": {}}}]},
                ]
            }
        },
    ),
    "servers": (
        {
            "mcp": {
                "targets": [
                    {"name": "a", "backend": {"backend": "ns/c"}, "path": "/m"},
                    {
                        "name": "b",
                        "backend": {"inline": {"hostname": "h", "port": 81}},
                        "protocol": "SSE",
                    },
                ],
                "statefulMode": "STATELESS",
                "prefixMode": "ALWAYS",
                "failureMode": "FAIL_OPEN",
            }
        },
        {
            "mcp": {
                "targets": [
                    {"name": "a", "mcp": {"backend": "ns/c", "path": "/m"}},
                    {"name": "b", "sse": {"host": "h", "port": 81}},
                ],
                "statefulMode": "stateless",
                "prefixMode": "always",
                "failureMode": "failOpen",
            }
        },
    ),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_backends(name: str) -> None:
    ours, theirs = BACKENDS[name]
    document = {"backends": [{"name": "ns/b", **theirs}, {"name": "ns/c", "host": "1.1.1.1:1"}]}
    assert made({"backend": {"key": "ns/b", **ours}}) == of_file(document)["backend/ns/b"]


def test_a_backend_that_follows_the_request() -> None:
    data = made({"backend": {"key": "ns/b", "dynamic": {}}})
    assert data == {"target": {"dynamic": {"target": None}}, "policies": {}}


def policy(**parts: Any) -> Json:
    target = {"gateway": {"name": "gw", "namespace": "ns"}}
    name = {"name": "p", "namespace": "ns", "kind": "AgentgatewayPolicy"}
    return {"policy": {"key": "ns/p", "name": name, "target": target, **parts}}


CSRF: Json = {"csrf": {"additionalOrigins": ["https://a"]}}
TARGETS: list[tuple[Json, Json]] = [
    (
        {"gateway": {"name": "gw", "namespace": "ns", "listener": "l"}},
        {"gateway": {"gatewayName": "gw", "gatewayNamespace": "ns", "listenerName": "l"}},
    ),
    (
        {"gateway": {"name": "gw", "namespace": "ns", "port": 80}},
        {"gateway": {"gatewayName": "gw", "gatewayNamespace": "ns", "port": 80}},
    ),
    (
        {"route": {"name": "r", "namespace": "ns", "routeRule": "x", "kind": "HTTPRoute"}},
        {"route": {"name": "r", "namespace": "ns", "ruleName": "x", "kind": "HTTPRoute"}},
    ),
    (
        {"service": {"namespace": "ns", "hostname": "s.ns", "port": 80}},
        {"backend": {"service": {"namespace": "ns", "hostname": "s.ns", "port": 80}}},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), TARGETS)
def test_targeted_policies(ours: Json, theirs: Json) -> None:
    document = {
        "policies": [
            {"name": {"name": "p", "namespace": "ns"}, "target": theirs, "policy": CSRF},
        ]
    }
    assert made(policy(target=ours, traffic=CSRF)) == of_file(document)["policy/ns/p"]


def test_a_policy_before_the_route() -> None:
    data = made(policy(traffic={"phase": "GATEWAY", "cors": {"allowOrigins": ["https://a"]}}))
    assert (data["phase"], data["kind"]) == ("gateway", "cors")


def test_a_policy_of_a_backend() -> None:
    tunnel: Json = {"requestHeaderModifier": {"remove": ["x"]}}
    data = made(policy(target={"backend": {"name": "b", "namespace": "ns"}}, backend=tunnel))
    assert data == {
        "target": {"backend": {"backend": {"name": "ns/b", "namespace": "ns"}}},
        "phase": "route",
        "kind": "requestHeaderModifier",
        "policy": {"remove": ["x"]},
    }


def test_alternatives_of_a_policy() -> None:
    entries = [
        {"condition": "request.path == '/a'", "traffic": {"directResponse": {"status": 201}}},
        {"traffic": {"directResponse": {"status": 202}}},
    ]
    data = made(policy(conditional={"policies": entries}))
    assert data["kind"] == "directResponse"
    assert data["policy"]["conditional"] == [
        {"status": 201, "condition": "request.path == '/a'"},
        {"status": 202},
    ]


FRONTEND: dict[str, tuple[Json, Json]] = {
    "http": (
        {"http": {"maxBufferSize": 100, "http1IdleTimeout": "5s", "http1HeaderCase": "PRESERVE"}},
        {"http": {"maxBufferSize": 100, "http1IdleTimeout": "5s", "http1HeaderCase": "preserve"}},
    ),
    "tls": (
        {
            "tls": {
                "handshakeTimeout": "3s",
                "minVersion": "TLS_V1_3",
                "alpn": {"protocols": ["h2"]},
            }
        },
        {"tls": {"handshakeTimeout": "3s", "minVersion": "TLS_V1_3", "alpn": [[104, 50]]}},
    ),
    "network rules": (
        {"networkAuthorization": {"deny": ["source.address == '1.1.1.1'"]}},
        {"networkAuthorization": {"rules": [{"deny": "source.address == '1.1.1.1'"}]}},
    ),
    "log": (
        {"logging": {"filter": "true", "fields": {"add": [{"name": "a", "expression": "'1'"}]}}},
        {"accessLog": {"filter": "true", "add": {"a": "'1'"}}},
    ),
    "tracing": (
        {
            "tracing": {
                "providerBackend": {"backend": "ns/b"},
                "attributes": [{"name": "a", "value": "'1'"}],
                "randomSampling": "true",
            }
        },
        {
            "tracing": {
                "backend": "ns/b",
                "attributes": {"a": "'1'"},
                "randomSampling": "true",
                "protocol": "http",
            }
        },
    ),
    "proxy": (
        {"proxyProtocol": {"version": "ALL", "mode": "OPTIONAL"}},
        {"proxyProtocol": {"version": "all", "mode": "optional"}},
    ),
}


@pytest.mark.parametrize("name", FRONTEND)
def test_frontend_policies(name: str) -> None:
    ours, theirs = FRONTEND[name]
    document = {"frontendPolicies": theirs, "backends": [{"name": "ns/b", "host": "1.1.1.1:1"}]}
    (kind,) = theirs
    result = applied(policy(frontend=ours))
    assert result.refused == {}
    assert {key: one.data for key, one in result.changed.items()} == {
        f"frontend/{kind}": of_file(document)[f"frontend/{kind}"]
    }


BIND: Json = {"bind": {"key": "80/ns/gw", "port": 80}}


def listener(name: str = "l", **parts: Any) -> Json:
    names = {"gatewayName": "gw", "gatewayNamespace": "ns", "listenerName": name}
    return {
        "listener": {
            "key": f"ns/gw/{name}",
            "bindKey": "80/ns/gw",
            "name": names,
            "protocol": "HTTP",
            **parts,
        }
    }


def test_a_bind_and_its_listeners_in_any_order() -> None:
    for order in ((BIND, listener()), (listener(), BIND)):
        translator = Translator()
        changed = [applied(one, to=translator).changed for one in order][-1]
        bind, one = changed["bind/80/ns/gw"].data, changed["listener/ns/gw/l"].data
        assert bind == {
            "port": 80,
            "protocol": "http",
            "tunnel": "direct",
            "mode": "standard",
            "listeners": ["ns/gw/l"],
        }
        assert (one["bind"], one["name"], one["gateway_name"], one["gateway_namespace"]) == (
            *("80/ns/gw", "l", "gw", "ns"),
        )


def test_a_listener_with_a_certificate() -> None:
    tls = {"cert": octets(PAIR.cert), "privateKey": octets(PAIR.key), "minVersion": "TLS_V1_3"}
    result = applied(BIND, listener(protocol="HTTPS", hostname="b.example", tls=tls))
    data: Any = result.changed["listener/ns/gw/l"].data
    assert (data["tls"]["cert"], data["tls"]["key"]) == (PAIR.cert, PAIR.key)
    assert data["tls"]["min_version"] == "TLS_V1_3"
    assert data["tls"]["root"] is None
    assert result.changed["bind/80/ns/gw"].data["protocol"] == "tls"
    tls |= {"root": octets(PAIR.cert)}
    data = applied(BIND, listener(protocol="HTTPS", tls=tls)).changed["listener/ns/gw/l"].data
    assert data["tls"]["root"] == PAIR.cert


def test_a_waypoint() -> None:
    bind = {"bind": {**BIND["bind"], "port": 15008, "tunnelProtocol": "HBONE_WAYPOINT"}}
    mesh = listener(protocol="HBONE", tls={"certificateSource": "ISTIO_WORKLOAD"})
    result = applied(bind, mesh)
    assert result.refused == {}
    assert result.changed["bind/80/ns/gw"].data["tunnel"] == "hboneWaypoint"
    assert result.changed["listener/ns/gw/l"].data["protocol"] == "HBONE"


def test_what_may_not_stand_together_is_refused_and_the_rest_stays() -> None:
    translator = Translator()
    applied(BIND, listener("a"), to=translator)
    result = applied(listener("b", protocol="TCP"), to=translator)
    assert "cannot mix" in result.refused["listener:ns/gw/b"]
    assert (result.changed, result.removed) == ({}, set())
    result = applied(listener("b", hostname="b.example"), to=translator)
    assert result.refused == {}
    assert result.changed["bind/80/ns/gw"].data["listeners"] == ["ns/gw/a", "ns/gw/b"]
    # A change that is bad leaves what was there.
    result = applied(listener("b", protocol="HTTPS"), to=translator)
    assert "requires 'tls'" in result.refused["listener:ns/gw/b"]
    assert (result.changed, result.removed) == ({}, set())
    assert translator.resources()["listener/ns/gw/b"].data["hostname"] == "b.example"


def test_who_was_good_before_is_not_blamed() -> None:
    """A bind that its listeners cannot stand on is refused, not they."""
    translator = Translator()
    applied(BIND, listener("a"), listener("b", hostname="b"), to=translator)
    before = translator.resources()
    result = applied({"bind": {**BIND["bind"], "tunnelProtocol": "HBONE_WAYPOINT"}}, to=translator)
    assert "takes one listener" in result.refused["bind:80/ns/gw"]
    assert (result.changed, result.removed, result.refused.keys()) == ({}, set(), {"bind:80/ns/gw"})
    assert translator.resources() == before


def test_a_name_that_comes_to_mean_something_else() -> None:
    translator = Translator()
    translator.apply({"x": message(BIND)}, ())
    result = translator.apply({"x": message({"route": ROUTE})}, ())
    assert (result.changed.keys(), result.removed) == ({"route/ns/r"}, {"bind/80/ns/gw"})
    result = translator.apply({"x": message(BIND)}, ())
    assert (result.changed.keys(), result.removed) == ({"bind/80/ns/gw"}, {"route/ns/r"})
    assert translator.resources().keys() == {"bind/80/ns/gw"}


def test_two_binds_of_one_port() -> None:
    translator = Translator()
    applied(BIND, to=translator)
    result = applied({"bind": {"key": "other", "port": 80}}, to=translator)
    assert result.refused == {"bind:other": "bind:80/ns/gw has port 80 already"}


def test_two_listeners_of_one_key() -> None:
    translator = Translator()
    applied(BIND, listener("a"), to=translator)
    result = translator.apply({"other": message(listener("a", hostname="b.example"))}, ())
    assert result.refused == {"other": "listener:ns/gw/a is the listener ns/gw/a already"}
    assert (result.changed, result.removed) == ({}, set())


def test_changes_and_removals() -> None:
    translator = Translator()
    result = applied(BIND, listener("a"), listener("b", hostname="b"), to=translator)
    assert result.changed.keys() == {"bind/80/ns/gw", "listener/ns/gw/a", "listener/ns/gw/b"}
    route: Json = {"route": ROUTE}
    assert applied(route, to=translator).changed.keys() == {"route/ns/r"}
    # The same once more is no change.
    again = applied(route, BIND, to=translator)
    assert (again.changed, again.removed, again.refused) == ({}, set(), {})
    gone = applied(to=translator, removed=["listener:ns/gw/b", "route:ns/r", "unknown"])
    assert gone.removed == {"listener/ns/gw/b", "route/ns/r"}
    assert gone.changed["bind/80/ns/gw"].data["listeners"] == ["ns/gw/a"]
    gone = applied(to=translator, removed=["bind:80/ns/gw"])
    assert gone.removed == {"bind/80/ns/gw", "listener/ns/gw/a"}
    assert applied(BIND, to=translator).changed["bind/80/ns/gw"].data["listeners"] == ["ns/gw/a"]
    assert translator.owners["listener/ns/gw/a"] == "listener:ns/gw/a"


def test_a_bad_change_keeps_the_old_and_does_not_stop_the_others() -> None:
    translator = Translator()
    applied({"route": ROUTE}, to=translator)
    bad = {**ROUTE, "matches": [{"path": {"regex": "("}}]}
    other = {**ROUTE, "key": "ns/other"}
    result = applied({"route": bad}, {"route": other}, to=translator)
    assert "invalid regex" in result.refused["route:ns/r"]
    assert result.changed.keys() == {"route/ns/other"}
    assert "route/ns/r" in translator.resources()


def test_one_key_has_one_owner() -> None:
    translator = Translator()
    translator.apply({"a": message({"route": ROUTE})}, ())
    result = translator.apply({"b": message({"route": ROUTE})}, ())
    assert result.refused == {"b": "a is route/ns/r already"}
    # Removed and sent under another name in one update.
    result = translator.apply({"b": message({"route": ROUTE})}, ("a",))
    assert (result.refused, result.removed) == ({}, set())
    assert result.changed.keys() == {"route/ns/r"}


def test_what_only_the_runner_finds_wrong_is_refused_alone() -> None:
    def check(resource: Resource) -> None:
        if resource.data.get("hostname") == "bad" or "bad" in resource.data.get("hostnames", ()):
            raise ConfigError("policies", "does not compile")

    translator = Translator(check)
    bad = {**ROUTE, "key": "ns/bad", "hostnames": ["bad"]}
    result = applied(
        BIND,
        listener("a"),
        listener("b", hostname="bad"),
        {"route": ROUTE},
        {"route": bad},
        to=translator,
    )
    reason = "policies: does not compile"
    assert result.refused == {"route:ns/bad": reason, "listener:ns/gw/b": reason}
    assert result.changed.keys() == {"bind/80/ns/gw", "listener/ns/gw/a", "route/ns/r"}


def test_an_update_that_could_not_be_published_never_was() -> None:
    translator = Translator()
    applied(BIND, listener("a"), {"route": ROUTE}, to=translator)
    before = translator.resources()
    update = ({"route": {**ROUTE, "hostnames": ["x"]}}, listener("a", hostname="x"), listener("b"))
    first = applied(*update, to=translator, removed=["listener:ns/gw/a"])
    translator.undo()
    assert translator.resources() == before
    again = applied(*update, to=translator, removed=["listener:ns/gw/a"])
    assert again == first
    assert again.changed.keys() >= {"route/ns/r", "listener/ns/gw/b", "bind/80/ns/gw"}


def test_routes_of_services_and_groups() -> None:
    key = {"namespace": "ns", "hostname": "s.ns"}
    of_service = {**ROUTE, "listenerKey": "", "serviceKey": key, "servicePort": 80}
    data = made({"route": of_service})
    assert data["service"] == {"name": "ns/s.ns", "port": 80}
    assert data["listener"] is None
    assert made({"route": {**ROUTE, "listenerKey": "", "routeGroupKey": "g"}})["group"] == "g"
    to_group = made({"route": {**ROUTE, "backends": [{"routeGroupKey": "g", "weight": 1}]}})
    assert to_group["backends"][0]["target"] == {"group": "g"}


def test_an_mcp_server_that_is_a_service() -> None:
    service = {"service": {"namespace": "ns", "hostname": "s.ns"}, "port": 80}
    targets = [{"name": "a", "backend": service, "path": "/m"}]
    data = made({"backend": {"key": "ns/b", "mcp": {"targets": targets}}})
    (server,) = data["target"]["mcp"]["targets"]
    assert server["reference"] == {"service": {"name": "ns/s.ns", "port": 80}}
    assert server["path"] == "/m"


def test_the_kind_of_a_route() -> None:
    """Policies may be for one of two routes that differ in nothing else."""
    named = {"name": "r", "namespace": "ns", "kind": "GRPCRoute"}
    data = made({"route": {**ROUTE, "name": named}})
    assert data["kind"] == "GRPCRoute"
    assert "kind" not in made({"route": ROUTE})
    target = {"route": {"name": "r", "namespace": "ns", "kind": "GRPCRoute"}}
    policy_data = made(policy(target=target, traffic=CSRF))
    levels = Levels([policy_data])
    listener_data = {"gateway_name": "gw", "gateway_namespace": "ns", "name": "l"}
    assert levels.route_phase(listener_data, 80, data) == [policy_data_of(policy_data)]
    assert levels.route_phase(listener_data, 80, made({"route": ROUTE})) == []


def policy_data_of(policy_data: Json) -> Json:
    return {policy_data["kind"]: policy_data["policy"]}


def test_a_tcp_route() -> None:
    backend = {"backend": {"backend": "ns/b"}, "weight": 1}
    data = made({"tcpRoute": {**ROUTE, "hostnames": ["a.example"], "backends": [backend]}})
    assert data["tcp"] is True
    assert data["hostnames"] == ["a.example"]
    assert data["backends"][0]["target"] == {"ref": "ns/b"}


def test_workloads_and_services() -> None:
    result = applied(
        {"workload": {"uid": "u", "namespace": "ns", "addresses": ["CgAAAQ=="]}},
        {"service": {"name": "s", "namespace": "ns", "hostname": "s.ns"}},
    )
    assert result.changed.keys() == {"workload/u", "service/ns/s.ns"}
    assert result.changed["workload/u"].data["ips"] == ["10.0.0.1"]


REFUSED: dict[str, tuple[Json, str]] = {
    "no key": ({"route": {**ROUTE, "key": ""}}, "key is missing"),
    "model routes": ({"modelRoute": {"key": "m"}}, "of the kind model_route is not supported"),
    "unknown providers": (
        {"backend": {"key": "b", "guardrail": {"openaiModeration": {}}}},
        "a backend of the kind guardrail is not supported",
    ),
    "two of a kind": (
        {"route": {**ROUTE, "trafficPolicies": [CSRF, CSRF]}},
        "two policies of the kind csrf",
    ),
    "a phase no route has": (
        {"route": {**ROUTE, "trafficPolicies": [{**CSRF, "phase": "GATEWAY"}]}},
        "cannot run in the gateway phase",
    ),
    "a header twice": (
        {
            "route": {
                **ROUTE,
                "trafficPolicies": [
                    {
                        "requestHeaderModifier": {
                            "add": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]
                        }
                    }
                ],
            }
        },
        "`a` comes twice",
    ),
    "two mirrors": (
        {"route": {**ROUTE, "trafficPolicies": [{"requestMirror": {"mirrors": [{}, {}]}}]}},
        "2 mirrors: one is supported",
    ),
    "a policy in the wrong phase": (
        policy(traffic={**CSRF, "phase": "GATEWAY"}),
        "csrf cannot run in the gateway phase",
    ),
    "a policy that overrides": (policy(traffic=CSRF, inheritance="OVERRIDE"), "OVERRIDE"),
    "a policy of listener sets": (
        policy(traffic=CSRF, target={"listenerSet": {"name": "x", "namespace": "y"}}),
        "a policy for a listener_set is not supported",
    ),
    "a frontend policy of a listener": (
        policy(
            frontend={"http": {}},
            target={"gateway": {"name": "g", "namespace": "n", "listener": "l"}},
        ),
        "for a whole gateway only",
    ),
    "metrics": (policy(frontend={"metrics": {}}), "of the kind metrics is not supported"),
    "tokens for MCP": (policy(traffic={"jwt": {"mcp": {}}}), "JWT.mcp is not supported"),
    "a bad status": (
        policy(traffic={"directResponse": {"status": 70000}}),
        "directResponse.status",
    ),
    "alternatives of two kinds": (
        policy(conditional={"policies": [{"traffic": CSRF}, {"traffic": {"cors": {}}}]}),
        "are of different kinds",
    ),
    "a negative time": (
        policy(traffic={"timeout": {"request": "-1s"}}),
        "a duration cannot be negative",
    ),
    "no port": ({"backend": {"key": "b", "static": {"host": "h"}}}, "invalid host:port"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(name: str) -> None:
    resource, expected = REFUSED[name]
    assert expected in reason(resource)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"protocol": "UNKNOWN"}, "an unknown protocol"),
        ({"protocol": "HTTPS"}, "HTTPS listener requires 'tls'"),
        ({"protocol": "HBONE"}, "HBONE needs tunnelProtocol"),
        ({"key": ""}, "key is missing"),
        ({"hostname": "a b"}, "invalid hostname"),
        (
            {"protocol": "HTTPS", "tls": {"certificateSource": "ISTIO_WORKLOAD"}},
            "on HBONE listeners only",
        ),
        (
            {"protocol": "HTTPS", "tls": {"mtlsMode": "ALLOW_INSECURE_FALLBACK"}},
            "ALLOW_INSECURE_FALLBACK is not supported",
        ),
        ({"protocol": "HTTPS", "tls": {"cert": octets(PAIR.cert)}}, "tls requires 'key'"),
    ],
)
def test_listeners_that_cannot_be_served(parts: Json, expected: str) -> None:
    result = Translator().apply({"b": message(BIND), "l": message(listener(**parts))}, ())
    assert expected in result.refused["l"]
    assert result.changed.keys() == {"bind/80/ns/gw"}


@pytest.mark.parametrize("payload", [b"", b"\xff", message({"routeGroup": {}})])
def test_bad_octets(payload: bytes) -> None:
    result = Translator().apply({"x": payload}, ())
    assert result.refused.keys() == {"x"}


def test_a_field_of_a_later_version_is_refused() -> None:
    """It may be what keeps somebody out."""
    payload = message({"route": ROUTE})
    later = b"\xa2\x06\x01x"
    size = payload[1] + len(later)
    result = Translator().apply({"x": bytes([payload[0], size]) + payload[2:] + later}, ())
    assert result.refused == {"x": "route: field 100 is not known here"}


def test_no_file_is_read(tmp_path: Any) -> None:
    path = tmp_path / "cert.pem"
    path.write_text(PAIR.cert)
    tls = {"root": octets(str(path))}
    backend = {
        "key": "b",
        "static": {"host": "h", "port": 1},
        "inlinePolicies": [{"backendTls": tls}],
    }
    assert "does not hold a valid PEM certificate" in reason({"backend": backend})
