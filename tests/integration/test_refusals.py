"""What a client reads when a policy refuses: status and words, in the format the client speaks.

Source: spec/config.md section 11.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import openai
from tests.support.upstream import Upstream

PORT, NOBODY = free_ports(2)
DEAD = {"host": f"127.0.0.1:{NOBODY}"}
REFUSED = f"upstream call failed: connect 127.0.0.1:{NOBODY}: Connection refused"
PASSWORDS = "ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="
BASIC = "basic authentication failure: no basic authentication credentials found"
ASKED = orjson.dumps(
    {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
)
DESCRIPTORS = [{"entries": [{"key": "a", "value": "'a'"}]}]
AT_PROXY = {"header": {"name": "proxy-authorization", "prefix": "Basic "}}

REFUSALS: dict[str, tuple[dict[str, Any], int, str, int]] = {
    "api-key": (
        {"apiKey": {"mode": "strict", "keys": [{"key": "k"}]}},
        401,
        "api key authentication failure: no API Key found",
        16,
    ),
    "basic": ({"basicAuth": {"htpasswd": PASSWORDS, "mode": "strict"}}, 401, BASIC, 16),
    "basic-proxy": (
        {
            "basicAuth": {
                "htpasswd": PASSWORDS,
                "mode": "strict",
                "authorizationLocation": AT_PROXY,
            }
        },
        407,
        BASIC,
        16,
    ),
    "jwt": (
        {
            "jwtAuth": {
                "mode": "strict",
                "issuer": "https://idp.test",
                "jwks": orjson.dumps(
                    {
                        "keys": [
                            {
                                "kty": "OKP",
                                "crv": "Ed25519",
                                "kid": "k",
                                "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
                            }
                        ]
                    }
                ).decode(),
            }
        },
        401,
        "authentication failure: no bearer token found",
        16,
    ),
    "rules": ({"authorization": {"rules": ["false"]}}, 403, "authorization failed", 7),
    "csrf": ({"csrf": {}}, 403, "CSRF validation failed", 7),
    "asked": ({"extAuthz": DEAD}, 403, "external authorization failed", 7),
    "asked-by-http": (
        {"extAuthz": {**DEAD, "protocol": {"http": {}}}},
        403,
        "external authorization failed",
        7,
    ),
    "asked-with-status": (
        {"extAuthz": {**DEAD, "failureMode": {"denyWithStatus": 503}}},
        503,
        "external authorization failed",
        14,
    ),
    "processed": ({"extProc": DEAD}, 500, f"ext_proc failed: {REFUSED}", 2),
    "limited": (
        {
            # Nobody has this much: refused from the first request on.
            "localRateLimit": [
                {"maxTokens": 1, "tokensPerFill": 1, "fillInterval": "1h", "cost": "2"}
            ]
        },
        429,
        "rate limit exceeded",
        14,
    ),
    "limited-elsewhere": (
        {"remoteRateLimit": {**DEAD, "domain": "d", "descriptors": DESCRIPTORS}},
        500,
        "rate limit failed",
        2,
    ),
    "late": (
        {"timeout": {"requestTimeout": "50ms"}, "delay": {"duration": "10s"}},
        504,
        "request timeout",
        14,
    ),
    "exchanged": (
        {"backendAuth": {"oauthTokenExchange": DEAD}},
        400,
        "backend authentication failed: no subject token",
        13,
    ),
    "large": ({"buffer": {"request": {"maxBytes": 2}}}, 413, "", 2),
}
"""Policies, the status, the words, and gRPC's status."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with Upstream(openai) as up:
        host = {"host": up.address}
        model = {"name": "m", "provider": {"openAI": {}}, "hostOverride": up.address}
        kinds = {"/v1/chat/completions": "completions", "/v1/messages": "messages"}
        routes: list[dict[str, Any]] = []
        for name, (policies, *_) in REFUSALS.items():
            for form, backend, more in (
                ("plain", host, {}),
                ("ai", {"ai": {**model, "pathPrefix": "/v1"}}, {"ai": {"routes": kinds}}),
            ):
                path = {"path": {"pathPrefix": f"/{name}/{form}"}}
                routes.append(
                    {
                        "name": f"{name}-{form}",
                        "matches": [path],
                        "policies": {**policies, **more},
                        "backends": [backend],
                    }
                )
        config = {"binds": [{"port": PORT, "listeners": [{"routes": routes}]}]}
        with GatewayProcess(config) as running:
            yield running
        assert up.take() == []


def ask(path: str, kind: str = "application/json") -> Got:
    headers = {"content-type": kind, "sec-fetch-site": "cross-site"}
    return fetch(PORT, path, "POST", headers=headers, body=ASKED)


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.usefixtures("gateway")
def test_in_plain_words(name: str) -> None:
    _, status, words, _ = REFUSALS[name]
    answer = ask(f"/{name}/plain")
    assert (answer.status, answer.text) == (status, words)
    if words:
        assert answer.get("content-type") == "text/plain"
    challenges = {401: "www-authenticate", 407: "proxy-authenticate"}
    if name.startswith("basic"):
        assert answer.get(challenges[status]) == 'Basic realm="Restricted"'
    if name == "limited":
        given = [answer.get(f"x-ratelimit-{one}") for one in ("limit", "remaining", "reset")]
        assert given[:2] == ["1", "1"]
        assert given[2] is not None


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.usefixtures("gateway")
def test_to_clients_of_grpc(name: str) -> None:
    _, _, words, code = REFUSALS[name]
    answer = ask(f"/{name}/plain", "application/grpc")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.get("content-type") == "application/grpc"
    assert answer.get("grpc-status") == str(code)
    assert answer.get("grpc-message") == (words or "request body too large")


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.usefixtures("gateway")
def test_to_clients_of_models(name: str) -> None:
    _, status, words, _ = REFUSALS[name]
    words = words or "request body too large"
    answer = ask(f"/{name}/ai/v1/chat/completions")
    assert (answer.status, answer.get("content-type")) == (status, "application/json")
    assert orjson.loads(answer.body)["error"]["message"] == words
    answer = ask(f"/{name}/ai/v1/messages")
    assert (answer.status, answer.get("content-type")) == (status, "application/json")
    told = orjson.loads(answer.body)
    assert (told["type"], told["error"]["message"]) == ("error", words)
