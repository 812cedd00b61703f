"""Backends of a controller mean what the same words in a file mean."""

from __future__ import annotations

from typing import Any

import pytest

from istio.xds._pb import resource_pb2 as pb
from istio.xds.resources import Translator
from sidecar.gateway.check import resource_check
from sidecar.llm.providers.custom import PRESETS
from sidecar.llm.providers.table import backend_provider
from tests.istio.xds.words import PAIR, Json, applied, made, octets, of_file, reason, same_route
from tests.support.certificates import make_pair

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


def test_an_mcp_server_that_is_a_service() -> None:
    service = {"service": {"namespace": "ns", "hostname": "s.ns"}, "port": 80}
    targets = [{"name": "a", "backend": service, "path": "/m"}]
    data = made({"backend": {"key": "ns/b", "mcp": {"targets": targets}}})
    (server,) = data["target"]["mcp"]["targets"]
    assert server["reference"] == {"service": {"name": "ns/s.ns", "port": 80}}
    assert server["path"] == "/m"


def provided(**given: Any) -> Json:
    groups = [{"providers": [{"name": "p", **given}]}]
    return {"backend": {"key": "ns/b", "ai": {"providerGroups": groups}}}


@pytest.mark.parametrize("preset", pb.AIBackend.ProviderPreset.keys()[1:])
def test_providers_that_only_models_of_a_file_have(preset: str) -> None:
    """By name: each is one that the gateway knows."""
    one = provided(providerPreset=preset, modelOverride="m")
    result = applied(one, to=Translator(resource_check({})))
    assert result.refused == {}
    target: Any = result.changed["backend/ns/b"].data["target"]
    ((entry,),) = target["ai"]["groups"]
    name = preset.removeprefix("PROVIDER_PRESET_").lower()
    assert entry["provider"] == {name: {"model": "m"}}
    assert backend_provider(entry).authorities()[0].host in PRESETS[name].url


def test_a_base_url() -> None:
    one = provided(openai={"model": "m"}, baseUrl="https://llm.test:8443/api")
    ((entry,),) = made(one)["target"]["ai"]["groups"]
    assert entry["provider"] == {"openAI": {"model": "m"}}
    (authority,) = backend_provider(entry).authorities()
    assert (authority.host, authority.port, authority.tls) == ("llm.test", 8443, True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"openai": {}, "baseUrl": "ftp://x"}, "baseUrl"),
        ({"openai": {}, "baseUrl": "https://me:it@x"}, "user info"),
        (
            {"openai": {}, "baseUrl": "https://x", "hostOverride": {"host": "h", "port": 1}},
            "cannot stand beside",
        ),
        ({"openai": {}, "baseUrl": "https://x", "pathPrefix": "/p"}, "cannot stand beside"),
        ({"providerPreset": 99}, "99 is not known here"),
        ({"providerPreset": 0}, "without a kind"),
    ],
)
def test_providers_that_are_none(given: Json, expected: str) -> None:
    result = applied(provided(**given), to=Translator(resource_check({})))
    (text,) = result.refused.values()
    assert expected in text
