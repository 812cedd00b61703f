"""Policies of requests (TrafficPolicySpec) as the file's route policies.

Source: as plain.py; spec config 3.4 to 3.10.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from istio.errors import ResourceError
from istio.xds._pb import resource_pb2 as pb
from istio.xds.documents.plain import (
    Converter,
    Json,
    Special,
    duration,
    enum_name,
    given,
    once,
    pairs,
    reference,
    without,
)

KINDS: Final[Mapping[str, str]] = {
    "timeout": "timeout",
    "retry": "retry",
    "local_rate_limit": "localRateLimit",
    "ext_authz": "extAuthz",
    "authorization": "authorization",
    "jwt": "jwtAuth",
    "transformation": "transformations",
    "remote_rate_limit": "remoteRateLimit",
    "csrf": "csrf",
    "ext_proc": "extProc",
    "request_header_modifier": "requestHeaderModifier",
    "response_header_modifier": "responseHeaderModifier",
    "request_redirect": "requestRedirect",
    "url_rewrite": "urlRewrite",
    "request_mirror": "requestMirror",
    "direct_response": "directResponse",
    "cors": "cors",
    "basic_auth": "basicAuth",
    "api_key_auth": "apiKey",
    "host_rewrite": "urlRewrite",
    "buffer": "buffer",
    "delay": "delay",
}
"""Kind of the message → of the file."""


def traffic_policy(of: Converter, spec: pb.TrafficPolicySpec) -> tuple[str, Any]:
    """(kind, payload). Raises: ResourceError."""
    kind = spec.WhichOneof("kind")
    if kind is None:
        raise ResourceError("a traffic policy of no known kind")
    return KINDS[kind], of.plain(getattr(spec, kind))


def route_policies(of: Converter, specs: Iterable[pb.TrafficPolicySpec]) -> Json:
    """Kind to payload of the policies written in a route. Raises: ResourceError."""
    made: Json = {}
    for spec in specs:
        if spec.phase != pb.TrafficPolicySpec.ROUTE:
            raise ResourceError("a policy of a route cannot run in the gateway phase")
        once(made, *traffic_policy(of, spec))
    return made


def conditional(of: Converter, policies: Iterable[pb.ConditionalPolicy]) -> tuple[str, Json]:
    """(kind, `{conditional: […]}`): alternatives of one kind. Raises: ResourceError."""
    entries: list[Json] = []
    kinds: set[str] = set()
    for one in policies:
        if one.WhichOneof("kind") != "traffic":
            raise ResourceError("a conditional policy of no known kind")
        kind, payload = traffic_policy(of, one.traffic)
        kinds.add(kind)
        payload = payload[0] if isinstance(payload, list) and len(payload) == 1 else payload
        if not isinstance(payload, dict):
            raise ResourceError(f"several entries in one alternative of {kind}")
        entries.append({**payload, **given(condition=one.condition)})
    if len(kinds) != 1:
        raise ResourceError("the alternatives of a conditional policy are of different kinds")
    return kinds.pop(), {"conditional": entries}


def called(of: Converter, one: Any, *left_out: str) -> Json:
    """A policy that calls out: its destination among its own keys, and how it is reached."""
    if not one.HasField("target"):
        raise ResourceError(f"{one.DESCRIPTOR.name} has no target")
    data = of.walked(one, "target", "inline_policies", *left_out)
    return {**data, **reference(one.target), **inline(of, one.inline_policies)}


def inline(of: Converter, specs: Iterable[pb.BackendPolicySpec]) -> Json:
    """`{policies}` of how a destination is reached, if any."""
    return given(policies=of.plain(pb.Backend(inline_policies=specs))["policies"])


def header_modifier(one: pb.HeaderModifier) -> Json:
    """A header that is added twice has no place in the file's mapping, and is refused."""
    return given(add=pairs(one.add), set=pairs(one.set), remove=list(one.remove))


def location(_: Converter, one: pb.AuthorizationLocation) -> Json:
    """Where a credential stands."""
    kind = one.WhichOneof("kind")
    if kind == "header":
        prefix = one.header.prefix if one.header.HasField("prefix") else None
        entry = {"name": one.header.name}
        return {"header": entry if prefix is None else {**entry, "prefix": prefix}}
    if kind == "query_parameter":
        return {"queryParameter": {"name": one.query_parameter.name}}
    if kind == "cookie":
        return {"cookie": {"name": one.cookie.name}}
    if kind == "expression":
        return {"expression": one.expression}
    raise ResourceError("a location that names nothing")


def _authority(host: str, port: int) -> Any:
    if host and port:
        return {"full": f"{host}:{port}"}
    return given(host=host, port=port) or None


def _path(one: Any) -> Json | None:
    kind = one.WhichOneof("path")
    return None if kind is None else {kind: getattr(one, kind)}


def _redirect(_: Converter, one: pb.RequestRedirect) -> Json:
    return given(
        scheme=one.scheme,
        authority=_authority(one.host, one.port),
        path=_path(one),
        status=one.status,
    )


def _rewrite(_: Converter, one: pb.UrlRewrite) -> Json:
    return given(authority=_authority(one.host, 0), path=_path(one))


def _mirror(_: Converter, one: pb.RequestMirrors) -> Json:
    if len(one.mirrors) != 1:
        raise ResourceError(f"{len(one.mirrors)} mirrors: one is supported")
    mirror = one.mirrors[0]
    return {"backend": reference(mirror.backend), "percentage": mirror.percentage}


def body_of(octets: bytes) -> Any:
    """Text, or a list of octets where it is none."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return list(octets)


def _direct_response(_: Converter, one: pb.DirectResponse) -> Json:
    return given(
        status=one.status,
        body=body_of(one.body),
        bodyExpression=one.body_expression,
        headers=pairs(one.headers, "name", "expression"),
    )


def _limit(one: Any) -> Json:
    kind = enum_name(one.DESCRIPTOR.fields_by_name["type"].enum_type, one.type)
    return {
        "maxTokens": one.max_tokens,
        "tokensPerFill": one.tokens_per_fill,
        "fillInterval": duration(one.fill_interval),
        "type": f"{kind}s",
    }


def _local_rate_limit(_: Converter, one: pb.TrafficPolicySpec.LocalRateLimit) -> list[Json]:
    own = [one] if one.HasField("fill_interval") or not one.rules else []
    return [_limit(each) for each in (*own, *one.rules)]


def _ext_authz(of: Converter, one: pb.TrafficPolicySpec.ExternalAuth) -> Json:
    spec = pb.TrafficPolicySpec.ExternalAuth
    data = called(of, one, "failure_mode", "status_on_error", "grpc", "http")
    kind = one.WhichOneof("protocol")
    if kind is not None:
        data["protocol"] = {kind: of.walked(getattr(one, kind))}
    if one.failure_mode == spec.DENY_WITH_STATUS:
        status = one.status_on_error if one.HasField("status_on_error") else 403
        data["failureMode"] = {"denyWithStatus": status}
    elif one.failure_mode in (spec.DENY, spec.ALLOW):
        data["failureMode"] = "allow" if one.failure_mode == spec.ALLOW else "deny"
    else:
        raise ResourceError(f"failure_mode: {one.failure_mode} is not known here")
    return data


def _jwt(of: Converter, one: pb.TrafficPolicySpec.JWT) -> Json:
    without(one, "mcp")
    return of.walked(one)


def _provider(of: Converter, one: pb.TrafficPolicySpec.JWTProvider) -> Json:
    data = of.walked(one, "inline")
    if one.WhichOneof("jwks_source") != "inline":
        raise ResourceError("a provider of tokens without keys")
    return {**data, "jwks": one.inline}


def _required_claims(_: Converter, one: pb.JWTValidationOptions) -> Json:
    """An empty list says that none is required, which is not the file's default."""
    return {"requiredClaims": list(one.required_claims)}


def _transform(_: Converter, one: pb.TrafficPolicySpec.TransformationPolicy.Transform) -> Json:
    return given(
        set=pairs(one.set, "name", "expression"),
        add=pairs(one.add, "name", "expression"),
        remove=list(one.remove),
        body=one.body.expression,
        metadata=dict(one.metadata),
    )


def _api_keys(of: Converter, one: pb.TrafficPolicySpec.APIKey) -> Json:
    """No key at all lets nobody in, and is written so."""
    return {"keys": [], **of.walked(one)}


def _host_rewrite(_: Converter, one: pb.TrafficPolicySpec.HostRewrite) -> Json:
    kind = one.DESCRIPTOR.fields_by_name["mode"].enum_type
    return {"authority": enum_name(kind, one.mode)}


def _metadata_context(
    _: Converter, one: pb.TrafficPolicySpec.ExtProc.NamespacedMetadataContext
) -> Json:
    return dict(one.context)


def value_match(_: Converter, one: Any) -> Json:
    """A header or a query parameter, and what its value must be. Raises: ResourceError."""
    kind = one.WhichOneof("value")
    if kind is None:
        raise ResourceError(f"the match of `{one.name}` says nothing")
    return {"name": one.name, "value": {kind: getattr(one, kind)}}


SPECIAL: Final[Mapping[str, Special]] = {
    "AuthorizationLocation": location,
    "HeaderMatch": value_match,
    "QueryMatch": value_match,
    "HeaderModifier": lambda _, one: header_modifier(one),
    "RequestRedirect": _redirect,
    "UrlRewrite": _rewrite,
    "RequestMirrors": _mirror,
    "DirectResponse": _direct_response,
    "JWTValidationOptions": _required_claims,
    "TrafficPolicySpec.LocalRateLimit": _local_rate_limit,
    "TrafficPolicySpec.ExternalAuth": _ext_authz,
    "TrafficPolicySpec.ExtProc": called,
    "TrafficPolicySpec.ExtProc.NamespacedMetadataContext": _metadata_context,
    "TrafficPolicySpec.RemoteRateLimit": called,
    "TrafficPolicySpec.JWT": _jwt,
    "TrafficPolicySpec.JWTProvider": _provider,
    "TrafficPolicySpec.TransformationPolicy.Transform": _transform,
    "TrafficPolicySpec.APIKey": _api_keys,
    "TrafficPolicySpec.HostRewrite": _host_rewrite,
}
RENAMED: Final[Mapping[str, str]] = {
    "Timeout.request": "requestTimeout",
    "Timeout.backend_request": "backendRequestTimeout",
    "Retry.retry_status_codes": "codes",
    "TrafficPolicySpec.BasicAuthentication.htpasswd_content": "htpasswd",
    "TrafficPolicySpec.APIKey.api_keys": "keys",
    "TrafficPolicySpec.APIKey.authorization_location": "location",
    "TrafficPolicySpec.JWT.authorization_location": "location",
}
