"""Policies in a controller's routes mean what the same words in a file mean."""

from __future__ import annotations

import pytest

from tests.istio.xds.words import Json, octets, same_route

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
