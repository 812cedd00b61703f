"""Routes, backends, binds and listeners as the file's entries.

Source: as plain.py; spec config 1.1 to 1.4 and 4.
"""

from __future__ import annotations

from typing import Any, Final

from istio.errors import ResourceError
from istio.xds._pb import resource_pb2 as pb
from istio.xds.documents.backend import backend_policies, groups, pem
from istio.xds.documents.converter import CONVERTER
from istio.xds.documents.frontend import suites, tls_version
from istio.xds.documents.plain import (
    Json,
    camel,
    enum_name,
    given,
    host_port,
    reference,
    without,
)
from istio.xds.documents.traffic import route_policies

_MARK: Final = "service "
"""Begins what stands for a service where the file has a backend; no key has a space."""


def route(one: pb.Route) -> Json:
    """An entry of `routes`. Raises: ResourceError."""
    data = _named(one) | given(policies=route_policies(CONVERTER, one.traffic_policies))
    if one.matches:
        data["matches"] = [_match(match) for match in one.matches]
    return data


def tcp_route(one: pb.TCPRoute) -> Json:
    """An entry of `tcpRoutes`. Raises: ResourceError."""
    return _named(one)


def _named(one: Any) -> Json:
    name = one.name
    return given(
        name=name.name,
        namespace=name.namespace,
        ruleName=name.rule_name,
        hostnames=list(one.hostnames),
        backends=[_route_backend(backend) for backend in one.backends],
    )


def _route_backend(one: pb.RouteBackend) -> Json:
    if one.route_group_key:
        target: Json = {"routeGroup": one.route_group_key}
    elif one.backend.WhichOneof("kind") is None:
        # What a route refers to and does not exist; a request that chooses it is answered with 500.
        target = {"invalid": True}
    else:
        target = reference(one.backend)
    if one.weight < 0:
        raise ResourceError("a weight cannot be negative")
    policies = given(policies=backend_policies(CONVERTER, one.backend_policies))
    return {**target, "weight": one.weight, **policies}


def _match(one: pb.RouteMatch) -> Json:
    path = one.path.WhichOneof("kind")
    return given(
        path=path and {camel(path): getattr(one.path, path)},
        headers=[CONVERTER.plain(header) for header in one.headers],
        method=one.method.exact,
        query=[CONVERTER.plain(parameter) for parameter in one.query_params],
    )


# --- binds and listeners ------------------------------------------------------------------


def bind(one: pb.Bind) -> Json:
    """An entry of `binds`, without its listeners. Raises: ResourceError."""
    tunnel = _name(pb.Bind.TunnelProtocol, one.tunnel_protocol, "tunnel_protocol")
    mode = _name(pb.Bind.Mode, one.mode, "mode")
    return {"port": one.port, "tunnelProtocol": tunnel, "mode": mode, "listeners": []}


def listener(one: pb.Listener) -> Json:
    """A listener of a bind, without its routes. Raises: ResourceError."""
    if one.protocol == pb.UNKNOWN:
        raise ResourceError("a listener of an unknown protocol")
    protocol = _name(pb.Protocol, one.protocol, "protocol").upper()
    data: Json = {
        "name": one.name.listener_name,
        "namespace": one.name.gateway_namespace,
        "hostname": one.hostname,
        "protocol": protocol,
    }
    if one.HasField("tls"):
        # The identity of a waypoint is the mesh's, whether it is said or not.
        is_mesh = one.tls.certificate_source == pb.TLSConfig.ISTIO_WORKLOAD
        if not (is_mesh and protocol == "HBONE"):
            data["tls"] = _server_tls(one.tls)
    return given(**data)


def _server_tls(one: pb.TLSConfig) -> Json:
    kind = one.DESCRIPTOR.fields_by_name["key_exchange_groups"].enum_type
    data = given(
        cipherSuites=suites(one.cipher_suites),
        minTLSVersion=tls_version(one.min_version),
        maxTLSVersion=tls_version(one.max_version),
        keyExchangeGroups=groups(kind, one.key_exchange_groups),
    )
    source = pb.TLSConfig.CertificateSource
    if one.certificate_source == source.Value("SPIFFE"):
        return {**data, "spiffe": {}}
    if one.certificate_source == source.Value("DYNAMIC_CA"):
        data["mode"] = "dynamicCa"
    elif one.certificate_source != source.Value("INLINE"):
        raise ResourceError("a certificate of the mesh is supported on HBONE listeners only")
    for name, octets in (("cert", one.cert), ("key", one.private_key)):
        if octets:
            data[name] = pem(octets, name)
    if one.HasField("root"):
        if one.mtls_mode == pb.TLSConfig.ALLOW_INSECURE_FALLBACK:
            raise ResourceError("mtls_mode ALLOW_INSECURE_FALLBACK is not supported")
        if one.mtls_mode != pb.TLSConfig.DISABLE:
            data["root"] = pem(one.root, "root")
    elif one.mtls_mode == pb.TLSConfig.ALLOW_INSECURE_FALLBACK:
        raise ResourceError("mtls_mode ALLOW_INSECURE_FALLBACK is not supported")
    return data


def _name(kind: Any, number: int, path: str) -> str:
    try:
        return camel(kind.Name(number))
    except ValueError as error:
        raise ResourceError(f"{path}: {number} is not known here") from error


# --- backends -----------------------------------------------------------------------------


def backend(one: pb.Backend) -> Json:
    """An entry of `backends`, without its name. Raises: ResourceError."""
    kind = one.WhichOneof("kind")
    if kind == "static":
        target: Json = {"host": _static(one.static)}
    elif kind == "ai":
        target = {"ai": {"groups": [_providers(group) for group in one.ai.provider_groups]}}
    elif kind == "mcp":
        target = {"mcp": _mcp(one.mcp)}
    elif kind == "dynamic":
        target = {"dynamic": {}}
    elif kind == "aws":
        target = {"aws": CONVERTER.plain(one.aws)}
    else:
        raise ResourceError(f"a backend of the kind {kind} is not supported")
    return {**target, **_policies(one)}


def _policies(one: Any) -> Json:
    return given(policies=backend_policies(CONVERTER, one.inline_policies))


def _static(one: pb.StaticBackend) -> str:
    return f"unix:{one.unix_path}" if one.unix_path else host_port(one.host, one.port)


def _providers(group: pb.AIBackend.ProviderGroup) -> Json:
    return {"providers": [_provider(one) for one in group.providers]}


_PROVIDERS: Final = {
    "openai": "openAI",
    "gemini": "gemini",
    "vertex": "vertex",
    "anthropic": "anthropic",
    "bedrock": "bedrock",
    "azure": "azure",
    "custom": "custom",
    "provider_preset": "openAI",
}
"""Kind of the message → of the file, which has none for a preset: see `unwritten`."""
_RESOURCE_TYPES: Final = {"openAi": "openAI", "foundry": "foundry"}


def _provider(one: pb.AIBackend.Provider) -> Json:
    kind = one.WhichOneof("provider")
    if kind not in _PROVIDERS:
        raise ResourceError(f"a provider of the kind {kind} is not supported")
    without(one, "provider_backend")
    if one.HasField("base_url") and (one.HasField("host_override") or one.HasField("path_prefix")):
        raise ResourceError("base_url cannot stand beside host_override or path_prefix")
    made = {} if kind == "provider_preset" else CONVERTER.plain(getattr(one, kind))
    if kind == "azure":
        made["resourceType"] = _RESOURCE_TYPES[made["resourceType"]]
    elif kind == "custom":
        made["formats"] = [_format(entry) for entry in one.custom.formats]
    if one.HasField("model_override"):
        made["model"] = one.model_override
    host = one.host_override
    return {
        **given(
            name=one.name,
            hostOverride=host_port(host.host, host.port) if one.HasField("host_override") else None,
            pathOverride=one.path_override,
            pathPrefix=one.path_prefix,
        ),
        "provider": {_PROVIDERS[kind]: made},
        **_policies(one),
    }


def unwritten(one: pb.Backend, groups: list[list[Json]]) -> None:
    """Put into the providers of a target what `ai` backends of a file have no word for, though
    models of its `llm` section do: a preset of a provider, a base URL. Raises: ResourceError."""
    for group, made in zip(one.ai.provider_groups, groups, strict=True):
        for provider, entry in zip(group.providers, made, strict=True):
            if provider.WhichOneof("provider") == "provider_preset":
                kind = provider.DESCRIPTOR.fields_by_name["provider_preset"].enum_type
                name = enum_name(kind, provider.provider_preset)
                if name is None:
                    raise ResourceError("a provider without a kind")
                (config,) = entry["provider"].values()
                entry["provider"] = {name: config}
            if provider.HasField("base_url"):
                entry["baseUrl"] = provider.base_url


def _format(one: pb.AIBackend.ProviderFormatConfig) -> Json:
    made: Json = CONVERTER.plain(one)
    return {"type": made.pop("format", None), **made}


def _mcp(one: pb.MCPBackend) -> Json:
    data = CONVERTER.walked(one, "targets")
    return {**data, "targets": [_target(target) for target in one.targets]}


def _target(one: pb.MCPTarget) -> Json:
    kind = one.backend.WhichOneof("kind")
    if kind == "service":
        # Of this a file has no form; `service_of_mark` undoes it.
        service = one.backend.service
        where: Json = {
            "backend": f"{_MARK}{service.namespace}/{service.hostname}:{one.backend.port}"
        }
    elif kind == "inline":
        where = {"host": one.backend.inline.hostname, "port": one.backend.inline.port}
    else:
        where = reference(one.backend)
    transport = "sse" if one.protocol == pb.MCPTarget.SSE else "mcp"
    return {"name": one.name, transport: {**where, **given(path=one.path)}}


def service_of_mark(target: Json) -> Json:
    """The target of an MCP server, its service put back where it was marked."""
    name, _, port = str(target.get("ref", "")).removeprefix(_MARK).rpartition(":")
    if not str(target.get("ref", "")).startswith(_MARK):
        return target
    return {"service": {"name": name, "port": int(port)}}
