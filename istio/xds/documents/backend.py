"""Policies of backends (BackendPolicySpec) as the file's.

Source: as plain.py; spec config 3.11, 3.12, 4 to 6.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from istio.errors import ResourceError
from istio.xds._pb import resource_pb2 as pb
from istio.xds.documents.plain import (
    Converter,
    Json,
    Special,
    enum_name,
    given,
    once,
    reference,
    text,
    without,
)
from istio.xds.documents.traffic import body_of, called, inline

KINDS: Final[Mapping[str, str]] = {
    "a2a": "a2a",
    "inference_routing": "inferenceRouting",
    "backend_tls": "backendTLS",
    "auth": "backendAuth",
    "mcp_authorization": "mcpAuthorization",
    "mcp_authentication": "mcpAuthentication",
    "ai": "ai",
    "request_header_modifier": "requestHeaderModifier",
    "response_header_modifier": "responseHeaderModifier",
    "request_redirect": "requestRedirect",
    "request_mirror": "requestMirror",
    "backend_http": "http",
    "backend_tcp": "tcp",
    "transformation": "transformations",
    "health": "health",
    "backend_tunnel": "backendTunnel",
    "ext_authz": "extAuthz",
    "mcp_guardrails": "mcpGuardrails",
    "authorization": "authorization",
}
"""Kind of the message → of the file."""
PEM_MARK: Final = "xds-pem:"
"""Begins what stands in the place of a file's path and is the PEM text itself."""
_CONNECT: Final = "10s"
"""Where only keepalives are set."""
_GROUPS: Final = {
    "x25519": "X25519",
    "p256": "P-256",
    "p384": "P-384",
    "x25519Mlkem768": "X25519_MLKEM768",
}
_HTTP_VERSIONS: Final = {"http1": "HTTP/1.1", "http2": "HTTP/2.0"}
_CERTIFICATE_HEADERS: Final = {"x5c": "x5c", "x5tS256": "x5t#S256"}


def backend_policy(of: Converter, spec: pb.BackendPolicySpec) -> tuple[str, Any]:
    """(kind, payload). Raises: ResourceError."""
    kind = spec.WhichOneof("kind")
    if kind is None:
        raise ResourceError("a backend policy of no known kind")
    return KINDS[kind], of.plain(getattr(spec, kind))


def backend_policies(of: Converter, specs: Iterable[pb.BackendPolicySpec]) -> Json:
    """Kind to payload. Raises: ResourceError."""
    made: Json = {}
    for spec in specs:
        once(made, *backend_policy(of, spec))
    return made


def pem(octets: bytes, what: str) -> str:
    """What the file would have a path for."""
    return PEM_MARK + text(octets, what)


def groups(of: Any, numbers: Iterable[int]) -> list[str]:
    """Names of key exchange groups. Raises: ResourceError."""
    names = (enum_name(of, number) for number in numbers)
    return [_GROUPS[name] for name in names if name is not None]


def _tls(_: Converter, one: pb.BackendPolicySpec.BackendTLS) -> Json:
    spec = pb.BackendPolicySpec.BackendTLS
    if one.verification not in (spec.STRICT, spec.INSECURE_HOST, spec.INSECURE_ALL):
        raise ResourceError(f"verification: {one.verification} is not known here")
    data = given(
        hostname=one.hostname,
        subjectAltNames=list(one.verify_subject_alt_names),
        alpn=list(one.alpn.protocols),
        keyExchangeGroups=groups(
            one.DESCRIPTOR.fields_by_name["key_exchange_groups"].enum_type, one.key_exchange_groups
        ),
    )
    for name in ("cert", "key", "root"):
        if one.HasField(name):
            data[name] = pem(getattr(one, name), name)
    if one.verification == spec.INSECURE_HOST:
        data["insecureHost"] = True
    elif one.verification == spec.INSECURE_ALL:
        data["insecure"] = True
    if one.certificate_source == spec.SPIFFE:
        data["spiffe"] = {}
    elif one.certificate_source != spec.INLINE:
        raise ResourceError(f"certificate_source: {one.certificate_source} is not known here")
    return data


def _http(of: Converter, one: pb.BackendPolicySpec.BackendHTTP) -> Json:
    name = enum_name(one.DESCRIPTOR.fields_by_name["version"].enum_type, one.version)
    data: Json = {} if name is None else {"version": _HTTP_VERSIONS[name]}
    if one.HasField("request_timeout"):
        data["requestTimeout"] = of.plain(one.request_timeout)
    return data


def _tcp(of: Converter, one: pb.BackendPolicySpec.BackendTCP) -> Json:
    return {
        "keepalives": of.plain(one.keepalive) if one.HasField("keepalive") else {},
        "connectTimeout": of.plain(one.connect_timeout)
        if one.HasField("connect_timeout")
        else _CONNECT,
    }


def _health(of: Converter, one: pb.BackendPolicySpec.Health) -> Json:
    eviction = of.walked(one.eviction) if one.HasField("eviction") else None
    return given(unhealthyExpression=one.unhealthy_condition, eviction=eviction)


def _tunnel(of: Converter, one: pb.BackendPolicySpec.BackendTunnel) -> Json:
    return {"proxy": reference(one.proxy), **inline(of, one.inline_policies)}


def _inference(_: Converter, one: pb.BackendPolicySpec.InferenceRouting) -> Json:
    is_open = one.failure_mode == pb.BackendPolicySpec.InferenceRouting.FAIL_OPEN
    data: Json = {"endpointPicker": reference(one.endpoint_picker)}
    return {**data, "failureMode": "failOpen"} if is_open else data


# --- credentials --------------------------------------------------------------------------


def _auth(of: Converter, one: pb.BackendAuthPolicy) -> Json:
    data: Json = {}
    kind = one.WhichOneof("kind")
    if kind is not None:
        data[_AUTH_KINDS[kind]] = of.plain(getattr(one, kind))
    if one.credentials:
        data["credentials"] = [
            {"location": of.plain(entry.location), "key": entry.value} for entry in one.credentials
        ]
    return data


_AUTH_KINDS: Final = {
    "passthrough": "passthrough",
    "key": "key",
    "gcp": "gcp",
    "aws": "aws",
    "azure": "azure",
    "oauth_token_exchange": "oauthTokenExchange",
    "cross_app_access": "crossAppAccess",
    "jwt_sign": "jwtSign",
}


def _gcp(_: Converter, one: pb.Gcp) -> Json:
    kind = one.WhichOneof("token_type")
    data: Json = (
        {} if kind is None else {"type": "idToken" if kind == "id_token" else "accessToken"}
    )
    if kind == "id_token" and one.id_token.HasField("audience"):
        data["audience"] = one.id_token.audience
    return data | given(credential=one.credential)


def _aws(of: Converter, one: pb.Aws) -> Json:
    data = given(serviceName=one.service_name, region=one.region)
    if one.WhichOneof("kind") == "explicit_config":
        given_keys = of.walked(one.explicit_config)
        if data.get("region") and given_keys.get("region", data["region"]) != data["region"]:
            raise ResourceError("aws: two different regions")
        data |= given_keys
    if one.HasField("assume_role"):
        data["assumeRole"] = of.plain(one.assume_role)
    return data


def _assume_role(of: Converter, one: pb.AwsAssumeRole) -> Json:
    data = of.walked(one, "session_name", "session_name_expression")
    if one.session_name_expression:
        data["sessionName"] = {"expression": one.session_name_expression}
    elif one.session_name:
        data["sessionName"] = one.session_name
    return data


def _client_secret(_: Converter, one: pb.AzureClientSecret) -> Json:
    return {
        "tenant_id": one.tenant_id,
        "client_id": one.client_id,
        "client_secret": one.client_secret,
    }


def _jwt_sign(of: Converter, one: pb.JwtSign) -> Json:
    if one.HasField("translation_error"):
        raise ResourceError(f"jwt_sign: {one.translation_error[:200]}")
    data = of.walked(one, "alg")
    return data | given(alg=_alg(one))


def _alg(one: Any) -> str | None:
    name = enum_name(one.DESCRIPTOR.fields_by_name["alg"].enum_type, one.alg)
    return None if name is None else name.upper()


def _exchange(of: Converter, one: pb.OAuthTokenExchange) -> Json:
    if not one.HasField("token_endpoint"):
        raise ResourceError("oauth_token_exchange has no token endpoint")
    data = of.walked(one, "token_endpoint", "inline_policies")
    return {**data, **reference(one.token_endpoint), **inline(of, one.inline_policies)}


def _endpoint(of: Converter, one: pb.CrossAppAccessAuth.Endpoint) -> Json:
    data = of.walked(one, "token_endpoint", "inline_policies")
    return {**data, **reference(one.token_endpoint), **inline(of, one.inline_policies)}


def _cache(of: Converter, one: pb.OAuthTokenExchange.TokenCache) -> Json:
    return of.walked(one.in_memory)


def _client_auth(of: Converter, one: pb.OAuthClientAuth) -> Json:
    data = of.walked(one, "private_key_jwt")
    if one.HasField("private_key_jwt"):
        inner = one.private_key_jwt
        kind = inner.DESCRIPTOR.fields_by_name["certificate_header"].enum_type
        header = enum_name(kind, inner.certificate_header)
        data |= of.walked(inner, "alg", "certificate_header")
        data |= given(
            alg=_alg(inner), certificateHeader=header and _CERTIFICATE_HEADERS.get(header, header)
        )
    return data


def _access_scopes(_: Converter, one: pb.CrossAppAccessAuth.ScopeOverride) -> list[str]:
    return list(one.values)


# --- MCP and models -----------------------------------------------------------------------


def _mcp_authentication(of: Converter, one: pb.BackendPolicySpec.McpAuthentication) -> Json:
    data = of.walked(one, "jwks_inline", "provider", "resource_metadata")
    provider = enum_name(one.DESCRIPTOR.fields_by_name["provider"].enum_type, one.provider)
    extra = one.resource_metadata.extra
    data["audiences"] = list(one.audiences)
    data["resourceMetadata"] = {key: of.plain(value) for key, value in sorted(extra.items())}
    return data | given(jwks=one.jwks_inline, provider=provider and {provider: {}})


def _guardrails(of: Converter, one: pb.BackendPolicySpec.McpGuardrails) -> Json:
    return {"processors": [_processor(of, entry) for entry in one.processors]}


def _processor(of: Converter, one: pb.BackendPolicySpec.McpGuardrails.Processor) -> Json:
    if one.WhichOneof("kind") != "remote":
        raise ResourceError("a guardrail of no known kind")
    spec = pb.BackendPolicySpec.McpGuardrails
    remote = one.remote
    names = ("allowed_request_headers", "disallowed_request_headers", "failure_mode")
    data = called(of, remote, *names)
    filters = given(
        allowed=list(remote.allowed_request_headers),
        disallowed=list(remote.disallowed_request_headers),
    )
    kind = spec.DESCRIPTOR.enum_types_by_name["Phase"]
    phases = {method: enum_name(kind, phase) for method, phase in sorted(one.methods.items())}
    modes = remote.DESCRIPTOR.fields_by_name["failure_mode"].enum_type
    is_open = enum_name(modes, remote.failure_mode) == "allow"
    return {
        **data,
        "kind": "remote",
        "failureMode": "failOpen" if is_open else "failClosed",
        **given(methods=phases, requestHeaders=filters),
    }


def _ai(of: Converter, one: pb.BackendPolicySpec.Ai) -> Json:
    data = of.walked(one, "defaults", "overrides", "routes")
    for name in ("defaults", "overrides"):
        values = {key: _json(value) for key, value in sorted(getattr(one, name).items())}
        data |= given(**{name: values})
    kind = one.DESCRIPTOR.enum_types_by_name["RouteType"]
    routes = {path: enum_name(kind, number) for path, number in sorted(one.routes.items())}
    return data | given(routes=routes)


def _json(text_: str) -> Any:
    """A value of a request's body: JSON, or else the text itself."""
    try:
        return json.loads(text_)
    except ValueError:
        return text_


def _regex_rule(_: Converter, one: pb.BackendPolicySpec.Ai.RegexRule) -> Json:
    if one.WhichOneof("kind") == "regex":
        return {"pattern": one.regex}
    name = enum_name(one.DESCRIPTOR.fields_by_name["builtin"].enum_type, one.builtin)
    if name is None:
        raise ResourceError("a rule of a guard that says nothing")
    return {"builtin": name}


def _rejection(_: Converter, one: pb.BackendPolicySpec.Ai.RequestRejection) -> Json:
    return given(body=body_of(one.body), status=one.status)


def _webhook(of: Converter, one: pb.BackendPolicySpec.Ai.Webhook) -> Json:
    return {**of.walked(one, "backend"), "target": reference(one.backend)}


def _cloud(of: Converter, one: Any) -> Json:
    without(one, "backend_ref")
    data = of.walked(one, "inline_policies", "backend_ref")
    return {**data, **inline(of, one.inline_policies)}


def _content_safety(of: Converter, one: pb.BackendPolicySpec.Ai.AzureContentSafety) -> Json:
    data = _cloud(of, one)
    endpoint = data.pop("endpoint", "")
    policies = given(policies=data.pop("policies", None))
    return {"endpoint": endpoint, "analyzeText": data, **policies}


def _streaming(of: Converter, one: pb.BackendPolicySpec.Ai.PromptGuard) -> Json:
    name = enum_name(one.DESCRIPTOR.fields_by_name["streaming"].enum_type, one.streaming) or ""
    return {**of.walked(one, "streaming"), "streaming": name.capitalize()}


_AI: Final = "BackendPolicySpec.Ai"
SPECIAL: Final[Mapping[str, Special]] = {
    # Only its policies: how a destination is reached that a policy names.
    "Backend": lambda of, one: {"policies": backend_policies(of, one.inline_policies)},
    "BackendPolicySpec.BackendTLS": _tls,
    "BackendPolicySpec.BackendHTTP": _http,
    "BackendPolicySpec.BackendTCP": _tcp,
    "BackendPolicySpec.Health": _health,
    "BackendPolicySpec.BackendTunnel": _tunnel,
    "BackendPolicySpec.InferenceRouting": _inference,
    "BackendPolicySpec.McpAuthentication": _mcp_authentication,
    "BackendPolicySpec.McpGuardrails": _guardrails,
    "BackendAuthPolicy": _auth,
    "Gcp": _gcp,
    "Aws": _aws,
    "AwsAssumeRole": _assume_role,
    "AzureClientSecret": _client_secret,
    "JwtSign": _jwt_sign,
    "OAuthTokenExchange": _exchange,
    "OAuthTokenExchange.TokenCache": _cache,
    "OAuthClientAuth": _client_auth,
    "CrossAppAccessAuth.Endpoint": _endpoint,
    "CrossAppAccessAuth.ScopeOverride": _access_scopes,
    _AI: _ai,
    f"{_AI}.RegexRule": _regex_rule,
    f"{_AI}.RequestRejection": _rejection,
    f"{_AI}.Webhook": _webhook,
    f"{_AI}.Moderation": _cloud,
    f"{_AI}.BedrockGuardrails": _cloud,
    f"{_AI}.GoogleModelArmor": _cloud,
    f"{_AI}.AzureContentSafety": _content_safety,
    f"{_AI}.PromptGuard": _streaming,
}
RENAMED: Final[Mapping[str, str]] = {
    "Key.secret": "value",
    "Key.authorization_location": "location",
    "Passthrough.authorization_location": "location",
    "JwtSign.authorization_location": "location",
    "AzureExplicitConfig.managed_identity_credential": "managedIdentity",
    "AzureExplicitConfig.workload_identity_credential": "workloadIdentity",
    "OAuthTokenExchange.token_endpoint_path": "path",
    "CrossAppAccessAuth.Endpoint.token_endpoint_path": "path",
    f"{_AI}.RequestGuard.openai_moderation": "openAIModeration",
    f"{_AI}.BedrockGuardrails.identifier": "guardrailIdentifier",
    f"{_AI}.BedrockGuardrails.version": "guardrailVersion",
}
