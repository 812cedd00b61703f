"""One suite over every policy: what the register and the pipeline rely on, whatever the kind."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import sidecar.policies
from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.policies.chain import hook_of
from sidecar.policies.order import KINDS, make
from tests.support.messages import request, response, services

SECRET = "s3cr3t-\nvalue"

SAMPLES: dict[str, Any] = {
    "a2a": {"card": {"publicUrl": "https://a.example"}, "versions": ["1.0"]},
    "apiKey": {
        "keys": [{"key": "k-one", "metadata": {"name": "ada"}, "allowedModels": ["gpt-*"]}],
        "location": {"header": {"name": "X-Team"}},
        "mode": "strict",
    },
    "authorization": {"rules": ["request.headers['x-team'] == 'a'", {"deny": "jwt.sub == 'b'"}]},
    "basicAuth": {
        "htpasswd": "ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "authorizationLocation": {"header": {"name": "X-Team"}},
        "mode": "strict",
    },
    "budgets": [
        # Nothing is held: there is no table, and what one says differs from request to request.
        {
            "name": "b",
            "limit": {"unit": "Tokens", "amount": 5},
            "window": {"rolling": "1d"},
            "key": "request.headers['x-gone-too']",
            "onMissingKey": "skip",
        }
    ],
    "buffer": {"request": {"maxBytes": 10}, "response": {"failureMode": "failOpen"}},
    "cors": {"allowOrigins": ["https://*.a.example"], "allowHeaders": ["X-Team"], "maxAge": "1m"},
    "csrf": {"additionalOrigins": ["https://app.example"]},
    "delay": {"duration": "request.headers['x-team'] == 'a' ? 0 : 0"},
    "directResponse": {"conditional": [{"condition": "request.method == 'PUT'", "status": 200}]},
    # Nobody is there to be asked: each request is refused.
    "extAuthz": {
        "host": "127.0.0.1:1",
        "includeRequestHeaders": ["X-Team"],
        "protocol": {"http": {"addRequestHeaders": {"X-More": "request.headers['x-team']"}}},
    },
    "extProc": {
        "host": "127.0.0.1:1",
        "requestAttributes": {"team": "request.headers['x-team']"},
        "processingOptions": {"requestBodyMode": "buffered", "responseHeaderMode": "skip"},
    },
    # Nobody is there to be asked here either.
    "inferenceRouting": {"endpointPicker": {"host": "127.0.0.1:1"}},
    "jwtAuth": {
        "issuer": "https://idp.example",
        "jwks": {"keys": []},
        "location": {"header": {"name": "X-Team"}},
        "mode": "strict",
    },
    # Nothing is counted: what a bucket says differs from one request to the next.
    "localRateLimit": {
        "conditional": [
            {
                "condition": "request.headers['x-team'] == 'z'",
                "maxTokens": 5,
                "tokensPerFill": 1,
                "fillInterval": "1s",
                "key": "request.headers['x-team']",
            }
        ]
    },
    "mcpAuthentication": {
        "issuer": "https://idp.example",
        "audiences": ["https://mcp.example/mcp"],
        "resourceMetadata": {"scopesSupported": ["read"]},
        "jwks": {"keys": []},
        "authorizationLocation": {"header": {"name": "X-Team"}},
    },
    "networkAuthorization": {"rules": ["source.address == '10.0.0.9'"]},
    "networkExtAuthz": {
        "host": "127.0.0.1:1",
        "protocol": {"http": {"addRequestHeaders": {"X-From": "source.address"}}},
    },
    "oidc": {
        "issuer": "https://idp.example",
        "authorizationEndpoint": "https://idp.example/authorize",
        "tokenEndpoint": "https://idp.example/token",
        "jwks": {"keys": []},
        "clientId": "web",
        "clientSecret": "s",
        "redirectURI": "https://shop.example/callback",
    },
    "remoteRateLimit": {
        "host": "127.0.0.1:1",
        "domain": "d",
        "descriptors": [{"entries": [{"key": "team", "value": "request.headers['x-team']"}]}],
    },
    "requestHeaderModifier": {"set": {"X-Team": "b"}, "add": {"x-more": "1"}, "remove": ["X-Gone"]},
    "requestMirror": {"backend": {"host": "m:80"}, "percentage": 0.5},
    "requestRedirect": {"scheme": "https", "path": {"full": "/x"}},
    "responseHeaderModifier": {"set": {"X-Team": "b"}, "remove": ["X-Gone"]},
    "retry": {"codes": [503], "precondition": "request.headers['x-team'] == 'a'"},
    "timeout": {"requestTimeout": "1s"},
    "transformations": {
        "request": {"set": {"X-Team": "request.headers['x-team'] + 'b'"}, "remove": ["X-Gone"]},
        "response": {"set": {"X-Team": "'b'"}},
    },
    "urlRewrite": {"authority": {"host": "b.example"}, "path": {"full": "/x"}},
}

LEAKS: dict[str, Any] = {
    "a2a": {"card": {"publicUrl": f"https://u:{SECRET}@a.example"}},
    # Each with the secret where a value may stand that is refused.
    "apiKey": {"keys": [{"key": SECRET}, {"key": SECRET}]},
    "authorization": {"rules": [{"allow": "true", "deny": SECRET}]},
    "basicAuth": {"htpasswd": f"ada:{SECRET}"},
    "budgets": [{"name": SECRET}],
    "buffer": {"request": {"failureMode": SECRET}},
    "cors": {"allowOrigins": [SECRET]},
    "csrf": {"additionalOrigins": [SECRET]},
    "delay": {"duration": ["x", SECRET]},
    "directResponse": {"status": SECRET},
    "extAuthz": {"host": "127.0.0.1:1", "protocol": {"grpc": {"context": SECRET}}},
    "extProc": {"host": "127.0.0.1:1", "metadataContext": {"a": {"b": {"c": SECRET}}}},
    "inferenceRouting": {"endpointPicker": {"host": "127.0.0.1:1", "policies": SECRET}},
    "jwtAuth": {"issuer": "https://idp.example", "jwks": SECRET},
    "localRateLimit": {"conditional": [{"maxTokens": SECRET}]},
    "mcpAuthentication": {
        "issuer": "https://idp.example",
        "audiences": ["a"],
        "resourceMetadata": {},
        "clientSecret": SECRET,
    },
    "networkAuthorization": {"rules": [{"allow": "true", "deny": SECRET}]},
    "networkExtAuthz": {"host": "127.0.0.1:1", "protocol": {"http": {"metadata": SECRET}}},
    "oidc": {
        "issuer": "https://idp.example",
        "clientId": "web",
        "clientSecret": SECRET,
        "redirectURI": f"https://u:{SECRET}@shop.example/callback",
    },
    "remoteRateLimit": {"host": "127.0.0.1:1", "domain": "d", "descriptors": [SECRET]},
    "requestHeaderModifier": {"set": {"authorization": SECRET}},
    "requestMirror": {"backend": {"host": "m:80"}, "percentage": SECRET},
    "requestRedirect": {"path": {"full": SECRET}},
    "responseHeaderModifier": {"add": {"set-cookie": SECRET}},
    "retry": {"codes": SECRET},
    "timeout": {"requestTimeout": {"key": SECRET}},
    "transformations": {"request": {"set": SECRET}},
    "urlRewrite": {"authority": {"full": SECRET}},
}

every_kind = pytest.mark.parametrize("key", sorted(KINDS))


def test_the_suite_covers_the_register():
    assert SAMPLES.keys() == LEAKS.keys() == KINDS.keys()


@every_kind
def test_key_and_file_agree(key):
    module = inspect.getmodule(KINDS[key].config)
    assert module is not None
    assert module.KIND is KINDS[key]
    snake = re.sub(r"([A-Z])", r"_\1", key).lower()
    assert Path(str(module.__file__)).name == f"{snake}.py"
    assert "Source:" in (module.__doc__ or "")


@every_kind
def test_every_field_is_documented(key):
    module = inspect.getmodule(KINDS[key].config)
    assert module is not None
    source = inspect.getsource(module)
    for name in KINDS[key].config.model_fields:
        if name == "root":
            continue
        declared = re.search(
            rf"^    {name}: (?:.*\n(?:        .*\n|    \)\n)*)    \"\"\"", source, re.M
        )
        assert declared, f"{key}.{name} has no docstring"


@every_kind
def test_unknown_keys_are_refused_with_their_path(key):
    sample = SAMPLES[key]
    is_list = isinstance(sample, list)
    strange = {**(sample[0] if is_list else sample), "nonsense": 1}
    with pytest.raises(ConfigError) as caught:
        make(key, [strange] if is_list else strange, services())
    assert caught.value.path == f"{key}{'[0]' if is_list else ''}.nonsense"
    assert "unknown field `nonsense`" in caught.value.message


@every_kind
@pytest.mark.parametrize("payload", ["text", 7, ["list"], True])
def test_other_shapes_are_refused(key, payload):
    with pytest.raises(ConfigError) as caught:
        make(key, payload, services())
    assert caught.value.path.startswith(key)


@every_kind
def test_no_secret_in_errors(key):
    with pytest.raises(ConfigError) as caught:
        make(key, LEAKS[key], services())
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cr3t" not in str(error)
        error = error.__cause__


@every_kind
def test_construction_is_idempotent_and_leaves_its_payload_alone(key):
    payload = copy.deepcopy(SAMPLES[key])
    first, second = make(key, payload, services()), make(key, payload, services())
    assert payload == SAMPLES[key]
    assert first is not second
    for name in ("on_request", "on_response"):
        assert (hook_of(first, name) is None) == (hook_of(second, name) is None)


@every_kind
def test_hooks_exist_only_for_their_phase(key):
    policy = make(key, SAMPLES[key], services())
    for name, parameters in (("on_request", 1), ("on_response", 2)):
        hook = hook_of(policy, name)
        if hook is not None:
            assert len(inspect.signature(hook[0]).parameters) == parameters
    if key in ("networkAuthorization", "networkExtAuthz", "requestMirror", "timeout"):
        assert hook_of(policy, "on_request") is None
        assert hook_of(policy, "on_response") is None


async def run(policy: object) -> list[object]:
    """Both hooks on fresh messages, and all that can be seen afterwards."""
    made = request("POST", "/a?b", {"x-team": "a", "x-gone": "1"}, body=b"abc")
    answer = response(200, {"x-team": "a", "x-gone": "1"}, b"abc")
    outcome: list[object] = []
    for name, messages in (("on_request", (made,)), ("on_response", (made, answer))):
        hook = hook_of(policy, name)
        if hook is None:
            continue
        try:
            given = await hook[0](*messages) if hook[1] else hook[0](*messages)
        except RequestError as refusal:
            given = (refusal.status, refusal.code, refusal.message)
        outcome.append(await _seen(given) if isinstance(given, Response) else given)
    return [*outcome, await _seen(made), await _seen(answer)]


async def _seen(message: Request | Response) -> tuple[object, ...]:
    body = await message.body.read()
    fields = Headers(message.headers)
    if isinstance(message, Response):
        return message.status, fields, body
    head = (message.method, message.scheme, message.authority, message.target)
    return *head, fields, body, message.response_headers


@every_kind
async def test_header_case_in_the_configuration_means_nothing(key):
    def recased(value: Any, change: Any) -> Any:
        if isinstance(value, dict):
            return {
                change(k) if k.lower().startswith("x-") else k: recased(v, change)
                for k, v in value.items()
            }
        if isinstance(value, list):
            return [recased(item, change) for item in value]
        if isinstance(value, str) and value.lower().startswith("x-"):
            return change(value)
        return value

    outcomes = [
        await run(make(key, recased(SAMPLES[key], change), services()))
        for change in (str, str.upper, str.lower)
    ]
    if key != "cors":  # names are told to the browser as they are written
        assert outcomes[0] == outcomes[1] == outcomes[2]


@every_kind
async def test_runs_are_independent(key):
    policy = make(key, SAMPLES[key], services())
    assert await run(policy) == await run(policy)


def test_policies_do_not_import_each_other():
    folder = Path(str(sidecar.policies.__path__[0]))
    modules = {Path(str(inspect.getfile(kind.config))).stem for kind in KINDS.values()}
    for module in modules:
        text = (folder / f"{module}.py").read_text()
        for other in modules - {module}:
            assert f"sidecar.policies.{other} " not in text
            assert not re.search(rf"from sidecar\.policies import .*\b{other}\b", text)
